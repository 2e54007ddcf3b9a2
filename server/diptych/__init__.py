"""Diptych: in-memory business applications in Python.

Transactions write one block of mapped memory, queries read its mirror. This package offers what an
application is made of; the clients' names are here too, so that one import is enough.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diptych.app import (
    App,
    Columns,
    Day,
    Db,
    Index,
    Table,
    Time,
    between,
    bits,
    data,
    f32,
    i8,
    i16,
    i32,
    i64,
    items,
    key,
    ordered,
    ref,
    scaled,
    text,
    u8,
    u16,
    u32,
    u64,
    unique,
)
from diptych_client.errors import (
    DiptychError,
    IdentityConflict,
    LogFailed,
    NotExecuted,
    OutcomeForgotten,
    OutcomeUnknown,
    OverBudget,
    Rejected,
    SessionExpired,
    SetAside,
)

if TYPE_CHECKING:
    from diptych_client import AsyncClient, Client

__version__ = "0.1.0"

__all__ = [
    "App",
    "AsyncClient",
    "Client",
    "Columns",
    "Day",
    "Db",
    "DiptychError",
    "IdentityConflict",
    "Index",
    "LogFailed",
    "NotExecuted",
    "OutcomeForgotten",
    "OutcomeUnknown",
    "OverBudget",
    "Rejected",
    "SessionExpired",
    "SetAside",
    "Table",
    "Time",
    "__version__",
    "between",
    "bits",
    "data",
    "f32",
    "i8",
    "i16",
    "i32",
    "i64",
    "items",
    "key",
    "ordered",
    "ref",
    "scaled",
    "text",
    "u8",
    "u16",
    "u32",
    "u64",
    "unique",
]


def __getattr__(name: str) -> Any:
    # The clients need asyncio and sockets; declaring an application needs neither.
    if name in ("AsyncClient", "Client"):
        import diptych_client

        return getattr(diptych_client, name)
    raise AttributeError(f"module 'diptych' has no attribute {name!r}")
