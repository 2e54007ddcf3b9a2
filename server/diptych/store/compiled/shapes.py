"""How values cross between Python and compiled code: as words in the scratch, in a fixed order.

An argument's shape follows from the parameter's annotation, a result's (and a rejection's details')
from the type that Numba inferred. Both sides of each are made together: a struct format with a
Python expression, and the generated code that reads or writes the same words.
"""

from __future__ import annotations

import struct
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
from diptych.store.compiled.values import spoken
from diptych_client.errors import BadArguments


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


class Arguments:
    """Python values into words. `codes` is their struct format, `expressions` what to pack.

    `statements` pack lists, into room that the format leaves, after everything else; they use the
    `names`, and `scratch`.
    """

    def __init__(self) -> None:
        self.codes: list[str] = []
        self.expressions: list[str] = []
        self.statements: list[str] = []
        self.names: dict[str, Any] = {"encoded": encoded, "sized": sized}

    def add_parameter(self, value: ValueType, name: str) -> None:
        """Append the words of a whole parameter."""
        if value.items is None:
            self.add(value, name)
            return
        item = Arguments()
        item.add(value.arguments[0], "item")
        codes, parts = "".join(item.codes), "".join(f"{each}, " for each in item.expressions)
        byte = at.S_CALL_ARGUMENTS * 8 + struct.calcsize("<" + "".join(self.codes))
        packers = [struct.Struct("<q" + codes * n).pack_into for n in range(value.items.high + 1)]
        self.codes.append(f"{struct.calcsize('<q' + codes * value.items.high)}x")
        self.names[f"packers_{name}"] = packers
        flat = f"*[word for item in {name} for word in ({parts})]"
        self.statements.append(f"packers_{name}[len({name})](scratch, {byte}, len({name}), {flat})")

    def add(self, value: ValueType, name: str) -> None:
        """Append the words of the argument that the Python expression `name` gives."""
        if value.optional:
            given = Arguments()
            given.add(_required(value), name)
            self._slot("q", f"{name} is not None")
            for code, expression in zip(given.codes, given.expressions, strict=True):
                nothing = "b''" if code.endswith("s") else "0"
                self._slot(code, f"({nothing} if {name} is None else {expression})")
        elif value.is_record:
            for i, (_, part) in enumerate(value.fields):
                self.add(part, f"{name}[{i}]")
        elif value.base is tuple:
            for i, part in enumerate(value.arguments):
                self.add(part, f"{name}[{i}]")
        elif value.text is not None:
            words = -(-value.text.size_bytes // 8)
            self._slot(f"{words * 8}s", f"encoded({name}, {value.text.size_bytes})")
        elif value.data is not None:
            words = -(-value.data.size_bytes // 8)
            self._slot(f"{words * 8}s", f"sized({name}, {value.data.size_bytes})")
        elif value.base is not NoneType:
            self._slot("d" if value.base is float else "q", name)

    def _slot(self, code: str, expression: str) -> None:
        self.codes.append(code)
        self.expressions.append(expression)


def encoded(value: str, size_bytes: int) -> bytes:
    """Text as UTF-8. Errors: BadArguments when it is longer than its parameter allows."""
    raw = value.encode()
    if len(raw) > size_bytes or b"\0" in raw:
        raise BadArguments(f"text of at most {size_bytes} bytes is wanted, not {value!r}")
    return raw


def sized(value: bytes, size_bytes: int) -> bytes:
    """Bytes as they are. Errors: BadArguments when they are not as long as their parameter says."""
    if not isinstance(value, bytes) or len(value) != size_bytes:
        raise BadArguments(f"{size_bytes} bytes are wanted, not {value!r}")
    return value


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


class Answer:
    """Words into Python values. `codes` is their struct format; `add` gives an expression over
    `w`, the unpacked words, and `db`, which makes rows.
    """

    def __init__(self) -> None:
        self.codes: list[str] = []
        self.names: dict[str, Any] = {}

    def add(self, kind: types.Type) -> str:
        """The expression for the next value. Errors: TypeError when it can't leave a handler."""
        if isinstance(kind, types.NoneType):
            return "None"
        if isinstance(kind, types.StringLiteral):
            return repr(kind.literal_value)
        if isinstance(kind, types.Optional):
            present = self._slot("q")
            return f"({self.add(kind.type)} if {present} else None)"
        if isinstance(kind, types.BaseTuple):
            parts = "".join(f"{self.add(part)}, " for part in kind)
            if isinstance(kind, types.BaseNamedTuple):
                return f"{self._name(kind.instance_class)}({parts})"
            return f"({parts})"
        if isinstance(kind, TextType):
            return f"{self._slot(f'{kind.words * 8}s')}.rstrip(b'\\0').decode()"
        if isinstance(kind, DataType):
            return f"{self._slot(f'{kind.words * 8}s')}[:{kind.size_bytes}]"
        if isinstance(kind, RowType):
            return f"db.tables[{kind.table.spec.name!r}].row({self._slot('q')})"
        if isinstance(kind, ListType):
            item = Answer()
            expression = item.add(kind.item)
            self.names |= item.names
            count, first = self._slot("q"), self._slot("q")
            codes = self._name(struct.Struct("<" + "".join(item.codes)))
            span = f"db.space.words[{first}:{first}+{count}*{words_count(kind.item)}]"
            return f"[{expression} for w in {codes}.iter_unpack({span}.tobytes())]"
        kind = types.unliteral(kind)
        if isinstance(kind, types.IntEnumMember):
            return f"{self._name(kind.instance_class)}({self._slot('q')})"
        if isinstance(kind, types.Boolean):
            return f"({self._slot('q')} != 0)"
        if kind in (types.int64, types.float64):
            return self._slot("q" if kind is types.int64 else "d")
        raise TypeError(spoken(kind))

    def _slot(self, code: str) -> str:
        self.codes.append(code)
        return f"w[{len(self.codes) - 1}]"

    def _name(self, value: Any) -> str:
        name = f"type_{len(self.names)}"
        self.names[name] = value
        return name


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
