"""The two loops that run for every call of a load test: copying calls out, taking replies in.

One connection's state is two small arrays (`state`, words below; `due_ns`, `results`: an item a
frame of its cycle) beside its Cycle. Called once a wakeup with everything that can be sent or has
arrived. Nothing is decoded here but the int that a later call waits for.
"""

from __future__ import annotations

from typing import Any

from diptych.kernel import kernel
from diptych.loadtest.latency import bin_of
from diptych_client.protocol import HEADER_BYTES, Kind

# state, per connection
SENT = 0  # calls copied out so far; also the request number of the last one
ANSWERED = 1
REFUSED = 2  # rows of `refusals` written by the last `take_replies`
NEEDED_BYTES = 3  # size of a frame that has not arrived whole, 0 when none begins
STATE_WORDS = 4

# shared by all connections
SEQUENCE = 0  # the highest that any reply to a transaction showed
HISTORY = 1
SHARED_WORDS = 2

# columns of the table of counts; one row an operation
CALLS, RESULTS, REJECTED, ERRORS = 0, 1, 2, 3
COUNTS = 4

RESULT_KIND = int(Kind.RESULT)
REJECTED_KIND = int(Kind.REJECTED)
ERROR_KIND = int(Kind.ERROR)


@kernel
def read_little(data: Any, at: int, size: int) -> int:
    value = 0
    for i in range(size):
        value |= int(data[at + i]) << (8 * i)
    return value


@kernel
def write_little(data: Any, at: int, value: int, size: int) -> None:
    for i in range(size):
        data[at + i] = (value >> (8 * i)) & 255


@kernel
def read_int(data: Any, at: int, stop: int) -> int:
    """The msgpack int at `at`, or the first element if an array is there; 0 for anything else."""
    if at < stop and 0x90 <= data[at] <= 0x9F:
        at += 1
    if at >= stop:
        return 0
    first = int(data[at])
    if first < 0x80:
        return first
    if first < 0xCC or first > 0xCF:
        return 0
    size = 1 << (first - 0xCC)
    if at + 1 + size > stop:
        return 0
    value = 0
    for i in range(size):
        value = (value << 8) | int(data[at + 1 + i])
    return value


@kernel
def write_calls(
    frames: Any,
    starts: Any,
    hole_at: Any,
    hole_from: Any,
    results: Any,
    due_ns: Any,
    state: Any,
    shared: Any,
    out: Any,
    count: int,
    first_due_ns: int,
    gap_ns: int,
    fresh: bool,
) -> int:
    """Copy the next `count` calls to `out`, as far as there is room; return the bytes written.

    A call is due at `first_due_ns` plus its number times `gap_ns`; with a gap of 0 that is now.
    `fresh`: queries ask for an image that shows every transaction answered so far.
    """
    length = len(starts) - 1
    size = 0
    for _ in range(count):
        number = state[SENT]
        slot = number % length
        start, stop = starts[slot], starts[slot + 1]
        if size + stop - start > len(out):
            break
        for i in range(stop - start):
            out[size + i] = frames[start + i]
        write_little(out, size + 8, number + 1, 8)
        if fresh and shared[SEQUENCE] > 0:
            write_little(out, size + 16, shared[SEQUENCE], 8)
            write_little(out, size + 24, shared[HISTORY], 8)
        if hole_at[slot] >= 0:
            value = results[hole_from[slot]]
            at = size + hole_at[slot] - start
            for i in range(8):
                out[at + i] = (value >> (56 - 8 * i)) & 255
        results[slot] = 0
        due_ns[slot] = first_due_ns + number * gap_ns
        state[SENT] = number + 1
        size += stop - start
    return size


@kernel
def take_replies(
    data: Any,
    have: int,
    operation: Any,
    watched: Any,
    results: Any,
    due_ns: Any,
    state: Any,
    shared: Any,
    counts: Any,
    latencies: Any,
    refusals: Any,
    now_ns: int,
    count_from_ns: int,
    count_until_ns: int,
) -> int:
    """Take every whole reply in data[:have]; return the bytes used.

    Only calls due in [count_from_ns, count_until_ns) are counted. Refusals (rejected, errors and
    whatever else is no result) are listed as (position, operation's row or -1 when not counted).
    """
    length = len(operation)
    position = 0
    refused = 0
    state[NEEDED_BYTES] = 0
    while have - position >= HEADER_BYTES:
        size = HEADER_BYTES + read_little(data, position, 4)
        if have - position < size:
            state[NEEDED_BYTES] = size
            break
        kind = int(data[position + 4])
        request = read_little(data, position + 8, 8)
        row = -1
        known = 0 < request <= state[SENT]
        if known:
            slot = (request - 1) % length
            state[ANSWERED] += 1
            due = due_ns[slot]
            if count_from_ns <= due < count_until_ns:
                row = operation[slot]
                counts[row, CALLS] += 1
                latencies[row, bin_of(now_ns - due)] += 1
            if kind == RESULT_KIND:
                if row >= 0:
                    counts[row, RESULTS] += 1
                if watched[slot]:
                    results[slot] = read_int(data, position + HEADER_BYTES, position + size)
            sequence = read_little(data, position + 16, 8)
            if sequence > shared[SEQUENCE]:
                shared[SEQUENCE] = sequence
        if kind != RESULT_KIND or not known:
            if row >= 0:
                counts[row, REJECTED if kind == REJECTED_KIND else ERRORS] += 1
            refusals[refused, 0] = position
            refusals[refused, 1] = row
            refused += 1
        position += size
    state[REFUSED] = refused
    return position
