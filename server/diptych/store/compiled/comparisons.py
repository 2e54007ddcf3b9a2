"""`==`, `<` and the rest as Python means them, between the types that handlers have.

Numbers of one kind compare as such; an int with a float is refused, since Python compares them
exactly. Text compares as its bytes do, which is the order of its code points, and bytes with bytes
of the same length; rows are equal when they are the same row. None equals None alone, and ordering
it gives the call up to the interpreter. All else is refused: Numba would answer some of it with
False.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from numba.core import types
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature

from diptych.store.compiled.native import give_up_if
from diptych.store.compiled.rows import parts_of
from diptych.store.compiled.sized import sized_words
from diptych.store.compiled.texts import is_text
from diptych.store.compiled.types import BIT, DataType, Refused, RowType
from diptych.store.compiled.values import inner, number_kind, spoken

# What stands for an operator in compiled code; Numba finds these by name in this module.


def exact_eq(left: Any, right: Any) -> bool:
    return bool(left == right)


def exact_ne(left: Any, right: Any) -> bool:
    return bool(left != right)


def exact_lt(left: Any, right: Any) -> bool:
    return bool(left < right)


def exact_le(left: Any, right: Any) -> bool:
    return bool(left <= right)


def exact_gt(left: Any, right: Any) -> bool:
    return bool(left > right)


def exact_ge(left: Any, right: Any) -> bool:
    return bool(left >= right)


SIGNS: dict[Callable[[Any, Any], bool], str] = {
    exact_eq: "==",
    exact_ne: "!=",
    exact_lt: "<",
    exact_le: "<=",
    exact_gt: ">",
    exact_ge: ">=",
}
COMPARISONS: dict[Any, Callable[[Any, Any], bool]] = {
    operator.eq: exact_eq,
    operator.ne: exact_ne,
    operator.lt: exact_lt,
    operator.le: exact_le,
    operator.gt: exact_gt,
    operator.ge: exact_ge,
}


def comparable(sign: str, left: types.Type, right: types.Type) -> bool:
    """Whether two types, without `| None`, compare the same in both lanes."""
    numbers = {number_kind(left), number_kind(right)}
    if None not in numbers:
        return numbers == {"float"} or "float" not in numbers
    if is_text(left) and is_text(right):
        literals = [kind for kind in (left, right) if isinstance(kind, types.StringLiteral)]
        return len(literals) < 2 and not any("\0" in kind.literal_value for kind in literals)
    if isinstance(left, DataType):
        return bool(left == right)
    return isinstance(left, RowType) and left == right and sign in ("==", "!=")


def compare_words(sign: str, builder: Any, left: list[Any], right: list[Any]) -> Any:
    """Compare text or bytes word by word; byte-swapped where the order matters."""
    if sign in ("==", "!="):
        equal = BIT(1)
        for one, other in zip(left, right, strict=True):
            equal = builder.and_(equal, builder.icmp_signed("==", one, other))
        return equal if sign == "==" else builder.not_(equal)
    result = BIT(sign in ("<=", ">="))
    for one, other in reversed(list(zip(left, right, strict=True))):
        ordered = builder.icmp_unsigned(sign[0], builder.bswap(one), builder.bswap(other))
        equal = builder.icmp_signed("==", one, other)
        result = builder.select(equal, result, ordered)
    return result


def compare(context: Any, builder: Any, sign: str, kinds: Any, values: Any) -> Any:
    """Generated code for two values of comparable types that are not None."""
    if is_text(kinds[0]) or isinstance(kinds[0], DataType):
        count = 0
        for _ in range(2):  # the second time both are as long as the longer one
            sides = [
                sized_words(kind, builder, value, count)
                for kind, value in zip(kinds, values, strict=True)
            ]
            count = max(map(len, sides))
        return compare_words(sign, builder, *sides)
    if isinstance(kinds[0], RowType):
        slots = [parts_of(context, builder, kinds[0], value)[1] for value in values]
        return builder.icmp_signed(sign, *slots)
    if number_kind(kinds[0]) == "float":
        if sign == "!=":
            return builder.fcmp_unordered(sign, *values)
        return builder.fcmp_ordered(sign, *values)
    ints = [
        context.cast(builder, value, kind, types.int64)
        for kind, value in zip(kinds, values, strict=True)
    ]
    return builder.icmp_signed(sign, *ints)


def opened(context: Any, builder: Any, kind: types.Type, value: Any) -> tuple[Any, Any]:
    """Whether a value is not None, and the value without `| None`."""
    if isinstance(kind, types.NoneType):
        return BIT(0), None
    if isinstance(kind, types.Optional):
        optional = context.make_helper(builder, kind, value=value)
        return optional.valid, optional.data
    return BIT(1), value


def lower(context: Any, builder: Any, sign: str, kinds: Any, values: Any) -> Any:
    one, left = opened(context, builder, kinds[0], values[0])
    other, right = opened(context, builder, kinds[1], values[1])
    both = builder.and_(one, other)
    if left is None or right is None:
        result = BIT(sign == "!=")
    else:
        result = compare(context, builder, sign, [inner(kind) for kind in kinds], [left, right])
    if sign not in ("==", "!="):
        give_up_if(builder, builder.not_(both))
        return result
    # With None on one side they differ, on both they are equal.
    same = builder.icmp_signed("==", one, other)
    with_none = same if sign == "==" else builder.not_(same)
    return builder.select(both, result, with_none)


def _declare(function: Callable[[Any, Any], bool], sign: str) -> None:
    @infer_global(function)
    class Comparison(AbstractTemplate):
        prefer_literal = True

        def generic(self, args: Any, kws: Any) -> Any:
            kinds = [inner(kind) for kind in args]
            with_none = sign in ("==", "!=") and types.none in kinds
            if not with_none and not comparable(sign, *kinds):
                shown = f"{spoken(args[0])} {sign} {spoken(args[1])}"
                raise Refused(f"{shown} is not compiled; compare values of one type")
            plain = [k if isinstance(k, types.StringLiteral) else types.unliteral(k) for k in args]
            return signature(types.boolean, *plain)

    @lower_builtin(function, types.Any, types.Any)
    def lower_comparison(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return lower(context, builder, sign, sig.args, args)


for _function, _sign in SIGNS.items():
    _declare(_function, _sign)
