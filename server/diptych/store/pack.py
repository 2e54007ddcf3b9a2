"""Answers: from the words that compiled handlers leave to MessagePack.

The other way round of `unpack`, with programs of its own: see there for what a program is. The
bytes are those that msgpack's packer makes of the same value, after `engine/results.plain`. Rows
are a slot number among the words; their columns are read where they lie.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from diptych.kernel import inlined, kernel
from diptych.memory.layout import Words
from diptych.store.fields import get_packed, whole_at
from diptych.store.words import REFERENCE_BITS, T_HEAP

Bytes = npt.NDArray[np.uint8]

# Ops, and their operands. Those of values take a word each, if nothing else is said.
INT = 0
UNSIGNED = 1
FLOAT = 2
SHORT_FLOAT = 3  # 32 bits, with their sign
BOOL = 4
WORD_TEXT = 5  # what fits into the word
WORD_DATA = 6  # bytes
WORDS = 7  # the ops above are all in their word
HEAP_TEXT = 7  # a reference into the heap of the row's table
HEAP_DATA = 8
TEXT = 9  # words that it takes, bytes at most
DATA = 10  # the same, and exactly so many bytes
OPTIONAL = 11  # jump, words behind the one that says whether there is a value
COLUMN = (
    16  # an op with this added is of the row; its first operand is the number of the value word
)
DONE = 32
LITERAL = 33  # how many bytes, these as words
ROW = 34  # the table's descriptor: takes the word that is the slot
ITEMS = 35  # words of an item, jump: takes how many items there are, and where the first one is

NONE, FALSE = 0xC0, 0xC2
LENGTH_MASK = (1 << REFERENCE_BITS) - 1
NO_ROOM = -1


@inlined
def put_number(out: Bytes, position: int, limit: int, mark: int, value: int, size: int) -> int:
    """Write a byte, and `size` bytes of a number, the highest first; where they end, or NO_ROOM."""
    if limit - position <= size:
        return NO_ROOM
    at = np.uint64(position)
    out[at] = np.uint8(mark)
    word = np.uint64(np.int64(value))
    if size == 1:
        out[at + np.uint64(1)] = np.uint8(word & np.uint64(0xFF))
    elif size == 2:
        for i in range(2):
            out[at + np.uint64(2 - i)] = np.uint8(word >> np.uint64(8 * i) & np.uint64(0xFF))
    elif size == 4:
        for i in range(4):
            out[at + np.uint64(4 - i)] = np.uint8(word >> np.uint64(8 * i) & np.uint64(0xFF))
    elif size == 8:
        for i in range(8):
            out[at + np.uint64(8 - i)] = np.uint8(word >> np.uint64(8 * i) & np.uint64(0xFF))
    return position + 1 + size


@inlined
def put_int(out: Bytes, position: int, limit: int, value: int, unsigned: bool) -> int:
    """Write an int in as few bytes as it takes."""
    if value < 0 and not unsigned:
        if value >= -0x20:
            return put_number(out, position, limit, value + 0x100, 0, 0)
        if value >= -0x80:
            return put_number(out, position, limit, 0xD0, value, 1)
        if value >= -0x8000:
            return put_number(out, position, limit, 0xD1, value, 2)
        if value >= -0x80000000:
            return put_number(out, position, limit, 0xD2, value, 4)
        return put_number(out, position, limit, 0xD3, value, 8)
    if value < 0 or value > 0xFFFFFFFF:
        return put_number(out, position, limit, 0xCF, value, 8)
    if value < 0x80:
        return put_number(out, position, limit, value, 0, 0)
    if value <= 0xFF:
        return put_number(out, position, limit, 0xCC, value, 1)
    if value <= 0xFFFF:
        return put_number(out, position, limit, 0xCD, value, 2)
    return put_number(out, position, limit, 0xCE, value, 4)


@inlined
def put_head(out: Bytes, position: int, limit: int, length: int, is_text: bool) -> int:
    """What stands before so many bytes of text or data."""
    if is_text and length < 0x20:
        return put_number(out, position, limit, 0xA0 | length, 0, 0)
    first = 0xD9 if is_text else 0xC4
    if length <= 0xFF:
        return put_number(out, position, limit, first, length, 1)
    if length <= 0xFFFF:
        return put_number(out, position, limit, first + 1, length, 2)
    return put_number(out, position, limit, first + 2, length, 4)


@inlined
def put_items_head(out: Bytes, position: int, limit: int, count: int) -> int:
    """What stands before so many items of a list."""
    if count < 0x10:
        return put_number(out, position, limit, 0x90 | count, 0, 0)
    if count <= 0xFFFF:
        return put_number(out, position, limit, 0xDC, count, 2)
    return put_number(out, position, limit, 0xDD, count, 4)


@inlined
def put_octets(
    words: Words, source: int, length: int, out: Bytes, position: int, limit: int
) -> int:
    """Write `length` bytes from words[source] on."""
    if position < 0 or limit - position < length:
        return NO_ROOM
    for i in range(length >> 3):
        put_whole(out, position + i * 8, words[source + i])
    if length & 7 != 0:
        rest = position + (length & ~7)
        put_part(out, rest, words[source + (length >> 3)], length & 7)
    return position + length


@inlined
def put_whole(out: Bytes, position: int, word: int) -> None:
    """Write the eight bytes of a word, the lowest first."""
    at, octets = np.uint64(position), np.uint64(np.int64(word))
    for i in range(8):
        out[at + np.uint64(i)] = np.uint8(octets >> np.uint64(8 * i) & np.uint64(0xFF))


@inlined
def put_part(out: Bytes, position: int, word: int, length: int) -> None:
    """The first of them."""
    at, octets = np.uint64(position), np.uint64(np.int64(word))
    for i in range(length):
        out[at + np.uint64(i)] = np.uint8(octets >> np.uint64(8 * i) & np.uint64(0xFF))


@inlined
def bytes_used(word: int) -> int:
    """How many bytes of a word there are up to the last one that is not zero."""
    octets, count = np.uint64(np.int64(word)), 0
    while octets != np.uint64(0):
        octets >>= np.uint64(8)
        count += 1
    return count


@inlined
def text_length(words: Words, source: int, count: int) -> int:
    """Bytes of a text in `count` words."""
    while count > 1 and words[source + count - 1] == 0:
        count -= 1
    return count * 8 - 8 + bytes_used(words[source + count - 1])


@inlined
def short_float(word: int) -> int:
    """The bits of a double with the value of the float of 32 bits in a word."""
    short = np.int32(np.int64(word)).view(np.float32)
    return int(np.float64(short).view(np.int64))


@inlined
def put_word(op: int, value: int, size: int, out: Bytes, position: int, limit: int) -> int:
    """Write a value that is all in its word. `size`: of data, its bytes."""
    if op <= UNSIGNED:
        return put_int(out, position, limit, value, op == UNSIGNED)
    if op == BOOL:
        return put_number(out, position, limit, FALSE | value, 0, 0)
    if op <= SHORT_FLOAT:
        bits = short_float(value) if op == SHORT_FLOAT else value
        return put_number(out, position, limit, 0xCB, bits, 8)
    length = bytes_used(value) if op == WORD_TEXT else size
    position = put_head(out, position, limit, length, op == WORD_TEXT)
    if position < 0 or limit - position < length:
        return NO_ROOM
    put_part(out, position, value, length)
    return position + length


@inlined
def put_literal(program: Words, at: int, out: Bytes, position: int, limit: int) -> int:
    """Write the bytes of a LITERAL's operands."""
    length: int = program[at]
    if length > 8:
        return put_octets(program, at + 1, length, out, position, limit)
    if limit - position < length:
        return NO_ROOM
    put_part(out, position, program[at + 1], length)
    return position + length


@kernel
def pack(
    program: Words, at: int, words: Words, source: int, out: Bytes, position: int, limit: int
) -> int:
    """Write the value whose words begin at `source` to out[position:], as the program at `at` says.

    Returns where it ends, or NO_ROOM: that is not before `limit`. Then anything may stand up to
    there, but nothing behind.
    """
    t = row = 0
    while position >= 0:
        op = program[at]
        at += 1
        if op < DONE:
            if op < COLUMN:
                step, taken, value = 1, source, words[source]
            else:
                op -= COLUMN
                step, taken = 0, whole_at(words, t, program[at], row)
                value = get_packed(words, t, program[at], row) if taken < 0 else words[taken]
                at += 1
            source += step
            if op < WORDS:
                position = put_word(op, value, program[at], out, position, limit)
                at += op == WORD_DATA
            elif op == OPTIONAL:
                if value == 0:
                    position = put_number(out, position, limit, NONE, 0, 0)
                    source += step * program[at + 1]
                    at += program[at]
                at += 2
            else:
                if op <= HEAP_DATA:
                    length = value & LENGTH_MASK
                    taken = words[t + T_HEAP] + (value >> REFERENCE_BITS)
                else:
                    length = (
                        text_length(words, taken, program[at]) if op == TEXT else program[at + 1]
                    )
                    source += step * (program[at] - 1)
                    at += 2
                is_text = op in (TEXT, HEAP_TEXT)
                position = put_head(out, position, limit, length, is_text)
                position = put_octets(words, taken, length, out, position, limit)
        elif op == LITERAL:
            position = put_literal(program, at, out, position, limit)
            at += 1 + (program[at] + 7 >> 3)
        elif op == DONE:
            return position
        elif op == ROW:
            t, row = program[at], words[source]
            source += 1
            at += 1
        else:
            position = put_items_head(out, position, limit, words[source])
            item = words[source + 1]
            for _ in range(words[source]):
                if position >= 0:
                    position = pack(program, at + 2, words, item, out, position, limit)
                    item += program[at]
            source += 2
            at += 2 + program[at + 1]
    return NO_ROOM
