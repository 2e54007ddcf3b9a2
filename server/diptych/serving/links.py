"""The gateway's ends of its sockets to the writer and to the readers.

A link turns reads into runs of replies, or into frames, and hands them to the gateway.

An error in here is a bug that would leave calls unanswered for ever, so it ends the process: the
supervisor starts another gateway, and clients reconnect.
"""

from __future__ import annotations

import asyncio
import logging
import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

from diptych.serving import frames
from diptych.serving.bundles import Answers
from diptych.serving.channel import BytesLike, Internal
from diptych.serving.frames import FrameBuffer, Words
from diptych.serving.spawn import EXIT_FAILED
from diptych_client.protocol import HEADER, HEADER_BYTES

if TYPE_CHECKING:
    from diptych.serving.gateway import Gateway

log = logging.getLogger("diptych.serving")

READ_BYTES = 1 << 20
TRUSTED_PAYLOAD_BYTES_MAX = 1 << 31
GATHERED_BYTES_MAX = 1 << 16
"""For the writer: so much is worth a system call at once."""
UNSENT_BYTES_MAX = 128 << 20
"""Above what may be unanswered, so that writing never has to stop for it."""


class _Link(asyncio.BufferedProtocol, ABC):
    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.buffer = FrameBuffer(READ_BYTES, TRUSTED_PAYLOAD_BYTES_MAX)
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.transport.set_write_buffer_limits(high=UNSENT_BYTES_MAX)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer.space()

    def buffer_updated(self, nbytes: int) -> None:
        self.buffer.added(nbytes)
        try:
            self._received(self.buffer.split())
        except Exception:
            log.exception("the gateway can't go on")
            os._exit(EXIT_FAILED)
        self.buffer.consume()

    @abstractmethod
    def _received(self, count: int) -> None:
        """Take the `count` frames that the buffer has been split into."""

    def send(self, data: bytes) -> None:
        self.transport.write(data)

    def close(self) -> None:
        self.transport.abort()


class WriterLink(_Link):
    """To and from one writer process.

    What one round of the loop has for a writer that is busy is sent together: a system call for
    each client's read would cost both processes more than all else about a short one.
    """

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(gateway)
        self._summary: Words = np.zeros(frames.SUMMARY, np.int64)
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._behind: list[bytes] = []
        self._round_ends = False  # whether the loop will say so

    def send(self, data: bytes) -> None:
        self._gather(data)
        self._flush()

    def send_soon(self, data: bytes) -> None:
        """Send once this round of the loop has brought all it has, or much already."""
        self._await_end_of_round()
        self._gather(data)
        if self._gathered_bytes >= GATHERED_BYTES_MAX:
            self._flush()

    def send_behind(self, data: bytes) -> None:
        """Send behind all that this round brings: between transactions it would cut a batch in two,
        and each is logged, and synced, by itself.
        """
        self._await_end_of_round()
        self._behind.append(data)

    def _await_end_of_round(self) -> None:
        if not self._round_ends:
            self._round_ends = True
            self.gateway.loop.call_soon(self._end_round)

    def _end_round(self) -> None:
        behind, self._behind, self._round_ends = self._behind, [], False
        self._gathered += behind
        self._flush()

    def _gather(self, data: bytes) -> None:
        self._gathered.append(data)
        self._gathered_bytes += len(data)

    def _flush(self) -> None:
        gathered, self._gathered, self._gathered_bytes = self._gathered, [], 0
        if gathered:
            self.transport.write(b"".join(gathered) if len(gathered) > 1 else gathered[0])

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        self.gateway.writer_lost(self)

    def close(self) -> None:
        self._forget()
        super().close()

    def _forget(self) -> None:
        self._gathered.clear()
        self._behind.clear()

    def _received(self, count: int) -> None:
        if not count:
            return
        buffer = self.buffer
        runs = self.gateway.runs_of(len(buffer.starts))
        self._summary[:] = 0
        found = frames.group_replies(buffer.array, buffer.starts, count, runs, self._summary)
        sequence, results, rejected, errors = self._summary.tolist()
        # Before the replies go out: a client may ask for this number at once.
        self.gateway.answered(sequence, results, rejected, errors)
        left = self.gateway.sockets.write(buffer.array, runs, found)
        view = buffer.view
        for connection, start, stop, number in runs[:left].tolist():
            if connection:
                self.gateway.replies(connection, bytes(view[start:stop]), number)
            else:
                self.gateway.from_writer(view[start:stop])


class ReaderLink(_Link):
    """To and from one reader process."""

    def __init__(self, gateway: Gateway, number: int) -> None:
        super().__init__(gateway)
        self.number = number
        self._told: Answers | None = None  # to a bundle, so far
        self._frames = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.gateway.reader_joined(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.gateway.reader_lost(self.number)

    def _received(self, count: int) -> None:
        for position in range(count):
            frame = self.buffer.frame(position)
            if frame[4] == Internal.ANSWERS:
                self._take_answers(Answers.read(frame), bytes(frame[HEADER_BYTES:]))
            else:
                self.gateway.asked.answered(self.number, frame)

    def _take_answers(self, told: Answers, frames: bytes) -> None:
        """Hand on the answers to a bundle when all are there: a part can't be taken back."""
        if self._told is not None:
            told, frames = self._told.and_then(told), self._frames + frames
        if told.more:
            self._told, self._frames = told, frames
        else:
            self._told, self._frames = None, b""
            self.gateway.asked.bundle_answered(self.number, told, frames)


def readdressed(frame: BytesLike, request: int, context: int) -> bytes:
    """The same frame with another request number and context."""
    length, kind, _, operation, _, sequence, _ = HEADER.unpack_from(frame)
    head = HEADER.pack(length, kind, 0, operation, request, sequence, context)
    return head + bytes(frame[HEADER.size :])
