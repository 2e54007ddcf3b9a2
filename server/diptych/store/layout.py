"""Where every table and index of a schema lies in a region, and how far it has memory.

`plan` is arithmetic alone: it gives each column, and each structure, a page-aligned range of the
region as long as the table's capacity asks for. `Layout.format` writes the header and descriptors
into an empty region. Ranges get memory from their start on, as tables grow: `Layout.extents` tells
what has memory now, `table_growth` and `index_growth` what must be allocated next. Who allocates
and tracks it is the caller's business.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diptych.errors import ConfigurationError, CorruptionError, did_you_mean
from diptych.memory.layout import PAGE_BYTES, Extent, Words, merged
from diptych.schema import CAPACITY_MAX, Index, TableSpec
from diptych.store import words as at
from diptych.store.btree import nodes_for
from diptych.store.words import PAGE_WORDS

MAGIC = int.from_bytes(b"DIPTYCH\0", "little")
FORMAT = 1
BUCKETS_FIRST = 8
ORDERS = {"text": 1, "float": 2}  # X_TEXT, by the kind of the column; all else compares as int
ROWS_FIRST = PAGE_WORDS  # a page of each column
NODES_FIRST = 4  # a page of nodes
ROWS_STEP_MAX = 1 << 20  # rows are doubled up to this step, so that growth never takes long
NODES_STEP_MAX = 1 << 16


@dataclass(frozen=True)
class IndexLayout:
    spec: Index
    descriptor: int
    state: int
    nodes: int
    nodes_max: int


@dataclass(frozen=True)
class TableLayout:
    """Word positions of one table. `ranges`: first word and words a row of what grows by rows."""

    spec: TableSpec
    capacity: int
    descriptor: int
    state: int
    live: int
    next: int
    buckets: int
    bases: tuple[int, ...]
    strides: tuple[int, ...]
    ranges: tuple[tuple[int, int], ...]
    indexes: tuple[IndexLayout, ...]


@dataclass(frozen=True)
class Layout:
    """A whole region. `system_pages`: header, states, descriptors and schema, always in memory."""

    tables: tuple[TableLayout, ...]
    system_pages: int
    size_bytes: int
    schema: bytes

    @property
    def system(self) -> Extent:
        return Extent(1, self.system_pages)

    @property
    def scratch_word(self) -> int:
        return self.size_bytes // 8

    def format(self, words: Words, *, history: int, seed: int) -> None:
        """Write header and descriptors into a region of zeros whose system pages have memory."""
        words[at.MAGIC], words[at.FORMAT] = MAGIC, FORMAT
        words[at.HISTORY], words[at.SEED] = history, seed
        words[at.SCRATCH] = self.scratch_word
        words[at.TABLE_COUNT] = len(self.tables)
        digest = np.frombuffer(hashlib.sha256(self.schema).digest(), np.int64)
        words[at.FINGERPRINT : at.FINGERPRINT + 4] = digest
        start = (self.system_pages - _pages(len(self.schema))) * PAGE_WORDS
        words[at.SCHEMA_WORDS], words[at.SCHEMA_AT] = len(self.schema), start
        words.view(np.uint8)[start * 8 : start * 8 + len(self.schema)] = list(self.schema)
        for table in self.tables:
            self._describe(words, table)

    def _describe(self, words: Words, table: TableLayout) -> None:
        t, spec = table.descriptor, table.spec
        words[t + at.T_STATE], words[t + at.T_CAPACITY] = table.state, table.capacity
        words[t + at.T_VALUES], words[t + at.T_AUTO] = spec.words, int(spec.auto)
        words[t + at.T_LIVE], words[t + at.T_NEXT] = table.live, table.next
        words[t + at.T_BUCKETS], words[t + at.T_INDEXES] = table.buckets, len(table.indexes)
        words[table.state + at.BUCKET_COUNT] = BUCKETS_FIRST
        key_values = [c.first_word + i for c in spec.keys for i in range(c.words)]
        words[t + at.T_KEYS] = len(key_values)
        words[t + at.T_KEY_VALUE : t + at.T_KEY_VALUE + len(key_values)] = key_values
        words[t + at.T_BASE : t + at.T_BASE + spec.words] = table.bases
        words[t + at.T_STRIDE : t + at.T_STRIDE + spec.words] = table.strides
        for index in table.indexes:
            x, columns = index.descriptor, index.spec.columns
            values = [c.first_word + i for c in columns for i in range(c.words)]
            texts = [ORDERS.get(c.kind, 0) for c in columns for i in range(c.words)]
            words[x + at.X_STATE], words[x + at.X_TABLE] = index.state, t
            words[x + at.X_KEYS], words[x + at.X_UNIQUE] = len(values), int(index.spec.unique)
            words[x + at.X_NODES], words[x + at.X_NODES_MAX] = index.nodes, index.nodes_max
            words[x + at.X_VALUE : x + at.X_VALUE + len(values)] = values
            words[x + at.X_TEXT : x + at.X_TEXT + len(values)] = texts

    def check(self, words: Words) -> None:
        """Refuse a region that was laid out for another schema. Errors: CorruptionError."""
        if words[at.MAGIC] != MAGIC or words[at.FORMAT] != FORMAT:
            raise CorruptionError("this memory does not begin with a Diptych header of format 1")
        digest = hashlib.sha256(self.schema).digest()
        if words[at.FINGERPRINT : at.FINGERPRINT + 4].tobytes() != digest:
            raise CorruptionError("this memory was laid out for another schema or other capacities")

    def extents(self, words: Words) -> list[Extent]:
        """What has memory now, ascending, neighbours joined."""
        found = [self.system]
        for table in self.tables:
            rows = int(words[table.descriptor + at.T_ALLOCATED])
            found += table_extents(table, 0, rows)
            for index in table.indexes:
                nodes = int(words[index.descriptor + at.X_NODES_ALLOCATED])
                found += index_extents(index, 0, nodes)
        return merged(found)


def plan(specs: Sequence[TableSpec], capacities: Mapping[str, int] | None = None) -> Layout:
    """Lay out a schema. `capacities` (rows by table name) outrank the ones in code.

    Errors: ConfigurationError for a table that does not exist, or a capacity that can't be.
    """
    chosen = dict(capacities or {})
    for name, capacity in chosen.items():
        if name not in {spec.name for spec in specs}:
            known = did_you_mean(name, [spec.name for spec in specs])
            raise ConfigurationError(f"capacity for a table {name!r} that does not exist{known}")
        if not 1 <= capacity <= CAPACITY_MAX:
            raise ConfigurationError(f"capacity of {name} must be 1 to {CAPACITY_MAX}")
    told = [{**s.describe(), "capacity": chosen.get(s.name, s.capacity)} for s in specs]
    schema = json.dumps(told, sort_keys=True).encode()
    states = at.STATE_WORDS * sum(1 + len(spec.indexes) for spec in specs)
    descriptors_page = 2 + _pages(states * 8)
    system_pages = descriptors_page + len(specs) + _pages(len(schema))
    cursor = _Cursor(system_pages * PAGE_WORDS, 2 * PAGE_WORDS)
    tables = tuple(
        _plan_table(
            spec, chosen.get(spec.name, spec.capacity), (descriptors_page + i) * PAGE_WORDS, cursor
        )
        for i, spec in enumerate(specs)
    )
    return Layout(tables, system_pages, cursor.word * 8, schema)


@dataclass
class _Cursor:
    """The next free word of the data, and of the states."""

    word: int
    state: int

    def take(self, count: int) -> int:
        start = self.word
        self.word += -(-count // PAGE_WORDS) * PAGE_WORDS
        return start

    def take_state(self) -> int:
        self.state += at.STATE_WORDS
        return self.state - at.STATE_WORDS


def _plan_table(spec: TableSpec, capacity: int, descriptor: int, cursor: _Cursor) -> TableLayout:
    state = cursor.take_state()
    live, next_, buckets = (cursor.take(max(BUCKETS_FIRST, capacity)) for _ in range(3))
    ranges = [(live, 1), (next_, 1), (buckets, 1)]
    bases: list[int] = []
    strides: list[int] = []
    for column in spec.columns:
        base = cursor.take(capacity * column.words)
        ranges.append((base, column.words))
        bases += [base + i for i in range(column.words)]
        strides += [column.words] * column.words
    indexes = []
    for i, index in enumerate(spec.indexes):
        nodes_max = nodes_for(capacity, index.words)
        x = descriptor + at.T_INDEX + i * at.INDEX_WORDS
        nodes = cursor.take(nodes_max * at.NODE_WORDS)
        indexes.append(IndexLayout(index, x, cursor.take_state(), nodes, nodes_max))
    return TableLayout(
        spec,
        capacity,
        descriptor,
        state,
        live,
        next_,
        buckets,
        tuple(bases),
        tuple(strides),
        tuple(ranges),
        tuple(indexes),
    )


def table_growth(table: TableLayout, rows: int) -> int:
    """How many rows a table that has memory for `rows` should have next."""
    return min(table.capacity, max(ROWS_FIRST, rows + min(rows, ROWS_STEP_MAX)))


def index_growth(index: IndexLayout, nodes: int) -> int:
    """How many nodes an index that has memory for `nodes` should have next."""
    return min(index.nodes_max, max(NODES_FIRST, nodes + min(nodes, NODES_STEP_MAX)))


def table_extents(table: TableLayout, old_rows: int, new_rows: int) -> list[Extent]:
    """The pages that rows `old_rows` to `new_rows` add to those of the rows before."""
    found = []
    for start, row_words in table.ranges:
        floor = BUCKETS_FIRST if start == table.buckets else 0
        old = _words_pages(max(old_rows, floor if old_rows else 0) * row_words)
        new = _words_pages(max(new_rows, floor if new_rows else 0) * row_words)
        if new > old:
            page = start // PAGE_WORDS
            found.append(Extent(page + old, page + new))
    return found


def index_extents(index: IndexLayout, old_nodes: int, new_nodes: int) -> list[Extent]:
    """The pages that nodes `old_nodes` to `new_nodes` add."""
    old = _words_pages(old_nodes * at.NODE_WORDS)
    new = _words_pages(new_nodes * at.NODE_WORDS)
    page = index.nodes // PAGE_WORDS
    return [Extent(page + old, page + new)] if new > old else []


def _pages(size_bytes: int) -> int:
    return -(-size_bytes // PAGE_BYTES)


def _words_pages(count: int) -> int:
    return -(-count // PAGE_WORDS)
