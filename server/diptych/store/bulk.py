"""Rows by the million: the kernel that makes staged rows visible, in one transaction.

Every row goes through the ordinary insert, so keys, indexes and counters are checked and kept as
ever; what the wrapper of an insert does in Python, references to other tables, is done here. The
caller keeps the undo log in pages meanwhile, and has seen to it that there is memory. Staged rows
lie one after another as value words; who put them there, and whether they fit their columns, is
`staging`'s business.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from diptych.kernel import bulk_kernel
from diptych.memory.layout import Words
from diptych.store.hashing import find_at
from diptych.store.rows import insert
from diptych.store.spans import copy
from diptych.store.words import NO_SUCH_KEY, S_ARGUMENT, SCRATCH, T_VALUES

REFERENCE_COLUMNS = 3
"""Of an array of references: value word, descriptor of the table it refers to, valid word or -1."""


@bulk_kernel
def insert_staged(
    words: Words,
    t: int,
    staged: int,
    count: int,
    references: npt.NDArray[np.int64],
    failed: npt.NDArray[np.int64],
) -> int:
    """Insert `count` rows that stand from word `staged` on; 0 or a negative code.

    `failed` is then told the number of the row, and of the reference if that is what failed.
    Nothing is undone.
    """
    argument = words[SCRATCH] + S_ARGUMENT
    values = words[t + T_VALUES]
    for row in range(count):
        copy(words, staged + row * values, argument, values)
        failed[0] = row
        for i in range(len(references)):
            valid = references[i, 2]
            if valid >= 0 and words[argument + valid] == 0:
                continue
            if find_at(words, references[i, 1], argument + references[i, 0]) < 0:
                failed[1] = i
                return NO_SUCH_KEY
        code = insert(words, t)
        if code < 0:
            return code
    return 0
