"""Errors of the server side that are not sent to clients as they are.

What a caller of an operation may see (`Rejected` and the rest) lives in `diptych_client.errors`,
since both sides must agree on it. Here are the errors of those who write or run an application.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from diptych_client.errors import Rejected, Unavailable


class DeclarationError(Exception):
    """An application declares something that can't work. Raised while its module is imported."""


class ConfigurationError(Exception):
    """A configuration file, environment variable or flag is wrong. Exit code 2."""


class EvolutionError(ConfigurationError):
    """Stored data and the application's tables do not go together; the message says how."""


class CorruptionError(Exception):
    """Data contradicts itself: a damaged file, memory written from outside, or a bug in Diptych."""


class OutOfMemory(Unavailable):
    """The machine has no memory left for a table that must grow. Code `unavailable`: nothing
    happened, and the same call may succeed when there is."""


class TableFull(Rejected):
    """An insert beyond a table's capacity. Code `table_full`; `setting` is what raises it."""

    def __init__(self, table: str, capacity: int) -> None:
        setting = f"[tables.{table}] capacity"
        super().__init__("table_full", table=table, capacity=capacity, setting=setting)


class HeapFull(TableFull):
    """No room for a value in a table's heap, as long as `heap_bytes` says. Code `table_full`;
    `setting` is what raises it.
    """

    def __init__(self, table: str, heap_bytes: int) -> None:
        setting = f"[tables.{table}] heap_bytes"
        Rejected.__init__(self, "table_full", table=table, heap_bytes=heap_bytes, setting=setting)


class BadValue(Rejected):
    """A value that its column can't hold. Code `bad_value`."""

    def __init__(self, table: str, column: str, value: Any, limit: str) -> None:
        shown = value if isinstance(value, int | float | str | bool | None) else repr(value)
        if isinstance(shown, int) and not -(2**63) <= shown < 2**64:
            shown = str(shown)
        super().__init__("bad_value", table=table, column=column, value=shown, limit=limit)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest known word, or nothing."""
    near = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else ""
