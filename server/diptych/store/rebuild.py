"""The structures of a table from its rows alone: the key's hash, and ordered indexes.

For a region that nobody else uses yet, whose rows 0 to n - 1 have just been written: nothing here
can be undone. Row by row the work is an insert's, without looking anything up twice.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from diptych.kernel import bulk_kernel, ready
from diptych.memory.layout import Words
from diptych.store.btree import add
from diptych.store.descent import entry_of
from diptych.store.fields import get_value
from diptych.store.hashing import bucket_of, hash_row
from diptych.store.words import (
    BUCKET_COUNT,
    S_UNDO_TOP,
    SCRATCH,
    T_BUCKETS,
    T_NEXT,
    T_STATE,
)

Rows = npt.NDArray[np.int64]


@bulk_kernel
def _link_rows(words: Words, t: int, first: int, stop: int) -> int:
    """Enter rows `first` to `stop` into the key's hash, whose BUCKET_COUNT is final already."""
    count = words[words[t + T_STATE] + BUCKET_COUNT]
    for row in range(first, stop):
        head = words[t + T_BUCKETS] + bucket_of(hash_row(words, t, row), count)
        words[words[t + T_NEXT] + row] = words[head]
        words[head] = row + 1
    return 0


@bulk_kernel
def _write_entries(words: Words, x: int, entries: npt.NDArray[np.int64]) -> int:
    """Row by row, the key words of an index in the form that compares."""
    for row in range(entries.shape[0]):
        entry = entry_of(words, x, row)
        for i in range(entries.shape[1]):
            entries[row, i] = words[entry + i]
    return 0


@bulk_kernel
def _add_rows(words: Words, x: int, rows: Rows, first: int, code: Rows) -> int:
    """Enter `rows` from number `first` on into an index: the number of the first that could not be,
    with the reason in code[0], or how many there are.
    """
    code[0] = 0
    for i in range(first, rows.shape[0]):
        failed = add(words, x, rows[i])
        words[words[SCRATCH] + S_UNDO_TOP] = 0
        if failed < 0:
            code[0] = failed
            return i
    return int(rows.shape[0])


@bulk_kernel
def _first_difference(
    old: Words, old_t: int, old_value: int, rows: Rows, new: Words, new_t: int, new_value: int
) -> int:
    """Compare a value word of old `rows` with that of new rows 0, 1, ...: a number of one that
    differs, or -1.
    """
    for i in range(rows.shape[0]):
        if get_value(old, old_t, old_value, rows[i]) != get_value(new, new_t, new_value, i):
            return i
    return -1


_WORDS = "int64[::1]"
link_rows = ready(_link_rows, f"({_WORDS}, int64, int64, int64)")
write_entries = ready(_write_entries, f"({_WORDS}, int64, int64[:, ::1])")
add_rows = ready(_add_rows, f"({_WORDS}, int64, {_WORDS}, int64, {_WORDS})")
first_difference = ready(
    _first_difference, f"({_WORDS}, int64, int64, {_WORDS}, {_WORDS}, int64, int64)"
)
