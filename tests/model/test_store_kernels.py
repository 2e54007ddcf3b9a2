"""Random histories of one table, compared after every step with plain dicts and sorted lists.

The model knows nothing of nodes, chains or slots: it keeps rows by key in a SortedDict and the
entries of each index in a SortedList, in an order it works out by itself. Every step ends with the
verifier and a comparison of all rows and indexes; every rollback with a comparison of all bytes.
"""

from __future__ import annotations

import copy
import random
import struct
from dataclasses import dataclass
from typing import Any

import numba
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sortedcontainers import SortedDict, SortedList
from tests.store_region import FLOAT, INT, TEXT, IndexPlan, TablePlan, lay_out

from diptych.store import btree, hashing, rows, undo, verify
from diptych.store import words as at

VALUES = 9
KEYS = (1, 0)
INDEXES = (
    IndexPlan((2,), nodes=200),
    IndexPlan((3, 4, 0), kinds=(TEXT, FLOAT, INT), nodes=200),
    IndexPlan((5, 6), unique=True, nodes=200),
    IndexPlan((2, 3, 5, 6, 7, 8, 1), kinds=(INT, TEXT, INT, INT, INT, INT, INT), nodes=400),
)
CAPACITY = 500
SIGNED = at.PACK_SIGNED
PACKS = (3, 3 | SIGNED, 2, 0, 0, 1, 3, 2, 0)  # of the numbers that `random_values` gives
TEXTS = [b"", b"A", b"AB", b"B", b"\xc3\xa4", b"zzzzzzzz"]
TEXT_WORDS = [int.from_bytes(text.ljust(8, b"\0"), "little", signed=True) for text in TEXTS]
FLOAT_WORDS = [struct.unpack("<q", struct.pack("<d", x))[0] for x in (-2.5, -1.0, 0.0, 0.5, 1e9)]

Values = tuple[int, ...]


def comparable(kind: int, word: int) -> Any:
    """What a word of an index stands for, in Python's own order."""
    if kind == TEXT:
        return word.to_bytes(8, "little", signed=True)
    if kind == FLOAT:
        return struct.unpack("<d", struct.pack("<q", word))[0]
    return word


def index_key(plan: IndexPlan, values: Values) -> tuple[Any, ...]:
    kinds = plan.kinds or (INT,) * len(plan.values)
    return tuple(
        comparable(kind, values[value]) for kind, value in zip(kinds, plan.values, strict=True)
    )


def row_key(values: Values) -> Values:
    return tuple(values[value] for value in KEYS)


def random_values(numbers: random.Random) -> Values:
    return (
        numbers.randrange(25),
        numbers.randrange(-25, 25),
        numbers.randrange(4),
        numbers.choice(TEXT_WORDS),
        numbers.choice(FLOAT_WORDS),
        numbers.randrange(50),
        numbers.randrange(50),
        0,
        numbers.choice([0, -(1 << 63), (1 << 63) - 1]),
    )


@dataclass
class Model:
    """The table as plain containers; slots are known only as names of rows."""

    rows: dict[int, Values]
    keys: SortedDict
    indexes: list[SortedList]
    freed: set[int]

    def add(self, row: int, values: Values) -> None:
        self.rows[row] = values
        self.keys[row_key(values)] = row
        for plan, entries in zip(INDEXES, self.indexes, strict=True):
            entries.add((index_key(plan, values), row))

    def drop(self, row: int) -> Values:
        values = self.rows.pop(row)
        del self.keys[row_key(values)]
        for plan, entries in zip(INDEXES, self.indexes, strict=True):
            entries.remove((index_key(plan, values), row))
        return values

    def is_unique(self, values: Values) -> bool:
        return all(
            not list(
                entries.irange((index_key(plan, values), -1), (index_key(plan, values), 1 << 60))
            )
            for plan, entries in zip(INDEXES, self.indexes, strict=True)
            if plan.unique
        )


@dataclass
class Walk:
    """A cursor and where the model is on the same walk."""

    serial: int
    index: int
    low: tuple[Any, ...]
    high: tuple[Any, ...]
    high_open: bool
    reverse: bool
    last: tuple[Any, int] | None = None

    def inside(self, key: tuple[Any, ...]) -> bool:
        low, high = key[: len(self.low)], key[: len(self.high)]
        return low >= self.low and (
            not self.high or high < self.high or (high == self.high and not self.high_open)
        )

    def expected(self, entries: SortedList) -> int:
        """The row that comes next, or NOT_FOUND; moves on."""
        for entry in reversed(entries) if self.reverse else entries:
            passed = self.last is None or (entry < self.last if self.reverse else entry > self.last)
            if passed and self.inside(entry[0]):
                self.last = entry
                return int(entry[1])
        return at.NOT_FOUND


class StoreKernels(RuleBasedStateMachine):
    @initialize(
        interleaved=st.booleans(),
        narrow=st.booleans(),
        seed=st.integers(0, 1 << 30),
        count=st.sampled_from([0, 10, 100, 300, 600]),
    )
    def lay_out(self, interleaved: bool, narrow: bool, seed: int, count: int) -> None:
        plan = TablePlan(
            VALUES,
            KEYS,
            capacity=CAPACITY,
            interleaved=interleaved,
            indexes=INDEXES,
            packs=PACKS if narrow else (),
        )
        self.region = lay_out(plan, undo_words=1 << 18)
        self.words, self.t = self.region.words, self.region.tables[0]
        self.model = Model({}, SortedDict(), [SortedList() for _ in INDEXES], set())
        self.sequence = 1
        self.marks: list[tuple[int, bytes, Model]] = []
        self.walks: list[Walk] = []
        self.begin()
        self.insert(seed, count)
        self.begin()

    def begin(self) -> None:
        self.region.begin(self.sequence)
        self.sequence += 1
        self.model.freed.clear()
        self.marks = [(0, self.region.data(), copy.deepcopy(self.model))]

    def insert_one(self, values: Values) -> None:
        self.region.argue(*values)
        row = int(rows.insert(self.words, self.t))
        if row_key(values) in self.model.keys:
            assert row == at.DUPLICATE_KEY
        elif len(self.model.rows) + len(self.model.freed) >= CAPACITY:
            assert row == at.TABLE_FULL
        elif not self.model.is_unique(values):
            assert row == at.NOT_UNIQUE
        else:
            assert row >= 0
            assert row not in self.model.rows
            assert row not in self.model.freed
            self.model.add(row, values)

    def delete_one(self, row: int) -> None:
        assert rows.delete(self.words, self.t, row) == 0
        self.model.drop(row)
        self.model.freed.add(row)

    @rule(seed=st.integers(0, 1 << 30), count=st.sampled_from([1, 5, 80, 200]))
    def insert(self, seed: int, count: int) -> None:
        numbers = random.Random(seed)
        for _ in range(count):
            self.insert_one(random_values(numbers))

    @rule(seed=st.integers(0, 1 << 30), count=st.sampled_from([1, 5, 60, 150]))
    def delete(self, seed: int, count: int) -> None:
        numbers = random.Random(seed)
        live = sorted(self.model.rows)
        for row in numbers.sample(live, min(count, len(live))):
            self.delete_one(row)

    @rule(index=st.sampled_from(range(len(INDEXES))), reverse=st.booleans())
    def delete_from_one_end(self, index: int, reverse: bool) -> None:
        for _ in range(30):
            entries = self.model.indexes[index]
            row = btree.first(self.words, self.region.index(self.t, index), 0, int(reverse))
            if not entries:
                assert row == at.NOT_FOUND
                return
            assert row == entries[-1 if reverse else 0][1]
            self.delete_one(int(row))

    @rule(seed=st.integers(0, 1 << 30), value=st.integers(2, VALUES - 1))
    def update(self, seed: int, value: int) -> None:
        numbers = random.Random(seed)
        live = sorted(self.model.rows)
        for row in numbers.sample(live, min(8, len(live))):
            word = random_values(numbers)[value]
            old = self.model.drop(row)
            new = (*old[:value], word, *old[value + 1 :])
            allowed = self.model.is_unique(new)
            code = rows.update(self.words, self.t, row, value, word)
            assert code == (0 if allowed else at.NOT_UNIQUE)
            self.model.add(row, new if allowed else old)

    @rule(row=st.one_of(st.integers(-(1 << 63), (1 << 63) - 1), st.integers(-1, CAPACITY + 1)))
    def refuse_rows_that_are_not(self, row: int) -> None:
        if row not in self.model.rows:
            assert rows.delete(self.words, self.t, row) == at.NOT_LIVE
            assert rows.update(self.words, self.t, row, 2, 1) == at.NOT_LIVE

    @rule(limit=st.integers(0, 400), seed=st.integers(0, 1 << 30))
    def refuse_when_undo_is_full(self, limit: int, seed: int) -> None:
        numbers = random.Random(seed)
        before = self.region.data()
        top = undo.mark(self.words)
        self.region.limit_undo(top + limit)
        self.region.argue(*random_values(numbers))
        codes = [rows.insert(self.words, self.t)]
        if codes[0] >= 0:
            undo.rollback(self.words, top)
        if self.model.rows:
            row = numbers.choice(sorted(self.model.rows))
            codes.append(rows.delete(self.words, self.t, row))
            undo.rollback(self.words, top)
        self.region.limit_undo(1 << 18)
        assert self.region.data() == before

    @rule()
    def mark(self) -> None:
        top = int(undo.mark(self.words))
        self.marks.append((top, self.region.data(), copy.deepcopy(self.model)))

    @precondition(lambda self: self.marks)
    @rule(back=st.integers(1, 3))
    def roll_back(self, back: int) -> None:
        top, data, model = self.marks[-min(back, len(self.marks))]
        del self.marks[len(self.marks) - min(back, len(self.marks)) + 1 :]
        undo.rollback(self.words, top)
        assert self.region.data() == data
        self.model = copy.deepcopy(model)
        self.walks.clear()  # cursors end with what they walked through

    @rule()
    def commit(self) -> None:
        self.begin()

    @rule(
        index=st.sampled_from(range(len(INDEXES))),
        seed=st.integers(0, 1 << 30),
        high_open=st.booleans(),
        reverse=st.booleans(),
    )
    def open_cursor(self, index: int, seed: int, high_open: bool, reverse: bool) -> None:
        self.open_walk(random.Random(seed), index, high_open, reverse)

    def open_walk(self, numbers: random.Random, index: int, high_open: bool, reverse: bool) -> None:
        plan, x = INDEXES[index], self.region.index(self.t, index)
        kinds = plan.kinds or (INT,) * len(plan.values)
        bounds = []
        for first in (0, at.KEY_WORDS_MAX):
            count = numbers.choice([0, 1, numbers.randrange(len(plan.values) + 1)])
            values = random_values(numbers)
            if self.model.rows and numbers.random() < 0.7:
                values = numbers.choice(list(self.model.rows.values()))
            raw = [values[value] for value in plan.values[:count]]
            self.region.argue(*raw, first=first)
            bounds.append(tuple(map(comparable, kinds[:count], raw)))
        low, high = bounds
        serial = btree.open_cursor(self.words, x, len(low), len(high), int(high_open), int(reverse))
        self.walks.append(Walk(int(serial), index, low, high, high_open, reverse))
        del self.walks[: -at.CURSORS]

    @rule(
        index=st.sampled_from(range(len(INDEXES))),
        seed=st.integers(0, 1 << 30),
        high_open=st.booleans(),
        reverse=st.booleans(),
    )
    def walk_while_changing(self, index: int, seed: int, high_open: bool, reverse: bool) -> None:
        """To the end, or for a while: deleting the entry the cursor stands on, or anything else."""
        numbers = random.Random(seed)
        self.open_walk(numbers, index, high_open, reverse)
        walk = self.walks[-1]
        for _ in range(60):
            row = btree.advance(self.words, walk.serial)
            assert row == walk.expected(self.model.indexes[index])
            change = numbers.randrange(6)
            if change == 0:
                self.insert_one(random_values(numbers))
            elif change == 1 and row in self.model.rows:
                self.delete_one(int(row))
            elif change == 2 and self.model.rows:
                self.delete_one(numbers.choice(sorted(self.model.rows)))

    @precondition(lambda self: self.walks)
    @rule(which=st.integers(0, 1 << 30), steps=st.sampled_from([1, 3, 40]))
    def advance(self, which: int, steps: int) -> None:
        walk = self.walks[which % len(self.walks)]
        for _ in range(steps):
            row = btree.advance(self.words, walk.serial)
            assert row == walk.expected(self.model.indexes[walk.index])

    @invariant()
    def sound(self) -> None:
        code = verify.check(self.words, self.t)
        assert code == 0, verify.explain(code)
        assert self.region.guards_hold()

    @invariant()
    def same_rows(self) -> None:
        found, row = [], -1
        while (row := int(rows.next_row(self.words, self.t, row))) >= 0:
            found.append(row)
        assert found == sorted(self.model.rows)
        for key, row in self.model.keys.items():
            self.region.argue(*key)
            assert hashing.find(self.words, self.t) == row
            assert self.region.values(self.t, row) == self.model.rows[row]

    @invariant()
    def same_order(self) -> None:
        for index, entries in enumerate(self.model.indexes):
            cursor = btree.open_cursor(self.words, self.region.index(self.t, index), 0, 0, 0, 0)
            for _, row in entries:
                assert btree.advance(self.words, cursor) == row
            assert btree.advance(self.words, cursor) == at.NOT_FOUND
        self.walks = [
            walk
            for walk in self.walks
            if walk.serial > self.words[self.region.scratch + at.S_CURSOR_SERIAL] - at.CURSORS
        ]


StoreKernels.TestCase.settings = settings(
    max_examples=5 if numba.config.DISABLE_JIT else 50,
    stateful_step_count=40,
    database=None,
    suppress_health_check=list(HealthCheck),
)
TestStoreKernels = StoreKernels.TestCase


def test_small_nodes_on_both_sides_of_a_seam_are_joined() -> None:
    """A history that once left two small nodes apart, where two inner nodes had been joined."""
    machine = StoreKernels()

    def play(rule: str, **given: Any) -> None:
        getattr(StoreKernels, rule).__wrapped__(machine, **given)
        machine.sound()

    play("lay_out", interleaved=False, narrow=False, seed=162764, count=10)
    play("insert", count=200, seed=11854)
    play("delete", count=5, seed=1486)
    play("insert", count=5, seed=4760)
    play("insert", count=200, seed=0)
    play("commit")
    play("insert", count=200, seed=25)
    play("delete_from_one_end", index=1, reverse=True)
    play("delete", count=150, seed=683)
