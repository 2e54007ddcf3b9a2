"""What a data directory holds, by its files alone: for `diptych inspect`.

Reads checkpoints' manifests, the log from its first file to its end, the lock and the counts of
deaths; takes no lock, changes nothing, and says of each file what is wrong with it. Needs no
application. Knows no tables.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from diptych.durable import (
    Checkpoint,
    Lock,
    Record,
    Segment,
    State,
    Tail,
    checkpoints_in,
    look_at_lock,
    read_outline,
    read_tail,
    segments,
    verify_pages,
)
from diptych.engine.attempts import FILE as ATTEMPTS
from diptych.engine.attempts import Stored, read_attempts
from diptych.errors import ConfigurationError, CorruptionError

POLL_S = 0.2
LOOKS_MAX = 5
LOOK_S = 0.05
"""What is being written may look bad, so it is looked at so often, so long after another."""


@dataclass(frozen=True)
class CheckpointSeen:
    """`damage`: what is wrong with it, or ""; then only what its name says is known."""

    name: str
    sequence: int
    epoch: int
    damage: str = ""
    app: str = ""
    history: int = 0
    written_ns: int = 0
    size_bytes: int = 0
    pages: int = 0
    pages_file: int = 0
    facts: str = ""


@dataclass
class SegmentSeen:
    """A file of the log. `last`, `records`, `record_bytes`: of what could be read; `last` is below
    `first` where it has no transactions.
    """

    name: str
    first: int
    file_bytes: int
    problem: str = ""
    last: int = 0
    records: int = 0
    record_bytes: int = 0
    history: int = 0
    mode: str = ""
    facts: str = ""


@dataclass(frozen=True)
class EndingSeen:
    """How the log ends behind `after`: a State's name, and where, in words.

    `last`: the last transaction that can be read.
    """

    after: int
    last: int
    state: str
    where: str


@dataclass
class Survey:
    """`damage`: all that is wrong, a line each."""

    directory: str
    lock: Lock | None = None
    checkpoints: list[CheckpointSeen] = field(default_factory=list)
    set_aside: list[str] = field(default_factory=list)
    """Manifests of checkpoints that turned out to be damaged."""
    segments: list[SegmentSeen] = field(default_factory=list)
    ending: EndingSeen | None = None
    attempts: Stored | None = None
    damage: list[str] = field(default_factory=list)


def data_in(path: Path) -> list[Checkpoint]:
    """The complete checkpoints of a data directory, the newest last.

    Errors: ConfigurationError when there is no such directory; OSError.
    """
    if not path.is_dir():
        raise ConfigurationError(f"{path} is not a directory")
    return checkpoints_in(path)


def survey(path: Path, *, pages: bool = False) -> Survey:
    """Look at a data directory; with `pages`, at every page of its checkpoints, too.

    Errors: ConfigurationError when there is none; OSError when it can't be listed.
    """
    found = Survey(str(path))
    checkpoints = data_in(path)
    found.lock = look_at_lock(path)
    for checkpoint in checkpoints:
        seen = _checkpoint(checkpoint, pages=pages)
        if checkpoint.path.exists():  # else a running server is writing a newer one in its place
            found.checkpoints.append(seen)
            if seen.damage:
                found.damage.append(seen.damage)
    found.set_aside = sorted(each.name for each in path.glob("checkpoint-*.damaged"))
    found.damage += [f"{path / name}: set aside as damaged" for name in found.set_aside]
    _look_at_log(found, path)
    try:
        found.attempts = read_attempts(path / ATTEMPTS)
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        found.damage.append(f"{path / ATTEMPTS}: {error}")
    return found


def _checkpoint(checkpoint: Checkpoint, *, pages: bool) -> CheckpointSeen:
    name = checkpoint.path.name
    try:
        manifest = verify_pages(checkpoint, lambda _: None) if pages else read_outline(checkpoint)
    except (CorruptionError, ConfigurationError, OSError) as error:
        return CheckpointSeen(name, checkpoint.sequence, checkpoint.epoch, damage=str(error))
    return CheckpointSeen(
        name,
        manifest.sequence,
        manifest.epoch,
        "",
        manifest.app,
        manifest.history,
        manifest.time_ns,
        manifest.data_bytes,
        manifest.page_count,
        manifest.slot,
        manifest.facts,
    )


def _look_at_log(found: Survey, path: Path) -> None:
    """All files of the log, and how it ends behind the newest checkpoint that is whole."""
    whole = [each for each in found.checkpoints if not each.damage]
    base = whole[-1] if whole else None
    seen: dict[Path, SegmentSeen] = {}
    tail = None
    for segment in segments(path):
        known = seen.setdefault(segment.path, _segment(segment))
        if known.problem:
            found.damage.append(f"{segment.path}: {known.problem}")
        elif not known.records:
            _count(read_tail(path, segment.first - 1, known.history), seen)
    found.segments = list(seen.values())
    if base is not None:
        tail = settled(lambda: read_tail(path, base.sequence, base.history or None))
    elif found.segments:
        first = found.segments[0]
        tail = settled(lambda: read_tail(path, first.first - 1, first.history or None))
    if tail is None or tail.ending is None:
        return
    ending = tail.ending
    found.ending = EndingSeen(tail.after, tail.last, ending.state.value, ending.where)
    bad = ending.state is State.DAMAGED or (ending.state is State.MISSING and tail.has_log)
    if bad:
        found.damage.append(f"the log is {ending.state.value}: {ending.where}")


def settled(read: Callable[[], Tail]) -> Tail:
    """A tail read to its end. One that is being written may look bad for a moment."""
    tail = read()
    ending = tail.finish()
    for _ in range(LOOKS_MAX):
        if ending.state is State.CLEAN:
            break
        time.sleep(LOOK_S)
        before, tail = ending, read()
        ending = tail.finish()
        if ending == before:
            break
    return tail


def _segment(segment: Segment) -> SegmentSeen:
    header = segment.header
    if header is None:
        return SegmentSeen(segment.path.name, segment.first, segment.file_bytes, segment.problem)
    return SegmentSeen(
        segment.path.name,
        segment.first,
        segment.file_bytes,
        last=segment.first - 1,
        history=header.history,
        mode=header.mode.name.lower(),
        facts=header.facts,
    )


def _count(tail: Tail, seen: dict[Path, SegmentSeen]) -> None:
    """Count records in the files they are in; those counted before are left."""
    fresh: dict[Path, SegmentSeen] = {}
    for record in tail:
        path = record.segment.path
        if path not in fresh:
            known = seen.setdefault(path, _segment(record.segment))
            if known.records:
                return
            fresh[path] = known
        one = fresh[path]
        one.records += 1
        one.record_bytes += record.size_bytes
        one.last = max(one.last, record.last)


def records(path: Path, first: int, *, follow: bool = False) -> Iterator[Record]:
    """The records of the log from transaction `first` on; with `follow` for ever, as they are
    written. Errors: CorruptionError where what the log has can't be read; OSError.
    """
    tail = read_tail(path, first - 1, _history_at(path, first))
    yield from tail
    while follow:
        time.sleep(POLL_S)
        if tail.again():
            yield from tail
    ending = settled(lambda: read_tail(path, tail.last, tail.history)).ending
    assert ending is not None
    if ending.state is State.DAMAGED or (ending.state is State.MISSING and tail.has_log):
        raise CorruptionError(f"the log is {ending.state.value}: {ending.where}")


def first_logged(path: Path) -> int:
    """Number of the first transaction in the log; 1 without one. Errors: OSError."""
    found = segments(path)
    return found[0].first if found else 1


def _history_at(path: Path, first: int) -> int | None:
    """Of the newest file that may have this transaction."""
    begun = [each for each in segments(path) if each.first <= first and each.header is not None]
    return begun[-1].header.history if begun and begun[-1].header is not None else None
