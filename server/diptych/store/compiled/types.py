"""What compiled handlers work with: the database, tables, indexes, rows, ranges, text and bytes.

They are Numba types without Python objects behind them: a database is the address of its region, a
row that address and a slot number. Which table, column or index is meant is part of the type;
where it lies is read from the region's descriptors when the code runs, so that another capacity
needs no other code. Only the positions of descriptors are constants: they follow from the schema.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.datamodel import models
from numba.core.errors import TypingError
from numba.extending import register_model

from diptych.schema import Column
from diptych.store.layout import IndexLayout, TableLayout

I64 = ir.IntType(64)
I32 = ir.IntType(32)
BIT = ir.IntType(1)
VALUE_WORDS_MAX = 64
"""Of text and bytes: they are passed by value, and longer ones take too long to compile."""
BUILT_BYTES_MAX = 1024
"""Of text that is built, before it is cut or put where it fits."""


class Refused(TypingError):
    """A handler does what can't be compiled. `latest`: the newest, since Numba wraps errors."""

    latest: Refused | None = None

    def __init__(self, message: str, loc: Any = None) -> None:
        super().__init__(message, loc=loc)
        self.message, self.where = message, loc
        Refused.latest = self


READ_ONLY = "a query can't change data; make it a transaction"


class DbType(types.Type):
    """The `db` of a handler. `tag` sets apart the types of different applications, and those of
    one application's transactions and queries, which are not `writable`.
    """

    def __init__(self, tag: str, layouts: Sequence[TableLayout], *, writable: bool = True) -> None:
        super().__init__(f"Db({tag})")
        self.writable = writable
        self.tables = {table.spec.name: TableType(self, tag, table) for table in layouts}
        self.random = RandomType(self)


class RandomType(types.Type):
    """`db.random`."""

    def __init__(self, db: DbType) -> None:
        super().__init__(f"Random({db.name})")


class TableType(types.IterableType):
    """`db.account`."""

    def __init__(self, db: DbType, tag: str, layout: TableLayout) -> None:
        super().__init__(f"Table({tag}.{layout.spec.name})")
        self.db, self.spec, self.descriptor = db, layout.spec, layout.descriptor
        self.row = RowType(self, f"Row({tag}.{layout.spec.name})")
        self.indexes = {index.spec.name: IndexType(self, tag, index) for index in layout.indexes}

    @property
    def iterator_type(self) -> types.Type:
        return TableWalkType(self)


class RowType(types.Type):
    """One row of a table."""

    def __init__(self, table: TableType, name: str) -> None:
        super().__init__(name)
        self.table = table


class IndexType(types.Type):
    """`db.order.by_book`."""

    def __init__(self, table: TableType, tag: str, layout: IndexLayout) -> None:
        super().__init__(f"Index({tag}.{table.spec.name}.{layout.spec.name})")
        self.table, self.spec, self.descriptor = table, layout.spec, layout.descriptor


class RangeType(types.IterableType):
    """An opened cursor on an index: what `range()` gives."""

    def __init__(self, index: IndexType) -> None:
        super().__init__(f"Range({index.name})")
        self.index = index

    @property
    def iterator_type(self) -> types.Type:
        return RangeWalkType(self.index)


class RangeWalkType(types.SimpleIteratorType):
    def __init__(self, index: IndexType) -> None:
        super().__init__(f"RangeWalk({index.name})", index.table.row)
        self.index = index


class TableWalkType(types.SimpleIteratorType):
    def __init__(self, table: TableType) -> None:
        super().__init__(f"TableWalk({table.name})", table.row)
        self.table = table


class SizedType(types.Type):
    """Text or bytes, by value, as the words that a column of `size_bytes` bytes holds."""

    def __init__(self, name: str, size_bytes: int) -> None:
        super().__init__(f"{name}({size_bytes})")
        self.size_bytes = size_bytes
        self.words = -(-size_bytes // 8)


class TextType(SizedType):
    """Text of at most `size_bytes` bytes."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__("text", size_bytes)

    def unify(self, context: Any, other: Any) -> types.Type | None:
        if isinstance(other, TextType):
            return max(self, other, key=lambda text: text.size_bytes)
        if isinstance(other, types.StringLiteral) and fits(other.literal_value, self.size_bytes):
            return self
        return None


class DataType(SizedType):
    """Exactly `size_bytes` bytes."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__("data", size_bytes)


class ItemsType(types.IterableType):
    """A list that is a parameter: at most `items_max` items, which stay where the call put them."""

    def __init__(self, item: types.Type, items_max: int) -> None:
        super().__init__(f"items({item}, {items_max})")
        self.item, self.items_max = item, items_max

    @property
    def iterator_type(self) -> types.Type:
        return ItemsWalkType(self)


class ItemsWalkType(types.SimpleIteratorType):
    def __init__(self, items: ItemsType) -> None:
        super().__init__(f"ItemsWalk({items.name})", items.item)
        self.items = items


class ListType(types.IterableType):
    """A list that the handler builds: where its header is in the scratch (`store.built`)."""

    def __init__(self, item: types.Type) -> None:
        super().__init__(f"list({item})")
        self.item = item

    @property
    def iterator_type(self) -> types.Type:
        return ListWalkType(self)


class ListWalkType(types.SimpleIteratorType):
    def __init__(self, walked: ListType) -> None:
        super().__init__(f"ListWalk({walked.name})", walked.item)
        self.walked = walked


class IntSetType(types.Type):
    """A set of ints that the handler builds, as a list is."""

    def __init__(self) -> None:
        super().__init__("set(int)")


def fits(text: str, size_bytes: int) -> bool:
    return len(text.encode()) <= size_bytes and "\0" not in text


def words_of(value: str | bytes, words: int) -> list[int]:
    """Text or bytes as the words that hold them."""
    raw = (value.encode() if isinstance(value, str) else value).ljust(words * 8, b"\0")
    return [int.from_bytes(raw[i : i + 8], "little", signed=True) for i in range(0, words * 8, 8)]


def column_type(column: Column, place: str) -> types.Type:
    """What reading a column gives. Enums are ints: their members compare and compute as such.

    `place` names the column in the error. Errors: Refused.
    """
    check_size(column, place)
    sized = {"text": TextType, "data": DataType}
    if column.kind in sized:
        kind: types.Type = sized[column.kind](column.size_bytes)
    else:
        kind = {"int": types.int64, "bool": types.boolean, "float": types.float64}[column.kind]
    return types.Optional(kind) if column.optional else kind


def check_size(column: Column, place: str) -> None:
    """Refuse values that have no form in compiled code, or too long a one."""
    if column.in_heap:
        sized = "Annotated[str, text(40)]" if column.kind == "str" else "Annotated[bytes, data(40)]"
        raise Refused(
            f"{place} is a plain {column.kind}, which compiled handlers neither read nor write; "
            f"use {sized}, or leave this handler interpreted: compiled=False"
        )
    if column.words > VALUE_WORDS_MAX:
        raise Refused(
            f"{place} has {column.size_bytes} bytes, and compiled handlers take "
            f"{VALUE_WORDS_MAX * 8} at most; leave this handler interpreted: compiled=False"
        )


@register_model(DbType)
@register_model(RandomType)
@register_model(TableType)
@register_model(IndexType)
@register_model(ListType)
@register_model(IntSetType)
class _AddressModel(models.PrimitiveModel):
    """The region's address is all; of a list or a set the word position of its header."""

    def __init__(self, manager: Any, kind: types.Type) -> None:
        super().__init__(manager, kind, I64)


@register_model(RowType)
class _RowModel(models.StructModel):
    def __init__(self, manager: Any, kind: types.Type) -> None:
        super().__init__(manager, kind, [("base", types.int64), ("row", types.int64)])


@register_model(RangeType)
@register_model(RangeWalkType)
class _CursorModel(models.StructModel):
    """The cursor itself is in the region's scratch."""

    def __init__(self, manager: Any, kind: types.Type) -> None:
        super().__init__(manager, kind, [("base", types.int64), ("serial", types.int64)])


@register_model(TableWalkType)
class _TableWalkModel(models.StructModel):
    def __init__(self, manager: Any, kind: types.Type) -> None:
        last = types.EphemeralPointer(types.int64)
        super().__init__(manager, kind, [("base", types.int64), ("last", last)])


@register_model(TextType)
@register_model(DataType)
class _SizedModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: SizedType) -> None:
        super().__init__(manager, kind, ir.ArrayType(I64, kind.words))


@register_model(ItemsType)
class _ItemsModel(models.StructModel):
    def __init__(self, manager: Any, kind: types.Type) -> None:
        super().__init__(manager, kind, [("address", types.int64), ("count", types.int64)])


@register_model(ItemsWalkType)
class _ItemsWalkModel(models.StructModel):
    def __init__(self, manager: Any, kind: types.Type) -> None:
        next_one = types.EphemeralPointer(types.int64)
        members = [("address", types.int64), ("count", types.int64), ("next", next_one)]
        super().__init__(manager, kind, members)


@register_model(ListWalkType)
class _ListWalkModel(models.StructModel):
    def __init__(self, manager: Any, kind: types.Type) -> None:
        next_one = types.EphemeralPointer(types.int64)
        super().__init__(manager, kind, [("header", types.int64), ("next", next_one)])
