"""Value words of every width: extremes, neighbours, undo, and how memory reads as an array."""

from __future__ import annotations

import random

import numpy as np
import pytest
from tests.store_region import StoreRegion, TablePlan, lay_out

from diptych.store import fields, rows, undo, verify
from diptych.store import words as at

ROWS = 150
WIDTHS = {0: 64, 1: 32, 2: 16, 3: 8, 6: 1}
PACKS = [0, *(k | signed for k in (1, 2, 3) for signed in (0, at.PACK_SIGNED)), 6]


def bounds(pack: int) -> tuple[int, int]:
    """The lowest and the highest number that fits."""
    bits = WIDTHS[pack & at.PACK_ROWS]
    if bits == 64 or pack & at.PACK_SIGNED:
        return -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    return 0, (1 << bits) - 1


def filled(pack: int) -> tuple[StoreRegion, list[int]]:
    """Rows of a key, 0, and one value, of all kinds of numbers that fit; and the numbers."""
    region = lay_out(TablePlan(3, capacity=ROWS, packs=(0, 0, pack)))
    low, high = bounds(pack)
    numbers = random.Random(pack)
    chosen = [low, high, max(low, -1), 0, 1]
    values = [numbers.choice([*chosen, numbers.randint(low, high)]) for _ in range(ROWS)]
    for key, value in enumerate(values):
        region.argue(key + 1, 0, value)
        assert rows.insert(region.words, region.tables[0]) == key
    return region, values


@pytest.mark.parametrize("pack", PACKS)
def test_what_was_written_is_read(pack: int) -> None:
    region, values = filled(pack)
    t = region.tables[0]
    assert [fields.get_value(region.words, t, 2, row) for row in range(ROWS)] == values
    assert [region.value(t, row, 2) for row in range(ROWS)] == values
    assert verify.check(region.words, t) == 0
    assert region.guards_hold()


@pytest.mark.parametrize("pack", PACKS)
def test_memory_is_an_array_of_small_numbers(pack: int) -> None:
    region, values = filled(pack)
    base = int(region.words[region.tables[0] + at.T_BASE + 2])
    raw = region.words[base:].view(np.uint8)
    bits = WIDTHS[pack & at.PACK_ROWS]
    if bits == 1:
        array = np.unpackbits(raw[: -(-ROWS // 8)], count=ROWS, bitorder="little")
    else:
        sign = "i" if pack & at.PACK_SIGNED or pack == 0 else "u"
        array = raw[: ROWS * bits // 8].view(f"<{sign}{bits // 8}")
    assert array.tolist() == values


@pytest.mark.parametrize("pack", PACKS)
def test_neighbours_stay_and_undo_brings_all_back(pack: int) -> None:
    region, values = filled(pack)
    words, t = region.words, region.tables[0]
    before = region.data()
    mark = undo.mark(words)
    for row in (0, 1, 2, 7, 8, 31, 32, 63, 64, 65, ROWS - 1):
        for word in (*bounds(pack), 0, 1):
            assert fields.put_value(words, t, 2, row, word)
            expected = [*values[:row], word, *values[row + 1 :]]
            assert [fields.get_value(words, t, 2, each) for each in range(ROWS)] == expected
        undo.rollback(words, mark)
        assert region.data() == before
    assert region.guards_hold()


@pytest.mark.parametrize("pack", PACKS)
def test_nothing_is_written_without_room_for_undo(pack: int) -> None:
    region, values = filled(pack)
    words, t = region.words, region.tables[0]
    before = region.data()
    for room in (0, 1):
        region.limit_undo(undo.mark(words) + room)
        assert not fields.put_value(words, t, 2, 5, 1 - values[5] % 2)
        assert region.data() == before
    region.limit_undo(undo.mark(words) + 2)
    assert fields.put_value(words, t, 2, 5, 1 - values[5] % 2)


@pytest.mark.parametrize("pack", PACKS)
def test_a_deleted_row_leaves_zero_and_its_neighbours(pack: int) -> None:
    region, values = filled(pack)
    words, t = region.words, region.tables[0]
    for row in range(0, ROWS, 3):
        assert rows.delete(words, t, row) == 0
    expected = [value if row % 3 else 0 for row, value in enumerate(values)]
    assert [fields.get_value(words, t, 2, row) for row in range(ROWS)] == expected
    assert verify.check(words, t) == 0


def test_where_rows_share_words_there_is_no_position() -> None:
    region = lay_out(TablePlan(3, packs=(0, 3, at.PACK_HEAP), heap_words=10))
    words, t = region.words, region.tables[0]
    assert fields.whole_at(words, t, 0, 7) == words[t + at.T_BASE] + 7
    assert fields.whole_at(words, t, 1, 7) == -1
    assert fields.whole_at(words, t, 2, 7) == words[t + at.T_BASE + 2] + 7
