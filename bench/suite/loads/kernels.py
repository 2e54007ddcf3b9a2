"""The loops of `diptych.loadtest.kernels`, for protocols whose replies come in order of the calls.

The words of `state`, the columns of `counts` and what the arrays are: see there. A reply is `ok`
or a refusal; of a result only its first int is looked at, and only where a later call needs it.
"""

from __future__ import annotations

from typing import Any

from diptych.kernel import kernel
from diptych.loadtest.kernels import read_int
from diptych.loadtest.latency import bin_of

# As in diptych.loadtest.kernels: the kernel cache looks at this file alone.
SENT, ANSWERED, REFUSED, NEEDED_BYTES = 0, 1, 2, 3
CALLS, RESULTS, REJECTED = 0, 1, 2

HOLE_BYTES = 8  # a binary hole
HOLE_DIGITS = 12  # a hole in text
MINUS, STAR, NEWLINE, ZERO = 45, 42, 10, 48
ROW, DONE, FAILED = 68, 90, 69  # PostgreSQL's DataRow, ReadyForQuery, ErrorResponse
COUNT_AT = 30  # of an iproto reply: behind size, header and the body's key
ARRAY_HEADER = 0xDD
NIL = 0xC0


@kernel
def write_calls(
    frames: Any,
    starts: Any,
    hole_at: Any,
    hole_from: Any,
    results: Any,
    due_ns: Any,
    state: Any,
    out: Any,
    count: int,
    first_due_ns: int,
    gap_ns: int,
    digits: bool,
) -> int:
    """Copy the next `count` calls to `out`, as far as there is room; return the bytes written.

    Holes are filled with earlier results: in decimal digits, or as eight bytes, highest first.
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
        if hole_at[slot] >= 0:
            value = results[hole_from[slot]]
            at = size + hole_at[slot] - start
            if digits:
                for i in range(HOLE_DIGITS):
                    out[at + HOLE_DIGITS - 1 - i] = ZERO + value % 10
                    value //= 10
            else:
                for i in range(HOLE_BYTES):
                    out[at + i] = (value >> (56 - 8 * i)) & 255
        results[slot] = 0
        due_ns[slot] = first_due_ns + number * gap_ns
        state[SENT] = number + 1
        size += stop - start
    return size


@kernel
def count_reply(
    ok: bool,
    value: int,
    position: int,
    refused: int,
    operation: Any,
    watched: Any,
    results: Any,
    due_ns: Any,
    state: Any,
    counts: Any,
    latencies: Any,
    refusals: Any,
    now_ns: int,
    count_from_ns: int,
    count_until_ns: int,
) -> int:
    """Count the next reply. Returns how many refusals are listed now."""
    slot = state[ANSWERED] % len(operation)
    state[ANSWERED] += 1
    row = -1
    due = due_ns[slot]
    if count_from_ns <= due < count_until_ns:
        row = operation[slot]
        counts[row, CALLS] += 1
        counts[row, RESULTS if ok else REJECTED] += 1
        latencies[row, bin_of(now_ns - due)] += 1
    if ok:
        if watched[slot]:
            results[slot] = value
        return refused
    refusals[refused, 0] = position
    refusals[refused, 1] = row
    return refused + 1


@kernel
def line_end(data: Any, position: int, have: int) -> int:
    """Where the next line begins, or -1."""
    for at in range(position, have):
        if data[at] == NEWLINE:
            return at + 1
    return -1


@kernel
def number_in(data: Any, position: int) -> int:
    """The decimal int behind the type byte at `position`, of digits alone."""
    value, at = 0, position + 1
    while 48 <= data[at] <= 57:
        value = value * 10 + int(data[at]) - ZERO
        at += 1
    return value


@kernel
def take_resp(
    data: Any,
    have: int,
    operation: Any,
    watched: Any,
    results: Any,
    due_ns: Any,
    state: Any,
    counts: Any,
    latencies: Any,
    refusals: Any,
    now_ns: int,
    count_from_ns: int,
    count_until_ns: int,
) -> int:
    """RESP: a line, or `*n` and n lines; no texts with lengths. The bytes used."""
    position = refused = 0
    while refused < len(refusals):
        end = line_end(data, position, have)
        if end < 0:
            break
        ok = data[position] != MINUS
        first = position
        if data[position] == STAR:
            first = end
            for _ in range(number_in(data, position)):
                end = line_end(data, end, have) if end >= 0 else -1
            if end < 0:
                break
        value = number_in(data, first)
        refused = count_reply(
            ok, value, position, refused, operation, watched, results, due_ns, state, counts,
            latencies, refusals, now_ns, count_from_ns, count_until_ns,
        )  # fmt: skip
        position = end
    state[REFUSED] = refused
    return position


@kernel
def read_big(data: Any, at: int, size: int) -> int:
    value = 0
    for i in range(size):
        value = (value << 8) | int(data[at + i])
    return value


@kernel
def take_postgres(
    data: Any,
    have: int,
    operation: Any,
    watched: Any,
    results: Any,
    due_ns: Any,
    state: Any,
    counts: Any,
    latencies: Any,
    refusals: Any,
    now_ns: int,
    count_from_ns: int,
    count_until_ns: int,
) -> int:
    """PostgreSQL: messages up to ReadyForQuery are one reply, whose row begins with an int8."""
    start = position = refused = 0
    ok, value, failed_at = True, 0, 0
    while have - position >= 5 and refused < len(refusals):
        size = 1 + read_big(data, position + 1, 4)
        if have - position < size:
            break
        if data[position] == ROW and size >= 19:
            value = read_big(data, position + 11, 8)
        elif data[position] == FAILED:
            ok, failed_at = False, position
        elif data[position] == DONE:
            refused = count_reply(
                ok, value, failed_at, refused, operation, watched, results, due_ns, state, counts,
                latencies, refusals, now_ns, count_from_ns, count_until_ns,
            )  # fmt: skip
            ok, value = True, 0
            start = position + size
        position += size
    state[REFUSED] = refused
    return start


@kernel
def take_iproto(
    data: Any,
    have: int,
    operation: Any,
    watched: Any,
    results: Any,
    due_ns: Any,
    state: Any,
    counts: Any,
    latencies: Any,
    refusals: Any,
    now_ns: int,
    count_from_ns: int,
    count_until_ns: int,
) -> int:
    """Tarantool: replies with a size of five bytes. A nil as the first value is a refusal."""
    position = refused = 0
    while have - position >= 5 and refused < len(refusals):
        size = 5 + read_big(data, position + 1, 4)
        if have - position < size:
            break
        ok = data[position + 7] == 0xCE and read_big(data, position + 8, 4) == 0
        at = position + COUNT_AT
        value = 0
        if ok and data[at] == ARRAY_HEADER:
            ok = data[at + 5] != NIL
            value = read_int(data, at + 5, position + size)
        refused = count_reply(
            ok, value, position, refused, operation, watched, results, due_ns, state, counts,
            latencies, refusals, now_ns, count_from_ns, count_until_ns,
        )  # fmt: skip
        position += size
    state[REFUSED] = refused
    return position
