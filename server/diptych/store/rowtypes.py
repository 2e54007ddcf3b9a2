"""Row types: one class a table and open region, with a property a column.

A row is a slot number and nothing else. Reading a column is one memoryview access (`getters`);
writing one is a kernel call, which checks that the row is live and saves the old word in the undo
log (`setters`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from diptych.errors import did_you_mean
from diptych.store.faults import ReadOnly, StaleRow, stale
from diptych.store.getters import make_getter
from diptych.store.layout import TableLayout
from diptych.store.setters import Find, make_setter
from diptych.store.values import Codec
from diptych.store.views import Space


class Row:
    """Base of all rows. Equal when they are the same row; no methods, so any column name works."""

    __slots__ = ("_row",)
    _row: int | None

    def __init__(self, row: int) -> None:
        self._row = row

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._row == other._row

    def __hash__(self) -> int:
        return hash(self._row)


def row_type(
    space: Space, table: TableLayout, codecs: Mapping[str, Codec], finds: Mapping[str, Find]
) -> type[Row]:
    """The row class of one table in one open region. `finds`: how to find rows by table."""
    names = [column.name for column in table.spec.columns]
    members: dict[str, Any] = {"__slots__": (), "__module__": table.spec.record.__module__}
    for column in table.spec.columns:
        codec = codecs[column.name]
        if column.key:
            setter = _refusal(f"{table.spec.name}.{column.name} is part of the key")
        elif not space.writable:
            setter = _refusal("a query can't change data")
        else:
            refers = finds[column.reference] if column.reference else None
            setter = make_setter(space, table, column, codec, refers)
        members[column.name] = property(make_getter(space, table, column, codec), setter)

    def show(self: Row) -> str:
        try:
            shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        except StaleRow:
            shown = "not a row any more"
        return f"<{table.spec.name}: {shown}>"

    def missing(self: Row, name: str) -> Any:
        raise AttributeError(
            f"table {table.spec.name!r} has no column {name!r}{did_you_mean(name, names)}"
        )

    members["__repr__"], members["__getattr__"] = show, missing
    return type(table.spec.record.__name__, (Row,), members)


def stale_type(row_class: type[Row], table: str) -> type[Row]:
    """What row objects of that class become when their transaction or query has ended."""

    def refuse(self: Row, *value: Any) -> Any:
        raise stale(table)

    columns = [name for name, member in vars(row_class).items() if isinstance(member, property)]
    members: dict[str, Any] = {name: property(refuse, refuse) for name in columns}
    members |= {"__slots__": (), "__module__": row_class.__module__}
    members["__repr__"] = lambda self: f"<{table}: not a row any more>"
    return type(row_class.__name__, (Row,), members)


def _refusal(reason: str) -> Callable[[Row, Any], None]:
    def refuse(self: Row, value: Any) -> None:
        raise ReadOnly(reason)

    return refuse
