"""Once a transaction is doomed every kernel that its handler calls refuses, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.store_region import IndexPlan, StoreRegion, TablePlan, lay_out

from diptych.control_page import PAGE_BYTES, Word
from diptych.store import btree, bulk_writes, hashing, heap, rows
from diptych.store import words as at

HEAP = at.PACK_HEAP
KERNELS: dict[str, Callable[[Any, int, int], int]] = {
    "find": lambda words, t, cursor: hashing.find(words, t),
    "find1": lambda words, t, cursor: hashing.find1(words, t, 5),
    "insert": lambda words, t, cursor: rows.insert(words, t),
    "delete": lambda words, t, cursor: rows.delete(words, t, 0),
    "update": lambda words, t, cursor: rows.update(words, t, 0, 1, 8),
    "update_words": lambda words, t, cursor: rows.update_words(words, t, 0, 1, 1),
    "assign": lambda words, t, cursor: rows.assign(words, t, 0, int(words[t + at.T_BASE + 1]), 8),
    "next_row": lambda words, t, cursor: rows.next_row(words, t, -1),
    "advance": lambda words, t, cursor: btree.advance(words, cursor),
    "first": lambda words, t, cursor: btree.first(words, t + at.T_INDEX, 0, 0),
    "heap assign": lambda words, t, cursor: heap.assign(words, t, 0, 2, 3),
    "write_rows": lambda words, t, cursor: bulk_writes.write_rows(
        words, t, 1, np.zeros(1, np.int64), np.full(1, 8, np.int64)
    ),
}


@pytest.fixture
def region() -> StoreRegion:
    """One table with the row (5, 6, empty), an index on the second value, and a cursor on it."""
    plan = TablePlan(3, indexes=[IndexPlan([1])], packs=[0, 0, HEAP], heap_words=64, capacity=20)
    made = lay_out(plan)
    made.argue(5, 6, 0)
    assert rows.insert(made.words, made.tables[0]) == 0
    made.begin(2)
    made.argue(7, 7, 0)
    return made


def doom(region: StoreRegion, sequence: int) -> None:
    region.words[region.scratch + at.S_CONTROL + at.DOOMED] = sequence


@pytest.mark.parametrize("name", KERNELS)
def test_a_doomed_transaction_gets_nothing_more(region: StoreRegion, name: str) -> None:
    words, (t,) = region.words, region.tables
    cursor = btree.open_cursor(words, t + at.T_INDEX, 0, 0, 0, 0)
    region.argue(5)
    before = region.data()
    doom(region, 2)
    assert KERNELS[name](words, t, cursor) == at.OVER_BUDGET
    assert (region.data(), region.undo_top) == (before, 0)
    doom(region, 1)  # another one, long gone
    region.argue(9 if name == "insert" else 5, 8, 0)
    assert KERNELS[name](words, t, cursor) >= 0
    assert region.guards_hold()


def test_sequence_number_0_is_never_doomed(region: StoreRegion) -> None:
    region.begin(0)
    region.argue(5)
    assert hashing.find(region.words, region.tables[0]) == 0


def test_kernels_and_the_control_page_agree() -> None:
    assert at.DOOMED == Word.DOOMED
    assert at.S_CONTROL * 8 % PAGE_BYTES == 0
    assert (at.S_BLOB - at.S_CONTROL) * 8 == PAGE_BYTES
