"""One column of many rows, written in one call, with undo: what a transaction has for vectors.

Knows value words, as `rows` does. Values in the heap are set one by one (`heap.assign`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from diptych.kernel import bulk_kernel
from diptych.memory.layout import Words
from diptych.store.budget import is_over_budget
from diptych.store.rows import is_indexed, put_values, update_at
from diptych.store.slots import is_live
from diptych.store.undo import mark, rollback
from diptych.store.words import NOT_LIVE, OVER_BUDGET, S_ARGUMENT, SCRATCH, T_VALUES, UNDO_FULL


@bulk_kernel
def write_rows(
    words: Words, t: int, value: int, rows: npt.NDArray[np.int64], new: npt.NDArray[np.int64]
) -> int:
    """Set value words, not of the key, of many rows; 0 or a negative code, and then nothing is set.

    `new` has as many words for each row as one row gets, from number `value` on. Rows are written
    in turn: one that occurs twice has its last words in the end, and a unique index looks at every
    step, so two rows cannot swap what it holds. NOT_LIVE when one is not a live row.
    """
    count = len(new) // max(1, len(rows))
    if value < 0 or count > words[t + T_VALUES] - value or count * len(rows) != len(new):
        return NOT_LIVE
    start = mark(words)
    argument = words[SCRATCH] + S_ARGUMENT
    indexed = is_indexed(words, t, value, count)
    failed = 0
    for i in range(len(rows)):
        if not is_live(words, t, rows[i]):
            failed = NOT_LIVE
            break
        if is_over_budget(words):
            failed = OVER_BUDGET
            break
        for word in range(count):
            words[argument + word] = new[i * count + word]
        if indexed:
            failed = update_at(words, t, rows[i], value, count, argument)
        elif not put_values(words, t, rows[i], value, count, argument):
            failed = UNDO_FULL
        if failed < 0:
            break
    if failed < 0:
        rollback(words, start)
    return failed
