"""Many rows or many words in one step: what a unique index sees, and all or nothing."""

from __future__ import annotations

import numpy as np
import pytest
from tests.store_region import IndexPlan, StoreRegion, TablePlan, lay_out

from diptych.store import bulk_writes, rows, undo, verify
from diptych.store import words as at

ROWS = 40
PACKS = (0, 0, 0, 2 | at.PACK_SIGNED, 6)


def filled(unique: bool = True) -> StoreRegion:
    """Rows (key, pair, pair, small number, validity), the pair in an index."""
    indexes = [IndexPlan((1, 2), unique=unique), IndexPlan((4, 3), kinds=(4, 0))]
    region = lay_out(TablePlan(5, capacity=ROWS, indexes=indexes, packs=PACKS))
    for key in range(ROWS):
        region.argue(key, key // 4, key % 4, key - 20, 1)
        assert rows.insert(region.words, region.tables[0]) == key
    return region


def array(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def test_one_column_of_many_rows() -> None:
    region = filled()
    words, t = region.words, region.tables[0]
    chosen = array(39, 0, 8, 9)
    assert bulk_writes.write_rows(words, t, 1, chosen, array(100, 200, -300, 400)) == 0
    assert [region.value(t, int(row), 1) for row in chosen] == [100, 200, -300, 400]
    assert region.values(t, 10) == (10, 2, 2, -10, 1)
    assert verify.check(words, t) == 0


def test_several_words_a_row() -> None:
    region = filled()
    words, t = region.words, region.tables[0]
    chosen = np.arange(ROWS)
    none = np.zeros(2 * ROWS, np.int64)
    assert bulk_writes.write_rows(words, t, 3, chosen, none) == 0
    assert {region.values(t, row)[3:] for row in range(ROWS)} == {(0, 0)}
    pairs = np.stack([chosen // 4 + 1, chosen % 4 + 9], axis=1).ravel()
    assert bulk_writes.write_rows(words, t, 1, chosen, pairs) == 0
    assert region.values(t, 17) == (17, 5, 10, 0, 0)
    assert verify.check(words, t) == 0


def test_the_last_of_a_row_named_twice_counts_and_no_rows_are_nothing() -> None:
    region = filled()
    words, t = region.words, region.tables[0]
    assert bulk_writes.write_rows(words, t, 3, array(5, 5, 5), array(1, 2, 3)) == 0
    assert region.value(t, 5, 3) == 3
    before = region.data()
    assert bulk_writes.write_rows(words, t, 3, array(), array()) == 0
    assert region.data() == before


@pytest.mark.parametrize("bad", [-1, ROWS, 12, 1 << 40, -(1 << 63)])
def test_a_row_that_is_none_undoes_the_others(bad: int) -> None:
    region = filled()
    words, t = region.words, region.tables[0]
    assert rows.delete(words, t, 12) == 0
    before = region.data()
    for value in (1, 3):
        code = bulk_writes.write_rows(words, t, value, array(3, 4, bad), array(70, 80, 90))
        assert code == at.NOT_LIVE
        assert region.data() == before


@pytest.mark.parametrize(("value", "count"), [(-1, 1), (5, 1), (4, 2), (0, 6)])
def test_words_that_the_table_has_not(value: int, count: int) -> None:
    region = filled()
    words, t = region.words, region.tables[0]
    before = region.data()
    new = np.zeros(count, np.int64)
    assert bulk_writes.write_rows(words, t, value, array(3), new) == at.NOT_LIVE
    assert rows.update_words(words, t, 3, value, count) == at.NOT_LIVE
    assert bulk_writes.write_rows(words, t, 1, array(3, 4), array(1, 2, 3)) == at.NOT_LIVE
    assert region.data() == before


def test_what_is_not_unique_undoes_all() -> None:
    region = filled()
    words, t = region.words, region.tables[0]
    before = region.data()
    # Row 1 would become (2, 1), as row 9 is.
    assert bulk_writes.write_rows(words, t, 1, array(0, 1), array(99, 2)) == at.NOT_UNIQUE
    assert region.fault == region.index(t, 0)
    assert region.data() == before


def test_a_unique_index_sees_no_state_in_between() -> None:
    region = filled()
    words, t = region.words, region.tables[0]
    # From (0, 1) to (2, 77): word by word it would be (2, 1) for a moment, as row 9 is.
    assert rows.update(words, t, 1, 1, 2) == at.NOT_UNIQUE
    region.argue(2, 77)
    assert rows.update_words(words, t, 1, 1, 2) == 0
    assert region.values(t, 1) == (1, 2, 77, -19, 1)
    region.argue(2, 1)
    assert rows.update_words(words, t, 1, 1, 2) == at.NOT_UNIQUE
    assert verify.check(words, t) == 0


def test_words_that_stay_are_not_written() -> None:
    region = filled()
    words, t = region.words, region.tables[0]
    top = undo.mark(words)
    region.argue(0, 1)
    assert rows.update_words(words, t, 1, 1, 2) == 0
    assert rows.update_words(words, t, 1, 1, 0) == 0
    assert rows.update(words, t, 1, 3, -19) == 0
    assert undo.mark(words) == top


@pytest.mark.parametrize("value", [1, 3])
def test_undo_full_at_every_point_changes_nothing(value: int) -> None:
    region = filled(unique=False)
    words, t = region.words, region.tables[0]
    region.begin(2)
    before = region.data()
    for limit in range(10_000):
        region.limit_undo(limit)
        code = bulk_writes.write_rows(words, t, value, array(1, 2, 30), array(11, 12, 13))
        if code == 0:
            break
        assert code == at.UNDO_FULL
        assert region.data() == before
        assert undo.mark(words) == 0
    assert code == 0
    assert limit > 5
    undo.rollback(words, 0)
    assert region.data() == before
