"""The gateway process: clients on one side, the writer and the readers on the other.

Transactions go to the writer in whole runs and come back in whole runs (`transactions`, which also
knows what becomes of them when the writer dies); queries wait in `queries` for an image and a
reader; clients that name themselves get a session (`sessions`). No payload of a call is decoded
here. This module owns the event loop and carries out what `connection`, `links`, `queries` and the
supervisor's messages ask for; the decisions are made there.

When the supervisor is gone, so is this process.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np
import uvloop

from diptych.app import App
from diptych.config import Settings
from diptych.serving import channel, control
from diptych.serving.admin import Admin
from diptych.serving.asked import Asked
from diptych.serving.bundles import Progress
from diptych.serving.channel import Hold, Image, Internal
from diptych.serving.client_sockets import NUMBER, ClientSockets
from diptych.serving.connection import Connection, State
from diptych.serving.control import Control, Message
from diptych.serving.figures import Counts, Now, describe
from diptych.serving.frames import Words
from diptych.serving.images import Images
from diptych.serving.links import ReaderLink, WriterLink
from diptych.serving.placement import as_figures
from diptych.serving.queries import Queries, Verdict
from diptych.serving.sessions import Sessions
from diptych.serving.spawn import EXIT_PARENT_GONE
from diptych.serving.tokens import caller_of
from diptych.serving.transactions import LOG_FAILED, OWN, Transactions
from diptych.serving.welcome import Greeter, Hello
from diptych_client.errors import (
    Busy,
    DiptychError,
    Forbidden,
    LogFailed,
    ShuttingDown,
)
from diptych_client.protocol import Kind, encode_frame

log = logging.getLogger("diptych.serving")

TICK_S = 0.002
"""How often time is looked at while queries are unanswered."""
FIGURES_S = 0.005
"""How old figures may be: gathering them costs the writer time."""
FLUSH_S = 0.5
"""How long clients may take to read their last answers at shutdown."""


@dataclass(frozen=True)
class GatewayPlan:
    """What the supervisor gives a new gateway."""

    app: App
    settings: Settings
    control: Control
    listeners: tuple[socket.socket, ...]
    progress: Progress
    images: Images | None
    """None: it answers no queries itself."""


def main(plan: GatewayPlan) -> int:
    """The gateway's process: returns its exit code."""
    return uvloop.run(Gateway(plan).run())


class Gateway:
    """See the module. Methods named after what happened are called by those it happened to."""

    def __init__(self, plan: GatewayPlan) -> None:
        self.settings = plan.settings
        self.greeter = Greeter(plan.app, plan.settings.limits)
        limits, sync = plan.settings.limits, plan.settings.sync
        self.asked = Asked(self, plan.app, plan.progress, plan.images)
        self.queries = Queries(int(limits.query_ms * 1e6), sync.max_pin_ms, self.asked.mark_of)
        self.counts = Counts()
        self.draining = False
        self.loop: asyncio.AbstractEventLoop
        self.history = 0
        self.newest = 0  # highest sequence number that anyone here was told
        self._control = plan.control
        self._listeners = plan.listeners
        self._servers: list[asyncio.Server] = []
        self._connections: dict[int, Connection] = {}
        self.sockets = ClientSockets(self, OWN + 1)
        data, durability = plan.settings.data, plan.settings.log.durability
        self.durability = "none" if data is None else durability
        self.transactions = Transactions(
            self, limits.transaction_wait_ms / 1000, logged=self.durability != "none"
        )
        self.sessions = Sessions(self, self._connections)
        self.admin = Admin(self, plan.control)
        self._readers: dict[int, ReaderLink] = {}
        self._reaped: set[int] = set()
        self._asking: list[tuple[int, int]] = []
        self._told = b""
        self._told_at = 0.0
        self._runs: Words = np.zeros((1 << 12, 4), np.int64)
        self._accepting = self._pumping = self._ticking = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ended: asyncio.Future[int]

    async def run(self) -> int:
        """Serve until told to end. Returns the exit code."""
        self.loop = asyncio.get_running_loop()
        self._ended = self.loop.create_future()
        self.loop.add_reader(self._control.fileno(), self._on_control)
        self.sockets.begin()
        self.sessions.touch_later()
        return await self._ended

    def runs_of(self, length: int) -> Words:
        """Working space for kernels that group frames; valid until the next call."""
        if len(self._runs) < length:
            self._runs = np.zeros((length, 4), np.int64)
        return self._runs

    # The supervisor.

    def _on_control(self) -> None:
        messages, alive = self._control.receive()
        for message in messages:
            self._obey(message)
        if not alive:
            # The supervisor is gone: nobody would replace anything, and nobody reaps.
            os._exit(EXIT_PARENT_GONE)

    def _obey(self, message: Message) -> None:
        match message["do"]:
            case "writer":
                self._start(self._adopt(message["descriptor"], WriterLink(self)))
            case "reader":
                link = ReaderLink(self, message["reader"])
                self.asked.slots[link.number] = message["slot"]
                self._start(self._adopt(message["descriptor"], link))
            case "reaped":
                self._reader_reaped(message["reader"])
            case "restarts":
                self.counts.restarts = message["restarts"]
            case "log_failed":
                self.transactions.fail_log()
                self._told_at = 0.0
            case "checkpointed":
                self.admin.told(message)
            case "drain":
                self._start(self._drain())

    def _start(self, coroutine: Any) -> None:
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _adopt(self, descriptor: int, link: WriterLink | ReaderLink) -> None:
        await self.loop.create_unix_connection(lambda: link, sock=control.adopt(descriptor))
        if isinstance(link, WriterLink):
            before = self.transactions.link
            if before is not None:
                before.close()
                self.writer_lost(before)
            self.transactions.link = link
            link.send(channel.holds(self.queries.in_use()))

    async def _accept(self) -> None:
        for listener in self._listeners:
            server = await self.loop.create_server(lambda: Connection(self), sock=listener)
            self._servers.append(server)
        self._control.send({"tell": "accepting"})

    # Clients.

    def connected(self, connection: Connection) -> DiptychError | None:
        """A client connected; an error means that it can't stay."""
        if self.draining:
            return ShuttingDown("the server is shutting down")
        if len(self._connections) >= self.settings.limits.connections:
            self.counts.refused += 1
            return Busy("too many connections")
        connection.row = self.sockets.row()
        self._connections[connection.number] = connection
        return None

    def disconnected(self, connection: Connection) -> None:
        if self._connections.pop(connection.number, None) and connection.queries:
            self.queries.abandon(connection.number)
        connection.row[NUMBER] = 0

    def connection(self, number: int) -> Connection | None:
        return self._connections.get(number)

    def is_there(self, number: int) -> bool:
        """Whether whoever sent something still waits for the answer."""
        return number == OWN or number in self._connections

    def introduced(self, connection: Connection, hello: Hello) -> None:
        """A client has said HELLO: it is let in, now or later, or not."""
        try:
            caller = caller_of(self.settings.tokens, hello.token)
        except Forbidden as error:
            self.counts.refused += 1
            connection.end(error)
        else:
            self.sessions.open(connection, hello.identity, caller)

    def welcome(self, hello: Hello, session: int) -> bytes:
        return self.greeter.welcome(
            hello, session=session, history=self.history, sequence=self.newest
        )

    def takes_no_transactions(self) -> DiptychError | None:
        """Why not, if so."""
        return LogFailed(LOG_FAILED) if self.transactions.log_failed else None

    def take(self, connection: Connection, at: int, stop: int, count_max: int) -> tuple[int, int]:
        """Take the transactions that a connection's bytes from `at` to `stop` begin with, as far as
        there is room: where the first byte is that was not taken, and how many.
        """
        self._renew()
        return self.transactions.take(
            connection.buffer,
            at,
            stop,
            count_max,
            self.greeter.kinds,
            connection.session,
            connection.number,
        )

    def room(self) -> int:
        """How many transactions may come now, without being refused."""
        if self.draining or self.takes_no_transactions() is not None:
            return 0
        return self.transactions.room()

    def take_run(self, data: bytes, count: int) -> None:
        """Take so many transactions, of any connections; there was room for them."""
        self.counts.bytes_in += len(data)
        self._renew()
        self.transactions.took(data, count)

    def _renew(self) -> None:
        if self.queries.current and self.shows_all(self.queries.current.sequence):
            # Until now nothing was missing, however long ago the image was cut.
            self.queries.renew(time.monotonic_ns())

    def info(self, connection: Connection, request: int) -> None:
        """Answer with all figures. Those who ask at about the same time are told the same."""
        if len(self._asking) >= self.settings.limits.queries_waiting:
            self.counts.refused += 1
            connection.fail(0, request, Busy("the server is asked for its figures too often"))
            return
        self._asking.append((connection.number, request))
        if self.loop.time() - self._told_at < FIGURES_S:
            self._tell_figures()
        elif self.transactions.link is None:
            self._gather_figures(None)
        elif len(self._asking) == 1:
            self.tell_writer(encode_frame(Internal.STATS))

    def _gather_figures(self, writer: dict[str, Any] | None) -> None:
        now = Now(
            self.durability,
            self.transactions.log_failed,
            len(self._connections),
            len(self.sessions.live()),
            writer,
            as_figures(self.settings.processes),
        )
        told = describe(self.counts, self.queries, now)
        self._told, self._told_at = msgpack.packb(told), self.loop.time()
        self._tell_figures()

    def _tell_figures(self) -> None:
        asking, self._asking = self._asking, []
        for number, request in asking:
            if number in self._connections:
                frame = encode_frame(Kind.RESULT, self._told, request=request, sequence=self.newest)
                self._connections[number].answer(frame)

    # The writer.

    def tell_writer(self, frame: bytes) -> None:
        if self.transactions.link is not None:
            self.transactions.link.send(frame)

    def tell_writer_soon(self, frame: bytes) -> None:
        """Behind the transactions that this round of the loop brings."""
        if self.transactions.link is not None:
            self.transactions.link.send_behind(frame)

    def replies(self, number: int, data: bytes, count: int) -> None:
        """Whole reply frames for one connection, in order."""
        connection = self._connections.get(number)
        if number == OWN:
            self.sessions.touched(data)
        elif connection is not None and connection.state is State.OPENING:
            self.sessions.opened(connection, data)
        elif connection is not None:
            connection.reply(data, count)

    def call_failed(self, number: int, operation: int, request: int, error: DiptychError) -> None:
        """One transaction ends without the writer's answer."""
        connection = self._connections.get(number)
        if connection is not None and connection.state is State.OPENING:
            self.sessions.not_opened(connection, error)
        elif connection is not None:
            connection.transactions -= 1
            connection.fail(operation, request, error)

    def answered(self, sequence: int, results: int, rejected: int, errors: int) -> None:
        """What a read from the writer brought, counted."""
        self.transactions.answered(results + rejected + errors)
        self.newest = max(self.newest, sequence)
        self.counts.transactions += results
        self.counts.rejected += rejected
        self.counts.errors += errors

    def from_writer(self, frame: memoryview) -> None:
        kind = frame[4]
        if kind == Internal.IMAGE:
            image = Image.read(frame)
            if image.history == self.history:
                # It may show what another gateway was answered last: whoever sees it will say so.
                self.newest = max(self.newest, image.sequence)
            self.release(self.queries.publish(image))
            self.pump_soon()
            self._accept_when_ready()
        elif kind == Internal.WRITER:
            self._meet_writer(channel.Writer.read(frame))
        elif kind == Internal.PINNED:
            hold = Hold.read(frame)
            if hold in self.queries.in_use():
                self._carry_out(self.queries.pinned(hold, time.monotonic_ns()))
            else:
                self.release([hold])
        elif kind == Internal.FIGURES:
            self._gather_figures(channel.unpack_payload(frame))

    def _meet_writer(self, writer: channel.Writer) -> None:
        before, self.history = self.history, writer.history
        if before == writer.history:
            # It has all that the one before it had answered.
            self.newest = max(self.newest, writer.sequence)
        else:
            self.newest = writer.sequence
        if before not in (0, writer.history):
            log.warning("history %d begins at transaction %d", writer.history, writer.sequence)
            self.asked.fail(self.queries.new_writer("the server recovered to an earlier state"))
            self.sessions.end()
        if self.queries.wanted:
            self.tell_writer(channel.wanted(self.queries.wanted))
        self.transactions.meet()
        self._accept_when_ready()

    def writer_lost(self, link: WriterLink) -> None:
        """The writer is gone, and with it what was asked of it."""
        if self.transactions.link is not link:
            return
        self.transactions.lose()
        self._told_at = 0.0
        if self._asking:
            self._gather_figures(None)

    def release(self, holds: Iterable[Hold]) -> None:
        # Without a writer there is nobody to tell: the next one asks what is held.
        for hold in holds:
            self.tell_writer(hold.frame(Internal.RELEASED))

    # Readers and their queries.

    def reader_joined(self, link: ReaderLink) -> None:
        self._readers[link.number] = link
        self.queries.joined(link.number)
        self._accept_when_ready()
        self.pump_soon()

    def reader_lost(self, number: int) -> None:
        self._readers.pop(number, None)
        self.asked.fail(self.queries.lost(number, time.monotonic_ns()))
        if number in self._reaped:
            self._reader_reaped(number)
        self.pump_soon()

    def _reader_reaped(self, number: int) -> None:
        """The process is gone for certain: only now do its holds end."""
        if number in self._readers or number not in self.queries.readers:
            # Its socket's end has not been seen yet (or not even its beginning).
            self._reaped.add(number)
            return
        self._reaped.discard(number)
        self.asked.slots.pop(number, None)
        self.release(self.queries.reaped(number))
        self.pump_soon()

    def _accept_when_ready(self) -> None:
        """Listen once all that a client needs is there."""
        ready = self.transactions.met and self._readers and self.queries.current is not None
        if ready and not self._accepting and not self.draining:
            self._accepting = True
            self._start(self._accept())

    def pump_soon(self) -> None:
        """Dispatch once this round of the loop has brought all its queries."""
        if not self._pumping:
            self._pumping = True
            self.loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        for number, run, batch in self.queries.dispatch(time.monotonic_ns()):
            if self.shows_all(run.sequence):
                run = run._replace(time_ns=time.monotonic_ns())
            link = self._readers[number]
            link.send(b"".join([run.frame(), *[query.frame for query in batch]]))
        if len(self.queries):
            self.tick_soon()

    def shows_all(self, sequence: int) -> bool:
        """Whether an image of this number shows all that anyone here has been told."""
        return self.transactions.idle and sequence >= self.newest

    def tick_soon(self) -> None:
        """Look at the time in a moment, and then for as long as something waits."""
        if not self._ticking:
            self._ticking = True
            self.loop.call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        self._ticking = False
        self._carry_out(self.queries.due(time.monotonic_ns()))
        self.transactions.expire()
        if len(self.queries) or self.transactions.waiting:
            self.tick_soon()

    def _carry_out(self, verdict: Verdict) -> None:
        for number, why in verdict.kill:
            self.counts.stopped += 1
            self._control.send({"ask": "kill_reader", "reader": number, "why": why})
        self.asked.fail(verdict.failed)
        self.pump_soon()

    # The end.

    async def _drain(self) -> None:
        """Take nothing new, answer what is in flight, say goodbye, end."""
        if self.draining:
            return
        self.draining = True
        for server in self._servers:
            server.close()
        for connection in list(self._connections.values()):
            if connection.state in (State.GREETING, State.OPENING):
                connection.end(ShuttingDown("the server is shutting down"))
            else:
                connection.answer(encode_frame(Kind.CLOSING))
        deadline = self.loop.time() + self.settings.limits.drain_ms / 1000
        while self._in_flight() and self.loop.time() < deadline:
            await asyncio.sleep(TICK_S)
        left = self._in_flight()
        if left:
            log.warning("%d calls were not answered within drain_ms", left)
        self._give_up_the_rest()
        deadline = self.loop.time() + FLUSH_S
        while not self._flushed() and self.loop.time() < deadline:
            await asyncio.sleep(TICK_S)
        for link in list(self._readers.values()):
            link.close()
        # Once around the loop, so that transports do close.
        await asyncio.sleep(0)
        self._ended.set_result(0)

    def _in_flight(self) -> int:
        return len(self.transactions) + len(self.queries)

    def _give_up_the_rest(self) -> None:
        error = ShuttingDown("the server is shutting down")
        self.transactions.end(error)
        self.asked.fail(self.queries.give_up(error))
        if self.transactions.link is not None:
            self.transactions.link.close()
        for connection in list(self._connections.values()):
            connection.end()

    def _flushed(self) -> bool:
        return all(connection.flushed for connection in self._connections.values())
