"""Rows in compiled handlers: reading and writing columns.

Each access checks that the row is live: a slot is not used again before its transaction ends, so a
deleted row is always noticed. What may be assigned is checked by `pipeline`, which knows the line.
"""

from __future__ import annotations

from typing import Any

from numba.core import cgutils
from numba.core.imputils import lower_getattr_generic, lower_setattr_generic
from numba.core.typing.templates import AttributeTemplate, infer_getattr

from diptych.errors import did_you_mean
from diptych.schema import Column
from diptych.store import words as at
from diptych.store.compiled.native import call_kernel, leave_if, leave_if_negative, load
from diptych.store.compiled.types import I64, Refused, RowType, TableType, column_type
from diptych.store.compiled.values import from_words, to_words
from diptych.store.slots import LIVE


def make_row(context: Any, builder: Any, kind: RowType, base: Any, row: Any) -> Any:
    made = cgutils.create_struct_proxy(kind)(context, builder)
    made.base, made.row = base, row
    return made._getvalue()


def parts_of(context: Any, builder: Any, kind: RowType, value: Any) -> tuple[Any, Any]:
    """A row's region and slot."""
    proxy = cgutils.create_struct_proxy(kind)(context, builder, value=value)
    return proxy.base, proxy.row


def position_of(builder: Any, base: Any, table: TableType, row: Any, value_word: int) -> Any:
    """The position of one of a row's value words, which the table's descriptor tells."""
    first = load(builder, base, table.descriptor + at.T_BASE + value_word)
    words = next(
        column.words
        for column in table.spec.columns
        if column.first_word <= value_word < column.first_word + column.words
    )
    return builder.add(first, builder.mul(row, I64(words)))


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
        return column_type(column_of(row.table, name))


@lower_getattr_generic(RowType)
def _get_column(context: Any, builder: Any, kind: RowType, value: Any, name: str) -> Any:
    base, row = parts_of(context, builder, kind, value)
    column = column_of(kind.table, name)
    check_live(builder, base, kind.table, row)
    first = column.first_word
    parts = [
        load(builder, base, position_of(builder, base, kind.table, row, first + i))
        for i in range(column.words)
    ]
    return from_words(builder, column, parts)


@lower_setattr_generic(RowType)
def _set_column(context: Any, builder: Any, sig: Any, args: Any, name: str) -> Any:
    kind, value_kind = sig.args
    table = kind.table
    base, row = parts_of(context, builder, kind, args[0])
    column = column_of(table, name)
    parts = to_words(context, builder, column, value_kind, args[1])
    t = table.descriptor
    indexed = any(column in index.spec.columns for index in table.indexes.values())
    if indexed or column.words > 1:
        for i, part in enumerate(parts):
            value_word = column.first_word + i
            code = call_kernel(context, builder, "update", base, t, row, value_word, part)
            leave_if_negative(builder, base, code)
        return
    position = position_of(builder, base, table, row, column.first_word)
    code = call_kernel(context, builder, "assign", base, t, row, position, parts[0])
    leave_if_negative(builder, base, code)
