"""What compiled handlers work with: the database, its tables, indexes, rows, ranges, and text.

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


class Refused(TypingError):
    """A handler does what can't be compiled. `latest`: the newest, since Numba wraps errors."""

    latest: Refused | None = None

    def __init__(self, message: str, loc: Any = None) -> None:
        super().__init__(message, loc=loc)
        self.message, self.where = message, loc
        Refused.latest = self


class DbType(types.Type):
    """The `db` of a handler. `tag` sets apart the types of different applications."""

    def __init__(self, tag: str, layouts: Sequence[TableLayout]) -> None:
        super().__init__(f"Db({tag})")
        self.tables = {table.spec.name: TableType(self, tag, table) for table in layouts}


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


class TextType(types.Type):
    """Text of at most `size_bytes` bytes, as the words that a column of that size holds."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(f"text({size_bytes})")
        self.size_bytes = size_bytes
        self.words = -(-size_bytes // 8)

    def unify(self, context: Any, other: Any) -> types.Type | None:
        if isinstance(other, TextType):
            return max(self, other, key=lambda text: text.size_bytes)
        if isinstance(other, types.StringLiteral) and fits(other.literal_value, self.size_bytes):
            return self
        return None


def fits(text: str, size_bytes: int) -> bool:
    return len(text.encode()) <= size_bytes and "\0" not in text


def words_of(text: str, words: int) -> list[int]:
    """Text as the words that hold it."""
    raw = text.encode().ljust(words * 8, b"\0")
    return [int.from_bytes(raw[i : i + 8], "little", signed=True) for i in range(0, words * 8, 8)]


def column_type(column: Column) -> types.Type:
    """What reading a column gives. Enums are ints: their members compare and compute as such."""
    if column.kind == "text":
        return TextType(column.size_bytes)
    plain: dict[str, types.Type] = {
        "int": types.int64,
        "bool": types.boolean,
        "float": types.float64,
    }
    return plain[column.kind]


@register_model(DbType)
@register_model(TableType)
@register_model(IndexType)
class _AddressModel(models.PrimitiveModel):
    """The region's address is all."""

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
class _TextModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: TextType) -> None:
        super().__init__(manager, kind, ir.ArrayType(I64, kind.words))
