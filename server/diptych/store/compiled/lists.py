"""Lists that are parameters, in compiled handlers: walked, indexed and measured, never changed.

Their items are among the words of the call, which stay as they are until it ends. An index beyond
the list gives the call up to the interpreter and its error.
"""

from __future__ import annotations

import operator
from typing import Any

from numba.core import cgutils, types
from numba.core.imputils import RefType, iternext_impl, lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature

from diptych.store.compiled.native import give_up_if
from diptych.store.compiled.shapes import Words, read_argument, words_count
from diptych.store.compiled.types import I64, ItemsType, ItemsWalkType, Refused
from diptych.store.compiled.values import is_int, spoken


def read_item(context: Any, builder: Any, kind: ItemsType, address: Any, number: Any) -> Any:
    offset = builder.mul(number, I64(words_count(kind.item) * 8))
    words = Words(builder, builder.add(address, offset))
    return read_argument(context, builder, kind.item, words)


@infer_global(len)
class _ItemsLength(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        return signature(types.int64, *args) if isinstance(args[0], ItemsType) else None


@lower_builtin(len, ItemsType)
def _length(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return cgutils.create_struct_proxy(sig.args[0])(context, builder, value=args[0]).count


@infer_global(bool)
class _ItemsTruth(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        return signature(types.boolean, *args) if isinstance(args[0], ItemsType) else None


@lower_builtin(bool, ItemsType)
def _truth(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return builder.icmp_signed("!=", _length(context, builder, sig, args), I64(0))


@infer_global(operator.getitem)
class _ItemsItem(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        if not isinstance(args[0], ItemsType):
            return None
        if not is_int(args[1]):
            raise Refused(f"a list is indexed by an int, not by {spoken(args[1])}")
        return signature(args[0].item, args[0], types.int64)


@lower_builtin(operator.getitem, ItemsType, types.int64)
def _item(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    items = cgutils.create_struct_proxy(sig.args[0])(context, builder, value=args[0])
    from_end = builder.icmp_signed("<", args[1], I64(0))
    number = builder.select(from_end, builder.add(args[1], items.count), args[1])
    give_up_if(builder, builder.icmp_unsigned(">=", number, items.count))
    return read_item(context, builder, sig.args[0], items.address, number)


@infer_global(operator.contains)
class _ItemsContain(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        if isinstance(args[0], ItemsType):
            raise Refused(
                "`in` is compiled for tables, text in text, and an int in a tuple of ints"
            )
        return None


@lower_builtin("getiter", ItemsType)
def _walk(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    items = cgutils.create_struct_proxy(sig.args[0])(context, builder, value=args[0])
    walk = cgutils.create_struct_proxy(sig.return_type)(context, builder)
    walk.address, walk.count = items.address, items.count
    walk.next = cgutils.alloca_once_value(builder, I64(0))
    return walk._getvalue()


@lower_builtin("iternext", ItemsWalkType)
@iternext_impl(RefType.UNTRACKED)
def _next_item(context: Any, builder: Any, sig: Any, args: Any, result: Any) -> None:
    kind = sig.args[0]
    walk = cgutils.create_struct_proxy(kind)(context, builder, value=args[0])
    number = builder.load(walk.next)
    valid = builder.icmp_signed("<", number, walk.count)
    result.set_valid(valid)
    with builder.if_then(valid):
        builder.store(builder.add(number, I64(1)), walk.next)
        result.yield_(read_item(context, builder, kind.items, walk.address, number))
