"""Random histories of a table with None, narrow numbers and values in the heap, against a dict.

After every step the verifier, all rows, all values and the order of the index are compared; after
every rollback, and after every operation that failed, all bytes. Operations fail at random: the
undo log, the heap's memory and the heap itself are small.
"""

from __future__ import annotations

import copy
import random
from typing import Any

import numba
import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.store_region import IndexPlan, StoreRegion, TablePlan, lay_out

from diptych.store import btree, bulk_writes, heap, heap_bulk, rows, undo, verify
from diptych.store import words as at

SIGNED = at.PACK_SIGNED
# Key; a small number or None; another; a flag; two values in the heap.
PACKS = (2 | SIGNED, 3 | SIGNED, 6, 1, 6, 3, at.PACK_HEAP, at.PACK_HEAP)
FIRST_HEAP = 6
INDEXES = (
    IndexPlan((2, 1, 4, 3), kinds=(4, 0, 4, 0), nodes=60),
    IndexPlan((4, 3), kinds=(4, 0), unique=True, nodes=60),
)
CAPACITY = 90
UNDO_WORDS = 1 << 20
HEAP_WORDS = [40, 100, 300, 600]
LENGTHS = [0, 0, 1, 5, 8, 9, 20, 40, 100, 300]

Record = tuple[int, int | None, int | None, int, bytes, bytes]


def random_record(numbers: random.Random) -> Record:
    return (
        numbers.randrange(-60, 60),
        numbers.choice([None, -128, -1, 0, 127]),
        numbers.choice([None, None, numbers.randrange(60), (1 << 32) - 1]),
        numbers.randrange(2),
        numbers.randbytes(numbers.choice(LENGTHS)),
        numbers.randbytes(numbers.choice(LENGTHS)),
    )


def optional_words(value: int | None) -> tuple[int, int]:
    return (0, 0) if value is None else (value, 1)


def order_of(record: Record) -> tuple[Any, ...]:
    """How the first index orders: None first."""
    return (*reversed(optional_words(record[1])), *reversed(optional_words(record[2])))


class StoreValues(RuleBasedStateMachine):
    @initialize(
        heap_words=st.sampled_from(HEAP_WORDS),
        all_at_once=st.booleans(),
        count=st.sampled_from([0, 20, 90]),
        seed=st.integers(0, 1 << 30),
    )
    def lay_out(self, heap_words: int, all_at_once: bool, count: int, seed: int) -> None:
        plan = TablePlan(
            len(PACKS),
            capacity=CAPACITY,
            packs=PACKS,
            indexes=INDEXES,
            heap_words=heap_words,
            heap_allocated=heap_words if all_at_once else 0,
        )
        self.region: StoreRegion = lay_out(plan, undo_words=UNDO_WORDS)
        self.words, self.t = self.region.words, self.region.tables[0]
        self.model: dict[int, Record] = {}
        self.sequence = 1
        self.commit()
        self.insert(seed, count)
        self.commit()

    @rule()
    def commit(self) -> None:
        self.sequence += 1
        self.region.begin(self.sequence)
        self.freed: set[int] = set()
        self.marks = [(0, self.region.data(), dict(self.model), set(self.freed))]

    def respond(self, code: int) -> None:
        """What the engine does when the heap refused: roll back, give memory or compact."""
        assert code in (at.GROW_HEAP, at.COMPACT_HEAP, at.HEAP_FULL)
        assert self.region.fault == self.t + at.T_HEAP
        allocated = self.words[self.t + at.T_HEAP_ALLOCATED]
        if code == at.HEAP_FULL:
            return
        self.roll_back(len(self.marks))
        if code == at.GROW_HEAP:
            needed = self.words[self.region.scratch + at.S_HEAP_WORDS]
            assert allocated < needed <= self.words[self.t + at.T_HEAP_WORDS]
            self.words[self.t + at.T_HEAP_ALLOCATED] = needed
        else:
            free = self.region.heap_state(self.t, at.H_FREE)
            assert heap_bulk.compact(self.words, self.t) == free
        self.marks = [(0, self.region.data(), dict(self.model), set(self.freed))]

    def insert_one(self, record: Record) -> int:
        """As `insert` of a table does: values first, all taken back when the row is refused."""
        top, before = undo.mark(self.words), self.region.data()
        references = []
        for data in record[4:]:
            reference = int(heap.store(self.words, self.t, self.region.blob(data)))
            if reference < 0:
                undo.rollback(self.words, top)
                assert self.region.data() == before
                return reference
            references.append(reference)
        words = (*optional_words(record[1]), *optional_words(record[2]), record[3])
        self.region.argue(record[0], *words, *references)
        row = int(rows.insert(self.words, self.t))
        if row < 0:
            undo.rollback(self.words, top)
            assert self.region.data() == before
        return row

    def is_taken(self, number: int | None, by_another_than: int = -1) -> bool:
        """Whether the unique index refuses: it does not look at None."""
        others = (each[2] for row, each in self.model.items() if row != by_another_than)
        return number is not None and number in others

    @rule(seed=st.integers(0, 1 << 30), count=st.sampled_from([1, 5, 40]))
    def insert(self, seed: int, count: int) -> None:
        numbers = random.Random(seed)
        for _ in range(count):
            record = random_record(numbers)
            row = self.insert_one(record)
            if row in (at.GROW_HEAP, at.COMPACT_HEAP, at.HEAP_FULL):
                self.respond(row)
            elif record[0] in {each[0] for each in self.model.values()}:
                assert row == at.DUPLICATE_KEY
            elif len(self.model) + len(self.freed) == CAPACITY:
                assert row == at.TABLE_FULL
            elif self.is_taken(record[2]):
                assert row == at.NOT_UNIQUE
            else:
                assert row >= 0
                assert row not in self.model
                assert row not in self.freed
                self.model[row] = record

    @rule(seed=st.integers(0, 1 << 30), count=st.sampled_from([1, 10, 60]))
    def delete(self, seed: int, count: int) -> None:
        live = sorted(self.model)
        for row in random.Random(seed).sample(live, min(count, len(live))):
            assert rows.delete(self.words, self.t, row) == 0
            del self.model[row]
            self.freed.add(row)

    @precondition(lambda self: self.model)
    @rule(seed=st.integers(0, 1 << 30), count=st.sampled_from([1, 10]))
    def assign_in_heap(self, seed: int, count: int) -> None:
        numbers = random.Random(seed)
        for _ in range(count):
            if not self.model:
                break
            row, which = numbers.choice(sorted(self.model)), numbers.randrange(2)
            self.assign_one(row, which, numbers.randbytes(numbers.choice(LENGTHS)))

    def assign_one(self, row: int, which: int, data: bytes) -> int:
        before = self.region.data()
        value, length = FIRST_HEAP + which, self.region.blob(data)
        code = int(heap.assign(self.words, self.t, row, value, length))
        if code == 0:
            record = list(self.model[row])
            record[4 + which] = data
            self.model[row] = tuple(record)  # type: ignore[assignment]  # of the same types
        else:
            assert self.region.data() == before
            self.respond(code)
        return code

    @precondition(lambda self: len(self.model) > 2)
    @rule(seed=st.integers(0, 1 << 30), part=st.floats(0.3, 1.0))
    def assign_most_of_what_is_free(self, seed: int, part: float) -> None:
        """After every other row has gone, so that it is in pieces."""
        by_place = sorted(self.model, key=lambda row: self.region.value(self.t, row, FIRST_HEAP))
        for row in by_place[1::2]:
            assert rows.delete(self.words, self.t, row) == 0
            del self.model[row]
        self.commit()
        capacity = int(self.words[self.t + at.T_HEAP_WORDS])
        free = capacity - self.region.heap_state(self.t, at.H_USED)
        data = random.Random(seed).randbytes(int(8 * free * part))
        codes = [self.assign_one(by_place[0], 0, data)]
        while codes[-1] not in (0, at.HEAP_FULL):
            codes.append(self.assign_one(by_place[0], 0, data))
        assert codes.count(at.COMPACT_HEAP) <= 1
        assert len(codes) <= 3

    @precondition(lambda self: self.model)
    @rule(seed=st.integers(0, 1 << 30), which=st.sampled_from([1, 2]))
    def assign_numbers(self, seed: int, which: int) -> None:
        """Value and validity together, in one step."""
        numbers = random.Random(seed)
        live = sorted(self.model)
        for row in numbers.sample(live, min(8, len(live))):
            record = list(self.model[row])
            record[which] = random_record(numbers)[which]
            self.region.argue(*optional_words(record[which]))
            refused = which == 2 and self.is_taken(record[2], row)
            code = rows.update_words(self.words, self.t, row, 2 * which - 1, 2)
            assert code == (at.NOT_UNIQUE if refused else 0)
            if not refused:
                self.model[row] = tuple(record)  # type: ignore[assignment]  # of the same types

    @precondition(lambda self: self.model)
    @rule(seed=st.integers(0, 1 << 30), count=st.integers(0, 30), bad=st.booleans())
    def write_many(self, seed: int, count: int, bad: bool) -> None:
        """The small number of many rows: through the index."""
        numbers = random.Random(seed)
        chosen = numbers.choices(sorted(self.model), k=count)
        given = [random_record(numbers)[1] for _ in chosen]
        new = np.array([word for each in given for word in optional_words(each)], np.int64)
        if bad and count:
            before = self.region.data()
            wrong = np.array([*chosen[:-1], CAPACITY], np.int64)
            assert bulk_writes.write_rows(self.words, self.t, 1, wrong, new) == at.NOT_LIVE
            assert self.region.data() == before
        code = bulk_writes.write_rows(self.words, self.t, 1, np.array(chosen, np.int64), new)
        assert code == 0
        for row, each in zip(chosen, given, strict=True):
            self.model[row] = (self.model[row][0], each, *self.model[row][2:])

    @rule(limit=st.integers(0, 150), seed=st.integers(0, 1 << 30))
    def refuse_when_undo_is_full(self, limit: int, seed: int) -> None:
        numbers = random.Random(seed)
        top, before = undo.mark(self.words), self.region.data()
        self.region.limit_undo(top + limit)
        record = random_record(numbers)
        row = self.insert_one(record)
        undo.rollback(self.words, top)
        assert self.region.data() == before
        if self.model:
            row = numbers.choice(sorted(self.model))
            for act in (
                lambda: rows.delete(self.words, self.t, row),
                lambda: heap.assign(
                    self.words, self.t, row, FIRST_HEAP, self.region.blob(record[4])
                ),
            ):
                if act() < 0:
                    assert self.region.data() == before
                undo.rollback(self.words, top)
                assert self.region.data() == before
        self.region.limit_undo(UNDO_WORDS)

    @rule()
    def mark(self) -> None:
        top = int(undo.mark(self.words))
        self.marks.append((top, self.region.data(), dict(self.model), set(self.freed)))

    @rule(back=st.integers(1, 3))
    def roll_back(self, back: int) -> None:
        back = min(back, len(self.marks))
        top, data, model, freed = copy.copy(self.marks[-back])
        del self.marks[len(self.marks) - back + 1 :]
        undo.rollback(self.words, top)
        assert self.region.data() == data
        self.model, self.freed = dict(model), set(freed)

    @rule()
    def compact(self) -> None:
        self.commit()
        free = self.region.heap_state(self.t, at.H_FREE)
        assert heap_bulk.compact(self.words, self.t) == free
        self.commit()

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
        assert found == sorted(self.model)
        for row, record in self.model.items():
            words = self.region.values(self.t, row)
            numbers = (*optional_words(record[1]), *optional_words(record[2]), record[3])
            assert words[:FIRST_HEAP] == (record[0], *numbers)
            for reference, data in zip(words[FIRST_HEAP:], record[4:], strict=True):
                assert self.region.heap_bytes(self.t, reference) == data

    @invariant()
    def same_values_in_one_piece(self) -> None:
        chosen = np.array(sorted(self.model), np.int64)
        offsets = np.zeros(len(chosen) + 1, np.int64)
        total = heap_bulk.measure(self.words, self.t, FIRST_HEAP, chosen, offsets)
        out = np.zeros(total, np.uint8)
        heap_bulk.gather(self.words, self.t, FIRST_HEAP, chosen, offsets, out)
        assert out.tobytes() == b"".join(self.model[int(row)][4] for row in chosen)

    @invariant()
    def same_order(self) -> None:
        cursor = btree.open_cursor(self.words, self.region.index(self.t, 0), 0, 0, 0, 0)
        for row in sorted(self.model, key=lambda row: (order_of(self.model[row]), row)):
            assert btree.advance(self.words, cursor) == row
        assert btree.advance(self.words, cursor) == at.NOT_FOUND


StoreValues.TestCase.settings = settings(
    max_examples=5 if numba.config.DISABLE_JIT else 80,
    stateful_step_count=40,
    database=None,
    suppress_health_check=list(HealthCheck),
)
TestStoreValues = StoreValues.TestCase
