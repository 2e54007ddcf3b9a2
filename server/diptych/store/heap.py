"""A table's heap: values of any length, in blocks that its rows refer to.

A *reference* is what a row's value word holds: the block's position from the heap's start, and the
length in bytes; 0 is the empty value, which has no block. A value's bytes come from `S_BLOB`, and
lie in the block from its first byte on; the rest of the block is zero.

Blocks come in size classes (1, 2, 3, 4, 6, 8, 12, ... words), so a length tells its block's size. A
new block is the last one freed of its class, else new memory, else cut off a larger free one, whose
rest goes to the free lists in the largest pieces that fit. Free blocks are zero but for their link.
When nothing of that will do, memory must be given (GROW_HEAP) or, once a transaction, the pieces
put together (COMPACT_HEAP), if they are worth it: at least 1/64 of the heap, so that a heap that is
all but full refuses (HEAP_FULL) instead of compacting without end.

Each call is atomic by itself, as in `rows`. Reading needs no kernel; what runs over a whole heap
is in `heap_bulk`.
"""

from __future__ import annotations

from diptych.kernel import kernel
from diptych.memory.layout import Words
from diptych.store.budget import is_over_budget
from diptych.store.fields import get_value, put_value
from diptych.store.slots import is_live
from diptych.store.spans import clear, copy
from diptych.store.undo import mark, put, rollback, save, save_zeros
from diptych.store.words import (
    COMPACT_HEAP,
    GROW_HEAP,
    H_COMPACTED,
    H_COUNTERS,
    H_FREE,
    H_LISTS,
    H_TOP,
    H_USED,
    HEAP_FULL,
    HEAP_VALUE_BYTES_MAX,
    NOT_LIVE,
    OVER_BUDGET,
    PACK_HEAP,
    REFERENCE_BITS,
    S_BLOB,
    S_FAULT,
    S_HEAP_WORDS,
    SCRATCH,
    SEQUENCE,
    T_HEAP,
    T_HEAP_ALLOCATED,
    T_HEAP_STATE,
    T_HEAP_WORDS,
    T_PACK,
    T_VALUES,
    UNDO_FULL,
)

CLASSES = 42  # the largest has 2^21 words, which hold the longest value
WORTH_SHIFT = 6  # compacting is worth it from this part of the heap on: 1 / 2^6
LENGTH_MASK = (1 << REFERENCE_BITS) - 1


@kernel
def class_words(number: int) -> int:
    """Words of a block of class `number`."""
    if number == 0:
        return 1
    if number & 1 != 0:
        return 1 << (number + 1 >> 1)
    return 3 << ((number >> 1) - 1)


@kernel
def class_of(count: int) -> int:
    """The smallest class whose blocks have `count` words."""
    number = 0
    while class_words(number) < count:
        number += 1
    return number


@kernel
def value_words(reference: int) -> int:
    """Words that the bytes of a value take."""
    return (reference & LENGTH_MASK) + 7 >> 3


@kernel
def block_words(reference: int) -> int:
    """Words of the block that a reference, not 0, leads to."""
    return class_words(class_of(value_words(reference)))


@kernel
def push_block(words: Words, t: int, block: int, number: int) -> bool:
    """List a zero block of class `number` as free; counters are saved. False: undo full."""
    state = words[t + T_HEAP_STATE]
    head = state + H_LISTS + number
    if not (put(words, words[t + T_HEAP] + block, words[head]) and put(words, head, block + 1)):
        return False
    words[state + H_FREE] += class_words(number)
    return True


@kernel
def pop_block(words: Words, t: int, number: int) -> int:
    """Take the first free block of class `number`, which has one; its position or UNDO_FULL."""
    state = words[t + T_HEAP_STATE]
    head = state + H_LISTS + number
    block: int = words[head] - 1
    link = words[t + T_HEAP] + block
    if not (put(words, head, words[link]) and put(words, link, 0)):
        return UNDO_FULL
    words[state + H_FREE] -= class_words(number)
    return block


@kernel
def push_pieces(words: Words, t: int, start: int, count: int) -> bool:
    """List `count` zero words as free blocks, the largest first; False: undo full."""
    number = CLASSES - 1
    while count > 0:
        size = class_words(number)
        if size > count:
            number -= 1
        elif push_block(words, t, start, number):
            start += size
            count -= size
        else:
            return False
    return True


@kernel
def refuse(words: Words, t: int, size: int) -> int:
    """Why there is no block of `size` words: the code that says what would help."""
    state = words[t + T_HEAP_STATE]
    scratch = words[SCRATCH]
    capacity = words[t + T_HEAP_WORDS]
    words[scratch + S_FAULT] = t + T_HEAP
    if words[state + H_TOP] + size <= capacity:
        words[scratch + S_HEAP_WORDS] = words[state + H_TOP] + size
        return GROW_HEAP
    if words[state + H_USED] + size > capacity:
        return HEAP_FULL
    if words[state + H_FREE] < capacity >> WORTH_SHIFT:
        return HEAP_FULL
    # What this transaction freed itself is in pieces again when it runs another time.
    return HEAP_FULL if words[state + H_COMPACTED] == words[SEQUENCE] + 1 else COMPACT_HEAP


@kernel
def take_block(words: Words, t: int, number: int) -> int:
    """The position of a zero block of class `number`, or a code; counters are saved."""
    state = words[t + T_HEAP_STATE]
    size = class_words(number)
    if words[state + H_LISTS + number] != 0:
        return pop_block(words, t, number)
    top: int = words[state + H_TOP]
    if top + size <= min(words[t + T_HEAP_ALLOCATED], words[t + T_HEAP_WORDS]):
        words[state + H_TOP] = top + size
        return top
    larger = number + 1
    while larger < CLASSES and words[state + H_LISTS + larger] == 0:
        larger += 1
    if larger == CLASSES:
        return refuse(words, t, size)
    block = pop_block(words, t, larger)
    if block >= 0 and not push_pieces(words, t, block + size, class_words(larger) - size):
        return UNDO_FULL
    return block


@kernel
def copy_in(words: Words, target: int, length: int) -> int:
    """Copy `length` bytes, 1 or more, from S_BLOB to word `target`; zero to the end of a word."""
    count = length + 7 >> 3
    copy(words, words[SCRATCH] + S_BLOB, target, count)
    if length & 7 != 0:
        words[target + count - 1] &= (1 << ((length & 7) << 3)) - 1
    return 0


@kernel
def store(words: Words, t: int, length: int) -> int:
    """Put the `length` bytes at S_BLOB into the heap; a reference, or a negative code.

    UNDO_FULL, or GROW_HEAP, COMPACT_HEAP and HEAP_FULL, with S_FAULT.
    """
    if length == 0:
        return 0
    if length < 0 or length > HEAP_VALUE_BYTES_MAX:
        words[words[SCRATCH] + S_FAULT] = t + T_HEAP
        return HEAP_FULL
    start = mark(words)
    state = words[t + T_HEAP_STATE]
    count = value_words(length)
    number = class_of(count)
    block = UNDO_FULL
    if save(words, state, H_COUNTERS):
        block = take_block(words, t, number)
    if block >= 0 and not save_zeros(words, words[t + T_HEAP] + block, count):
        block = UNDO_FULL
    if block < 0:
        rollback(words, start)
        return block
    copy_in(words, words[t + T_HEAP] + block, length)
    words[state + H_USED] += class_words(number)
    return block << REFERENCE_BITS | length


@kernel
def release(words: Words, t: int, reference: int) -> int:
    """Free the block of a reference, which may be 0: 0 or UNDO_FULL."""
    if reference == 0:
        return 0
    start = mark(words)
    state = words[t + T_HEAP_STATE]
    count = value_words(reference)
    number = class_of(count)
    block = reference >> REFERENCE_BITS
    at = words[t + T_HEAP] + block
    if not (save(words, state, H_COUNTERS) and save(words, at, count)):
        rollback(words, start)
        return UNDO_FULL
    clear(words, at, count)
    words[state + H_USED] -= class_words(number)
    if not push_block(words, t, block, number):
        rollback(words, start)
        return UNDO_FULL
    return 0


@kernel
def release_row(words: Words, t: int, row: int) -> int:
    """Free the blocks of all of a row's values, whose references stay: 0 or UNDO_FULL, with
    nothing undone.
    """
    failed = 0
    value = 0
    while value < words[t + T_VALUES] and failed == 0:
        if words[t + T_PACK + value] & PACK_HEAP != 0:
            failed = release(words, t, get_value(words, t, value, row))
        value += 1
    return failed


@kernel
def replace(words: Words, t: int, reference: int, length: int) -> int:
    """Put the `length` bytes at S_BLOB where another value was; the new reference or a code, with
    nothing undone.
    """
    count = value_words(reference)
    if reference == 0 or length <= 0 or length > HEAP_VALUE_BYTES_MAX:
        return store(words, t, length) if release(words, t, reference) == 0 else UNDO_FULL
    if class_of(count) != class_of(value_words(length)):
        return store(words, t, length) if release(words, t, reference) == 0 else UNDO_FULL
    # The same block will do: what is behind the shorter of both is zero.
    at = words[t + T_HEAP] + (reference >> REFERENCE_BITS)
    longer = max(count, value_words(length))
    if not save(words, at, longer):
        return UNDO_FULL
    clear(words, at, longer)
    copy_in(words, at, length)
    return reference & ~LENGTH_MASK | length


@kernel
def assign(words: Words, t: int, row: int, value: int, length: int) -> int:
    """Set value word `value`, a reference, of a row to the `length` bytes at S_BLOB: 0 or a code.

    Length 0 makes it the empty value, which is also what None has. NOT_LIVE also for a value that
    is not in the heap.
    """
    if is_over_budget(words):
        return OVER_BUDGET
    if not is_live(words, t, row) or value < 0 or value >= words[t + T_VALUES]:
        return NOT_LIVE
    if words[t + T_PACK + value] & PACK_HEAP == 0:
        return NOT_LIVE
    start = mark(words)
    old = get_value(words, t, value, row)
    new = replace(words, t, old, length)
    if new >= 0 and new != old and not put_value(words, t, value, row, new):
        new = UNDO_FULL
    if new < 0:
        rollback(words, start)
        return new
    return 0
