"""Is a table's heap what it claims to be? References, blocks, free lists and counters.

`check_heap` shows that the blocks of live values and the free ones cover the used part of the heap
once and without a gap, and that all memory that holds no value is zero. It is a part of
`verify.check`, and allocates a byte for each used word of the heap.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from diptych.kernel import bulk_kernel
from diptych.memory.layout import Words
from diptych.store.fields import get_value
from diptych.store.heap import CLASSES, LENGTH_MASK, block_words, class_words, value_words
from diptych.store.slots import LIVE
from diptych.store.spans import is_zero
from diptych.store.words import (
    H_FREE,
    H_LISTS,
    H_TOP,
    H_USED,
    HEAP_STATE_WORDS,
    PACK_HEAP,
    REFERENCE_BITS,
    ROW_HIGH,
    T_HEAP,
    T_HEAP_ALLOCATED,
    T_HEAP_STATE,
    T_HEAP_WORDS,
    T_LIVE,
    T_PACK,
    T_STATE,
    T_VALUES,
)

Marks = npt.NDArray[np.uint8]

HEAP_COUNTERS = 12
HEAP_REFERENCE = 13
HEAP_TAIL = 14
HEAP_LISTS = 15
HEAP_UNUSED = 16

EXPLANATIONS = {
    HEAP_COUNTERS: "the counters of the heap contradict each other, its size or its blocks",
    HEAP_REFERENCE: "a value lies outside the heap's used part, or on another one",
    HEAP_TAIL: "the rest of a value's block is not zero",
    HEAP_LISTS: "the lists of free blocks do not hold each free block once, or one is not zero",
    HEAP_UNUSED: "memory of the heap that was never used is not zero",
}


@bulk_kernel
def mark_block(marks: Marks, block: int, size: int) -> bool:
    """Mark a block's words; False when one is taken or outside the used part."""
    if block < 0 or block > len(marks) - size:
        return False
    for i in range(block, block + size):
        if marks[i] != 0:
            return False
        marks[i] = 1
    return True


@bulk_kernel
def check_value(words: Words, t: int, reference: int, marks: Marks) -> int:
    """One reference, not 0, and the block that it leads to; marks that."""
    length = reference & LENGTH_MASK
    block = reference >> REFERENCE_BITS
    if length == 0:
        return HEAP_REFERENCE
    size = block_words(reference)
    if not mark_block(marks, block, size):
        return HEAP_REFERENCE
    start = words[t + T_HEAP] + block
    end = start + value_words(reference)
    if length & 7 != 0 and words[end - 1] >> ((length & 7) << 3) != 0:
        return HEAP_TAIL
    return 0 if is_zero(words, end, start + size) else HEAP_TAIL


@bulk_kernel
def check_values(words: Words, t: int, marks: Marks) -> int:
    """All values of live rows, and the counter of their blocks' words."""
    used = 0
    for row in range(words[words[t + T_STATE] + ROW_HIGH]):
        if words[words[t + T_LIVE] + row] != LIVE:
            continue
        for value in range(words[t + T_VALUES]):
            if words[t + T_PACK + value] & PACK_HEAP == 0:
                continue
            reference = get_value(words, t, value, row)
            if reference != 0:
                code = check_value(words, t, reference, marks)
                if code != 0:
                    return code
                used += block_words(reference)
    return 0 if used == words[words[t + T_HEAP_STATE] + H_USED] else HEAP_COUNTERS


@bulk_kernel
def check_lists(words: Words, t: int, marks: Marks) -> int:
    """All free blocks, and the counter of their words."""
    state = words[t + T_HEAP_STATE]
    free = 0
    for number in range(CLASSES):
        size = class_words(number)
        link = words[state + H_LISTS + number]
        while link != 0:
            if not mark_block(marks, link - 1, size):
                return HEAP_LISTS
            start = words[t + T_HEAP] + link - 1
            if not is_zero(words, start + 1, start + size):
                return HEAP_LISTS
            free += size
            link = words[start]
    return 0 if free == words[state + H_FREE] else HEAP_COUNTERS


@bulk_kernel
def check_heap(words: Words, t: int) -> int:
    """0 when the heap is sound, else a code. The rows' own structure is sound already."""
    state = words[t + T_HEAP_STATE]
    top = words[state + H_TOP]
    allocated = words[t + T_HEAP_ALLOCATED]
    if not 0 <= top <= allocated <= words[t + T_HEAP_WORDS]:
        return HEAP_COUNTERS
    if not is_zero(words, state + H_LISTS + CLASSES, state + HEAP_STATE_WORDS):
        return HEAP_COUNTERS
    marks = np.zeros(top, np.uint8)
    code = check_values(words, t, marks)
    if code == 0:
        code = check_lists(words, t, marks)
    if code != 0:
        return code
    if words[state + H_USED] + words[state + H_FREE] != top:
        return HEAP_LISTS
    heap = words[t + T_HEAP]
    return 0 if is_zero(words, heap + top, heap + allocated) else HEAP_UNUSED
