"""Rows: insert, delete and update, with the key's index and the ordered indexes kept in step.

Each call is atomic by itself: when it returns a negative number it has undone what it did, and
the region is what it was. `S_FAULT` then names the table or index that refused.

Which slots hold rows is `slots`' business. A value in the heap is given as its reference, which
`insert` takes over and `delete` frees; to change one is `heap`'s.

Types, defaults, references and the handler's view of a row belong to the layers above.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from diptych.kernel import entry_kernel, kernel
from diptych.memory.layout import Words
from diptych.store.btree import add, add_on, remove, remove_on
from diptych.store.budget import is_over_budget
from diptych.store.fields import get_packed, get_value, put_packed, put_value, whole_at
from diptych.store.hashing import find_at, link, unlink
from diptych.store.heap import release_row
from diptych.store.slots import LIVE, has_pending, is_live, release_pending, take_slot
from diptych.store.undo import mark, put, put_new, rollback, save
from diptych.store.ways import find_ways, way_of
from diptych.store.words import (
    AUTO_LAST,
    DUPLICATE_KEY,
    INDEX_WORDS,
    NOT_FOUND,
    NOT_LIVE,
    OVER_BUDGET,
    PENDING,
    PENDING_LAST,
    PENDING_SEQUENCE,
    ROW_COUNT,
    ROW_HIGH,
    S_ARGUMENT,
    S_FAULT,
    S_KEY,
    S_WORD,
    SCRATCH,
    SEQUENCE,
    STATE_WORDS,
    T_AUTO,
    T_HEAPS,
    T_INDEX,
    T_INDEXES,
    T_KEY_VALUE,
    T_KEYS,
    T_LIVE,
    T_STATE,
    T_VALUES,
    TABLE_FULL,
    UNDO_FULL,
    X_KEYS,
    X_VALUE,
)

INT_MAX = (1 << 63) - 1


@kernel
def next_key(words: Words, t: int) -> int:
    """The number to give the new row as its first key word: 0 when it has to come from the
    caller.
    """
    if words[t + T_AUTO] == 0 or words[words[SCRATCH] + S_ARGUMENT + words[t + T_KEY_VALUE]] != 0:
        return 0
    last = words[words[t + T_STATE] + AUTO_LAST]
    if last == INT_MAX:
        words[words[SCRATCH] + S_FAULT] = t
        return TABLE_FULL
    number: int = last + 1
    return number


@kernel
def check_key(words: Words, t: int) -> int:
    """0, or DUPLICATE_KEY when a row has the key that the values in S_ARGUMENT make."""
    scratch = words[SCRATCH]
    for i in range(words[t + T_KEYS]):
        words[scratch + S_KEY + i] = words[scratch + S_ARGUMENT + words[t + T_KEY_VALUE + i]]
    if find_at(words, t, scratch + S_KEY) >= 0:
        words[scratch + S_FAULT] = t
        return DUPLICATE_KEY
    return 0


@kernel
def write_values(words: Words, t: int, row: int, number: int) -> bool:
    """Write S_ARGUMENT's values into a zero row, `number` unless 0 as first key word; False: undo
    full.
    """
    argument = words[SCRATCH] + S_ARGUMENT
    for value in range(words[t + T_VALUES]):
        word = words[argument + value]
        if word == 0:
            continue
        at = whole_at(words, t, value, row)
        if at < 0 and not put_packed(words, t, value, row, word):
            return False
        if at >= 0 and not put_new(words, at, word):
            return False
    key = words[t + T_KEY_VALUE]
    if words[t + T_AUTO] != 0:
        state = words[t + T_STATE]
        words[state + AUTO_LAST] = max(words[state + AUTO_LAST], words[argument + key], number)
    return number == 0 or put_value(words, t, key, row, number)


@kernel
def index_row(words: Words, t: int, row: int) -> int:
    """Enter a row into every index of its table: 0 or a negative code, with nothing undone."""
    failed = link(words, t, row)
    indexes = words[t + T_INDEXES]
    if indexes == 1 and failed == 0:
        return add(words, t + T_INDEX, row)
    find_ways(words, t, row)
    i = 0
    while i < indexes and failed == 0:
        failed = add_on(words, t + T_INDEX + i * INDEX_WORDS, way_of(words, i))
        i += 1
    return failed


@kernel
def insert_row(words: Words, t: int) -> int:
    """Make a row of the values in S_ARGUMENT, in the table's order; the row, or a negative code.

    An auto key that is 0 becomes the next number; a greater one that is given moves the counter on.
    """
    number = next_key(words, t)
    if number < 0:
        return number
    if number == 0:
        failed = check_key(words, t)
        if failed < 0:
            return failed
    start = mark(words)
    if not save(words, words[t + T_STATE], STATE_WORDS):
        return UNDO_FULL
    row = take_slot(words, t)
    failed = row
    if row >= 0:
        failed = UNDO_FULL
        if write_values(words, t, row, number):
            failed = index_row(words, t, row)
    if failed < 0:
        rollback(words, start)
        return failed
    return row


@entry_kernel
def insert(words: Words, t: int) -> int:
    """`insert_row` for a handler, whose time may be over: OVER_BUDGET."""
    return OVER_BUDGET if is_over_budget(words) else insert_row(words, t)


@kernel
def free_slot(words: Words, t: int, row: int) -> bool:
    """Zero a row that no index holds any more and put it on the pending list; False: undo full."""
    state = words[t + T_STATE]
    if not save(words, state, STATE_WORDS):
        return False
    if has_pending(words, t) and not release_pending(words, t):
        return False
    for value in range(words[t + T_VALUES]):
        at = whole_at(words, t, value, row)
        if at < 0:
            if get_packed(words, t, value, row) != 0 and not put_packed(words, t, value, row, 0):
                return False
        elif words[at] != 0 and not put(words, at, 0):
            return False
    if not put(words, words[t + T_LIVE] + row, words[state + PENDING]):
        return False
    if words[state + PENDING] == 0:
        words[state + PENDING_LAST] = row + 1
        words[state + PENDING_SEQUENCE] = words[SEQUENCE]
    words[state + PENDING] = row + 1
    words[state + ROW_COUNT] -= 1
    return True


@entry_kernel
def delete(words: Words, t: int, row: int) -> int:
    """Delete a row; 0, NOT_LIVE for any number that is not a live row, or another negative code."""
    if is_over_budget(words):
        return OVER_BUDGET
    if not is_live(words, t, row):
        return NOT_LIVE
    start = mark(words)
    find_ways(words, t, row)
    failed = unlink(words, t, row)
    i = 0
    while i < words[t + T_INDEXES] and failed == 0:
        failed = remove_on(words, t + T_INDEX + i * INDEX_WORDS, way_of(words, i))
        i += 1
    if failed == 0 and words[t + T_HEAPS] != 0:
        failed = release_row(words, t, row)
    if failed == 0 and not free_slot(words, t, row):
        failed = UNDO_FULL
    if failed < 0:
        rollback(words, start)
    return failed


@kernel
def holds(words: Words, x: int, value: int, count: int) -> bool:
    """Whether an index's key holds one of `count` value words from number `value` on."""
    keys = words[x + X_KEYS]
    i = 0
    while i < keys and not value <= words[x + X_VALUE + i] < value + count:
        i += 1
    return bool(i < keys)


@kernel
def is_indexed(words: Words, t: int, value: int, count: int) -> bool:
    """Whether any ordered index of the table holds one of `count` value words."""
    x = t + T_INDEX
    last = x + words[t + T_INDEXES] * INDEX_WORDS
    while x < last and not holds(words, x, value, count):
        x += INDEX_WORDS
    return bool(x < last)


@kernel
def put_values(words: Words, t: int, row: int, value: int, count: int, new: int) -> bool:
    """Set `count` value words to those from word `new` on, where they differ; False: undo full."""
    for i in range(count):
        word = words[new + i]
        changes = get_value(words, t, value + i, row) != word
        if changes and not put_value(words, t, value + i, row, word):
            return False
    return True


@kernel
def update_at(words: Words, t: int, row: int, value: int, count: int, new: int) -> int:
    """`update_words` with the new words at `new`; the row is live."""
    same = 0
    while same < count and get_value(words, t, value + same, row) == words[new + same]:
        same += 1
    if same == count:
        return 0
    start = mark(words)
    failed = 0
    x = t + T_INDEX
    last = x + words[t + T_INDEXES] * INDEX_WORDS
    while x < last and failed == 0:
        if holds(words, x, value, count):
            failed = remove(words, x, row)
        x += INDEX_WORDS
    if failed == 0 and not put_values(words, t, row, value, count, new):
        failed = UNDO_FULL
    x = t + T_INDEX
    while x < last and failed == 0:
        if holds(words, x, value, count):
            failed = add(words, x, row)
        x += INDEX_WORDS
    if failed < 0:
        rollback(words, start)
    return failed


@entry_kernel
def update(words: Words, t: int, row: int, value: int, word: int) -> int:
    """Set one value word, not of the key, and move the row in the indexes that hold it; 0 or a
    code.
    """
    if is_over_budget(words):
        return OVER_BUDGET
    if not is_live(words, t, row) or value < 0 or value >= words[t + T_VALUES]:
        return NOT_LIVE
    if not is_indexed(words, t, value, 1):
        at = whole_at(words, t, value, row)
        if at < 0:
            same = get_packed(words, t, value, row) == word
            return 0 if same or put_packed(words, t, value, row, word) else UNDO_FULL
        return 0 if bool(words[at] == word) or put(words, at, word) else UNDO_FULL
    new = words[SCRATCH] + S_WORD
    words[new] = word
    return update_at(words, t, row, value, 1, new)


@entry_kernel
def update_words(words: Words, t: int, row: int, value: int, count: int) -> int:
    """Set `count` value words, from number `value` on, to those in S_ARGUMENT, in one step: what a
    unique index refuses is the row as it will be, and no state in between. 0 or a code.
    """
    if is_over_budget(words):
        return OVER_BUDGET
    if not is_live(words, t, row) or value < 0 or count < 0:
        return NOT_LIVE
    if count > words[t + T_VALUES] - value:
        return NOT_LIVE
    return update_at(words, t, row, value, count, words[SCRATCH] + S_ARGUMENT)


@entry_kernel
def assign(words: Words, t: int, row: int, at: int, word: int) -> int:
    """Set the word at `at`, which no index holds, of a row: 0 or a negative code."""
    if is_over_budget(words):
        return OVER_BUDGET
    if not is_live(words, t, row):
        return NOT_LIVE
    return 0 if put(words, at, word) else UNDO_FULL


@kernel
def next_row(words: Words, t: int, after: int) -> int:
    """The first live row above `after`, in slot order; -1 gives the first of all. NOT_FOUND at the
    end, or OVER_BUDGET.
    """
    if is_over_budget(words):
        return OVER_BUDGET
    live = words[t + T_LIVE]
    high = words[words[t + T_STATE] + ROW_HIGH]
    row = max(after + 1, 0)
    while row < high:
        if words[live + row] == LIVE:
            return row
        row += 1
    return NOT_FOUND


@kernel
def gather(words: Words, t: int, out: npt.NDArray[np.int64]) -> int:
    """Fill `out` with live rows in slot order, as many as it takes; returns how many."""
    live = words[t + T_LIVE]
    count = 0
    for row in range(words[words[t + T_STATE] + ROW_HIGH]):
        if count == len(out):
            break
        if words[live + row] == LIVE:
            out[count] = row
            count += 1
    return count
