"""`Selection.write`: whole columns, checked like single values and undone like them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from enum import IntEnum
from typing import Annotated, Any

import numpy as np
import pytest

from diptych import (
    App,
    Rejected,
    between,
    bits,
    data,
    f32,
    i8,
    key,
    ordered,
    ref,
    text,
    u64,
    unique,
)
from diptych.store.faults import ReadOnly, StaleRow
from diptych.testing import Bench

COUNT = 40
app = App("vectors")


class Side(IntEnum):
    NONE = 0
    BUY = 1
    SELL = -1


@app.table
class Owner:
    id: int = key()


@app.table(capacity=5000)
class Thing:
    id: int = key()
    cash: int = 0
    tiny: i8 = 0
    large: u64 = 0
    part: Annotated[int, between(-10, 10)] = 0
    ratio: f32 = 0.0
    level: Annotated[float, between(0.0, 0.1)] = 0.0
    weight: float = 0.0
    done: bool = False
    side: Annotated[Side, bits(8)] = Side.NONE
    code: Annotated[str, text(3)] = ""
    name: Annotated[str, text(20)] = ""
    hash: Annotated[bytes, data(12)] = bytes(12)
    note: str = ""
    seat: int | None
    maybe: f32 | None
    title: str | None
    owner: int | None = ref(Owner)
    by_cash = ordered("cash", "tiny")
    by_name = ordered("name", "maybe")
    by_seat = unique("seat")


@pytest.fixture(name="bench")
def _bench() -> Iterator[Bench]:
    with app.open(now=0, check=True) as bench:
        with bench.transaction() as db:
            for i in range(COUNT):
                db.thing.insert(id=i, cash=i)
            db.owner.insert(id=7)
        yield bench


@pytest.fixture(name="db")
def _db(bench: Bench) -> Iterator[Any]:
    with bench.transaction() as db:
        yield db


def column(db: Any, name: str) -> list[Any]:
    return [getattr(row, name) for row in db.thing]


i = np.arange(COUNT)
FITTING: list[tuple[str, Any]] = [
    ("cash", i * -(2**50)),
    ("cash", i.astype(np.uint8)),
    ("cash", i % 2 == 0),
    ("cash", [int(n) for n in i]),
    ("cash", 5),
    ("tiny", i - 128),
    ("large", i.astype(np.uint64) + np.uint64(2**63)),
    ("large", 2**64 - 1),
    ("large", [2**64 - 1 - int(n) for n in i]),
    ("part", i % 21 - 10),
    ("ratio", i / 8),
    ("ratio", i),
    ("level", (i / 400).astype(np.float32)),
    ("weight", -i / 3),
    ("weight", np.where(i % 2, math.inf, -math.inf)),
    ("done", i % 3 == 0),
    ("done", True),
    ("side", i % 3 - 1),
    ("side", Side.SELL),
    ("side", [Side(int(n) % 3 - 1) for n in i]),
    ("code", [str(n) for n in i]),
    ("code", np.array([str(n).encode() for n in i])),
    ("code", np.array([str(n) for n in i])),
    ("name", "a text of some words"),
    ("name", np.array([b"some bytes of %d" % n for n in i])),
    ("hash", [bytes([n]) * 12 for n in i]),
    ("hash", b"\0" * 11 + b"\1"),
    ("note", [str(n) * n for n in i]),
    ("note", np.array([str(n) for n in i], object)),
    ("note", ""),
    ("seat", i),
    ("seat", None),
    ("seat", [None if n % 2 else int(n) for n in i]),
    ("seat", np.ma.MaskedArray(i, i % 2 == 0)),
    ("maybe", np.ma.MaskedArray(i / 4, i % 3 == 0)),
    ("maybe", np.ma.masked),
    ("title", [None if n % 2 else str(n) for n in i]),
    ("title", np.ma.MaskedArray(np.array(["a"] * COUNT, object), i % 2 == 0)),
    ("owner", 7),
    ("owner", [None, *[7] * (COUNT - 1)]),
]


@pytest.mark.parametrize(("name", "values"), FITTING)
def test_what_is_written_is_there(db: Any, name: str, values: Any) -> None:
    db.thing.columns().write(**{name: values})
    if isinstance(values, np.ma.MaskedArray) and values.ndim == 0:
        values = None
    single = not hasattr(values, "__len__") or isinstance(values, str | bytes)
    listed = [values] * COUNT if single else values
    listed = listed.tolist() if isinstance(listed, np.ndarray) else listed
    if app.tables["thing"].by_name[name].kind == "text":
        listed = [v.decode() if isinstance(v, bytes) else v for v in listed]
    found = column(db, name)
    assert found == listed
    assert len(db.thing.columns(cash=3)) == sum(row.cash == 3 for row in db.thing)


REFUSED: list[tuple[str, Any, str]] = [
    ("cash", i / 2, "an int"),
    ("cash", [1.5] * COUNT, "an int"),
    ("cash", [2**63] * COUNT, "64 bits"),
    ("cash", i.astype(np.uint64) + np.uint64(2**63), "64 bits"),
    ("cash", np.ma.MaskedArray(i, i == 3), "an int"),
    ("cash", None, "an int"),
    ("tiny", i * 10, "-128 to 127"),
    ("large", i - 1, "0 to 18446744073709551615"),
    ("part", i, "-10 to 10"),
    ("ratio", np.full(COUNT, 3.5e38), "a float of 32 bits"),
    ("ratio", i % 2 == 0, "a float"),
    ("level", i / 100, "0.0 to 0.1"),
    ("level", np.full(COUNT, math.nan), "0.0 to 0.1"),
    ("weight", "x", "a float"),
    ("done", i, "true or false"),
    ("side", i % 4 - 1, "a member of Side"),
    ("code", ["four"] * COUNT, "at most 3 bytes of UTF-8"),
    ("code", np.array([b"four"] * COUNT), "at most 3 bytes of UTF-8"),
    ("hash", b"short", "exactly 12 bytes"),
    ("note", [5] * COUNT, "text"),
    ("title", i, "text"),
]


@pytest.mark.parametrize(("name", "values", "limit"), REFUSED)
def test_what_does_not_fit_changes_nothing(
    bench: Bench, name: str, values: Any, limit: str
) -> None:
    before = bench.fingerprint()
    columns = {"done": True, "title": "changed"} if name == "weight" else {"weight": 4.0}
    with bench.transaction() as db:
        with pytest.raises(Rejected) as error:
            db.thing.columns().write(**(columns | {name: values}))
        assert error.value.code == "bad_value"
        assert (error.value.details["column"], error.value.details["limit"]) == (name, limit)
    assert bench.fingerprint() == before


def test_short_floats_and_zeros(db: Any) -> None:
    db.thing.columns().write(ratio=np.full(COUNT, 0.1), weight=-0.0, maybe=np.full(COUNT, -1e-60))
    row = db.thing[0]
    assert row.ratio == float(np.float32(0.1))
    assert math.copysign(1, row.weight) == math.copysign(1, row.maybe) == 1
    db.thing.columns().write(weight=np.full(COUNT, -0.0), maybe=np.full(COUNT, math.nan))
    assert math.copysign(1, row.weight) == 1
    assert math.isnan(row.maybe)


def test_equal_values_give_equal_bytes() -> None:
    prints = set()
    nans = np.array([0x7FF8000000000000, 0xFFF8000000000001], np.uint64).view(np.float64)
    for write in (
        lambda db: db.thing.columns().write(weight=nans, maybe=nans, seat=[5, None]),
        lambda db: db.thing.columns().write(weight=math.nan, maybe=math.nan, seat=[5, None]),
        lambda db: [
            (setattr(row, "weight", math.nan), setattr(row, "maybe", math.nan),
             setattr(row, "seat", None if row.id else 5))
            for row in db.thing
        ],
    ):  # fmt: skip
        with app.open(now=0) as bench:
            with bench.transaction() as db:
                for number in range(2):
                    db.thing.insert(id=number)
            with bench.transaction() as db:
                write(db)
            prints.add(bench.fingerprint())
    assert len(prints) == 1


def test_chosen_rows_alone(db: Any) -> None:
    db.thing.delete(db.thing[4])
    db.thing.columns(done=False, cash=7).write(tiny=9)
    db.thing.columns().write(name="x")
    assert [row.id for row in db.thing if row.tiny == 9] == [7]
    assert {row.name for row in db.thing} == {"x"}
    rich = db.thing.columns(tiny=9)
    rich.write(cash=rich.cash - 1000, tiny=rich.tiny + 1)
    assert (db.thing.by_cash.first().id, db.thing[7].cash, db.thing[7].tiny) == (7, -993, 10)
    nobody = db.thing.columns(tiny=100)
    nobody.write(cash=nobody.cash, note="x", name=[], tiny=5)
    assert nobody["cash"].tolist() == []


def test_indexes_follow(db: Any) -> None:
    things = db.thing.columns()
    things.write(cash=-things.cash, name=[f"{n % 3} and more" for n in range(COUNT)])
    assert [row.cash for row in db.thing.by_cash.range()] == sorted(-n for n in range(COUNT))
    assert len(list(db.thing.by_name.range("1 and more"))) == len(range(1, COUNT, 3))
    things.write(maybe=np.ma.MaskedArray(np.arange(COUNT) % 2, np.arange(COUNT) % 5 == 0))
    assert db.thing.by_name.first("0 and more").maybe is None


def test_an_index_that_needs_memory() -> None:
    with app.open(now=0, check=True) as bench:
        with bench.transaction() as db:
            for number in range(3000):
                db.thing.insert(id=number)
            db.thing.columns().write(seat=np.arange(3000)[::-1])
        assert [row.seat for row in bench.db.thing.by_seat.range()][-1] == 2999


def test_what_unique_and_references_refuse(bench: Bench) -> None:
    before = bench.fingerprint()
    with bench.transaction() as db:
        with pytest.raises(Rejected) as error:
            db.thing.columns().write(cash=1, seat=[5] * COUNT)
        assert error.value == Rejected("not_unique", table="thing", index="by_seat")
        with pytest.raises(Rejected) as error:
            db.thing.columns().write(note="x", owner=[7, 8, *[None] * (COUNT - 2)])
        assert error.value == Rejected("not_found", table="owner", key=8)
    assert bench.fingerprint() == before


def test_what_can_not_be_written(bench: Bench) -> None:
    with bench.transaction() as db:
        things = db.thing.columns()
        with pytest.raises(ReadOnly, match=r"thing\.id is part of the key"):
            things.write(id=5)
        with pytest.raises(AttributeError, match="no column 'csh'; did you mean 'cash'"):
            things.write(csh=5)
        for wrong in ([1, 2], i[:-1], np.zeros((COUNT, 2), int), []):
            with pytest.raises(ValueError, match="cash needs 40 values, or one for all"):
                things.write(cash=wrong)
        db.thing.delete(db.thing[3])
        with pytest.raises(StaleRow, match="was deleted"):
            things.write(cash=1)
        db.thing.columns().write(cash=2)
    with pytest.raises(ReadOnly, match="a query can't change data"):
        bench.db.thing.columns().write(cash=1)
    with bench.transaction(), pytest.raises(StaleRow, match="has ended"):
        things.write(cash=1)


def test_an_undone_write_leaves_no_trace(bench: Bench) -> None:
    before = bench.fingerprint()

    def change() -> None:
        with bench.transaction() as db:
            db.thing.columns().write(cash=i * 3, name="other", note="x" * 99, maybe=1.5, seat=i)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        change()
    assert bench.fingerprint() == before
