"""Random handlers against plain dicts, with transactions that fail at random points.

Whatever a transaction did before it failed, afterwards the memory is byte for byte what it was, all
structures hold, and rows and ranges are the model's. Store errors that a handler catches leave the
one operation undone and the rest in place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Annotated, Any, NamedTuple

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as some
from sortedcontainers import SortedDict

from diptych import App, Rejected, key, ordered, text, unique
from diptych.errors import TableFull
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


INDEXES = {index.name: index for index in app.tables["thing"].indexes}
DEFAULTS = {c.name: c.default for c in app.tables["thing"].columns if not c.key}

zones = some.sampled_from(["", "ab", "é", "longest!"])
numbers = some.sampled_from([-1, 2, -(2**63), 2**63 - 1])
COLUMNS: dict[str, some.SearchStrategy[Any]] = {
    "label": some.sampled_from(
        ["", "a", "eight by", "eight byt", "twenty bytes of text", "ÿ" * 10]
    ),
    "kind": some.sampled_from(Kind),
    "heavy": some.booleans(),
    "weight": some.floats() | some.just(0.0),
    "score": some.integers(-40, 40),
}
keys = some.tuples(zones, numbers)
picks = some.integers(0, 40)  # one of the rows that are there; 0 is a key that no row has
columns = some.fixed_dictionaries({}, optional=COLUMNS)


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


assignments = some.sampled_from(sorted(COLUMNS)).flatmap(
    lambda name: some.tuples(some.just(name), COLUMNS[name])
)
steps = some.one_of(
    step("insert", keys, columns),
    step("insert", keys, columns),
    step("get_or_insert", keys, columns),
    step("delete", picks),
    step("assign", picks, assignments),
    step("assign", picks, assignments),
    step("assign", picks, assignments),
    step("thin_out", some.sampled_from(sorted(INDEXES)), some.booleans(), some.integers(2, 9)),
    step("add_all", some.integers(0, 12)),
)
transactions = some.tuples(some.lists(steps, min_size=5, max_size=15), some.booleans())


class Model:
    """Rows by key, and per index its key's values with the row's key to tell equal ones apart."""

    def __init__(self, rows: dict[tuple[str, int], dict[str, Any]]) -> None:
        self.rows = {each: dict(row) for each, row in rows.items()}
        self.room = CAPACITY - len(rows)  # slots freed by a transaction are of use after it

    def index(self, name: str) -> SortedDict:
        return SortedDict({(self.place(name, at), at): at for at in self.rows})

    def place(self, name: str, at: tuple[str, int]) -> tuple[Any, ...]:
        row = {"zone": at[0], "number": at[1], **self.rows[at]}
        values = [row[column.name] for column in INDEXES[name].columns]
        return tuple(v.encode() if isinstance(v, str) else int(v) for v in values)

    def check(self, at: tuple[str, int]) -> None:
        mine = self.place("by_score", at)
        if any(self.place("by_score", other) == mine for other in self.rows if other != at):
            raise Rejected("not_unique", table="thing", index="by_score")

    def insert(self, at: tuple[str, int], values: dict[str, Any]) -> None:
        if at in self.rows:
            raise Rejected("duplicate_key", table="thing", key=list(at))
        if self.room == 0:
            raise TableFull("thing", CAPACITY)
        self.rows[at] = DEFAULTS | values
        try:
            self.check(at)
        except Rejected:
            del self.rows[at]
            raise
        self.room -= 1

    def get_or_insert(self, at: tuple[str, int], values: dict[str, Any]) -> None:
        if at not in self.rows:
            self.insert(at, values)

    def find(self, at: tuple[str, int]) -> dict[str, Any]:
        if at not in self.rows:
            raise Rejected("not_found", table="thing", key=list(at))
        return self.rows[at]

    def delete(self, at: tuple[str, int]) -> None:
        self.find(at)
        del self.rows[at]

    def assign(self, at: tuple[str, int], assignment: tuple[str, Any]) -> None:
        row = self.find(at)
        before = dict(row)
        row[assignment[0]] = assignment[1]
        try:
            self.check(at)
        except Rejected:
            row.update(before)
            raise

    def thin_out(self, index: str, reverse: bool, every: int) -> None:
        self.rows = {at: row for at, row in self.rows.items() if row["score"] % every != 1}

    def add_all(self, count: int) -> None:
        for number in range(count):
            self.insert(("all", number), {"score": 1000 + number})


class Real:
    """The same steps on the real tables."""

    def __init__(self, db: Any) -> None:
        self.db = db

    def insert(self, at: tuple[str, int], values: dict[str, Any]) -> None:
        row = self.db.thing.insert(zone=at[0], number=at[1], **values)
        assert (row.zone, row.number) == at

    def get_or_insert(self, at: tuple[str, int], values: dict[str, Any]) -> None:
        self.db.thing.get_or_insert(zone=at[0], number=at[1], **values)

    def delete(self, at: tuple[str, int]) -> None:
        self.db.thing.delete(self.db.thing[at])

    def assign(self, at: tuple[str, int], assignment: tuple[str, Any]) -> None:
        row = self.db.thing[at]
        before = [getattr(row, name) for name in COLUMNS]
        try:
            setattr(row, *assignment)
        except Rejected:
            assert [getattr(row, name) for name in COLUMNS] == before or math.isnan(row.weight)
            raise

    def thin_out(self, index: str, reverse: bool, every: int) -> None:
        count, seen = len(self.db.thing), 0
        for row in getattr(self.db.thing, index).range(reverse=reverse):
            seen += 1
            if row.score % every == 1:
                self.db.thing.delete(row)
        assert seen == count

    def add_all(self, count: int) -> None:
        for number in range(count):
            self.db.thing.insert(zone="all", number=number, score=1000 + number)


def resolved(model: Model, wanted: Step) -> Step:
    """The step with the key of the row that it picks."""
    if wanted.name not in ("delete", "assign"):
        return wanted
    pick, *rest = wanted.arguments
    rows = sorted(model.rows)
    at = rows[pick % len(rows)] if pick and rows else ("nowhere", 0)
    return wanted._replace(arguments=(at, *rest))


def take(subject: Model | Real, wanted: Step) -> Rejected | None:
    try:
        getattr(subject, wanted.name)(*wanted.arguments)
    except Rejected as error:
        return error
    return None


def run(db: Any, model: Model, steps: list[Step], fails: bool) -> None:
    """One handler: both sides do the same, and refuse the same."""
    real = Real(db)
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
    """Every row, every index from both ends, and some ranges of each."""
    assert len(db.thing) == len(model.rows)
    for at, values in model.rows.items():
        row = db.thing[at]
        for name, value in values.items():
            found = getattr(row, name)
            assert equal(found, value)
            assert type(found) is type(value) or name == "weight"
    assert {(row.zone, row.number) for row in db.thing} == set(model.rows)
    for name in INDEXES:
        walk = model.index(name)
        places = [place for place, _ in walk]
        compare_walk(name, model, db_range(db, name), places)
        compare_walk(name, model, db_range(db, name, reverse=True), places[::-1])
        compare_bounds(db, name, model, places)


def db_range(db: Any, name: str, *prefix: Any, **bounds: Any) -> list[tuple[str, int]]:
    rows: Iterator[Any] = getattr(db.thing, name).range(*prefix, **bounds)
    return [(row.zone, row.number) for row in rows]


def compare_walk(
    name: str, model: Model, found: list[tuple[str, int]], places: list[tuple[Any, ...]]
) -> None:
    # Rows that an index can't tell apart come in the order of their slots, which nobody promises.
    assert [model.place(name, at) for at in found] == places
    assert len(set(found)) == len(found)


def compare_bounds(db: Any, name: str, model: Model, places: list[tuple[Any, ...]]) -> None:
    if not model.rows:
        assert getattr(db.thing, name).first() is None
        return
    at = sorted(model.rows)[len(model.rows) // 2]
    row = {"zone": at[0], "number": at[1], **model.rows[at]}
    values = [row[column.name] for column in INDEXES[name].columns]
    mine = model.place(name, at)
    for length in range(len(values)):
        inside = [place for place in places if place[:length] == mine[:length]]
        prefix, bound, word = values[:length], values[length], mine[length]
        from_it = [place for place in inside if place[length] >= word]
        before_it = [place for place in inside if place[length] < word]
        compare_walk(name, model, db_range(db, name, *prefix), inside)
        compare_walk(name, model, db_range(db, name, *prefix, start=bound), from_it)
        found = db_range(db, name, *prefix, stop=bound, reverse=True)
        compare_walk(name, model, found, before_it[::-1])
        index = getattr(db.thing, name)
        first, last = index.first(*prefix), index.last(*prefix)
        assert model.place(name, (first.zone, first.number)) == inside[0]
        assert model.place(name, (last.zone, last.number)) == inside[-1]


def transact(bench: Bench, handler: Callable[[Any], None]) -> None:
    with bench.transaction() as db:
        handler(db)


@settings(max_examples=80)
@given(some.lists(transactions, min_size=4, max_size=12))
def test_a_failed_transaction_leaves_every_byte_as_it_was(
    history: list[tuple[list[Step], bool]],
) -> None:
    with app.open(now=0) as bench:
        model = Model({})
        for given_steps, fails in history:
            attempt = Model(model.rows)
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
        before = bench.fingerprint()
        space = bench._engine.db.space
        limit = space.scratch[1]

        def fill(db: Any) -> None:
            for i in range(1_000_000):
                db.thing["a", i % 9].label = str(i)

        for words in range(0, 400, 7):
            space.scratch[1] = words
            with pytest.raises(Rejected, match="transaction_too_large"):
                transact(bench, fill)
            assert bench.fingerprint() == before
        space.scratch[1] = limit
        bench.verify()
