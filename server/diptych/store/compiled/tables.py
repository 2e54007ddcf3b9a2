"""The database and its tables in compiled handlers.

By key (`[]`, `get`, `in`), `len`, iteration, `insert`, `get_or_insert` and `delete`, each one
kernel call, with its arguments through the scratch as in the interpreted lane. Columns are passed
by name and checked against the table when the handler is compiled.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from inspect import Parameter, Signature
from typing import Any

from numba.core import cgutils, types
from numba.core.imputils import RefType, iternext_impl, lower_builtin, lower_getattr_generic
from numba.core.typing.templates import (
    AbstractTemplate,
    AttributeTemplate,
    infer_getattr,
    infer_global,
    signature,
)

from diptych.errors import did_you_mean
from diptych.schema import MISSING, Column
from diptych.store import words as at
from diptych.store.compiled.native import (
    call_kernel,
    leave_if_negative,
    leave_unless_searched,
    load,
    load_scratch,
    put_arguments,
    word,
)
from diptych.store.compiled.rows import check_reference, find, found_or_leave, make_row, parts_of
from diptych.store.compiled.types import (
    I64,
    READ_ONLY,
    DbType,
    Refused,
    RowType,
    TableType,
    TableWalkType,
)
from diptych.store.compiled.values import check, default_words, inner, spoken, to_words

NUMBERS = {"now": at.NOW, "sequence": at.SEQUENCE}
OMITTED = types.Omitted(MISSING)


@infer_getattr
class _DbAttributes(AttributeTemplate):
    key = DbType

    def generic_resolve(self, db: DbType, name: str) -> Any:
        if name in NUMBERS:
            return types.int64
        if name in db.tables:
            return db.tables[name]
        if name == "random":
            if not db.writable:
                raise Refused("db.random is for transactions: a query has no number of its own")
            return db.random
        if name == "caller":
            cure = "leave this handler interpreted: compiled=False"
            raise Refused(f"db.caller is for handlers that are not compiled; {cure}")
        raise Refused(f"there is no table {name!r}{did_you_mean(name, db.tables)}")


@lower_getattr_generic(DbType)
def _get_from_db(context: Any, builder: Any, kind: DbType, base: Any, name: str) -> Any:
    if name == "sequence" and not kind.writable:
        # The last transaction may have changed nothing: then its number is not in the image.
        return load_scratch(builder, base, at.S_QUERY_SEQUENCE)
    return load(builder, base, NUMBERS[name]) if name in NUMBERS else base


@infer_getattr
class _TableAttributes(AttributeTemplate):
    key = TableType

    def generic_resolve(self, table: TableType, name: str) -> Any:
        if name in METHODS:
            if name in WRITING and not table.db.writable:
                raise Refused(READ_ONLY)
            return types.BoundFunction(METHODS[name], table)
        if name in table.indexes:
            return table.indexes[name]
        if name == "columns":
            raise Refused("columns() is for handlers that are not compiled; walk a range instead")
        known = did_you_mean(name, [*METHODS, *table.indexes])
        raise Refused(f"table {table.spec.name!r} has no index {name!r}{known}")


@lower_getattr_generic(TableType)
def _get_from_table(context: Any, builder: Any, kind: TableType, base: Any, name: str) -> Any:
    return base


# By key -----------------------------------------------------------------------------------------


def check_key(table: TableType, kind: types.Type) -> None:
    keys = table.spec.keys
    parts = list(kind) if isinstance(kind, types.BaseTuple) else [kind]
    if len(parts) != len(keys) or (len(keys) == 1 and parts[0] is not kind):
        names = ", ".join(column.name for column in keys)
        raise Refused(f"the key of {table.spec.name} is ({names}), not {spoken(kind)}")
    for column, part in zip(keys, parts, strict=True):
        check(column, part, f"{table.spec.name}.{column.name}")


def key_words(context: Any, builder: Any, table: TableType, kind: Any, value: Any) -> list[Any]:
    """The words of a key, given as a value or a tuple of them."""
    if not isinstance(kind, types.BaseTuple):
        return to_words(context, builder, table.spec.keys[0], kind, value, sought=True)
    found = []
    for i, (column, part) in enumerate(zip(table.spec.keys, kind, strict=True)):
        item = builder.extract_value(value, i)
        found += to_words(context, builder, column, part, item, sought=True)
    return found


@infer_global(operator.getitem)
class _TableItem(AbstractTemplate):
    prefer_literal = True

    def generic(self, args: Any, kws: Any) -> Any:
        if not isinstance(args[0], TableType):
            return None
        check_key(args[0], args[1])
        return signature(args[0].row, *args)


@lower_builtin(operator.getitem, TableType, types.Any)
def _get_item(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    table, base = sig.args[0], args[0]
    words = key_words(context, builder, table, sig.args[1], args[1])
    row = found_or_leave(context, builder, table, base, words)
    return make_row(context, builder, table.row, base, row)


@infer_global(operator.contains)
class _TableContains(AbstractTemplate):
    prefer_literal = True

    def generic(self, args: Any, kws: Any) -> Any:
        if not isinstance(args[0], TableType):
            return None
        check_key(args[0], args[1])
        return signature(types.boolean, *args)


@lower_builtin(operator.contains, TableType, types.Any)
def _contains(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    words = key_words(context, builder, sig.args[0], sig.args[1], args[1])
    row = find(context, builder, sig.args[0], args[0], words)
    return builder.icmp_signed(">=", row, I64(0))


class _Get(AbstractTemplate):
    key = "diptych.table.get"
    prefer_literal = True

    def generic(self, args: Any, kws: Any) -> Any:
        if len(args) != 1 or kws:
            raise Refused(f"{self.this.spec.name}.get takes the key and nothing else")
        check_key(self.this, args[0])
        return signature(types.Optional(self.this.row), *args, recvr=self.this)


@lower_builtin(_Get.key, TableType, types.Any)
def _get(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    table = sig.args[0]
    words = key_words(context, builder, table, sig.args[1], args[1])
    row = find(context, builder, table, args[0], words)
    return optional_row(context, builder, sig.return_type, args[0], row)


def optional_row(context: Any, builder: Any, kind: types.Optional, base: Any, row: Any) -> Any:
    """The row in a slot, or None when the slot's number is negative."""
    made = context.make_helper(builder, kind)
    made.valid = builder.icmp_signed(">=", row, I64(0))
    made.data = make_row(context, builder, kind.type, base, row)
    return made._getvalue()


# Inserting and deleting -------------------------------------------------------------------------


def _columns_signature(table: TableType, args: Any, kws: Mapping[str, Any], result: Any) -> Any:
    """The signature of a call that names columns: all of them in order, some left out."""
    name = table.spec.name
    if args:
        raise Refused(f"{name}.insert takes its columns by name: insert({name}=...)")
    for given in kws:
        if given not in table.spec.by_name:
            known = did_you_mean(given, table.spec.by_name)
            raise Refused(f"table {name!r} has no column {given!r}{known}")
    kinds, parameters = [], []
    for column in table.spec.columns:
        if column.name in kws:
            check(column, kws[column.name], f"{name}.{column.name}")
        elif column.default is MISSING and not column.auto:
            raise Refused(f"a new row of {name!r} needs a value for {column.name!r}")
        elif column.in_heap and column.default:
            cure = "leave this handler interpreted: compiled=False"
            place = f"{name}.{column.name}"
            raise Refused(f"the default of {place}, a plain {column.kind}, is not empty; {cure}")
        kinds.append(kws.get(column.name, OMITTED))
        parameters.append(Parameter(column.name, Parameter.POSITIONAL_OR_KEYWORD, default=MISSING))
    return signature(result, *kinds, recvr=table).replace(pysig=Signature(parameters))


class _Insert(AbstractTemplate):
    key = "diptych.table.insert"
    prefer_literal = True

    def generic(self, args: Any, kws: Any) -> Any:
        return _columns_signature(self.this, args, kws, self.this.row)


class _GetOrInsert(AbstractTemplate):
    key = "diptych.table.get_or_insert"
    prefer_literal = True

    def generic(self, args: Any, kws: Any) -> Any:
        for column in self.this.spec.keys:
            if column.name not in kws:
                raise Refused(f"{self.this.spec.name}.get_or_insert needs {column.name!r}")
        return _columns_signature(self.this, args, kws, self.this.row)


class _Delete(AbstractTemplate):
    key = "diptych.table.delete"

    def generic(self, args: Any, kws: Any) -> Any:
        if len(args) != 1 or kws or inner(args[0]) != self.this.row:
            given = ", ".join(spoken(kind) for kind in args)
            raise Refused(f"{self.this.spec.name}.delete takes one of its rows, not {given}")
        return signature(types.none, self.this.row, recvr=self.this)


METHODS: dict[str, Any] = {
    "get": _Get,
    "insert": _Insert,
    "get_or_insert": _GetOrInsert,
    "delete": _Delete,
}
WRITING = {"insert", "get_or_insert", "delete"}


def _column_words(context: Any, builder: Any, column: Column, kind: Any, value: Any) -> list[Any]:
    if isinstance(kind, types.Omitted):
        return default_words(column)
    return to_words(context, builder, column, kind, value)


def _insert_row(context: Any, builder: Any, table: TableType, kinds: Any, values: Any) -> Any:
    """Make a row and give its slot. `values`: the region, then one for each column."""
    base, columns = values[0], table.spec.columns
    words: list[Any] = []
    for column, kind, value in zip(columns, kinds, values[1:], strict=True):
        parts = _column_words(context, builder, column, kind, value)
        if column.reference is not None:
            check_reference(context, builder, table, column, base, parts)
        words += parts
    put_arguments(builder, base, words)
    row = call_kernel(context, builder, "insert", base, table.descriptor)
    leave_if_negative(builder, base, row)
    return row


@lower_builtin(_Insert.key, TableType, types.VarArg(types.Any))
def _insert(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    table = sig.args[0]
    row = _insert_row(context, builder, table, sig.args[1:], args)
    return make_row(context, builder, table.row, args[0], row)


@lower_builtin(_GetOrInsert.key, TableType, types.VarArg(types.Any))
def _get_or_insert(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    table = sig.args[0]
    words: list[Any] = []
    for column, kind, value in zip(table.spec.columns, sig.args[1:], args[1:], strict=True):
        if column.key:
            words += to_words(context, builder, column, kind, value, sought=True)
    row = find(context, builder, table, args[0], words)
    slot = cgutils.alloca_once_value(builder, row)
    with builder.if_then(builder.icmp_signed("<", row, I64(0))):
        builder.store(_insert_row(context, builder, table, sig.args[1:], args), slot)
    return make_row(context, builder, table.row, args[0], builder.load(slot))


@lower_builtin(_Delete.key, TableType, RowType)
def _delete(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    table = sig.args[0]
    base, row = parts_of(context, builder, table.row, args[1])
    code = call_kernel(context, builder, "delete", base, table.descriptor, row)
    leave_if_negative(builder, base, code)
    return context.get_dummy_value()


# All rows ---------------------------------------------------------------------------------------


@infer_global(len)
class _TableLength(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        return signature(types.int64, *args) if isinstance(args[0], TableType) else None


@lower_builtin(len, TableType)
def _length(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    state = load(builder, args[0], sig.args[0].descriptor + at.T_STATE)
    return load(builder, args[0], builder.add(state, word(at.ROW_COUNT)))


@lower_builtin("getiter", TableType)
def _walk_table(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    walk = cgutils.create_struct_proxy(sig.return_type)(context, builder)
    walk.base = args[0]
    walk.last = cgutils.alloca_once_value(builder, I64(-1))
    return walk._getvalue()


@lower_builtin("iternext", TableWalkType)
@iternext_impl(RefType.UNTRACKED)
def _next_row(context: Any, builder: Any, sig: Any, args: Any, result: Any) -> None:
    kind = sig.args[0]
    walk = cgutils.create_struct_proxy(kind)(context, builder, value=args[0])
    last = builder.load(walk.last)
    row = call_kernel(context, builder, "next_row", walk.base, kind.table.descriptor, last)
    leave_unless_searched(builder, walk.base, row)
    valid = builder.icmp_signed(">=", row, I64(0))
    result.set_valid(valid)
    with builder.if_then(valid):
        builder.store(row, walk.last)
        result.yield_(make_row(context, builder, kind.table.row, walk.base, row))
