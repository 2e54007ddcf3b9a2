"""Run again what the log has beyond the data: the same records, on the same bytes, to the same end.

A record is run as it was then: its time, its frames, its numbers. What ended for a reason outside
the data then (see `causes`) is answered from the log and not run. Each record says what the one
before it was answered, so a handler that does something else this time is noticed at once.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from diptych.durable import Kind, Record
from diptych.engine.engine import Engine
from diptych.engine.framing import starts_of
from diptych.errors import CorruptionError
from diptych_client.protocol import HEADER

log = logging.getLogger("diptych.engine")

_FOR_EVER_NS = 1 << 62
TELL_NS = 2_000_000_000
SPARE_CALLS = 500


class ReplayDiffers(CorruptionError):
    """A handler did something else than it did when the log was written. `first`: the first of the
    transactions among which it is.
    """

    def __init__(self, message: str, first: int) -> None:
        super().__init__(message)
        self.first = first


@dataclass
class Replayed:
    """What a replay ran. `outcome` is that of the last record, None when that was run in part."""

    transactions: int = 0
    records: int = 0
    seconds: float = 0.0
    outcome: int | None = None
    last_time_ns: int = 0


def replay(
    engine: Engine,
    records: Iterable[Record],
    *,
    until: int | None = None,
    until_time_ns: int | None = None,
    total: int = 0,
    on_difference: Callable[[ReplayDiffers], None] | None = None,
) -> Replayed:
    """Run all of `records` that `engine` has not run yet; up to transaction `until`, or a time.

    Records that end before the engine's number are passed over, and one is run in part where the
    data ends within it. `total`: how many transactions there are, for progress. `on_difference` is
    told of what ends differently, which else raises, and the replay goes on. Errors:
    ReplayDiffers; CorruptionError when records don't follow the data.
    """
    # What was not too deep then must not be now, however deep we are called ourselves; what was
    # is not run.
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(limit + SPARE_CALLS)
    try:
        return _replay(engine, records, until, until_time_ns, total, on_difference)
    finally:
        sys.setrecursionlimit(limit)


def _replay(
    engine: Engine,
    records: Iterable[Record],
    until: int | None,
    until_time_ns: int | None,
    total: int,
    on_difference: Callable[[ReplayDiffers], None] | None,
) -> Replayed:
    done = Replayed()
    began_ns = told_ns = time.monotonic_ns()
    before: Record | None = None
    for record in records:
        if record.kind is not Kind.BATCH:
            continue  # aborts were read ahead: `engine.skip`
        if until_time_ns is not None and record.time_ns > until_time_ns:
            break
        last = record.first + record.count - 1
        if last <= engine.sequence:
            continue
        if until is not None and record.first > until:
            break
        told = record.outcome
        if before is not None and told is not None and told != done.outcome:
            differs = ReplayDiffers(_differs(engine, before), before.first)
            if on_difference is None:
                raise differs
            on_difference(differs)
        whole = record.first == engine.sequence + 1 and (until is None or last <= until)
        first = engine.sequence + 1
        _run(engine, record, last if until is None else min(last, until))
        done.records += 1
        done.outcome = engine.outcome if whole else None
        done.last_time_ns = record.time_ns
        before = record if whole else None
        done.transactions += engine.sequence - first + 1
        now_ns = time.monotonic_ns()
        if now_ns - told_ns > TELL_NS:
            told_ns = now_ns
            _tell(done.transactions, total, (now_ns - began_ns) / 1e9)
    done.seconds = (time.monotonic_ns() - began_ns) / 1e9
    return done


def _run(engine: Engine, record: Record, last: int) -> None:
    # Copied, since for kernels an array that can't be written is of another type.
    data = np.frombuffer(bytearray(record.payload), np.uint8)
    starts = starts_of(data, record.count)
    at = engine.sequence + 1 - record.first
    if at < 0:
        raise CorruptionError(
            f"the log goes on with transaction {record.first}, the data ends with {engine.sequence}"
        )
    stop = last - record.first + 1
    engine.begin(record.time_ns)
    while at < stop:
        at += engine.run(data, starts, at, stop, _FOR_EVER_NS)
        engine.replies.clear()
    # What the machine refuses now and did not refuse then would be another outcome.
    if engine.aborts:
        sequence, cause = engine.aborts[0]
        raise CorruptionError(
            f"transaction {sequence} ran when the log was written, and ends here: {cause.name}"
        )


def _differs(engine: Engine, record: Record) -> str:
    data = np.frombuffer(bytearray(record.payload), np.uint8)
    numbers = {
        HEADER.unpack_from(record.payload, int(start))[3]
        for start in starts_of(data, record.count)[:-1]
    }
    names = {operation.number: operation.name for operation in engine.app.operations}
    told = ", ".join(sorted(names.get(number, str(number)) for number in numbers))
    last = record.first + record.count - 1
    return (
        f"transactions {record.first} to {last} ({told}) end differently than they did when they "
        "were answered: a handler depends on something else than data and arguments"
    )


def _tell(done: int, total: int, seconds: float) -> None:
    rate = done / seconds if seconds else 0.0
    if total and rate:
        left_s = max(0.0, (total - done) / rate)
        log.info("replayed %d of %d transactions, about %.0f s left", done, total, left_s)
    else:
        log.info("replayed %d transactions", done)
