"""A schema as a region carries it: read back from its text, so that old data explains itself.

What `layout.plan` wrote as JSON becomes table specs again, with classes and enums made up for the
purpose: the application's own may have changed since. Knows no memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

from diptych.declarations import make_column
from diptych.errors import CorruptionError
from diptych.schema import (
    FORMAT,
    MISSING,
    Between,
    Bits,
    Column,
    Data,
    Index,
    Scaled,
    TableSpec,
    Text,
    Unit,
    ValueType,
)

BASES: Mapping[str, type] = {
    "int": int,
    "float": float,
    "bool": bool,
    "text": str,
    "str": str,
    "data": bytes,
    "bytes": bytes,
}


@dataclass(frozen=True)
class StoredSchema:
    """Whose data it is, in which version, and its tables with the capacities they had."""

    app: str
    version: int
    tables: tuple[TableSpec, ...]


def read_schema(text: bytes) -> StoredSchema:
    """The schema that a text describes. Errors: CorruptionError."""
    try:
        told = json.loads(text)
        if told["format"] != FORMAT:
            raise CorruptionError(f"the schema is of format {told['format']}, not {FORMAT}")
        return StoredSchema(told["app"], told["version"], tuple(read_tables(told["tables"])))
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise CorruptionError(f"the schema text can't be read: {error!r}") from None


def read_tables(described: list[dict[str, Any]]) -> list[TableSpec]:
    """Table specs from what `TableSpec.describe` told of them, with capacity and heap_bytes."""
    return [_table(told) for told in described]


def _table(told: Mapping[str, Any]) -> TableSpec:
    columns: list[Column] = []
    for each in told["columns"]:
        columns.append(_column(each, sum(column.all_words for column in columns)))
    by_name = {column.name: column for column in columns}
    indexes = tuple(
        Index(name, tuple(by_name[column] for column in named), unique)
        for name, named, unique in told["indexes"]
    )
    record = type(told["record"], (), {"__annotations__": {}})
    return TableSpec(
        told["name"],
        record,
        told["capacity"],
        tuple(columns),
        indexes,
        told["heap_bytes"],
        by_name,
    )


def _column(told: Mapping[str, Any], first_word: int) -> Column:
    kind, size_bytes = told["kind"], told["bytes"]
    base: Any = _enum(*told["enum"]) if "enum" in told else BASES[kind]
    value = ValueType(
        base,
        optional=told.get("optional", False),
        text=Text(size_bytes) if kind == "text" else None,
        data=Data(size_bytes) if kind == "data" else None,
        bits=_bits(told) if kind in ("int", "float") else None,
        unit=Unit(told["unit"]) if "unit" in told else None,
        scaled=Scaled(told["scaled"]) if "scaled" in told else None,
        between=Between(*told["between"]) if "between" in told else None,
    )
    default = told.get("default", MISSING)
    if isinstance(default, dict):
        default = bytes.fromhex(default["hex"])
    elif "enum" in told and default not in (MISSING, None):
        default = value.base(default)
    column = make_column(
        told["name"], value, first_word, default, told.get("key", False), told.get("auto", False)
    )
    return replace(column, reference=told.get("reference"))


def _enum(name: str, members: Mapping[str, int]) -> Any:
    made: Any = IntEnum  # which type checkers know for its use with literals alone
    return made(name, members)


def _bits(told: Mapping[str, Any]) -> Bits | None:
    """None for the 64 bits that a number has where nothing is said."""
    bits = Bits(told["bytes"] * 8, not told.get("unsigned", False))
    return None if bits == Bits(64) else bits
