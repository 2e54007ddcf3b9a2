"""What an application declared, checked and in plain data: columns, tables, indexes, parameters.

Made by `app.App` while the application's module is imported, read by everybody below. Knows Python
annotations; knows nothing of memory, positions or Numba, and imports neither numpy nor Numba, so
that `import diptych` stays quick.
"""

from __future__ import annotations

import re
import typing
from dataclasses import dataclass, field
from enum import IntEnum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from diptych.errors import DeclarationError

INT_MIN, INT_MAX = -(2**63), 2**63 - 1
TEXT_BYTES_MAX = 256

Kind = Literal["int", "float", "bool", "text"]


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
class Scaled:
    """`scaled(n)`: an int wherever code runs, shown to people with n decimal digits."""

    digits: int


@dataclass(frozen=True)
class Between:
    """`between(low, high)`: bounds of an argument, both allowed."""

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
    """One annotation, taken apart. `base` is int, float, bool, str, bytes, None, list, tuple, dict, Any or a class."""

    base: Any
    optional: bool = False
    text: Text | None = None
    scaled: Scaled | None = None
    between: Between | None = None
    items: Items | None = None
    arguments: tuple[ValueType, ...] = ()
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
        if self.base is list:
            return {"list": inner[0] if inner else "any"}
        if self.base is tuple:
            return {"tuple": inner}
        if self.base is dict:
            return {"dict": inner or ["any", "any"]}
        plain = {int: "int", float: "float", bool: "bool", str: "str", bytes: "bytes"}
        return "none" if self.base is NoneType else plain.get(self.base, "any")


def value_type(annotation: Any, where: str) -> ValueType:
    """Take an annotation apart. `where` names it in errors."""
    marks: dict[str, Any] = {}
    if get_origin(annotation) is Annotated:
        annotation, *extras = get_args(annotation)
        for extra in extras:
            for mark in (Text, Scaled, Between, Items):
                if isinstance(extra, mark):
                    marks[mark.__name__.lower()] = extra
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        parts = [part for part in get_args(annotation) if part is not NoneType]
        if len(parts) != 1 or len(parts) == len(get_args(annotation)):
            raise DeclarationError(f"{where}: a union may only be with None, not {annotation}")
        inner = value_type(parts[0], where)
        return ValueType(**{**inner.__dict__, **marks, "optional": True})
    if origin in (list, tuple, dict):
        arguments = tuple(value_type(a, where) for a in get_args(annotation) if a is not Ellipsis)
        return ValueType(origin, arguments=arguments, **marks)
    if annotation is None:
        annotation = NoneType
    if isinstance(annotation, type) and issubclass(annotation, tuple) and annotation is not tuple:
        hints = typing.get_type_hints(annotation, include_extras=True)
        fields = tuple((n, value_type(hints[n], f"{where}.{n}")) for n in hints)
        return ValueType(annotation, fields=fields, **marks)
    return ValueType(annotation, **marks)


@dataclass(frozen=True)
class Column:
    """One column. `words` 64-bit words a row, from value word `first_word` of the row on."""

    name: str
    kind: Kind
    words: int
    first_word: int
    value: ValueType
    default: Any = MISSING
    key: bool = False
    auto: bool = False
    reference: str | None = None

    @property
    def size_bytes(self) -> int:
        """Longest text in bytes; 8 for everything else."""
        return self.value.text.size_bytes if self.value.text else 8


@dataclass(frozen=True)
class Index:
    """An ordered index. `unique`: no two rows agree on all its columns."""

    name: str
    columns: tuple[Column, ...]
    unique: bool

    @property
    def words(self) -> int:
        return sum(column.words for column in self.columns)


@dataclass(frozen=True)
class TableSpec:
    """One table. `name` is the class's name in snake case: how handlers reach it on `db`."""

    name: str
    record: type
    capacity: int
    columns: tuple[Column, ...]
    indexes: tuple[Index, ...] = ()
    by_name: dict[str, Column] = field(default_factory=dict, compare=False, repr=False)

    @property
    def keys(self) -> tuple[Column, ...]:
        return tuple(column for column in self.columns if column.key)

    @property
    def auto(self) -> bool:
        return self.keys[0].auto

    @property
    def words(self) -> int:
        return sum(column.words for column in self.columns)

    def describe(self) -> dict[str, Any]:
        """Plain data that names everything the layout depends on but capacities."""
        return {
            "name": self.name,
            "columns": [
                [c.name, c.kind, c.size_bytes, c.value.describe(), c.key, c.auto, c.reference]
                for c in self.columns
            ],
            "indexes": [[i.name, [c.name for c in i.columns], i.unique] for i in self.indexes],
        }


def snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
