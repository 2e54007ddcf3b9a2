"""Frames in bulk: whole reads are split, classified, stamped and regrouped by Numba kernels.

A frame costs nanoseconds here and would cost most of a microsecond in Python, so nothing that is
done per frame on the way of a transaction happens outside this module. `FrameBuffer` is the buffer
that sockets read into; its `split()` finds the whole frames, and the kernels work on what it found.
Kernels take the buffer as an array of bytes and positions as int64; they trust positions that came
from `split_frames` and check nothing again.

Knows the header's layout and the kinds; knows no sockets and no policy.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from diptych.engine.framing import byte_at, half_at, split_frames
from diptych.kernel import entry_kernel, kernel
from diptych_client.protocol import HEADER_BYTES, Kind

Bytes: TypeAlias = npt.NDArray[np.uint8]
Words: TypeAlias = npt.NDArray[np.int64]

# Numba compiles plain ints in as constants.
_TRANSACTION = int(Kind.TRANSACTION)
_QUERY = int(Kind.QUERY)
_INFO = int(Kind.INFO)
_PING = int(Kind.PING)
_KEYED = int(Kind.KEYED)
_ADMIN = int(Kind.ADMIN)
_RESULT = int(Kind.RESULT)
_REJECTED = int(Kind.REJECTED)
_ERROR = int(Kind.ERROR)
_HEADER = HEADER_BYTES
_KIND_AT = 4
_FLAGS_AT = 5
_OPERATION_AT = 6
_REQUEST_AT = 8
_SEQUENCE_AT = 16
_CONTEXT_AT = 24

# What `classify` calls a frame that can't be passed on; others are called by their kind, and one
# with a key is called a transaction.
UNKNOWN_OPERATION = -1
QUICK_QUERY = 96  # compiled: travels with others (see `bundles`); of operations, too
PROMPT_QUERY = 97  # compiled: answered by the gateway (see `prompt`); of operations, too
WRONG_KIND = -2  # a query sent as a transaction or the other way round
MEANINGLESS = -3  # no kind that a client may send now, or flags: the connection ends

# Columns of a run from `classify`.
RUN_COLUMNS = 3  # class, first frame, frames
# Columns of a run from `group_replies`.
REPLY_COLUMNS = 4  # connection (0: one of our own frames), first byte, byte after, frames
# What `group_replies` counts up.
SUMMARY = 4  # highest sequence number seen, results, rejections, errors


@kernel
def word_at(buffer: Bytes, position: int) -> int:
    """Eight bytes, little-endian, as a signed integer (the bits are what matters)."""
    value = 0
    for i in range(8):
        value |= byte_at(buffer, position + i) << (8 * i)
    return value


@kernel
def put_word(buffer: Bytes, position: int, value: int) -> None:
    for i in range(8):
        buffer[position + i] = (value >> (8 * i)) & 255


@kernel
def operation_at(buffer: Bytes, position: int) -> int:
    """The operation's number of the frame at `position`."""
    low = byte_at(buffer, position + _OPERATION_AT)
    value: int = low | byte_at(buffer, position + _OPERATION_AT + 1) << 8
    return value


@kernel
def class_of(buffer: Bytes, at: int, operations: Bytes) -> int:
    """What the frame at `at` is: its kind, or why it can't be passed on."""
    kind: int = byte_at(buffer, at + _KIND_AT)
    if buffer[at + _FLAGS_AT] != 0:
        return MEANINGLESS
    if kind == _KEYED:
        kind = _TRANSACTION
    if kind in (_TRANSACTION, _QUERY):
        number = operation_at(buffer, at)
        if number >= len(operations) or operations[number] == 0:
            return UNKNOWN_OPERATION
        if operations[number] in (QUICK_QUERY, PROMPT_QUERY):
            return int(operations[number]) if kind == _QUERY else WRONG_KIND
        return kind if operations[number] == kind else WRONG_KIND
    return kind if kind in (_INFO, _PING, _ADMIN) else MEANINGLESS


@kernel
def classify(buffer: Bytes, starts: Words, count: int, operations: Bytes, runs: Words) -> int:
    """Group a client's frames into runs of one class; returns the number of runs.

    `operations[number]` is the kind an operation has, QUICK_QUERY or PROMPT_QUERY, and 0 where
    there is none. Stops after the first MEANINGLESS frame.
    """
    found = 0
    last = 0
    for i in range(count):
        group = class_of(buffer, starts[i], operations)
        if found > 0 and group == last:
            runs[found - 1, 2] += 1
        else:
            runs[found, 0] = group
            runs[found, 1] = i
            runs[found, 2] = 1
            found += 1
            last = group
        if group == MEANINGLESS:
            break
    return found


@entry_kernel
def stamp(
    buffer: Bytes,
    at: int,
    stop: int,
    frame_bytes_max: int,
    operations: Bytes,
    session: int,
    connection: int,
    count_max: int,
    told: Words,
) -> int:
    """Write into the transactions that buffer[at:stop] begins with, `count_max` at the most, whose
    they are and which connection they came from: where the first frame is that is none, or not
    whole. told[0]: how many they are.
    """
    count = 0
    while count < count_max and stop - at >= _HEADER:
        length = half_at(buffer, at)
        if length > frame_bytes_max or length > stop - at - _HEADER:
            break
        if class_of(buffer, at, operations) != _TRANSACTION:
            break
        put_word(buffer, at + _SEQUENCE_AT, session)
        put_word(buffer, at + _CONTEXT_AT, connection)
        at += _HEADER + length
        count += 1
    told[0] = count
    return at


@kernel
def group_replies(buffer: Bytes, starts: Words, count: int, runs: Words, summary: Words) -> int:
    """Group the writer's frames into runs to one connection; returns the number of runs.

    The connection's number is taken out of the frames, since a client reads an age there. The
    kinds are counted up in `summary`. Our own frames (context 0) are runs of one each.
    """
    found = 0
    for i in range(count):
        at = starts[i]
        connection = word_at(buffer, at + _CONTEXT_AT)
        if connection != 0:
            put_word(buffer, at + _CONTEXT_AT, 0)
            summary[0] = max(summary[0], word_at(buffer, at + _SEQUENCE_AT))
            kind = buffer[at + _KIND_AT]
            summary[1] += kind == _RESULT
            summary[2] += kind == _REJECTED
            summary[3] += kind == _ERROR
            if found > 0 and runs[found - 1, 0] == connection:
                runs[found - 1, 2] = starts[i + 1]
                runs[found - 1, 3] += 1
                continue
        runs[found, 0] = connection
        runs[found, 1] = at
        runs[found, 2] = starts[i + 1]
        runs[found, 3] = 1
        found += 1
    return found


@kernel
def transactions_from(buffer: Bytes, starts: Words, first: int, count: int) -> int:
    """How many frames from number `first` on are transactions, with or without keys, in a row."""
    i = first
    while i < count:
        kind = buffer[starts[i] + _KIND_AT]
        if kind not in (_TRANSACTION, _KEYED):
            break
        i += 1
    return i - first


class FrameBuffer:
    """What a socket reads into, and the frames in it.

    Read into `space()`, say how much came with `added()`, then `split()`; work on `array`, `view`,
    `starts`; then `consume()` drops the frames and keeps the rest. It grows when a frame does not
    fit, up to one frame of `payload_bytes_max`, and goes back to `size_bytes` afterwards.
    """

    __slots__ = ("array", "count", "end", "payload_bytes_max", "size_bytes", "starts", "view")

    def __init__(self, size_bytes: int, payload_bytes_max: int) -> None:
        self.size_bytes = size_bytes
        self.payload_bytes_max = payload_bytes_max
        self.end = 0
        self.count = 0
        self._allocate(size_bytes, b"")

    @classmethod
    def holding(cls, data: bytes) -> FrameBuffer:
        """A buffer of just these whole frames, split."""
        buffer = cls(len(data), len(data))
        buffer.view[:] = data
        buffer.end = len(data)
        buffer.split()
        return buffer

    def _allocate(self, size_bytes: int, content: bytes | memoryview) -> None:
        data = bytearray(size_bytes)
        data[: len(content)] = content
        self.view = memoryview(data)
        self.array: Bytes = np.frombuffer(data, np.uint8)
        self.starts: Words = np.zeros(size_bytes // HEADER_BYTES + 2, np.int64)

    def space(self) -> memoryview:
        """Room for the next read: at least one byte."""
        return self.view[self.end :]

    def added(self, count: int) -> None:
        self.end += count

    def split(self) -> int:
        """How many whole frames there are; -1 - that number when one above the limit follows."""
        self.count = split_frames(self.array, self.end, self.payload_bytes_max, self.starts)
        return self.count

    def frame(self, number: int) -> memoryview:
        """One whole frame; valid until `consume()`."""
        return self.view[self.starts[number] : self.starts[number + 1]]

    def consume(self) -> None:
        """Forget the frames of the last `split()`, which were all that fit."""
        if self.count < 0:
            return
        start = int(self.starts[self.count])
        rest = self.end - start
        if rest:
            needed = self._rest_needs(start, rest)
            if needed > len(self.view) or (len(self.view) > self.size_bytes >= needed):
                self._allocate(max(needed, self.size_bytes), self.view[start : self.end])
            elif start:
                self.view[:rest] = self.view[start : self.end]
        elif len(self.view) > self.size_bytes:
            self._allocate(self.size_bytes, b"")
        self.end = rest

    def drop(self, count: int) -> None:
        """Forget the first `count` bytes, frames or not."""
        self.end -= count
        if self.end:
            self.view[: self.end] = self.view[count : count + self.end]
        elif len(self.view) > self.size_bytes:
            self._allocate(self.size_bytes, b"")

    def _rest_needs(self, start: int, rest: int) -> int:
        """Bytes the buffer must hold for the frame that has begun, as far as one can know.

        A header alone does not get all that it announces: memory follows what really came.
        """
        if rest < HEADER_BYTES:
            return HEADER_BYTES
        whole = HEADER_BYTES + int.from_bytes(self.view[start : start + 4], "little")
        return min(whole, max(2 * rest, self.size_bytes))


def warm() -> None:
    """Compile every kernel, or load it from the cache, before it is needed."""
    buffer = np.zeros(2 * HEADER_BYTES, np.uint8)
    starts = np.zeros(4, np.int64)
    table = np.zeros((4, 4), np.int64)
    count = split_frames(buffer, len(buffer), 0, starts)
    classify(buffer, starts, count, np.zeros(1, np.uint8), table)
    stamp(buffer, 0, 0, 0, buffer, 0, 1, 0, starts)
    group_replies(buffer, starts, count, table, np.zeros(SUMMARY, np.int64))
    transactions_from(buffer, starts, 0, count)
