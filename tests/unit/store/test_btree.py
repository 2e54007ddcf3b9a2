"""Ordered indexes: order, balance, cursors that survive changes, limits, and undo."""

from __future__ import annotations

import random
import struct

import pytest
from tests.store_region import FLOAT, INT, TEXT, IndexPlan, StoreRegion, TablePlan, lay_out

from diptych.store import btree, descent, rows, undo, verify, ways
from diptych.store import words as at


def text_word(text: str) -> int:
    return int.from_bytes(text.encode().ljust(8, b"\0"), "little", signed=True)


def float_word(number: float) -> int:
    return int.from_bytes(struct.pack("<d", number), "little", signed=True)


def walk(
    region: StoreRegion,
    x: int,
    low: tuple[int, ...] = (),
    high: tuple[int, ...] = (),
    high_open: int = 0,
    reverse: int = 0,
) -> list[int]:
    region.argue(*low)
    region.argue(*high, first=at.KEY_WORDS_MAX)
    cursor = btree.open_cursor(region.words, x, len(low), len(high), high_open, reverse)
    found = []
    while (row := btree.advance(region.words, cursor)) >= 0:
        found.append(int(row))
    assert row == at.NOT_FOUND
    assert btree.advance(region.words, cursor) == at.NOT_FOUND
    return found


def filled(count: int, keys: int, spread: int = 4, seed: int = 1) -> StoreRegion:
    """A table of `count` rows whose index holds `keys` random words, few of them different."""
    plan = IndexPlan(tuple(range(1, keys + 1)), nodes=btree.nodes_for(count, keys))
    region = lay_out(TablePlan(keys + 1, capacity=count, indexes=[plan]))
    numbers = random.Random(seed)
    for i in range(count):
        region.begin(i + 1)
        region.argue(i, *(numbers.randrange(-spread, spread) for _ in range(keys)))
        assert rows.insert(region.words, region.tables[0]) == i
    region.begin(count + 1)
    return region


def entries(region: StoreRegion, keys: int) -> list[tuple[tuple[int, ...], int]]:
    t = region.tables[0]
    live, row = [], -1
    while (row := rows.next_row(region.words, t, row)) >= 0:
        live.append((region.values(t, row)[1 : keys + 1], int(row)))
    return sorted(live)


@pytest.mark.parametrize("keys", [1, 2, 3, 7, 8])
def test_order_with_any_number_of_key_words(keys: int) -> None:
    region = filled(900, keys)
    x = region.index(region.tables[0], 0)
    expected = [row for _, row in entries(region, keys)]
    assert region.index_state(x, at.HEIGHT) >= 2
    assert walk(region, x) == expected
    assert walk(region, x, reverse=1) == expected[::-1]
    assert verify.check(region.words, region.tables[0]) == 0


def test_a_search_finds_what_a_scan_does() -> None:
    """In nodes of any length, for keys before, between, equal to and behind their entries."""
    region = lay_out(TablePlan(3, indexes=[IndexPlan((1, 2))]))
    words = region.words
    node, key = (
        int(words[region.index(region.tables[0], 0) + at.X_NODES]),
        region.scratch + at.S_KEY,
    )
    for level, stride in ((0, 3), (1, 4)):
        for count in range(1 if level else 0, 32):
            entries = [(i // 3, i % 3, i) for i in range(2, 2 + 2 * count, 2)]
            words[node + at.N_COUNT] = count
            for i, entry in enumerate(entries):
                words[node + at.N_ENTRIES + i * stride :][:3] = entry
            for given in range(4):
                for wanted in [(i // 3, i % 3, i) for i in range(2 * count + 4)]:
                    words[key : key + 3] = wanted
                    for equal in (0, 1):
                        before = [
                            e[:given] < wanted[:given] or (equal and e[:given] == wanted[:given])
                            for e in entries[level:]
                        ]
                        found = descent.search(words, node, level, 3, key, given, equal)
                        assert found == sum(before), (level, count, given, wanted, equal)


@pytest.mark.parametrize("order", ["random", "ascending", "descending"])
def test_ways_lead_where_seeks_do(order: str) -> None:
    plans = [IndexPlan((1,), nodes=500), IndexPlan((2, 1), nodes=500), IndexPlan((3,), nodes=500)]
    region = lay_out(TablePlan(4, capacity=1_500, indexes=plans))
    words, t = region.words, region.tables[0]
    numbers = list(range(1_000))
    if order == "random":
        random.Random(3).shuffle(numbers)
    for i, number in enumerate(reversed(numbers) if order == "descending" else numbers):
        region.begin(i + 1)
        region.argue(i, number, number % 7, -number)
        row = rows.insert(words, t)
        assert row == i
        if i % 50:
            continue
        ways.find_ways(words, t, row)
        for n in range(3):
            x, way = region.index(t, n), ways.way_of(words, n)
            key = descent.entry_of(words, x, row)
            assert descent.agrees(words, way + at.W_KEY, key, int(words[x + at.X_KEYS]) + 1)
            descent.seek(words, x, key, int(words[x + at.X_KEYS]) + 1, 1)
            path, length = region.scratch + at.S_PATH, 2 * region.index_state(x, at.HEIGHT)
            assert words[way : way + length].tolist() == words[path : path + length].tolist()
    assert verify.check(words, t) == 0


def test_unique_is_noticed_in_every_place_of_every_leaf() -> None:
    count = 400
    plan = IndexPlan((1,), unique=True, nodes=btree.nodes_for(count, 1))
    region = lay_out(TablePlan(2, capacity=count + 2, indexes=[plan]))
    words, t = region.words, region.tables[0]
    numbers = list(range(count))
    random.Random(4).shuffle(numbers)
    for i, number in enumerate(numbers):
        region.begin(i + 1)
        region.argue(i, number * 2)
        assert rows.insert(words, t) == i
    assert region.index_state(region.index(t, 0), at.HEIGHT) >= 2
    before = region.data()
    for number in range(count):
        region.argue(count, number * 2)
        assert rows.insert(words, t) == at.NOT_UNIQUE
        assert region.fault == region.index(t, 0)
    assert region.data() == before
    # Given to a row below all others, whose entry would come before the one that has it.
    region.begin(count + 1)
    assert rows.delete(words, t, 0) == 0
    for number in range(count):
        if number != numbers[0]:
            region.begin(count + 2 + number)
            region.argue(count, number * 2)
            assert rows.insert(words, t) == at.NOT_UNIQUE


@pytest.mark.parametrize("keys", [1, 3, 7])
def test_bounds_are_prefixes(keys: int) -> None:
    region = filled(400, keys)
    x = region.index(region.tables[0], 0)
    everything = entries(region, keys)
    numbers = random.Random(keys)
    for _ in range(200):
        low = tuple(numbers.randrange(-5, 5) for _ in range(numbers.randrange(keys + 1)))
        high = tuple(numbers.randrange(-5, 5) for _ in range(numbers.randrange(keys + 1)))
        for high_open in (0, 1):
            for reverse in (0, 1):
                expected = [
                    row
                    for key, row in everything
                    if key[: len(low)] >= low
                    and (
                        not high
                        or key[: len(high)] < high
                        or (key[: len(high)] == high and not high_open)
                    )
                ]
                if reverse:
                    expected.reverse()
                assert walk(region, x, low, high, high_open, reverse) == expected


@pytest.mark.parametrize("keys", [1, 3, 7])
def test_first_and_last_of_a_prefix(keys: int) -> None:
    region = filled(300, keys)
    x = region.index(region.tables[0], 0)
    everything = entries(region, keys)
    for prefix in [(), (-5,), (-4,), (0,), (3,), (4,), (2, -4), (2, 3), (1, 1, 1, 1)]:
        if len(prefix) > keys:
            continue
        same = [row for key, row in everything if key[: len(prefix)] == prefix] or [at.NOT_FOUND]
        region.argue(*prefix)
        assert btree.first(region.words, x, len(prefix), 0) == same[0]
        assert btree.first(region.words, x, len(prefix), 1) == same[-1]


def test_an_empty_index() -> None:
    region = lay_out(TablePlan(2, indexes=[IndexPlan((1,))]))
    x = region.index(region.tables[0], 0)
    assert walk(region, x) == []
    assert walk(region, x, (1,), (2,), reverse=1) == []
    assert btree.first(region.words, x, 0, 0) == at.NOT_FOUND
    assert btree.first(region.words, x, 0, 1) == at.NOT_FOUND
    assert btree.remove(region.words, x, 0) == at.NOT_FOUND


def test_text_and_floats_are_compared_by_what_they_mean() -> None:
    names = ["", "A", "AAPL", "AAPLE", "B", "a", "zz", "Ä", "ÿ", "€"]  # in the order of their bytes
    numbers = [float("-inf"), -1e300, -2.5, -1e-300, 0.0, 1e-300, 1.0, 2.5, float("inf")]
    plan = IndexPlan((1, 2, 3), kinds=(TEXT, FLOAT, INT))
    region = lay_out(TablePlan(4, indexes=[plan]))
    words, t = region.words, region.tables[0]
    pairs = [(name, number) for name in names for number in numbers]
    shuffled = random.Random(3).sample(range(len(pairs)), len(pairs))
    for i in shuffled:
        region.argue(i, text_word(pairs[i][0]), float_word(pairs[i][1]), -i)
        rows.insert(words, t)
    x = region.index(t, 0)
    assert [region.value(t, row, 0) for row in walk(region, x)] == list(range(len(pairs)))
    apple = (text_word("AAPL"),)
    assert [region.value(t, row, 0) for row in walk(region, x, apple, apple)] == list(range(18, 27))
    half_open = walk(region, x, (*apple, float_word(-2.5)), (*apple, float_word(0.0)), 1)
    assert [region.value(t, row, 0) for row in half_open] == [20, 21]
    assert verify.check(words, t) == 0


def test_growing_keys_fill_their_nodes() -> None:
    count, keys = 2000, 1
    region = lay_out(TablePlan(2, capacity=count, indexes=[IndexPlan((1,), nodes=200)]))
    words, t = region.words, region.tables[0]
    for i in range(count):
        region.begin(i + 1)
        region.argue(i, i)
        rows.insert(words, t)
    per_leaf = (at.NODE_WORDS - at.N_ENTRIES) // (keys + 1)
    assert region.index_state(region.index(t, 0), at.NODE_HIGH) <= count // per_leaf + 3
    assert verify.check(words, t) == 0


@pytest.mark.parametrize("order", ["ascending", "descending", "random"])
@pytest.mark.parametrize("keys", [1, 7])
def test_draining_gives_every_node_back(order: str, keys: int) -> None:
    count = 1500
    region = filled(count, keys, spread=1000)
    words, t = region.words, region.tables[0]
    x = region.index(t, 0)
    victims = [row for _, row in entries(region, keys)]
    if order == "descending":
        victims.reverse()
    elif order == "random":
        random.Random(5).shuffle(victims)
    for done, row in enumerate(victims):
        region.begin(10_000 + done)
        assert rows.delete(words, t, row) == 0
        if done % 100 == 0:
            assert verify.check(words, t) == 0
    assert verify.check(words, t) == 0
    assert region.index_state(x, at.ROOT) == 0
    assert region.index_state(x, at.HEIGHT) == 0


def test_the_pool_stays_bounded_while_rows_come_and_go() -> None:
    """A book of orders: taken from the front, added anywhere, about as many as before."""
    count, keys = 600, 3
    region = filled(count, keys, spread=50)
    words, t = region.words, region.tables[0]
    x = region.index(t, 0)
    numbers = random.Random(8)
    for i in range(6000):
        region.begin(2000 + i)
        row = btree.first(words, x, 0, 0) if i % 3 else btree.first(words, x, 0, 1)
        assert rows.delete(words, t, row) == 0
        region.begin(2000 + i)
        region.argue(count + i, *(numbers.randrange(100) for _ in range(keys)))
        if rows.insert(words, t) == at.TABLE_FULL:  # the slot just freed waits for the next one
            region.begin(10_000 + i)
            assert rows.insert(words, t) >= 0
    assert verify.check(words, t) == 0
    per_leaf = (at.NODE_WORDS - at.N_ENTRIES) // (keys + 1)
    assert region.index_state(x, at.NODE_HIGH) < 3 * count / per_leaf


def test_nodes_for_is_enough_for_what_merging_allows() -> None:
    for keys in range(1, at.KEY_WORDS_MAX + 1):
        per_leaf = (at.NODE_WORDS - at.N_ENTRIES) // (keys + 1)
        assert btree.nodes_for(0, keys) > at.HEIGHT_MAX
        assert btree.nodes_for(100_000, keys) > 4 * 100_000 / per_leaf


def test_a_cursor_goes_on_after_any_change() -> None:
    region = filled(300, 2, spread=1000)
    words, t = region.words, region.tables[0]
    x = region.index(t, 0)
    before = walk(region, x)
    cursor = btree.open_cursor(words, x, 0, 0, 0, 0)
    seen = []
    while (row := btree.advance(words, cursor)) >= 0:
        seen.append(int(row))
        assert rows.delete(words, t, row) == 0  # the entry it stands on; in the end the whole tree
    assert seen == before
    assert region.state(t, at.ROW_COUNT) == 0
    assert verify.check(words, t) == 0


def test_a_cursor_sees_what_is_inserted_ahead_and_not_behind() -> None:
    region = lay_out(TablePlan(2, indexes=[IndexPlan((1,))]))
    words, t = region.words, region.tables[0]
    for i in range(100):
        region.argue(i, i * 10)
        rows.insert(words, t)
    for reverse in (0, 1):
        cursor = btree.open_cursor(words, region.index(t, 0), 0, 0, 0, reverse)
        for _ in range(50):
            row = btree.advance(words, cursor)
        place = region.value(t, row, 1)
        ahead, behind = (place + 5, place - 5) if not reverse else (place - 5, place + 5)
        for key, value in ((1000 + reverse, ahead), (2000 + reverse, behind)):
            region.argue(key, value)
            rows.insert(words, t)
        assert region.value(t, btree.advance(words, cursor), 1) == ahead


def test_a_cursor_at_its_end_stays_there_until_more_comes() -> None:
    region = lay_out(TablePlan(2, indexes=[IndexPlan((1,))]))
    words, t = region.words, region.tables[0]
    for key in (1, 2, 9):
        region.argue(key, key)
        rows.insert(words, t)
    x = region.index(t, 0)
    region.argue(0)
    region.argue(5, first=at.KEY_WORDS_MAX)
    cursor = btree.open_cursor(words, x, 1, 1, 0, 0)
    assert [btree.advance(words, cursor) for _ in range(4)] == [0, 1, -1, -1]
    region.argue(3, 3)
    rows.insert(words, t)
    assert [btree.advance(words, cursor) for _ in range(2)] == [3, -1]


def test_cursors_beyond_their_number_lose_the_oldest() -> None:
    region = filled(5, 1)
    x = region.index(region.tables[0], 0)
    words = region.words
    oldest = btree.open_cursor(words, x, 0, 0, 0, 0)
    assert btree.advance(words, oldest) >= 0
    others = [btree.open_cursor(words, x, 0, 0, 0, 0) for _ in range(at.CURSORS)]
    assert btree.advance(words, oldest) == at.CURSOR_LOST
    assert all(btree.advance(words, cursor) >= 0 for cursor in others)
    for nonsense in (0, -1, -(1 << 60), others[-1] + 1, 1 << 60):
        assert btree.advance(words, nonsense) == at.CURSOR_LOST
    assert region.guards_hold()


def test_unique_compares_all_key_words() -> None:
    region = lay_out(TablePlan(3, indexes=[IndexPlan((1, 2), unique=True)]))
    words, t = region.words, region.tables[0]
    for i in range(200):
        region.argue(i, i // 20, i % 20)
        assert rows.insert(words, t) == i
    before = region.data()
    for i in range(200):
        region.argue(1000, i // 20, i % 20)
        assert rows.insert(words, t) == at.NOT_UNIQUE
        assert region.fault == region.index(t, 0)
        assert region.data() == before
    assert rows.update(words, t, 3, 2, 4) == at.NOT_UNIQUE
    assert region.data() == before
    assert rows.update(words, t, 3, 2, 77) == 0
    assert verify.check(words, t) == 0


def test_growth_and_the_end_of_the_pool() -> None:
    region = lay_out(TablePlan(2, indexes=[IndexPlan((1,), nodes=4, nodes_allocated=1)]))
    words, t = region.words, region.tables[0]
    x = region.index(t, 0)
    codes: list[int] = []
    row = 0
    while at.TABLE_FULL not in codes:
        region.argue(row, (row * 7919) % 1000)
        before = region.data()
        code = rows.insert(words, t)
        if code >= 0:
            row += 1
        else:
            assert region.data() == before
            assert region.fault == x
            codes.append(int(code))
            words[x + at.X_NODES_ALLOCATED] += 1
        assert region.guards_hold()
    assert codes == [at.GROW_INDEX] * 3 + [at.TABLE_FULL]
    words[x + at.X_NODES_ALLOCATED] = 4
    assert verify.check(words, t) == 0


def test_a_full_undo_log_changes_nothing() -> None:
    region = filled(700, 3, spread=1000)
    words, t = region.words, region.tables[0]
    x = region.index(t, 0)
    before = region.data()
    for row in range(0, 700, 7):
        limits = [0, 1, 5, 7, 9, 20, 40, 80, 160, 300]
        for limit in limits:
            region.limit_undo(limit)
            if btree.remove(words, x, row) == 0:
                break
            assert region.data() == before
        removed, mark = region.data(), undo.mark(words)
        for limit in limits:
            region.limit_undo(mark + limit)
            if btree.add(words, x, row) == 0:
                break
            assert region.data() == removed
        region.limit_undo(1 << 15)
        undo.rollback(words, 0)
        assert region.data() == before
