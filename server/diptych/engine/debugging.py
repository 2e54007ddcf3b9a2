"""One transaction of the log, run again on a copy of the data as it was: for `diptych debug`.

Finds the newest whole checkpoint before it, runs the log up to the transaction before, and then the
transaction itself, its handler through a function of the caller's choice, as a debugger is one. All
is in memory of this process; nothing is written. Knows no debugger.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from diptych.app import App, Operation
from diptych.durable import Checkpoint, Record, read_manifest, read_tail
from diptych.engine.causes import Cause
from diptych.engine.copies import Copy, LogRead, copy_of, facts_for, read_log
from diptych.engine.decoding import LoggedFrame, Names, frames_of, shown
from diptych.engine.engine import Engine, Handler
from diptych.engine.framing import starts_of
from diptych.engine.growth import Growth
from diptych.engine.survey import data_in
from diptych.errors import CorruptionError
from diptych_client.protocol import HEADER_BYTES, Header, Kind

log = logging.getLogger("diptych.engine")

Run = Callable[..., Any]
"""Called with a handler and its arguments, instead of the handler."""
Tell = Callable[[str], None]
_FOR_EVER_NS = 1 << 62


class NotThere(Exception):
    """The transaction, or the data before it, can't be had. The message says why."""


@dataclass(frozen=True)
class Found:
    """A transaction in the log. `cause`: of its end, if that had a reason of the machine."""

    checkpoint: Checkpoint
    read: LogRead
    record: Record
    frame: LoggedFrame
    cause: Cause | None


def debug(app: App, path: Path, sequence: int, run: Run, tell: Tell) -> None:
    """Run transaction `sequence` again, its handler by `run`. `tell` gets lines for people.

    Errors: NotThere; ConfigurationError; CorruptionError, ReplayDiffers; AllocationFailed; OSError.
    """
    found = find(path, sequence)
    frame, names = found.frame, Names(app)
    operation = _operation(app, frame)
    calls = 0

    def handler(*arguments: Any) -> Any:
        """In the place of the operation's own."""
        nonlocal calls
        assert operation is not None
        if arguments[0].sequence != sequence:
            return operation.function(*arguments)
        calls += 1
        if calls > 1:
            tell("a heap had to be put together: it was undone, and begins again")
        with _memory_given(copy):
            return run(operation.function, *arguments)

    handlers: dict[str, Handler] = {} if operation is None else {operation.name: handler}
    with copy_of(app, found.checkpoint, handlers) as copy:
        changed = found.read.changed(facts_for(app, copy.manifest))
        if changed:
            tell(f"this changed since the log was written: {', '.join(changed)}")
        if copy.engine.sequence < sequence - 1:
            copy.run(path, found.read, until=sequence - 1)
        engine = copy.engine
        _describe(found, names, engine, tell)
        if operation is None:
            tell("this is no transaction of the application's, so there is no handler to stop at")
        replies = _run_one(engine, found)
        if operation is not None and not calls:
            tell("its handler does not run: the answer is given before")
        _answer(replies, tell)


@contextmanager
def _memory_given(copy: Copy) -> Iterator[None]:
    """Memory is given where a handler needs it, which else would be undone and begin again."""
    engine, space = copy.engine, copy.engine.db.space
    space.give_memory = Growth(engine.layout, space, copy.region.allocate, engine.fill).give
    try:
        yield
    finally:
        space.give_memory = None


def find(path: Path, sequence: int) -> Found:
    """A transaction of the log, and the newest whole checkpoint before it.

    Errors: NotThere; ConfigurationError; OSError.
    """
    checkpoints = data_in(path)
    older = [each for each in checkpoints if each.sequence < sequence]
    if not older:
        oldest = min((each.sequence for each in checkpoints), default=0)
        raise NotThere(
            f"no checkpoint ends before transaction {sequence}; the oldest ends with {oldest}"
            if checkpoints
            else f"there is no checkpoint in {path}"
        )
    told = []
    for checkpoint in reversed(older):
        try:
            manifest = read_manifest(checkpoint.path)
        except (CorruptionError, FileNotFoundError) as wrong:
            told.append(str(wrong))
            continue
        read = read_log(path, manifest, until=sequence, whole=False)
        if read.runs_to < sequence:
            where = "" if read.ending is None else f": {read.ending.where}"
            told.append(
                f"behind {checkpoint.path.name} the log goes to transaction {read.last}{where}"
            )
            continue
        for record in read_tail(path, sequence - 1, manifest.history or None):
            for frame in frames_of(record):
                if frame.sequence == sequence:
                    return Found(checkpoint, read, record, frame, read.skip.get(sequence))
    raise NotThere(f"transaction {sequence} is not in the log; {told[0]}")


def _operation(app: App, frame: LoggedFrame) -> Operation | None:
    """The application's transaction that a frame asks for."""
    for operation in app.operations:
        if operation.number == frame.operation and operation.kind == "transaction":
            return operation
    return None


def _describe(found: Found, names: Names, engine: Engine, tell: Tell) -> None:
    frame = found.frame
    caller = engine.requests.caller_of(frame.session)
    whose = f", session {frame.session}" if frame.session else ", without a session"
    whose += f" of {caller}" if caller else ""
    key = "" if frame.key is None else f", key {frame.key.decode(errors='replace')!r}"
    tell(f"transaction {frame.sequence}: {names.call(frame)}")
    tell(f"  request {frame.request}{whose}{key}; db.now {found.record.time_ns}")
    if found.cause is not None:
        tell(
            f"  the log says that it ended by {found.cause.name}, and was undone; here it runs "
            "all the same"
        )


def _run_one(engine: Engine, found: Found) -> bytes:
    """Run the one frame, as a replay would, but also if that would skip it: its reply."""
    record, at = found.record, found.frame.at
    data = np.frombuffer(record.payload, np.uint8)
    starts = starts_of(data, record.count)
    engine.skip = {}
    engine.replies.clear()
    engine.begin(record.time_ns)
    engine.run(data, starts, at, at + 1, _FOR_EVER_NS)
    return bytes(engine.replies)


def _answer(reply: bytes, tell: Tell) -> None:
    header = Header.read(reply)
    value = msgpack.unpackb(reply[HEADER_BYTES:], strict_map_key=False)
    if header.kind == Kind.RESULT:
        tell(f"it answers {shown(value)}")
    elif header.kind == Kind.REJECTED:
        tell(f"it is rejected, and undone: {value[0]} {shown(value[1])}")
    else:
        tell(f"it fails, and is undone: {shown(value)}")
