"""Slots of a table: which hold rows, and which may be used next.

A slot is live (-1 in the live column) or free, which means zero in every column and on one of two
lists: `FREE`, whose slots may be used again, and `PENDING`, whose slots were freed by transaction
PENDING_SEQUENCE and wait for it to end, so that a row held by a handler never turns into another
one. The pending list joins the free list when a later transaction first inserts or deletes.

What is in a row, and in which indexes it is, belongs to `rows`.
"""

from __future__ import annotations

from diptych.kernel import kernel
from diptych.memory.layout import Words
from diptych.store.undo import put
from diptych.store.words import (
    FREE,
    GROW_TABLE,
    PENDING,
    PENDING_LAST,
    PENDING_SEQUENCE,
    ROW_COUNT,
    ROW_HIGH,
    S_FAULT,
    SCRATCH,
    SEQUENCE,
    T_ALLOCATED,
    T_CAPACITY,
    T_LIVE,
    T_STATE,
    TABLE_FULL,
    UNDO_FULL,
)

LIVE = -1


@kernel
def is_live(words: Words, t: int, row: int) -> bool:
    """Whether `row`, any number, is a live row of the table."""
    if row < 0 or row >= words[words[t + T_STATE] + ROW_HIGH]:
        return False
    live: bool = words[words[t + T_LIVE] + row] == LIVE
    return live


@kernel
def has_pending(words: Words, t: int) -> bool:
    """Whether there are slots that an earlier transaction freed, for `release_pending`."""
    state = words[t + T_STATE]
    return bool(words[state + PENDING] != 0 and words[state + PENDING_SEQUENCE] != words[SEQUENCE])


@kernel
def release_pending(words: Words, t: int) -> bool:
    """Make them usable again; the state block is saved already. False: undo full."""
    state = words[t + T_STATE]
    last = words[t + T_LIVE] + words[state + PENDING_LAST] - 1
    if not put(words, last, words[state + FREE]):
        return False
    words[state + FREE] = words[state + PENDING]
    words[state + PENDING] = 0
    words[state + PENDING_LAST] = 0
    words[state + PENDING_SEQUENCE] = 0
    return True


@kernel
def take_slot(words: Words, t: int) -> int:
    """A slot for a new row, marked live and counted, or a negative code; the state block is
    saved.
    """
    if has_pending(words, t) and not release_pending(words, t):
        return UNDO_FULL
    state = words[t + T_STATE]
    live = words[t + T_LIVE]
    row = words[state + FREE] - 1
    if row >= 0:
        words[state + FREE] = words[live + row]
    else:
        row = words[state + ROW_HIGH]
        if row >= words[t + T_ALLOCATED] or row >= words[t + T_CAPACITY]:
            words[words[SCRATCH] + S_FAULT] = t
            return TABLE_FULL if row >= words[t + T_CAPACITY] else GROW_TABLE
        words[state + ROW_HIGH] = row + 1
    if not put(words, live + row, LIVE):
        return UNDO_FULL
    words[state + ROW_COUNT] += 1
    taken: int = row
    return taken
