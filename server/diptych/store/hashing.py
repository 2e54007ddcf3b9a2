"""The key's index: linear hashing with chains that run through the rows.

`T_BUCKETS` holds the first row + 1 of each bucket, `T_NEXT` the next row + 1 of each row. When
rows outnumber buckets one bucket is split, so no insert ever pays for a rehash and the index
takes one word a row. `BUCKET_COUNT` never falls: rows that come back find their buckets.

512 keys that differ in the lowest nine bits of their last word share one page of buckets, in an
order of their own, so that keys given out in sequence touch one page and not one each.

The hash is a function of the seed in the header and of the key alone. It multiplies 32-bit halves
only, which cannot overflow, so that it is the same number with and without compilation.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from diptych.kernel import entry_kernel, kernel
from diptych.memory.layout import Words
from diptych.store.budget import is_over_budget
from diptych.store.fields import get_value
from diptych.store.prefetch import prefetch
from diptych.store.undo import mark, put, rollback
from diptych.store.words import (
    BUCKET_COUNT,
    NOT_FOUND,
    OVER_BUDGET,
    ROW_COUNT,
    S_ARGUMENT,
    S_KEY,
    SCRATCH,
    SEED,
    T_ALLOCATED,
    T_BUCKETS,
    T_KEY_VALUE,
    T_KEYS,
    T_NEXT,
    T_STATE,
    UNDO_FULL,
)

LOW_HALF = np.uint64(0xFFFFFFFF)
NOT_NEGATIVE = np.uint64(0x7FFFFFFFFFFFFFFF)
# Odd numbers without a pattern: 32 bits of the fractional parts of square roots of 2, 3, 5, 7.
FACTOR_A = np.uint64(0x6A09E667)
FACTOR_B = np.uint64(0xBB67AE85)
FACTOR_C = np.uint64(0x3C6EF373)
FACTOR_D = np.uint64(0xA54FF53B)
SHIFT_29 = np.uint64(29)
SHIFT_32 = np.uint64(32)
PAGE_BITS = 9
PAGE_LOW = (1 << PAGE_BITS) - 1


@kernel
def mix(value: np.uint64) -> np.uint64:
    """Spread each bit of 64 over all of them."""
    low = (value & LOW_HALF) * FACTOR_A
    high = (value >> SHIFT_32) * FACTOR_B
    value = low ^ (high << SHIFT_32) ^ (high >> SHIFT_32)
    value ^= value >> SHIFT_29
    low = (value & LOW_HALF) * FACTOR_C
    high = (value >> SHIFT_32) * FACTOR_D
    value = low ^ (high << SHIFT_32) ^ (high >> SHIFT_32)
    return value ^ (value >> SHIFT_32)


@kernel
def hash_last(prefix: np.uint64, last: int) -> int:
    """The hash of a key's last word behind what the words before it made of the seed."""
    page: Any = np.int64(mix(prefix ^ np.uint64(last >> PAGE_BITS)) & NOT_NEGATIVE)
    hashed: int = (page & ~PAGE_LOW) | ((last ^ (page >> 40)) & PAGE_LOW)
    return hashed


@kernel
def hash_key(words: Words, t: int, key: int) -> int:
    """The hash, 0 or more, of the key words that stand from `key` on."""
    last_at = key + words[t + T_KEYS] - 1
    prefix = np.uint64(words[SEED])
    for at in range(key, last_at):
        prefix = mix(prefix ^ np.uint64(words[at]))
    return hash_last(prefix, words[last_at])


@kernel
def hash_row(words: Words, t: int, row: int) -> int:
    """The hash of a row's key; leaves the key words in S_KEY."""
    key = words[SCRATCH] + S_KEY
    for i in range(words[t + T_KEYS]):
        value = words[t + T_KEY_VALUE + i]
        words[key + i] = get_value(words, t, value, row)
    return hash_key(words, t, key)


@kernel
def bucket_mask(count: int) -> int:
    """The bits that number `count` buckets: the least 2^n - 1 that is not below `count - 1`."""
    mask = count - 1
    mask |= mask >> 1
    mask |= mask >> 2
    mask |= mask >> 4
    mask |= mask >> 8
    mask |= mask >> 16
    return mask | mask >> 32


@kernel
def bucket_of(hashed: int, count: int) -> int:
    """The bucket of a hash among `count`: one not split off yet is still the one it comes from."""
    mask = bucket_mask(count)
    bucket = hashed & mask
    if bucket >= count:
        bucket &= mask >> 1
    return bucket


@kernel
def find_at(words: Words, t: int, key: int) -> int:
    """The row whose key words are those from position `key` on, or NOT_FOUND."""
    bucket = bucket_of(hash_key(words, t, key), words[words[t + T_STATE] + BUCKET_COUNT])
    keys = words[t + T_KEYS]
    chain = words[t + T_NEXT]
    row = words[words[t + T_BUCKETS] + bucket] - 1
    while row >= 0:
        prefetch(words, chain + row)  # it may be the wrong row: what is behind it comes meanwhile
        same = 0
        while same < keys:
            value = words[t + T_KEY_VALUE + same]
            if get_value(words, t, value, row) != words[key + same]:
                break
            same += 1
        if same == keys:
            found: int = row
            return found
        row = words[chain + row] - 1
    return NOT_FOUND


@entry_kernel
def find(words: Words, t: int) -> int:
    """The row whose key stands in S_ARGUMENT, in the key's order, NOT_FOUND or OVER_BUDGET."""
    if is_over_budget(words):
        return OVER_BUDGET
    return find_at(words, t, words[SCRATCH] + S_ARGUMENT)


@entry_kernel
def find1(words: Words, t: int, k: int) -> int:
    """The row whose one-word key is `k`, NOT_FOUND or OVER_BUDGET."""
    if is_over_budget(words):
        return OVER_BUDGET
    hashed = hash_last(np.uint64(words[SEED]), int(k))
    bucket = bucket_of(hashed, words[words[t + T_STATE] + BUCKET_COUNT])
    value = words[t + T_KEY_VALUE]
    chain = words[t + T_NEXT]
    row = words[words[t + T_BUCKETS] + bucket] - 1
    while row >= 0 and get_value(words, t, value, row) != k:
        row = words[chain + row] - 1
    return row if row >= 0 else NOT_FOUND


@kernel
def split(words: Words, t: int) -> int:
    """Move the rows that belong to one bucket more out of the one they were in; 0 or UNDO_FULL.

    Both chains keep their order, and only links that change are written.
    """
    state = words[t + T_STATE]
    count = words[state + BUCKET_COUNT]
    mask = bucket_mask(count + 1)
    chain = words[t + T_NEXT]
    stay_at = words[t + T_BUCKETS] + (count & mask >> 1)
    move_at = words[t + T_BUCKETS] + count
    link = words[stay_at]
    while link != 0:
        row = link - 1
        if hash_row(words, t, row) & mask == count:
            if words[move_at] != link and not put(words, move_at, link):
                return UNDO_FULL
            move_at = chain + row
        else:
            if words[stay_at] != link and not put(words, stay_at, link):
                return UNDO_FULL
            stay_at = chain + row
        link = words[chain + row]
    if words[move_at] != 0 and not put(words, move_at, 0):
        return UNDO_FULL
    if words[stay_at] != 0 and not put(words, stay_at, 0):
        return UNDO_FULL
    if not put(words, state + BUCKET_COUNT, count + 1):
        return UNDO_FULL
    return 0


@kernel
def link(words: Words, t: int, row: int) -> int:
    """Enter a row, already counted in ROW_COUNT, whose key is not there yet; 0 or UNDO_FULL."""
    start = mark(words)
    state = words[t + T_STATE]
    count = words[state + BUCKET_COUNT]
    if words[state + ROW_COUNT] > count and count < words[t + T_ALLOCATED]:
        failed = split(words, t)
        if failed < 0:
            rollback(words, start)
            return failed
    bucket = bucket_of(hash_row(words, t, row), words[state + BUCKET_COUNT])
    head = words[t + T_BUCKETS] + bucket
    if not (put(words, words[t + T_NEXT] + row, words[head]) and put(words, head, row + 1)):
        rollback(words, start)
        return UNDO_FULL
    return 0


@kernel
def unlink(words: Words, t: int, row: int) -> int:
    """Take a row out, while it still has its key; 0, NOT_FOUND or UNDO_FULL."""
    start = mark(words)
    chain = words[t + T_NEXT]
    bucket = bucket_of(hash_row(words, t, row), words[words[t + T_STATE] + BUCKET_COUNT])
    at = words[t + T_BUCKETS] + bucket
    while words[at] != row + 1:
        if words[at] == 0:
            return NOT_FOUND
        at = chain + words[at] - 1
    if not (put(words, at, words[chain + row]) and put(words, chain + row, 0)):
        rollback(words, start)
        return UNDO_FULL
    return 0
