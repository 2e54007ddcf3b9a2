"""The gateway's side of transactions: from connections to whichever writer there is, and back.

Keeps them in `unanswered` until their answers come. While there is no writer they wait for the next
one, in the same order; what was sent to one that died goes first, and only what can't be sent twice
is answered `outcome_unknown` at once. When the log can't be written there is no next writer: all
that was sent has an unknown outcome, and nothing new is taken.

Knows links and connections' numbers; what payloads say, only of the gateway's own.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgpack
import numpy as np

from diptych.kernel import bound
from diptych.serving import frames
from diptych.serving.frames import Bytes, FrameBuffer
from diptych.serving.unanswered import LOGGED_SENDS_MAX, SENDS_MAX, Entry, Unanswered
from diptych_client.errors import (
    DiptychError,
    LogFailed,
    OutcomeUnknown,
    ShuttingDown,
    TimedOut,
)
from diptych_client.protocol import Kind, encode_frame

if TYPE_CHECKING:
    from diptych.serving.gateway import Gateway
    from diptych.serving.links import WriterLink

log = logging.getLogger("diptych.serving")

OWN = 1
"""The connection number of what the gateway itself calls; clients' numbers begin behind it."""
COUNT_MAX = 1 << 17
BYTES_MAX = 64 << 20
"""Transactions without an answer, of all connections."""
UNKNOWN = "the writer died before it answered: this ran once or not at all"
NO_WRITER = "there was no writer in time; nothing happened"
LOG_FAILED = "the server's log can't be written: it takes no transactions until it is started again"


class Transactions:
    """`wait_s`: how long one waits for a writer. `logged`: whether writers have a log."""

    def __init__(self, gateway: Gateway, wait_s: float, logged: bool) -> None:
        self.gateway = gateway
        self.link: WriterLink | None = None
        self.met = False  # whether this writer has said where it stands
        self.log_failed = False
        self._wait_s = wait_s
        sends_max = LOGGED_SENDS_MAX if logged else SENDS_MAX
        self._unanswered = Unanswered(BYTES_MAX, COUNT_MAX, sends_max)
        self._request = 0  # of the gateway's own calls
        self._told = np.zeros(1, np.int64)
        some = np.zeros(1, np.uint8)
        self._stamp = bound(frames.stamp, some, 0, 0, 0, some, 0, 0, 0, self._told)

    def __len__(self) -> int:
        return self._unanswered.count

    @property
    def idle(self) -> bool:
        """Whether there is a writer, and it has answered everything."""
        return self.met and not self._unanswered.count

    @property
    def waiting(self) -> bool:
        """Whether any waits for a writer, and so until its time is over."""
        return not self.met and self._unanswered.count > 0

    def take(
        self,
        buffer: FrameBuffer,
        at: int,
        stop: int,
        count_max: int,
        kinds: Bytes,
        session: int,
        connection: int,
    ) -> tuple[int, int]:
        """Take the transactions that the bytes from `at` to `stop` begin with, as far as there is
        room: where the first byte is that was not taken, and how many.
        """
        count_max = min(count_max, self._unanswered.room())
        limit = buffer.payload_bytes_max
        end = self._stamp(
            *(buffer.array, at, stop, limit, kinds, session, connection, count_max, self._told)
        )
        count = self._told.item(0)
        if count:
            self.took(bytes(buffer.view[at:end]), count)
        return end, count

    def room(self) -> int:
        """How many more there may be."""
        return self._unanswered.room()

    def took(self, data: bytes, count: int) -> None:
        """Take so many that are stamped already, of any connections; there was room for them."""
        self._put(Entry(data, count))

    def call(self, operation: int, arguments: list[Any], connection: int = OWN) -> bool:
        """Call an operation for the gateway itself. False when there is no room."""
        if self._unanswered.room() <= 0:
            return False
        self._request += 1
        data = encode_frame(
            Kind.TRANSACTION,
            msgpack.packb(arguments),
            operation=operation,
            request=self._request,
            context=connection,
        )
        self._put(Entry(data, 1))
        return True

    def _put(self, entry: Entry) -> None:
        if self.met:
            assert self.link is not None
            entry.sends = 1
            if self._unanswered.count:
                self.link.send_soon(entry.data)
            else:  # the writer has nothing to do until then
                self.link.send(entry.data)
        else:
            entry.until = self.gateway.loop.time() + self._wait_s
            self.gateway.tick_soon()
        self._unanswered.put(entry)

    def answered(self, count: int) -> None:
        self._unanswered.answered(count)

    def meet(self) -> None:
        """The writer has said where it stands: it gets all there is, each once."""
        assert self.link is not None
        self.met = True
        entries = self._unanswered.for_writer(self.gateway.is_there)
        if entries:
            self.gateway.counts.resent += sum(e.count for e in entries if e.sends > 1)
            self.link.send(b"".join(entry.data for entry in entries))

    def forget_sessions(self) -> None:
        """Drop what came on sessions, whose numbers the next writer may have given to others."""
        self._end(self._unanswered.forget_sessions(), TimedOut(NO_WRITER))

    def lose(self) -> None:
        """The writer is gone, and with it the answers to what it was sent."""
        met, self.link, self.met = self.met, None, False
        if self.log_failed or self.gateway.draining:
            self.end(ShuttingDown("the server is shutting down"))
        elif met:
            until = self.gateway.loop.time() + self._wait_s
            lost = self._unanswered.writer_lost(until)
            self._end(lost, TimedOut(NO_WRITER))
            log.warning(
                "the writer is gone; %d transactions wait for the next one, "
                "%d have an unknown outcome",
                self._unanswered.count,
                sum(entry.count for entry in lost),
            )
            self.gateway.tick_soon()

    def fail_log(self) -> None:
        """No writer will come any more. What the last one has answered is taken in first."""
        self.log_failed = True
        log.error("%s; queries go on", LOG_FAILED)
        if self.link is None:
            self.end(LogFailed(LOG_FAILED))

    def expire(self) -> None:
        if self.waiting:
            expired = self._unanswered.take_expired(self.gateway.loop.time())
            self._end(expired, TimedOut(NO_WRITER))

    def end(self, error: DiptychError) -> None:
        """End all there is: with `error`, but for what a writer was sent."""
        if self.log_failed:
            error = LogFailed(LOG_FAILED)
        self._end(self._unanswered.take_all(), error)

    def _end(self, entries: list[Entry], error: DiptychError) -> None:
        for entry in entries:
            for connection, operation, request in entry.calls():
                if entry.sends:
                    self.gateway.counts.unknown += 1
                    unknown = OutcomeUnknown(UNKNOWN, str(request))
                    self.gateway.call_failed(connection, operation, request, unknown)
                else:
                    self.gateway.call_failed(connection, operation, request, error)
