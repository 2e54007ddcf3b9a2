"""The undo log: what words held before a transaction wrote them, in the writer's scratch.

A record is the old words of one span followed by a trailer that names it, so the log is read from
its end: `words[at : at + count]` is saved as `count` words and then `at | (count - 1) << 40`. The
interpreted lane writes records of one word itself, in the same form. Of a span that was zero the
trailer alone is kept, with its sign bit set.

Every kernel that changes the region saves first, and gives up when there is no room: nothing is
ever written that could not be taken back. A transaction commits by setting `S_UNDO_TOP` to 0.
What a word means is not known here.

Between `begin_pages` and `end_pages` the log is kept in pages, for kernels that write much: the
first write to a page saves all of it, in the same form; later writes to it save nothing. The log
then grows with what was there before, not with what is written. It can go back to where the pages
began and no nearer, so `rollback` does nothing meanwhile: whoever meets an error ends the pages and
lets the whole transaction be undone. A bitmap at the log's far end tells which pages are saved.
While it is in use `S_UNDO_LIMIT` is 0, so that the ordinary way does not know of any of this.
"""

from __future__ import annotations

from diptych.kernel import kernel
from diptych.memory.layout import Words
from diptych.store.spans import clear, copy
from diptych.store.words import (
    PAGE_WORDS,
    S_PAGES,
    S_PAGES_LIMIT,
    S_UNDO,
    S_UNDO_LIMIT,
    S_UNDO_TOP,
    SCRATCH,
)

POSITION_BITS = 40
POSITION_MASK = (1 << POSITION_BITS) - 1
COUNT_MASK = (1 << 63 - POSITION_BITS) - 1
WAS_ZERO = -(1 << 63)
PAGE_BITS = 9
MAP_BITS = 5  # of the bitmap a word holds 32 pages, which keeps its numbers positive
MAP_LOW = (1 << MAP_BITS) - 1


@kernel
def save_page(words: Words, page: int, limit: int) -> bool:
    """Record a whole page; False when `limit` leaves no room for it."""
    scratch = words[SCRATCH]
    top = words[scratch + S_UNDO_TOP]
    record = scratch + S_UNDO + top
    at = page << PAGE_BITS
    used = 0
    for i in range(at, at + PAGE_WORDS):
        used |= words[i]
    if used == 0:
        if top + 1 > limit:
            return False
        words[record] = WAS_ZERO | at | (PAGE_WORDS - 1) << POSITION_BITS
        words[scratch + S_UNDO_TOP] = top + 1
        return True
    if top + PAGE_WORDS + 1 > limit:
        return False
    copy(words, at, record, PAGE_WORDS)
    words[record + PAGE_WORDS] = at | (PAGE_WORDS - 1) << POSITION_BITS
    words[scratch + S_UNDO_TOP] = top + PAGE_WORDS + 1
    return True


@kernel
def save_pages(words: Words, at: int, count: int) -> bool:
    """Record the pages of a span that are not recorded yet; False: no room, or not in page mode."""
    scratch = words[SCRATCH]
    saved = words[scratch + S_PAGES]
    if saved == 0:
        return False
    for page in range(at >> PAGE_BITS, ((at + count - 1) >> PAGE_BITS) + 1):
        spot = saved + (page >> MAP_BITS)
        bit = 1 << (page & MAP_LOW)
        if words[spot] & bit == 0:
            if not save_page(words, page, saved - scratch - S_UNDO):
                return False
            words[spot] |= bit
    return True


@kernel
def put_in_page(words: Words, at: int, value: int) -> bool:
    """`put` when the log kept in words has no room, which it never has in page mode."""
    if not save_pages(words, at, 1):
        return False
    words[at] = value
    return True


@kernel
def begin_pages(words: Words) -> bool:
    """Keep the log in pages from now on; False when there is no room for the bitmap."""
    scratch = words[SCRATCH]
    limit = words[scratch + S_UNDO_LIMIT]
    count = (scratch >> PAGE_BITS >> MAP_BITS) + 1
    if words[scratch + S_UNDO_TOP] + count > limit:
        return False
    saved = scratch + S_UNDO + limit - count
    clear(words, saved, count)
    words[scratch + S_PAGES] = saved
    words[scratch + S_PAGES_LIMIT] = limit
    words[scratch + S_UNDO_LIMIT] = 0
    return True


@kernel
def end_pages(words: Words) -> int:
    """Keep the log in words again, after the pages that are in it; returns 0."""
    scratch = words[SCRATCH]
    words[scratch + S_UNDO_LIMIT] = words[scratch + S_PAGES_LIMIT]
    words[scratch + S_PAGES] = 0
    return 0


@kernel
def keep(words: Words, at: int, count: int) -> int:
    """Record `words[at : at + count]`, 1 or more words; where the record has them.

    -1 when the log has no room for it, or is kept in pages: a page may be recorded already, as it
    was before.
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
    """Record `words[at : at + count]`, 1 or more words; False when the log has no room for it."""
    return keep(words, at, count) >= 0 or save_pages(words, at, count)


@kernel
def save_zeros(words: Words, at: int, count: int) -> bool:
    """Record that `count` words, 1 or more, are 0 now; False when the log has no room for it."""
    scratch = words[SCRATCH]
    top = words[scratch + S_UNDO_TOP]
    if top + 1 > words[scratch + S_UNDO_LIMIT]:
        return save_pages(words, at, count)
    words[scratch + S_UNDO + top] = WAS_ZERO | at | (count - 1) << POSITION_BITS
    words[scratch + S_UNDO_TOP] = top + 1
    return True


@kernel
def put(words: Words, at: int, value: int) -> bool:
    """Record one word and set it to `value`; False, and nothing written, when the log is full."""
    scratch = words[SCRATCH]
    top = words[scratch + S_UNDO_TOP]
    if top + 2 > words[scratch + S_UNDO_LIMIT]:
        return put_in_page(words, at, value)
    record = scratch + S_UNDO + top
    words[record] = words[at]
    words[record + 1] = at
    words[scratch + S_UNDO_TOP] = top + 2
    words[at] = value
    return True


@kernel
def put_new(words: Words, at: int, value: int) -> bool:
    """The same where the word is 0: the log then needs half as much."""
    scratch = words[SCRATCH]
    top = words[scratch + S_UNDO_TOP]
    if top + 1 > words[scratch + S_UNDO_LIMIT]:
        return put_in_page(words, at, value)
    words[scratch + S_UNDO + top] = WAS_ZERO | at
    words[scratch + S_UNDO_TOP] = top + 1
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
    if words[scratch + S_PAGES] != 0:
        return 0
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
