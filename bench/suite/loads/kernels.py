"""What `diptych.loadtest.kernels` needs for protocols whose replies come in order of the calls.

The arrays are those, `shared` with a few more words: what protocol is spoken, and what the reply
that was found last says. A reply is a result or a refusal; of a result only its first int matters,
and only where a later call needs it.
"""

from __future__ import annotations

from typing import Any

from diptych.kernel import kernel
from diptych.loadtest import kernels as loops
from diptych.loadtest.kernels import (
    ANSWERED,
    ASKED,
    CALLS,
    COUNT_FROM_NS,
    COUNT_UNTIL_NS,
    FIRST,
    FIRST_DUE_NS,
    GAP_NS,
    HAVE,
    REFUSALS,
    REFUSED_BYTES,
    REJECTED,
    REJECTED_KIND,
    RESULTS,
    SENT,
    SHARED_WORDS,
    WINDOW,
    read_int,
    spoken,
)
from diptych.loadtest.latency import bin_of

# More words of `shared`.
PROTOCOL = SHARED_WORDS
OK = SHARED_WORDS + 1
VALUE = SHARED_WORDS + 2
SAID = SHARED_WORDS + 3  # where what it says begins
WORDS = SHARED_WORDS + 4

RESP, POSTGRES, IPROTO = 0, 1, 2

HOLE_BYTES = 8  # a hole for a number, highest byte first
HOLE_DIGITS = 12  # and in RESP, as text
DOLLAR, MINUS, STAR, NEWLINE, ZERO = 36, 45, 42, 10, 48
ROW, DONE, FAILED = 68, 90, 69  # PostgreSQL's DataRow, ReadyForQuery, ErrorResponse
COUNT_AT = 30  # of an iproto reply: behind size, header and the body's key
ARRAY_HEADER = 0xDD
NIL = 0xC0


@kernel
def write_calls(
    row: Any,
    shared: Any,
    frames: Any,
    starts: Any,
    holes: Any,
    results: Any,
    due_ns: Any,
    out: Any,
    count: int,
    now_ns: int,
) -> int:
    """Copy the next `count` calls to `out`, as far as there is room; return the bytes written."""
    first, length, gap_ns = row[FIRST], row[CALLS], row[GAP_NS]
    size = 0
    for _ in range(count):
        number = row[SENT]
        slot = first + number % length
        start, stop = starts[slot], starts[slot + 1]
        if size + stop - start > len(out):
            break
        for i in range(stop - start):
            out[size + i] = frames[start + i]
        if holes[slot, 0] >= 0:
            value = results[holes[slot, 1]]
            at = size + holes[slot, 0] - start
            if shared[PROTOCOL] == RESP:
                for i in range(HOLE_DIGITS):
                    out[at + HOLE_DIGITS - 1 - i] = ZERO + value % 10
                    value //= 10
            else:
                for i in range(HOLE_BYTES):
                    out[at + i] = (value >> (56 - 8 * i)) & 255
        results[slot] = 0
        due_ns[slot] = row[FIRST_DUE_NS] + number * gap_ns if gap_ns else now_ns
        row[SENT] = number + 1
        size += stop - start
    return size


@kernel
def read_big(data: Any, at: int, size: int) -> int:
    value = 0
    for i in range(size):
        value = (value << 8) | int(data[at + i])
    return value


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
    while ZERO <= data[at] <= ZERO + 9:
        value = value * 10 + int(data[at]) - ZERO
        at += 1
    return value


@kernel
def find_resp(shared: Any, data: Any, position: int, have: int) -> int:
    """RESP: a line, a text with its length, or `*n` and n lines. Where it ends, or -1."""
    end = line_end(data, position, have)
    if end < 0:
        return -1
    first = position
    if data[position] == DOLLAR:
        if data[position + 1] != MINUS:  # -1: there is none
            end += number_in(data, position) + 2
        if end > have:
            return -1
    if data[position] == STAR:
        first = end
        for _ in range(number_in(data, position)):
            end = line_end(data, end, have)
            if end < 0:
                return -1
    shared[OK] = data[position] != MINUS
    shared[VALUE] = number_in(data, first)
    shared[SAID] = position
    return end


@kernel
def find_postgres(shared: Any, data: Any, position: int, have: int) -> int:
    """PostgreSQL: messages up to ReadyForQuery, of which a row begins with an int8."""
    shared[OK], shared[VALUE], shared[SAID] = 1, 0, position
    while have - position >= 5:
        size = 1 + read_big(data, position + 1, 4)
        if have - position < size:
            return -1
        if data[position] == ROW and size >= 19:
            shared[VALUE] = read_big(data, position + 11, 8)
        elif data[position] == FAILED:
            shared[OK], shared[SAID] = 0, position
        elif data[position] == DONE:
            return position + size
        position += size
    return -1


@kernel
def find_iproto(shared: Any, data: Any, position: int, have: int) -> int:
    """Tarantool: a size of five bytes leads. A nil as the first value is a refusal."""
    if have - position < 5:
        return -1
    end = position + 5 + read_big(data, position + 1, 4)
    if have < end:
        return -1
    at = position + COUNT_AT
    shared[OK] = data[position + 7] == 0xCE and read_big(data, position + 8, 4) == 0
    shared[VALUE], shared[SAID] = 0, position
    if shared[OK] and data[at] == ARRAY_HEADER:
        shared[OK] = data[at + 5] != NIL
        shared[VALUE] = read_int(data, at + 5, end)
    return end


@kernel
def find(shared: Any, data: Any, position: int, have: int) -> int:
    """Where the reply that begins here ends, -1 when it is not whole; what it says in `shared`."""
    if shared[PROTOCOL] == RESP:
        return find_resp(shared, data, position, have)
    if shared[PROTOCOL] == POSTGRES:
        return find_postgres(shared, data, position, have)
    return find_iproto(shared, data, position, have)


@kernel
def replies_most(row: Any, data: Any) -> int:
    """Only what was asked for is answered."""
    return row[WINDOW]  # type: ignore[no-any-return]


@kernel
def take_replies(
    row: Any,
    shared: Any,
    data: Any,
    watched: Any,
    results: Any,
    due_ns: Any,
    counts: Any,
    latencies: Any,
    refusals: Any,
    refused: Any,
    now_ns: int,
) -> None:
    """Take every whole reply in the input."""
    have = row[HAVE]
    position = 0
    while row[ANSWERED] < row[SENT]:
        end = find(shared, data, position, have)
        if end < 0:
            break
        slot = row[FIRST] + row[ANSWERED] % row[CALLS]
        row[ANSWERED] += 1
        operation = -1
        due = due_ns[slot]
        if shared[COUNT_FROM_NS] <= due < shared[COUNT_UNTIL_NS]:
            operation = watched[slot, 0]
            counts[operation, ASKED] += 1
            counts[operation, RESULTS if shared[OK] else REJECTED] += 1
            latencies[operation, bin_of(now_ns - due)] += 1
        if shared[OK]:
            if watched[slot, 1]:
                results[slot] = shared[VALUE]
        else:
            start, at, listed = shared[SAID], shared[REFUSED_BYTES], shared[REFUSALS]
            refusals[listed, 0] = operation
            refusals[listed, 1] = REJECTED_KIND
            refusals[listed, 2] = at
            refusals[listed, 3] = at + end - start
            for i in range(end - start):
                refused[at + i] = data[start + i]
            shared[REFUSALS] += 1
            shared[REFUSED_BYTES] += end - start
        position = end
    rest = have - position
    if position:
        for i in range(rest):
            data[i] = data[position + i]
    row[HAVE] = rest


# Over the kernels above.
offer = spoken(loops.offer, globals())
serve = spoken(loops.serve, globals())
offer_all = spoken(loops.offer_all, globals())
