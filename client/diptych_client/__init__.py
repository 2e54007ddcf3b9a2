"""Clients for Diptych servers: AsyncClient for asyncio, Client for code that waits.

Both speak docs/protocol.md over one TCP connection and raise the same errors. Importing this
package is cheap: the clients, and asyncio with them, are loaded when they are first named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diptych_client.errors import (
    BadArguments,
    Busy,
    CallError,
    DiptychError,
    Disconnected,
    Forbidden,
    HistoryChanged,
    IdentityConflict,
    LogFailed,
    NotExecuted,
    OutcomeForgotten,
    OutcomeUnknown,
    OverBudget,
    ProtocolError,
    Rejected,
    ResultTooLarge,
    ServerError,
    SessionExpired,
    SetAside,
    ShuttingDown,
    TimedOut,
    Unavailable,
    UnknownOperation,
)

if TYPE_CHECKING:
    from diptych_client.aio import AsyncClient
    from diptych_client.blocking import Client
    from diptych_client.operations import Operation, Parameter
    from diptych_client.surface import RESERVED_NAMES, Reply

__version__ = "0.1.0"

_LATER = {
    "AsyncClient": "aio",
    "Client": "blocking",
    "Operation": "operations",
    "Parameter": "operations",
    "Reply": "surface",
    "RESERVED_NAMES": "surface",
}

__all__ = [  # noqa: RUF022 - grouped as a reader looks for them
    # Clients
    "AsyncClient",
    "Client",
    "Reply",
    "Operation",
    "Parameter",
    # What the application says
    "Rejected",
    # The call is wrong
    "CallError",
    "UnknownOperation",
    "BadArguments",
    "Forbidden",
    "IdentityConflict",
    # Nothing happened
    "Unavailable",
    "Busy",
    "TimedOut",
    "Disconnected",
    "ShuttingDown",
    "HistoryChanged",
    "LogFailed",
    "NotExecuted",
    # It may have happened
    "OutcomeUnknown",
    # It was too long ago to tell
    "OutcomeForgotten",
    "SessionExpired",
    # The server stopped it, and undid it
    "OverBudget",
    "SetAside",
    # Something is broken
    "ServerError",
    "ResultTooLarge",
    "ProtocolError",
    # All of them
    "DiptychError",
    # For servers
    "RESERVED_NAMES",
    "__version__",
]


def __getattr__(name: str) -> Any:
    module = _LATER.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
    return value
