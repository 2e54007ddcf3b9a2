"""Between the values of compiled code and the words of columns.

Types are checked when a handler is compiled: a float into an int column, an int into a bool and
the like are refused, as the interpreted lane refuses them when it runs. What only the value can
tell (is this int a member of the enum, does this text fit) is checked by generated code, which
gives the call up to the interpreted lane and its error.
"""

from __future__ import annotations

import math
import struct
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.imputils import lower_builtin, lower_cast
from numba.core.typing.templates import AbstractTemplate, infer_global, signature

from diptych.schema import Column
from diptych.store.compiled.native import give_up_if, word
from diptych.store.compiled.types import I64, Refused, RowType, TextType, fits, words_of

NAN = struct.unpack("<q", struct.pack("<d", math.nan))[0]
HOLDS = {"int": "int", "bool": "bool", "float": "float", "text": "text"}


def inner(kind: types.Type) -> types.Type:
    """A type without `| None` and without a literal value; literal text stays literal."""
    if isinstance(kind, types.Optional):
        kind = kind.type
    return kind if isinstance(kind, types.StringLiteral) else types.unliteral(kind)


def spoken(kind: types.Type) -> str:
    """A type as the author of a handler knows it."""
    if isinstance(kind, types.Optional):
        return f"{spoken(kind.type)} | None"
    if isinstance(kind, types.StringLiteral):
        return repr(kind.literal_value)
    if isinstance(kind, types.BaseTuple):
        return f"({', '.join(map(spoken, kind))})"
    kind = types.unliteral(kind)
    if isinstance(kind, types.IntEnumMember):
        return str(kind.instance_class.__name__)
    if isinstance(kind, RowType):
        return f"a row of {kind.table.spec.name}"
    known = {types.int64: "int", types.float64: "float", types.boolean: "bool", types.none: "None"}
    return known.get(kind, str(kind))


def is_int(kind: types.Type) -> bool:
    return isinstance(kind, types.Integer | types.IntEnumMember)


def number_kind(kind: types.Type) -> str | None:
    """Which of Python's numbers a type is; None: no number."""
    found = inner(kind)
    if isinstance(found, types.Boolean):
        return "bool"
    if isinstance(found, types.Float):
        return "float"
    return "int" if is_int(found) else None


def check(column: Column, kind: types.Type, place: str) -> None:
    """Refuse a value whose type the column can't hold. `place` names the column in the error."""
    found = inner(kind)
    good = {
        "int": is_int(found) or isinstance(found, types.Boolean),
        "bool": isinstance(found, types.Boolean),
        "float": is_int(found) or isinstance(found, types.Float),
        "text": isinstance(found, TextType | types.StringLiteral),
    }[column.kind]
    if not good:
        raise Refused(f"{place} holds {HOLDS[column.kind]}, not {spoken(kind)}")
    if isinstance(found, types.StringLiteral) and not fits(found.literal_value, column.size_bytes):
        raise Refused(f"{place} holds {column.size_bytes} bytes, too few for {spoken(kind)}")


def to_words(context: Any, builder: Any, column: Column, kind: types.Type, value: Any) -> list[Any]:
    """A checked value as the words of a column."""
    if isinstance(kind, types.Optional):
        value = context.cast(builder, value, kind, kind.type)
        kind = kind.type
    if column.kind == "text":
        if isinstance(kind, types.StringLiteral):
            return [word(part) for part in words_of(kind.literal_value, column.words)]
        return narrowed(builder, kind, value, column.size_bytes)
    if column.kind == "float":
        return [float_word(builder, context.cast(builder, value, kind, types.float64))]
    result = context.cast(builder, value, kind, types.int64)
    if column.value.is_enum:
        member = ir.IntType(1)(0)
        for number in {int(each) for each in column.value.base}:
            member = builder.or_(member, builder.icmp_signed("==", result, I64(number)))
        give_up_if(builder, builder.not_(member))
    return [result]


def from_words(builder: Any, column: Column, parts: list[Any]) -> Any:
    """The words of a column as the value that a handler sees."""
    if column.kind == "text":
        return text_value(builder, parts)
    if column.kind == "bool":
        return builder.icmp_signed("!=", parts[0], I64(0))
    return builder.bitcast(parts[0], ir.DoubleType()) if column.kind == "float" else parts[0]


def default_words(column: Column) -> list[Any]:
    """The words of a column's default; 0 for the key that counts by itself."""
    if column.auto:
        return [word(0)]
    if column.kind == "text":
        return [word(part) for part in words_of(column.default, column.words)]
    if column.kind == "float":
        return [word(struct.unpack("<q", struct.pack("<d", column.default))[0])]
    return [word(int(column.default))]


def float_word(builder: Any, value: Any) -> Any:
    """The word of a float: one bit pattern for every NaN."""
    unordered = builder.fcmp_unordered("uno", value, value)
    return builder.select(unordered, I64(NAN), builder.bitcast(value, I64))


def text_value(builder: Any, parts: list[Any]) -> Any:
    value = ir.Constant(ir.ArrayType(I64, len(parts)), ir.Undefined)
    for i, part in enumerate(parts):
        value = builder.insert_value(value, part, i)
    return value


def text_words(kind: types.Type, builder: Any, value: Any, count: int) -> list[Any]:
    """Text as `count` words or more: zeros behind what it has."""
    if isinstance(kind, types.StringLiteral):
        size = len(kind.literal_value.encode())
        return [word(part) for part in words_of(kind.literal_value, max(count, -(-size // 8)))]
    parts = [builder.extract_value(value, i) for i in range(kind.words)]
    return parts + [word(0)] * (count - len(parts))


def narrowed(builder: Any, kind: TextType, value: Any, size_bytes: int) -> list[Any]:
    """Text as words of a place of `size_bytes`; gives the call up when it is longer."""
    count = -(-size_bytes // 8)
    parts = text_words(kind, builder, value, count)
    if kind.size_bytes > size_bytes:
        rest = word(0)
        for part in parts[count:]:
            rest = builder.or_(rest, part)
        if size_bytes % 8:
            beyond = builder.lshr(parts[count - 1], I64(size_bytes % 8 * 8))
            rest = builder.or_(rest, beyond)
        give_up_if(builder, builder.icmp_signed("!=", rest, I64(0)))
    return parts[:count]


@lower_cast(types.StringLiteral, TextType)
def _literal_to_text(
    context: Any, builder: Any, source: types.StringLiteral, target: TextType, value: Any
) -> Any:
    parts = words_of(source.literal_value, target.words)
    return text_value(builder, [word(part) for part in parts])


@lower_cast(TextType, TextType)
def _text_to_text(
    context: Any, builder: Any, source: TextType, target: TextType, value: Any
) -> Any:
    return text_value(builder, narrowed(builder, source, value, target.size_bytes))


@infer_global(bool)
class _Truth(AbstractTemplate):
    """Rows are true, text is when it is not empty, and None is not."""

    def generic(self, args: Any, kws: Any) -> Any:
        found = inner(args[0])
        optional = isinstance(args[0], types.Optional) and number_kind(found) is not None
        if optional or isinstance(found, RowType | TextType):
            return signature(types.boolean, *args)
        return None


@lower_builtin(bool, RowType)
def _row_truth(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return ir.IntType(1)(1)


@lower_builtin(bool, TextType)
def _text_truth(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return builder.icmp_signed("!=", builder.extract_value(args[0], 0), I64(0))


@lower_builtin(bool, types.Optional)
def _optional_truth(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    kind = sig.args[0].type
    optional = context.make_helper(builder, sig.args[0], value=args[0])
    true = context.get_function(bool, signature(types.boolean, kind))(builder, [optional.data])
    return builder.and_(optional.valid, true)
