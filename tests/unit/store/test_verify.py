"""The verifier: silent on sound tables, and naming what is wrong in damaged ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.store_region import IndexPlan, StoreRegion, TablePlan, lay_out

from diptych.store import rows, verify
from diptych.store import words as at

ROWS = 100


def sound() -> StoreRegion:
    """A table with free, pending and unused slots, and indexes of two levels with free nodes."""
    indexes = [IndexPlan((1, 0)), IndexPlan((2,), unique=True)]
    region = lay_out(TablePlan(3, auto=True, capacity=200, indexes=indexes))
    words, t = region.words, region.tables[0]
    for i in range(ROWS + 80):
        region.argue(0, i % 9, i)
        assert rows.insert(words, t) == i
    for i in range(80):
        region.begin(2 + i // 40)
        rows.delete(words, t, ROWS + i)
    for i in range(10, 15):
        region.begin(4)
        rows.delete(words, t, i)
    assert verify.check(words, t) == 0
    return region


Damage = Callable[[StoreRegion, int, int], object]


def state(region: StoreRegion, t: int, word: int) -> int:
    return int(region.words[t + at.T_STATE]) + word


def index_state(region: StoreRegion, x: int, word: int) -> int:
    return int(region.words[x + at.X_STATE]) + word


def root(region: StoreRegion, x: int) -> int:
    number = region.index_state(x, at.ROOT) - 1
    return int(region.words[x + at.X_NODES]) + number * at.NODE_WORDS


def leaf(region: StoreRegion, x: int) -> int:
    """The first leaf of a tree of two levels."""
    stride = int(region.words[x + at.X_KEYS]) + 2
    child = int(region.words[root(region, x) + at.N_ENTRIES + stride - 1]) - 1
    return int(region.words[x + at.X_NODES]) + child * at.NODE_WORDS


def put(region: StoreRegion, where: int, value: int) -> None:
    assert region.words[where] != value
    region.words[where] = value


def swap(region: StoreRegion, a: int, b: int, count: int) -> None:
    first, second = region.words[a : a + count].copy(), region.words[b : b + count].copy()
    region.words[a : a + count], region.words[b : b + count] = second, first


def repeat_a_key(region: StoreRegion, t: int) -> None:
    """Give row 1 the key of row 0 and move it into the same hash chain."""
    words, links, keys = region.words, int(region.words[t + at.T_NEXT]), t + at.T_BASE
    heads = range(int(words[t + at.T_BUCKETS]), int(words[t + at.T_BUCKETS]) + 180)
    assert words[links] == words[links + 1] == 0
    put(region, next(head for head in heads if words[head] == 2), 0)
    put(region, links, 2)
    put(region, int(words[keys]) + 1, int(words[words[keys]]))


def use_a_node_twice(region: StoreRegion, x: int) -> None:
    """Let the root's second child be its first once more."""
    stride = int(region.words[x + at.X_KEYS]) + 2
    child = root(region, x) + at.N_ENTRIES + stride - 1
    put(region, child + stride, int(region.words[child]))


TABLE_DAMAGE: dict[int, list[Damage]] = {
    verify.COUNTERS: [
        lambda r, t, x: put(r, state(r, t, at.ROW_HIGH), 201),
        lambda r, t, x: put(r, state(r, t, at.ROW_COUNT), -1),
        lambda r, t, x: put(r, t + at.T_ALLOCATED, 201),
    ],
    verify.LIVE_COUNT: [lambda r, t, x: put(r, state(r, t, at.ROW_COUNT), 96)],
    verify.FREE_LIST: [
        lambda r, t, x: put(r, state(r, t, at.FREE), 0),
        lambda r, t, x: put(r, state(r, t, at.FREE), 1),
        lambda r, t, x: put(r, state(r, t, at.FREE), 999),
        lambda r, t, x: put(r, state(r, t, at.PENDING_LAST), 3),
        lambda r, t, x: put(r, int(r.words[t + at.T_LIVE]) + 12, 13),
    ],
    verify.NOT_ZERO: [
        lambda r, t, x: put(r, int(r.words[t + at.T_LIVE]) + 190, 1),
        lambda r, t, x: put(r, int(r.words[t + at.T_NEXT]) + 12, 1),
        lambda r, t, x: put(r, int(r.words[t + at.T_BASE + 1]) + 12, 1),
        lambda r, t, x: put(r, int(r.words[t + at.T_BASE + 2]) + 195, 1),
    ],
    verify.BUCKETS: [
        lambda r, t, x: put(r, state(r, t, at.BUCKET_COUNT), 7),
        lambda r, t, x: put(r, state(r, t, at.BUCKET_COUNT), 201),
        lambda r, t, x: put(r, int(r.words[t + at.T_BUCKETS]) + 199, 1),
    ],
    verify.CHAIN_ROW: [
        lambda r, t, x: put(r, int(r.words[t + at.T_BUCKETS]) + 5, 13),
        lambda r, t, x: put(r, int(r.words[t + at.T_BUCKETS]) + 5, 999),
        lambda r, t, x: put(r, int(r.words[t + at.T_NEXT]) + 20, 21),
    ],
    verify.CHAIN_PLACE: [
        lambda r, t, x: put(r, int(r.words[t + at.T_BASE]) + 20, 5_000_000),
        lambda r, t, x: swap(
            r, int(r.words[t + at.T_BUCKETS]), int(r.words[t + at.T_BUCKETS]) + 90, 60
        ),
    ],
    verify.CHAIN_COUNT: [
        lambda r, t, x: r.words.__setitem__(
            slice(int(r.words[t + at.T_BUCKETS]), int(r.words[t + at.T_BUCKETS]) + 180), 0
        )
    ],
    verify.SAME_KEY: [lambda r, t, x: repeat_a_key(r, t)],
    verify.AUTO_KEY: [lambda r, t, x: put(r, state(r, t, at.AUTO_LAST), 50)],
}

INDEX_DAMAGE: dict[int, list[Damage]] = {
    verify.TREE_COUNTERS: [
        lambda r, t, x: put(r, index_state(r, x, at.HEIGHT), 17),
        lambda r, t, x: put(r, index_state(r, x, at.HEIGHT), 0),
        lambda r, t, x: put(r, index_state(r, x, at.ROOT), 0),
        lambda r, t, x: put(r, index_state(r, x, at.NODE_HIGH), 1000),
    ],
    verify.TREE_NODE: [
        lambda r, t, x: put(r, index_state(r, x, at.ROOT), 1000),
        lambda r, t, x: put(r, root(r, x) + at.N_LINK, 1),
        lambda r, t, x: put(r, root(r, x) + at.N_COUNT, 100),
        lambda r, t, x: put(r, leaf(r, x) + at.N_COUNT, 100),
        lambda r, t, x: use_a_node_twice(r, x),
        lambda r, t, x: put(r, leaf(r, x) + at.NODE_WORDS - 1, 1),
        lambda r, t, x: put(r, root(r, x) + at.N_ENTRIES + int(r.words[x + at.X_KEYS]) + 1, 77),
    ],
    verify.TREE_BOUND: [
        lambda r, t, x: put(r, root(r, x) + at.N_ENTRIES, 1),
        lambda r, t, x: put(
            r, root(r, x) + at.N_ENTRIES + int(r.words[x + at.X_KEYS]) + 2, 1 << 40
        ),
        lambda r, t, x: put(
            r, root(r, x) + at.N_ENTRIES + int(r.words[x + at.X_KEYS]) + 2, -(1 << 40)
        ),
    ],
    verify.TREE_ORDER: [
        lambda r, t, x: swap(
            r,
            leaf(r, x) + at.N_ENTRIES,
            leaf(r, x) + at.N_ENTRIES + 3 * (int(r.words[x + at.X_KEYS]) + 1),
            int(r.words[x + at.X_KEYS]) + 1,
        )
    ],
    verify.TREE_ROW: [
        lambda r, t, x: put(r, leaf(r, x) + at.N_ENTRIES + int(r.words[x + at.X_KEYS]), 12),
        lambda r, t, x: put(r, leaf(r, x) + at.N_ENTRIES + int(r.words[x + at.X_KEYS]), -1),
    ],
    verify.TREE_KEY: [lambda r, t, x: put(r, leaf(r, x) + at.N_ENTRIES, -5)],
    verify.TREE_COUNT: [lambda r, t, x: put(r, index_state(r, x, at.ENTRY_COUNT), 1)],
    verify.TREE_FREE: [
        lambda r, t, x: put(r, index_state(r, x, at.NODE_FREE), 0),
        lambda r, t, x: put(r, index_state(r, x, at.NODE_FREE), 1000),
        lambda r, t, x: put(r, index_state(r, x, at.NODE_FREE), r.index_state(x, at.ROOT)),
        lambda r, t, x: put(r, int(r.words[x + at.X_NODES]) + 60 * at.NODE_WORDS, 1),
    ],
}


@pytest.mark.parametrize("code", TABLE_DAMAGE)
def test_damage_to_a_table_is_named(code: int) -> None:
    for damage in TABLE_DAMAGE[code]:
        region = sound()
        t = region.tables[0]
        damage(region, t, region.index(t, 0))
        assert verify.check(region.words, t) == code
        assert verify.explain(code) == verify.EXPLANATIONS[code]


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("code", INDEX_DAMAGE)
def test_damage_to_an_index_is_named(code: int, number: int) -> None:
    for damage in INDEX_DAMAGE[code]:
        region = sound()
        t = region.tables[0]
        damage(region, t, region.index(t, number))
        found = verify.check(region.words, t)
        assert found == code + verify.INDEX_CODES * (number + 1)
        assert verify.explain(found) == f"index {number}: {verify.EXPLANATIONS[code]}"


def test_a_unique_key_twice_is_named() -> None:
    region = sound()
    words, t = region.words, region.tables[0]
    x = region.index(t, 1)
    first = leaf(region, x) + at.N_ENTRIES
    words[int(words[t + at.T_BASE + 2]) + 1] = 0
    words[first + 2] = 0
    assert verify.check(words, t) == verify.TREE_UNIQUE + 2 * verify.INDEX_CODES


def test_siblings_that_should_be_one_are_named() -> None:
    region = sound()
    words, t = region.words, region.tables[0]
    x = region.index(t, 0)
    bound = root(region, x) + at.N_ENTRIES
    for child in (0, 1):
        node = int(words[x + at.X_NODES]) + at.NODE_WORDS * (int(words[bound + child * 4 + 3]) - 1)
        words[node + at.N_COUNT] = 2
        words[node + at.N_ENTRIES + 6 : node + at.NODE_WORDS] = 0
    assert verify.check(words, t) == verify.TREE_FILL + verify.INDEX_CODES


def test_every_code_has_words() -> None:
    assert set(TABLE_DAMAGE) | set(INDEX_DAMAGE) | {verify.TREE_UNIQUE, verify.TREE_FILL} == set(
        verify.EXPLANATIONS
    )
    assert verify.explain(0) == "nothing is wrong"


def test_checking_changes_nothing() -> None:
    region = sound()
    before = region.data()
    verify.check(region.words, region.tables[0])
    assert region.data() == before
