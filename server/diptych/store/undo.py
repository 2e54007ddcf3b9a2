"""The undo log: what words held before a transaction wrote them, in the writer's scratch.

A record is the old words of one span followed by a trailer that names it, so the log is read from
its end: `words[at : at + count]` is saved as `count` words and then `at | (count - 1) << 40`. The
interpreted lane writes records of one word itself, in the same form. Of a span that was zero the
trailer alone is kept, with its sign bit set.

Every kernel that changes the region saves first, and gives up when there is no room: nothing is
ever written that could not be taken back. A transaction commits by setting `S_UNDO_TOP` to 0.
What a word means is not known here.
"""

from __future__ import annotations

from diptych.kernel import kernel
from diptych.memory.layout import Words
from diptych.store.spans import clear, copy
from diptych.store.words import S_UNDO, S_UNDO_LIMIT, S_UNDO_TOP, SCRATCH

POSITION_BITS = 40
POSITION_MASK = (1 << POSITION_BITS) - 1
COUNT_MASK = (1 << 63 - POSITION_BITS) - 1
WAS_ZERO = -(1 << 63)


@kernel
def keep(words: Words, at: int, count: int) -> int:
    """Record `words[at : at + count]`, 1 or more words; where the record has them, or -1 when the
    log has no room for it.
    """
    scratch = words[SCRATCH]
    top = words[scratch + S_UNDO_TOP]
    if top + count + 1 > words[scratch + S_UNDO_LIMIT]:
        return -1
    record: int = scratch + S_UNDO + top
    copy(words, at, record, count)
    words[record + count] = at | (count - 1) << POSITION_BITS
    words[scratch + S_UNDO_TOP] = top + count + 1
    return record


@kernel
def save(words: Words, at: int, count: int) -> bool:
    """`keep`, for who does not need to know where; False when the log has no room."""
    return keep(words, at, count) >= 0


@kernel
def save_zeros(words: Words, at: int, count: int) -> bool:
    """Record that `count` words, 1 or more, are 0 now; False when the log has no room for it."""
    scratch = words[SCRATCH]
    top = words[scratch + S_UNDO_TOP]
    if top + 1 > words[scratch + S_UNDO_LIMIT]:
        return False
    words[scratch + S_UNDO + top] = WAS_ZERO | at | (count - 1) << POSITION_BITS
    words[scratch + S_UNDO_TOP] = top + 1
    return True


@kernel
def put(words: Words, at: int, value: int) -> bool:
    """Record one word and set it to `value`; False, and nothing written, when the log is full."""
    scratch = words[SCRATCH]
    top = words[scratch + S_UNDO_TOP]
    if top + 2 > words[scratch + S_UNDO_LIMIT]:
        return False
    record = scratch + S_UNDO + top
    words[record] = words[at]
    words[record + 1] = at
    words[scratch + S_UNDO_TOP] = top + 2
    words[at] = value
    return True


@kernel
def mark(words: Words) -> int:
    """The log's length now: what `rollback` goes back to."""
    top: int = words[words[SCRATCH] + S_UNDO_TOP]
    return top


@kernel
def rollback(words: Words, mark: int) -> int:
    """Write recorded words back, newest first, until the log is `mark` words long; returns 0."""
    scratch = words[SCRATCH]
    top = words[scratch + S_UNDO_TOP]
    while top > mark:
        trailer = words[scratch + S_UNDO + top - 1]
        at = trailer & POSITION_MASK
        count = (trailer >> POSITION_BITS & COUNT_MASK) + 1
        top -= 1
        if trailer < 0:
            clear(words, at, count)
        else:
            top -= count
            copy(words, scratch + S_UNDO + top, at, count)
    words[scratch + S_UNDO_TOP] = top
    return 0
