"""The verifier: silent on sound tables, and naming what is wrong in damaged ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import numpy as np
import pytest
from tests.store_region import IndexPlan, StoreRegion, TablePlan, lay_out

from diptych import App, bits, key, text
from diptych.store import heap, rows, verify, verify_heap
from diptych.store import layout as layouts
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


HEAP_WORDS = 500
PACKS = (0, 2 | at.PACK_SIGNED, 6, 3, at.PACK_HEAP, 0, 6)


def sound_heap() -> StoreRegion:
    """A table with narrow columns, None, and a heap with free blocks and memory never used.

    Row 1 has the value of 19 bytes in words 3 to 5, and rows 2 and 3 are deleted.
    """
    region = lay_out(TablePlan(7, capacity=21, packs=PACKS, heap_words=HEAP_WORDS))
    words, t = region.words, region.tables[0]
    for i in range(10):
        reference = heap.store(words, t, region.blob(b"value %d of the heap" % i))
        region.argue(i, -1, 1, i, reference, 0, 0)
        assert rows.insert(words, t) == i
    for row in (2, 3):
        assert rows.delete(words, t, row) == 0
    assert verify.check(words, t) == 0
    return region


def heap_word(region: StoreRegion, number: int) -> int:
    return int(region.words[region.tables[0] + at.T_HEAP]) + number


def heap_state(region: StoreRegion, number: int) -> int:
    return int(region.words[region.tables[0] + at.T_HEAP_STATE]) + number


def reference(region: StoreRegion, row: int) -> int:
    return int(region.words[region.tables[0] + at.T_BASE + 4]) + row


def narrow(region: StoreRegion, value: int) -> int:
    return int(region.words[region.tables[0] + at.T_BASE + value])


THREE = at.H_LISTS + 2  # the list of blocks of three words
HEAP_DAMAGE: dict[int, list[Callable[[StoreRegion], object]]] = {
    verify.NOT_ZERO: [
        # Behind row 20, in the last word of a column.
        lambda r: put(r, narrow(r, 1) + 5, 1 << 16),
        lambda r: put(r, narrow(r, 2), 0x3F3 | 1 << 21),
        lambda r: put(r, narrow(r, 3) + 2, -1 << 56),
        # Rows 2 and 12, which are free.
        lambda r: put(r, narrow(r, 3), int(r.words[narrow(r, 3)]) | 5 << 16),
        lambda r: put(r, narrow(r, 2), 0x3F3 | 1 << 12),
    ],
    verify.NONE_VALUE: [
        lambda r: put(r, narrow(r, 2), 0x3F2),
        lambda r: put(r, narrow(r, 5) + 4, 1),
    ],
    verify_heap.HEAP_COUNTERS: [
        lambda r: put(r, heap_state(r, at.H_TOP), HEAP_WORDS + 1),
        lambda r: put(r, heap_state(r, at.H_TOP), -1),
        lambda r: put(r, heap_state(r, at.H_USED), 25),
        lambda r: put(r, heap_state(r, at.H_FREE), 3),
        lambda r: put(r, heap_state(r, at.H_LISTS + heap.CLASSES), 1),
        lambda r: put(r, heap_state(r, at.HEAP_STATE_WORDS - 1), 1),
        lambda r: put(r, r.tables[0] + at.T_HEAP_ALLOCATED, HEAP_WORDS + 1),
        lambda r: put(r, r.tables[0] + at.T_HEAP_ALLOCATED, 29),
        lambda r: put(r, reference(r, 1), 0),
    ],
    verify_heap.HEAP_REFERENCE: [
        lambda r: put(r, reference(r, 1), 2 << at.REFERENCE_BITS | 20),
        lambda r: put(r, reference(r, 0), 32),
        lambda r: put(r, reference(r, 1), 30 << at.REFERENCE_BITS | 20),
        lambda r: put(r, reference(r, 1), 1 << 60 | 20),
        lambda r: put(r, reference(r, 1), -1 << at.REFERENCE_BITS | 20),
        lambda r: put(r, reference(r, 1), 3 << at.REFERENCE_BITS),
        lambda r: put(r, heap_state(r, at.H_TOP), 28),
    ],
    verify_heap.HEAP_TAIL: [
        lambda r: put(r, heap_word(r, 5), int(r.words[heap_word(r, 5)]) | 1 << 40),
        lambda r: put(r, heap_word(r, 5), int(r.words[heap_word(r, 5)]) | -1 << 63),
        lambda r: put(r, reference(r, 1), 3 << at.REFERENCE_BITS | 18),
    ],
    verify_heap.HEAP_LISTS: [
        lambda r: put(r, heap_word(r, 6), 7),
        lambda r: put(r, heap_word(r, 7), 1),
        lambda r: put(r, heap_word(r, 6), HEAP_WORDS + 1),
        lambda r: put(r, heap_word(r, 6), -5),
        lambda r: put(r, heap_state(r, THREE), 4),
        lambda r: put(r, heap_state(r, THREE - 1), 8),
        lambda r: put(r, heap_state(r, at.H_TOP), 33),
    ],
    verify_heap.HEAP_UNUSED: [
        lambda r: put(r, heap_word(r, 30), 1),
        lambda r: put(r, heap_word(r, HEAP_WORDS - 1), -1),
    ],
}


@pytest.mark.parametrize("code", HEAP_DAMAGE)
def test_damage_to_narrow_columns_and_heaps_is_named(code: int) -> None:
    for number, damage in enumerate(HEAP_DAMAGE[code]):
        region = sound_heap()
        damage(region)
        assert verify.check(region.words, region.tables[0]) == code, number
        assert verify.explain(code) == verify.EXPLANATIONS[code]


def test_none_of_several_words_is_zero_in_all_of_them() -> None:
    class Person:
        number: int = key()
        name: Annotated[str, text(20)] | None
        half: Annotated[int, bits(16)] | None

    app = App("people")
    app.table(capacity=100)(Person)
    layout = layouts.of_app(app)
    words = np.zeros(layout.scratch_word + at.S_UNDO + 1000, np.int64)
    layout.format(words, history=1, seed=1)
    table = layout.tables[0]
    t = table.descriptor
    words[t + at.T_ALLOCATED] = 100
    words[layout.scratch_word + at.S_UNDO_LIMIT] = 1000
    argument = layout.scratch_word + at.S_ARGUMENT
    for number, values in enumerate([(7, 7, 7, 1, -7, 1), (0, 0, 0, 0, 0, 0)]):
        words[argument : argument + 7] = number, *values
        assert rows.insert(words, t) == number
    assert verify.check(words, t) == 0
    for value, where in ((1, 3), (2, 3), (3, 3)):
        words[table.bases[value] + where] = 1
        assert verify.check(words, t) == verify.NONE_VALUE
        words[table.bases[value] + where] = 0
    words[table.bases[5]] |= 1 << 16
    assert verify.check(words, t) == verify.NONE_VALUE


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
    planted = {*TABLE_DAMAGE, *INDEX_DAMAGE, *HEAP_DAMAGE, verify.TREE_UNIQUE, verify.TREE_FILL}
    assert planted == set(verify.EXPLANATIONS)
    assert verify.explain(0) == "nothing is wrong"


def test_checking_changes_nothing() -> None:
    for region in (sound(), sound_heap()):
        before = region.data()
        verify.check(region.words, region.tables[0])
        assert region.data() == before
