"""What an application declared, checked and in plain data: columns, tables, indexes, parameters.

Made by `app.App` while the application's module is imported, read by everybody below. Knows Python
annotations; knows nothing of memory, positions or Numba, and imports neither numpy nor Numba, so
that `import diptych` stays quick.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from diptych.errors import DeclarationError

INT_MIN, INT_MAX = -(2**63), 2**63 - 1
SIZED_BYTES_MAX = 1024
CAPACITY_MAX = 2**32
HEAP_BYTES_MIN, HEAP_BYTES_MAX = 1 << 20, 1 << 40
HEAP_SIZE = ".heap_bytes"
"""Among configured capacities: the size of a heap, behind the table's name."""
FORMAT = 2
"""Of the schema text that a region carries."""

Kind = Literal["int", "float", "bool", "text", "data", "str", "bytes"]
HEAP_KINDS = ("str", "bytes")
"""Kinds whose values lie in the table's heap; a row has a word that says where."""


class Missing:
    """The type of `MISSING`, which marks the absence of a default."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING = Missing()


@dataclass(frozen=True)
class Text:
    """`text(n)`: at most `size_bytes` bytes of UTF-8, without the zero character."""

    size_bytes: int


@dataclass(frozen=True)
class Data:
    """`data(n)`: exactly `size_bytes` bytes."""

    size_bytes: int


@dataclass(frozen=True)
class Bits:
    """`bits(n)`: how much memory a number takes in a table; `signed` is for ints alone."""

    size: int
    signed: bool = True


def int_bounds(mark: Bits) -> tuple[int, int]:
    """The least and the greatest int of so many bits."""
    if mark.signed:
        return -(1 << mark.size - 1), (1 << mark.size - 1) - 1
    return 0, (1 << mark.size) - 1


@dataclass(frozen=True)
class Unit:
    """`unit("time")`, `unit("day")`: what an int counts, for people and for Arrow."""

    name: str


@dataclass(frozen=True)
class Scaled:
    """`scaled(n)`: an int wherever code runs, shown to people with n decimal digits."""

    digits: int


@dataclass(frozen=True)
class Between:
    """`between(low, high)`: bounds of an argument and of a column, both allowed."""

    low: int | float
    high: int | float


@dataclass(frozen=True)
class Items:
    """`items(low, high)`: how many items a list argument may have."""

    low: int
    high: int


@dataclass(frozen=True)
class Key:
    auto: bool


@dataclass(frozen=True)
class Reference:
    table: type


@dataclass(frozen=True)
class IndexMark:
    columns: tuple[str, ...]
    unique: bool


@dataclass(frozen=True)
class ValueType:
    """One annotation, taken apart.

    `base` is int, float, bool, str, bytes, NoneType, list, tuple, dict, Any, or the class of an
    enum or a record.
    """

    base: Any
    optional: bool = False
    text: Text | None = None
    data: Data | None = None
    bits: Bits | None = None
    unit: Unit | None = None
    scaled: Scaled | None = None
    between: Between | None = None
    items: Items | None = None
    arguments: tuple[ValueType, ...] = ()
    repeated: bool = False
    """Of a tuple: any number of items, all of the type `arguments[0]`."""
    fields: tuple[tuple[str, ValueType], ...] = ()

    @property
    def is_enum(self) -> bool:
        return isinstance(self.base, type) and issubclass(self.base, IntEnum)

    @property
    def is_record(self) -> bool:
        return bool(self.fields)

    def describe(self) -> Any:
        """The type as hello tells it (docs/protocol.md)."""
        return {"optional": self._describe()} if self.optional else self._describe()

    def _describe(self) -> Any:
        if self.is_enum:
            return {"enum": [self.base.__name__, {m.name: int(m) for m in self.base}]}
        if self.is_record:
            return {"record": [self.base.__name__, [[n, t.describe()] for n, t in self.fields]]}
        inner = [argument.describe() for argument in self.arguments]
        if self.base is list or self.repeated:
            return {"list": inner[0]}
        if self.base in (tuple, dict):
            return {self.base.__name__: inner}
        plain = {int: "int", float: "float", bool: "bool", str: "str", bytes: "bytes"}
        return "none" if self.base is NoneType else plain.get(self.base, "any")


Fields = tuple[tuple[str, ValueType], ...]
NO_RECORDS: Mapping[Any, Fields] = MappingProxyType({})
_MARKS = (Text, Data, Bits, Unit, Scaled, Between, Items)
UNITS = ("time", "day")


def value_type(
    annotation: Any, where: str, records: Mapping[Any, Fields] = NO_RECORDS
) -> ValueType:
    """Take an annotation apart. `where` names it in errors; `records` are table classes by fields.

    Errors: DeclarationError for what can't be sent or stored.
    """
    while hasattr(annotation, "__supertype__"):  # a NewType
        annotation = annotation.__supertype__
    if type(annotation).__name__ == "TypeAliasType":  # Python 3.12's `type Price = ...`
        annotation = annotation.__value__
    origin, inner = get_origin(annotation) or annotation, get_args(annotation)
    if origin is Annotated:
        marks = {type(mark).__name__.lower(): mark for mark in inner[1:] if type(mark) in _MARKS}
        value = replace(value_type(inner[0], where, records), **marks)
        _check_marks(value, where)
        return value
    if origin in (Union, UnionType):
        parts = [part for part in inner if part is not NoneType]
        if len(parts) != 1 or len(parts) == len(inner):
            raise DeclarationError(f"{where}: a union may only be with None, not {annotation}")
        return replace(value_type(parts[0], where, records), optional=True)
    if origin in (list, tuple, dict):
        return _container(origin, inner, where, records)
    if annotation is None or annotation is NoneType:
        return ValueType(NoneType)
    if annotation in (int, float, bool, str, bytes):
        return ValueType(annotation)
    if annotation in (Any, object):
        return ValueType(Any)
    if isinstance(annotation, type) and issubclass(annotation, IntEnum):
        return ValueType(annotation)
    if isinstance(annotation, type) and annotation in records:
        return ValueType(annotation, fields=records[annotation])
    if isinstance(annotation, type) and issubclass(annotation, tuple) and annotation is not tuple:
        hints = type_hints(annotation, where)
        names = getattr(annotation, "_fields", ())
        fields = [(n, value_type(hints.get(n, Any), f"{where}.{n}", records)) for n in names]
        if fields:
            return ValueType(annotation, fields=tuple(fields))
    shown = getattr(annotation, "__name__", annotation)
    raise DeclarationError(
        f"{where}: {shown} can't be used here; there are int, float, bool, str, bytes, None, "
        "IntEnum, NamedTuple, list, tuple and dict (a table's class as a result alone)"
    )


def type_hints(declared: Any, where: str) -> dict[str, Any]:
    """Annotations with their marks. Errors: DeclarationError when a name in one is not known."""
    try:
        return typing.get_type_hints(declared, include_extras=True)
    except Exception as error:  # an annotation is an expression: it can fail in any way
        raise DeclarationError(f"{where}: an annotation can't be read: {error}") from None


def plain_default(default: Any, where: str) -> Any:
    """A default as a client would send it. Errors: DeclarationError."""
    if default is None or isinstance(default, bool | float | str | bytes):
        return default
    if isinstance(default, int):
        return int(default)
    if isinstance(default, list | tuple):
        return [plain_default(each, where) for each in default]
    if isinstance(default, dict):
        return {key: plain_default(each, where) for key, each in default.items()}
    raise DeclarationError(f"{where}: a client can't send the default {default!r}")


def _container(
    base: Any, inner: tuple[Any, ...], where: str, records: Mapping[Any, Fields]
) -> ValueType:
    repeated = base is tuple and (not inner or inner[-1] is Ellipsis)
    if not inner:
        inner = (Any, Any) if base is dict else (Any,)
    arguments = tuple(value_type(each, where, records) for each in inner if each is not Ellipsis)
    return ValueType(base, arguments=arguments, repeated=repeated)


def _check_marks(value: ValueType, where: str) -> None:
    """Marks that say nothing about their type are mistakes."""
    number = int if value.base is int else int | float
    for mark, fits, meant in (
        (value.text, value.base is str and _is_size(value.text), "str, of 1 byte or more"),
        (value.data, value.base is bytes and _is_size(value.data), "bytes, of 1 or more"),
        (value.bits, _are_bits(value), "int and IntEnum (8, 16, 32, 64) and float (32, 64)"),
        (value.unit, value.base is int and _is_unit(value.unit), 'int: "time" or "day"'),
        (value.scaled, value.base is int, "int"),
        (
            value.between,
            value.base in (int, float) and _is_range(value.between, number),
            "int or float, with bounds of that type in ascending order",
        ),
        (
            value.items,
            (value.base is list or value.repeated) and _is_range(value.items, int),
            "list or tuple[X, ...], with sizes in ascending order",
        ),
    ):
        if mark is not None and not fits:
            raise DeclarationError(f"{where}: {type(mark).__name__.lower()}() is for {meant}")


def _is_size(mark: Text | Data | None) -> bool:
    return mark is None or (isinstance(mark.size_bytes, int) and mark.size_bytes >= 1)


def _is_unit(mark: Unit | None) -> bool:
    return mark is None or mark.name in UNITS


def _are_bits(value: ValueType) -> bool:
    if value.bits is None:
        return True
    if value.base is float:
        return value.bits in (Bits(32), Bits(64))
    return (value.base is int or value.is_enum) and value.bits.size in (8, 16, 32, 64)


def _is_range(mark: Between | Items | None, number: Any) -> bool:
    if mark is None:
        return True
    return isinstance(mark.low, number) and isinstance(mark.high, number) and mark.low <= mark.high


@dataclass(frozen=True)
class Column:
    """One column. A row's *value words* are its columns' words, in order of declaration.

    `words`: how many of them are the column's, from number `first_word` on; of an `optional` one
    another follows, which is 1 where there is a value and 0 for None. `bits`: what one row takes in
    memory when the column has one word. `low`, `high`: bounds of a number, both allowed.
    """

    name: str
    kind: Kind
    words: int
    first_word: int
    value: ValueType
    default: Any = MISSING
    key: bool = False
    auto: bool = False
    reference: str | None = None
    bits: int = 64
    signed: bool = True
    low: int | float | None = None
    high: int | float | None = None

    @property
    def optional(self) -> bool:
        return self.value.optional

    @property
    def valid_word(self) -> int:
        """Number of the value word that tells values from None, of an optional column."""
        return self.first_word + self.words

    @property
    def all_words(self) -> int:
        return self.words + self.optional

    @property
    def in_heap(self) -> bool:
        return self.kind in HEAP_KINDS

    @property
    def size_bytes(self) -> int:
        """Longest text, or length of the data, in bytes; of a number, what it takes a row."""
        mark = self.value.text or self.value.data
        return mark.size_bytes if mark else self.bits // 8

    def describe(self) -> dict[str, Any]:
        """Plain data from which `schema.read_tables` makes the column again."""
        value, told = self.value, {"name": self.name, "kind": self.kind, "bytes": self.size_bytes}
        if value.is_enum:
            told["enum"] = [value.base.__name__, {m.name: int(m) for m in value.base}]
        marks = {
            "unsigned": not self.signed,
            "optional": self.optional,
            "scaled": value.scaled.digits if value.scaled else 0,
            "unit": value.unit.name if value.unit else "",
            "between": [value.between.low, value.between.high] if value.between else None,
            "key": self.key,
            "auto": self.auto,
            "reference": self.reference,
        }
        told |= {name: mark for name, mark in marks.items() if mark}
        if self.default is not MISSING:
            shown = plain_default(self.default, self.name)
            told["default"] = {"hex": shown.hex()} if isinstance(shown, bytes) else shown
        return told


@dataclass(frozen=True)
class Index:
    """An ordered index. `unique`: no two rows agree on all its columns."""

    name: str
    columns: tuple[Column, ...]
    unique: bool

    @property
    def words(self) -> int:
        """Key words: of an optional column the one that tells values from None comes first."""
        return sum(column.all_words for column in self.columns)


@dataclass(frozen=True)
class TableSpec:
    """One table. `name` is the class's name in snake case: how handlers reach it on `db`.

    `heap_bytes`: address space for the values of its str and bytes columns.
    """

    name: str
    record: type
    capacity: int
    columns: tuple[Column, ...]
    indexes: tuple[Index, ...] = ()
    heap_bytes: int = 0
    by_name: dict[str, Column] = field(default_factory=dict, compare=False, repr=False)

    @property
    def keys(self) -> tuple[Column, ...]:
        return tuple(column for column in self.columns if column.key)

    @property
    def auto(self) -> bool:
        return self.keys[0].auto

    @property
    def words(self) -> int:
        """Value words of a row."""
        return sum(column.all_words for column in self.columns)

    @property
    def heap_columns(self) -> tuple[Column, ...]:
        return tuple(column for column in self.columns if column.in_heap)

    def describe(self) -> dict[str, Any]:
        """Plain data that names everything the layout depends on but capacities."""
        return {
            "name": self.name,
            "record": self.record.__name__,
            "columns": [column.describe() for column in self.columns],
            "indexes": [[i.name, [c.name for c in i.columns], i.unique] for i in self.indexes],
        }


def snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
