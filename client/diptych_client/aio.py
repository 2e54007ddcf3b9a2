"""AsyncClient: many calls in flight on one connection, for asyncio.

Knows event loops and transports; what frames mean and what becomes of calls is the core's. A call
costs one future and no task. Calls made in one iteration of the loop leave in one write, reads are
taken whole, and one timer serves all deadlines.

The connection is opened by `async with` (or by the first call) and opened again, with growing
pauses, whenever it is lost. An AsyncClient belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from math import inf
from types import EllipsisType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, cast, overload

from diptych_client.calls import Call
from diptych_client.connecting import CONNECT_TIMEOUT_S, Address, Backoff, tune
from diptych_client.core import Core, State
from diptych_client.errors import DiptychError, Disconnected, TimedOut, Unavailable
from diptych_client.operations import Operation, packer
from diptych_client.protocol import Kind
from diptych_client.requests import check_key, keyed, question
from diptych_client.surface import (
    DEFAULT_TIMEOUT_S,
    Reply,
    ServerSaid,
    name_of,
    one_call_only,
    refuse_private,
)

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger("diptych_client")

_TIMER_STEP_S = 0.001
"""Deadlines are looked at no more often than this."""


class _Wire(asyncio.BufferedProtocol):
    """One TCP connection. Once dropped it says nothing more to its link."""

    def __init__(self, link: _Link) -> None:
        self._link = link
        self._over = False
        self.transport: asyncio.Transport | None = None
        self.paused = False
        self.welcomed: asyncio.Future[None] = link.loop.create_future()
        self.gone: asyncio.Future[None] = link.loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        tune(self.transport.get_extra_info("socket"))
        self.transport.write(self._link.core.open())

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._link.core.read_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        if not self._over:
            self._link.on_read(self, nbytes)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self._link.flush()

    def connection_lost(self, error: Exception | None) -> None:
        self.drop(error)
        if not self.gone.done():
            self.gone.set_result(None)

    def drop(self, cause: Exception | None) -> None:
        """End this connection now, whatever is in its buffers."""
        if self._over:
            return
        self._over = True
        if self.transport is not None:
            self.transport.abort()
        else:
            self.gone.set_result(None)
        if not self.welcomed.done():
            self.welcomed.set_exception(
                cause or Disconnected(f"{self._link.address} closed the connection")
            )
            self.welcomed.exception()  # whoever waited may have gone already
        self._link.on_lost(self, cause)


class _Link:
    """The connection shared by a client and its views: a core, its wire, and what is scheduled."""

    def __init__(self, address: str, core: Core) -> None:
        self.address = address
        self.core = core
        self.loop: asyncio.AbstractEventLoop = cast("asyncio.AbstractEventLoop", None)
        self._to = Address.parse(address)
        self._wire: _Wire | None = None
        self._opening: asyncio.Task[DiptychError | None] | None = None
        self._reopening: asyncio.Task[None] | None = None
        self._backoff = Backoff()
        self._flush_scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf

    # --- calls

    def deadline(self, timeout_s: float | None) -> float:
        if self.loop is None:
            self.loop = asyncio.get_running_loop()
        return inf if timeout_s is None else self.loop.time() + timeout_s

    def submit(
        self,
        kind: Kind,
        operation: Operation | None,
        payload: bytes,
        deadline: float,
        fresh: bool,
        *,
        number: int = 0,
        named: str = "",
    ) -> Call:
        waiter = self.loop.create_future()
        call = self.core.submit(
            kind, operation, payload, deadline, fresh, waiter, number=number, named=named
        )
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self.loop.call_soon(self.flush)
        if deadline < self._timer_at:
            self._set_timer(deadline)
        return call

    async def finish(self, call: Call) -> Call:
        """Wait for the call's end; raises its error."""
        if not call.done:
            try:
                await call.waiter
            except asyncio.CancelledError:
                self.core.abandon(call)
                raise
        if call.error is not None:
            raise call.error
        return call

    def flush(self) -> None:
        self._flush_scheduled = False
        wire = self._wire
        if wire is not None and wire.transport is not None and not wire.paused:
            data = self.core.data_to_send()
            if data:
                wire.transport.write(data)

    def _settle(self) -> None:
        """Wake those whose calls have ended."""
        for call in self.core.take_finished():
            # The error stays in the call: a future nobody looks at any more must not complain.
            if not call.waiter.done():
                call.waiter.set_result(None)

    def _set_timer(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = when
        self._timer = None if when == inf else self.loop.call_at(when, self._on_timer)

    def _on_timer(self) -> None:
        now = self.loop.time()
        self.core.expire(now)
        self._set_timer(max(self.core.next_check, now + _TIMER_STEP_S))
        self._settle()

    # --- the connection

    async def connect(self, deadline: float) -> None:
        """Wait for the first connection. Raises the error of the attempt, or TimedOut."""
        if self.core.state is State.CLOSED:
            raise Disconnected("this client is closed")
        if self._opening is None:
            self._opening = self.loop.create_task(self._attempt())
        opening = self._opening
        timeout_s = None if deadline == inf else max(0.0, deadline - self.loop.time())
        await asyncio.wait({opening}, timeout=timeout_s)
        if not opening.done():
            raise TimedOut(f"not connected in time to {self.address}")
        error = Disconnected("this client was closed") if opening.cancelled() else opening.result()
        if error is not None:
            # The next caller makes a new attempt.
            if self._opening is opening:
                self._opening = None
            raise error

    async def _attempt(self) -> DiptychError | None:
        """One attempt to connect, up to WELCOME. Returns what went wrong."""
        wire = self._wire = _Wire(self)
        error: DiptychError
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self.loop.create_connection(lambda: wire, *self._to)
                await wire.welcomed
            return None
        except TimeoutError:
            error = Disconnected(f"no answer from {self.address} in {CONNECT_TIMEOUT_S:g} s")
        except OSError as refused:
            error = Disconnected(f"cannot connect to {self.address}: {refused}")
        except DiptychError as refused:
            error = refused
        except asyncio.CancelledError:
            wire.drop(None)
            raise
        wire.drop(error)
        return error

    async def _reopen(self) -> None:
        while True:
            await asyncio.sleep(self._backoff.next_s())
            error = await self._attempt()
            if error is None:
                logger.info("connected again to %s", self.address)
                return
            if not isinstance(error, Unavailable):
                # A wrong token or a server of another kind: waiting would not help those calls.
                self.core.fail_waiting(error)
                self._settle()

    def on_read(self, wire: _Wire, count: int) -> None:
        core = self.core
        try:
            core.received(count)
        except DiptychError as error:
            wire.drop(error)
            return
        if not wire.welcomed.done() and core.state is not State.GREETING:
            wire.welcomed.set_result(None)
        self._settle()
        if core.waiting_count:
            self.flush()
        if core.state is State.DRAINING and not core.pending_count:
            wire.drop(None)

    def on_lost(self, wire: _Wire, cause: Exception | None) -> None:
        if self.core.replies_count:
            self._backoff.reset()
        was_open = self.core.state in (State.READY, State.DRAINING)
        self.core.lost(cause)
        self._settle()
        if was_open:
            logger.info("connection to %s lost: %s", self.address, self.core.trouble)
            self._reopening = self.loop.create_task(self._reopen())

    async def close(self) -> None:
        """End every call and the connection. Idempotent."""
        self.core.close()
        self._settle()
        if self.loop is None:
            return
        self._set_timer(inf)
        tasks = [task for task in (self._opening, self._reopening) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._wire is not None:
            self._wire.drop(None)
            await self._wire.gone


class AsyncClient(ServerSaid):
    """A client for asyncio; see the README for a tour.

    `AsyncClient("localhost:7171", token=...)`, used with `async with`. Every operation of the
    application is a method: `await exchange.place_order(7, "AAPL", side=1)`. Calls end with the
    operation's value or raise a DiptychError; `diptych_client.errors` says what each means.

    A transaction runs at most once. Unanswered when the connection is lost, it is sent again on the
    next one, until its timeout passes: then it ends with OutcomeUnknown, and `outcome()` tells
    later what became of it.

    `timeout` is in seconds per call, None waits for ever; `fresh` makes queries see at least what
    this client has seen before, its own transactions included.
    """

    def __init__(
        self,
        address: str,
        *,
        token: str | None = None,
        timeout: float | None = DEFAULT_TIMEOUT_S,
        fresh: bool = True,
    ) -> None:
        self._link = _Link(address, Core(address, token=token))
        self._timeout_s = timeout
        self._fresh = fresh
        self._request = ""

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def connect(self) -> None:
        """Connect now rather than with the first call. Raises Disconnected, Forbidden and so on."""
        await self._link.connect(self._link.deadline(self._timeout_s))

    async def close(self) -> None:
        """Close the connection, for all views of it. Calls in flight end with an error."""
        await self._link.close()

    def using(
        self,
        *,
        timeout: float | EllipsisType | None = ...,
        fresh: bool | EllipsisType = ...,
        request: str | EllipsisType | None = ...,
    ) -> Self:
        """The same connection with other options: `exchange.using(timeout=0.2, fresh=False)`.

        `request` is a key of the caller's own for one transaction, 1 to 64 bytes of UTF-8: called
        again with the same key and arguments, also by another client with the same token and after
        restarts, it does not run again and ends as it did first; with other arguments it ends with
        IdentityConflict. Queries take no notice of it. Raises BadArguments for what is no key.
        """
        view = type(self).__new__(type(self))
        view._link = self._link
        view._timeout_s = self._timeout_s if timeout is ... else timeout
        view._fresh = self._fresh if fresh is ... else fresh
        if request is ...:
            view._request = self._request
        else:
            view._request = "" if request is None else check_key(request)
        return view

    # --- calls

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        refuse_private(name, self)

        async def operation(*arguments: Any, **named: Any) -> Any:
            return (await self._run(name, arguments, named)).value

        operation.__name__ = operation.__qualname__ = name
        # Found as a plain attribute from now on; it looks the name up at each call.
        self.__dict__[name] = operation
        return operation

    @overload
    async def call(self, operation: str, /, *arguments: Any, **named: Any) -> Any: ...
    @overload
    async def call(
        self, operation: Callable[Concatenate[Any, P], R], /, *arguments: P.args, **named: P.kwargs
    ) -> R: ...
    async def call(self, operation: Any, /, *arguments: Any, **named: Any) -> Any:
        """Call by name, or by the application's function, which types the result."""
        return (await self._run(name_of(operation), arguments, named)).value

    async def reply(
        self, operation: str | Callable[..., Any], /, *arguments: Any, **named: Any
    ) -> Reply:
        """Like call(), with the sequence number the answer belongs to and its age."""
        call = await self._run(name_of(operation), arguments, named)
        return Reply(call.value, call.sequence, call.age_us / 1000)

    async def call_many(
        self, operation: str | Callable[..., Any], arguments: Iterable[Sequence[Any]]
    ) -> list[Any]:
        """One call for each tuple of arguments, pipelined; results in the same order.

        An error of one call stands in its place. The timeout is each call's own, from when its
        turn comes. Raises UnknownOperation, and the error of a first connection that fails.
        """
        name = name_of(operation)
        one_call_only(self._request)
        link = self._link
        core = link.core
        if core.operations is None:
            await link.connect(link.deadline(self._timeout_s))
        # More than the server takes at once, so that its answers find the next calls ready.
        window = 2 * core.lane(core.operation(name).kind).in_flight_max
        results: list[Any] = []
        flying: deque[Call | DiptychError] = deque()
        try:
            for each in arguments:
                if len(flying) >= window:
                    results.append(await self._outcome_of(flying.popleft()))
                try:
                    flying.append(self._start(name, each, {}, link.deadline(self._timeout_s)))
                except DiptychError as error:
                    flying.append(error)
            while flying:
                results.append(await self._outcome_of(flying.popleft()))
        finally:
            for left in flying:
                if isinstance(left, Call):
                    core.abandon(left)
        return results

    async def outcome(self, request: str, *, timeout: float | EllipsisType | None = ...) -> Any:
        """What became of a transaction: `request` is an OutcomeUnknown's, or the caller's own key.

        Returns what it returned, or raises what it raised, when it ran. One that has not run by now
        never will: that is NotExecuted. Raises OutcomeForgotten or SessionExpired when it is too
        long ago to tell, OutcomeUnknown when this question itself gets no answer, and BadArguments
        for what is no request. `timeout` in seconds stands in for the client's own.
        """
        asked = question(request)
        link = self._link
        deadline = link.deadline(self._timeout_s if timeout is ... else timeout)
        if link.core.operations is None:
            await link.connect(deadline)
        payload = packer()(asked.arguments)
        call = link.submit(
            Kind.TRANSACTION, None, payload, deadline, True, number=asked.operation, named=request
        )
        return (await link.finish(call)).value

    async def info(self) -> dict[str, Any]:
        """The server's own figures: processes, syncs, memory, counts."""
        info: dict[str, Any] = (await self._ask(Kind.INFO)).value
        return info

    async def ping(self) -> float:
        """Milliseconds to the server and back, past no transaction and no query."""
        # Not the loop's clock, which counts whole milliseconds in some loops.
        started = time.monotonic()
        await self._ask(Kind.PING)
        return (time.monotonic() - started) * 1000

    def _start(
        self, name: str, arguments: Sequence[Any], named: Mapping[str, Any], deadline: float
    ) -> Call:
        link = self._link
        operation = link.core.operation(name)
        payload = operation.encode(arguments, named)
        key = self._request
        if key and operation.kind is Kind.TRANSACTION:
            payload = keyed(key, payload)
            return link.submit(Kind.KEYED, operation, payload, deadline, True, named=key)
        return link.submit(operation.kind, operation, payload, deadline, self._fresh)

    async def _run(self, name: str, arguments: Sequence[Any], named: Mapping[str, Any]) -> Call:
        link = self._link
        deadline = link.deadline(self._timeout_s)
        if link.core.operations is None:
            await link.connect(deadline)
        return await link.finish(self._start(name, arguments, named, deadline))

    async def _ask(self, kind: Kind) -> Call:
        link = self._link
        deadline = link.deadline(self._timeout_s)
        if link.core.operations is None:
            await link.connect(deadline)
        return await link.finish(link.submit(kind, None, b"", deadline, self._fresh))

    async def _outcome_of(self, call: Call | DiptychError) -> Any:
        if isinstance(call, DiptychError):
            return call
        try:
            return (await self._link.finish(call)).value
        except DiptychError as error:
            return error

    @property
    def _core(self) -> Core:
        return self._link.core
