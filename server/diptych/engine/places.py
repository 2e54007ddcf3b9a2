"""What lies at a word of a region, by name: table, column and row, or which structure.

For people, where bytes of two regions differ. Reads layouts and words; changes nothing, and takes
words of any content.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from diptych.memory.layout import Words
from diptych.schema import Column
from diptych.store import words as at
from diptych.store.layout import ROWS_A_WORD, IndexLayout, Layout, TableLayout
from diptych.store.transfer import read_words
from diptych.store.values import Codec
from diptych.store.words import PAGE_WORDS

HEADER_WORDS = (
    *("MAGIC", "FORMAT", "SEQUENCE", "HISTORY", "NOW", "SEED", "SCRATCH", "SETUP_DONE"),
    *("TABLE_COUNT", "FINGERPRINT", "SCHEMA_WORDS", "SCHEMA_AT", "STAGING", "STAGING_WORDS"),
    *("STAGING_ALLOCATED", "STAGING_BLOB", "STAGING_BLOB_WORDS", "STAGING_BLOB_ALLOCATED"),
    *("STAGING_TOKEN", "STAGING_TABLE", "STAGING_ROWS", "STAGING_BYTES", "STAGING_HEAP_WORDS"),
    *("STAGING_BEGAN", "STAGING_COMMITTED", "SESSIONS", "SESSIONS_WORDS", "SESSIONS_ALLOCATED"),
    *("ANSWERS", "ANSWERS_WORDS", "ANSWERS_ALLOCATED", "KEYS", "KEYS_WORDS", "KEYS_ALLOCATED"),
    *("SESSIONS_HIGH", "ANSWERS_HEAD", "KEYS_HEAD", "KEYS_TAIL", "KEY_BUCKETS"),
)
"""Names in `store.words` of the words of the system header."""
_HEADER = {getattr(at, name): name for name in HEADER_WORDS}
_RANGES = {
    at.STAGING: "rows of an import that are not visible yet",
    at.STAGING_BLOB: "texts of an import that are not visible yet",
    at.SESSIONS: "clients' sessions",
    at.ANSWERS: "answers that are remembered",
    at.KEYS: "callers' keys that are remembered",
}


class Role(Enum):
    """What words are for; in the order in which differences are told."""

    COLUMN = 1
    HEAP = 2
    INDEX = 3
    TABLE = 4
    HEADER = 5
    REQUESTS = 6
    STAGING = 7


@dataclass(frozen=True)
class Part:
    """Words from `start` on that are of one kind. `name` is for people.

    `bits`: they tell which rows of the column have a value.
    """

    start: int
    role: Role
    name: str
    table: TableLayout | None = None
    column: Column | None = None
    index: IndexLayout | None = None
    bits: bool = False

    @property
    def holds_floats(self) -> bool:
        """Whether words of it are made of floats that a transaction computed, or may be."""
        if self.index is not None:
            return any(column.kind == "float" for column in self.index.spec.columns)
        if self.column is not None:
            return self.column.kind == "float" and not self.bits
        return self.role is Role.REQUESTS


class Places:
    """The parts of a region with this layout."""

    def __init__(self, layout: Layout) -> None:
        self.parts = sorted(_parts(layout), key=lambda part: part.start)
        self._starts = [part.start for part in self.parts]

    def part_of(self, word: int) -> Part:
        return self.parts[bisect_right(self._starts, word) - 1]

    def starts(self) -> list[int]:
        """Of all parts, ascending."""
        return self._starts


def rows_at(part: Part, word: int) -> range:
    """Rows of a column that have bytes in this word."""
    assert part.table is not None
    assert part.column is not None
    offset = word - part.start
    if part.bits:
        return range(offset * ROWS_A_WORD, (offset + 1) * ROWS_A_WORD)
    rows = 1 << (part.table.packs[part.column.first_word] & at.PACK_ROWS)
    if rows > 1:
        return range(offset * rows, (offset + 1) * rows)
    return range(offset // part.column.words, offset // part.column.words + 1)


def value_at(words: Words, table: TableLayout, column: Column, row: int) -> Any:
    """What a row has in a column; of a value in the heap its bytes, as far as there are any."""
    rows = np.array([row])
    numbers = range(column.first_word, column.first_word + column.all_words)
    found = tuple(int(read_words(words, table, number, rows)[0]) for number in numbers)
    if not column.in_heap:
        return Codec(table.spec.name, column).decode(found)
    if column.optional and found[column.words] == 0:
        return None
    start = (table.heap + (found[0] >> at.REFERENCE_BITS)) * 8
    raw = words.view(np.uint8)[start : start + (found[0] & at.HEAP_VALUE_BYTES_MAX)].tobytes()
    return raw.decode(errors="replace") if column.kind == "str" else raw


def key_at(words: Words, table: TableLayout, row: int) -> Any:
    """The key of the row that is in this place; None when there is none."""
    if row >= table.capacity or words[table.live + row] != -1:
        return None
    values = [value_at(words, table, column, row) for column in table.spec.keys]
    return values[0] if len(values) == 1 else tuple(values)


def owner_at(words: Words, part: Part, word: int) -> tuple[Column, int] | None:
    """Which column of which row has its value at this word of a heap; None: none has."""
    table = part.table
    assert table is not None
    high = min(int(words[table.state + at.ROW_HIGH]), table.capacity)
    rows = np.flatnonzero(words[table.live : table.live + high] == -1)
    for column in table.spec.heap_columns:
        references = read_words(words, table, column.first_word, rows)
        lengths = references & at.HEAP_VALUE_BYTES_MAX
        starts = table.heap + (references >> at.REFERENCE_BITS)
        inside = (lengths > 0) & (starts <= word) & (word < starts + (lengths + 7) // 8)
        if inside.any():
            return column, int(rows[np.flatnonzero(inside)[0]])
    return None


def told(part: Part, word: int) -> str:
    """A word of a part that is no column's, for people."""
    offset = word - part.start
    match part.role:
        case Role.HEADER:
            name = _HEADER.get(word)
            return f"{part.name}: {name}" if name else f"{part.name}, word {word - PAGE_WORDS}"
        case Role.INDEX if part.index is not None and word >= part.index.nodes:
            return f"{part.name}, node {offset // at.NODE_WORDS}"
        case Role.REQUESTS if part.name == _RANGES[at.SESSIONS]:
            return f"{part.name}, number {offset // at.SESSION_WORDS} of them"
    return f"{part.name}, word {offset}"


def shown(value: Any) -> str:
    """A value, cut to what fits on a line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}... {len(text)} characters"


def value_shown(words: Words, table: TableLayout, column: Column, row: int) -> str:
    """What a row has in a column, as text, whatever is there."""
    with contextlib.suppress(ValueError, KeyError):
        return shown(value_at(words, table, column, row))
    return "no value of the column's type"


def _parts(layout: Layout) -> Iterator[Part]:
    yield Part(0, Role.HEADER, "stamp")
    yield Part(PAGE_WORDS, Role.HEADER, "system header")
    schema = (
        layout.system_pages * PAGE_WORDS - -(-len(layout.schema) // (PAGE_WORDS * 8)) * PAGE_WORDS
    )
    yield Part(schema, Role.HEADER, "the schema's text")
    for each in layout.system_ranges:
        role = Role.REQUESTS if each in layout.requests else Role.STAGING
        yield Part(each.start, role, _RANGES[each.header])
    for table in layout.tables:
        yield from _parts_of(table)


def _parts_of(table: TableLayout) -> Iterator[Part]:
    name = table.spec.name
    yield Part(table.state, Role.TABLE, f"counters of {name}", table)
    yield Part(table.descriptor, Role.TABLE, f"description of {name}", table)
    yield Part(table.live, Role.TABLE, f"which rows of {name} there are", table)
    yield Part(table.next, Role.TABLE, f"chains of the hash of {name}", table)
    yield Part(table.buckets, Role.TABLE, f"hash of {name}", table)
    for column in table.spec.columns:
        start = table.bases[column.first_word]
        yield Part(start, Role.COLUMN, f"{name}.{column.name}", table, column)
        if column.optional:
            bits = table.bases[column.valid_word]
            yield Part(bits, Role.COLUMN, f"{name}.{column.name}", table, column, bits=True)
    for index in table.indexes:
        told = f"index {name}.{index.spec.name}"
        yield Part(index.state, Role.INDEX, f"counters of {told}", table, index=index)
        yield Part(index.nodes, Role.INDEX, told, table, index=index)
    if table.heap_words:
        yield Part(table.heap_state, Role.HEAP, f"counters of the heap of {name}", table)
        yield Part(table.heap, Role.HEAP, f"heap of {name}", table)
