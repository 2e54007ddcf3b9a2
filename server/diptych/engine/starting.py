"""A start, step by step: what the data begins with, what the log has beyond it, what is done.

`find_base` fills a region from the newest checkpoint that is whole, `look_at_log` reads what the
log has beyond a base, `decide_on` looks both up in the table of `recovery`, and `run_log` opens the
log and replays. Tools that work on a copy use the same parts. Knows regions, files and engines; no
processes.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from diptych.app import App
from diptych.durable import (
    Checkpoint,
    CommandLog,
    DataDirectory,
    Ended,
    Files,
    Kind,
    State,
    read_manifest,
    read_tail,
)
from diptych.durable import Tail as LogTail
from diptych.durable.log import LogSettings
from diptych.durable.no_log import NoLog
from diptych.engine import facts, recovery
from diptych.engine.causes import Cause
from diptych.engine.engine import Engine
from diptych.engine.opening import Examined, examine, load
from diptych.engine.recovery import Checkpoints, Code, Decision, Details, Images, Mode, Situation
from diptych.engine.replay import ReplayDiffers, Replayed, replay
from diptych.errors import CorruptionError, EvolutionError
from diptych.memory import Region

log = logging.getLogger("diptych.engine")

AnyLog = CommandLog | NoLog


class Looked(Protocol):
    """Of a directory, what is looked at for a decision: locked, as by a start, or not."""

    @property
    def path(self) -> Path: ...
    @property
    def files(self) -> Files: ...
    @property
    def ended(self) -> Ended: ...
    @property
    def mode_before(self) -> str: ...


@dataclass(frozen=True)
class Base:
    """What the log is replayed upon: an image, a checkpoint, or nothing yet (`sequence` 0).

    `loaded`: whether the region has it; a checkpoint of another schema is migrated first.
    `newest`: the newest checkpoint there is, damaged or not.
    """

    sequence: int
    history: int
    images: Images = Images.NONE
    checkpoints: Checkpoints = Checkpoints.NONE
    checkpoint: Checkpoint | None = None
    examined: Examined | None = None
    newest: Checkpoint | None = None
    damage: tuple[str, ...] = ()

    @property
    def migrates(self) -> bool:
        return self.examined is not None and not self.examined.fits


@dataclass(frozen=True)
class LogFound:
    """What the log has beyond a base: `last` transaction, and those that must not run again.

    `unproven`: the first transaction that may never have been executed to its end: of the last
    record, or behind it. Those before it were, and may have been answered.
    """

    tail: LogTail
    state: recovery.Tail
    last: int
    unproven: int
    where: str
    skip: Mapping[int, Cause] = field(default_factory=dict)
    facts: str = ""


def find_base(
    app: App,
    directory: DataDirectory,
    region: Region,
    capacities: Mapping[str, int] | None,
    empty: Callable[[], None],
) -> Base:
    """Load the newest checkpoint that is whole into `region`, all zero.

    `empty` makes it so again. A checkpoint of another schema is not loaded, only examined. Errors:
    EvolutionError, ConfigurationError, AllocationFailed, OSError.
    """
    found = directory.checkpoints()
    damage: list[str] = []
    for checkpoint in reversed(found):
        try:
            manifest = read_manifest(checkpoint.path)
            examined = examine(manifest, app, capacities)
            if examined.refusal:
                raise EvolutionError(examined.refusal)
            if examined.fits:
                load(checkpoint, examined.layout, region)
        except CorruptionError as wrong:
            log.error("%s", wrong)
            damage.append(str(wrong))
            empty()
            continue
        state = Checkpoints.OLDER_GOOD if damage else Checkpoints.NEWEST_GOOD
        return Base(
            manifest.sequence,
            manifest.history,
            checkpoints=state,
            checkpoint=checkpoint,
            examined=examined,
            newest=found[-1],
            damage=tuple(damage),
        )
    state = Checkpoints.ALL_DAMAGED if found else Checkpoints.NONE
    newest = found[-1] if found else None
    return Base(0, 0, checkpoints=state, newest=newest, damage=tuple(damage))


def look_at_log(directory: Looked, base: Base) -> LogFound:
    """Read all that the log has beyond `base`, and check it. Errors: OSError."""
    cold = base.images is Images.NONE
    tail = read_tail(
        directory.path,
        base.sequence,
        base.history or None,
        from_disk=cold and directory.ended is not Ended.CLEAN,
        files=directory.files,
    )
    skip: dict[int, Cause] = {}
    any_record, unproven = False, base.sequence + 1
    for record in tail:
        if record.kind is not Kind.ABORTS:
            # A mark is written when nothing is left to be done: all before it was executed.
            unproven = record.first
        any_record = any_record or record.kind is not Kind.MARK
        skip.update((sequence, Cause(cause)) for sequence, cause in record.aborts)
    ending = tail.finish()
    state = _state(tail, ending.state, any_record)
    missing = base.checkpoints is Checkpoints.OLDER_GOOD and base.newest is not None
    if missing and base.newest is not None and tail.last < base.newest.sequence:
        state = recovery.Tail.GAP if any_record else state
    last = max(tail.last, base.sequence)
    return LogFound(tail, state, last, unproven, ending.where, skip, tail.facts)


def decide_on(
    base: Base, found: LogFound, directory: Looked, facts_now: str, target: str = ""
) -> Decision:
    """What the table says about all this. `target`: what a command line calls the application."""
    changed: list[str] = []
    if found.facts and found.facts != facts_now:
        changed = facts.differences(facts.from_text(found.facts), facts.from_text(facts_now))
    situation = Situation(
        images=base.images,
        mode=Mode[(directory.mode_before or "none").upper()],
        checkpoints=base.checkpoints,
        tail=found.state,
        code=Code.CHANGED if changed or base.migrates else Code.SAME,
        ended=recovery.Ended[directory.ended.name],
    )
    details = Details(
        app=shlex.quote(target or "APP"),
        data=shlex.quote(str(directory.path)),
        base=base.sequence,
        until=found.last,
        where=found.where,
        newest=base.newest.path.name if base.newest else "",
        changed=tuple(changed),
    )
    return recovery.decide(situation, details)


def open_log(
    app: App,
    directory: Path,
    settings: LogSettings,
    *,
    facts_now: str,
    history: int,
    sequence: int,
    tail: LogTail | None,
) -> AnyLog:
    """The log that goes on behind `sequence`. Errors: LogBroken, DiskFull, CorruptionError."""
    if settings.durability == "none":
        return NoLog()
    return CommandLog.open(
        directory,
        settings,
        app=app.name,
        facts=facts_now,
        history=history,
        sequence=sequence,
        tail=tail,
    )


def run_log(
    engine: Engine,
    directory: DataDirectory,
    base: Base,
    found: LogFound,
    command_log: AnyLog,
    set_aside: Iterable[int],
    target: str = "",
) -> Replayed:
    """Replay what the log has beyond the engine's data; the log says first what is set aside.

    `target`: what a command line calls the application.
    Afterwards everything in the log is durable. Errors: CorruptionError, LogBroken, DiskFull.
    """
    skip = dict(found.skip)
    fresh = [
        (sequence, int(Cause.SET_ASIDE))
        for sequence in set_aside
        if base.sequence < sequence <= found.last and sequence not in skip
    ]
    for sequence, _ in fresh:
        if sequence < found.unproven:
            raise CorruptionError(
                f"transaction {sequence} ends the writer, and was executed before: it may have "
                f"been answered, so it can't be set aside. {_advice(directory, target, sequence)}"
            )
        log.error("transaction %d is set aside: it ended the writer, repeatedly", sequence)
        skip[sequence] = Cause.SET_ASIDE
    if fresh:
        command_log.append_aborts(fresh)
    command_log.start_sync()
    command_log.wait(command_log.written)
    engine.skip = skip
    # Read again: what was read was checked, and not kept.
    tail = read_tail(directory.path, base.sequence, base.history or None, files=directory.files)
    try:
        done = replay(engine, tail, until=found.last, total=found.last - base.sequence)
    except ReplayDiffers as differs:
        raise CorruptionError(f"{differs}. {_advice(directory, target, differs.first)}") from None
    engine.skip = {}
    if engine.sequence != found.last:
        raise CorruptionError(
            f"the log was read up to transaction {found.last}, and again to {engine.sequence} only"
        )
    if done.transactions:
        log.info(
            "replayed %d transactions, %d to %d, in %.2f s",
            done.transactions,
            engine.sequence - done.transactions + 1,
            engine.sequence,
            done.seconds,
        )
    return done


def _advice(directory: DataDirectory, target: str, sequence: int) -> str:
    """How to do without transaction `sequence`, and what came after it."""
    app, data = shlex.quote(target or "APP"), shlex.quote(str(directory.path))
    return (
        f"`diptych recover {app} {data} --until {sequence - 1} --to NEW` makes a directory of all "
        "before it"
    )


def _state(tail: LogTail, state: State, any_record: bool) -> recovery.Tail:
    match state:
        case State.DAMAGED:
            return recovery.Tail.DAMAGED
        case State.TORN:
            return recovery.Tail.TORN
        case State.MISSING:
            return recovery.Tail.GAP if tail.has_log else recovery.Tail.NO_LOG
        case State.CLEAN:
            return recovery.Tail.RECORDS if any_record else recovery.Tail.EMPTY
