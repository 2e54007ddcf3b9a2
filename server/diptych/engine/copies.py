"""Copies of the data in this process, for tools: a checkpoint, and the log run upon it.

Nothing in the directory is changed, and no lock is taken, so a server may be at work there.
Capacities are those that the data was saved with. Of a log that is being written the end may look
bad for a moment; it counts when it looks the same twice. Knows no commands and no processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from diptych.app import App
from diptych.durable import (
    Checkpoint,
    Ending,
    Kind,
    Manifest,
    Record,
    State,
    read_manifest,
    read_tail,
)
from diptych.engine import facts
from diptych.engine.causes import Cause
from diptych.engine.engine import Engine, Handler
from diptych.engine.facts import Facts
from diptych.engine.lane import compiled_for, lane_of
from diptych.engine.opening import Examined, examine, load
from diptych.engine.replay import ReplayDiffers, Replayed, replay
from diptych.engine.survey import LOOK_S, LOOKS_MAX
from diptych.errors import ConfigurationError, CorruptionError
from diptych.memory import Region
from diptych.store.database import SCRATCH_BYTES
from diptych.stored import read_schema

"""What tools run transactions in, as servers do."""


@dataclass(frozen=True)
class LogRead:
    """What a log has behind a checkpoint.

    `last`: the last transaction that was read; `runs_to`: the last one that was asked for, or the
    checkpoint's. `skip`: what ended for a reason of the machine. `facts`: of the files that those
    up to `runs_to` are in. `ending`: None if not all of it was read.
    """

    last: int
    runs_to: int
    skip: Mapping[int, Cause]
    facts: tuple[str, ...]
    ending: Ending | None
    has_log: bool

    def changed(self, facts_now: Facts) -> list[str]:
        """What differs from this process, in words, each once."""
        told: dict[str, None] = {}
        for text in self.facts:
            told |= dict.fromkeys(facts.differences(facts.from_text(text), facts_now))
        return list(told)


@dataclass(frozen=True)
class Copy:
    """A checkpoint in memory, open for transactions."""

    checkpoint: Checkpoint
    manifest: Manifest
    region: Region
    engine: Engine

    def run(
        self,
        path: Path,
        found: LogRead,
        *,
        until: int,
        on_difference: Callable[[ReplayDiffers], None] | None = None,
    ) -> Replayed:
        """Run what the log in `path` has, up to transaction `until`.

        Errors: ReplayDiffers; CorruptionError when the log does not go that far any more.
        """
        engine, base = self.engine, self.engine.sequence
        engine.skip = dict(found.skip)
        tail = read_tail(path, base, self.manifest.history or None)
        total = until - base
        done = replay(engine, tail, until=until, total=total, on_difference=on_difference)
        if engine.sequence != until:
            raise CorruptionError(
                f"the log was read up to transaction {until}, and again to {engine.sequence} only"
            )
        return done


def stored_capacities(manifest: Manifest, app: App) -> dict[str, int]:
    """With what capacities the data was saved, of the tables that the application has.

    Errors: CorruptionError.
    """
    capacities: dict[str, int] = {}
    for stored in read_schema(manifest.schema).tables:
        spec = app.tables.get(stored.name)
        if spec is not None:
            capacities[stored.name] = stored.capacity
            if spec.heap_columns and stored.heap_columns:
                capacities[f"{stored.name}.heap_bytes"] = stored.heap_bytes
    return capacities


def examine_stored(checkpoint: Checkpoint, app: App) -> Examined:
    """A checkpoint against the application, with the capacities that it has.

    Errors: ConfigurationError, CorruptionError, OSError.
    """
    manifest = read_manifest(checkpoint.path)
    return examine(manifest, app, stored_capacities(manifest, app))


def facts_for(app: App, manifest: Manifest) -> Facts:
    """The facts of this process, with the capacities of the data."""
    return facts.facts_of(app, lane_of(app), stored_capacities(manifest, app))


@contextmanager
def copy_of(
    app: App, checkpoint: Checkpoint, handlers: Mapping[str, Handler] | None = None
) -> Iterator[Copy]:
    """Load a checkpoint. Errors: ConfigurationError when it is not of this application's tables;
    CorruptionError, CheckpointReplaced, AllocationFailed, OSError.
    """
    examined = examine_stored(checkpoint, app)
    if not examined.fits:
        raise ConfigurationError(
            f"{checkpoint.path.name} is of version {examined.stored.version}, whose tables are not "
            f"those of this code (version {app.version}): use the code that wrote it"
        )
    with Region.create(
        examined.layout.size_bytes, scratch_bytes=SCRATCH_BYTES, name="copy"
    ) as region:
        load(checkpoint, examined.layout, region)
        yield opened_copy(app, checkpoint, examined.manifest, region, handlers)


def opened_copy(
    app: App,
    checkpoint: Checkpoint,
    manifest: Manifest,
    region: Region,
    handlers: Mapping[str, Handler] | None = None,
) -> Copy:
    """A region that a checkpoint of the application's tables was loaded into."""
    engine = Engine.recover(
        app,
        region,
        grow=region.allocate,
        history=manifest.history,
        capacities=stored_capacities(manifest, app),
        compiled=compiled_for(app) if handlers is None else None,
        handlers=handlers,
    )
    return Copy(checkpoint, manifest, region, engine)


def read_log(
    path: Path,
    manifest: Manifest,
    *,
    until: int | None = None,
    until_time_ns: int | None = None,
    whole: bool = True,
) -> LogRead:
    """Read and check what the log has behind a checkpoint. What is asked for ends with transaction
    `until`, and before the first one of a time after `until_time_ns`.

    Without `whole` no more is read than that needs. Errors: OSError.
    """
    found = _read_once(path, manifest, until, until_time_ns, whole)
    for _ in range(LOOKS_MAX):
        if found.ending is None or found.ending.state is State.CLEAN:
            break
        before = found
        time.sleep(LOOK_S)
        found = _read_once(path, manifest, until, until_time_ns, whole)
        if found.ending == before.ending and found.last == before.last:
            break
    return found


def _read_once(
    path: Path, manifest: Manifest, until: int | None, until_time_ns: int | None, whole: bool
) -> LogRead:
    base = manifest.sequence
    tail = read_tail(path, base, manifest.history or None)
    skip: dict[int, Cause] = {}
    texts: dict[str, None] = {}
    runs_to, enough = base, False
    for record in tail:
        # Aborts of a batch are behind it.
        skip.update((sequence, Cause(cause)) for sequence, cause in record.aborts)
        if record.kind is not Kind.BATCH:
            continue
        enough = enough or _is_beyond(record, until, until_time_ns)
        if not enough:
            runs_to = record.last if until is None else min(record.last, until)
            if record.segment.header is not None:
                texts[record.segment.header.facts] = None
        elif not whole:
            break
    ending = tail.finish() if whole or not enough else None
    return LogRead(tail.last, runs_to, skip, tuple(texts), ending, tail.has_log)


def _is_beyond(record: Record, until: int | None, until_time_ns: int | None) -> bool:
    if until is not None and record.first > until:
        return True
    return until_time_ns is not None and record.time_ns > until_time_ns
