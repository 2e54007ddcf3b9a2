"""The undo log: records, marks, and what happens when there is no room."""

from __future__ import annotations

import numpy as np
from tests.store_region import TablePlan, lay_out

from diptych.store import undo
from diptych.store import words as at

SPOT = at.PAGE_WORDS + 100  # words of the system page that nothing uses


def test_put_is_taken_back() -> None:
    region = lay_out(TablePlan(1))
    before = region.data()
    assert undo.put(region.words, SPOT, 7)
    assert undo.put(region.words, SPOT, -8)
    assert region.words[SPOT] == -8
    assert undo.rollback(region.words, 0) == 0
    assert region.data() == before
    assert undo.mark(region.words) == 0


def test_spans_are_restored_newest_first() -> None:
    region = lay_out(TablePlan(1))
    before = region.data()
    for round_number in range(1, 5):
        assert undo.save(region.words, SPOT, 20)
        region.words[SPOT : SPOT + 20] = round_number
        assert undo.save(region.words, SPOT + 10, 20)
        region.words[SPOT + 10 : SPOT + 30] = -round_number
    undo.rollback(region.words, 0)
    assert region.data() == before


def test_what_is_kept_can_be_read_until_it_is_taken_back() -> None:
    region = lay_out(TablePlan(1), undo_words=32)
    region.words[SPOT : SPOT + 20] = range(20)
    record = undo.keep(region.words, SPOT, 20)
    region.words[SPOT : SPOT + 20] = 0
    assert region.words[record : record + 20].tolist() == list(range(20))
    assert undo.keep(region.words, SPOT, 20) == -1, "no room"
    undo.rollback(region.words, 0)
    assert region.words[SPOT : SPOT + 20].tolist() == list(range(20))


def test_rollback_stops_at_its_mark() -> None:
    region = lay_out(TablePlan(1))
    undo.put(region.words, SPOT, 1)
    mark = undo.mark(region.words)
    undo.put(region.words, SPOT, 2)
    undo.save(region.words, SPOT, 3)
    region.words[SPOT] = 3
    undo.rollback(region.words, mark)
    assert region.words[SPOT] == 1
    assert undo.mark(region.words) == mark
    undo.rollback(region.words, 0)
    assert region.words[SPOT] == 0


def test_a_record_is_the_words_and_a_trailer() -> None:
    """The interpreted lane writes records itself, so their form is a contract."""
    region = lay_out(TablePlan(1))
    region.words[SPOT : SPOT + 3] = 5, 6, 7
    undo.save(region.words, SPOT, 3)
    log = region.scratch + at.S_UNDO
    assert list(region.words[log : log + 4]) == [5, 6, 7, SPOT | 2 << 40]
    undo.put(region.words, SPOT, 8)
    assert list(region.words[log + 4 : log + 6]) == [5, SPOT]
    assert region.undo_top == 6


def test_nothing_is_written_beyond_the_limit() -> None:
    region = lay_out(TablePlan(1), undo_words=10)
    region.limit_undo(10)
    assert undo.save(region.words, SPOT, 7)
    assert undo.put(region.words, SPOT, 1)
    assert region.undo_top == 10
    assert not undo.put(region.words, SPOT, 2)
    assert not undo.save(region.words, SPOT, 1)
    assert region.words[SPOT] == 1
    assert region.guards_hold()
    undo.rollback(region.words, 0)
    assert region.words[SPOT] == 0


def test_long_spans() -> None:
    region = lay_out(TablePlan(1, capacity=5000), undo_words=5001)
    start = int(region.words[region.tables[0] + at.T_LIVE])
    region.words[start : start + 5000] = np.arange(5000)
    assert undo.save(region.words, start, 5000)
    region.words[start : start + 5000] = 0
    undo.rollback(region.words, 0)
    assert np.array_equal(region.words[start : start + 5000], np.arange(5000))


def test_of_what_was_zero_the_trailer_is_the_record() -> None:
    region = lay_out(TablePlan(1))
    before = region.data()
    assert undo.put_new(region.words, SPOT, 7)
    assert undo.save_zeros(region.words, SPOT + 1, 30)
    region.words[SPOT + 1 : SPOT + 31] = 5
    assert undo.put(region.words, SPOT + 3, 6)
    assert region.undo_top == 4
    log = region.scratch + at.S_UNDO
    assert region.words[log] == undo.WAS_ZERO | SPOT
    undo.rollback(region.words, 1)
    assert region.words[SPOT] == 7
    assert not region.words[SPOT + 1 : SPOT + 31].any()
    undo.rollback(region.words, 0)
    assert region.data() == before


def test_of_zeros_nothing_is_written_without_room() -> None:
    region = lay_out(TablePlan(1), undo_words=1)
    assert undo.put_new(region.words, SPOT, 7)
    assert not undo.put_new(region.words, SPOT + 1, 7)
    assert not undo.save_zeros(region.words, SPOT + 1, 2)
    assert region.words[SPOT + 1] == 0
    assert region.undo_top == 1
