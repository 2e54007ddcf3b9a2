"""The key's hash index: lookups, growth by single buckets, locality, and undo."""

from __future__ import annotations

from collections import Counter

from tests.store_region import TablePlan, lay_out

from diptych.store import hashing, rows, undo, verify
from diptych.store import words as at


def test_find_by_one_word() -> None:
    region = lay_out(TablePlan(2, capacity=300))
    words, t = region.words, region.tables[0]
    keys = [i * i * (-1) ** i for i in range(300)]
    for key in keys:
        region.argue(key, 1)
        assert rows.insert(words, t) >= 0
    for row, key in enumerate(keys):
        assert hashing.find1(words, t, key) == row
        region.argue(key)
        assert hashing.find(words, t) == row
    assert hashing.find1(words, t, 7) == at.NOT_FOUND
    assert hashing.find1(words, t, -(1 << 63)) == at.NOT_FOUND
    assert hashing.find1(words, t, (1 << 63) - 1) == at.NOT_FOUND
    assert region.state(t, at.BUCKET_COUNT) == 300
    assert verify.check(words, t) == 0


def test_find_by_several_words_takes_them_in_the_keys_order() -> None:
    region = lay_out(TablePlan(4, keys=(2, 0, 3), interleaved=True))
    words, t = region.words, region.tables[0]
    for i in range(100):
        region.argue(i % 5, 1000 + i, i % 7, i // 35)
        assert rows.insert(words, t) == i
    for i in range(100):
        region.argue(i % 7, i % 5, i // 35)
        assert hashing.find(words, t) == i
    region.argue(0, 0, 3)
    assert hashing.find(words, t) == at.NOT_FOUND


def test_find_in_an_empty_table() -> None:
    region = lay_out(TablePlan(1, capacity=0))
    assert hashing.find1(region.words, region.tables[0], 1) == at.NOT_FOUND


def test_buckets_grow_by_one_a_row_and_never_beyond_the_rows_memory() -> None:
    region = lay_out(TablePlan(1, capacity=100, allocated=20))
    words, t = region.words, region.tables[0]
    counts = []
    for key in range(20):
        region.argue(key)
        rows.insert(words, t)
        counts.append(region.state(t, at.BUCKET_COUNT))
    assert counts == [8] * 8 + list(range(9, 21))
    assert verify.check(words, t) == 0


def test_chains_stay_short() -> None:
    region = lay_out(TablePlan(1, capacity=20_000))
    words, t = region.words, region.tables[0]
    # Multiples of a power of two and of a prime, where weak hashes crowd.
    for key in [i << 32 for i in range(10_000)] + [i * 10_007 for i in range(1, 10_001)]:
        region.argue(key)
        rows.insert(words, t)
    next_at, high = int(words[t + at.T_NEXT]), region.state(t, at.ROW_HIGH)
    heads = int(words[t + at.T_BUCKETS])
    lengths = Counter[int]()
    for bucket in range(region.state(t, at.BUCKET_COUNT)):
        link, length = int(words[heads + bucket]), 0
        while link:
            link, length = int(words[next_at + link - 1]), length + 1
        lengths[length] += 1
    assert sum(n * count for n, count in lengths.items()) == high
    assert max(lengths) <= 14
    assert sum(n * n * count for n, count in lengths.items()) / high < 3


def test_consecutive_keys_share_pages_of_buckets() -> None:
    region = lay_out(TablePlan(1, capacity=100_000))
    words, t = region.words, region.tables[0]
    words[words[t + at.T_STATE] + at.BUCKET_COUNT] = 65_536
    key = region.scratch + at.S_KEY
    buckets = []
    for number in range(512 * 9, 512 * 11):
        words[key] = number
        buckets.append(hashing.bucket_of(hashing.hash_key(words, t, key), 65_536))
    assert len({bucket // 512 for bucket in buckets}) == 2
    assert len(set(buckets)) >= 512


def test_the_seed_matters() -> None:
    region = lay_out(TablePlan(1))
    words, t, key = region.words, region.tables[0], region.scratch + at.S_KEY
    words[key] = 42
    first = hashing.hash_key(words, t, key)
    words[at.SEED] += 1
    assert hashing.hash_key(words, t, key) != first


def test_link_and_unlink_are_undone() -> None:
    region = lay_out(TablePlan(1, capacity=64))
    words, t = region.words, region.tables[0]
    for key in range(30):
        region.argue(key)
        rows.insert(words, t)
    before, mark = region.data(), undo.mark(words)
    for row in range(0, 30, 3):
        assert hashing.unlink(words, t, row) == 0
        assert hashing.find1(words, t, row) == at.NOT_FOUND
        assert hashing.unlink(words, t, row) == at.NOT_FOUND
    for row in range(0, 30, 3):
        assert hashing.link(words, t, row) == 0
        assert hashing.find1(words, t, row) == row
    undo.rollback(words, mark)
    assert region.data() == before


def test_a_full_undo_log_changes_nothing() -> None:
    region = lay_out(TablePlan(1, capacity=64))
    words, t = region.words, region.tables[0]
    for key in range(20):
        region.argue(key)
        rows.insert(words, t)
    hashing.unlink(words, t, 5)
    region.begin(2)
    before = region.data()
    words[words[t + at.T_STATE] + at.ROW_COUNT] += 1  # so that linking splits a bucket too
    grown = region.data()
    for limit in range(4):
        region.limit_undo(limit)
        assert hashing.link(words, t, 5) == at.UNDO_FULL
        assert region.data() == grown
        assert hashing.unlink(words, t, 6) == (at.UNDO_FULL if limit < 4 else 0)
    words[words[t + at.T_STATE] + at.ROW_COUNT] -= 1
    assert region.data() == before
