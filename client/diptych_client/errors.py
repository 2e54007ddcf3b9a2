"""The errors a call can end with, and their form on the wire.

One root, DiptychError, and four families that say what to do next. CallError: the call itself is
wrong, do not repeat it. Unavailable: nothing happened, it may be repeated. OutcomeUnknown,
OutcomeForgotten and SessionExpired: a transaction was sent, and it can't be told (now, or any more)
whether it ran. The rest: it did not run to its end and changed nothing, and somebody should look
into it. Rejected stands beside them: the application said no.

Each class has a `code`, unique among all of them; ERROR frames carry the code and a message, and a
class's `fields` by name. `error_from` and `payload_of` are each other's inverse. Knows nothing of
frames or sockets. The server raises and sends these same classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class DiptychError(Exception):
    """The root. `code` names the kind of error, on the wire and in logs."""

    code: str = "error"
    fields: ClassVar[dict[str, type]] = {}
    """Attributes that travel beside code and message, with their types; __init__ takes them."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return self.message or self.code.replace("_", " ")

    def __reduce__(self) -> tuple[Any, ...]:
        # By the payload rather than by __init__'s arguments: subclasses take more of them.
        return error_from, (payload_of(self),), self.__dict__


class Rejected(DiptychError):
    """The application refused: its code and details. All that the transaction wrote is undone.

    Equal to another by code and details. Handlers raise it with a literal code and keywords:
    `raise Rejected("insufficient_funds", needed=amount, available=account.cash)`.
    """

    def __init__(self, code: str, /, **details: Any) -> None:
        super().__init__()
        self.code = code
        self.details: dict[str, Any] = details

    def __str__(self) -> str:
        if not self.details:
            return self.code
        return self.code + ": " + ", ".join(f"{k}={v!r}" for k, v in self.details.items())

    def __repr__(self) -> str:
        return (
            "".join([f"Rejected({self.code!r}", *(f", {k}={v!r}" for k, v in self.details.items())])
            + ")"
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Rejected):
            return NotImplemented
        return self.code == other.code and self.details == other.details

    # By the code alone: details may hold lists, and equal objects must hash alike.
    def __hash__(self) -> int:
        return hash((Rejected, self.code))

    def __reduce__(self) -> tuple[Any, ...]:
        return _rejected, (self.code, self.details)


class CallError(DiptychError):
    """The call is wrong; sent again it fails again. Nothing happened."""

    code = "call_error"


class UnknownOperation(CallError):
    """The application has no operation of this name or number."""

    code = "unknown_operation"


class BadArguments(CallError):
    """An argument is missing, too many, of the wrong type or out of bounds.

    `parameter` names it; it is empty when no single one is to blame.
    """

    code = "bad_arguments"
    fields: ClassVar[dict[str, type]] = {"parameter": str}

    def __init__(self, message: str = "", parameter: str = "") -> None:
        super().__init__(message)
        self.parameter = parameter


class Forbidden(CallError):
    """The token is missing, unknown, or does not permit this."""

    code = "forbidden"


class Unavailable(DiptychError):
    """Nothing happened; the same call may succeed later."""

    code = "unavailable"


class Busy(Unavailable):
    """Too many calls are in flight or waiting."""

    code = "busy"


class TimedOut(Unavailable):
    """The deadline passed before a transaction was sent, or before a query was answered."""

    code = "timed_out"


class Disconnected(Unavailable):
    """There is no connection, or it was lost before anything could happen."""

    code = "disconnected"


class ShuttingDown(Unavailable):
    """The server is ending in order and takes no more calls."""

    code = "shutting_down"


class HistoryChanged(Unavailable):
    """The server recovered to an earlier state: transactions this client saw may be gone.

    `history` and `sequence` are the server's. The client has taken them over when it raises this,
    so the next query answers from the new history.
    """

    code = "history_changed"
    fields: ClassVar[dict[str, type]] = {"history": int, "sequence": int}

    def __init__(self, message: str = "", history: int = 0, sequence: int = 0) -> None:
        super().__init__(message)
        self.history = history
        self.sequence = sequence


class NotExecuted(Unavailable):
    """The transaction that was asked about did not run, and now never will."""

    code = "not_executed"


class LogFailed(Unavailable):
    """The server's log can't be written: it takes no transactions, and goes on with queries."""

    code = "log_failed"


class OutcomeForgotten(DiptychError):
    """A retry, or a question, about a transaction of so long ago that its answer is not kept.

    It was not run again.
    """

    code = "outcome_forgotten"


class SessionExpired(DiptychError):
    """The session that a transaction was sent on is not known any more. It was not run again."""

    code = "session_expired"


class IdentityConflict(CallError):
    """A request number or key was used before, for another call: two clients share one identity.

    This call did not run.
    """

    code = "identity_conflict"


class OverBudget(DiptychError):
    """A transaction took longer than the server allows. All that it wrote is undone."""

    code = "over_budget"


class SetAside(DiptychError):
    """A transaction that ended the server's writer, repeatedly: it is on record, and never runs."""

    code = "set_aside"


class OutcomeUnknown(DiptychError):
    """A transaction was sent, its answer never came: it ran once or not at all.

    `request` identifies it, as text; `client.outcome(request)` asks what became of it.
    """

    code = "outcome_unknown"
    fields: ClassVar[dict[str, type]] = {"request": str}

    def __init__(self, message: str = "", request: str = "") -> None:
        super().__init__(message)
        self.request = request


class ServerError(DiptychError):
    """A bug in a handler or in the server. `error_id` finds the traceback in the server's log."""

    code = "server_error"
    fields: ClassVar[dict[str, type]] = {"error_id": str}

    def __init__(self, message: str = "", error_id: str = "") -> None:
        super().__init__(message)
        self.error_id = error_id


class ResultTooLarge(DiptychError):
    """The result is larger than the server sends. A transaction's writes are undone."""

    code = "result_too_large"


class ProtocolError(DiptychError):
    """The other side sent bytes that have no meaning. The connection is closed."""

    code = "protocol"


ERRORS: dict[str, type[DiptychError]] = {
    cls.code: cls
    for cls in (
        DiptychError,
        CallError,
        UnknownOperation,
        BadArguments,
        Forbidden,
        Unavailable,
        Busy,
        TimedOut,
        Disconnected,
        ShuttingDown,
        HistoryChanged,
        NotExecuted,
        LogFailed,
        OutcomeForgotten,
        SessionExpired,
        IdentityConflict,
        OverBudget,
        SetAside,
        OutcomeUnknown,
        ServerError,
        ResultTooLarge,
        ProtocolError,
    )
}
"""Every class by its code."""


def error_from(payload: Mapping[str, Any]) -> DiptychError:
    """The error an ERROR frame's payload describes.

    A code this version does not know becomes a plain DiptychError with that code, so that an
    older client still shows a newer server's errors.
    """
    code = str(payload.get("code", DiptychError.code))
    message = str(payload.get("message", ""))
    cls = ERRORS.get(code)
    if cls is None:
        error = DiptychError(message)
        error.code = code
        return error
    fields = {
        name: payload[name]
        for name, kind in cls.fields.items()
        if isinstance(payload.get(name), kind)
    }
    return cls(message, **fields)


def payload_of(error: DiptychError) -> dict[str, Any]:
    """What an ERROR frame carries for `error`: code, message and its class's fields."""
    payload: dict[str, Any] = {"code": error.code, "message": str(error)}
    for name in error.fields:
        payload[name] = getattr(error, name)
    return payload


def _rejected(code: str, details: dict[str, Any]) -> Rejected:
    return Rejected(code, **details)
