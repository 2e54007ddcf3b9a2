"""What runs for every call of a load test: copying calls out, sending, receiving, taking replies.

All connections of one kind lie in a few arrays: `rows` has one of them each (words below), frames
of all their cycles stand one after the other. Called once a wakeup with everything that is ready.
Nothing is decoded here but the int that a later call waits for; refusals are copied to `refused`,
to be looked at afterwards.

`offer`, `serve` and `offer_all` know no protocol: that is for `write_calls`, `replies_most` and
`take_replies`. A load on servers that speak another one has those of its own, see `spoken`.
"""

from __future__ import annotations

from types import FunctionType
from typing import Any

from diptych.kernel import kernel
from diptych.loadtest.latency import bin_of
from diptych.serving.system_calls import AGAIN, monotonic_ns, receive, send_some
from diptych_client.protocol import HEADER_BYTES, Kind

# Words of a connection's row.
FD = 0
FIRST = 1  # its cycle's first frame among those of all
CALLS = 2  # frames of its cycle
WINDOW = 3
GAP_NS = 4  # of its timetable; 0: a call is due when there is room for it
FIRST_DUE_NS = 5
SENT = 6  # calls copied out so far; also the request number of the last one
ANSWERED = 7
HAVE = 8  # bytes received that are no whole reply yet
UNSENT = 9  # bytes written that the socket has not taken: from here
UNSENT_STOP = 10  # to here
LOST = 11  # the server closed it; what was in flight stays unanswered
NEEDED_BYTES = 12  # size of a reply that does not fit in the input, 0 when all do
ROW_WORDS = 13

# Words shared by all connections.
SEQUENCE = 0  # the highest that any reply to a transaction showed
HISTORY = 1
FRESH = 2  # queries ask for an image that shows every transaction answered so far
COUNT_FROM_NS = 3  # only calls due from here
COUNT_UNTIL_NS = 4  # to here are counted, and none is sent from here on
REFUSALS = 5  # rows of `refusals` filled
REFUSED_BYTES = 6  # and of `refused`
ATTENTION = 7  # a connection was lost, is blocked or unblocked, or needs a larger input
ROUND_NS = 8  # a timetable is looked at so often; what came due since is sent together
SHARED_WORDS = 9

# columns of the table of counts; one row an operation
ASKED, RESULTS, REJECTED, ERRORS = 0, 1, 2, 3
COUNTS = 4

# columns of `refusals`: operation's row or -1 when not counted, kind, where its payload is
REFUSAL_COLUMNS = 4

RESULT_KIND = int(Kind.RESULT)
REJECTED_KIND = int(Kind.REJECTED)
WRITABLE = 4  # EPOLLOUT


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
    """Copy the next `count` calls to `out`, as far as there is room; return the bytes written.

    A call is due on its timetable, or now. A column of `holes` is where in `frames` a result
    belongs (-1: nowhere), the other one which call's.
    """
    first, length, gap_ns = row[FIRST], row[CALLS], row[GAP_NS]
    fresh = shared[FRESH] != 0 and shared[SEQUENCE] > 0
    size = 0
    for _ in range(count):
        number = row[SENT]
        slot = first + number % length
        start, stop = starts[slot], starts[slot + 1]
        if size + stop - start > len(out):
            break
        for i in range(stop - start):
            out[size + i] = frames[start + i]
        write_little(out, size + 8, number + 1, 8)
        if fresh:
            write_little(out, size + 16, shared[SEQUENCE], 8)
            write_little(out, size + 24, shared[HISTORY], 8)
        if holes[slot, 0] >= 0:
            value = results[holes[slot, 1]]
            at = size + holes[slot, 0] - start
            for i in range(8):
                out[at + i] = (value >> (56 - 8 * i)) & 255
        results[slot] = 0
        due_ns[slot] = row[FIRST_DUE_NS] + number * gap_ns if gap_ns else now_ns
        row[SENT] = number + 1
        size += stop - start
    return size


@kernel
def flush(row: Any, shared: Any, out: Any) -> None:
    """Send what is written, as far as the socket takes it."""
    while row[UNSENT] < row[UNSENT_STOP]:
        rest = row[UNSENT_STOP] - row[UNSENT]
        sent = send_some(row[FD], out.ctypes.data + row[UNSENT], rest)
        if sent < 0:
            if sent != AGAIN:
                lose(row)
            shared[ATTENTION] = 1
            return
        row[UNSENT] += sent


@kernel
def lose(row: Any) -> None:
    row[LOST] = 1
    row[UNSENT] = row[UNSENT_STOP] = 0


@kernel
def offer(
    row: Any,
    shared: Any,
    frames: Any,
    starts: Any,
    holes: Any,
    results: Any,
    due_ns: Any,
    out: Any,
    now_ns: int,
) -> None:
    """Send what is due and fits in the window."""
    if row[LOST] or row[UNSENT] < row[UNSENT_STOP] or now_ns >= shared[COUNT_UNTIL_NS]:
        return
    count = row[WINDOW] - (row[SENT] - row[ANSWERED])
    if row[GAP_NS]:
        round_ns = now_ns - now_ns % shared[ROUND_NS]
        due = max(0, (round_ns - row[FIRST_DUE_NS]) // row[GAP_NS] + 1)
        count = min(count, due - row[SENT])
    if count > 0:
        row[UNSENT] = 0
        row[UNSENT_STOP] = write_calls(
            row, shared, frames, starts, holes, results, due_ns, out, count, now_ns
        )
        flush(row, shared, out)


@kernel
def replies_most(row: Any, data: Any) -> int:
    """So many replies an input holds at the most, also ones that nobody asked for."""
    return len(data) // HEADER_BYTES


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
    """Take every whole reply in the input.

    Refusals are all that is no result: rejected, errors and what nobody asked for.
    """
    first, length, have = row[FIRST], row[CALLS], row[HAVE]
    position = 0
    row[NEEDED_BYTES] = 0
    while have - position >= HEADER_BYTES:
        size = HEADER_BYTES + read_little(data, position, 4)
        if have - position < size:
            if size > len(data):
                row[NEEDED_BYTES] = size
                shared[ATTENTION] = 1
            break
        kind = int(data[position + 4])
        request = read_little(data, position + 8, 8)
        operation = -1
        known = 0 < request <= row[SENT]
        if known:
            slot = first + (request - 1) % length
            row[ANSWERED] += 1
            due = due_ns[slot]
            if shared[COUNT_FROM_NS] <= due < shared[COUNT_UNTIL_NS]:
                operation = watched[slot, 0]
                counts[operation, ASKED] += 1
                latencies[operation, bin_of(now_ns - due)] += 1
            if kind == RESULT_KIND:
                if operation >= 0:
                    counts[operation, RESULTS] += 1
                if watched[slot, 1]:
                    results[slot] = read_int(data, position + HEADER_BYTES, position + size)
            sequence = read_little(data, position + 16, 8)
            if sequence > shared[SEQUENCE]:
                shared[SEQUENCE] = sequence
        if kind != RESULT_KIND or not known:
            if operation >= 0:
                counts[operation, REJECTED if kind == REJECTED_KIND else ERRORS] += 1
            start, at = position + HEADER_BYTES, shared[REFUSED_BYTES]
            listed = shared[REFUSALS]
            refusals[listed, 0] = operation
            refusals[listed, 1] = kind
            refusals[listed, 2] = at
            refusals[listed, 3] = at + size - HEADER_BYTES
            for i in range(size - HEADER_BYTES):
                refused[at + i] = data[start + i]
            shared[REFUSALS] += 1
            shared[REFUSED_BYTES] += size - HEADER_BYTES
        position += size
    rest = have - position
    if position:
        for i in range(rest):
            data[i] = data[position + i]
    row[HAVE] = rest


@kernel
def serve(
    found: Any,
    begin: int,
    count: int,
    row_of: Any,
    rows: Any,
    inputs: Any,
    outputs: Any,
    shared: Any,
    frames: Any,
    starts: Any,
    holes: Any,
    watched: Any,
    results: Any,
    due_ns: Any,
    counts: Any,
    latencies: Any,
    refusals: Any,
    refused: Any,
    clock: Any,
) -> int:
    """Take replies of connections that are ready, and send their next calls.

    `found` has descriptor and events in rows `begin` to `count`; returns where it stopped, since
    refusals must be looked at first.
    """
    for i in range(begin, count):
        fd = found[i, 0]
        number = row_of[fd] if fd < len(row_of) else -1
        if number < 0:
            continue
        row, data, out = rows[number], inputs[number], outputs[number]
        room_bytes, room = len(refused) - shared[REFUSED_BYTES], len(refusals) - shared[REFUSALS]
        if room_bytes < len(data) or room < replies_most(row, data):
            return i
        if found[i, 1] & WRITABLE:
            shared[ATTENTION] = 1
            flush(row, shared, out)
        now_ns = monotonic_ns(clock)
        if found[i, 1] & ~WRITABLE and not row[LOST]:
            have = row[HAVE]
            came = receive(row[FD], data.ctypes.data + have, len(data) - have)
            if came > 0:
                row[HAVE] += came
                take_replies(
                    row,
                    shared,
                    data,
                    watched,
                    results,
                    due_ns,
                    counts,
                    latencies,
                    refusals,
                    refused,
                    now_ns,
                )
            elif came != AGAIN:
                lose(row)
                shared[ATTENTION] = 1
        offer(row, shared, frames, starts, holes, results, due_ns, out, now_ns)
    return count


@kernel
def offer_all(
    rows: Any,
    outputs: Any,
    shared: Any,
    frames: Any,
    starts: Any,
    holes: Any,
    results: Any,
    due_ns: Any,
    now_ns: int,
) -> None:
    """Send what is due on every connection."""
    for number in range(len(rows)):
        offer(
            rows[number],
            shared,
            frames,
            starts,
            holes,
            results,
            due_ns,
            outputs[number],
            now_ns,
        )


def spoken(loop: Any, protocol: dict[str, Any]) -> Any:
    """`loop`, one of this module's kernels, over what another module's globals have in its place.

    It counts as that module's own, so that what is kept of it on disk is not taken for this one's.
    """
    function = getattr(loop, "py_func", loop)
    code = function.__code__.replace(co_filename=protocol["__file__"])
    made = FunctionType(code, function.__globals__ | protocol, function.__name__)
    made.__annotations__ = function.__annotations__
    return kernel(made)
