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
from dataclasses import dataclass, replace

import numpy as np

from diptych.app import App
from diptych.errors import ConfigurationError, CorruptionError, did_you_mean
from diptych.memory.layout import PAGE_BYTES, Extent, Words, merged
from diptych.schema import (
    CAPACITY_MAX,
    HEAP_BYTES_MAX,
    HEAP_BYTES_MIN,
    HEAP_SIZE,
    Column,
    Index,
    TableSpec,
)
from diptych.schema import FORMAT as SCHEMA_FORMAT
from diptych.store import words as at
from diptych.store.answers import FIRST_POSITION
from diptych.store.btree import nodes_for
from diptych.store.words import PAGE_WORDS

MAGIC = int.from_bytes(b"DIPTYCH\0", "little")
FORMAT = 3
BUCKETS_FIRST = 8
HEAP_WORDS_FIRST = 8 * PAGE_WORDS
HEAP_WORDS_STEP_MAX = 1 << 24
ROWS_FIRST = PAGE_WORDS  # a page of each column
NODES_FIRST = 4  # a page of nodes
ROWS_SMALL = 1 << 14  # doubled up to here; from here on a quarter more, to leave little unused
NODES_SMALL = 1 << 9
ROWS_STEP_MAX = 1 << 20  # and never more than this at once, so that growth never takes long
NODES_STEP_MAX = 1 << 16
RANGE_WORDS_FIRST = 64 * PAGE_WORDS
RANGE_WORDS_STEP_MAX = 1 << 23
SESSIONS_MAX = 16_384
ANSWERS_BYTES = 16 << 20
KEYS_MAX = 65_536
KEY_BUCKETS = 32_768


@dataclass(frozen=True)
class IndexLayout:
    spec: Index
    descriptor: int
    state: int
    nodes: int
    nodes_max: int


@dataclass(frozen=True)
class Range:
    """Memory that grows by rows: from word `start`, `words` for each `rows` of them."""

    start: int
    words: int
    rows: int = 1

    def pages(self, rows: int) -> int:
        """How many pages that many rows take."""
        return _words_pages(-(-rows * self.words // self.rows))


@dataclass(frozen=True)
class TableLayout:
    """Word positions of one table, and its `ranges`."""

    spec: TableSpec
    capacity: int
    descriptor: int
    state: int
    live: int
    next: int
    buckets: int
    bases: tuple[int, ...]
    strides: tuple[int, ...]
    ranges: tuple[Range, ...]
    packs: tuple[int, ...]
    indexes: tuple[IndexLayout, ...]
    heap: int = 0
    heap_words: int = 0
    heap_state: int = 0


@dataclass(frozen=True)
class SystemRange:
    """Room for what is not the application's. `header`: where the system header tells of it."""

    header: int
    start: int
    words: int

    @property
    def allocated_word(self) -> int:
        return self.header + at.STAGING_ALLOCATED - at.STAGING


@dataclass(frozen=True)
class Layout:
    """A whole region. `system_pages`: header, states, descriptors and schema, always in memory."""

    tables: tuple[TableLayout, ...]
    system_pages: int
    size_bytes: int
    schema: bytes
    staging: tuple[SystemRange, ...]  # rows that are not visible yet
    requests: tuple[SystemRange, ...]  # sessions, answers, keys

    @property
    def system(self) -> Extent:
        return Extent(1, self.system_pages)

    @property
    def system_ranges(self) -> tuple[SystemRange, ...]:
        return (*self.staging, *self.requests)

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
        for each in self.system_ranges:
            words[each.header : each.header + 2] = each.start, each.words
        words[at.ANSWERS_HEAD] = FIRST_POSITION
        words[at.KEY_BUCKETS] = KEY_BUCKETS
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
        words[t + at.T_PACK : t + at.T_PACK + spec.words] = table.packs
        words[t + at.T_HEAPS] = len(spec.heap_columns)
        words[t + at.T_HEAP], words[t + at.T_HEAP_WORDS] = table.heap, table.heap_words
        words[t + at.T_HEAP_STATE] = table.heap_state
        for index in table.indexes:
            x, columns = index.descriptor, index.spec.columns
            values = [value for c in columns for value in key_values_of(c)]
            texts = [order for c in columns for order in orders_of(c)]
            words[x + at.X_STATE], words[x + at.X_TABLE] = index.state, t
            words[x + at.X_KEYS], words[x + at.X_UNIQUE] = len(values), int(index.spec.unique)
            words[x + at.X_NODES], words[x + at.X_NODES_MAX] = index.nodes, index.nodes_max
            words[x + at.X_VALUE : x + at.X_VALUE + len(values)] = values
            words[x + at.X_TEXT : x + at.X_TEXT + len(values)] = texts

    def check(self, words: Words) -> None:
        """Refuse a region that was laid out for another schema. Errors: CorruptionError."""
        if words[at.MAGIC] != MAGIC or words[at.FORMAT] != FORMAT:
            told = f"this memory does not begin with a Diptych header of format {FORMAT}"
            raise CorruptionError(told)
        digest = hashlib.sha256(self.schema).digest()
        if words[at.FINGERPRINT : at.FINGERPRINT + 4].tobytes() != digest:
            raise CorruptionError("this memory was laid out for another schema or other capacities")

    def extents(self, words: Words) -> list[Extent]:
        """What has memory now, ascending, neighbours joined."""
        return merged([*self.data_extents(words), *self._range_extents(words, self.requests)])

    def data_extents(self, words: Words) -> list[Extent]:
        """The same without sessions, answers and keys, which go on when a transaction is undone."""
        found = [self.system]
        for table in self.tables:
            rows = int(words[table.descriptor + at.T_ALLOCATED])
            found += table_extents(table, 0, rows)
            for index in table.indexes:
                nodes = int(words[index.descriptor + at.X_NODES_ALLOCATED])
                found += index_extents(index, 0, nodes)
            found += heap_extents(table, 0, int(words[table.descriptor + at.T_HEAP_ALLOCATED]))
        return merged([*found, *self._range_extents(words, self.staging)])

    @staticmethod
    def _range_extents(words: Words, ranges: tuple[SystemRange, ...]) -> list[Extent]:
        return [
            extent
            for each in ranges
            for extent in range_extents(each, 0, int(words[each.allocated_word]))
        ]


def key_values_of(column: Column) -> list[int]:
    """Numbers of the value words by which an index orders a column: first whether it is None."""
    values = [column.first_word + i for i in range(column.words)]
    return [column.valid_word, *values] if column.optional else values


def orders_of(column: Column) -> list[int]:
    """How each of those compares (X_TEXT)."""
    orders = {"text": at.ORDER_TEXT, "data": at.ORDER_TEXT, "float": at.ORDER_FLOAT}
    order = orders.get(column.kind, at.ORDER_INT)
    if column.kind == "int" and column.bits == 64 and not column.signed:
        order = at.ORDER_UNSIGNED
    return [at.ORDER_VALID] * column.optional + [order] * column.words


def pack_of(column: Column) -> int:
    """T_PACK of a column's words."""
    if column.in_heap:
        return at.PACK_HEAP
    if column.words > 1 or column.bits == 64:
        return 0
    return (64 // column.bits).bit_length() - 1 | (at.PACK_SIGNED if column.signed else 0)


VALID_PACK = 6  # a bit a row
ROWS_A_WORD = 1 << VALID_PACK


def plan(
    specs: Sequence[TableSpec],
    capacities: Mapping[str, int] | None = None,
    *,
    app: str = "",
    version: int = 1,
) -> Layout:
    """Lay out a schema. `capacities` outrank the ones in code: rows by table name, and by
    `name.heap_bytes` the bytes of its heap.

    `app` and `version` go into the schema text, so that data tells whose it is.

    Errors: ConfigurationError for a table that does not exist, or a capacity that can't be.
    """
    specs = _resized(specs, dict(capacities or {}))
    tables_told = [
        {**spec.describe(), "capacity": spec.capacity, "heap_bytes": spec.heap_bytes}
        for spec in specs
    ]
    told = {"format": SCHEMA_FORMAT, "app": app, "version": version, "tables": tables_told}
    schema = json.dumps(told, sort_keys=True).encode()
    states = at.STATE_WORDS * sum(1 + len(spec.indexes) for spec in specs)
    states += at.HEAP_STATE_WORDS * sum(bool(spec.heap_columns) for spec in specs)
    descriptors_page = 2 + _pages(states * 8)
    system_pages = descriptors_page + at.DESCRIPTOR_PAGES * len(specs) + _pages(len(schema))
    cursor = _Cursor(system_pages * PAGE_WORDS, 2 * PAGE_WORDS)
    tables = tuple(
        _plan_table(spec, (descriptors_page + i * at.DESCRIPTOR_PAGES) * PAGE_WORDS, cursor)
        for i, spec in enumerate(specs)
    )
    staging = _plan_staging(tables, cursor)
    requests = _plan_requests(cursor)
    return Layout(tables, system_pages, cursor.word * 8, schema, staging, requests)


def of_app(app: App, capacities: Mapping[str, int] | None = None) -> Layout:
    """Lay out an application's tables. Errors: ConfigurationError."""
    tables = list(app.tables.values())
    return plan(tables, capacities, app=app.name, version=app.version)


@dataclass
class _Cursor:
    """The next free word of the data, and of the states."""

    word: int
    state: int

    def take(self, count: int) -> int:
        start = self.word
        self.word += -(-count // PAGE_WORDS) * PAGE_WORDS
        return start

    def take_state(self, words: int = at.STATE_WORDS) -> int:
        self.state += words
        return self.state - words


def _resized(specs: Sequence[TableSpec], chosen: dict[str, int]) -> list[TableSpec]:
    """The tables with the capacities and heaps that somebody chose for them."""
    resized = []
    for spec in specs:
        capacity = chosen.pop(spec.name, spec.capacity)
        if not 1 <= capacity <= CAPACITY_MAX:
            raise ConfigurationError(f"capacity of {spec.name} must be 1 to {CAPACITY_MAX}")
        heap_bytes = chosen.pop(spec.name + HEAP_SIZE, spec.heap_bytes)
        if heap_bytes != spec.heap_bytes and not spec.heap_columns:
            raise ConfigurationError(f"{spec.name} has no str or bytes columns to have a heap for")
        if spec.heap_columns and not HEAP_BYTES_MIN <= heap_bytes <= HEAP_BYTES_MAX:
            raise ConfigurationError(
                f"heap_bytes of {spec.name} must be {HEAP_BYTES_MIN} to {HEAP_BYTES_MAX}"
            )
        resized.append(replace(spec, capacity=capacity, heap_bytes=heap_bytes))
    for name in chosen:
        table = name.removesuffix(HEAP_SIZE)
        known = did_you_mean(table, [spec.name for spec in specs])
        raise ConfigurationError(f"capacity for a table {table!r} that does not exist{known}")
    return resized


def _plan_table(spec: TableSpec, descriptor: int, cursor: _Cursor) -> TableLayout:
    state, capacity = cursor.take_state(), spec.capacity
    live, next_, buckets = (cursor.take(max(BUCKETS_FIRST, capacity)) for _ in range(3))
    ranges = [Range(live, 1), Range(next_, 1), Range(buckets, 1)]
    bases: list[int] = []
    strides: list[int] = []
    packs: list[int] = []
    for column in spec.columns:
        pack = pack_of(column)
        rows_a_word = 1 << (pack & at.PACK_ROWS)
        base = cursor.take(-(-capacity * column.words // rows_a_word))
        ranges.append(Range(base, column.words, rows_a_word))
        bases += [base + i for i in range(column.words)]
        strides += [column.words if rows_a_word == 1 else 0] * column.words
        packs += [pack] * column.words
        if column.optional:
            valid = cursor.take(-(-capacity // ROWS_A_WORD))
            ranges.append(Range(valid, 1, ROWS_A_WORD))
            bases, strides, packs = [*bases, valid], [*strides, 0], [*packs, VALID_PACK]
    indexes = []
    for i, index in enumerate(spec.indexes):
        nodes_max = nodes_for(capacity, index.words)
        x = descriptor + at.T_INDEX + i * at.INDEX_WORDS
        nodes = cursor.take(nodes_max * at.NODE_WORDS)
        indexes.append(IndexLayout(index, x, cursor.take_state(), nodes, nodes_max))
    heap_words = spec.heap_bytes // 8 if spec.heap_columns else 0
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
        tuple(packs),
        tuple(indexes),
        cursor.take(heap_words) if heap_words else 0,
        heap_words,
        cursor.take_state(at.HEAP_STATE_WORDS) if heap_words else 0,
    )


def _plan_staging(
    tables: Sequence[TableLayout], cursor: _Cursor
) -> tuple[SystemRange, SystemRange]:
    """As much as the largest table holds: one import at a time can be under way."""
    rows = max((table.capacity * table.spec.words for table in tables), default=0)
    blob = max((table.heap_words for table in tables), default=0)
    return (
        SystemRange(at.STAGING, cursor.take(rows), rows),
        SystemRange(at.STAGING_BLOB, cursor.take(blob), blob),
    )


def _plan_requests(cursor: _Cursor) -> tuple[SystemRange, ...]:
    sizes = {
        at.SESSIONS: SESSIONS_MAX * at.SESSION_WORDS,
        at.ANSWERS: ANSWERS_BYTES // 8,
        at.KEYS: KEY_BUCKETS + KEYS_MAX * at.KEY_ROW_WORDS,
    }
    return tuple(SystemRange(header, cursor.take(size), size) for header, size in sizes.items())


def table_growth(table: TableLayout, rows: int) -> int:
    """How many rows a table that has memory for `rows` should have next."""
    step = rows if rows < ROWS_SMALL else min(rows // 4 // ROWS_FIRST * ROWS_FIRST, ROWS_STEP_MAX)
    return min(table.capacity, max(ROWS_FIRST, rows + step))


def index_growth(index: IndexLayout, nodes: int) -> int:
    """How many nodes an index that has memory for `nodes` should have next."""
    step = nodes
    if nodes >= NODES_SMALL:
        step = min(nodes // 4 // NODES_FIRST * NODES_FIRST, NODES_STEP_MAX)
    return min(index.nodes_max, max(NODES_FIRST, nodes + step))


def table_extents(table: TableLayout, old_rows: int, new_rows: int) -> list[Extent]:
    """The pages that rows `old_rows` to `new_rows` add to those of the rows before."""
    found = []
    for each in table.ranges:
        floor = BUCKETS_FIRST if each.start == table.buckets else 0
        old = each.pages(max(old_rows, floor if old_rows else 0))
        new = each.pages(max(new_rows, floor if new_rows else 0))
        if new > old:
            page = each.start // PAGE_WORDS
            found.append(Extent(page + old, page + new))
    return found


def heap_growth(table: TableLayout, words: int, least: int = 0) -> int:
    """How many words a heap that has memory for `words`, and needs `least`, should have next."""
    more = max(words + min(words // 4, HEAP_WORDS_STEP_MAX), HEAP_WORDS_FIRST, least)
    return min(table.heap_words, _words_pages(more) * PAGE_WORDS)


def heap_extents(table: TableLayout, old_words: int, new_words: int) -> list[Extent]:
    """The pages that words `old_words` to `new_words` of the heap add."""
    old, new = _words_pages(old_words), _words_pages(new_words)
    page = table.heap // PAGE_WORDS
    return [Extent(page + old, page + new)] if new > old else []


def index_extents(index: IndexLayout, old_nodes: int, new_nodes: int) -> list[Extent]:
    """The pages that nodes `old_nodes` to `new_nodes` add."""
    old = _words_pages(old_nodes * at.NODE_WORDS)
    new = _words_pages(new_nodes * at.NODE_WORDS)
    page = index.nodes // PAGE_WORDS
    return [Extent(page + old, page + new)] if new > old else []


def range_growth(each: SystemRange, words: int) -> int:
    """How many words a range that has memory for `words` should have next."""
    more = max(RANGE_WORDS_FIRST, words + min(words, RANGE_WORDS_STEP_MAX))
    return min(each.words, more)


def range_extents(each: SystemRange, old_words: int, new_words: int) -> list[Extent]:
    """The pages that words `old_words` to `new_words` of it add."""
    old, new = _words_pages(old_words), _words_pages(new_words)
    page = each.start // PAGE_WORDS
    return [Extent(page + old, page + new)] if new > old else []


def _pages(size_bytes: int) -> int:
    return -(-size_bytes // PAGE_BYTES)


def _words_pages(count: int) -> int:
    return -(-count // PAGE_WORDS)
