"""A heap: where values go, what becomes of freed blocks, limits, atomicity and compacting."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from tests.store_region import StoreRegion, TablePlan, lay_out

from diptych.store import heap, heap_bulk, rows, undo, verify
from diptych.store import words as at

CAPACITY = 200
LENGTHS = [0, 1, 7, 8, 9, 16, 17, 24, 25, 63, 64, 65, 100, 500, 1000]


def empty(heap_words: int = 4096, allocated: int | None = None, **settings: int) -> StoreRegion:
    """A table of a key and two values in the heap."""
    packs = (0, at.PACK_HEAP, at.PACK_HEAP)
    plan = TablePlan(
        3, capacity=CAPACITY, packs=packs, heap_words=heap_words, heap_allocated=allocated
    )
    return lay_out(plan, **settings)


def content(seed: int, length: int) -> bytes:
    return random.Random(seed).randbytes(length)


def store(region: StoreRegion, data: bytes) -> int:
    return int(heap.store(region.words, region.tables[0], region.blob(data)))


def assign(region: StoreRegion, row: int, data: bytes, value: int = 1) -> int:
    return int(heap.assign(region.words, region.tables[0], row, value, region.blob(data)))


def insert(region: StoreRegion, key: int, first: bytes = b"", second: bytes = b"") -> int:
    references = store(region, first), store(region, second)
    assert min(references) >= 0
    region.argue(key, *references)
    return int(rows.insert(region.words, region.tables[0]))


def read(region: StoreRegion, row: int, value: int = 1) -> bytes:
    t = region.tables[0]
    return region.heap_bytes(t, region.value(t, row, value))


def counters(region: StoreRegion) -> tuple[int, int, int]:
    t = region.tables[0]
    return (
        region.heap_state(t, at.H_TOP),
        region.heap_state(t, at.H_USED),
        region.heap_state(t, at.H_FREE),
    )


def is_sound(region: StoreRegion) -> bool:
    code = verify.check(region.words, region.tables[0])
    assert code == 0, verify.explain(code)
    return region.guards_hold()


def test_classes_of_blocks_grow_by_a_half_and_a_third() -> None:
    sizes = [heap.class_words(number) for number in range(heap.CLASSES)]
    assert sizes[:10] == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32]
    assert sizes == sorted(set(sizes))
    assert sizes[-1] * 8 == at.HEAP_VALUE_BYTES_MAX + 1
    assert at.H_LISTS + heap.CLASSES <= at.HEAP_STATE_WORDS
    for number, size in enumerate(sizes):
        assert heap.class_of(size) == number
        assert heap.class_of(size - 1) == max(0, number - (number < 4 or size - 1 in sizes))


@pytest.mark.parametrize("length", LENGTHS)
def test_what_was_stored_is_read(length: int) -> None:
    region = empty()
    data = content(length, length)
    assert insert(region, 1, data, data[::-1]) == 0
    assert read(region, 0, 1) == data
    assert read(region, 0, 2) == data[::-1]
    assert is_sound(region)


def test_the_empty_value_has_no_block() -> None:
    region = empty()
    before = region.data()
    assert store(region, b"") == 0
    assert heap.release(region.words, region.tables[0], 0) == 0
    assert region.data() == before


@pytest.mark.parametrize("length", [-1, -(1 << 63), at.HEAP_VALUE_BYTES_MAX + 1, (1 << 63) - 1])
def test_lengths_that_no_value_has_are_refused(length: int) -> None:
    region = empty()
    insert(region, 1, b"value")
    t, before = region.tables[0], region.data()
    assert heap.store(region.words, t, length) == at.HEAP_FULL
    assert heap.assign(region.words, t, 0, 1, length) == at.HEAP_FULL
    assert region.fault == t + at.T_HEAP
    assert region.data() == before


def test_the_longest_value() -> None:
    words = 1 << 21
    region = empty(words, undo_words=words + 100)
    data = bytes(range(256)) * (1 << 16)
    assert insert(region, 1, data[:-1]) == 0
    assert read(region, 0) == data[:-1]
    assert counters(region) == (words, words, 0)
    assert is_sound(region)
    assert store(region, b"x") == at.HEAP_FULL
    region.begin(2)
    before = region.data()
    assert rows.delete(region.words, region.tables[0], 0) == 0
    assert counters(region) == (words, 0, words)
    undo.rollback(region.words, 0)
    assert region.data() == before


def test_deleting_a_row_frees_its_values_and_leaves_zero() -> None:
    region = empty()
    t = region.tables[0]
    for key in range(3):
        insert(region, key, content(key, 50), content(key, 20))
    assert counters(region) == (33, 33, 0)
    assert rows.delete(region.words, t, 1) == 0
    assert counters(region) == (33, 22, 11)
    assert is_sound(region)
    first = int(region.words[t + at.T_HEAP]) + 11
    assert region.words[first : first + 11].tolist() == [0] * 11
    # The two blocks are used again, and nothing new is.
    assert insert(region, 9, content(9, 64), content(9, 17)) == 3
    assert counters(region) == (33, 33, 0)
    assert [read(region, row) for row in (0, 2, 3)] == [
        content(0, 50),
        content(2, 50),
        content(9, 64),
    ]
    assert is_sound(region)


def test_the_block_freed_last_is_used_first() -> None:
    region = empty()
    for key in range(5):
        insert(region, key, b"12345678")
    for row in (3, 0, 4):
        assert assign(region, row, b"") == 0
    assert [store(region, b"new") >> at.REFERENCE_BITS for _ in range(4)] == [4, 0, 3, 5]


def test_a_value_of_its_old_block_s_size_stays_in_place() -> None:
    region = empty()
    insert(region, 1, content(1, 60))
    for length in (64, 49, 57, 60):
        data = content(length, length)
        assert assign(region, 0, data) == 0
        assert read(region, 0) == data
        assert counters(region) == (8, 8, 0)
        assert is_sound(region)
    assert assign(region, 0, content(2, 48)) == 0
    assert counters(region) == (14, 6, 8)
    assert is_sound(region)


def test_assigning_nothing_frees() -> None:
    region = empty()
    insert(region, 1, content(1, 60), b"other")
    assert assign(region, 0, b"") == 0
    assert region.values(region.tables[0], 0)[1] == 0
    assert read(region, 0, 2) == b"other"
    assert counters(region) == (9, 1, 8)
    assert is_sound(region)


@pytest.mark.parametrize(("row", "value"), [(-1, 1), (1, 1), (1 << 40, 1), (0, 0), (0, 3), (0, -1)])
def test_what_is_no_value_in_the_heap_is_not_assigned(row: int, value: int) -> None:
    region = empty()
    insert(region, 1, b"value")
    before = region.data()
    assert assign(region, row, b"other", value) == at.NOT_LIVE
    assert region.data() == before


def test_a_heap_asks_for_memory_and_says_how_much() -> None:
    region = empty(heap_words=4096, allocated=10)
    t = region.tables[0]
    insert(region, 1, content(1, 64))
    before = region.data()
    assert store(region, content(2, 65)) == at.GROW_HEAP
    assert region.fault == t + at.T_HEAP
    assert region.words[region.scratch + at.S_HEAP_WORDS] == 8 + 12
    assert assign(region, 0, content(3, 80)) == at.GROW_HEAP
    assert region.data() == before
    region.words[t + at.T_HEAP_ALLOCATED] = 20
    assert store(region, content(2, 65)) == 8 << at.REFERENCE_BITS | 65


def test_free_blocks_are_cut_before_memory_is_asked_for() -> None:
    region = empty(heap_words=4096, allocated=32)
    insert(region, 1, content(1, 256))
    assert assign(region, 0, b"") == 0
    assert insert(region, 2, b"a") == 1
    # 31 words are left: 24, 6 and 1.
    assert counters(region) == (32, 1, 31)
    assert is_sound(region)
    positions = [store(region, bytes(size)) >> at.REFERENCE_BITS for size in (192, 48, 8)]
    assert positions == [1, 25, 31]
    assert store(region, b"a") == at.GROW_HEAP


def fragmented() -> StoreRegion:
    """A heap of 64 words, all used, every other block of 2 free."""
    region = empty(heap_words=64)
    for key in range(32):
        insert(region, key, content(key, 16))
    for row in range(0, 32, 2):
        assert rows.delete(region.words, region.tables[0], row) == 0
    region.begin(2)
    return region


def test_pieces_are_put_together_once_a_transaction() -> None:
    region = fragmented()
    words, t = region.words, region.tables[0]
    before = region.data()
    assert store(region, content(1, 24)) == at.COMPACT_HEAP
    assert region.fault == t + at.T_HEAP
    assert store(region, content(1, 264)) == at.HEAP_FULL
    assert region.data() == before
    assert heap_bulk.compact(words, t) == 32
    assert counters(region) == (32, 32, 0)
    for row in range(1, 32, 2):
        assert read(region, row) == content(row, 16)
    assert is_sound(region)
    assert insert(region, 100, content(1, 24 * 8)) >= 0
    # What this transaction frees is in pieces again; the next one may compact.
    for row in range(1, 17, 2):
        assert rows.delete(words, t, row) == 0
    assert store(region, content(1, 72)) == at.HEAP_FULL
    region.begin(3)
    assert store(region, content(1, 72)) == at.COMPACT_HEAP


def test_compacting_is_not_worth_it_for_little() -> None:
    region = empty(heap_words=640)
    for key in range(64):
        insert(region, key, content(key, 64), content(key, 16))
    assert counters(region) == (640, 640, 0)
    region.begin(2)
    for row in range(4):
        assert assign(region, row, b"", 2) == 0
    assert store(region, content(1, 24)) == at.HEAP_FULL
    assert assign(region, 4, b"", 2) == 0
    assert store(region, content(1, 24)) == at.COMPACT_HEAP


def test_compacting_an_empty_and_a_full_heap() -> None:
    region = empty()
    words, t = region.words, region.tables[0]
    assert heap_bulk.compact(words, t) == 0
    assert insert(region, 1, content(1, 30), content(2, 30)) == 0
    assert heap_bulk.compact(words, t) == 0
    assert counters(region) == (8, 8, 0)
    assert rows.delete(words, t, 0) == 0
    assert heap_bulk.compact(words, t) == 8
    assert counters(region) == (0, 0, 0)
    assert not words[words[t + at.T_HEAP] :][:4096].any()
    assert is_sound(region)


def test_the_bytes_are_a_function_of_what_was_done() -> None:
    """Whatever was undone in between, and whether a block was used before."""
    plain, other = empty(), empty()
    for region in (plain, other):
        numbers = random.Random(4)
        for step in range(300):
            region.begin(2 + step // 4)
            row, data = numbers.randrange(40), content(step, numbers.choice(LENGTHS[:-2]))
            if step < 40:
                insert(region, step, data, data)
            elif assign(region, row, data, 1 + step % 2) != 0:
                rows.delete(region.words, region.tables[0], row)
            if region is other:
                mark = undo.mark(region.words)
                assert store(region, content(step, step + 1)) >= 0
                assign(region, step % 40, content(step, 70))
                rows.delete(region.words, region.tables[0], step % 40)
                undo.rollback(region.words, mark)
    assert plain.data() == other.data()
    assert is_sound(plain)


WORK: dict[str, tuple[int, Callable[[StoreRegion], int]]] = {
    "new memory": (64, lambda region: store(region, content(3, 96))),
    "a free block": (40, lambda region: store(region, content(3, 100))),
    "a free block cut": (40, lambda region: store(region, content(3, 60))),
    "another block": (40, lambda region: assign(region, 0, content(3, 90))),
    "the same block": (40, lambda region: assign(region, 0, content(3, 120))),
    "no block any more": (40, lambda region: assign(region, 0, b"")),
    "a row deleted": (40, lambda region: int(rows.delete(region.words, region.tables[0], 0))),
}


@pytest.mark.parametrize("work", WORK)
def test_undo_full_at_every_point_changes_nothing(work: str) -> None:
    heap_words, act = WORK[work]
    region = empty(heap_words)
    insert(region, 1, content(1, 100), content(2, 33))
    insert(region, 2, content(1, 16 * 8), b"small")
    assert assign(region, 1, b"") == 0
    region.begin(2)
    before = region.data()
    for limit in range(1000):
        region.limit_undo(limit)
        code = act(region)
        if code >= 0:
            break
        assert code == at.UNDO_FULL
        assert region.data() == before
        assert undo.mark(region.words) == 0
    assert code >= 0
    assert limit > 4
    undo.rollback(region.words, 0)
    assert region.data() == before
    assert is_sound(region)


def test_copying_out_many_values() -> None:
    region = empty()
    words, t = region.words, region.tables[0]
    values = [content(length, length) for length in LENGTHS[:12]]
    for key, data in enumerate(values):
        insert(region, key, data)
    chosen = np.array([3, 0, 11, 5, 5, 2])
    offsets = np.full(len(chosen) + 1, -1)
    expected = [values[row] for row in chosen]
    total = heap_bulk.measure(words, t, 1, chosen, offsets)
    assert total == sum(map(len, expected))
    out = np.zeros(total, np.uint8)
    assert heap_bulk.gather(words, t, 1, chosen, offsets, out) == total
    assert out.tobytes() == b"".join(expected)
    assert [out[a:b].tobytes() for a, b in pairwise(offsets)] == expected
    assert heap_bulk.measure(words, t, 1, chosen[:0], offsets[:1]) == 0
