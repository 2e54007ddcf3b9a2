"""Arithmetic that never differs from Python's: the interpreter's result, or the interpreter itself.

Compiled ints have 64 bits. Where a result would not fit, where Python raises, and where rounding
would differ, the call is given up and run again by the interpreted lane on the same bytes, which
then computes with Python's own ints and raises what it raises. So a product that is too large
for its column ends as BadValue in both lanes.

Before types are inferred, operators are replaced by the functions in OPERATORS.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature

from diptych.store.compiled.native import give_up_if
from diptych.store.compiled.texts import is_text, joined, lower_add
from diptych.store.compiled.types import I64, Refused, TextType
from diptych.store.compiled.values import inner, is_int, spoken

INT_MIN = -(2**63)
EXACT_FLOAT_MAX = 2**53  # ints up to here are floats, too
Lowering = Callable[[Any, Any, Any], Any]


# What stands for an operator in compiled code; Numba finds these by name in this module.


def exact_add(left: Any, right: Any) -> Any:
    return left + right


def exact_sub(left: Any, right: Any) -> Any:
    return left - right


def exact_mul(left: Any, right: Any) -> Any:
    return left * right


def exact_truediv(left: Any, right: Any) -> Any:
    return left / right


def exact_floordiv(left: Any, right: Any) -> Any:
    return left // right


def exact_mod(left: Any, right: Any) -> Any:
    return left % right


def exact_lshift(left: Any, right: Any) -> Any:
    return left << right


def exact_rshift(left: Any, right: Any) -> Any:
    return left >> right


def exact_neg(value: Any) -> Any:
    return -value


def exact_abs(value: Any) -> Any:
    return abs(value)


OPERATORS: dict[Any, Callable[..., Any]] = {
    operator.add: exact_add,
    operator.sub: exact_sub,
    operator.mul: exact_mul,
    operator.truediv: exact_truediv,
    operator.floordiv: exact_floordiv,
    operator.mod: exact_mod,
    operator.lshift: exact_lshift,
    operator.rshift: exact_rshift,
    operator.neg: exact_neg,
    abs: exact_abs,
}
IN_PLACE: dict[Any, Any] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    operator.ifloordiv: operator.floordiv,
    operator.imod: operator.mod,
    operator.ilshift: operator.lshift,
    operator.irshift: operator.rshift,
}
SIGNS = {
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.truediv: "/",
    operator.floordiv: "//",
    operator.mod: "%",
    operator.lshift: "<<",
    operator.rshift: ">>",
    operator.neg: "-",
}
UNCOMPILED: dict[Any, str] = {
    operator.pow: "** is not compiled; multiply",
    operator.ipow: "** is not compiled; multiply",
    operator.matmul: "@ is not compiled",
    operator.imatmul: "@ is not compiled",
    operator.invert: "~ is not compiled; write -x - 1",
    operator.pos: "a plus sign is not compiled; leave it out",
}


def _is_number(kind: types.Type) -> bool:
    return is_int(kind) or isinstance(kind, types.Boolean | types.Float)


def _declare(
    function: Any, on_ints: Lowering, on_floats: Lowering | None, *, to_float: bool = False
) -> None:
    """Type and lower one operator. `to_float`: ints give a float (true division)."""
    stand_in = OPERATORS[function]
    sign = SIGNS.get(function, function.__name__)

    @infer_global(stand_in)
    class Exact(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            kinds = [inner(kind) for kind in args]
            if function is operator.add and all(map(is_text, kinds)):
                return joined(kinds)
            if all(map(_is_number, kinds)):
                floats = any(isinstance(kind, types.Float) for kind in kinds)
                if not floats:
                    result = types.float64 if to_float else types.int64
                    return signature(result, *[types.int64] * len(args))
                if on_floats is not None:
                    return signature(types.float64, *[types.float64] * len(args))
            shown = " and ".join(spoken(kind) for kind in args)
            raise Refused(f"{sign} of {shown} is not compiled")

    def lower(operation: Lowering) -> Any:
        return lambda context, builder, sig, args: operation(
            builder, *args, *[None] * (2 - len(args))
        )

    arity = 1 if function in (operator.neg, abs) else 2
    lower_builtin(stand_in, *[types.int64] * arity)(lower(on_ints))
    if on_floats is not None:
        lower_builtin(stand_in, *[types.float64] * arity)(lower(on_floats))


def _overflowing(operation: str) -> Lowering:
    def lower(builder: Any, left: Any, right: Any) -> Any:
        pair = getattr(builder, f"{operation}_with_overflow")(left, right)
        give_up_if(builder, builder.extract_value(pair, 1))
        return builder.extract_value(pair, 0)

    return lower


def _floats(operation: str) -> Lowering:
    return lambda builder, left, right: getattr(builder, operation)(left, right)


def _negate(builder: Any, value: Any, _: Any) -> Any:
    give_up_if(builder, builder.icmp_signed("==", value, I64(INT_MIN)))
    return builder.neg(value)


def _absolute(builder: Any, value: Any, _: Any) -> Any:
    give_up_if(builder, builder.icmp_signed("==", value, I64(INT_MIN)))
    negative = builder.icmp_signed("<", value, I64(0))
    return builder.select(negative, builder.neg(value), value)


def _absolute_float(builder: Any, value: Any, _: Any) -> Any:
    bits = builder.and_(builder.bitcast(value, I64), I64(2**63 - 1))
    return builder.bitcast(bits, ir.DoubleType())


def _check_divisor(builder: Any, left: Any, right: Any) -> None:
    zero = builder.icmp_signed("==", right, I64(0))
    lowest = builder.icmp_signed("==", left, I64(INT_MIN))
    overflow = builder.and_(lowest, builder.icmp_signed("==", right, I64(-1)))
    give_up_if(builder, builder.or_(zero, overflow))


def _rounds_down(builder: Any, remainder: Any, right: Any) -> Any:
    """Whether Python's quotient is one below the truncated one: the rest has the other sign."""
    rest = builder.icmp_signed("!=", remainder, I64(0))
    other_sign = builder.icmp_signed("<", builder.xor(remainder, right), I64(0))
    return builder.and_(rest, other_sign)


def _floor_divide(builder: Any, left: Any, right: Any) -> Any:
    _check_divisor(builder, left, right)
    quotient = builder.sdiv(left, right)
    down = _rounds_down(builder, builder.srem(left, right), right)
    return builder.sub(quotient, builder.zext(down, I64))


def _modulo(builder: Any, left: Any, right: Any) -> Any:
    _check_divisor(builder, left, right)
    remainder = builder.srem(left, right)
    down = _rounds_down(builder, remainder, right)
    return builder.select(down, builder.add(remainder, right), remainder)


def _divide_ints(builder: Any, left: Any, right: Any) -> Any:
    for value in (left, right):
        low = builder.icmp_signed("<", value, I64(-EXACT_FLOAT_MAX))
        high = builder.icmp_signed(">", value, I64(EXACT_FLOAT_MAX))
        give_up_if(builder, builder.or_(low, high))
    floats = [builder.sitofp(value, ir.DoubleType()) for value in (left, right)]
    return _divide(builder, *floats)


def _divide(builder: Any, left: Any, right: Any) -> Any:
    zero = ir.Constant(ir.DoubleType(), 0.0)
    give_up_if(builder, builder.fcmp_ordered("==", right, zero))
    return builder.fdiv(left, right)


def _shift_left(builder: Any, value: Any, count: Any) -> Any:
    give_up_if(builder, builder.icmp_unsigned(">", count, I64(63)))
    shifted = builder.shl(value, count)
    give_up_if(builder, builder.icmp_signed("!=", builder.ashr(shifted, count), value))
    return shifted


def _shift_right(builder: Any, value: Any, count: Any) -> Any:
    give_up_if(builder, builder.icmp_unsigned(">", count, I64(63)))
    return builder.ashr(value, count)


_declare(operator.add, _overflowing("sadd"), _floats("fadd"))
_declare(operator.sub, _overflowing("ssub"), _floats("fsub"))
_declare(operator.mul, _overflowing("smul"), _floats("fmul"))
_declare(operator.truediv, _divide_ints, _divide, to_float=True)
_declare(operator.floordiv, _floor_divide, None)
_declare(operator.mod, _modulo, None)
_declare(operator.lshift, _shift_left, None)
_declare(operator.rshift, _shift_right, None)
_declare(operator.neg, _negate, lambda builder, value, _: builder.fneg(value))
_declare(abs, _absolute, _absolute_float)
lower_builtin(exact_add, TextType, TextType)(lower_add)
