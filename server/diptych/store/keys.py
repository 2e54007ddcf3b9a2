"""Keys that callers gave to transactions of their own accord: each runs once for as long as it is
kept.

Rows in a ring, in order of time, found by a hash with chains through the rows. The oldest are
forgotten when they are older than KEYS_KEPT_NS, some with each new one; while there are as many as
the ring takes, new ones are refused. A short answer lies in the row and is kept as long as the key;
a longer one in `answers`, which may be written over earlier. Nothing here is undone.
"""

from __future__ import annotations

import numpy as np

from diptych.kernel import kernel
from diptych.memory.layout import Words
from diptych.store.answers import append, entry_at, has_room
from diptych.store.hashing import NOT_NEGATIVE, mix
from diptych.store.spans import clear, copy
from diptych.store.words import (
    A_PAYLOAD,
    BURNT,
    GROW_ANSWERS,
    GROW_KEYS,
    K_CHECK,
    K_INLINE,
    K_LENGTH,
    K_NAME,
    K_NEXT,
    K_POSITION,
    K_SEQUENCE,
    K_TIME,
    K_WHAT,
    KEY_BUCKETS,
    KEY_INLINE_BYTES,
    KEY_NAME_WORDS,
    KEY_ROW_WORDS,
    KEYS,
    KEYS_ALLOCATED,
    KEYS_HEAD,
    KEYS_TAIL,
    KEYS_WORDS,
    NOW,
    REQUEST_CONFLICT,
    REQUEST_NEW,
    REQUESTS_FULL,
    S_ARGUMENT,
    SCRATCH,
    SEQUENCE,
)

KEYS_KEPT_NS = 24 * 3600 * 1_000_000_000
FORGOTTEN_AT_ONCE = 4


@kernel
def rows_max(words: Words) -> int:
    """How many keys the ring takes."""
    count: int = (words[KEYS_WORDS] - words[KEY_BUCKETS]) // KEY_ROW_WORDS
    return count


@kernel
def key_row(words: Words, count: int) -> int:
    """Word position of the row of key number `count`, counted since the beginning."""
    slot = count % rows_max(words)
    row: int = words[KEYS] + words[KEY_BUCKETS] + slot * KEY_ROW_WORDS
    return row


@kernel
def bucket_of(words: Words, name: int) -> int:
    """Word position of the bucket of the caller and key that stand at `name`."""
    mixed = np.uint64(0)
    for i in range(KEY_NAME_WORDS):
        mixed = mix(mixed ^ np.uint64(words[name + i]))
    bucket: int = words[KEYS] + (np.int64(mixed & NOT_NEGATIVE) & (words[KEY_BUCKETS] - 1))
    return bucket


@kernel
def row_at(words: Words, link: int) -> int:
    """Word position of the row that a link, row + 1, leads to."""
    row: int = words[KEYS] + words[KEY_BUCKETS] + (link - 1) * KEY_ROW_WORDS
    return row


@kernel
def find_key(words: Words) -> int:
    """The row of the caller and key in S_ARGUMENT, or 0 when there is none, or an old one."""
    if words[KEYS_ALLOCATED] == 0:
        return 0
    name = words[SCRATCH] + S_ARGUMENT
    link = words[bucket_of(words, name)]
    while link != 0:
        row = row_at(words, link)
        i = 0
        while i < KEY_NAME_WORDS and words[row + K_NAME + i] == words[name + i]:
            i += 1
        if i == KEY_NAME_WORDS:
            return row if words[NOW] - words[row + K_TIME] <= KEYS_KEPT_NS else 0
        link = words[row + K_NEXT]
    return 0


@kernel
def forget_oldest(words: Words) -> bool:
    """Drop the oldest key if it was kept for long enough; whether it was."""
    tail = words[KEYS_TAIL]
    if tail == words[KEYS_HEAD]:
        return False
    row = key_row(words, tail)
    if words[NOW] - words[row + K_TIME] <= KEYS_KEPT_NS:
        return False
    link = tail % rows_max(words) + 1
    spot = bucket_of(words, row + K_NAME)
    while words[spot] != link:
        spot = row_at(words, words[spot]) + K_NEXT
    words[spot] = words[row + K_NEXT]
    clear(words, row, KEY_ROW_WORDS)
    words[KEYS_TAIL] = tail + 1
    return True


@kernel
def make_room(words: Words) -> int:
    """Room for one more key: REQUEST_NEW, or why there is none."""
    for _ in range(FORGOTTEN_AT_ONCE):
        if not forget_oldest(words):
            break
    head = words[KEYS_HEAD]
    if head - words[KEYS_TAIL] >= rows_max(words):
        return REQUESTS_FULL
    if key_row(words, head) + KEY_ROW_WORDS > words[KEYS] + words[KEYS_ALLOCATED]:
        return GROW_KEYS
    return REQUEST_NEW


@kernel
def admit_key(words: Words, check: int) -> int:
    """The row of the key in S_ARGUMENT, or REQUEST_NEW if a frame with this hash may run, or why
    not.
    """
    row = find_key(words)
    if row != 0:
        same = words[row + K_CHECK] == check or words[row + K_WHAT] & BURNT != 0
        return row if same else REQUEST_CONFLICT
    code = make_room(words)
    if code == REQUEST_NEW and not has_room(words):
        return GROW_ANSWERS
    return code


@kernel
def remember_key(words: Words, check: int, what: int, length: int) -> int:
    """Note what the key in S_ARGUMENT was answered: where the payload goes, or 0 for nowhere.

    Without memory for the row nothing is noted.
    """
    if make_room(words) != REQUEST_NEW:
        return 0
    head = words[KEYS_HEAD]
    row = key_row(words, head)
    clear(words, row, KEY_ROW_WORDS)
    copy(words, words[SCRATCH] + S_ARGUMENT, row + K_NAME, KEY_NAME_WORDS)
    words[row + K_CHECK] = check
    words[row + K_TIME] = words[NOW]
    words[row + K_SEQUENCE] = words[SEQUENCE]
    words[row + K_WHAT] = what
    words[row + K_LENGTH] = length
    payload = 0
    if length <= KEY_INLINE_BYTES:
        payload = row + K_INLINE
    else:
        position = append(words, 0, check, what, length, words[SEQUENCE], 0)
        if position >= 0:
            words[row + K_POSITION] = position
            payload = entry_at(words, position) + A_PAYLOAD
    bucket = bucket_of(words, row + K_NAME)
    words[row + K_NEXT] = words[bucket]
    words[bucket] = head % rows_max(words) + 1
    words[KEYS_HEAD] = head + 1
    return payload
