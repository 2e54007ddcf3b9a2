"""Rows by the million: the kernel that makes staged rows visible, in one transaction.

Every row goes through the ordinary insert, so keys, indexes and counters are checked and kept as
ever; what the wrapper of an insert does in Python is done here: references to other tables, and
values of any length, which go from the staged bytes into the table's heap. The caller keeps the
undo log in pages meanwhile, and has seen to it that there is memory. Staged rows lie one after
another as value words; who put them there, and whether they fit, is `staging`'s business.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from diptych.kernel import bulk_kernel
from diptych.memory.layout import Words
from diptych.store.hashing import find_at
from diptych.store.heap import store
from diptych.store.rows import insert_row
from diptych.store.spans import copy
from diptych.store.words import (
    HEAP_VALUE_BYTES_MAX,
    NO_SUCH_KEY,
    PACK_HEAP,
    REFERENCE_BITS,
    S_ARGUMENT,
    S_BLOB,
    SCRATCH,
    T_HEAPS,
    T_PACK,
    T_VALUES,
)

REFERENCE_COLUMNS = 3
"""Of an array of references: value word, descriptor of the table it refers to, valid word or -1."""


@bulk_kernel
def store_values(words: Words, t: int, blob: int) -> int:
    """Put the bytes that a staged row's references name into the heap, and make those of the heap.

    The row is in S_ARGUMENT; `blob` is the word from which staged bytes are counted. 0 or a code.
    """
    argument = words[SCRATCH] + S_ARGUMENT
    target = (words[SCRATCH] + S_BLOB) * 8
    content = words.view(np.uint8)
    for value in range(words[t + T_VALUES]):
        staged = words[argument + value]
        if words[t + T_PACK + value] & PACK_HEAP == 0 or staged == 0:
            continue
        length = staged & HEAP_VALUE_BYTES_MAX
        source = blob * 8 + (staged >> REFERENCE_BITS)
        for i in range(length):
            content[np.uint64(target + i)] = content[np.uint64(source + i)]
        reference = store(words, t, length)
        if reference < 0:
            failed: int = reference
            return failed
        words[argument + value] = reference
    return 0


@bulk_kernel
def insert_staged(
    words: Words,
    t: int,
    staged: int,
    count: int,
    blob: int,
    references: npt.NDArray[np.int64],
    failed: npt.NDArray[np.int64],
) -> int:
    """Insert `count` rows that stand from word `staged` on; 0 or a negative code.

    `blob`: from which word on the bytes of their values of any length are counted. On failure
    `failed` is told the number of the row, and of the
    reference if that is what failed, and nothing is undone.
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
        code = store_values(words, t, blob) if words[t + T_HEAPS] != 0 else 0
        if code == 0:
            code = insert_row(words, t)
        if code < 0:
            return code
    return 0
