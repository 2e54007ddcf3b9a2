"""Client: the same calls as AsyncClient's for code that waits, over a plain socket.

Knows sockets and a lock; what frames mean and what becomes of calls is the core's. There is no
thread behind it: sockets are read, connections opened again and deadlines checked while somebody
is in a call. Several threads may share a Client; their calls take turns, and waiting for one's
turn counts toward the deadline. A Client does not survive fork(): make one in each process.
"""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import inf
from types import EllipsisType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, overload

from diptych_client.calls import Call
from diptych_client.connecting import CONNECT_TIMEOUT_S, Address, Backoff, tune
from diptych_client.core import Core, State
from diptych_client.errors import (
    DiptychError,
    Disconnected,
    ProtocolError,
    TimedOut,
    Unavailable,
)
from diptych_client.operations import packer
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


class _Link:
    """The connection shared by a client and its views; used by who has its `turn`."""

    def __init__(self, address: str, core: Core) -> None:
        self.address = address
        self.core = core
        self._to = Address.parse(address)
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._selector: selectors.BaseSelector | None = None
        self._outgoing = memoryview(b"")
        self._trouble: DiptychError = Disconnected("not connected")
        self._backoff = Backoff()

    @contextmanager
    def turn(self, deadline: float) -> Iterator[None]:
        """Hold the connection, opened if it never was. Raises TimedOut, or why it can't be."""
        wait_s = min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX)
        if not self._lock.acquire(timeout=wait_s):
            raise TimedOut(f"not sent in time to {self.address}: other threads are calling")
        try:
            if self.core.state is State.CLOSED:
                raise Disconnected("this client is closed")
            if self.core.operations is None:
                self._first_connection(deadline)
            yield
        finally:
            self._lock.release()

    def drive(self, call: Call) -> None:
        """Exchange bytes until the call has ended."""
        core = self.core
        try:
            while not call.done:
                now = time.monotonic()
                if core.next_check <= now:
                    core.expire(now)
                elif self._socket is None:
                    self._reopen(core.next_check)
                else:
                    self._exchange(core.next_check - now)
        except BaseException:
            # An interrupt may have come between a read and its count: the stream is lost.
            core.abandon(call)
            self._drop(Disconnected("a call was interrupted"))
            raise

    def catch_up(self) -> None:
        """Take in what came while nobody was calling, an ended connection above all: what is sent
        into one would have an unknown outcome."""
        while self._socket is not None and self._exchange(0, only_read=True):
            continue

    def close(self) -> None:
        with self._lock:
            self._drop(None)
            self.core.close()

    def _first_connection(self, deadline: float) -> None:
        until = min(deadline, time.monotonic() + CONNECT_TIMEOUT_S)
        error = self._attempt(until)
        if error is not None:
            raise error

    def _reopen(self, next_check: float) -> None:
        """Wait a little and make one attempt, by no means past `next_check`."""
        now = time.monotonic()
        time.sleep(min(self._backoff.next_s(), next_check - now))
        now = time.monotonic()
        if now < next_check:
            error = self._attempt(min(next_check, now + CONNECT_TIMEOUT_S))
            if error is not None and not isinstance(error, Unavailable):
                # A wrong token or a server of another kind: waiting would not help.
                self.core.fail_waiting(error)

    def _attempt(self, until: float) -> DiptychError | None:
        """One attempt to connect, up to WELCOME. Returns what went wrong."""
        try:
            self._socket = socket.create_connection(
                self._to, timeout=max(0.001, until - time.monotonic())
            )
        except OSError as refused:
            self._drop(Disconnected(f"cannot connect to {self.address}: {refused}"))
            return self._trouble
        try:
            tune(self._socket)
            self._socket.setblocking(False)
            self._selector = selectors.DefaultSelector()
            self._selector.register(self._socket, selectors.EVENT_READ)
            self._outgoing = memoryview(self.core.open())
            while self.core.state is State.GREETING:
                left_s = until - time.monotonic()
                if left_s > 0:
                    self._exchange(left_s)
                else:
                    self._drop(Disconnected(f"no answer from {self.address} in time"))
        except BaseException:
            self._drop(Disconnected("connecting was interrupted"))
            raise
        return None if self._socket is not None else self._trouble

    def _exchange(self, timeout_s: float, *, only_read: bool = False) -> bool:
        """Write what may be written, wait at most `timeout_s` to read, and read once.

        Returns whether something was read.
        """
        assert self._socket is not None
        assert self._selector is not None
        try:
            if not only_read:
                self._write()
            interest = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outgoing else 0)
            if self._selector.get_key(self._socket).events != interest:
                self._selector.modify(self._socket, interest)
            for _, events in self._selector.select(None if timeout_s == inf else timeout_s):
                if events & selectors.EVENT_READ:
                    self._read()
                    return True
        except (OSError, DiptychError) as error:
            self._drop(error)
        return False

    def _write(self) -> None:
        if not self._outgoing:
            self._outgoing = memoryview(self.core.data_to_send())
        if self._outgoing:
            assert self._socket is not None
            try:
                self._outgoing = self._outgoing[self._socket.send(self._outgoing) :]
            except BlockingIOError:
                return

    def _read(self) -> None:
        assert self._socket is not None
        try:
            count = self._socket.recv_into(self.core.read_buffer())
        except BlockingIOError:
            return
        if count:
            self.core.received(count)
        if not count or (self.core.state is State.DRAINING and not self.core.pending_count):
            self._drop(None)

    def _drop(self, cause: Exception | None) -> None:
        trouble = cause or Disconnected(f"{self.address} closed the connection")
        self._trouble = (
            trouble
            if isinstance(trouble, DiptychError)
            else Disconnected(f"connection to {self.address} lost: {trouble}")
        )
        if self._selector is not None:
            self._selector.close()
            self._selector = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._outgoing = memoryview(b"")
        if self.core.replies_count:
            self._backoff.reset()
        self.core.lost(cause)


class Client(ServerSaid):
    """A blocking client; see the README for a tour.

    `Client("localhost:7171", token=...)`, used with `with` or not; it connects with its first call.
    Every operation of the application is a method: `bank.transfer(1, 2, 50)`. Calls end with the
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

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def connect(self) -> None:
        """Connect now rather than with the first call. Raises Disconnected, Forbidden and so on."""
        with self._link.turn(self._deadline()):
            return

    def close(self) -> None:
        """Close the connection, for all views of it, after the call another thread may be in."""
        self._link.close()

    def using(
        self,
        *,
        timeout: float | EllipsisType | None = ...,
        fresh: bool | EllipsisType = ...,
        request: str | EllipsisType | None = ...,
    ) -> Self:
        """The same connection with other options: `bank.using(timeout=0.2, fresh=False)`.

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

    def __getattr__(self, name: str) -> Callable[..., Any]:
        refuse_private(name, self)

        def operation(*arguments: Any, **named: Any) -> Any:
            return self._run(name, arguments, named).value

        operation.__name__ = operation.__qualname__ = name
        # Found as a plain attribute from now on; it looks the name up at each call.
        self.__dict__[name] = operation
        return operation

    @overload
    def call(self, operation: str, /, *arguments: Any, **named: Any) -> Any: ...
    @overload
    def call(
        self, operation: Callable[Concatenate[Any, P], R], /, *arguments: P.args, **named: P.kwargs
    ) -> R: ...
    def call(self, operation: Any, /, *arguments: Any, **named: Any) -> Any:
        """Call by name, or by the application's function, which types the result."""
        return self._run(name_of(operation), arguments, named).value

    def reply(self, operation: str | Callable[..., Any], /, *arguments: Any, **named: Any) -> Reply:
        """Like call(), with the sequence number the answer belongs to and its age."""
        call = self._run(name_of(operation), arguments, named)
        return Reply(call.value, call.sequence, call.age_us / 1000)

    def call_many(
        self, operation: str | Callable[..., Any], arguments: Iterable[Sequence[Any]]
    ) -> list[Any]:
        """One call for each tuple of arguments, pipelined; results in the same order.

        An error of one call stands in its place. The timeout is each call's own, from when its
        turn comes. Other threads wait for the whole of it. Raises UnknownOperation, and the error
        of a first connection that fails.
        """
        name = name_of(operation)
        one_call_only(self._request)
        link = self._link
        core = link.core
        results: list[Any] = []
        flying: deque[Call | DiptychError] = deque()
        with link.turn(self._deadline()):
            # More than the server takes at once, so that its answers find the next calls ready.
            window = 2 * core.lane(core.operation(name).kind).in_flight_max
            link.catch_up()
            try:
                for each in arguments:
                    if len(flying) >= window:
                        results.append(self._outcome_of(flying.popleft()))
                    try:
                        flying.append(self._start(name, each, {}, self._deadline()))
                    except DiptychError as error:
                        flying.append(error)
                while flying:
                    results.append(self._outcome_of(flying.popleft()))
            finally:
                for left in flying:
                    if isinstance(left, Call):
                        core.abandon(left)
        return results

    def outcome(self, request: str, *, timeout: float | EllipsisType | None = ...) -> Any:
        """What became of a transaction: `request` is an OutcomeUnknown's, or the caller's own key.

        Returns what it returned, or raises what it raised, when it ran. One that has not run by now
        never will: that is NotExecuted. Raises OutcomeForgotten or SessionExpired when it is too
        long ago to tell, OutcomeUnknown when this question itself gets no answer, and BadArguments
        for what is no request. `timeout` in seconds stands in for the client's own.
        """
        asked = question(request)
        view = self if timeout is ... else self.using(timeout=timeout)
        payload = packer()(asked.arguments)
        return view._ask(Kind.TRANSACTION, payload, number=asked.operation, named=request).value

    def admin(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Ask the server itself for something; for tools. `{"do": "checkpoint"}` writes one.

        Asked again when the connection is lost meanwhile, so that it may be done twice.
        """
        answer = self._ask(Kind.ADMIN, packer()(request)).value
        if not isinstance(answer, dict):
            raise ProtocolError("an answer to ADMIN without a map")
        return answer

    def info(self) -> dict[str, Any]:
        """The server's own figures: processes, syncs, memory, counts."""
        info: dict[str, Any] = self._ask(Kind.INFO).value
        return info

    def ping(self) -> float:
        """Milliseconds to the server and back, past no transaction and no query."""
        started = time.monotonic()
        self._ask(Kind.PING)
        return (time.monotonic() - started) * 1000

    def _deadline(self) -> float:
        return inf if self._timeout_s is None else time.monotonic() + self._timeout_s

    def _start(
        self, name: str, arguments: Sequence[Any], named: Mapping[str, Any], deadline: float
    ) -> Call:
        core = self._link.core
        operation = core.operation(name)
        payload = operation.encode(arguments, named)
        key = self._request
        if key and operation.kind is Kind.TRANSACTION:
            payload = keyed(key, payload)
            return core.submit(Kind.KEYED, operation, payload, deadline, named=key)
        return core.submit(operation.kind, operation, payload, deadline, self._fresh)

    def _run(self, name: str, arguments: Sequence[Any], named: Mapping[str, Any]) -> Call:
        deadline = self._deadline()
        with self._link.turn(deadline):
            self._link.catch_up()
            return self._finish(self._start(name, arguments, named, deadline))

    def _ask(self, kind: Kind, payload: bytes = b"", *, number: int = 0, named: str = "") -> Call:
        deadline = self._deadline()
        link = self._link
        with link.turn(deadline):
            link.catch_up()
            call = link.core.submit(kind, None, payload, deadline, number=number, named=named)
            return self._finish(call)

    def _finish(self, call: Call) -> Call:
        self._link.drive(call)
        if call.error is not None:
            raise call.error
        return call

    def _outcome_of(self, call: Call | DiptychError) -> Any:
        if isinstance(call, DiptychError):
            return call
        try:
            return self._finish(call).value
        except DiptychError as error:
            return error

    @property
    def _core(self) -> Core:
        return self._link.core
