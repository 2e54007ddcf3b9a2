"""A client's side of one server's connections, without I/O: bytes in, finished calls out.

Knows: its identity and session, request numbers, which calls wait and which are in flight, the
server's in-flight limits, deadlines (numbers on a clock the caller reads), the newest sequence
number seen and the history it belongs to, and what becomes of each call when a connection is lost.
Does not know sockets, event loops, threads or clocks; it is not safe to use from two threads at
once.

Who drives it: `open()` at each new connection gives the first bytes to send; bytes read go into
`read_buffer()` and are counted in with `received()`, which raises when the connection must be
dropped; `lost()` says that it was; `data_to_send()` collects whatever may be sent now; `expire()`
is due at `next_check`. Calls with a waiter that ended in any of these are in `take_finished()`.

Each call ends exactly once: with a value, or with an error. A transaction that was sent and whose
answer did not come is sent again on the next connection, first and in its old order, with the same
number and bytes: the server gives the first answer, or runs it now. It ends with OutcomeUnknown
when its deadline passes first or its session is gone, never with an error that says nothing
happened. A call whose caller has gone is not sent again.
"""

from __future__ import annotations

import os
from contextlib import suppress
from enum import Enum
from math import inf
from typing import Any, NamedTuple

from diptych_client.calls import Call, Lane
from diptych_client.errors import (
    BadArguments,
    Busy,
    DiptychError,
    Disconnected,
    Forbidden,
    HistoryChanged,
    NotExecuted,
    OutcomeUnknown,
    ProtocolError,
    Rejected,
    ShuttingDown,
    TimedOut,
    Unavailable,
    error_from,
    payload_of,
)
from diptych_client.operations import (
    Operation,
    packer,
    read_operations,
    unknown_operation,
    unpack,
)
from diptych_client.protocol import (
    FIRST_OTHER_REQUEST,
    FRAME_BYTES_DEFAULT,
    HEADER,
    IDENTITY_BYTES,
    PREAMBLE,
    REQUEST_WINDOW,
    RESULT_BYTES_DEFAULT,
    SESSION_MIN,
    WELCOME_BYTES_MAX,
    FrameSplitter,
    Kind,
    encode_frame,
)
from diptych_client.requests import numbered

WAITING_CALLS_MAX = 65_536
"""Calls of one lane that wait unsent before the next one is refused as Busy."""

_TRANSACTIONS = (int(Kind.TRANSACTION), int(Kind.KEYED))
_QUERY = int(Kind.QUERY)
_RESULT = int(Kind.RESULT)
_REPLIES = frozenset({Kind.RESULT, Kind.REJECTED, Kind.ERROR, Kind.PONG})


class State(Enum):
    """Where the connection stands."""

    NEW = "not connected yet"
    GREETING = "connecting"
    READY = "ready"
    DRAINING = "draining"  # the server is ending: answers still come, nothing more is sent
    LOST = "disconnected"
    CLOSED = "closed"


class Limits(NamedTuple):
    """What the server takes, from WELCOME."""

    frame_bytes: int = FRAME_BYTES_DEFAULT
    transactions_in_flight: int = 1
    queries_in_flight: int = 1
    query_ms: int = 0
    result_bytes: int = RESULT_BYTES_DEFAULT


class Core:
    """See the module. `address` is only for messages."""

    def __init__(
        self,
        address: str,
        *,
        token: str | None = None,
        client: str = "diptych-client",
        waiting_max: int = WAITING_CALLS_MAX,
        identity: bytes | None = None,
    ) -> None:
        self.address = address
        self.identity = os.urandom(IDENTITY_BYTES) if identity is None else identity
        """Says on each connection that it is still this client: the same one, the same session."""
        self.state = State.NEW
        self.app = ""
        self.server_version = ""
        self.operations: dict[str, Operation] | None = None
        self.limits = Limits()
        self.session = 0
        """Where the server remembers this client's transactions; below SESSION_MIN it doesn't."""
        self.history = 0
        self.sequence = 0
        """The newest sequence number that a reply carried in this history."""
        self.transactions = Lane(1)
        # Numbered apart, so that the numbers of transactions have no gaps: a server remembers a
        # window of them.
        self.queries = Lane(FIRST_OTHER_REQUEST)
        self.next_check = inf
        """No deadline passes before this time; call expire() then."""
        self.replies_count = 0
        """Replies on this connection."""
        self.trouble = ""
        """Why there is no connection, for messages."""
        self._token = token
        self._client = client
        self._waiting_max = waiting_max
        self._fingerprint: bytes | None = None
        self._pack = packer()
        self._splitter = FrameSplitter(WELCOME_BYTES_MAX)
        # Sent and not answered yet, in the order sent. Also calls whose deadline passed: the
        # server still counts them as in flight.
        self._pending: dict[int, Call] = {}
        self._finished: list[Call] = []

    # --- calls

    def operation(self, name: str) -> Operation:
        """Raises UnknownOperation, with the nearest name there is."""
        operations = self.operations or {}
        operation = operations.get(name)
        if operation is None:
            raise unknown_operation(name, operations)
        return operation

    def lane(self, kind: int) -> Lane:
        return self.transactions if kind in _TRANSACTIONS else self.queries

    def submit(
        self,
        kind: int,
        operation: Operation | None,
        payload: bytes,
        deadline: float,
        fresh: bool = True,
        waiter: Any = None,
        *,
        number: int = 0,
        named: str = "",
    ) -> Call:
        """Put a call in line. Raises BadArguments, Busy, Disconnected; then nothing was put.

        `number` is that of the system operation where there is no `operation`; `named` is the
        transaction's name if it has one that does not depend on the session.
        """
        lane = self.lane(kind)
        if len(lane.waiting) >= self._waiting_max:
            raise Busy(f"{len(lane.waiting):,} calls to {self.address} wait already")
        if len(payload) > self.limits.frame_bytes:
            raise BadArguments(
                f"the arguments take {len(payload):,} bytes;"
                f" {self.address} takes {self.limits.frame_bytes:,}"
            )
        if self.state is State.CLOSED:
            raise Disconnected("this client is closed")
        if operation is not None:
            number = operation.number
        call = Call(kind, operation, payload, deadline, fresh, waiter, number, named)
        lane.waiting[call] = None
        if deadline < self.next_check:
            self.next_check = deadline
        return call

    def abandon(self, call: Call) -> None:
        """Nobody waits for this call any more. It is not sent, or not sent again."""
        if not call.done:
            call.done = True
            self.lane(call.kind).waiting.pop(call, None)

    def take_finished(self) -> list[Call]:
        finished = self._finished
        if finished:
            self._finished = []
        return finished

    @property
    def pending_count(self) -> int:
        """Requests the server has not answered yet."""
        return len(self._pending)

    @property
    def waiting_count(self) -> int:
        """Calls to be sent, for the first time or again."""
        return len(self.transactions.waiting) + len(self.queries.waiting)

    # --- the connection

    def open(self) -> bytes:
        """A new connection stands; returns what to send first."""
        self.state = State.GREETING
        self.replies_count = 0
        self._splitter = FrameSplitter(WELCOME_BYTES_MAX)
        hello = {
            "client": self._client,
            "token": self._token,
            "fingerprint": self._fingerprint,
            "identity": self.identity,
        }
        return PREAMBLE + encode_frame(Kind.HELLO, self._pack(hello))

    def data_to_send(self) -> bytes:
        """Every waiting call that the limits let go, as one piece of bytes; they count as sent."""
        if self.state is not State.READY:
            return b""
        parts: list[bytes] = []
        pack = HEADER.pack
        pending = self._pending
        for lane, session in ((self.transactions, self.session), (self.queries, 0)):
            waiting = lane.waiting
            while waiting and lane.in_flight < lane.in_flight_max:
                call, _ = waiting.popitem(last=False)
                request = call.request
                if not request:
                    request = call.request = lane.next_request
                    lane.next_request = request + 1
                lane.in_flight += 1
                pending[request] = call
                kind = call.kind
                sequence, context = 0, session
                if kind == _QUERY and call.fresh and self.history and self.sequence:
                    sequence, context = self.sequence, self.history
                payload = call.payload
                parts.append(pack(len(payload), kind, 0, call.number, request, sequence, context))
                parts.append(payload)
        return b"".join(parts)

    def read_buffer(self) -> memoryview:
        """Room for the next read."""
        return self._splitter.buffer()

    def received(self, count: int) -> None:
        """Take in `count` bytes that were read into the buffer.

        Raises ProtocolError when they have no meaning, or the error with which the server ends
        the connection (Forbidden, ShuttingDown, Busy). Drop the connection then, and call lost().
        """
        for kind, operation, request, sequence, context, payload in self._splitter.received(count):
            if self.state is State.GREETING:
                self._on_greeting(kind, payload)
            elif kind in _REPLIES:
                self._on_reply(kind, operation, request, sequence, context, payload)
            elif kind == Kind.CLOSING:
                self.state = State.DRAINING
                self.trouble = "the server is shutting down"
            else:
                raise ProtocolError(f"a frame of kind {kind}, which no server sends now")

    def lost(self, cause: Exception | None = None) -> None:
        """The connection is gone. Ends or keeps each call in flight; those unsent stay."""
        if self.state is State.CLOSED:
            return
        self.state = State.LOST
        self.trouble = str(cause) if cause else self.trouble or "the server closed the connection"
        again: list[Call] = []
        for call in self._pending.values():
            if call.done:
                continue
            if call.may_have_run:
                # Bytes without meaning once more would come for ever.
                hopeless = call.repeated and isinstance(cause, ProtocolError)
                if (self.session >= SESSION_MIN or call.named) and not hopeless:
                    again.append(call)
                else:
                    self._fail(call, self._outcome_unknown(call, "the connection was lost"), cause)
            elif isinstance(cause, ProtocolError):
                self._fail(call, ProtocolError(str(cause)), cause)
            elif call.repeated:
                trouble = "the connection was lost again while a query was in flight"
                self._fail(call, Disconnected(trouble), cause)
            else:
                again.append(call)
        self._pending.clear()
        for lane in (self.transactions, self.queries):
            lane.in_flight = 0
            lane.put_first([call for call in again if self.lane(call.kind) is lane])
        for call in again:
            call.repeated = True

    def fail_waiting(self, error: DiptychError, *, bound: bool = False) -> None:
        """End every call that is to be sent; with `bound`, only those encoded for an operation."""
        for lane in (self.transactions, self.queries):
            for call in list(lane.waiting):
                if call.operation is not None or not bound:
                    del lane.waiting[call]
                    if call.may_have_run:
                        self._fail(call, self._outcome_unknown(call, str(error)), error)
                    else:
                        # Each caller gets its own: a raised exception collects a traceback.
                        self._fail(call, error_from(payload_of(error)))

    def close(self) -> None:
        """The user is done: ends every call."""
        closed = Disconnected("this client was closed")
        self.lost(closed)
        self.state = State.CLOSED
        self.fail_waiting(closed)

    def expire(self, now: float) -> None:
        """End the calls whose deadline has passed, and find the next deadline."""
        earliest = inf
        for lane in (self.transactions, self.queries):
            for call in list(lane.waiting):
                if call.deadline > now:
                    earliest = min(earliest, call.deadline)
                    continue
                del lane.waiting[call]
                if call.may_have_run:
                    why = f"no answer in time{self._why()}"
                    self._fail(call, self._outcome_unknown(call, why))
                else:
                    trouble = f"not sent in time to {self.address}{self._why()}"
                    self._fail(call, TimedOut(trouble))
        for call in self._pending.values():
            if call.done:
                continue
            if call.deadline > now:
                earliest = min(earliest, call.deadline)
            elif call.may_have_run:
                self._fail(call, self._outcome_unknown(call, "no answer in time"))
            else:
                self._fail(call, TimedOut(f"no answer in time from {self.address}"))
        self.next_check = earliest

    def describe(self) -> str:
        """State and counts, for __repr__."""
        app = f"{self.app} at " if self.app else ""
        return (
            f"{app}{self.address}: {self.state.value};"
            f" in flight: transactions {self.transactions.in_flight},"
            f" queries {self.queries.in_flight}; waiting: {self.waiting_count}"
        )

    # --- frames

    def _on_greeting(self, kind: int, payload: bytes) -> None:
        content = unpack(payload)
        if kind == Kind.ERROR and isinstance(content, dict):
            raise error_from(content)
        if kind != Kind.WELCOME:
            raise ProtocolError(f"a frame of kind {kind} where WELCOME was due")
        try:
            self._on_welcome(content)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ProtocolError(f"a WELCOME without meaning: {error!r}") from error

    def _on_welcome(self, welcome: dict[str, Any]) -> None:
        limits = Limits(**{name: int(welcome["limits"][name]) for name in Limits._fields})
        if min(limits.transactions_in_flight, limits.queries_in_flight) < 1:
            raise ValueError(limits)
        session = int(welcome["session"])
        fingerprint, described = welcome["fingerprint"], welcome["operations"]
        if described is not None:
            operations = read_operations(described)
        elif self.operations is not None and fingerprint == self._fingerprint:
            operations = self.operations
        else:
            raise ValueError("no operations")
        if self._fingerprint not in (None, fingerprint):
            changed = "the application changed while this call waited for a connection"
            self.fail_waiting(Disconnected(changed), bound=True)
        self.operations, self._fingerprint = operations, fingerprint
        self.app, self.server_version = str(welcome["app"]), str(welcome["server"])
        if session != self.session:
            self._leave_session()
            self.session = session
        if not (self.history and self.sequence):
            self._take_history(int(welcome["history"]), int(welcome["sequence"]))
        # Else, should it be another one, the next query asks by the old one and is told so: a
        # caller whose acknowledged work may be gone must hear of it.
        self.limits = limits
        # So that what has no answer yet stays within what the server remembers.
        self.transactions.in_flight_max = min(limits.transactions_in_flight, REQUEST_WINDOW)
        self.queries.in_flight_max = limits.queries_in_flight
        self._splitter.payload_bytes_max = max(limits.result_bytes, limits.frame_bytes)
        self.state = State.READY
        self.trouble = ""

    def _leave_session(self) -> None:
        """The server does not know the old session any more: only names hold beyond it."""
        waiting = self.transactions.waiting
        for call in [call for call in waiting if call.may_have_run and not call.named]:
            del waiting[call]
            self._fail(call, self._outcome_unknown(call, "the server has lost its session"))

    def _on_reply(
        self, kind: int, operation: int, request: int, sequence: int, context: int, payload: bytes
    ) -> None:
        call = self._pending.pop(request, None)
        if call is None:
            if kind == Kind.ERROR and request == 0:
                raise self._error_in(payload)
            raise ProtocolError(f"an answer to request {request}, which is not in flight")
        self.replies_count += 1
        lane = self.lane(call.kind)
        lane.in_flight -= 1
        if sequence > self.sequence:
            self.sequence = sequence
        call.sequence = sequence
        call.age_us = context
        try:
            if kind == _RESULT and call.operation is not None:
                if not call.done:
                    call.value = call.operation.decode(payload)
                    self._finish(call)
            else:
                self._end(call, kind, operation, payload)
        except ProtocolError as error:
            # Asked again, the server would say the same again.
            if call.may_have_run:
                why = "its answer has no meaning"
                self._fail(call, self._outcome_unknown(call, why), error)
            else:
                self._fail(call, ProtocolError(str(error)), error)
            raise

    def _end(self, call: Call, kind: int, operation: int, payload: bytes) -> None:
        """The ends but the usual one."""
        if kind == _RESULT:
            value = self._first_value(operation, payload) if call.number else unpack(payload)
            if not call.done:
                call.value = value
                self._finish(call)
        elif kind == Kind.PONG:
            self._finish(call)
        elif kind == Kind.REJECTED:
            self._fail(call, self._rejection_in(payload))
        else:
            self._on_error(call, self._error_in(payload))

    def _first_value(self, number: int, payload: bytes) -> Any:
        """What operation `number` gave when it ran, which may have been for an older application:
        what does not fit this one's result comes as it is."""
        for operation in (self.operations or {}).values():
            if operation.number == number:
                with suppress(ProtocolError):
                    return operation.decode(payload)
        return unpack(payload)

    def _on_error(self, call: Call, error: DiptychError) -> None:
        cause: Exception | None = None
        if isinstance(error, HistoryChanged):
            self._take_history(error.history, error.sequence)
        elif isinstance(error, OutcomeUnknown):
            error = self._outcome_unknown(call, error.message)
        elif self._is_about_this_copy(call, error):
            if isinstance(error, ShuttingDown) and not call.done:
                # Nothing more is sent on this connection, so the next one takes it.
                self.state = State.DRAINING
                self.transactions.put_first([call])
                return
            error, cause = self._outcome_unknown(call, str(error)), error
        self._fail(call, error, cause)

    def _is_about_this_copy(self, call: Call, error: DiptychError) -> bool:
        """Whether `error` tells only that a transaction sent again was not taken this time: with no
        sequence number it was not run and not looked up, and the first copy may have run."""
        return (
            call.repeated
            and call.may_have_run
            and not call.sequence
            and isinstance(error, Unavailable | Forbidden)
            and not isinstance(error, NotExecuted)
        )

    def _error_in(self, payload: bytes) -> DiptychError:
        content = unpack(payload)
        if not isinstance(content, dict):
            raise ProtocolError("an ERROR frame without a map")
        return error_from(content)

    def _rejection_in(self, payload: bytes) -> Rejected:
        try:
            code, details = unpack(payload)
            return Rejected(code, **details)
        except (TypeError, ValueError) as error:
            raise ProtocolError(f"a REJECTED frame without code and details: {error}") from error

    # --- how calls end

    def _take_history(self, history: int, sequence: int) -> None:
        # Sequence numbers of another history mean nothing here. Starting from the server's own
        # number keeps what survived readable; for the first history there is nothing to keep.
        if history != self.history:
            self.sequence = sequence if self.history else 0
            self.history = history

    def _outcome_unknown(self, call: Call, why: str) -> OutcomeUnknown:
        name = call.operation.name if call.operation is not None else "a transaction"
        message = f"{name} was sent to {self.address}: {why}; it may have run or not"
        return OutcomeUnknown(message, call.named or numbered(self.session, call.request))

    def _why(self) -> str:
        if self.state is State.READY:
            return ": too many calls in flight"
        return f": {self.trouble}" if self.trouble else ""

    def _fail(self, call: Call, error: DiptychError, cause: Exception | None = None) -> None:
        if not call.done:
            error.__cause__ = cause
            call.error = error
            self._finish(call)

    def _finish(self, call: Call) -> None:
        if not call.done:
            call.done = True
            if call.waiter is not None:
                self._finished.append(call)
