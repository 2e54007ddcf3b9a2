"""Several value words of one row, changed at once.

A value of more than one word (long text, or one that may be None) must never be seen half changed:
an index that holds it would find a row between the old and the new value, and `unique` might refuse
what nobody asked for. So each index lets go of the old entry, all words are written, and each takes
the new one. Atomic by itself, as `rows` is.
"""

from __future__ import annotations

from diptych.kernel import kernel
from diptych.memory.layout import Words
from diptych.store.btree import add, remove
from diptych.store.fields import get_value, put_value
from diptych.store.rows import is_live
from diptych.store.undo import mark, rollback
from diptych.store.words import (
    INDEX_WORDS,
    NOT_LIVE,
    S_ARGUMENT,
    SCRATCH,
    T_INDEX,
    T_INDEXES,
    T_VALUES,
    UNDO_FULL,
    X_KEYS,
    X_VALUE,
)


@kernel
def holds(words: Words, x: int, first: int, count: int) -> bool:
    """Whether an index's key has one of the value words from `first` on."""
    for i in range(words[x + X_KEYS]):
        value = words[x + X_VALUE + i]
        if first <= value < first + count:
            return True
    return False


@kernel
def change(words: Words, t: int, row: int, first: int, count: int) -> int:
    """Set value words `first` and on, not of the key, to the `count` in S_ARGUMENT; 0 or a code."""
    if first < 0 or count < 0 or first + count > words[t + T_VALUES] or not is_live(words, t, row):
        return NOT_LIVE
    argument = words[SCRATCH] + S_ARGUMENT
    same = 0
    while same < count and get_value(words, t, first + same, row) == words[argument + same]:
        same += 1
    if same == count:
        return 0
    start = mark(words)
    failed = 0
    x = t + T_INDEX
    last = x + words[t + T_INDEXES] * INDEX_WORDS
    while x < last and failed == 0:
        if holds(words, x, first, count):
            failed = remove(words, x, row)
        x += INDEX_WORDS
    for i in range(same, count):
        word = words[argument + i]
        if failed == 0 and get_value(words, t, first + i, row) != word:
            failed = 0 if put_value(words, t, first + i, row, word) else UNDO_FULL
    x = t + T_INDEX
    while x < last and failed == 0:
        if holds(words, x, first, count):
            failed = add(words, x, row)
        x += INDEX_WORDS
    if failed < 0:
        rollback(words, start)
    return failed
