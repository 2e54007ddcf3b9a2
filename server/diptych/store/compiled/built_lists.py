"""Lists that a handler builds: `told: list[Line] = []`, `append`, `len`, items, loops, results.

What a list holds is told by the annotation of its variable, or by what the function returns, and
each item becomes that: so all of them take the same words, one after another in the scratch
(`store.built`), where a result's are read from. A list is passed on as the place where it is, so
that whoever has it sees what is appended. Too many items, and an index beyond the list, give the
call up to the interpreter.
"""

from __future__ import annotations

import operator
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

from diptych.errors import DeclarationError, did_you_mean
from diptych.schema import ValueType
from diptych.store import words as at
from diptych.store.compiled.native import call_kernel, cell, give_up_if, load, pointer
from diptych.store.compiled.records import settled
from diptych.store.compiled.shapes import (
    Words,
    argument_type,
    read_argument,
    words_count,
    write_answer,
)
from diptych.store.compiled.types import I64, ListType, ListWalkType, Refused
from diptych.store.compiled.values import is_int, spoken

_items: list[tuple[ValueType, ListType]] = []


def list_number(value: ValueType, place: Any) -> int:
    """The number under which `new_list` knows lists of such items. Errors: Refused."""
    try:
        kind = ListType(argument_type(value, "its items"))
    except DeclarationError as error:
        raise Refused(f"this list is not compiled: {error}", place) from None
    _items.append((value, kind))
    return len(_items) - 1


def new_list(number: int) -> list[Any]:
    """What stands in compiled code for `[]`."""
    raise NotImplementedError("compiled code alone calls this")


@infer_global(new_list)
class _NewList(AbstractTemplate):
    prefer_literal = True

    def generic(self, args: Any, kws: Any) -> Any:
        return signature(_items[args[0].literal_value][1], *args)


@lower_builtin(new_list, types.IntegerLiteral)
def _new_list(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    header = call_kernel(context, builder, "empty", builder.load(cell(builder)))
    give_up_if(builder, builder.icmp_signed("<", header, I64(0)))
    return header


class _Append(AbstractTemplate):
    key = "diptych.list.append"
    prefer_literal = True

    def generic(self, args: Any, kws: Any) -> Any:
        item = self.this.item
        value = next(value for value, kind in _items if kind == self.this)
        if len(args) != 1 or kws or settled(value, args[0]) != item:
            given = ", ".join(spoken(kind) for kind in args)
            raise Refused(f"the list holds {spoken(item)}, not {given}")
        return signature(types.none, item, recvr=self.this)


@infer_getattr
class _ListAttributes(AttributeTemplate):
    key = ListType

    def generic_resolve(self, kind: ListType, name: str) -> Any:
        if name == "append":
            return types.BoundFunction(_Append, kind)
        known = did_you_mean(name, ["append"])
        raise Refused(f"a list's {name!r} is not compiled{known}; append, len and loops are")


@lower_getattr_generic(ListType)
def _get_from_list(context: Any, builder: Any, kind: ListType, header: Any, name: str) -> Any:
    return header


@lower_builtin(_Append.key, ListType, types.Any)
def _append(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    base, item = builder.load(cell(builder)), sig.args[0].item
    parts = write_answer(context, builder, item, args[1])
    place = call_kernel(context, builder, "append", base, args[0], words_count(item))
    give_up_if(builder, builder.icmp_signed("<", place, I64(0)))
    for i, part in enumerate(parts):
        builder.store(part, pointer(builder, base, builder.add(place, I64(i))))
    return context.get_dummy_value()


def field_of(builder: Any, header: Any, field: int) -> Any:
    """A word of a list's header: how many items it has, or where they begin."""
    return load(builder, builder.load(cell(builder)), builder.add(header, I64(field)))


def read_item(context: Any, builder: Any, kind: ListType, header: Any, number: Any) -> Any:
    """The item of that number, which must be there."""
    base, first = builder.load(cell(builder)), field_of(builder, header, at.B_ITEMS)
    place = builder.add(first, builder.mul(number, I64(words_count(kind.item))))
    words = Words(builder, builder.add(base, builder.shl(place, I64(3))))
    return read_argument(context, builder, kind.item, words)


@infer_global(len)
class _ListLength(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        return signature(types.int64, *args) if isinstance(args[0], ListType) else None


@lower_builtin(len, ListType)
def _length(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return field_of(builder, args[0], at.B_COUNT)


@infer_global(bool)
class _ListTruth(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        return signature(types.boolean, *args) if isinstance(args[0], ListType) else None


@lower_builtin(bool, ListType)
def _truth(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return builder.icmp_signed("!=", field_of(builder, args[0], at.B_COUNT), I64(0))


@infer_global(operator.getitem)
class _ListItem(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        if not isinstance(args[0], ListType):
            return None
        if not is_int(args[1]):
            raise Refused(f"a list is indexed by an int, not by {spoken(args[1])}")
        return signature(args[0].item, args[0], types.int64)


@lower_builtin(operator.getitem, ListType, types.int64)
def _item(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    count = field_of(builder, args[0], at.B_COUNT)
    from_end = builder.icmp_signed("<", args[1], I64(0))
    number = builder.select(from_end, builder.add(args[1], count), args[1])
    give_up_if(builder, builder.icmp_unsigned(">=", number, count))
    return read_item(context, builder, sig.args[0], args[0], number)


@lower_builtin("getiter", ListType)
def _walk(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    walk = cgutils.create_struct_proxy(sig.return_type)(context, builder)
    walk.header = args[0]
    walk.next = cgutils.alloca_once_value(builder, I64(0))
    return walk._getvalue()


@lower_builtin("iternext", ListWalkType)
@iternext_impl(RefType.UNTRACKED)
def _next_item(context: Any, builder: Any, sig: Any, args: Any, result: Any) -> None:
    kind = sig.args[0]
    walk = cgutils.create_struct_proxy(kind)(context, builder, value=args[0])
    number = builder.load(walk.next)
    valid = builder.icmp_signed("<", number, field_of(builder, walk.header, at.B_COUNT))
    result.set_valid(valid)
    with builder.if_then(valid):
        builder.store(builder.add(number, I64(1)), walk.next)
        result.yield_(read_item(context, builder, kind.walked, walk.header, number))
