"""An application with a column of every type, and rows of it for imports and exports."""

from __future__ import annotations

import random
from enum import IntEnum
from typing import Annotated, Any

from diptych import (
    App,
    Day,
    Db,
    Rejected,
    Time,
    between,
    data,
    f32,
    i8,
    i16,
    i32,
    key,
    ordered,
    ref,
    scaled,
    text,
    u8,
    u16,
    u32,
    u64,
    unique,
)
from diptych.schema import Bits, Column

app = App("everything")


class Side(IntEnum):
    BUY = 1
    SELL = -1


@app.table(capacity=1000)
class Owner:
    id: int = key()
    name: Annotated[str, text(12)] = ""


@app.table(capacity=500_000)
class Thing:
    id: int = key()
    owner: int = ref(Owner)
    tiny: i8 = 0
    short: i16 = -3
    middle: i32 = 0
    byte: u8 = 0
    port: u16 = 0
    wide: u32 = 0
    huge: u64 = 0
    percent: Annotated[int, between(0, 100)] = 50
    ratio: float = 0.0
    rough: f32 = 0.0
    yes: bool = False
    code: Annotated[str, text(3)] = ""
    label: Annotated[str, text(20)] = ""
    digest: Annotated[bytes, data(16)] = bytes(16)
    mark: Annotated[bytes, data(3)] = b"abc"
    made: Time = 0
    due: Day = 0
    price: Annotated[int, scaled(2)] = 0
    fee: Annotated[i32, scaled(5)] = 0
    side: Side = Side.BUY
    small_side: Annotated[Side, Bits(8)] = Side.SELL
    note: str = "nothing"
    blob: bytes = b""
    parent: int | None = None
    weight: float | None = None
    flag: bool | None = None
    word: Annotated[str, text(8)] | None = None
    until: Day | None = None
    cost: Annotated[int, scaled(3)] | None = None
    mood: Side | None = None
    story: str | None = None
    by_label = ordered("label", "id")
    by_owner = unique("owner", "id")


@app.transaction
def add_owner(db: Db, id: int, name: Annotated[str, text(12)] = "") -> None:
    db.owner.insert(id=id, name=name)


@app.transaction
def drop_thing(db: Db, id: int) -> None:
    row = db.thing.get(id)
    if row is None:
        raise Rejected("unknown_thing", id=id)
    db.thing.delete(row)


@app.query
def thing_count(db: Db) -> int:
    return len(db.thing)


@app.query
def kept(db: Db) -> int:
    KEPT.append(db.thing.arrow())
    return 0


KEPT: list[Any] = []


COLUMNS = app.tables["thing"].by_name


def row(number: int) -> dict[str, Any]:
    """A row with this id, the same each time: ordinary values, extreme ones, and None."""
    chance = random.Random(number)
    extreme = number % 7 == 0
    values: dict[str, Any] = {}
    for column in COLUMNS.values():
        if column.optional and chance.random() < 0.3:
            values[column.name] = None
        else:
            values[column.name] = _value(column, chance, extreme)
    return values | {"id": number, "owner": number % 5}


def _value(column: Column, chance: random.Random, extreme: bool) -> Any:
    size = column.size_bytes
    if column.value.is_enum:
        return chance.choice(list(column.value.base))
    if column.value.unit and column.value.unit.name == "day":
        return chance.randrange(-3000, 40000)
    match column.kind:
        case "int":
            low, high = int(column.low), int(column.high)  # type: ignore[arg-type]  # ints have both
            return (
                chance.choice([low, high])
                if extreme
                else chance.randint(max(low, -99), min(high, 99))
            )
        case "float":
            return (
                chance.choice([float("inf"), -0.5]) if extreme else chance.randrange(-64, 64) / 16
            )
        case "bool":
            return chance.random() < 0.5
        case "text":
            return "é" * (size // 2) if extreme else chance.choice(["", "a", "bc"])
        case "data":
            return chance.randbytes(size)
        case "str":
            return "née " * 30 if extreme else chance.choice(["", 'a, "b"\nc', "x" * 9])
    return chance.randbytes(300) if extreme else chance.randbytes(chance.randrange(4))
