"""One client's connection: the handshake, whole reads of requests, and the end of it.

Reads go into the connection's own buffer; kernels say which frames are what; the gateway is told in
runs. A connection never waits because others do, and never grows without bound: requests past a
limit are answered busy, and a client that does not read its answers is dropped. Bytes without
meaning are answered with one ERROR and the end; what still comes in then is thrown away for a
moment, so that the answer is not lost to a reset.

Between HELLO and WELCOME the gateway may take its time to open a session: what comes behind HELLO
stays in the buffer, and beyond that with the client.

Knows nothing of the writer, of readers or of images.
"""

from __future__ import annotations

import asyncio
import logging
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

import numpy as np

from diptych.serving import frames
from diptych.serving.channel import error_frame
from diptych.serving.client_sockets import (
    FD,
    NO_ROW,
    NUMBER,
    READ_BYTES,
    UNANSWERED,
    WRITTEN_HERE,
    write_now,
)
from diptych.serving.frames import FrameBuffer
from diptych.serving.welcome import Hello, read_hello
from diptych_client.errors import (
    Busy,
    CallError,
    DiptychError,
    ProtocolError,
    ShuttingDown,
    UnknownOperation,
    payload_of,
)
from diptych_client.protocol import (
    HEADER,
    HELLO_BYTES_MAX,
    PREAMBLE,
    VERSION,
    Kind,
    encode_frame,
)

if TYPE_CHECKING:
    from diptych.serving.gateway import Gateway

log = logging.getLogger("diptych.serving")

QUERIES_WAIT = "the server has too many queries waiting"
KIND_AT = 4  # of a frame
TRANSACTION, QUERY = int(Kind.TRANSACTION), int(Kind.QUERY)
LINGER_S = 1.0
"""How long a refused client may take to read why."""


class State(Enum):
    GREETING = auto()
    OPENING = auto()  # HELLO came, WELCOME has not left
    OPEN = auto()
    ENDING = auto()
    CLOSED = auto()


class Connection(asyncio.BufferedProtocol):
    """Made by the gateway for each client that connects. Let in, it reads and writes by way of
    `client_sockets`, where `row` is.
    """

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.row = NO_ROW.copy()  # until it may stay
        self.state = State.GREETING
        self.client = ""
        self.session = 0
        self.queries = 0  # unanswered
        self.congested = False
        self.buffer = FrameBuffer(READ_BYTES, HELLO_BYTES_MAX)
        self._greeted = False  # the preamble was read
        self._hello: tuple[Hello, int]  # and its request number
        self._transport: Any = None
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return (
            f"<Connection {self.number} {self.state.name.lower()} {self.client!r}: "
            f"{self.transactions} transactions, {self.queries} queries in flight>"
        )

    @property
    def number(self) -> int:
        """Never used again; 0: of one that may not stay."""
        return self.row.item(NUMBER)

    @property
    def transactions(self) -> int:
        """Unanswered ones."""
        return self.row.item(UNANSWERED)

    @transactions.setter
    def transactions(self, count: int) -> None:
        self.row[UNANSWERED] = count

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        limits = self.gateway.settings.limits
        # Above the high mark the client counts as congested; it is dropped above output_bytes.
        self._transport.set_write_buffer_limits(high=limits.output_bytes // 4)
        self._timer = self.gateway.loop.call_later(limits.handshake_ms / 1000, self._too_slow)
        refusal = self.gateway.connected(self)
        if refusal is not None:
            self.end(refusal)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer.space()

    def buffer_updated(self, nbytes: int) -> None:
        self.gateway.counts.bytes_in += nbytes
        if self.state is State.OPEN:
            self.buffer.added(nbytes)
            kind = self.buffer.view[KIND_AT]
            if kind == TRANSACTION:
                self._pass_on()
            elif kind == QUERY and self.gateway.asked.answers:
                self._answer_at_once()
            else:
                self._requests()
        elif self.state is State.GREETING:
            self.buffer.added(nbytes)
            self._greet()
        elif self.state is State.OPENING:
            self.buffer.added(nbytes)
        if self.state is State.OPENING and not self.buffer.space():
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.state = State.CLOSED
        self.gateway.sockets.leave(self)
        self._cancel_timer()
        self.gateway.disconnected(self)

    def pause_writing(self) -> None:
        self.congested = True

    def resume_writing(self) -> None:
        self.congested = False

    # What `client_sockets` calls.

    def received(self, data: bytes) -> None:
        """The rest of a read, when nothing is left of those before."""
        self.buffer.space()[: len(data)] = data
        self.buffer_updated(len(data))

    def ended(self) -> None:
        """The client sends no more: what it was answered still leaves, as far as it can."""
        self.gateway.sockets.leave(self)
        self._transport.close()

    # What the gateway calls.

    def reply(self, data: bytes, count: int) -> None:
        """Send the replies to so many transactions, at once where nothing else waits to be sent."""
        self.transactions -= count
        if self.row[FD] >= 0 and not self._transport.get_write_buffer_size():
            sent = write_now(self.row.item(FD), data)
            self.gateway.counts.bytes_out += sent
            self.row[WRITTEN_HERE] = sent == len(data)
            data = data[sent:]
        if data:
            self.answer(data)

    def answer(self, data: bytes) -> None:
        """Send whole frames; drop a client that has left too much unread."""
        if self.state in (State.ENDING, State.CLOSED):
            return
        self.gateway.counts.bytes_out += len(data)
        self.row[WRITTEN_HERE] = False
        self._transport.write(data)
        if self.congested:
            unread = self._transport.get_write_buffer_size()
            if unread > self.gateway.settings.limits.output_bytes:
                self.gateway.counts.dropped += 1
                log.warning("%r dropped: it left %d bytes of answers unread", self, unread)
                self.abort()

    def fail(self, operation: int, request: int, error: DiptychError, **more: Any) -> None:
        """Answer one request with an error. `more` goes into the payload beside its fields."""
        self.answer(error_frame(payload_of(error) | more, operation=operation, request=request))

    def open(self, session: int) -> None:
        """The client is let in: WELCOME, and then what came behind HELLO."""
        if self.state is not State.OPENING:
            return
        hello, request = self._hello
        self.state, self.session = State.OPEN, session
        self.buffer.payload_bytes_max = self.gateway.settings.limits.frame_bytes
        payload = self.gateway.welcome(hello, session)
        self.answer(encode_frame(Kind.WELCOME, payload, request=request))
        if self.gateway.draining:
            self.answer(encode_frame(Kind.CLOSING))
        self._transport.resume_reading()
        self._requests()
        if self.state is State.OPEN and not self._transport.is_closing():
            self._transport.pause_reading()
            self.gateway.sockets.adopt(self, self._transport.get_extra_info("socket").fileno())

    def end(self, error: DiptychError | None = None) -> None:
        """Send what is written, and `error` as the last word, then close; soon, in any case."""
        if self.state in (State.ENDING, State.CLOSED):
            return
        if error is not None:
            if not self._greeted:
                self._transport.write(PREAMBLE)
            self.fail(0, 0, error)
        self.state = State.ENDING
        self.buffer.end = 0
        self.gateway.sockets.leave(self)
        if not self._transport.is_closing():
            self._transport.resume_reading()
        self._cancel_timer()
        self._timer = self.gateway.loop.call_later(LINGER_S, self.abort)
        self._transport.write_eof()

    def abort(self) -> None:
        self.state = State.CLOSED
        self.gateway.sockets.leave(self)
        self._transport.abort()

    @property
    def flushed(self) -> bool:
        return self.state is State.CLOSED or self._transport.get_write_buffer_size() == 0

    # The handshake.

    def _greet(self) -> None:
        if not self._greeted and not self._read_preamble():
            return
        count = self.buffer.split()
        if count == -1:
            self.end(ProtocolError(f"HELLO may have {HELLO_BYTES_MAX:,} bytes at most"))
        elif count == 0:
            self.buffer.consume()
        else:
            frame = self.buffer.frame(0)
            try:
                hello = read_hello(frame)
            except ProtocolError as error:
                self.end(error)
                return
            self._hello = hello, HEADER.unpack_from(frame)[4]
            self.buffer.drop(len(frame))
            self._cancel_timer()
            self.client = hello.client
            self.state = State.OPENING
            self.gateway.introduced(self, hello)

    def _read_preamble(self) -> bool:
        """Whether the whole preamble came; ends a connection whose first bytes are not it."""
        said = bytes(self.buffer.view[: min(self.buffer.end, len(PREAMBLE))])
        if said == PREAMBLE:
            self.buffer.drop(len(PREAMBLE))
            self._transport.write(PREAMBLE)
            self._greeted = True
            return True
        if said[:-1] == PREAMBLE[:-1]:
            self.end(ProtocolError(f"protocol version {said[-1]}; this server speaks {VERSION}"))
        elif said != PREAMBLE[: len(said)]:
            # Not one of ours: it would not understand an answer either.
            self.gateway.counts.refused += 1
            self.end()
        return False

    def _too_slow(self) -> None:
        self.gateway.counts.refused += 1
        self.end(ProtocolError("no HELLO came in time"))

    # Requests.

    def _requests(self) -> None:
        """Hand the whole frames that have come to the gateway, in runs of one class."""
        buffer = self.buffer
        count = buffer.split()
        whole = count if count >= 0 else -1 - count
        if whole:
            runs = self.gateway.runs_of(len(buffer.starts))
            found = frames.classify(
                buffer.array, buffer.starts, whole, self.gateway.greeter.kinds, runs
            )
            for group, first, number in runs[:found, :3].tolist():
                self._take(group, first, number)
                if self.state is not State.OPEN:
                    return
        if count < 0:
            at = int(buffer.starts[whole])
            length = int.from_bytes(buffer.view[at : at + 4], "little")
            limit = buffer.payload_bytes_max
            self.end(ProtocolError(f"a frame of {length:,} bytes; at most {limit:,} are taken"))
            return
        buffer.consume()

    def _pass_on(self) -> None:
        """The same, shorter, for a read that is nothing but transactions."""
        buffer, gateway = self.buffer, self.gateway
        if not gateway.draining and gateway.takes_no_transactions() is None:
            end, _ = self._take_bytes(0, buffer.end)
            buffer.drop(end)
        if buffer.end:
            self._requests()

    def _answer_at_once(self) -> None:
        """The same for a read that is nothing but prompt queries."""
        buffer = self.buffer
        if not self.gateway.draining:
            buffer.drop(self._answer(0, buffer.end))
        if buffer.end:
            self._requests()

    def _take(self, group: int, first: int, number: int) -> None:
        if group == Kind.PING:
            for position in range(first, first + number):
                request = HEADER.unpack_from(self.buffer.frame(position))[4]
                self.answer(encode_frame(Kind.PONG, request=request))
        elif group == frames.MEANINGLESS:
            kind, flags = HEADER.unpack_from(self.buffer.frame(first))[1:3]
            self.end(ProtocolError(f"a frame of kind {kind}, flags {flags:#x} means nothing here"))
        elif group == frames.UNKNOWN_OPERATION:
            self._refuse(first, number, UnknownOperation("there is no operation of this number"))
        elif group == frames.WRONG_KIND:
            message = "this operation is of the other kind: transaction or query"
            self._refuse(first, number, CallError(message))
        elif self.gateway.draining:
            self._refuse(first, number, ShuttingDown("the server is shutting down"))
        elif group == Kind.TRANSACTION:
            self._take_transactions(first, number)
        elif group == Kind.QUERY:
            self._take_queries(first, number)
        elif group == frames.QUICK_QUERY:
            self._take_bundles(first, number)
        elif group == frames.PROMPT_QUERY:
            self._take_prompt(first, number)
        elif group == Kind.INFO:
            for position in range(first, first + number):
                self.gateway.info(self, HEADER.unpack_from(self.buffer.frame(position))[4])
        elif group == Kind.ADMIN:
            for position in range(first, first + number):
                self.gateway.admin.ask(self, self.buffer.frame(position))

    def _take_transactions(self, first: int, number: int) -> None:
        refusal = self.gateway.takes_no_transactions()
        if refusal is not None:
            self._refuse(first, number, refusal)
            return
        starts = self.buffer.starts
        _, taken = self._take_bytes(int(starts[first]), int(starts[first + number]))
        if taken < number:
            if self.transactions < self.gateway.settings.limits.transactions_in_flight:
                message = "the server has too many transactions in flight"
            else:
                message = "this connection has too many transactions in flight"
            self._refuse(first + taken, number - taken, Busy(message))

    def _take_bytes(self, at: int, stop: int) -> tuple[int, int]:
        """Take the transactions that bytes begin with: where the first byte is that was not taken,
        and how many.
        """
        room = self.gateway.settings.limits.transactions_in_flight - self.transactions
        end, taken = self.gateway.take(self, at, stop, room)
        self.transactions += taken
        return end, taken

    def _take_queries(self, first: int, number: int) -> None:
        limit = self.gateway.settings.limits.queries_in_flight
        for position in range(first, first + number):
            if self.queries >= limit:
                message = "this connection has too many queries in flight"
                self._refuse(position, first + number - position, Busy(message))
                return
            if self.congested:
                message = "this connection leaves its answers unread"
                self._refuse(position, first + number - position, Busy(message))
                return
            self.gateway.asked.take(self, self.buffer.frame(position))

    def _take_bundles(self, first: int, number: int) -> None:
        if not number:
            return
        own = self.gateway.settings.limits.queries_in_flight - self.queries
        room = self.gateway.asked.room()
        taken = 0 if self.congested else max(0, min(number, own, room))
        self.gateway.asked.take_bundles(self, first, taken)
        if taken == number:
            return
        if self.congested:
            message = "this connection leaves its answers unread"
        elif own <= room:
            message = "this connection has too many queries in flight"
        else:
            message = QUERIES_WAIT
        self._refuse(first + taken, number - taken, Busy(message))

    def _take_prompt(self, first: int, number: int) -> None:
        starts = self.buffer.starts
        at, stop = int(starts[first]), int(starts[first + number])
        behind = self._answer(at, stop)
        answered = int(np.searchsorted(starts[first : first + number + 1], behind))
        self._take_bundles(first + answered, number - answered)

    def _answer(self, at: int, stop: int) -> int:
        """Have prompt queries between two bytes answered: where the first is that was not."""
        before = -1
        while before < at < stop and not self.congested:
            before, at = at, self.gateway.asked.answer(self, at, stop)
        return at

    def _refuse(self, first: int, number: int, error: DiptychError) -> None:
        """Answer these frames with one and the same error."""
        self.gateway.counts.refused += number
        payload = payload_of(error)
        answers = []
        for position in range(first, first + number):
            _, _, _, operation, request, _, _ = HEADER.unpack_from(self.buffer.frame(position))
            answers.append(error_frame(payload, operation=operation, request=request))
        self.answer(b"".join(answers))

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
