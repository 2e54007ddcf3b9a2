"""Rows: insert, delete, update, slots and their reuse, limits, and atomicity."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.store_region import IndexPlan, StoreRegion, TablePlan, lay_out
from tests.store_scenario import scenario

from diptych.store import hashing, rows, undo, verify
from diptych.store import words as at

BAD_ROWS = [-1, -2, -(1 << 63), 5, 9, 10, 1000, 1 << 40, (1 << 63) - 1]
REPOSITORY = Path(__file__).parents[3]


def small(**changes: object) -> StoreRegion:
    settings = {"values": 3, "capacity": 10, "indexes": [IndexPlan((1, 2)), IndexPlan((2,))]}
    return lay_out(TablePlan(**(settings | changes)))  # type: ignore[arg-type]  # one bag of settings


def insert(region: StoreRegion, *values: int) -> int:
    region.argue(*values)
    return int(rows.insert(region.words, region.tables[0]))


@pytest.mark.parametrize("interleaved", [False, True])
def test_values_go_where_their_columns_are(interleaved: bool) -> None:
    region = small(interleaved=interleaved)
    t = region.tables[0]
    assert insert(region, 7, -1, 1 << 62) == 0
    assert insert(region, 8, 0, 0) == 1
    assert region.values(t, 0) == (7, -1, 1 << 62)
    assert region.values(t, 1) == (8, 0, 0)
    assert region.state(t, at.ROW_COUNT) == 2
    assert verify.check(region.words, t) == 0


def test_a_key_is_taken_once() -> None:
    region = small()
    insert(region, 7, 1, 1)
    before = region.data()
    assert insert(region, 7, 2, 2) == at.DUPLICATE_KEY
    assert region.fault == region.tables[0]
    assert region.data() == before
    assert rows.delete(region.words, region.tables[0], 0) == 0
    assert insert(region, 7, 2, 2) == 1


def test_slots_are_reused_only_after_their_transaction() -> None:
    region = small(capacity=4)
    words, t = region.words, region.tables[0]
    for key in range(3):
        insert(region, key, 0, 0)
    region.begin(2)
    rows.delete(words, t, 1)
    rows.delete(words, t, 0)
    assert insert(region, 10, 0, 0) == 3
    assert insert(region, 11, 0, 0) == at.TABLE_FULL
    assert region.fault == t
    assert verify.check(words, t) == 0
    region.begin(3)
    assert insert(region, 11, 0, 0) == 0
    rows.delete(words, t, 2)
    assert insert(region, 12, 0, 0) == 1
    assert insert(region, 13, 0, 0) == at.TABLE_FULL
    region.begin(4)
    assert insert(region, 13, 0, 0) == 2
    assert verify.check(words, t) == 0


def test_pending_slots_of_two_transactions_join_the_free_list_in_turn() -> None:
    region = small()
    words, t = region.words, region.tables[0]
    for key in range(8):
        insert(region, key, 0, 0)
    for sequence, victims in ((2, (0, 1)), (3, (2, 3)), (4, (4,))):
        region.begin(sequence)
        for row in victims:
            assert rows.delete(words, t, row) == 0
            assert verify.check(words, t) == 0
    region.begin(5)
    assert sorted(insert(region, 20 + i, 0, 0) for i in range(7)) == [0, 1, 2, 3, 4, 8, 9]
    assert verify.check(words, t) == 0


def test_deleted_rows_are_zero_and_no_longer_rows() -> None:
    region = small()
    words, t = region.words, region.tables[0]
    for key in range(1, 6):
        insert(region, key, key, key)
    assert rows.delete(words, t, 2) == 0
    assert region.values(t, 2) == (0, 0, 0)
    assert rows.delete(words, t, 2) == at.NOT_LIVE
    assert rows.update(words, t, 2, 1, 5) == at.NOT_LIVE
    assert hashing.find1(words, t, 3) == at.NOT_FOUND


@pytest.mark.parametrize("row", BAD_ROWS)
def test_bad_rows_touch_nothing(row: int) -> None:
    region = small()
    words, t = region.words, region.tables[0]
    for key in range(5):
        insert(region, key, key, key)
    before = region.data()
    assert rows.delete(words, t, row) == at.NOT_LIVE
    assert rows.update(words, t, row, 1, 5) == at.NOT_LIVE
    assert rows.assign(words, t, row, int(words[t + at.T_BASE]), 5) == at.NOT_LIVE
    assert region.data() == before
    assert region.guards_hold()


def test_update_moves_a_row_in_the_indexes_that_hold_the_value() -> None:
    region = small()
    words, t = region.words, region.tables[0]
    for key in range(5):
        insert(region, key, key, 10 * key)
    versions = [region.index_state(region.index(t, i), at.VERSION) for i in (0, 1)]
    assert rows.update(words, t, 2, 1, 99) == 0
    assert region.values(t, 2) == (2, 99, 20)
    moved = [region.index_state(region.index(t, i), at.VERSION) for i in (0, 1)]
    assert moved == [versions[0] + 2, versions[1]]
    assert rows.update(words, t, 2, 1, 99) == 0  # nothing to do, so nothing is written
    assert [region.index_state(region.index(t, i), at.VERSION) for i in (0, 1)] == moved
    assert rows.update(words, t, 2, 3, 0) == at.NOT_LIVE
    assert rows.update(words, t, 2, -1, 0) == at.NOT_LIVE
    assert verify.check(words, t) == 0


def test_auto_keys_count_on_from_the_highest() -> None:
    region = small(auto=True, keys=(0,))
    words, t = region.words, region.tables[0]
    assert [insert(region, 0, 1, 1) for _ in range(3)] == [0, 1, 2]
    assert [region.value(t, row, 0) for row in range(3)] == [1, 2, 3]
    insert(region, 10, 0, 0)
    insert(region, 5, 0, 0)
    insert(region, -4, 0, 0)
    assert region.value(t, insert(region, 0, 0, 0), 0) == 11
    assert insert(region, 11, 0, 0) == at.DUPLICATE_KEY
    region.begin(2)
    rows.delete(words, t, 6)
    assert region.value(t, insert(region, 0, 0, 0), 0) == 12
    undo.rollback(words, 0)
    assert region.state(t, at.AUTO_LAST) == 11
    assert verify.check(words, t) == 0


def test_auto_keys_end_without_wrapping() -> None:
    region = small(auto=True)
    insert(region, (1 << 63) - 1, 0, 0)
    before = region.data()
    assert insert(region, 0, 0, 0) == at.TABLE_FULL
    assert region.fault == region.tables[0]
    assert region.data() == before


def test_growth_before_capacity() -> None:
    region = small(capacity=9, allocated=8)
    words, t = region.words, region.tables[0]
    assert [insert(region, key, 0, 0) for key in range(8)] == list(range(8))
    before = region.data()
    assert insert(region, 8, 0, 0) == at.GROW_TABLE
    assert region.fault == t
    assert region.data() == before
    words[t + at.T_ALLOCATED] = 9
    assert insert(region, 8, 0, 0) == 8
    assert insert(region, 9, 0, 0) == at.TABLE_FULL
    assert region.fault == t
    assert insert(region, 8, 0, 0) == at.DUPLICATE_KEY  # the better answer, though it is full too
    assert region.guards_hold()
    assert verify.check(words, t) == 0


def test_each_operation_is_atomic_when_undo_runs_out() -> None:
    region = small(capacity=100, indexes=[IndexPlan((1, 2)), IndexPlan((2,)), IndexPlan((1,))])
    words, t = region.words, region.tables[0]
    for key in range(60):
        insert(region, key, key % 7, key % 5)
    region.begin(2)
    before = region.data()
    operations = [
        lambda: insert(region, 60, 1, 1),
        lambda: rows.delete(words, t, 30),
        lambda: rows.update(words, t, 30, 2, 77),
    ]
    for operation in operations:
        refused = 0
        for limit in range(1000):
            region.limit_undo(limit)
            if operation() != at.UNDO_FULL:
                break
            refused += 1
            assert region.data() == before
            assert region.undo_top == 0
        assert refused > 20
        undo.rollback(words, 0)
        assert region.data() == before
    assert region.guards_hold()


def test_rollback_restores_every_byte() -> None:
    region = small(capacity=200)
    words, t = region.words, region.tables[0]
    for key in range(50):
        insert(region, key, key % 7, key % 5)
    region.begin(2)
    before = region.data()
    for key in range(50, 200):
        insert(region, key, key % 3, key % 11)
    for row in range(0, 200, 2):
        rows.delete(words, t, row)
    for row in range(1, 200, 2):
        rows.update(words, t, row, 1, row)
    assert verify.check(words, t) == 0
    undo.rollback(words, 0)
    assert region.data() == before


def test_iteration_and_gathering_in_slot_order() -> None:
    region = small()
    words, t = region.words, region.tables[0]
    assert rows.next_row(words, t, -1) == at.NOT_FOUND
    for key in range(8):
        insert(region, key, 0, 0)
    for row in (0, 3, 7):
        rows.delete(words, t, row)
    found, row = [], -1
    while (row := rows.next_row(words, t, row)) >= 0:
        found.append(row)
    assert found == [1, 2, 4, 5, 6]
    assert rows.next_row(words, t, -(1 << 40)) == 1
    assert rows.next_row(words, t, 1 << 40) == at.NOT_FOUND
    out = np.full(10, -5)
    assert rows.gather(words, t, out) == 5
    assert list(out[:6]) == [1, 2, 4, 5, 6, -5]
    assert rows.gather(words, t, out[:2]) == 2


def test_without_compilation_the_bytes_are_the_same() -> None:
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, "-W", "error", "-m", "tests.store_scenario"]
    child = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=60
    )
    assert child.stderr == ""
    assert child.stdout.strip() == scenario()
