"""The wire format: what both ends write before, around and between payloads.

Knows: the preamble, the 32-byte frame header, the kinds of frames, the limits that hold before a
WELCOME names its own, how one frame is encoded, and how a stream of bytes is split into frames.
Does not know: what payloads mean, operations, sockets, time. docs/protocol.md describes the same
things byte by byte for writers of other clients; a test holds the two together.

Used by the clients and by the server. A splitter never hands out part of a frame and never accepts
one above its limit: it raises ProtocolError, after which the stream has no meaning any more and the
connection must be closed.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import NamedTuple, TypeAlias

from diptych_client.errors import ProtocolError

VERSION = 1
PREAMBLE = b"DIPTYCH" + bytes([VERSION])
"""The first bytes in each direction, before any frame."""

HEADER = Struct("<IBBHQQQ")
"""length, kind, flags, operation, request, sequence, context; the payload follows."""
HEADER_BYTES = 32
assert HEADER.size == HEADER_BYTES

DEFAULT_PORT = 7171
FRAME_BYTES_DEFAULT = 1 << 20
"""Payload of one request, unless WELCOME says otherwise."""
RESULT_BYTES_DEFAULT = 16 << 20
"""Payload of one result, unless WELCOME says otherwise."""
HELLO_BYTES_MAX = 64 << 10
"""Payload of HELLO: what a server reads from somebody it does not know yet."""
WELCOME_BYTES_MAX = 16 << 20
"""Payload of WELCOME (or of the ERROR in its place): what a client reads before it knows limits."""
SESSION_MIN = 1 << 20
"""WELCOME's sessions from here on outlive the connection; smaller numbers remember nothing."""
IDENTITY_BYTES = 16
"""HELLO's identity."""
REQUEST_WINDOW = 1024
"""A number this much below its session's largest, or more, is not remembered any more."""
FIRST_OTHER_REQUEST = 1 << 63
"""Requests that are no transactions are numbered from here on, transactions from 1."""
READ_BYTES = 256 << 10
"""Room for one read from a socket; a larger frame gets a larger buffer while it lasts."""

Frame: TypeAlias = tuple[int, int, int, int, int, bytes]
"""kind, operation, request, sequence, context, payload: unpacked at once by who receives it, so
that a name for each (and the time a named tuple takes) would buy little."""


class Kind(IntEnum):
    """What a frame is. Below 16 from client to server, from 16 on from server to client."""

    HELLO = 1
    TRANSACTION = 2
    QUERY = 3
    INFO = 4
    PING = 5
    KEYED = 6  # a transaction with a key of the caller's own in front of its arguments
    ADMIN = 7
    WELCOME = 16
    RESULT = 17
    REJECTED = 18
    ERROR = 19
    PONG = 20
    CLOSING = 21


class Header(NamedTuple):
    """A frame's header with names. `length` counts the payload's bytes, not the header's."""

    length: int
    kind: int
    flags: int
    operation: int
    request: int
    sequence: int
    context: int

    @classmethod
    def read(cls, data: bytes | bytearray | memoryview, offset: int = 0) -> Header:
        return cls._make(HEADER.unpack_from(data, offset))

    def encoded(self) -> bytes:
        return HEADER.pack(*self)


def encode_frame(
    kind: int,
    payload: bytes = b"",
    *,
    operation: int = 0,
    request: int = 0,
    sequence: int = 0,
    context: int = 0,
) -> bytes:
    """One whole frame. Raises struct.error when a number does not fit its field."""
    return HEADER.pack(len(payload), kind, 0, operation, request, sequence, context) + payload


class FrameSplitter:
    """Turns a stream of bytes into whole frames, a whole read at a time.

    Read into `buffer()` and say how much arrived with `received()`, or hand bytes to `feed()`.
    `preamble` says whether the stream starts with PREAMBLE (a refused one raises as soon as its
    first wrong byte is seen). `payload_bytes_max` may be changed between reads.
    """

    __slots__ = ("_awaits_preamble", "_buffer", "_end", "_needed", "payload_bytes_max")

    def __init__(self, payload_bytes_max: int, *, preamble: bool = True) -> None:
        self.payload_bytes_max = payload_bytes_max
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._end = 0
        self._awaits_preamble = preamble
        # Bytes the buffer must hold before it is worth looking again.
        self._needed = 1 if preamble else HEADER_BYTES

    @property
    def leftover_bytes(self) -> int:
        """Bytes received that are not a whole frame yet; not zero at a stream's end: truncated."""
        return self._end

    def buffer(self) -> memoryview:
        """Writable room of at least one byte; valid until the next call of any method."""
        if self._end == len(self._buffer) or self._needed > len(self._buffer):
            self._grow(max(self._needed, 2 * self._end))
        return self._buffer[self._end :]

    def feed(self, data: bytes) -> list[Frame]:
        """The same as reading `data` into the buffer."""
        frames: list[Frame] = []
        for start in range(0, len(data), READ_BYTES):
            piece = data[start : start + READ_BYTES]
            while len(self._buffer) - self._end < len(piece):
                self._grow(2 * len(self._buffer))
            self._buffer[self._end : self._end + len(piece)] = piece
            frames += self.received(len(piece))
        return frames

    def received(self, count: int) -> list[Frame]:
        """The frames that are whole now that `count` more bytes are in the buffer."""
        end = self._end = self._end + count
        if end < self._needed:
            return []
        start = 0
        if self._awaits_preamble:
            start = self._check_preamble()
            if start == 0:
                return []
        # One copy of the read; slices of bytes are cheaper than slices of a memoryview, and may
        # be kept by whoever gets them.
        data = bytes(self._buffer[:end])
        frames: list[Frame] = []
        unpack_from = HEADER.unpack_from
        needed = HEADER_BYTES
        while end - start >= HEADER_BYTES:
            length, kind, flags, operation, request, sequence, context = unpack_from(data, start)
            if length > self.payload_bytes_max:
                raise ProtocolError(
                    f"a frame of {length:,} bytes; at most {self.payload_bytes_max:,} are taken"
                )
            if flags:
                raise ProtocolError(f"frame flags {flags:#x}; this version knows none")
            stop = start + HEADER_BYTES + length
            if stop > end:
                needed = HEADER_BYTES + length
                break
            payload = data[start + HEADER_BYTES : stop]
            frames.append((kind, operation, request, sequence, context, payload))
            start = stop
        self._keep(data, start, needed)
        return frames

    def _check_preamble(self) -> int:
        seen = min(self._end, len(PREAMBLE))
        start = bytes(self._buffer[:seen])
        if start == PREAMBLE:
            self._awaits_preamble = False
            return seen
        if start == PREAMBLE[:seen]:
            self._needed = len(PREAMBLE)
            return 0
        if seen == len(PREAMBLE) and start[:-1] == PREAMBLE[:-1]:
            raise ProtocolError(f"protocol version {start[-1]}; this side speaks {VERSION}")
        raise ProtocolError(f"not a Diptych stream: it starts with {start!r}")

    def _keep(self, data: bytes, start: int, needed: int) -> None:
        """Move what is left of `data` to the buffer's front."""
        rest = len(data) - start
        if len(self._buffer) > READ_BYTES and needed <= READ_BYTES:
            self._buffer = memoryview(bytearray(READ_BYTES))
        self._buffer[:rest] = data[start:]
        self._end = rest
        self._needed = needed

    def _grow(self, size_bytes: int) -> None:
        # A new buffer rather than a resized one: views of the old one may still be out.
        grown = memoryview(bytearray(size_bytes))
        grown[: self._end] = self._buffer[: self._end]
        self._buffer = grown
