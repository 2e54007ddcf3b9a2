"""An application with every kind of column, changed by transactions that are told what to do by
numbers: for random calls of both lanes, and for a model beside the compiled one."""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, NamedTuple

from diptych import (
    App,
    Day,
    Db,
    Rejected,
    Time,
    between,
    bits,
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

app = App("crates", compiled=True)
CAPACITY = 8
OWNERS = range(1, 4)
Zone = Annotated[str, text(3)]
Label = Annotated[str, text(20)]
Name = Annotated[str, text(12)]
Tag = Annotated[bytes, data(3)]
Digest = Annotated[bytes, data(12)]
Small = Annotated[i8, between(-100, 100)]
Ratio = Annotated[f32, between(-1.0, 1e6)]


class Color(IntEnum):
    RED = 1
    GREEN = 200
    BLUE = 0


class Kind(IntEnum):
    PLAIN = 0
    ODD = -2


@app.table(capacity=10)
class Owner:
    id: i32 = key()


@app.table(capacity=CAPACITY)
class Crate:
    zone: Zone = key()
    number: i16 = key()
    heavy: bool = False
    tiny: Small = 0
    byte: u8 = 7
    word: u16 = 0
    half: i32 = -1
    long: u32 = 0
    big: u64 = 0
    price: Annotated[int, scaled(2)] = 0
    day: Day = 0
    time: Time = 0
    color: Annotated[Color, bits(16, signed=False)] = Color.RED
    kind: Kind = Kind.ODD
    weight: float = 1.0
    ratio: Ratio = 0.5
    label: Label = ""
    tag: Tag = b"abc"
    digest: Digest = b"\0" * 12
    note: str = ""
    count: int | None
    level: i8 | None
    score: i32 | None
    dark: bool | None
    speed: f32 | None = 1.5
    name: Name | None
    mark: Tag | None
    blob: bytes | None
    owner: i32 | None = ref(Owner)
    by_label = ordered("label", "tiny")
    by_color = ordered("color", "dark")
    by_place = ordered("zone", "heavy", "number")
    by_score = unique("score", "kind")
    by_count = ordered("count", "tag")
    by_speed = ordered("speed", "big")
    by_ratio = ordered("ratio", "digest")
    by_name = unique("name")
    by_owner = ordered("owner", "level")


class At(NamedTuple):
    """A crate's key."""

    zone: Zone
    number: int


class Numbers(NamedTuple):
    heavy: bool
    tiny: int
    byte: int
    word: int
    half: int
    long: int
    price: int
    day: Day
    time: Time
    color: Color
    kind: Kind
    weight: float
    ratio: float


class Others(NamedTuple):
    label: Label
    tag: Tag
    digest: Digest
    count: int | None
    level: int | None
    score: int | None
    dark: bool | None
    speed: float | None
    name: Name | None
    mark: Tag | None
    owner: int | None


class Step(NamedTuple):
    """What to do, to which crate, with what. `what` is one of the numbers below."""

    what: int
    at: At
    number: int | None = None
    real: float | None = None
    label: Label | None = None
    tag: Tag | None = None


NOTHING, INSERT, INSERT_PLAIN, GET_OR_INSERT, DELETE = range(5)
ASSIGN = 10
"""Assigning the columns of ASSIGNED, in that order, has the numbers from here on."""
ASSIGNED = (
    *("heavy", "tiny", "byte", "word", "half", "long", "big", "price", "day", "time", "color"),
    *("kind", "weight", "ratio", "label", "tag", "digest", "count", "level", "score", "dark"),
    *("speed", "name", "mark", "owner"),
)
FAIL_AS_REJECTED, FAIL_AS_BUG = 1, 2


@app.setup
def setup(db: Db) -> None:
    for number in OWNERS:
        db.owner.insert(id=number)


@app.transaction
def read_numbers(db: Db, zone: Zone, number: int) -> Numbers:
    row = db.crate[zone, number]
    return Numbers(
        row.heavy,
        row.tiny,
        row.byte,
        row.word,
        row.half,
        row.long,
        row.price,
        row.day,
        row.time,
        row.color,
        row.kind,
        row.weight,
        row.ratio,
    )


@app.transaction
def read_big(db: Db, zone: Zone, number: int) -> int:
    return db.crate[zone, number].big


@app.transaction
def read_others(db: Db, zone: Zone, number: int) -> Others:
    row = db.crate[zone, number]
    return Others(
        row.label,
        row.tag,
        row.digest,
        row.count,
        row.level,
        row.score,
        row.dark,
        row.speed,
        row.name,
        row.mark,
        row.owner,
    )


def insert(db: Db, step: Step) -> None:
    db.crate.insert(
        zone=step.at.zone,
        number=step.at.number,
        tiny=step.number if step.number is not None else 0,
        score=step.number,
        count=step.number,
        speed=step.real,
        label=step.label if step.label is not None else "",
        mark=step.tag,
    )


def assign_number(db: Db, step: Step) -> None:
    row, what, value = db.crate[step.at], step.what - ASSIGN, step.number
    if what == 0:
        row.heavy = value == 1
    elif what == 1:
        row.tiny = value
    elif what == 2:
        row.byte = value
    elif what == 3:
        row.word = value
    elif what == 4:
        row.half = value
    elif what == 5:
        row.long = value
    elif what == 6:
        row.big = value
    elif what == 7:
        row.price = value
    elif what == 8:
        row.day = value
    elif what == 9:
        row.time = value
    elif what == 10:
        row.color = value
    elif what == 11:
        row.kind = value
    elif what == 17:
        row.count = value
    elif what == 18:
        row.level = value
    elif what == 19:
        row.score = value
    elif what == 24:
        row.owner = value
    elif value is None:
        row.dark = None
    else:
        row.dark = value > 0


def assign_other(db: Db, step: Step) -> None:
    row, what = db.crate[step.at], step.what - ASSIGN
    if what == 12:
        row.weight = step.real
    elif what == 13:
        row.ratio = step.real
    elif what == 14:
        row.label = step.label
    elif what == 15:
        row.tag = step.tag
    elif what == 16:
        row.digest = b"twelve bytes" if step.tag == b"abc" else b"\0" * 11 + b"\xff"
    elif what == 21:
        row.speed = step.real
    elif what == 22:
        row.name = step.label  # longer than the column: bad_value
    else:
        row.mark = step.tag


def take(db: Db, step: Step) -> None:
    what = step.what
    if what == INSERT:
        insert(db, step)
    elif what == INSERT_PLAIN:
        db.crate.insert(zone=step.at.zone, number=step.at.number)
    elif what == GET_OR_INSERT:
        db.crate.get_or_insert(zone=step.at.zone, number=step.at.number, score=step.number)
    elif what == DELETE:
        db.crate.delete(db.crate[step.at])
    elif what >= ASSIGN:
        others = what - ASSIGN
        if 12 <= others <= 16 or 21 <= others <= 23:
            assign_other(db, step)
        else:
            assign_number(db, step)


@app.transaction
def several(db: Db, a: Step, b: Step, c: Step, fails: int = 0) -> int:
    """Some steps, one after another, and then perhaps a failure."""
    take(db, a)
    take(db, b)
    take(db, c)
    if fails == FAIL_AS_REJECTED:
        raise Rejected("as_wanted", rows=len(db.crate))
    assert fails != FAIL_AS_BUG
    return len(db.crate)


@app.transaction
def thin_out(db: Db, index: int, reverse: bool, every: int) -> int:
    """Deletes some of the rows that it walks over."""
    seen = 0
    if index == 0:
        for row in db.crate.by_label.range(reverse=reverse):
            seen += 1
            if row.byte % every == 1:
                db.crate.delete(row)
    elif index == 1:
        for row in db.crate.by_count.range(reverse=reverse):
            seen += 1
            if row.byte % every == 1:
                db.crate.delete(row)
    else:
        for row in db.crate.by_name.range(reverse=reverse):
            seen += 1
            if row.byte % every == 1:
                db.crate.delete(row)
    return seen


@app.transaction
def count_up(db: Db, start: int | None, stop: int, by: int) -> int:
    """Moves rows in the index that it walks: None becomes `stop`, numbers go up or down."""
    steps = 0
    for row in db.crate.by_count.range(start=start, stop=stop):
        steps += 1
        if row.count is None:
            row.count = stop
        else:
            row.count += by
        if steps > 2 * CAPACITY:
            raise Rejected("endless")
    return steps


@app.transaction
def add_all(db: Db, zone: Zone, count: int) -> None:
    for number in range(count):
        db.crate.insert(zone=zone, number=number, score=1000 + number)


@app.transaction
def found(db: Db, count: int | None, speed: float | None, name: Name | None) -> tuple[int, ...]:
    """How many rows have these values, as the indexes tell, and one of each."""
    counts = speeds = 0
    for _ in db.crate.by_count.range(count):
        counts += 1
    for _ in db.crate.by_speed.range(speed):
        speeds += 1
    one, other = db.crate.by_name.first(name), db.crate.by_count.last(count)
    return (
        counts,
        speeds,
        -1 if one is None else one.number,
        -1 if other is None else other.byte,
    )
