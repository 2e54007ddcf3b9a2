"""What both clients show their users beside calls: replies, names, options.

`RESERVED_NAMES` are the names no operation may have: an operation of that name could not be called
as an attribute of a client. Servers refuse them when an application declares them, so the set also
holds names that coming versions need. Names that start with an underscore are reserved too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from diptych_client.errors import BadArguments
from diptych_client.operations import Operation

if TYPE_CHECKING:
    from diptych_client.core import Core

DEFAULT_TIMEOUT_S = 10.0

RESERVED_NAMES = frozenset(
    {
        # Members of the clients; a test compares them with the classes.
        *("admin", "app", "call", "call_many", "close", "connect", "info", "operations", "outcome"),
        *("ping", "reply", "server_version", "using"),
        # Kept free.
        *("changes", "load", "publish", "request", "session", "sql", "subscribe"),
        *("transaction", "watch"),
    }
)


class Reply(NamedTuple):
    """A value with the state it was made from.

    `sequence` is the number of the last transaction in that state (for a transaction: its own);
    `age_ms` says how old the state was when a query read it, 0 for a transaction.
    """

    value: Any
    sequence: int
    age_ms: float


def name_of(operation: str | Callable[..., Any]) -> str:
    """The operation's name, given it or the function that the application declared."""
    if isinstance(operation, str):
        return operation
    name = getattr(operation, "__name__", None)
    if not isinstance(name, str):
        raise TypeError(f"an operation's name or function is needed, not {operation!r}")
    return name


def one_call_only(request: str) -> None:
    """Raises BadArguments for an own key where many calls are made."""
    if request:
        raise BadArguments(
            f"using(request={request!r}) names one call; call_many() makes many", "request"
        )


def refuse_private(name: str, owner: object) -> None:
    """Attributes that start with an underscore are never operations; tools probe for them."""
    if name.startswith("_"):
        raise AttributeError(f"{type(owner).__name__!r} object has no attribute {name!r}")


class ServerSaid(ABC):
    """What a client knows of its server; nothing before the first connection."""

    @property
    @abstractmethod
    def _core(self) -> Core:
        """The connection's state."""

    @property
    def app(self) -> str:
        """The application's name; empty before the first connection."""
        return self._core.app

    @property
    def server_version(self) -> str:
        """Empty before the first connection."""
        return self._core.server_version

    @property
    def operations(self) -> Mapping[str, Operation]:
        """Every operation by name; empty before the first connection."""
        return MappingProxyType(self._core.operations or {})

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *(self._core.operations or ())})

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._core.describe()}>"
