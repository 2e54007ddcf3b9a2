"""A schema read back from its own text is the schema that was written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from enum import IntEnum
from typing import Annotated, Any

import pytest
from tests.support import club, depot

import bank
from diptych import (
    App,
    Day,
    Time,
    between,
    bits,
    data,
    f32,
    i8,
    key,
    ordered,
    ref,
    scaled,
    text,
    u16,
    u64,
    unique,
)
from diptych.errors import CorruptionError
from diptych.schema import MISSING, Column, TableSpec
from diptych.store import layout as layouts
from diptych.stored import read_schema, read_tables
from exchange.schema import app as exchange

every = App("every", version=3)


class Size(IntEnum):
    SMALL = -1
    LARGE = 9


@every.table(capacity=100, heap_bytes=1 << 22)
class Item:
    id: int = key(auto=True)
    size: Annotated[Size, bits(8)] = Size.LARGE
    plain_size: Size | None = None
    tiny: i8 = -128
    part: Annotated[u16 | None, between(0, 10_000)] = 7
    large: u64 = 2**64 - 1
    price: Annotated[int, scaled(2), between(1, 10**9)]
    ratio: Annotated[f32, between(0.25, 1.5)] = 0.5
    weight: float | None
    when: Time = 0
    day: Day | None
    done: bool = True
    code: Annotated[str, text(3)] = "é"
    name: Annotated[str, text(40)] | None
    digest: Annotated[bytes, data(20)] = b"\xff" * 20
    note: str = "of any length"
    raw: bytes | None = b"\0\1"
    by_code = unique("code", "part")
    by_weight = ordered("weight", "large")


@every.table
class Piece:
    item: int = key()
    number: u16 = key()
    of: int | None = ref(Item)


APPS = [every, club.app, depot.app, bank.app, exchange]


def facts(column: Column) -> dict[str, Any]:
    """What a column must agree on: all but its Python classes, which are made up when read."""
    found = {name: value for name, value in vars(column).items() if name != "value"}
    value, enum = column.value, {}
    if value.is_enum:
        enum = {member.name: int(member) for member in value.base}
        value = replace(value, base=value.base.__name__)
        if column.default not in (MISSING, None):
            found["default"] = int(column.default)
    return found | {"value": value, "enum": enum, "optional": column.optional}


def written(app: App) -> list[dict[str, Any]]:
    told: Mapping[str, Any] = json.loads(layouts.of_app(app).schema)
    tables: list[dict[str, Any]] = told["tables"]
    return tables


def compare(mine: TableSpec, read: TableSpec) -> None:
    assert (read.name, read.capacity, read.words) == (mine.name, mine.capacity, mine.words)
    assert (read.heap_bytes, read.auto) == (mine.heap_bytes, mine.auto)
    assert read.record.__name__ == mine.record.__name__
    assert [facts(column) for column in read.columns] == [facts(c) for c in mine.columns]
    for other, index in zip(read.indexes, mine.indexes, strict=True):
        assert (other.name, other.unique, other.words) == (index.name, index.unique, index.words)
        assert [column.name for column in other.columns] == [c.name for c in index.columns]


@pytest.mark.parametrize("app", APPS, ids=lambda app: app.name)
def test_tables_come_back(app: App) -> None:
    tables = read_tables(written(app))
    for mine, read in zip(app.tables.values(), tables, strict=True):
        compare(mine, read)
    mine, read = layouts.of_app(app), layouts.plan(tables, app=app.name, version=app.version)
    assert read.schema == mine.schema
    assert [table.bases for table in read.tables] == [table.bases for table in mine.tables]


def test_a_schema_tells_whose_it_is() -> None:
    found = read_schema(layouts.of_app(every).schema)
    assert (found.app, found.version, len(found.tables)) == ("every", 3, 2)
    size = found.tables[0].by_name["size"].value.base
    assert {member.name: int(member) for member in size} == {"SMALL": -1, "LARGE": 9}


@pytest.mark.parametrize(
    "text", [b"", b"\xff", b"{}", b"[]", b'{"format":2,"app":"x","version":1,"tables":[{}]}']
)
def test_what_is_no_schema(text: bytes) -> None:
    with pytest.raises(CorruptionError, match="the schema text can't be read"):
        read_schema(text)


def test_another_format() -> None:
    with pytest.raises(CorruptionError, match="of format 1, not 2"):
        read_schema(b'{"format": 1}')
