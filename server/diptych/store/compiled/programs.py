"""Programs: what `unpack` expects of a call's arguments, and what `pack` makes of an answer.

They follow from annotations, and from the types that Numba inferred, in the order of words that
`shapes` documents. A program may lie anywhere in an array: its jumps are relative.
"""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Sequence
from dataclasses import replace
from types import NoneType

import msgpack
import numpy as np
from numba.core import types

from diptych.app import Operation, Parameter
from diptych.schema import (
    INT_MAX,
    INT_MIN,
    MISSING,
    Bits,
    Column,
    TableSpec,
    ValueType,
    int_bounds,
    plain_default,
)
from diptych.store import pack as write
from diptych.store import unpack as read
from diptych.store.compiled.shapes import argument_type, parameter_type, words_count
from diptych.store.compiled.types import DataType, ListType, RowType, TextType, words_of
from diptych.store.compiled.values import is_signed_word, spoken

Program = list[int]


# Arguments ---------------------------------------------------------------------------------------


def arguments_program(operation: Operation) -> Program:
    """What `unpack` makes the argument words of. Errors: DeclarationError, as `parameter_type`."""
    parameters = operation.parameters
    required, program = 0, []
    for i, parameter in enumerate(parameters):
        ops = _parameter_ops(parameter.value)
        default = _default_words(parameter, ops)
        if default is None:
            required = i + 1
        else:
            kind = parameter_type(parameter.value, parameter.name)
            program += [read.DEFAULT, i, len(ops), words_count(kind), len(default), *default]
        program += ops
    return [read.ARGUMENTS, required, len(parameters), *program, read.DONE]


def _default_words(parameter: Parameter, ops: Program) -> Program | None:
    """The words of a parameter that is left out; None where there are none, or Python alone knows.

    They are made as if the client had sent the default, so nothing but the same checks decides.
    """
    if parameter.default is MISSING:
        return None
    sent = msgpack.packb([plain_default(parameter.default, parameter.name)])
    payload = np.array(list(sent), np.uint8)
    program = np.array([read.ARGUMENTS, 1, 1, *ops, read.DONE])
    count = words_count(parameter_type(parameter.value, parameter.name))
    words = np.zeros(count, np.int64)
    if read.unpack(program, 0, payload, 0, len(payload), words, 0) != 0:
        return None
    return words.tolist()


def _parameter_ops(value: ValueType) -> Program:
    if value.items is None:
        return _argument_ops(value)
    words = words_count(argument_type(value.arguments[0], ""))
    item = _argument_ops(value.arguments[0])
    head = [read.ITEMS, value.items.low, value.items.high, words, len(item) + 2]
    return [*head, *item, read.AGAIN, len(item)]


def _argument_ops(value: ValueType) -> Program:
    if value.optional:
        ops = _argument_ops(replace(value, optional=False))
        return [read.OPTIONAL, len(ops), words_count(argument_type(value, "")), *ops]
    if value.is_enum:
        return _member_ops({int(member) for member in value.base})
    if value.base is int:
        return _op(read.INT, 1, *_int_bounds(value))
    if value.base is float:
        return _float_ops(value)
    if value.text is not None:
        return _op(read.TEXT, -(-value.text.size_bytes // 8), value.text.size_bytes)
    if value.data is not None:
        return _op(read.DATA, -(-value.data.size_bytes // 8), value.data.size_bytes)
    if value.base is bool:
        return _op(read.BOOL, 1)
    if value.base is NoneType:
        return _op(read.NIL, 0)
    parts = [part for _, part in value.fields] if value.is_record else list(value.arguments)
    ops = [op for part in parts for op in _argument_ops(part)]
    return [read.ARRAY, len(parts), len(parts), *ops]


def _op(op: int, words: int, *operands: int) -> Program:
    """An op of a value."""
    return [op, 2 + len(operands), words, *operands]


def _int_bounds(value: ValueType) -> tuple[int, int]:
    low, high = int_bounds(value.bits) if value.bits else (INT_MIN, INT_MAX)
    if value.between is not None:
        low, high = max(low, int(value.between.low)), min(high, int(value.between.high))
    # Above 63 bits Python takes the frame.
    return (low, min(high, INT_MAX)) if low <= INT_MAX and high >= INT_MIN else (1, 0)


def _member_ops(members: set[int]) -> Program:
    known = sorted(number for number in members if INT_MIN <= number <= INT_MAX)
    if known and known[-1] - known[0] == len(known) - 1:
        return _op(read.INT, 1, known[0], known[-1])
    return _op(read.MEMBER, 1, len(known), *known)


def _float_ops(value: ValueType) -> Program:
    limits = read.IS_SHORT if value.bits == Bits(32) else 0
    if value.between is None:
        return _op(read.LIMITED_FLOAT, 1, limits, 0, 0, 0, 0) if limits else _op(read.FLOAT, 1)
    low, high = value.between.low, value.between.high
    bounds = [_bits(_float_above(low)), _bits(-_float_above(-high))]
    # A bound of ints that no int of 64 bits reaches lets none pass.
    ints = [_int_above(low), -_int_above(-high)]
    if ints[0] > INT_MAX or ints[1] < INT_MIN:
        ints = [1, 0]
    ints = [max(ints[0], INT_MIN), min(ints[1], INT_MAX)]
    return _op(read.LIMITED_FLOAT, 1, limits | read.IS_BOUNDED, *bounds, *ints)


def _float_above(bound: int | float) -> float:
    """The lowest float that is not below a bound."""
    try:
        nearest = float(bound)
    except OverflowError:
        return math.inf if bound > 0 else -sys.float_info.max
    return nearest if nearest >= bound else math.nextafter(nearest, math.inf)


def _int_above(bound: int | float) -> int:
    """The lowest int that is not below a bound; of an infinite one, one beyond 64 bits."""
    if bound in (math.inf, -math.inf):
        return 2 * INT_MAX if bound > 0 else 2 * INT_MIN
    return math.ceil(bound)


def _bits(value: float) -> int:
    bits: int = struct.unpack("<q", struct.pack("<d", value))[0]
    return bits


# Answers -----------------------------------------------------------------------------------------


def answer_program(kind: types.Type) -> Program:
    """What `pack` makes a result's payload of. Errors: TypeError when it can't leave a handler."""
    return [*_answer_ops(kind), write.DONE]


def rejection_program(code: str, names: Sequence[str], kinds: Sequence[types.Type]) -> Program:
    """The same of a rejection's payload; the details' words follow each other."""
    packer = msgpack.Packer()
    head = packer.pack_array_header(2) + packer.pack(code) + packer.pack_map_header(len(names))
    program = _literal(head)
    for name, kind in zip(names, kinds, strict=True):
        program += [*_literal(packer.pack(name)), *_answer_ops(kind)]
    return [*program, write.DONE]


def _literal(octets: bytes) -> Program:
    return [write.LITERAL, len(octets), *words_of(octets, -(-len(octets) // 8))]


def _array(count: int) -> Program:
    return _literal(msgpack.Packer().pack_array_header(count))


def _answer_ops(kind: types.Type) -> Program:
    if isinstance(kind, types.NoneType):
        return _literal(msgpack.packb(None))
    if isinstance(kind, types.StringLiteral):
        return _literal(msgpack.packb(kind.literal_value))
    if isinstance(kind, types.Optional):
        ops = _answer_ops(kind.type)
        return [write.OPTIONAL, len(ops), answer_words(kind.type), *ops]
    if isinstance(kind, types.BaseTuple):
        return [*_array(len(kind)), *(op for part in kind for op in _answer_ops(part))]
    if isinstance(kind, ListType):
        ops = [*_answer_ops(kind.item), write.DONE]
        return [write.ITEMS, answer_words(kind.item), len(ops), *ops]
    if isinstance(kind, TextType | DataType):
        return _sized_op(isinstance(kind, TextType), kind.words, kind.size_bytes)
    if isinstance(kind, RowType):
        return _row_ops(kind.table.descriptor, kind.table.spec)
    kind = types.unliteral(kind)
    if isinstance(kind, types.Boolean):
        return [write.BOOL]
    if kind == types.int64 or isinstance(kind, types.IntEnumMember):
        return [write.INT]
    if kind == types.float64:
        return [write.FLOAT]
    raise TypeError(spoken(kind))


def answer_words(kind: types.Type) -> int:
    """How many words an answer of this type takes; of a list: how many items, and where."""
    if isinstance(kind, ListType):
        return 2
    if isinstance(kind, types.Optional):
        return 1 + answer_words(kind.type)
    if isinstance(kind, types.BaseTuple):
        return sum(map(answer_words, kind))
    return words_count(kind)


def _row_ops(descriptor: int, spec: TableSpec) -> Program:
    program = [*_array(len(spec.columns)), write.ROW, descriptor]
    for column in spec.columns:
        ops = _column_op(column)
        if column.optional:
            program += [write.OPTIONAL + write.COLUMN, column.valid_word, len(ops), 0]
        program += ops
    return program


def _column_op(column: Column) -> Program:
    if column.kind in ("text", "data"):
        op, *sizes = _sized_op(column.kind == "text", column.words, column.size_bytes)
        return [op + write.COLUMN, column.first_word, *sizes]
    op = {
        "int": write.INT if is_signed_word(column) else write.UNSIGNED,
        "bool": write.BOOL,
        "float": write.FLOAT if column.bits == 64 else write.SHORT_FLOAT,
        "str": write.HEAP_TEXT,
        "bytes": write.HEAP_DATA,
    }[column.kind]
    return [op + write.COLUMN, column.first_word]


def _sized_op(is_text: bool, words: int, size_bytes: int) -> Program:
    """Columns of one word may share it, so that it is not known by its position."""
    if words == 1:
        return [write.WORD_TEXT] if is_text else [write.WORD_DATA, size_bytes]
    return [write.TEXT if is_text else write.DATA, words, size_bytes]
