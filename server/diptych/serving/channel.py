"""What the server's own processes say to each other: frames that never leave the machine.

Gateway, writer and readers speak the frames of `diptych_client.protocol` over socket pairs that the
supervisor made, plus the kinds here. Each message is a small named tuple with `frame()` and
`read()`. Between gateway and writer a frame's context is the gateway's number for the client's
connection, never reused and never 0; the kinds below have context 0, which is how they are told
from answers. Between gateway and reader a request number is the gateway's own token for a query.

Knows bytes only. What the messages mean is told by `gateway`, `writer`, `reader` and `queries`.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Any, NamedTuple

import msgpack

from diptych_client.protocol import HEADER, HEADER_BYTES, Kind, encode_frame

BytesLike = bytes | bytearray | memoryview


class Internal(IntEnum):
    """Kinds beside `Kind`; a client that sends one of these is sending garbage."""

    IMAGE = 64  # writer -> gateway: this image is current now; you hold it until you release it
    RELEASED = 65  # gateway -> writer: nobody here looks at (image, epoch) any more
    WANTED = 66  # gateway -> writer: a query waits for this sequence number
    PINNED = 67  # writer -> gateway: (image, epoch) has been held too long, stop who holds it
    HOLDS = 68  # gateway -> writer, once a connection: what I hold
    STATS = 69  # gateway -> writer: tell your figures
    FIGURES = 70  # writer -> gateway: the answer
    WRITER = 71  # writer -> gateway, once a connection: sequence and history as they are now
    RUN = 72  # gateway -> reader: queries follow, to be run on this image
    BUNDLE = 73  # gateway -> reader: compiled queries of one client, see `bundles`
    ANSWERS = 74  # reader -> gateway: to queries of one bundle
    CHECKPOINT_WANTED = 80  # checkpointer -> writer: an image, and the pages that a slot lacks
    CHECKPOINT_IMAGE = 81  # writer -> checkpointer: these; the image is held from here on
    CHECKPOINT_DONE = 82  # checkpointer -> writer: it is not needed any more


class Image(NamedTuple):
    """An image that became current, or the current one, whose sequence number moved on."""

    image: int
    epoch: int
    sequence: int
    time_ns: int  # CLOCK_MONOTONIC when the writer stood still for it
    history: int
    pages: int

    def frame(self) -> bytes:
        return encode_frame(Internal.IMAGE, msgpack.packb(tuple(self)))

    @classmethod
    def read(cls, frame: BytesLike) -> Image:
        return cls(*unpack_payload(frame))


class Hold(NamedTuple):
    """One image as it was at one epoch; rule: a hold ends by naming both."""

    image: int
    epoch: int

    def frame(self, kind: Internal) -> bytes:
        return encode_frame(kind, operation=self.image, request=self.epoch)

    @classmethod
    def read(cls, frame: BytesLike) -> Hold:
        header = HEADER.unpack_from(frame)
        return cls(header[3], header[4])


class Writer(NamedTuple):
    """Where a writer stands when a gateway meets it."""

    sequence: int
    history: int

    def frame(self) -> bytes:
        return encode_frame(Internal.WRITER, msgpack.packb(tuple(self)))

    @classmethod
    def read(cls, frame: BytesLike) -> Writer:
        return cls(*unpack_payload(frame))


class Run(NamedTuple):
    """The image that the next `queries` queries are to be run on."""

    image: int
    epoch: int
    sequence: int
    time_ns: int
    queries: int

    def frame(self) -> bytes:
        return encode_frame(Internal.RUN, msgpack.packb(tuple(self)))

    @classmethod
    def read(cls, frame: BytesLike) -> Run:
        return cls(*unpack_payload(frame))


class CheckpointWanted(NamedTuple):
    """A checkpoint goes to `slot`, and is to show transaction `through` (0: whatever there is)."""

    slot: int
    through: int

    def frame(self) -> bytes:
        return encode_frame(Internal.CHECKPOINT_WANTED, msgpack.packb(self._asdict()))

    @classmethod
    def read(cls, frame: BytesLike) -> CheckpointWanted:
        return cls(**unpack_payload(frame))


class CheckpointImage(NamedTuple):
    """Where it is, and `pages` (int64, in no order): what may differ from what the slot got last.

    With `all` that is any.
    """

    image: int
    epoch: int
    sequence: int
    history: int
    all: bool
    pages: bytes

    def frame(self) -> bytes:
        return encode_frame(Internal.CHECKPOINT_IMAGE, msgpack.packb(self._asdict()))

    @classmethod
    def read(cls, frame: BytesLike) -> CheckpointImage:
        return cls(**unpack_payload(frame))


class CheckpointDone(NamedTuple):
    """The image of that epoch is not needed any more; `ok`: whether the slot has it now."""

    slot: int
    epoch: int
    ok: bool

    def frame(self) -> bytes:
        return encode_frame(Internal.CHECKPOINT_DONE, msgpack.packb(self._asdict()))

    @classmethod
    def read(cls, frame: BytesLike) -> CheckpointDone:
        return cls(**unpack_payload(frame))


def wanted(sequence: int) -> bytes:
    return encode_frame(Internal.WANTED, sequence=sequence)


def holds(held: Iterable[tuple[int, int]]) -> bytes:
    return encode_frame(Internal.HOLDS, msgpack.packb([tuple(hold) for hold in held]))


def read_holds(frame: BytesLike) -> list[tuple[int, int]]:
    return [(image, epoch) for image, epoch in unpack_payload(frame)]


def figures(values: dict[str, Any]) -> bytes:
    return encode_frame(Internal.FIGURES, msgpack.packb(values))


def error_frame(
    payload: dict[str, Any],
    *,
    operation: int = 0,
    request: int = 0,
    sequence: int = 0,
    context: int = 0,
) -> bytes:
    """An ERROR as a client gets it. `payload`: see `diptych_client.errors.payload_of`."""
    return encode_frame(
        Kind.ERROR,
        msgpack.packb(payload),
        operation=operation,
        request=request,
        sequence=sequence,
        context=context,
    )


def unpack_payload(frame: BytesLike) -> Any:
    """The payload of one of our own frames."""
    return msgpack.unpackb(frame[HEADER_BYTES:], strict_map_key=False)


# A reader's answer carries two times in its context: the age of the data in the lower half, and how
# long the query ran in the upper one, which the gateway keeps for itself.
RUN_US_SHIFT = 32
AGE_US_MAX = (1 << RUN_US_SHIFT) - 1


LAST_ANSWER = 1
"""Flag of a reader's answer: it ends now, and its hold with it, but not before it is reaped."""
MORE = 2
"""Flag of ANSWERS: the bundle has more queries, whose answers follow."""


def with_run_time(frame: bytes | bytearray, run_us: int, *, last: bool = False) -> bytearray:
    """A reader's answer with the running time of its query added."""
    length, kind, _, operation, request, sequence, age_us = HEADER.unpack_from(frame)
    flags = LAST_ANSWER if last else 0
    context = min(age_us, AGE_US_MAX) | min(run_us, AGE_US_MAX) << RUN_US_SHIFT
    stamped = bytearray(frame)
    HEADER.pack_into(stamped, 0, length, kind, flags, operation, request, sequence, context)
    return stamped
