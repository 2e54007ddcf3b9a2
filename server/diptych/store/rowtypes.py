"""Row types: one class a table and open region, with a property a column.

A row is a slot number and nothing else. Reading a column is one memoryview access; writing one is
one kernel call, which checks that the row is live and saves the old word in the undo log.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diptych.errors import did_you_mean
from diptych.schema import Column
from diptych.store import calls
from diptych.store import words as at
from diptych.store.faults import ReadOnly, StaleRow, fault
from diptych.store.layout import TableLayout
from diptych.store.values import Codec
from diptych.store.views import Space
from diptych_client.errors import Rejected


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


def row_type(space: Space, table: TableLayout, codecs: dict[str, Codec]) -> type[Row]:
    """The row class of one table in one open region."""
    names = [column.name for column in table.spec.columns]
    indexed = {column.name for index in table.indexes for column in index.spec.columns}
    members: dict[str, Any] = {"__slots__": (), "__module__": table.spec.record.__module__}
    for column in table.spec.columns:
        getter = _getter(space, table, column, codecs[column.name])
        if column.key:
            setter = _refusal(f"{table.spec.name}.{column.name} is part of the key")
        elif not space.writable:
            setter = _refusal("a query can't change data")
        else:
            setter = _setter(space, table, column, codecs[column.name], column.name in indexed)
        members[column.name] = property(getter, setter)

    def show(self: Row) -> str:
        if self._row is None:
            return f"<{table.spec.name}: deleted>"
        return f"<{table.spec.name}: " + ", ".join(f"{n}={getattr(self, n)!r}" for n in names) + ">"

    def missing(self: Row, name: str) -> Any:
        raise AttributeError(
            f"table {table.spec.name!r} has no column {name!r}{did_you_mean(name, names)}"
        )

    members["__repr__"], members["__getattr__"] = show, missing
    return type(table.spec.record.__name__, (Row,), members)


def _stale(table: TableLayout) -> StaleRow:
    return StaleRow(f"this row of {table.spec.name} was deleted, or its transaction has ended")


def _refusal(reason: str) -> Callable[[Row, Any], None]:
    def refuse(self: Row, value: Any) -> None:
        raise ReadOnly(reason)

    return refuse


def _getter(space: Space, table: TableLayout, column: Column, codec: Codec) -> Callable[[Row], Any]:
    base = table.bases[column.first_word]
    view: Any = space.word_view(base, table.capacity * column.words)
    if column.words > 1:
        return _wide_getter(space, table, column, base)
    if column.kind == "float":
        view = space.float_view(base, table.capacity)
    if column.kind in ("int", "float") and not codec.members:

        def get(self: Row) -> Any:
            try:
                return view[self._row]
            except TypeError:
                raise _stale(table) from None

        return get
    decoders: dict[str, Callable[[int], Any]] = {
        "int": codec.member,
        "bool": bool,
        "text": codec.text,
    }
    decode = decoders[column.kind]

    def get_decoded(self: Row) -> Any:
        try:
            word = view[self._row]
        except TypeError:
            raise _stale(table) from None
        return decode(word)

    return get_decoded


def _wide_getter(
    space: Space, table: TableLayout, column: Column, base: int
) -> Callable[[Row], str]:
    size_bytes = column.words * 8
    start = base * 8
    raw = space.bytes[start : start + table.capacity * size_bytes]

    def get_text(self: Row) -> str:
        row = self._row
        if row is None:
            raise _stale(table)
        return bytes(raw[row * size_bytes : (row + 1) * size_bytes]).rstrip(b"\0").decode()

    return get_text


def _setter(
    space: Space, table: TableLayout, column: Column, codec: Codec, indexed: bool
) -> Callable[[Row, Any], None]:
    if column.words > 1 or indexed:
        return _kernel_setter(space, table, column, codec)
    words, scratch = space.words, space.scratch
    descriptor, base = table.descriptor, table.bases[column.first_word]
    plain_int = column.kind == "int" and not codec.members
    to_word, assign = codec.word, calls.assign

    def set_word(self: Row, value: Any) -> None:
        row = self._row
        if row is None:
            raise _stale(table)
        word = value if plain_int and type(value) is int else to_word(value)
        try:
            code = assign(words, descriptor, row, base + row, word)
        except OverflowError:
            raise codec.bad(value, "64 bits") from None
        if code < 0:
            raise fault(code, scratch[at.S_FAULT], table)

    return set_word


def _kernel_setter(
    space: Space, table: TableLayout, column: Column, codec: Codec
) -> Callable[[Row, Any], None]:
    words, scratch, first = space.words, space.scratch, column.first_word

    def set_words(self: Row, value: Any) -> None:
        if self._row is None:
            raise _stale(table)
        mark = calls.mark(words)
        for i, word in enumerate(codec.encode(value)):
            code = calls.update(words, table.descriptor, self._row, first + i, word)
            while code < 0 and space.needs_memory(code):
                code = calls.update(words, table.descriptor, self._row, first + i, word)
            if code < 0:
                raised = fault(code, scratch[at.S_FAULT], table)
                calls.rollback(words, mark)
                raise raised

    return set_words


def not_found(table: str, key: Any) -> Rejected:
    """The rejection for a key that no row has."""
    shown = list(key) if isinstance(key, tuple) else key
    return Rejected("not_found", table=table, key=shown)
