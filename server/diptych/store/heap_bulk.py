"""What runs over many values of a heap at once: compacting it, and copying values out.

`compact` runs between transactions and has no undo; its outcome is a function of the table alone.
`measure` and `gather` only read: columns, Arrow and export are made of them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from diptych.kernel import bulk_kernel
from diptych.memory.layout import Words
from diptych.store.fields import get_value
from diptych.store.heap import CLASSES, LENGTH_MASK, block_words
from diptych.store.slots import LIVE
from diptych.store.spans import clear, copy
from diptych.store.words import (
    H_COMPACTED,
    H_FREE,
    H_LISTS,
    H_TOP,
    H_USED,
    PACK_HEAP,
    REFERENCE_BITS,
    ROW_COUNT,
    ROW_HIGH,
    SEQUENCE,
    T_BASE,
    T_HEAP,
    T_HEAP_STATE,
    T_HEAPS,
    T_LIVE,
    T_PACK,
    T_STATE,
    T_STRIDE,
    T_VALUES,
)


@bulk_kernel
def compact(words: Words, t: int) -> int:
    """Move all values down, in the order in which they lie, to make one piece of what is free.

    Not while a transaction runs: references change, and nothing is recorded. Returns the words
    gained. It takes 16 bytes of memory a value while it runs.
    """
    state = words[t + T_HEAP_STATE]
    heap = words[t + T_HEAP]
    most = words[words[t + T_STATE] + ROW_COUNT] * words[t + T_HEAPS]
    positions = np.zeros(most, np.int64)
    owners = np.zeros(most, np.int64)  # where their references are
    count = 0
    for row in range(words[words[t + T_STATE] + ROW_HIGH]):
        if words[words[t + T_LIVE] + row] != LIVE:
            continue
        for value in range(words[t + T_VALUES]):
            if words[t + T_PACK + value] & PACK_HEAP != 0:
                owner = words[t + T_BASE + value] + row * words[t + T_STRIDE + value]
                if words[owner] != 0:
                    positions[count] = words[owner] >> REFERENCE_BITS
                    owners[count] = owner
                    count += 1
    top = 0
    for i in np.argsort(positions[:count]):
        owner = owners[i]
        size = block_words(words[owner])
        if positions[i] != top:
            copy(words, heap + positions[i], heap + top, size)
            words[owner] = top << REFERENCE_BITS | (words[owner] & LENGTH_MASK)
        top += size
    gained: int = words[state + H_TOP] - top
    clear(words, heap + top, gained)
    clear(words, state + H_LISTS, CLASSES)
    words[state + H_TOP] = words[state + H_USED] = top
    words[state + H_FREE] = 0
    words[state + H_COMPACTED] = words[SEQUENCE] + 1
    return gained


@bulk_kernel
def measure(
    words: Words,
    t: int,
    value: int,
    rows: npt.NDArray[np.int64],
    offsets: npt.NDArray[np.int64],
) -> int:
    """Where each of the rows' values would begin and end, one behind the other; returns the sum.

    `offsets` takes one number more than there are rows. Rows are within the table's memory.
    """
    end = 0
    offsets[0] = 0
    for i in range(len(rows)):
        end += get_value(words, t, value, rows[i]) & LENGTH_MASK
        offsets[i + 1] = end
    return end


@bulk_kernel
def gather(
    words: Words,
    t: int,
    value: int,
    rows: npt.NDArray[np.int64],
    offsets: npt.NDArray[np.int64],
    out: npt.NDArray[np.uint8],
) -> int:
    """Copy the rows' values to the places that `measure` gave them; returns the number of bytes."""
    heap_bytes = words.view(np.uint8)
    start = words[t + T_HEAP]
    for i in range(len(rows)):
        source = start + (get_value(words, t, value, rows[i]) >> REFERENCE_BITS) << 3
        target = offsets[i]
        for byte in range(offsets[i + 1] - target):
            out[np.uint64(target + byte)] = heap_bytes[np.uint64(source + byte)]
    total: int = offsets[len(rows)]
    return total
