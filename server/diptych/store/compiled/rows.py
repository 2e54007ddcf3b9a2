"""Rows in compiled handlers: reading and writing columns, and finding rows by key.

Each access checks that the row is live: a slot is not used again before its transaction ends, so a
deleted row is always noticed. What may be assigned is checked by `pipeline`, which knows the line.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils
from numba.core.imputils import lower_getattr_generic, lower_setattr_generic
from numba.core.typing.templates import AttributeTemplate, infer_getattr

from diptych.errors import did_you_mean
from diptych.schema import Column
from diptych.store import words as at
from diptych.store.compiled.native import (
    call_kernel,
    leave,
    leave_if,
    leave_if_negative,
    leave_unless_searched,
    load,
    put_arguments,
    store_scratch,
)
from diptych.store.compiled.types import I64, Refused, RowType, TableType, column_type
from diptych.store.compiled.values import from_words, to_words
from diptych.store.layout import ROWS_A_WORD, VALID_PACK, pack_of
from diptych.store.slots import LIVE


def make_row(context: Any, builder: Any, kind: RowType, base: Any, row: Any) -> Any:
    made = cgutils.create_struct_proxy(kind)(context, builder)
    made.base, made.row = base, row
    return made._getvalue()


def parts_of(context: Any, builder: Any, kind: RowType, value: Any) -> tuple[Any, Any]:
    """A row's region and slot."""
    proxy = cgutils.create_struct_proxy(kind)(context, builder, value=value)
    return proxy.base, proxy.row


def load_column(builder: Any, base: Any, table: TableType, column: Column, row: Any) -> list[Any]:
    """All words of a column in a row. How rows share words follows from the column's type."""
    first = load(builder, base, table.descriptor + at.T_BASE + column.first_word)
    pack = pack_of(column)
    if pack & at.PACK_ROWS:
        # The region's bytes, in the processor's own order, are an array of small numbers.
        start = builder.add(base, builder.shl(first, I64(3)))
        offset = builder.mul(row, I64(column.bits // 8))
        narrow = ir.IntType(column.bits).as_pointer()
        small = builder.load(builder.inttoptr(builder.add(start, offset), narrow))
        extend = builder.sext if pack & at.PACK_SIGNED else builder.zext
        parts = [extend(small, I64)]
    else:
        position = builder.add(first, builder.mul(row, I64(column.words)))
        parts = [load(builder, base, builder.add(position, I64(i))) for i in range(column.words)]
    return [*parts, _load_valid(builder, base, table, column, row)] if column.optional else parts


def _load_valid(builder: Any, base: Any, table: TableType, column: Column, row: Any) -> Any:
    """1 where an optional column has a value, 0 for None: a bit a row."""
    first = load(builder, base, table.descriptor + at.T_BASE + column.valid_word)
    word = load(builder, base, builder.add(first, builder.lshr(row, I64(VALID_PACK))))
    shift = builder.and_(row, I64(ROWS_A_WORD - 1))
    return builder.and_(builder.lshr(word, shift), I64(1))


def check_live(builder: Any, base: Any, table: TableType, row: Any) -> None:
    live = load(builder, base, table.descriptor + at.T_LIVE)
    mark = load(builder, base, builder.add(live, row))
    leave_if(builder, builder.icmp_signed("!=", mark, I64(LIVE)), base, at.NOT_LIVE)


def column_of(table: TableType, name: str) -> Column:
    column = table.spec.by_name.get(name)
    if column is None:
        known = did_you_mean(name, table.spec.by_name)
        raise Refused(f"table {table.spec.name!r} has no column {name!r}{known}")
    return column


@infer_getattr
class _RowAttributes(AttributeTemplate):
    key = RowType

    def generic_resolve(self, row: RowType, name: str) -> Any:
        return column_type(column_of(row.table, name), f"{row.table.spec.name}.{name}")


@lower_getattr_generic(RowType)
def _get_column(context: Any, builder: Any, kind: RowType, value: Any, name: str) -> Any:
    base, row = parts_of(context, builder, kind, value)
    column = column_of(kind.table, name)
    check_live(builder, base, kind.table, row)
    parts = load_column(builder, base, kind.table, column, row)
    return from_words(context, builder, column, parts)


@lower_setattr_generic(RowType)
def _set_column(context: Any, builder: Any, sig: Any, args: Any, name: str) -> Any:
    kind, value_kind = sig.args
    table = kind.table
    base, row = parts_of(context, builder, kind, args[0])
    column = column_of(table, name)
    parts = to_words(context, builder, column, value_kind, args[1])
    if column.reference is not None:
        check_live(builder, base, table, row)
        check_reference(context, builder, table, column, base, parts)
    code = _assign(context, builder, table, column, base, row, parts)
    leave_if_negative(builder, base, code)


def _assign(
    context: Any, builder: Any, table: TableType, column: Column, base: Any, row: Any, parts: Any
) -> Any:
    """Write all words of a column with the kernel that the interpreted lane takes, too."""
    t, first = table.descriptor, column.first_word
    if len(parts) > 1:
        put_arguments(builder, base, parts)
        return call_kernel(context, builder, "update_words", base, t, row, first, len(parts))
    indexed = any(column in index.spec.columns for index in table.indexes.values())
    if indexed or pack_of(column) != 0:
        return call_kernel(context, builder, "update", base, t, row, first, parts[0])
    position = builder.add(load(builder, base, t + at.T_BASE + first), row)
    return call_kernel(context, builder, "assign", base, t, row, position, parts[0])


# By key -----------------------------------------------------------------------------------------


def find(context: Any, builder: Any, table: TableType, base: Any, words: list[Any]) -> Any:
    """The slot of the row with this key, or NOT_FOUND."""
    if len(words) == 1:
        row = call_kernel(context, builder, "find1", base, table.descriptor, words[0])
    else:
        put_arguments(builder, base, words)
        row = call_kernel(context, builder, "find", base, table.descriptor)
    leave_unless_searched(builder, base, row)
    return row


def found_or_leave(
    context: Any, builder: Any, table: TableType, base: Any, words: list[Any]
) -> Any:
    """The slot of the row with this key; without one the handler ends with `not_found`."""
    row = find(context, builder, table, base, words)
    with builder.if_then(builder.icmp_signed("<", row, I64(0)), likely=False):
        put_arguments(builder, base, words)
        store_scratch(builder, base, at.S_FAULT, table.descriptor)
        leave(builder, base, at.NO_SUCH_KEY)
    return row


def check_reference(
    context: Any, builder: Any, table: TableType, column: Column, base: Any, parts: list[Any]
) -> None:
    """End the handler with `not_found` unless there is the row that these words refer to."""
    referred = table.db.tables[str(column.reference)]
    given = parts[-1] if column.optional else I64(1)
    with builder.if_then(builder.icmp_signed("!=", given, I64(0))):
        found_or_leave(context, builder, referred, base, parts[: column.words])
