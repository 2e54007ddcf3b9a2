"""A region laid out by hand in a plain array, for tests of the store's kernels.

Knows `store.words` alone, so that these tests depend neither on the layout of real regions nor on
mapped memory. Ranges are packed without regard to pages, with a guard word between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from diptych.memory.layout import Words
from diptych.store import words as at

GUARD = 0x5AFE5AFE5AFE
SEED_FOR_TESTS = 0x1234_5678_9ABC_DEF0
INT, TEXT, FLOAT = 0, 1, 2


@dataclass(frozen=True)
class IndexPlan:
    """An index over value words `values`; `kinds` are X_TEXT's, all INT when left out."""

    values: Sequence[int]
    unique: bool = False
    kinds: Sequence[int] = ()
    nodes: int = 64
    nodes_allocated: int | None = None


@dataclass(frozen=True)
class TablePlan:
    """A table of `values` value words; `interleaved` lays them out as rows and not as columns.

    `packs` are T_PACK's, all 0 when left out: packed words, and those that have one bit to tell
    whether they are None, are columns of their own in any case.
    """

    values: int
    keys: Sequence[int] = (0,)
    auto: bool = False
    capacity: int = 1000
    allocated: int | None = None
    interleaved: bool = False
    indexes: Sequence[IndexPlan] = ()
    packs: Sequence[int] = ()
    heap_words: int = 0
    heap_allocated: int | None = None


@dataclass
class StoreRegion:
    """The words of a region and its scratch, and where its tables' descriptors are."""

    words: Words
    scratch: int
    tables: list[int]
    guards: list[int] = field(default_factory=list)

    def argue(self, *values: int, first: int = 0) -> None:
        """Set argument words."""
        start = self.scratch + at.S_ARGUMENT + first
        self.words[start : start + len(values)] = values

    def index(self, t: int, i: int) -> int:
        return t + at.T_INDEX + i * at.INDEX_WORDS

    def state(self, t: int, word: int) -> int:
        return int(self.words[self.words[t + at.T_STATE] + word])

    def index_state(self, x: int, word: int) -> int:
        return int(self.words[self.words[x + at.X_STATE] + word])

    def value(self, t: int, row: int, value: int) -> int:
        base, pack = int(self.words[t + at.T_BASE + value]), int(self.words[t + at.T_PACK + value])
        rows_bits = pack & at.PACK_ROWS
        if rows_bits == 0:
            return int(self.words[base + row * self.words[t + at.T_STRIDE + value]])
        memory = self.words[base : base + (row >> rows_bits) + 1].tobytes()
        if rows_bits == 6:
            return memory[row >> 3] >> (row & 7) & 1
        size = 8 >> rows_bits
        raw = memory[row * size : (row + 1) * size]
        return int.from_bytes(raw, "little", signed=pack & at.PACK_SIGNED != 0)

    def heap_state(self, t: int, word: int) -> int:
        return int(self.words[self.words[t + at.T_HEAP_STATE] + word])

    def blob(self, data: bytes) -> int:
        """Put a value where the heap takes it from, after a mess; returns its length."""
        start = self.scratch + at.S_BLOB
        self.words[start : start + len(data) // 8 + 1] = GUARD
        self.words[start:].view(np.uint8)[: len(data)] = np.frombuffer(data, np.uint8)
        return len(data)

    def heap_bytes(self, t: int, reference: int) -> bytes:
        """The value that a reference leads to."""
        start = int(self.words[t + at.T_HEAP]) + (reference >> at.REFERENCE_BITS)
        length = reference & at.HEAP_VALUE_BYTES_MAX
        return self.words[start : start + (length + 7) // 8].tobytes()[:length]

    def values(self, t: int, row: int) -> tuple[int, ...]:
        return tuple(self.value(t, row, v) for v in range(int(self.words[t + at.T_VALUES])))

    def begin(self, sequence: int) -> None:
        """Start a transaction: commit the one before."""
        self.words[self.scratch + at.S_UNDO_TOP] = 0
        self.words[at.SEQUENCE] = sequence

    @property
    def fault(self) -> int:
        return int(self.words[self.scratch + at.S_FAULT])

    @property
    def undo_top(self) -> int:
        return int(self.words[self.scratch + at.S_UNDO_TOP])

    def limit_undo(self, words: int) -> None:
        self.words[self.scratch + at.S_UNDO_LIMIT] = words

    def data(self) -> bytes:
        """All bytes of the region, without the scratch."""
        return self.words[: self.scratch].tobytes()

    def guards_hold(self) -> bool:
        return all(self.words[guard] == GUARD for guard in self.guards)


def lay_out(*plans: TablePlan, undo_words: int = 1 << 16) -> StoreRegion:
    """A region of empty tables, all of their memory allocated unless a plan says less."""
    position = at.PAGE_WORDS * 2
    states = position
    position += at.STATE_WORDS * sum(1 + len(plan.indexes) for plan in plans)
    heap_states = position
    position += at.HEAP_STATE_WORDS * sum(bool(plan.heap_words) for plan in plans)
    tables: list[int] = []
    for _ in plans:
        tables.append(position)
        position += at.PAGE_WORDS * at.DESCRIPTOR_PAGES
    settings: dict[int, int] = {}
    guards: list[int] = []

    def take(count: int) -> int:
        nonlocal position
        start = position
        guards.append(start + count)
        position = start + count + 1
        return start

    for plan, t in zip(plans, tables, strict=True):
        settings |= _describe_table(plan, t, states, take)
        states += at.STATE_WORDS
        if plan.heap_words:
            settings |= _describe_heap(plan, t, heap_states, take(plan.heap_words))
            heap_states += at.HEAP_STATE_WORDS
        for i, index in enumerate(plan.indexes):
            x = t + at.T_INDEX + i * at.INDEX_WORDS
            settings |= _describe_index(index, x, t, states)
            settings[x + at.X_NODES] = take(index.nodes * at.NODE_WORDS)
            states += at.STATE_WORDS
    words = np.zeros(position + at.S_UNDO + undo_words + 1, np.int64)
    for where, value in settings.items():
        words[where] = value
    guards.append(len(words) - 1)
    words[guards] = GUARD
    words[at.SCRATCH] = position
    words[at.SEED] = SEED_FOR_TESTS
    words[at.SEQUENCE] = 1
    words[position + at.S_UNDO_LIMIT] = undo_words
    return StoreRegion(words, position, tables, guards)


def _describe_table(plan: TablePlan, t: int, state: int, take) -> dict[int, int]:
    buckets = max(8, plan.capacity)
    settings = {
        t + at.T_STATE: state,
        state + at.BUCKET_COUNT: 8,
        t + at.T_CAPACITY: plan.capacity,
        t + at.T_ALLOCATED: plan.capacity if plan.allocated is None else plan.allocated,
        t + at.T_VALUES: plan.values,
        t + at.T_KEYS: len(plan.keys),
        t + at.T_AUTO: int(plan.auto),
        t + at.T_INDEXES: len(plan.indexes),
        t + at.T_LIVE: take(plan.capacity),
        t + at.T_NEXT: take(plan.capacity),
        t + at.T_BUCKETS: take(buckets),
    }
    for i, value in enumerate(plan.keys):
        settings[t + at.T_KEY_VALUE + i] = value
    block = take(plan.capacity * plan.values) if plan.interleaved else 0
    for value in range(plan.values):
        pack = plan.packs[value] if plan.packs else 0
        whole = [p & at.PACK_ROWS == 0 for p in (*plan.packs, 0, 0)[value : value + 2]]
        together = plan.interleaved and (not plan.packs or all(whole))
        rows_a_word = 1 << (pack & at.PACK_ROWS)
        base = block + value if together else take(-(-plan.capacity // rows_a_word))
        settings[t + at.T_BASE + value] = base
        stride = plan.values if together else int(rows_a_word == 1)
        settings[t + at.T_STRIDE + value] = stride
        settings[t + at.T_PACK + value] = pack
    settings[t + at.T_HEAPS] = sum(pack & at.PACK_HEAP != 0 for pack in plan.packs)
    return settings


def _describe_heap(plan: TablePlan, t: int, state: int, start: int) -> dict[int, int]:
    allocated = plan.heap_words if plan.heap_allocated is None else plan.heap_allocated
    return {
        t + at.T_HEAP: start,
        t + at.T_HEAP_WORDS: plan.heap_words,
        t + at.T_HEAP_ALLOCATED: allocated,
        t + at.T_HEAP_STATE: state,
    }


def _describe_index(index: IndexPlan, x: int, t: int, state: int) -> dict[int, int]:
    allocated = index.nodes if index.nodes_allocated is None else index.nodes_allocated
    settings = {
        x + at.X_STATE: state,
        x + at.X_TABLE: t,
        x + at.X_KEYS: len(index.values),
        x + at.X_UNIQUE: int(index.unique),
        x + at.X_NODES_MAX: index.nodes,
        x + at.X_NODES_ALLOCATED: allocated,
    }
    for i, value in enumerate(index.values):
        settings[x + at.X_VALUE + i] = value
        settings[x + at.X_TEXT + i] = index.kinds[i] if index.kinds else INT
    return settings
