"""Between the values of compiled code and the words of columns.

Types are checked when a handler is compiled: a float into an int column, an int into a bool and
the like are refused, as the interpreted lane refuses them when it runs. What only the value can
tell (is this int within the column's bounds, does this text fit) is checked by generated code,
which gives the call up to the interpreted lane and its error.
"""

from __future__ import annotations

import operator
from typing import Any

from numba.core import cgutils, types
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature

from diptych.schema import Column
from diptych.store.compiled.floats import constant_word, float_of_word, float_word
from diptych.store.compiled.native import give_up_if, word
from diptych.store.compiled.sized import narrowed, sized_value
from diptych.store.compiled.types import (
    BIT,
    I64,
    DataType,
    Refused,
    RowType,
    SizedType,
    TextType,
    check_size,
    column_type,
    fits,
    words_of,
)

INT_MIN, INT_MAX = -(2**63), 2**63 - 1


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
    check_size(column, place)
    found = inner(kind)
    if column.optional and isinstance(found, types.NoneType):
        return
    if column.kind == "data":
        good = isinstance(found, DataType) and found.size_bytes == column.size_bytes
        if not good:
            raise Refused(f"{place} holds data({column.size_bytes}), not {spoken(kind)}")
        return
    good = {
        "int": is_int(found) or isinstance(found, types.Boolean),
        "bool": isinstance(found, types.Boolean),
        "float": is_int(found) or isinstance(found, types.Float),
        "text": isinstance(found, TextType | types.StringLiteral),
    }[column.kind]
    if not good:
        raise Refused(f"{place} holds {column.kind}, not {spoken(kind)}")
    if isinstance(found, types.StringLiteral) and not fits(found.literal_value, column.size_bytes):
        raise Refused(f"{place} holds {column.size_bytes} bytes, too few for {spoken(kind)}")


def to_words(
    context: Any,
    builder: Any,
    column: Column,
    kind: types.Type,
    value: Any,
    *,
    sought: bool = False,
) -> list[Any]:
    """A checked value as all words of a column: the last one of an optional column says whether
    there is a value.

    A value that is `sought` may be beyond the column's bounds: no row has it then.
    """
    if not column.optional:
        if isinstance(kind, types.Optional):
            value = context.cast(builder, value, kind, kind.type)  # None gives the call up
            kind = kind.type
        return _value_words(context, builder, column, kind, value, sought)
    if isinstance(kind, types.NoneType):
        return [word(0)] * column.all_words
    if not isinstance(kind, types.Optional):
        return [*_value_words(context, builder, column, kind, value, sought), word(1)]
    given = context.make_helper(builder, kind, value=value)
    # What stands where there is no value is anything, so it is neither checked nor written.
    slots = [cgutils.alloca_once_value(builder, I64(0)) for _ in range(column.words)]
    with builder.if_then(given.valid):
        parts = _value_words(context, builder, column, kind.type, given.data, sought)
        for slot, part in zip(slots, parts, strict=True):
            builder.store(part, slot)
    return [*map(builder.load, slots), builder.zext(given.valid, I64)]


def _value_words(
    context: Any, builder: Any, column: Column, kind: types.Type, value: Any, sought: bool
) -> list[Any]:
    """A checked value that is not None as the value words of a column."""
    if column.kind == "data":
        return [builder.extract_value(value, i) for i in range(column.words)]
    if column.kind == "text":
        if isinstance(kind, types.StringLiteral):
            return [word(part) for part in words_of(kind.literal_value, column.words)]
        return narrowed(builder, kind, value, column.size_bytes)
    if column.kind == "float":
        number = context.cast(builder, value, kind, types.float64)
        return [float_word(builder, number, column, sought)]
    result = context.cast(builder, value, kind, types.int64)
    if column.value.is_enum:
        member = BIT(0)
        for number in {int(each) for each in column.value.base}:
            member = builder.or_(member, builder.icmp_signed("==", result, I64(number)))
        give_up_if(builder, builder.not_(member))
    elif column.kind == "int":
        check_bounds(builder, column, result, sought)
    return [result]


def check_bounds(builder: Any, column: Column, value: Any, sought: bool) -> None:
    """Give the call up when an int is not what its column may hold."""
    low, high = column.low, column.high
    if sought:
        low, high = (INT_MIN if is_signed_word(column) else 0), INT_MAX
    if low is not None and low > INT_MIN:
        # Above what an int here can be every one of them is too low.
        too_low = BIT(1) if low > INT_MAX else builder.icmp_signed("<", value, I64(int(low)))
        give_up_if(builder, too_low)
    if high is not None and high < INT_MAX:
        give_up_if(builder, builder.icmp_signed(">", value, I64(int(high))))


def is_signed_word(column: Column) -> bool:
    """Whether an int column's word is the number itself: not so above 63 bits without a sign."""
    return column.signed or column.bits < 64


def from_words(context: Any, builder: Any, column: Column, parts: list[Any]) -> Any:
    """All words of a column as the value that a handler sees."""
    value = _from_value_words(builder, column, parts)
    if not column.optional:
        return value
    made = context.make_helper(builder, column_type(column, column.name))
    made.valid = builder.icmp_signed("!=", parts[-1], I64(0))
    made.data = value
    return made._getvalue()


def _from_value_words(builder: Any, column: Column, parts: list[Any]) -> Any:
    if column.kind in ("text", "data"):
        return sized_value(builder, parts[: column.words])
    if column.kind == "bool":
        return builder.icmp_signed("!=", parts[0], I64(0))
    if column.kind == "float":
        return float_of_word(builder, parts[0], column)
    if not is_signed_word(column):
        # Beyond what an int here can be: the interpreter's can.
        give_up_if(builder, builder.icmp_signed("<", parts[0], I64(0)))
    return parts[0]


def default_words(column: Column) -> list[Any]:
    """All words of a column's default; 0 for the key that counts by itself."""
    default = column.default
    if column.auto:
        return [word(0)]
    if default is None:
        return [word(0)] * column.all_words
    if column.in_heap:
        parts = [0]  # the empty value: another one is refused before
    elif column.kind in ("text", "data"):
        parts = words_of(default, column.words)
    elif column.kind == "float":
        parts = [constant_word(float(default), column.bits)]
    else:
        parts = [(int(default) + 2**63) % 2**64 - 2**63]
    if column.optional:
        parts.append(1)
    return [word(part) for part in parts]


def in_index_order(column: Column, parts: list[Any]) -> list[Any]:
    """All words of a column as the key of an index has them: first whether there is a value."""
    return [parts[-1], *parts[:-1]] if column.optional else parts


@infer_global(bool)
class _Truth(AbstractTemplate):
    """Rows are true, text is when it is not empty, bytes have some, and None is not."""

    def generic(self, args: Any, kws: Any) -> Any:
        found = inner(args[0])
        optional = isinstance(args[0], types.Optional) and number_kind(found) is not None
        if optional or isinstance(found, RowType | SizedType):
            return signature(types.boolean, *args)
        return None


@infer_global(float)
class _FloatOfOptional(AbstractTemplate):
    """None gives the call up, when the argument becomes what the signature says."""

    def generic(self, args: Any, kws: Any) -> Any:
        is_optional = len(args) == 1 and isinstance(args[0], types.Optional)
        if is_optional and number_kind(args[0]) in ("int", "float"):
            return signature(types.float64, inner(args[0]))
        return None


@infer_global(operator.getitem)
class _Item(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        if isinstance(inner(args[0]), SizedType):
            raise Refused("of the parts of text the first ones are compiled alone: text[:n]")
        return None


@lower_builtin(bool, RowType)
@lower_builtin(bool, DataType)
def _always_true(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return BIT(1)


@lower_builtin(bool, TextType)
def _text_truth(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return builder.icmp_signed("!=", builder.extract_value(args[0], 0), I64(0))


@lower_builtin(bool, types.Optional)
def _optional_truth(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    kind = sig.args[0].type
    optional = context.make_helper(builder, sig.args[0], value=args[0])
    true = context.get_function(bool, signature(types.boolean, kind))(builder, [optional.data])
    return builder.and_(optional.valid, true)
