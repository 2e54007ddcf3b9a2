"""How full tables are: rows, entries of indexes, words of heaps, and the memory that they have.

Read from a region's header, states and descriptors alone, so it costs microseconds however much
data there is. Any process that maps a region or an image may ask.
"""

from __future__ import annotations

from typing import Any

from diptych.memory.layout import PAGE_BYTES, Extent, Words
from diptych.store import words as at
from diptych.store.answers import FIRST_POSITION
from diptych.store.layout import (
    IndexLayout,
    Layout,
    SystemRange,
    TableLayout,
    heap_extents,
    index_extents,
    table_extents,
)


def table_figures(words: Words, layout: Layout) -> dict[str, Any]:
    """All tables by name, as INFO tells them (docs/protocol.md)."""
    return {table.spec.name: _table(words, table) for table in layout.tables}


def request_figures(words: Words) -> dict[str, int]:
    """What is known of requests: sessions, answers and keys, and the memory that they have."""
    allocated = (at.SESSIONS_ALLOCATED, at.ANSWERS_ALLOCATED, at.KEYS_ALLOCATED)
    ring_bytes = int(words[at.ANSWERS_WORDS]) * 8
    return {
        "sessions": int(words[at.SESSIONS_HIGH]),
        "sessions_max": int(words[at.SESSIONS_WORDS]) // at.SESSION_WORDS,
        "answers_bytes": min(int(words[at.ANSWERS_HEAD]) - FIRST_POSITION, ring_bytes),
        "keys": int(words[at.KEYS_HEAD]) - int(words[at.KEYS_TAIL]),
        "memory_bytes": sum(int(words[each]) for each in allocated) * 8,
    }


def rows_share(words: Words, table: TableLayout) -> float:
    """The part of a table's capacity that its rows take: 0 to 1."""
    return int(words[table.state + at.ROW_COUNT]) / table.capacity


def heap_share(words: Words, table: TableLayout) -> float:
    """The part of its heap that a table's values take: 0 to 1; 0 without a heap."""
    if not table.heap_words:
        return 0.0
    return int(words[table.heap_state + at.H_USED]) / table.heap_words


def staged_rows(words: Words, table: TableLayout) -> int:
    """Rows of an import into `table` that nobody sees yet; memory for them is there before."""
    mine = words[at.STAGING_TOKEN] and int(words[at.STAGING_TABLE]) == table.descriptor
    return int(words[at.STAGING_ROWS]) if mine else 0


def range_words(words: Words, layout: Layout, each: SystemRange) -> int:
    """How many words of a system range's memory are in use."""
    match each.header:
        case at.STAGING:
            return sum(staged_rows(words, table) * table.spec.words for table in layout.tables)
        case at.STAGING_BLOB:
            return int(words[at.STAGING_BYTES]) // 8 if words[at.STAGING_TOKEN] else 0
        case at.SESSIONS:
            return int(words[at.SESSIONS_HIGH]) * at.SESSION_WORDS
        case at.ANSWERS:
            return min(max(0, int(words[at.ANSWERS_HEAD]) - FIRST_POSITION) // 8, each.words)
        case at.KEYS:
            rows = int(words[at.KEYS_HEAD]) * at.KEY_ROW_WORDS
            return min(int(words[at.KEY_BUCKETS]) + rows, each.words)
    raise AssertionError(f"no range has its header at {each.header}")


def _table(words: Words, table: TableLayout) -> dict[str, Any]:
    allocated_rows = int(words[table.descriptor + at.T_ALLOCATED])
    heap_words = int(words[table.descriptor + at.T_HEAP_ALLOCATED])
    indexes = {index.spec.name: _index(words, index) for index in table.indexes}
    rows_bytes = _size_bytes(table_extents(table, 0, allocated_rows))
    heap_bytes = _size_bytes(heap_extents(table, 0, heap_words))
    figures = {
        "rows": int(words[table.state + at.ROW_COUNT]),
        "capacity": table.capacity,
        "fill": round(max(rows_share(words, table), heap_share(words, table)), 4),
        "allocated_rows": allocated_rows,
        "memory_bytes": rows_bytes + heap_bytes + sum(i["memory_bytes"] for i in indexes.values()),
        "indexes": indexes,
    }
    if table.heap_words:
        figures["heap"] = {
            "used_bytes": int(words[table.heap_state + at.H_USED]) * 8,
            "free_bytes": int(words[table.heap_state + at.H_FREE]) * 8,
            "capacity_bytes": table.heap_words * 8,
            "memory_bytes": heap_bytes,
        }
    return figures


def _index(words: Words, index: IndexLayout) -> dict[str, Any]:
    allocated = int(words[index.descriptor + at.X_NODES_ALLOCATED])
    return {
        "entries": int(words[index.state + at.ENTRY_COUNT]),
        "nodes": int(words[index.state + at.NODE_HIGH]),
        "memory_bytes": _size_bytes(index_extents(index, 0, allocated)),
    }


def _size_bytes(extents: list[Extent]) -> int:
    return sum(extent.page_count for extent in extents) * PAGE_BYTES
