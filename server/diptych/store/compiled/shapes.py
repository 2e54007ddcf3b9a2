"""How values cross between MessagePack and compiled code: as words in the scratch.

An argument's type follows from the parameter's annotation, a result's (and a rejection's details')
is what Numba inferred. Here is the generated code that reads or writes the words; `programs` says
how the same words are read from and written as MessagePack.
"""

from __future__ import annotations

from types import NoneType
from typing import Any

from llvmlite import ir
from numba.core import types

from diptych.errors import DeclarationError
from diptych.schema import ValueType
from diptych.store import words as at
from diptych.store.compiled.native import cell, load
from diptych.store.compiled.rows import check_live, parts_of
from diptych.store.compiled.sized import sized_value
from diptych.store.compiled.types import (
    I64,
    VALUE_WORDS_MAX,
    DataType,
    ItemsType,
    ListType,
    RowType,
    SizedType,
    TextType,
)


def argument_type(value: ValueType, place: str) -> types.Type:
    """The type that a compiled handler gets for an annotation. Errors: DeclarationError."""
    if value.optional:
        return types.Optional(argument_type(_required(value), place))
    if value.base is int or value.is_enum:
        return types.int64
    plain = {bool: types.boolean, float: types.float64, NoneType: types.none}
    if value.base in plain:
        return plain[value.base]
    mark = value.text or value.data
    if mark is not None:
        if mark.size_bytes > VALUE_WORDS_MAX * 8:
            cure = f"{VALUE_WORDS_MAX * 8} at most, or declare the handler with compiled=False"
            raise DeclarationError(f"{place}: a compiled handler can't take so many bytes; {cure}")
        return TextType(mark.size_bytes) if value.text else DataType(mark.size_bytes)
    if value.is_record:
        parts = [argument_type(part, f"{place}.{name}") for name, part in value.fields]
        return types.BaseTuple.from_types(parts, value.base)
    if value.base is tuple and value.arguments and not value.repeated:
        parts = [argument_type(part, f"{place}[]") for part in value.arguments]
        return types.BaseTuple.from_types(parts)
    cure = "declare the handler with compiled=False"
    if value.base is str:
        cure = "say how long it is: Annotated[str, text(16)]"
    if value.base is bytes:
        cure = "say how long it is: Annotated[bytes, data(16)]"
    name = getattr(value.base, "__name__", value.base)
    raise DeclarationError(f"{place}: a compiled handler can't take {name}; {cure}")


def parameter_type(value: ValueType, place: str) -> types.Type:
    """The same for a whole parameter, which may be a list of so many items at most."""
    if value.base is not list and not value.repeated:
        return argument_type(value, place)
    if value.optional or value.items is None:
        cure = "say how many items it has: Annotated[list[Line], items(0, 15)]"
        if value.optional:
            cure = "an empty list instead of None is compiled"
        raise DeclarationError(f"{place}: a compiled handler can't take this list; {cure}")
    return ItemsType(argument_type(value.arguments[0], f"{place}[]"), value.items.high)


def _required(value: ValueType) -> ValueType:
    return ValueType(**{**value.__dict__, "optional": False})


class Words:
    """Generated code for the words of arguments, which begin at an address: one after another."""

    def __init__(self, builder: Any, address: Any) -> None:
        self._builder, self._address, self._count = builder, address, 0

    def next(self) -> Any:
        address = self._builder.inttoptr(self.skip(1), I64.as_pointer())
        return self._builder.load(address)

    def skip(self, count: int) -> Any:
        """Leave out so many words; where they are."""
        address = self._builder.add(self._address, I64(self._count * 8))
        self._count += count
        return address


def read_argument(context: Any, builder: Any, kind: types.Type, words: Words) -> Any:
    """Generated code for one argument, or one item of a list."""
    if isinstance(kind, ItemsType):
        items = context.make_helper(builder, kind)
        items.count = words.next()
        items.address = words.skip(words_count(kind) - 1)
        return items._getvalue()
    if isinstance(kind, types.Optional):
        made = context.make_helper(builder, kind)
        made.valid = builder.icmp_signed("!=", words.next(), I64(0))
        made.data = read_argument(context, builder, kind.type, words)
        return made._getvalue()
    if isinstance(kind, types.BaseTuple):
        parts = [read_argument(context, builder, part, words) for part in kind]
        return context.make_tuple(builder, kind, parts)
    if isinstance(kind, SizedType):
        return sized_value(builder, [words.next() for _ in range(kind.words)])
    if isinstance(kind, types.NoneType):
        return context.get_dummy_value()
    if isinstance(kind, types.Boolean):
        return builder.icmp_signed("!=", words.next(), I64(0))
    if isinstance(kind, types.Float):
        return builder.bitcast(words.next(), ir.DoubleType())
    return words.next()


def words_count(kind: types.Type) -> int:
    """How many words an argument or a result of this type takes."""
    if isinstance(kind, types.Optional):
        return 1 + words_count(kind.type)
    if isinstance(kind, ItemsType):
        return 1 + kind.items_max * words_count(kind.item)
    if isinstance(kind, ListType):
        return 2
    if isinstance(kind, types.BaseTuple):
        return sum(map(words_count, kind))
    if isinstance(kind, SizedType):
        return kind.words
    return 0 if isinstance(kind, types.NoneType | types.StringLiteral) else 1


def write_answer(context: Any, builder: Any, kind: types.Type, value: Any) -> list[Any]:
    """Generated code for one value: its words, in the order that `Answer` reads."""
    if isinstance(kind, types.NoneType | types.StringLiteral):
        return []
    if isinstance(kind, types.Optional):
        optional = context.make_helper(builder, kind, value=value)
        words = write_answer(context, builder, kind.type, optional.data)
        return [builder.zext(optional.valid, I64), *words]
    if isinstance(kind, types.BaseTuple):
        words = []
        for i, part in enumerate(kind):
            words += write_answer(context, builder, part, builder.extract_value(value, i))
        return words
    if isinstance(kind, SizedType):
        return [builder.extract_value(value, i) for i in range(kind.words)]
    if isinstance(kind, RowType):
        base, row = parts_of(context, builder, kind, value)
        check_live(builder, base, kind.table, row)
        return [row]
    if isinstance(kind, ListType):
        base = builder.load(cell(builder))
        fields = (at.B_COUNT, at.B_ITEMS)
        return [load(builder, base, builder.add(value, I64(field))) for field in fields]
    if isinstance(kind, types.Float):
        return [builder.bitcast(value, I64)]
    if isinstance(kind, types.Boolean):
        return [builder.zext(value, I64)]
    return [context.cast(builder, value, types.unliteral(kind), types.int64)]
