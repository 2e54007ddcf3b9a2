"""Floats as the words of columns: the same bytes as the interpreted lane writes.

Zero has one form, without a sign, and so has NaN: rows that are equal are equal in memory. A column
of 32 bits gets the nearest number that it can hold; its word is those bits with their sign
extended. Numbers out of bounds, and those that 32 bits can't hold, give the call up.
"""

from __future__ import annotations

import math
import struct
from typing import Any

from llvmlite import ir

from diptych.schema import Column
from diptych.store.compiled.native import give_up_if
from diptych.store.compiled.types import I32, I64

DOUBLE = ir.DoubleType()
FLOAT = ir.FloatType()


def constant_word(value: float, bits: int) -> int:
    """The word of a float that is known when a handler is compiled, and fits."""
    value = math.nan if value != value else value + 0.0  # a sum is never minus zero
    formats = ("<d", "<q") if bits == 64 else ("<f", "<i")
    if bits == 32 and struct.pack("<f", value) == struct.pack("<f", -0.0):
        value = 0.0
    word: int = struct.unpack(formats[1], struct.pack(formats[0], value))[0]
    return word


def float_word(builder: Any, value: Any, column: Column, sought: bool) -> Any:
    """The word of a float in a column; one that is sought may be beyond the column's bounds."""
    if not sought:
        _check_bounds(builder, value, column)
    zero, integer = DOUBLE(0.0), I64
    if column.bits == 32:
        wide, value, zero, integer = value, builder.fptrunc(value, FLOAT), FLOAT(0.0), I32
        back = builder.fpext(value, DOUBLE)
        infinite = builder.fcmp_ordered("==", _absolute(builder, back), DOUBLE(math.inf))
        finite = builder.fcmp_ordered("!=", _absolute(builder, wide), DOUBLE(math.inf))
        give_up_if(builder, builder.and_(infinite, finite))
        if not sought:
            _check_bounds(builder, back, column)
    bits = builder.bitcast(value, integer)
    bits = builder.select(builder.fcmp_ordered("==", value, zero), integer(0), bits)
    unordered = builder.fcmp_unordered("uno", value, value)
    bits = builder.select(unordered, integer(constant_word(math.nan, column.bits)), bits)
    return builder.sext(bits, I64) if column.bits == 32 else bits


def float_of_word(builder: Any, word: Any, column: Column) -> Any:
    """The float that a column's word stands for."""
    if column.bits == 32:
        return builder.fpext(builder.bitcast(builder.trunc(word, I32), FLOAT), DOUBLE)
    return builder.bitcast(word, DOUBLE)


def _absolute(builder: Any, value: Any) -> Any:
    bits = builder.and_(builder.bitcast(value, I64), I64(2**63 - 1))
    return builder.bitcast(bits, DOUBLE)


def _check_bounds(builder: Any, value: Any, column: Column) -> None:
    """Give the call up unless a number is within the column's bounds; NaN is in none."""
    if column.low is not None and column.high is not None:
        low = builder.fcmp_ordered(">=", value, DOUBLE(float(column.low)))
        high = builder.fcmp_ordered("<=", value, DOUBLE(float(column.high)))
        give_up_if(builder, builder.not_(builder.and_(low, high)))
