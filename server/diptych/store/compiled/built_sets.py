"""Sets of ints that a handler builds: `seen: set[int] = set()`, then `add`, `in`, `len` and truth.

Nothing goes through one: Python's order of ints in a set is nobody's business. A set is passed on
as the place where it is in the scratch (`store.built`); too many ints give the call up.
"""

from __future__ import annotations

import operator
from typing import Any

from numba.core import types
from numba.core.imputils import lower_builtin, lower_getattr_generic
from numba.core.typing.templates import (
    AbstractTemplate,
    AttributeTemplate,
    infer_getattr,
    infer_global,
    signature,
)

from diptych.errors import did_you_mean
from diptych.store import words as at
from diptych.store.compiled.built_lists import field_of
from diptych.store.compiled.native import call_kernel, cell, give_up_if
from diptych.store.compiled.types import BIT, I64, IntSetType, Refused
from diptych.store.compiled.values import is_int, spoken

INT_SET = IntSetType()


def new_set() -> set[int]:
    """What stands in compiled code for `set()`."""
    raise NotImplementedError("compiled code alone calls this")


@infer_global(new_set)
class _NewSet(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        return signature(INT_SET)


@lower_builtin(new_set)
def _new_set(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    header = call_kernel(context, builder, "empty", builder.load(cell(builder)))
    give_up_if(builder, builder.icmp_signed("<", header, I64(0)))
    return header


class _Add(AbstractTemplate):
    key = "diptych.set.add"

    def generic(self, args: Any, kws: Any) -> Any:
        if len(args) != 1 or kws or not is_int(args[0]):
            raise Refused(f"the set holds int, not {', '.join(map(spoken, args))}")
        return signature(types.none, types.int64, recvr=self.this)


@infer_getattr
class _SetAttributes(AttributeTemplate):
    key = IntSetType

    def generic_resolve(self, kind: IntSetType, name: str) -> Any:
        if name == "add":
            return types.BoundFunction(_Add, kind)
        known = did_you_mean(name, ["add"])
        raise Refused(f"a set's {name!r} is not compiled{known}; add, len and `in` are")


@lower_getattr_generic(IntSetType)
def _get_from_set(context: Any, builder: Any, kind: IntSetType, header: Any, name: str) -> Any:
    return header


@lower_builtin(_Add.key, IntSetType, types.int64)
def _add(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    base = builder.load(cell(builder))
    code = call_kernel(context, builder, "set_add", base, *args)
    give_up_if(builder, builder.icmp_signed("<", code, I64(0)))
    return context.get_dummy_value()


@infer_global(operator.contains)
class _Contains(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        if args[0] != INT_SET:
            return None
        if not is_int(args[1]):
            raise Refused(f"the set holds int, not {spoken(args[1])}")
        return signature(types.boolean, INT_SET, types.int64)


@lower_builtin(operator.contains, IntSetType, types.int64)
def _contains(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    base = builder.load(cell(builder))
    return builder.trunc(call_kernel(context, builder, "set_contains", base, *args), BIT)


@infer_global(len)
class _Length(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        return signature(types.int64, *args) if args[0] == INT_SET else None


@lower_builtin(len, IntSetType)
def _length(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return field_of(builder, args[0], at.B_COUNT)


@infer_global(bool)
class _Truth(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        return signature(types.boolean, *args) if args[0] == INT_SET else None


@lower_builtin(bool, IntSetType)
def _truth(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return builder.icmp_signed("!=", field_of(builder, args[0], at.B_COUNT), I64(0))
