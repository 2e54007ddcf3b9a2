"""The data as it was at a transaction or a time, in a directory of its own: for `diptych recover`.

Takes the newest whole checkpoint that is not beyond that point, runs the log up to it, and writes a
checkpoint of a new history, since numbers beyond the point mean something else from now on. The
directory that it reads is not changed, and may be damaged; what can't be had is said. Knows no
command line.
"""

from __future__ import annotations

import logging
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from diptych.app import App
from diptych.durable import (
    Checkpoint,
    CheckpointReplaced,
    DataDirectory,
    Manifest,
    State,
    look_at_lock,
    read_manifest,
)
from diptych.engine.copies import Copy, LogRead, examine_stored, facts_for, opened_copy, read_log
from diptych.engine.facts import to_text
from diptych.engine.opening import load, save, stored_layout
from diptych.engine.replay import ReplayDiffers
from diptych.engine.survey import data_in
from diptych.errors import ConfigurationError, CorruptionError
from diptych.memory import Region
from diptych.store import words as at
from diptych.store.database import SCRATCH_BYTES
from diptych.store.layout import Layout

log = logging.getLogger("diptych.engine")

LOOKS_MAX = 5


class Refused(Exception):
    """There is no such point, or what is there can't be run again. The message says what helps."""


@dataclass(frozen=True)
class Point:
    """How far: up to transaction `until`, and to the last one not after `until_time_ns`."""

    until: int | None = None
    until_time_ns: int | None = None


@dataclass
class Recovered:
    """What the new directory has. `last` in the log, and `left_out`, is what it has not.

    `now_ns`: time of its last transaction. `changed`: what differs from when the log was written.
    """

    directory: str
    base: int
    sequence: int
    now_ns: int
    history: int
    transactions: int
    seconds: float
    pages: int
    last: int
    left_out: list[str] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Opened:
    """A checkpoint in memory. `copy` is None where it is not of the application's tables."""

    checkpoint: Checkpoint
    manifest: Manifest
    region: Region
    layout: Layout
    copy: Copy | None


def recover(
    app: App, path: Path, new: Path, point: Point, *, with_changes: bool = False
) -> Recovered:
    """Make the directory `new`. With `with_changes` the log is run again by other code than wrote
    it; what it answers is compared all the same.

    Errors: Refused; ConfigurationError; CorruptionError, when running the log again does not lead
    to what it says; AllocationFailed; OSError.
    """
    _check_new(path, new)
    for _ in range(LOOKS_MAX):
        try:
            return _recover(app, path, new, point, with_changes=with_changes)
        except (CheckpointReplaced, FileNotFoundError) as gone:  # by a running server
            log.info("looking again: %s", gone)
    raise Refused(f"{path} changes faster than it can be read: try again")


def _recover(app: App, path: Path, new: Path, point: Point, *, with_changes: bool) -> Recovered:
    damage: list[str] = []
    for checkpoint in _candidates(path, point):
        try:
            with _opened(app, checkpoint) as opened:
                now_ns = int(opened.region.words[at.NOW])
                if point.until_time_ns is not None and now_ns > point.until_time_ns:
                    continue
                return _run(app, path, new, point, opened, damage, with_changes=with_changes)
        except CheckpointReplaced:
            raise
        except _Damaged as wrong:
            log.error("%s", wrong)
            damage.append(str(wrong))
    raise Refused(_no_base(path, point, damage))


class _Damaged(CorruptionError):
    """A checkpoint can't be loaded; an older one may do."""


def _candidates(path: Path, point: Point) -> Iterator[Checkpoint]:
    """Checkpoints that may be the base, the newest first."""
    for checkpoint in reversed(data_in(path)):
        if point.until is None or checkpoint.sequence <= point.until:
            yield checkpoint


@contextmanager
def _opened(app: App, checkpoint: Checkpoint) -> Iterator[_Opened]:
    """Errors: _Damaged, CheckpointReplaced, ConfigurationError, AllocationFailed, OSError."""
    manifest, region = None, None
    try:
        manifest = read_manifest(checkpoint.path)
        examined = examine_stored(checkpoint, app)
        layout = examined.layout if examined.fits else stored_layout(examined)
        region = Region.create(layout.size_bytes, scratch_bytes=SCRATCH_BYTES, name="recovered")
        load(checkpoint, layout, region)
    except CorruptionError as wrong:
        if region is not None:
            region.close()
        if isinstance(wrong, CheckpointReplaced):
            raise
        raise _Damaged(str(wrong)) from None
    with region:
        copy = opened_copy(app, checkpoint, manifest, region) if examined.fits else None
        yield _Opened(checkpoint, manifest, region, layout, copy)


def _run(
    app: App,
    path: Path,
    new: Path,
    point: Point,
    opened: _Opened,
    damage: list[str],
    *,
    with_changes: bool,
) -> Recovered:
    base, copy = opened.manifest.sequence, opened.copy
    found = read_log(path, opened.manifest, until=point.until, until_time_ns=point.until_time_ns)
    changed: list[str] = []
    transactions, seconds, facts = 0, 0.0, opened.manifest.facts
    if found.runs_to > base:
        if copy is None:
            raise Refused(_other_tables(path, base))
        changed = found.changed(facts_for(app, opened.manifest))
        if changed and not with_changes:
            raise Refused(_other_code(base, changed))
        try:
            done = copy.run(path, found, until=found.runs_to)
        except ReplayDiffers as differs:
            raise Refused(_differs(differs)) from None
        transactions, seconds = done.transactions, done.seconds
        facts = to_text(facts_for(app, opened.manifest))
    words = opened.region.words
    words[at.HISTORY] = history = 1 + secrets.randbits(62)
    pages = _save(opened, new, facts)
    return Recovered(
        str(new),
        base,
        int(words[at.SEQUENCE]),
        int(words[at.NOW]),
        history,
        transactions,
        seconds,
        pages,
        max(found.last, base),
        _left_out(path, point, found, base, damaged=bool(damage)),
        damage,
        changed,
    )


def _save(opened: _Opened, new: Path, facts: str) -> int:
    """Write the checkpoint, how many pages. What is left of a failure goes, if it was not there."""
    was_there = new.exists()
    try:
        with DataDirectory.open(new, opened.manifest.app) as directory:
            saved = save(opened.manifest.app, directory, opened.region, opened.layout, facts)
            directory.end_in_order()
        return read_manifest(saved.path).page_count
    except OSError:
        if not was_there:
            shutil.rmtree(new, ignore_errors=True)
        raise


def _left_out(path: Path, point: Point, found: LogRead, base: int, *, damaged: bool) -> list[str]:
    """What there is beyond, or was, a line each."""
    told = []
    if found.last > found.runs_to:
        told.append(
            f"transactions {found.runs_to + 1} to {found.last} of the log, as was asked for"
        )
    ending = found.ending
    assert ending is not None
    bad = ending.state is State.DAMAGED or (ending.state is State.MISSING and found.has_log)
    if bad:
        told.append(
            f"what the log had behind {max(found.last, base)}: it is {ending.state.value}: "
            f"{ending.where}"
        )
    elif ending.state is State.TORN:
        told.append(f"what was being written when the server ended: {ending.where}")
    if point.until is not None and found.runs_to < point.until:
        told.append(
            f"transactions {found.runs_to + 1} to {point.until}: they were asked for, and neither "
            "a whole checkpoint nor the log has them"
        )
    newest = max((each.sequence for each in data_in(path)), default=0)
    if damaged and point.until is None and newest > max(found.last, base):
        told.append(f"what the damaged checkpoint of transaction {newest} had, and the log has not")
    lock = look_at_lock(path)
    if lock is not None and lock.held:
        told.append(f"what the server that runs there (process {lock.process}) does from now on")
    return told


def _check_new(path: Path, new: Path) -> None:
    if new.exists() and not new.is_dir():
        raise ConfigurationError(f"{new} is there, and no directory")
    if new.is_dir() and any(new.iterdir()):
        raise ConfigurationError(f"{new} is not empty: name a directory that does not exist yet")
    if new.resolve().is_relative_to(path.resolve()):
        raise ConfigurationError(f"{new} is inside of {path}: name one elsewhere")


def _no_base(path: Path, point: Point, damage: list[str]) -> str:
    all_there = data_in(path)
    if not all_there:
        return f"there is no checkpoint in {path}"
    if damage:
        return "no checkpoint that would do is whole:\n" + "\n".join(damage)
    oldest = min(each.sequence for each in all_there)
    return (
        f"no checkpoint in {path} is that old: the oldest ends with transaction {oldest}. A "
        "backup of the directory, with the archived files of the log, may have what is asked for"
    )


def _differs(differs: ReplayDiffers) -> str:
    return (
        f"{differs}. `diptych verify` says more of it. --until {differs.first - 1} makes a "
        "directory of what came before"
    )


def _other_tables(path: Path, base: int) -> str:
    return (
        f"the log behind transaction {base} is of other tables than this code's, and can't be run "
        f"again by it: use the code that wrote it. Or give up what came after: --until {base}"
    )


def _other_code(base: int, changed: list[str]) -> str:
    return (
        f"the log behind transaction {base} was written by something else: {', '.join(changed)}. "
        "Use what wrote it; or --with-changes runs it again all the same, and stops where an "
        f"answer is not what it was. Or give up what came after: --until {base}"
    )
