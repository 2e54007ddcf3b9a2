"""Compiled transactions against plain dicts: random steps, some of which fail, after each of which
all rows, ranges and bytes are compared.

The application is `tests/support/crates.py`: what its transactions do is chosen by their arguments,
so that one compiled handler can do anything. Here is what a table would do, in a few lines each.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import Any

from hypothesis import event, given, settings
from hypothesis import strategies as some
from sortedcontainers import SortedDict
from tests.support import crates
from tests.support.crates import ASSIGN, ASSIGNED, CAPACITY, OWNERS, Step

from diptych import Rejected
from diptych.testing import Bench
from diptych_client import ServerError

SPEC = crates.app.tables["crate"]
INDEXES = {index.name: index for index in SPEC.indexes}
READ = [column.name for column in SPEC.columns if not column.key and not column.in_heap]
DEFAULTS = {c.name: c.default for c in SPEC.columns if not c.key}
UNIQUE = [index for index in SPEC.indexes if index.unique]
Key = tuple[str, int]

INTS = [0, 1, -1, 2, 3, 5, 100, 101, -128, 200, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**32, 2**63 - 1]
numbers = some.none() | some.sampled_from([*INTS, -(2**31), -(2**63)]) | some.integers(-9, 9)
reals = some.none() | some.floats() | some.sampled_from([0.1, -0.0, 1.0, 1e6, 1e39, -1e-300])
labels = some.none() | some.sampled_from(
    ["", "a", "b", "eight by", "twelve bytes", "thirteen byte", "é" * 6, "twenty bytes of text"]
)
tags = some.none() | some.sampled_from([b"abc", b"\0\0\0", b"\xff\0a"])
keys = some.tuples(some.sampled_from(["", "a", "é"]), some.sampled_from([0, 1, -(2**15), 2**15]))
picks = some.integers(0, 40)  # which row, or a number for a new one; every eighth leaves all open
steps = some.builds(
    Step,
    some.sampled_from([crates.INSERT] * 4 + [crates.INSERT_PLAIN] + [crates.GET_OR_INSERT] * 3)
    | some.sampled_from([crates.NOTHING, crates.DELETE])
    | some.integers(ASSIGN, ASSIGN + len(ASSIGNED) - 1),
    keys,
    numbers,
    reals,
    labels,
    tags,
)
several = some.tuples(
    some.just("several"),
    some.tuples(steps, steps, steps),
    some.tuples(picks, picks, picks),
    some.sampled_from([0] * 6 + [crates.FAIL_AS_REJECTED, crates.FAIL_AS_BUG]),
)
calls = some.one_of(
    several,
    several,
    several,
    some.tuples(
        some.just("thin_out"),
        some.integers(0, 2),
        some.booleans(),
        some.sampled_from([4, 5, 7, 8, 9, 2]),  # 2 takes all that have the default
    ),
    some.tuples(
        some.just("count_up"),
        some.none() | some.integers(-9, 9),
        some.integers(-9, 50),
        some.integers(-2, 7),
    ),
    some.tuples(some.just("add_all"), some.just("all"), some.integers(0, 6)),
)


def bad(name: str) -> Rejected:
    return Rejected("bad_value", column=name)


def held(name: str, value: Any) -> Any:
    """A value as its column holds it. Errors: Rejected, for what it can't."""
    column = SPEC.by_name[name]
    if value is None:
        if column.optional:
            return None
        raise bad(name)
    if column.kind == "text":
        if len(value.encode()) > column.size_bytes:
            raise bad(name)
    elif column.kind == "int":
        if column.value.is_enum and value not in list(column.value.base):
            raise bad(name)
        if not column.low <= value <= column.high:
            raise bad(name)
    elif column.kind == "float":
        if column.bits == 32:
            try:
                (value,) = struct.unpack("<f", struct.pack("<f", value))
            except OverflowError:
                raise bad(name) from None
        if column.low is not None and not column.low <= value <= column.high:
            raise bad(name)
        value += 0.0  # zero has no sign
    return value


class Model:
    """Rows by key. An index is made anew, of its columns' values, whenever it is looked at."""

    def __init__(self, rows: dict[Key, dict[str, Any]]) -> None:
        self.rows = {at: dict(row) for at, row in rows.items()}
        self.room = CAPACITY - len(rows)  # slots freed by a transaction are of use after it

    def values(self, at: Key) -> dict[str, Any]:
        return {"zone": at[0], "number": at[1], **self.rows[at]}

    def place(self, name: str, at: Key) -> tuple[Any, ...]:
        row = self.values(at)
        return tuple(comparable(row[column.name]) for column in INDEXES[name].columns)

    def index(self, name: str) -> SortedDict:
        return SortedDict({(self.place(name, at), at): at for at in self.rows})

    def check_unique(self, at: Key) -> None:
        for index in UNIQUE:
            mine = self.place(index.name, at)
            if (0,) not in mine and any(
                self.place(index.name, other) == mine for other in self.rows if other != at
            ):
                raise Rejected("not_unique", index=index.name)

    def insert(self, at: Key, given: dict[str, Any]) -> None:
        kept = {c.name: held(c.name, given[c.name]) for c in SPEC.columns if c.name in given}
        held("number", at[1])
        if at in self.rows:
            raise Rejected("duplicate_key")
        if self.room == 0:
            raise Rejected("table_full")
        self.rows[at] = DEFAULTS | kept
        try:
            self.check_unique(at)
        except Rejected:
            del self.rows[at]
            raise
        self.room -= 1

    def find(self, at: Key) -> dict[str, Any]:
        if at not in self.rows:
            raise Rejected("not_found", table="crate")
        return self.rows[at]

    def assign(self, at: Key, name: str, value: Any) -> None:
        row = self.find(at)
        if name == "owner" and value is not None and value not in OWNERS:
            raise Rejected("not_found", table="owner")
        before = row[name]
        row[name] = held(name, value)
        try:
            self.check_unique(at)
        except Rejected:
            row[name] = before
            raise

    def take(self, step: Step) -> None:
        at = (step.at[0], step.at[1])
        if step.what == crates.INSERT:
            some_number = step.number if step.number is not None else 0
            given_columns = {
                "tiny": some_number,
                "score": step.number,
                "count": step.number,
                "speed": step.real,
                "label": step.label or "",
                "mark": step.tag,
            }
            self.insert(at, given_columns)
        elif step.what == crates.INSERT_PLAIN:
            self.insert(at, {})
        elif step.what == crates.GET_OR_INSERT:
            if at not in self.rows:
                self.insert(at, {"score": step.number})
        elif step.what == crates.DELETE:
            self.find(at)
            del self.rows[at]
        elif step.what >= ASSIGN:
            name = ASSIGNED[step.what - ASSIGN]
            self.find(at)
            self.assign(at, name, self.wanted(name, step))

    def wanted(self, name: str, step: Step) -> Any:
        """What a step assigns to a column."""
        kind = SPEC.by_name[name].kind
        if name == "digest":
            return b"twelve bytes" if step.tag == b"abc" else b"\0" * 11 + b"\xff"
        if name == "heavy":
            return step.number == 1
        if name == "dark":
            return None if step.number is None else step.number > 0
        return {"int": step.number, "float": step.real, "text": step.label, "data": step.tag}[kind]

    def several(self, taken: tuple[Step, ...], fails: int) -> int:
        for step in taken:
            self.take(step)
        if fails == crates.FAIL_AS_REJECTED:
            raise Rejected("as_wanted", rows=len(self.rows))
        if fails == crates.FAIL_AS_BUG:
            raise ZeroDivisionError
        return len(self.rows)

    def thin_out(self, index: int, reverse: bool, every: int) -> int:
        seen = len(self.rows)
        self.rows = {at: row for at, row in self.rows.items() if row["byte"] % every != 1}
        return seen

    def count_up(self, start: int | None, stop: int, by: int) -> int:
        """Each row goes its own way: the walk meets it again when it has moved ahead."""
        steps = 0
        for row in self.rows.values():
            count = row["count"]
            if count is None:
                if start is None:
                    row["count"] = stop
                    steps += 1
                continue
            visited = count < stop and (start is None or count >= start)
            while visited and steps <= 2 * CAPACITY:
                count += by
                if count < -(2**63):
                    raise bad("count")
                steps += 1
                visited = by > 0 and count < stop
            row["count"] = count
        if steps > 2 * CAPACITY:
            raise Rejected("endless")
        return steps

    def add_all(self, zone: str, count: int) -> None:
        for number in range(count):
            self.insert((zone, number), {"score": 1000 + number})


def comparable(value: Any) -> tuple[Any, ...]:
    """None first, NaN last, text by its bytes."""
    if value is None:
        return (0,)
    if isinstance(value, float) and math.isnan(value):
        return (2,)
    return (1, value.encode() if isinstance(value, str) else value)


def resolved(model: Model, step: Step, pick: int) -> Step:
    """The step as it is done: mostly to a row that is there, or not yet, with what it can hold."""
    rows = sorted(model.rows)
    if pick % 8 == 0:
        return step
    if step.what >= crates.DELETE and rows:
        step = step._replace(at=rows[pick % len(rows)])
    else:
        step = step._replace(what=step.what if step.what < crates.DELETE else crates.INSERT)
        step = step._replace(at=(step.at[0], pick - 20))
    if step.what < ASSIGN:
        number = None if step.number is None else max(-100, min(step.number, 100))
        return step._replace(number=number, real=tamed("speed", step.real))
    name = ASSIGNED[step.what - ASSIGN]
    kind = SPEC.by_name[name].kind
    if kind == "int":
        return step._replace(number=tamed(name, step.number))
    if kind == "float":
        return step._replace(real=tamed(name, step.real))
    if kind == "text":
        return step._replace(label=tamed(name, step.label))
    return step._replace(tag=step.tag or b"abc") if name == "tag" else step


def tamed(name: str, value: Any) -> Any:
    """What a column can hold, near or instead of a value."""
    column = SPEC.by_name[name]
    if value is None and not column.optional:
        value = {"int": 1, "float": 1.5, "text": ""}[column.kind]
    if value is None:
        return None
    if column.value.is_enum:
        members = [int(member) for member in column.value.base]
        return members[value % len(members)]
    if name == "owner":
        return OWNERS[value % len(OWNERS)]
    if column.kind == "int":
        return max(column.low, min(value, column.high))
    if column.kind == "text":
        return value[: column.size_bytes // 2]
    try:
        held(name, value)
    except Rejected:
        return 0.25
    return value


def run(bench: Bench, model: Model, call: tuple[Any, ...]) -> Model:
    """Make a call on both sides; the model afterwards. What failed must have changed nothing."""
    name, *arguments = call
    if name == "several":
        taken, chosen, fails = arguments
        arguments = [*(resolved(model, *each) for each in zip(taken, chosen, strict=True)), fails]
    attempt = Model(model.rows)
    expected = outcome(attempt, name, arguments)
    before, extents = bench.fingerprint(), bench.extents()
    try:
        found: Any = bench.call(name, *arguments)
    except Rejected as no:
        found = no
    except ServerError:
        found = ZeroDivisionError
    event(f"{name}: {found.code if isinstance(found, Rejected) else 'done'}")
    if isinstance(found, Rejected):
        assert isinstance(expected, Rejected), (found, expected)
        assert found.code == expected.code
        assert expected.details.items() <= found.details.items()
    else:
        assert found == expected
    if isinstance(found, Rejected) or found is ZeroDivisionError:
        assert bench.extents() == extents
        assert bench.fingerprint() == before
        return model
    return attempt


def outcome(model: Model, name: str, arguments: list[Any]) -> Any:
    try:
        if name == "several":
            return model.several(tuple(arguments[:3]), arguments[3])
        return getattr(model, name)(*arguments)
    except Rejected as no:
        return no
    except ZeroDivisionError:
        return ZeroDivisionError


def compare(bench: Bench, model: Model) -> None:
    """Every row, as compiled code reads it and as a query does, and every index from both ends."""
    assert len(bench.db.crate) == len(model.rows)
    for at, row in model.rows.items():
        seen = bench.db.crate[at]
        told = {
            **bench.call("read_numbers", *at)._asdict(),
            **bench.call("read_others", *at)._asdict(),
        }
        if row["big"] < 2**63:
            told["big"] = bench.call("read_big", *at)
        for name in READ:
            assert same(getattr(seen, name), row[name]), name
            assert same(told.get(name, row[name]), row[name]), name
    for name in INDEXES:
        places = [place for place, _ in model.index(name)]
        for reverse in (False, True):
            found = list(walked(bench, name, reverse))
            # Rows that an index can't tell apart come in the order of their slots.
            wanted = places[::-1] if reverse else places
            assert [model.place(name, at) for at in found] == wanted, name
            assert len(set(found)) == len(found)


def walked(bench: Bench, name: str, reverse: bool) -> Iterator[Key]:
    for row in getattr(bench.db.crate, name).range(reverse=reverse):
        yield row.zone, row.number


def same(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, float) and isinstance(found, float):
        return struct.pack("<d", found) == struct.pack("<d", wanted) or found != found != wanted
    return bool(found == wanted)


def compare_found(bench: Bench, model: Model) -> None:
    """Prefixes of indexes, None among them, as compiled code looks for them."""
    for count, speed, name in ((None, None, None), (1, 1.5, "a"), (5, 0.1, "b"), (-1, 0.0, "")):
        rows = list(model.rows.values())
        counts = [row["byte"] for row in rows if row["count"] == count]
        named = [at[1] for at, row in model.rows.items() if row["name"] == name]
        sought = held("speed", speed)
        told = bench.call("found", count, speed, name)
        assert told[0] == len(counts)
        assert told[1] == sum(row["speed"] == sought for row in rows)
        assert told[2] in (named or [-1])
        assert told[3] in (counts or [-1])


@settings(max_examples=100)
@given(some.lists(calls, min_size=6, max_size=16))
def test_compiled_transactions_do_what_a_table_should(history: list[tuple[Any, ...]]) -> None:
    with crates.app.open(lane="compiled", now=0, setup=True) as bench:
        model = Model({})
        for call in history:
            model = run(bench, model, call)
            bench.verify()
            compare(bench, model)
        compare_found(bench, model)
