"""Every kind of column in every place: rows, inserts, keys, indexes, columns."""

from __future__ import annotations

import math
from collections.abc import Iterator
from enum import IntEnum
from typing import Annotated, Any

import numpy as np
import pytest

from diptych import (
    App,
    Day,
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
from diptych.store import words as at
from diptych.testing import Bench

app = App("kinds")


class Side(IntEnum):
    NONE = 0
    BUY = 1
    SELL = -1


@app.table
class Owner:
    id: int = key()


@app.table(capacity=2000)
class Thing:
    id: u16 = key()
    tiny: i8 = 0
    byte: u8 = 0
    small: i16 = 0
    half: i32 = 0
    index: u32 = 0
    large: u64 = 0
    part: Annotated[int, between(-10, 10)] = 0
    share: Annotated[u8, between(0, 100)] = 0
    price: Annotated[int, scaled(2)] = 0
    ratio: f32 = 0.0
    level: Annotated[float, between(0.0, 0.1)] = 0.0
    tenth: Annotated[f32, between(0.0, 0.1)] = 0.0
    done: bool = False
    side: Annotated[Side, bits(8)] = Side.NONE
    code: Annotated[str, text(1)] = ""
    word: Annotated[str, text(3)] = ""
    name: Annotated[str, text(20)] = ""
    pair: Annotated[bytes, data(2)] = bytes(2)
    hash: Annotated[bytes, data(12)] = bytes(12)
    when: Time = 0
    day: Day = 0


@app.table(capacity=2000)
class Maybe:
    id: int = key()
    number: int | None
    tiny: i8 | None
    large: u64 | None
    weight: float | None
    ratio: f32 | None
    done: bool | None
    side: Annotated[Side, bits(8)] | None
    word: Annotated[str, text(3)] | None
    name: Annotated[str, text(20)] | None
    pair: Annotated[bytes, data(2)] | None
    hash: Annotated[bytes, data(12)] | None
    owner: int | None = ref(Owner)
    seat: u8 | None = 5
    by_seat = unique("seat")
    by_name = unique("name", "tiny")
    by_weight = ordered("weight", "number")
    by_side = ordered("side", "large", "ratio")


@app.table(capacity=300)
class Place:
    zone: Annotated[str, text(2)] = key()
    row: i8 = key()
    open: bool = key()
    mark: Annotated[bytes, data(3)] = key()


THING, MAYBE = app.tables["thing"], app.tables["maybe"]

GOOD: dict[str, list[Any]] = {
    "tiny": [0, -128, 127],
    "byte": [0, 255],
    "small": [-(2**15), 2**15 - 1],
    "half": [-(2**31), 2**31 - 1],
    "index": [0, 2**32 - 1],
    "large": [0, 1, 2**63 - 1, 2**63, 2**64 - 1],
    "part": [-10, 10],
    "share": [0, 100],
    "price": [-(2**63), 2**63 - 1],
    "ratio": [0.0, -1.5, math.inf, 2.0**-149],
    "level": [0.0, 0.1],
    "done": [True, False],
    "side": list(Side),
    "code": ["", "x"],
    "word": ["", "é", "abc"],
    "name": ["", "é" * 10, "eight by"],
    "pair": [b"\0\0", b"\0\1", b"\xff\xff"],
    "hash": [bytes(12), b"\0" * 11 + b"\1", b"\xff" * 12],
    "when": [-1, 2**62],
    "day": [-1, 20_000],
}
BAD: list[tuple[str, Any, str]] = [
    ("tiny", 128, "-128 to 127"),
    ("tiny", -129, "-128 to 127"),
    ("byte", -1, "0 to 255"),
    ("byte", 2**70, "0 to 255"),
    ("byte", 1.0, "an int"),
    ("byte", None, "an int"),
    ("small", 2**15, "-32768 to 32767"),
    ("index", -1, "0 to 4294967295"),
    ("large", -1, "0 to 18446744073709551615"),
    ("large", 2**64, "0 to 18446744073709551615"),
    ("part", 11, "-10 to 10"),
    ("share", 101, "0 to 100"),
    ("price", 2**63, "64 bits"),
    ("ratio", 3.5e38, "a float of 32 bits"),
    ("ratio", 10**400, "a float of 32 bits"),
    ("ratio", np.longdouble("1e400"), "a float of 32 bits"),
    ("ratio", "1", "a float"),
    ("level", 0.11, "0.0 to 0.1"),
    ("level", math.nan, "0.0 to 0.1"),
    ("tenth", 0.1001, "0.0 to 0.1"),
    ("done", 1, "true or false"),
    ("side", 2, "a member of Side"),
    ("side", 200, "-128 to 127"),
    ("side", 1.0, "an int"),
    ("code", "é", "at most 1 bytes of UTF-8"),
    ("word", "four", "at most 3 bytes of UTF-8"),
    ("pair", b"a", "exactly 2 bytes"),
    ("pair", "ab", "exactly 2 bytes"),
    ("pair", memoryview(bytes(2)), "exactly 2 bytes"),
    ("hash", b"a" * 13, "exactly 12 bytes"),
    ("day", 2**31, "-2147483648 to 2147483647"),
]


@pytest.fixture(name="bench")
def _bench() -> Iterator[Bench]:
    with app.open(now=0, check=True) as bench:
        yield bench


@pytest.fixture(name="db")
def _db(bench: Bench) -> Iterator[Any]:
    with bench.transaction() as db:
        yield db


@pytest.mark.parametrize("name", GOOD)
def test_values_come_back(db: Any, name: str) -> None:
    neighbours = [db.thing.insert(id=1), db.thing.insert(id=2), db.thing.insert(id=3)]
    for i, value in enumerate(GOOD[name]):
        row = db.thing.insert(id=10 + i, **{name: value})
        setattr(neighbours[1], name, value)
        for found in (getattr(row, name), getattr(neighbours[1], name)):
            assert found == value
            assert type(found) is type(value)
        default = THING.by_name[name].default
        assert [getattr(n, name) for n in neighbours[::2]] == [default, default]


@pytest.mark.parametrize(("name", "value", "limit"), BAD)
def test_what_does_not_fit_is_refused_and_named(db: Any, name: str, value: Any, limit: str) -> None:
    row = db.thing.insert(id=1)
    with pytest.raises(Rejected) as assigned:
        setattr(row, name, value)
    with pytest.raises(Rejected) as inserted:
        db.thing.insert(id=2, **{name: value})
    for error in (assigned, inserted):
        found = dict(error.value.details)
        found.pop("value")
        assert error.value.code == "bad_value"
        assert found == {"table": "thing", "column": name, "limit": limit}
    assert getattr(row, name) == THING.by_name[name].default
    assert len(db.thing) == 1


def test_short_floats_are_rounded(db: Any) -> None:
    row = db.thing.insert(id=1, ratio=0.1, tenth=0.1)
    assert row.ratio == row.tenth == float(np.float32(0.1)) != 0.1
    row.tenth = row.tenth  # what was read fits again
    row.ratio = math.nan
    assert math.isnan(row.ratio)
    row.ratio = 1e-60
    assert row.ratio == 0.0


def test_zero_has_no_sign(bench: Bench) -> None:
    """Equal values must be equal bytes, or a `unique` index would tell them apart."""
    with bench.transaction() as db:
        db.thing.insert(id=1)
        db.maybe.insert(id=1, weight=0.0, ratio=0.0)
    before = bench.fingerprint()
    with bench.transaction() as db:
        thing, maybe = db.thing[1], db.maybe[1]
        thing.ratio = thing.level = maybe.weight = -0.0
        maybe.ratio = -1e-60
        assert math.copysign(1, thing.ratio) == math.copysign(1, maybe.ratio) == 1
    assert bench.fingerprint() == before


@pytest.mark.parametrize("name", [c.name for c in MAYBE.columns if c.optional])
def test_none_is_a_value_of_its_own(db: Any, name: str) -> None:
    db.owner.insert(id=7)
    values = GOOD.get(name, [0, 7]) if name != "owner" else [7]
    values = [0, 7] if name == "seat" else values
    row = db.maybe.insert(id=1, seat=None)
    assert getattr(row, name) is None
    for value in values:
        setattr(row, name, value)
        assert getattr(row, name) == value
        assert getattr(row, name) is not None
        setattr(row, name, None)
        assert getattr(row, name) is None
        other = db.maybe.insert(id=2, **({"seat": None} | {name: value}))
        assert getattr(other, name) == value
        db.maybe.delete(other)
    assert f"{name}=None" in repr(row)
    with pytest.raises(Rejected, match="bad_value"):
        setattr(row, name, [])
    assert getattr(row, name) is None


def test_none_is_left_out_or_given(db: Any) -> None:
    assert db.maybe.insert(id=1).seat == 5
    assert db.maybe.insert(id=2, seat=None).seat is None
    assert db.maybe.insert(id=3, number=None, seat=None).number is None
    with pytest.raises(Rejected, match="bad_value"):
        db.maybe.insert(id=None)


def test_unique_does_not_look_at_rows_with_none(db: Any) -> None:
    rows = [db.maybe.insert(id=i, seat=None) for i in range(4)]
    rows[0].seat, rows[1].seat = 0, 1
    with pytest.raises(Rejected) as error:
        rows[2].seat = 0
    assert error.value == Rejected("not_unique", table="maybe", index="by_seat")
    assert rows[2].seat is None
    rows[0].seat = None
    rows[2].seat = 0
    with pytest.raises(Rejected, match="not_unique"):
        db.maybe.insert(id=9, seat=1)
    rows[0].name = rows[1].name = "a"
    rows[0].tiny = 3
    with pytest.raises(Rejected, match="not_unique"):
        rows[1].tiny = 3
    assert rows[1].tiny is None
    rows[1].tiny = 4


def test_no_index_sees_half_of_a_value(db: Any) -> None:
    """Word by word, the third text would for a moment be the second."""
    db.maybe.insert(id=1, name="eight by" + "one", tiny=0, seat=None)
    db.maybe.insert(id=2, name="EIGHT BY" + "one", tiny=0, seat=None)
    row = db.maybe.insert(id=3, name="eight by" + "two", tiny=0, seat=None)
    row.name = "EIGHT BY" + "two"
    row.name = "eight by" + "ONE"
    db.maybe[1].name = None
    db.maybe[1].name = "eight by" + "one"
    with pytest.raises(Rejected, match="not_unique"):
        row.name = "EIGHT BY" + "one"
    assert row.name == "eight by" + "ONE"


def test_none_comes_first_in_an_index(db: Any) -> None:
    weights = [None, -math.inf, -2.5, 0.0, 1e-300, 7.0]
    for i, weight in enumerate(reversed(weights)):
        db.maybe.insert(id=i, weight=weight, number=i, seat=None)
    by_weight = db.maybe.by_weight

    def found(*prefix: Any, **bounds: Any) -> list[Any]:
        return [row.weight for row in by_weight.range(*prefix, **bounds)]

    assert found() == found(start=None) == weights
    assert found(None) == [None]
    assert found(None, 5) == [None]
    assert found(None, 4) == []
    assert found(start=-2.5) == weights[2:]
    assert found(stop=0) == weights[:3]
    assert found(stop=None) == []
    assert found(start=-2.5, stop=7) == weights[2:5]
    assert by_weight.first().weight is None
    assert by_weight.first(None).id == 5
    assert by_weight.last().weight == 7.0
    db.maybe[5].weight = 3.0
    assert found(None) == []


def test_order_of_narrow_and_unsigned_columns(db: Any) -> None:
    larges = [None, 0, 1, 2**63 - 1, 2**63, 2**64 - 1]
    for i, large in enumerate(reversed(larges)):
        db.maybe.insert(id=i, side=Side.SELL, large=large, seat=None)
    for i, ratio in enumerate([1.5, -3.25, None, 0.0, -math.inf]):
        db.maybe.insert(id=10 + i, side=Side.BUY, large=1, ratio=ratio, seat=None)
    assert [r.large for r in db.maybe.by_side.range(Side.SELL)] == larges
    assert [r.large for r in db.maybe.by_side.range(-1, start=2**63)] == larges[4:]
    ratios = [r.ratio for r in db.maybe.by_side.range(Side.BUY, 1)]
    assert ratios == [None, -math.inf, -3.25, 0.0, 1.5]
    assert [r.ratio for r in db.maybe.by_side.range(Side.BUY, 1, start=-4)] == [-3.25, 0.0, 1.5]
    assert [r.side for r in db.maybe.by_side.range(reverse=True)] == [Side.BUY] * 5 + [
        Side.SELL
    ] * 6
    with pytest.raises(Rejected) as error:
        list(db.maybe.by_side.range(Side.BUY, start=-1))
    assert error.value.details["limit"] == "0 to 18446744073709551615"


def test_looking_beyond_the_bounds_finds_nothing(db: Any) -> None:
    db.thing.insert(id=65535)
    db.maybe.insert(id=1, seat=255)
    assert db.thing.get(65535).id == 65535
    assert db.thing.get(-1) is None
    assert db.thing.get(65536) is None
    assert (70_000 in db.thing, len(db.thing.columns(tiny=300))) == (False, 0)
    assert [row.id for row in db.maybe.by_seat.range(start=0, stop=256)] == [1]
    with pytest.raises(Rejected, match="bad_value"):
        db.thing.get(2**63)
    with pytest.raises(Rejected, match="bad_value"):
        db.thing.insert(id=65536)


def test_keys_of_narrow_columns(db: Any) -> None:
    keys = [(zone, row, is_open, mark) for zone in ("", "é") for row in (-128, 127)
            for is_open in (True, False) for mark in (b"\0\0\0", b"abc")]  # fmt: skip
    for zone, row, is_open, mark in keys:
        db.place.insert(zone=zone, row=row, open=is_open, mark=mark)
    for each in keys:
        found = db.place[each]
        assert (found.zone, found.row, found.open, found.mark) == each
    assert db.place.get(("é", 5, True, b"abc")) is None
    with pytest.raises(Rejected, match="duplicate_key"):
        db.place.insert(zone="", row=-128, open=True, mark=b"abc")
    for each in keys[::2]:
        db.place.delete(db.place[each])
    assert [each in db.place for each in keys] == [False, True] * 8


def test_references_that_may_be_none(db: Any) -> None:
    db.owner.insert(id=7)
    row = db.maybe.insert(id=1, owner=7)
    for change in (lambda: db.maybe.insert(id=2, owner=8), lambda: setattr(row, "owner", 8)):
        with pytest.raises(Rejected) as error:
            change()
        assert error.value == Rejected("not_found", table="owner", key=8)
    assert row.owner == 7
    row.owner = None
    assert row.owner is None
    row.owner = 7


def test_columns_in_their_own_types(bench: Bench) -> None:
    with bench.transaction() as db:
        for i in range(20):
            values = {name: GOOD[name][i % len(GOOD[name])] for name in GOOD}
            db.thing.insert(id=i, **values)
    things = bench.db.thing.columns()
    dtypes = {name: str(getattr(things, name).dtype) for name in GOOD}
    assert dtypes == {
        "tiny": "int8",
        "byte": "uint8",
        "small": "int16",
        "half": "int32",
        "index": "uint32",
        "large": "uint64",
        "part": "int64",
        "share": "uint8",
        "price": "int64",
        "ratio": "float32",
        "level": "float64",
        "done": "bool",
        "side": "int8",
        "code": "|S1",
        "word": "|S4",
        "name": "|S24",
        "pair": "|V2",
        "hash": "|V12",
        "when": "int64",
        "day": "int32",
    }
    for name, values in GOOD.items():
        array = getattr(things, name)
        assert np.shares_memory(array, bench.db.space.root)
        expected = [values[i % len(values)] for i in range(20)]
        if name in ("code", "word", "name"):
            assert [item.decode() for item in array.tolist()] == expected
        else:
            assert array.tolist() == expected
        with pytest.raises(ValueError, match="read-only"):
            array[0] = array[1]


@pytest.mark.parametrize("holes", [False, True])
def test_filters_on_every_kind(bench: Bench, holes: bool) -> None:
    with bench.transaction() as db:
        for i in range(20):
            db.thing.insert(id=i, **{name: GOOD[name][i % len(GOOD[name])] for name in GOOD})
        if holes:
            db.thing.delete(db.thing[3])
    for name, values in GOOD.items():
        for value in values:
            found = bench.db.thing.columns(**{name: value}).id.tolist()
            assert found == [
                i for i in range(20)
                if values[i % len(values)] == value and not (holes and i == 3)
            ]  # fmt: skip


@pytest.mark.parametrize("holes", [False, True])
def test_columns_with_none_are_masked(bench: Bench, holes: bool) -> None:
    names = [c.name for c in MAYBE.columns if c.optional and c.name not in ("owner", "seat")]
    values = {name: GOOD.get(name, [0.5, 0.0] if name == "weight" else [0, 7]) for name in names}
    given = {name: [None, *values[name]] for name in names}

    def row_of(i: int) -> dict[str, Any]:
        return {name: given[name][i % len(given[name])] for name in names} | {"tiny": i % 50}

    with bench.transaction() as db:
        for i in range(60):
            db.maybe.insert(id=i, seat=None, **row_of(i) | {"name": f"n{i}" if i % 3 else None})
        if holes:
            db.maybe.delete(db.maybe[4])
    kept = [i for i in range(60) if not (holes and i == 4)]
    maybe = bench.db.maybe.columns()
    assert maybe.seat.mask.all()
    for name in names:
        array = getattr(maybe, name)
        assert isinstance(array, np.ma.MaskedArray)
        assert np.shares_memory(array.data, bench.db.space.root) is not holes
        if name in ("name", "tiny"):
            continue
        expected = [row_of(i)[name] for i in kept]
        found = [
            v.decode() if isinstance(v, bytes) and name == "word" else v for v in array.tolist()
        ]
        assert found == expected
        for value in given[name]:
            chosen = bench.db.maybe.columns(**{name: value}).id.tolist()
            assert chosen == [i for i, each in zip(kept, expected, strict=True) if each == value]
        with pytest.raises(ValueError, match="read-only"):
            array[0] = array[1]
    assert maybe.name.mask.tolist() == [i % 3 == 0 for i in kept]
    assert maybe.tiny.sum() == sum(i % 50 for i in kept)


def test_rows_share_words(bench: Bench) -> None:
    """What is declared narrow takes no more, and neighbours are left alone."""
    with bench.transaction() as db:
        for i in range(256):
            db.thing.insert(id=i, byte=i, tiny=i - 128, done=i % 3 == 0)
        for i in range(0, 256, 2):
            db.thing[i].byte = 255 - i
    table = bench.db.thing.layout
    start = table.bases[THING.by_name["byte"].first_word] * 8
    raw = bytes(bench.db.space.bytes[start : start + 256])
    assert raw == bytes(255 - i if i % 2 == 0 else i for i in range(256))
    assert table.packs[THING.by_name["tiny"].first_word] & at.PACK_SIGNED
    bytes_a_row = {THING.columns[0].name: 2, "tiny": 1, "word": 4, "name": 24, "done": 1}
    for name, size in bytes_a_row.items():
        (own,) = [r for r in table.ranges if r.start == table.bases[THING.by_name[name].first_word]]
        assert own.words * 8 / own.rows == size
