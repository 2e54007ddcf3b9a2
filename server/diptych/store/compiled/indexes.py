"""Ordered indexes in compiled handlers: `range`, `first` and `last`.

A range is a cursor in the scratch, opened with its bounds as words; each step is one kernel call,
so the index may change meanwhile, as in the interpreted lane. Cursors are taken in turn: the range
of a loop in which CURSORS others are opened is lost, and the call given up to the interpreter.
"""

from __future__ import annotations

from inspect import Parameter, Signature
from typing import Any

from numba.core import cgutils, types
from numba.core.imputils import RefType, iternext_impl, lower_builtin, lower_getattr_generic
from numba.core.typing.templates import (
    AbstractTemplate,
    AttributeTemplate,
    infer_getattr,
    signature,
)

from diptych.errors import did_you_mean
from diptych.schema import MISSING
from diptych.store import words as at
from diptych.store.compiled.native import call_kernel, leave_unless_searched, put_arguments
from diptych.store.compiled.rows import make_row
from diptych.store.compiled.tables import OMITTED, optional_row
from diptych.store.compiled.types import I64, IndexType, RangeType, RangeWalkType, Refused
from diptych.store.compiled.values import check, in_index_order, to_words

BOUNDS = ("start", "stop", "reverse")


def _check_bound(index: IndexType, kinds: Any) -> None:
    columns = index.spec.columns
    if len(kinds) > len(columns):
        raise Refused(f"index {index.spec.name!r} has no more than {len(columns)} columns")
    for column, kind in zip(columns, kinds, strict=False):
        check(column, kind, f"{index.table.spec.name}.{column.name}")


def _bound(context: Any, builder: Any, index: IndexType, kinds: Any, values: Any) -> list[Any]:
    """The words of values for an index's first columns."""
    words = []
    for column, kind, value in zip(index.spec.columns, kinds, values, strict=False):
        parts = to_words(context, builder, column, kind, value, sought=True)
        words += in_index_order(column, parts)
    return words


class _Range(AbstractTemplate):
    key = "diptych.index.range"
    prefer_literal = True

    def generic(self, args: Any, kws: Any) -> Any:
        for name in kws:
            if name not in BOUNDS:
                raise Refused(f"range() has no option {name!r}{did_you_mean(name, BOUNDS)}")
        for name in ("start", "stop"):
            _check_bound(self.this, [*args, kws[name]] if name in kws else args)
        reverse = kws.get("reverse", OMITTED)
        if not isinstance(types.unliteral(reverse), types.Boolean | types.Omitted):
            raise Refused("range(reverse=) is True or False")
        parameters = [
            Parameter(f"prefix_{i}", Parameter.POSITIONAL_OR_KEYWORD) for i in range(len(args))
        ]
        options = [
            Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, default=MISSING) for name in BOUNDS
        ]
        kinds = [*args, *(kws.get(name, OMITTED) for name in BOUNDS)]
        made = signature(RangeType(self.this), *kinds, recvr=self.this)
        return made.replace(pysig=Signature(parameters + options))


class _First(AbstractTemplate):
    key = "diptych.index.first"
    prefer_literal = True

    def generic(self, args: Any, kws: Any) -> Any:
        if kws:
            raise Refused("first() and last() take values for the index's first columns alone")
        _check_bound(self.this, args)
        return signature(types.Optional(self.this.table.row), *args, recvr=self.this)


class _Last(_First):
    key = "diptych.index.last"


METHODS: dict[str, Any] = {"range": _Range, "first": _First, "last": _Last}


@infer_getattr
class _IndexAttributes(AttributeTemplate):
    key = IndexType

    def generic_resolve(self, index: IndexType, name: str) -> Any:
        if name in METHODS:
            return types.BoundFunction(METHODS[name], index)
        known = did_you_mean(name, METHODS)
        raise Refused(f"index {index.spec.name!r} has no {name!r}{known}")


@lower_getattr_generic(IndexType)
def _get_from_index(context: Any, builder: Any, kind: IndexType, base: Any, name: str) -> Any:
    return base


@lower_builtin(_Range.key, IndexType, types.VarArg(types.Any))
def _range(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    index, base = sig.args[0], args[0]
    *prefix_kinds, start_kind, stop_kind, reverse_kind = sig.args[1:]
    *prefix, start, stop, reverse = args[1:]
    lengths = []
    for kind, value, first in (
        (start_kind, start, at.S_ARGUMENT),
        (stop_kind, stop, at.S_ARGUMENT + at.KEY_WORDS_MAX),
    ):
        end = [] if isinstance(kind, types.Omitted) else [(kind, value)]
        kinds = [*prefix_kinds, *(each for each, _ in end)]
        values = [*prefix, *(each for _, each in end)]
        words = _bound(context, builder, index, kinds, values)
        put_arguments(builder, base, words, first)
        lengths.append(len(words))
    is_open = 0 if isinstance(stop_kind, types.Omitted) else 1
    backwards: Any = 0
    if not isinstance(reverse_kind, types.Omitted):
        backwards = context.cast(builder, reverse, reverse_kind, types.int64)
    walk = cgutils.create_struct_proxy(sig.return_type)(context, builder)
    walk.base = base
    walk.serial = call_kernel(
        context, builder, "open_cursor", base, index.descriptor, *lengths, is_open, backwards
    )
    return walk._getvalue()


def _end(context: Any, builder: Any, sig: Any, args: Any, reverse: int) -> Any:
    index, base = sig.args[0], args[0]
    words = _bound(context, builder, index, sig.args[1:], args[1:])
    put_arguments(builder, base, words)
    row = call_kernel(context, builder, "first", base, index.descriptor, len(words), reverse)
    leave_unless_searched(builder, base, row)
    return optional_row(context, builder, sig.return_type, base, row)


@lower_builtin(_First.key, IndexType, types.VarArg(types.Any))
def _first(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return _end(context, builder, sig, args, 0)


@lower_builtin(_Last.key, IndexType, types.VarArg(types.Any))
def _last(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return _end(context, builder, sig, args, 1)


@lower_builtin("getiter", RangeType)
def _walk_range(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return args[0]


@lower_builtin("iternext", RangeWalkType)
@iternext_impl(RefType.UNTRACKED)
def _next_row(context: Any, builder: Any, sig: Any, args: Any, result: Any) -> None:
    kind = sig.args[0]
    walk = cgutils.create_struct_proxy(kind)(context, builder, value=args[0])
    row = call_kernel(context, builder, "advance", walk.base, walk.serial)
    leave_unless_searched(builder, walk.base, row)
    valid = builder.icmp_signed(">=", row, I64(0))
    result.set_valid(valid)
    with builder.if_then(valid):
        result.yield_(make_row(context, builder, kind.index.table.row, walk.base, row))
