"""Random handlers against plain dicts, with transactions that fail at random points.

Whatever a transaction did before it failed, afterwards the memory is byte for byte what it was, all
structures hold, and rows and ranges are the model's. Store errors that a handler catches leave the
one operation undone and the rest in place. There are two tables: one of the common kinds of
columns, one of all others.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import IntEnum
from typing import Annotated, Any, NamedTuple

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as some
from sortedcontainers import SortedDict

from diptych import App, Rejected, bits, data, f32, i8, key, ordered, text, u16, u64, unique
from diptych.schema import Column
from diptych.testing import Bench

CAPACITY = 14
app = App("model")


class Kind(IntEnum):
    PLAIN = 0
    FANCY = 7
    ODD = -2


@app.table(capacity=CAPACITY)
class Thing:
    zone: Annotated[str, text(8)] = key()
    number: int = key()
    label: Annotated[str, text(20)] = ""
    kind: Kind = Kind.PLAIN
    heavy: bool = False
    weight: float = 1.0
    score: int = 0
    by_label = ordered("label", "score")
    by_kind = ordered("kind")
    by_place = ordered("zone", "heavy", "number")
    by_score = unique("score", "kind")


@app.table(capacity=CAPACITY)
class Parcel:
    mark: Annotated[bytes, data(3)] = key()
    shelf: i8 = key()
    tag: Annotated[str, text(3)] = ""
    digest: Annotated[bytes, data(12)] | None
    kind: Annotated[Kind, bits(8)] | None = Kind.ODD
    sealed: bool | None
    size: u16 | None = 65535
    large: u64 = 2**64 - 1
    ratio: f32 = 0.5
    weight: float | None
    note: str = "none"
    raw: bytes | None
    score: i8 | None = 0
    name: Annotated[str, text(20)] | None
    by_tag = ordered("tag", "digest")
    by_size = ordered("size", "shelf")
    by_large = ordered("kind", "large")
    by_ratio = ordered("ratio", "sealed")
    by_weight = ordered("weight")
    by_score = unique("score", "kind")
    by_name = unique("name")


def long_text(size: int) -> str:
    return "é" * (size // 2) + "a" * (size % 2)


KINDS = some.sampled_from(Kind)
SCORES = some.integers(-40, 40)
WORDS = ["", "a", "eight by", "eight byt", "twenty bytes of text", "ÿ" * 10]
SIZES = some.sampled_from([0, 1, 8, 9, 16, 300, 5000])
NONE = some.none()
COLUMNS: dict[str, dict[str, some.SearchStrategy[Any]]] = {
    "thing": {
        "label": some.sampled_from(WORDS),
        "kind": KINDS,
        "heavy": some.booleans(),
        "weight": some.floats() | some.just(0.0),
        "score": SCORES,
    },
    "parcel": {
        "tag": some.sampled_from(["", "a", "é", "abc"]),
        "digest": NONE | some.sampled_from([bytes(12), b"\0" * 11 + b"\1", b"\xff" * 12]),
        "kind": NONE | KINDS,
        "sealed": NONE | some.booleans(),
        "size": NONE | some.sampled_from([0, 1, 255, 256, 65535]),
        "large": some.sampled_from([0, 1, 2**63 - 1, 2**63, 2**64 - 1]),
        "ratio": some.floats(width=32),
        "weight": NONE | some.floats() | some.just(-0.0),
        "note": SIZES.map(long_text),
        "raw": NONE | SIZES.map(bytes),
        "score": NONE | SCORES,
        "name": NONE | some.sampled_from(WORDS),
    },
}
KEYS = {
    "thing": some.tuples(
        some.sampled_from(["", "ab", "é", "longest!"]),
        some.sampled_from([-1, 2, -(2**63), 2**63 - 1]),
    ),
    "parcel": some.tuples(
        some.sampled_from([b"\0\0\0", b"\0\0\1", b"abc", b"\xff\xff\xff"]),
        some.sampled_from([-128, -1, 0, 127]),
    ),
}
ANOTHER_KEY = {"thing": ("nowhere", 0), "parcel": (b"\1\1\1", 5)}  # which no row has
FIRST_KEY: dict[str, Any] = {"thing": "all", "parcel": b"all"}  # of those that `add_all` adds
SPECS = {name: app.tables[name] for name in COLUMNS}
picks = some.integers(0, 40)  # one of the rows that are there; 0 is a key that no row has


class Step(NamedTuple):
    """One thing a handler does; it may catch the store's errors and go on."""

    name: str
    arguments: tuple[Any, ...]
    catches: bool


class Failed(Exception):
    """A handler's own error."""


def step(name: str, *arguments: some.SearchStrategy[Any]) -> some.SearchStrategy[Step]:
    catches = some.sampled_from([True] * 9 + [False])
    return some.builds(Step, some.just(name), some.tuples(*arguments), catches)


def transactions(table: str) -> some.SearchStrategy[list[tuple[list[Step], bool]]]:
    keys, indexes = KEYS[table], sorted(index.name for index in SPECS[table].indexes)
    columns = some.fixed_dictionaries({}, optional=COLUMNS[table])
    assignments = some.sampled_from(sorted(COLUMNS[table])).flatmap(
        lambda name: some.tuples(some.just(name), COLUMNS[table][name])
    )
    steps = some.one_of(
        step("insert", keys, columns),
        step("insert", keys, columns),
        step("get_or_insert", keys, columns),
        step("delete", picks),
        step("assign", picks, assignments),
        step("assign", picks, assignments),
        step("assign", picks, assignments),
        step("write", assignments),
        step("thin_out", some.sampled_from(indexes), some.booleans(), some.integers(2, 9)),
        step("add_all", some.integers(0, 12)),
    )
    transaction = some.tuples(some.lists(steps, min_size=5, max_size=15), some.booleans())
    return some.lists(transaction, min_size=4, max_size=12)


def stored(column: Column, value: Any) -> Any:
    """What is read after a value was written."""
    if column.kind != "float" or value is None:
        return value
    return struct.unpack("<f", struct.pack("<f", value))[0] if column.bits == 32 else value


def comparable(column: Column, value: Any) -> Any:
    """A value as its place in an index: None before all others, NaN behind all other floats."""
    if value is None:
        return (0,)
    if isinstance(value, float):
        return (1, value != value, 0.0 if value != value else value)
    value = value.encode() if isinstance(value, str) else value
    return (1, value if isinstance(value, bytes) else int(value))


Key = tuple[Any, int]


class Model:
    """Rows by key, and per index its key's values with the row's key to tell equal ones apart."""

    def __init__(self, table: str, rows: dict[Key, dict[str, Any]]) -> None:
        self.table, self.spec = table, SPECS[table]
        self.keys = [column.name for column in self.spec.keys]
        self.indexes = {index.name: index for index in self.spec.indexes}
        self.rows = {each: dict(row) for each, row in rows.items()}
        self.room = CAPACITY - len(rows)  # slots freed by a transaction are of use after it

    def index(self, name: str) -> SortedDict:
        return SortedDict({(self.place(name, at), at): at for at in self.rows})

    def row(self, at: Key) -> dict[str, Any]:
        return dict(zip(self.keys, at, strict=True)) | self.rows[at]

    def place(self, name: str, at: Key) -> tuple[Any, ...]:
        row = self.row(at)
        return tuple(comparable(c, row[c.name]) for c in self.indexes[name].columns)

    def check(self, at: Key) -> None:
        for name, index in self.indexes.items():
            mine = self.place(name, at)
            if not index.unique or (0,) in mine:
                continue
            if any(self.place(name, other) == mine for other in self.rows if other != at):
                raise Rejected("not_unique", table=self.table, index=name)

    def insert(self, at: Key, values: dict[str, Any]) -> None:
        if at in self.rows:
            raise Rejected("duplicate_key", table=self.table, key=list(at))
        if self.room == 0:
            setting = f"[tables.{self.table}] capacity"
            raise Rejected("table_full", table=self.table, capacity=CAPACITY, setting=setting)
        defaults = {c.name: c.default for c in self.spec.columns if not c.key}
        self.rows[at] = {
            name: stored(self.spec.by_name[name], value)
            for name, value in (defaults | values).items()
        }
        try:
            self.check(at)
        except Rejected:
            del self.rows[at]
            raise
        self.room -= 1

    def get_or_insert(self, at: Key, values: dict[str, Any]) -> None:
        if at not in self.rows:
            self.insert(at, values)

    def find(self, at: Key) -> dict[str, Any]:
        if at not in self.rows:
            raise Rejected("not_found", table=self.table, key=list(at))
        return self.rows[at]

    def delete(self, at: Key) -> None:
        self.find(at)
        del self.rows[at]

    def assign(self, at: Key, assignment: tuple[str, Any]) -> None:
        name, value = assignment
        row = self.find(at)
        before = row[name]
        row[name] = stored(self.spec.by_name[name], value)
        try:
            self.check(at)
        except Rejected:
            row[name] = before
            raise

    def write(self, assignment: tuple[str, Any]) -> None:
        before = {at: dict(row) for at, row in self.rows.items()}
        name, value = assignment
        for row in self.rows.values():
            row[name] = stored(self.spec.by_name[name], value)
        try:
            for at in self.rows:
                self.check(at)
        except Rejected:
            self.rows = before
            raise

    def thin_out(self, index: str, reverse: bool, every: int) -> None:
        self.rows = {at: row for at, row in self.rows.items() if stays(row["score"], every)}

    def add_all(self, count: int) -> None:
        for number in range(count):
            self.insert((FIRST_KEY[self.table], number), {"score": 100 + number})


def stays(score: int | None, every: int) -> bool:
    return score is None or score % every != 1


class Real:
    """The same steps on the real tables."""

    def __init__(self, db: Any, model: Model) -> None:
        self.table = db.tables[model.table]
        self.keys, self.names = model.keys, list(COLUMNS[model.table])

    def named(self, at: Key, values: dict[str, Any]) -> dict[str, Any]:
        return dict(zip(self.keys, at, strict=True)) | values

    def key(self, row: Any) -> Key:
        first, second = self.keys
        return getattr(row, first), getattr(row, second)

    def insert(self, at: Key, values: dict[str, Any]) -> None:
        row = self.table.insert(**self.named(at, values))
        assert self.key(row) == at

    def get_or_insert(self, at: Key, values: dict[str, Any]) -> None:
        self.table.get_or_insert(**self.named(at, values))

    def delete(self, at: Key) -> None:
        self.table.delete(self.table[at])

    def assign(self, at: Key, assignment: tuple[str, Any]) -> None:
        row = self.table[at]
        before = [getattr(row, name) for name in self.names]
        try:
            setattr(row, *assignment)
        except Rejected:
            after = [getattr(row, name) for name in self.names]
            assert all(map(equal, after, before))
            raise

    def write(self, assignment: tuple[str, Any]) -> None:
        name, value = assignment
        rows = self.table.columns()
        if isinstance(value, int | float) and not isinstance(value, IntEnum):
            value = np.full(len(rows), value)
        rows.write(**{name: value})

    def thin_out(self, index: str, reverse: bool, every: int) -> None:
        count, seen = len(self.table), 0
        for row in getattr(self.table, index).range(reverse=reverse):
            seen += 1
            if not stays(row.score, every):
                self.table.delete(row)
        assert seen == count

    def add_all(self, count: int) -> None:
        first, second = self.keys
        for number in range(count):
            at = {first: FIRST_KEY[self.table.name], second: number}
            self.table.insert(**at, score=100 + number)


def resolved(model: Model, wanted: Step) -> Step:
    """The step with the key of the row that it picks."""
    if wanted.name not in ("delete", "assign"):
        return wanted
    pick, *rest = wanted.arguments
    rows = sorted(model.rows)
    at = rows[pick % len(rows)] if pick and rows else ANOTHER_KEY[model.table]
    return wanted._replace(arguments=(at, *rest))


def take(subject: Model | Real, wanted: Step) -> Rejected | None:
    try:
        getattr(subject, wanted.name)(*wanted.arguments)
    except Rejected as error:
        return error
    return None


def run(db: Any, model: Model, steps: list[Step], fails: bool) -> None:
    """One handler: both sides do the same, and refuse the same."""
    real = Real(db, model)
    for each in (resolved(model, wanted) for wanted in steps):
        expected, found = take(model, each), take(real, each)
        if each.name == "add_all" and found is not None:
            assert expected is not None
            raise found  # some of them are in: the handler gives up
        assert found == expected
        if found is not None and not each.catches:
            raise found
    if fails:
        raise Failed


def equal(real: Any, expected: Any) -> bool:
    return real == expected or (real != real and expected != expected)  # NaN is none


def compare(db: Any, model: Model) -> None:
    """Every row, every index from both ends, some ranges of each, and every column."""
    table, key_of = db.tables[model.table], Real(db, model).key
    assert len(table) == len(model.rows)
    for at, values in model.rows.items():
        row = table[at]
        for name, value in values.items():
            found = getattr(row, name)
            assert equal(found, value)
            assert type(found) is type(value) or name == "weight"
    order = [key_of(row) for row in table]
    assert set(order) == set(model.rows)
    compare_columns(table, model, order)
    for name in model.indexes:
        index = getattr(table, name)
        places = [place for place, _ in model.index(name)]
        compare_walk(model, name, map(key_of, index.range()), places)
        compare_walk(model, name, map(key_of, index.range(reverse=True)), places[::-1])
        compare_bounds(index, key_of, name, model, places)


def compare_columns(table: Any, model: Model, order: list[Key]) -> None:
    columns = table.columns()
    for name, column in model.spec.by_name.items():
        expected = [model.row(at)[name] for at in order]
        found = columns[name].tolist()
        if column.kind == "text":
            found = [None if value is None else value.decode() for value in found]
        assert all(map(equal, found, expected))
        for value in expected[:2]:
            count = sum(comparable(column, value) == comparable(column, e) for e in expected)
            assert len(table.columns(**{name: value})) == count


def compare_walk(model: Model, name: str, found: Any, places: list[tuple[Any, ...]]) -> None:
    # Rows that an index can't tell apart come in the order of their slots, which nobody promises.
    found = list(found)
    assert [model.place(name, at) for at in found] == places
    assert len(set(found)) == len(found)


def compare_bounds(
    index: Any, key_of: Callable[[Any], Key], name: str, model: Model, places: list[Any]
) -> None:
    if not model.rows:
        assert index.first() is None
        return
    at = sorted(model.rows)[len(model.rows) // 2]
    values = [model.row(at)[column.name] for column in model.indexes[name].columns]
    mine = model.place(name, at)
    for length in range(len(values)):
        inside = [place for place in places if place[:length] == mine[:length]]
        prefix, bound, word = values[:length], values[length], mine[length]
        from_it = [place for place in inside if place[length] >= word]
        before_it = [place for place in inside if place[length] < word]
        compare_walk(model, name, map(key_of, index.range(*prefix)), inside)
        compare_walk(model, name, map(key_of, index.range(*prefix, start=bound)), from_it)
        found = index.range(*prefix, stop=bound, reverse=True)
        compare_walk(model, name, map(key_of, found), before_it[::-1])
        first, last = index.first(*prefix), index.last(*prefix)
        assert model.place(name, key_of(first)) == inside[0]
        assert model.place(name, key_of(last)) == inside[-1]


def transact(bench: Bench, handler: Callable[[Any], Any]) -> None:
    with bench.transaction() as db:
        handler(db)


def make_room(db: Any) -> None:
    """Memory for a heap that is not to grow in a transaction that fails; one large free block."""
    parcel = db.parcel.insert(mark=b"abc", shelf=0, raw=bytes(250_000))
    db.parcel.delete(parcel)


@pytest.mark.parametrize("table", COLUMNS)
@settings(max_examples=40)
@given(some.data())
def test_a_failed_transaction_leaves_every_byte_as_it_was(
    table: str, drawn: some.DataObject
) -> None:
    with app.open(now=0) as bench:
        model = Model(table, {})
        transact(bench, make_room)
        for given_steps, fails in drawn.draw(transactions(table)):
            attempt = Model(table, model.rows)
            before, extents = bench.fingerprint(), bench.extents()
            try:
                transact(bench, lambda db: run(db, attempt, given_steps, fails))  # noqa: B023
            except (Failed, Rejected) as error:
                event(f"undone by {error}"[:40])
                assert bench.extents() == extents
                assert bench.fingerprint() == before
            else:
                model = attempt
            bench.verify()
            compare(bench.db, model)


def test_what_the_undo_log_can_not_hold_is_undone() -> None:
    with app.open(now=0) as bench:
        transact(bench, lambda db: [db.thing.insert(zone="a", number=i, score=i) for i in range(9)])
        transact(
            bench, lambda db: [db.parcel.insert(mark=b"a c", shelf=i, score=i) for i in (0, 1)]
        )
        before = bench.fingerprint()
        space = bench._engine.db.space
        limit = space.scratch[1]

        def fill(db: Any) -> None:
            for i in range(1_000_000):
                db.thing["a", i % 9].label = str(i)

        def fill_heap(db: Any) -> None:
            for i in range(1_000_000):
                row = db.parcel[b"a c", i % 2]
                row.note, row.raw, row.size = long_text(i % 99), bytes(i % 50), None if i % 3 else i
                row.name, row.digest = str(i), bytes([i % 256]) * 12

        for words in range(0, 400, 7):
            space.scratch[1] = words
            for each in (fill, fill_heap):
                with pytest.raises(Rejected, match="transaction_too_large"):
                    transact(bench, each)
                assert bench.fingerprint() == before
        space.scratch[1] = limit
        bench.verify()
