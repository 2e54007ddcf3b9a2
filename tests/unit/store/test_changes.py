"""Several value words changed at once: indexes see the old value and the new one, nothing else."""

from __future__ import annotations

import pytest
from tests.store_region import INT, TEXT, IndexPlan, StoreRegion, TablePlan, lay_out

from diptych.store import changes, rows, undo, verify
from diptych.store import words as at


def pairs(*, unique: bool = True) -> StoreRegion:
    """A key, a text of two words, and a number, with an index over the text and one over all."""
    indexes = [
        IndexPlan((1, 2), unique=unique, kinds=(TEXT, TEXT)),
        IndexPlan((3, 1, 2), kinds=(INT, TEXT, TEXT)),
    ]
    return lay_out(TablePlan(values=4, capacity=20, indexes=indexes))


def insert(region: StoreRegion, *values: int) -> int:
    region.argue(*values)
    return int(rows.insert(region.words, region.tables[0]))


def change(region: StoreRegion, row: int, first: int, *values: int) -> int:
    region.argue(*values)
    return int(changes.change(region.words, region.tables[0], row, first, len(values)))


def test_a_value_is_never_seen_half_changed() -> None:
    region = pairs()
    t = region.tables[0]
    row = insert(region, 1, 10, 20, 5)
    insert(region, 2, 30, 20, 5)  # what a change of the first word alone would collide with
    assert change(region, row, 1, 30, 40) == 0
    assert region.values(t, row) == (1, 30, 40, 5)
    assert verify.check(region.words, t) == 0
    before = region.data()
    assert change(region, row, 1, 30, 20) == at.NOT_UNIQUE
    assert region.fault == region.index(t, 0)
    assert region.data() == before


def test_what_stays_the_same_writes_nothing() -> None:
    region = pairs()
    row = insert(region, 1, 10, 20, 5)
    region.begin(2)
    before = region.data()
    assert change(region, row, 1, 10, 20) == 0
    assert undo.mark(region.words) == 0
    assert region.data() == before


@pytest.mark.parametrize("row", [-1, 1, 1 << 40])
def test_a_row_that_is_none_is_refused(row: int) -> None:
    region = pairs()
    insert(region, 1, 10, 20, 5)
    assert change(region, row, 1, 3, 3) == at.NOT_LIVE
    assert change(region, 0, 3, 3, 3) == at.NOT_LIVE  # beyond the row's words
    assert change(region, 0, -1, 3, 3) == at.NOT_LIVE


def test_without_room_for_undo_nothing_happens() -> None:
    region = pairs()
    row = insert(region, 1, 10, 20, 5)
    region.begin(2)
    before = region.data()
    limit = region.words[region.scratch + at.S_UNDO_LIMIT]
    refused = 0
    for words in range(200):
        region.words[region.scratch + at.S_UNDO_LIMIT] = words
        code = change(region, row, 1, 30, 40)
        if code == 0:
            break
        refused += 1
        assert code == at.UNDO_FULL
        assert region.data() == before
    assert refused > 4
    region.words[region.scratch + at.S_UNDO_LIMIT] = limit
    undo.rollback(region.words, 0)
    assert region.data() == before
