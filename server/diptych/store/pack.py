"""Answers: from the words that compiled handlers leave to MessagePack.

The other way round of `unpack`, with programs of its own: see there for what a program is. The
bytes are those that msgpack's packer makes of the same value, after `engine/results.plain`. Rows
are a slot number among the words; their columns are read where they lie.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from diptych.kernel import kernel
from diptych.memory.layout import Words
from diptych.store.fields import get_packed, whole_at
from diptych.store.words import REFERENCE_BITS, T_HEAP

Bytes = npt.NDArray[np.uint8]

# Ops, and their operands. Those from INT on take words, one if nothing else is said.
DONE = 0
LITERAL = 1  # how many bytes, these as words
ROW = 2  # the table's descriptor: takes the word that is the slot
ITEMS = 3  # words of an item, jump: takes how many items, and where the first one is
INT = 4
UNSIGNED = 5
FLOAT = 6
SHORT_FLOAT = 7  # 32 bits, with their sign
BOOL = 8
TEXT = 9  # words, bytes at most: takes so many words
DATA = 10  # the same, and exactly so many bytes
HEAP_TEXT = 11  # a reference into the heap of the row's table
HEAP_DATA = 12
OPTIONAL = 13  # jump, words behind the one that says whether there is a value
COLUMN = 16  # an op from INT on, with this added: of the row. First operand: which value word

NONE, FALSE = 0xC0, 0xC2
LENGTH_MASK = (1 << REFERENCE_BITS) - 1
NO_ROOM = -1


@kernel
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


@kernel
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


@kernel
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


@kernel
def put_items_head(out: Bytes, position: int, limit: int, count: int) -> int:
    """What stands before so many items of a list."""
    if count < 0x10:
        return put_number(out, position, limit, 0x90 | count, 0, 0)
    if count <= 0xFFFF:
        return put_number(out, position, limit, 0xDC, count, 2)
    return put_number(out, position, limit, 0xDD, count, 4)


@kernel
def put_octets(
    words: Words, source: int, length: int, out: Bytes, position: int, limit: int
) -> int:
    """Write `length` bytes from words[source] on."""
    if position < 0 or limit - position < length:
        return NO_ROOM
    at = np.uint64(position)
    for _ in range(length >> 3):
        word = np.uint64(words[source])
        for i in range(8):
            out[at + np.uint64(i)] = np.uint8(word >> np.uint64(8 * i) & np.uint64(0xFF))
        at += np.uint64(8)
        source += 1
    if length & 7 != 0:
        word = np.uint64(words[source])
        for _ in range(length & 7):
            out[at] = np.uint8(word & np.uint64(0xFF))
            word >>= np.uint64(8)
            at += np.uint64(1)
    return position + length


@kernel
def text_length(words: Words, source: int, count: int) -> int:
    """Bytes of a text in `count` words: up to the last one that is not zero."""
    while count > 0 and words[source + count - 1] == 0:
        count -= 1
    if count == 0:
        return 0
    length = count * 8 - 8
    word = np.uint64(words[source + count - 1])
    while word != 0:
        word >>= np.uint64(8)
        length += 1
    return length


@kernel
def short_float(word: int) -> int:
    """The bits of a double with the value of the float of 32 bits in a word."""
    short = np.int32(np.int64(word)).view(np.float32)
    return int(np.float64(short).view(np.int64))


@kernel
def put_value(
    op: int,
    value: int,
    words: Words,
    source: int,
    length: int,
    out: Bytes,
    position: int,
    limit: int,
) -> int:
    """Write one value: the word itself, or `length` bytes from words[source] on."""
    if op == INT or op == UNSIGNED:
        return put_int(out, position, limit, value, op == UNSIGNED)
    if op == FLOAT or op == SHORT_FLOAT:
        bits = short_float(value) if op == SHORT_FLOAT else value
        return put_number(out, position, limit, 0xCB, bits, 8)
    if op == BOOL:
        return put_number(out, position, limit, FALSE | value, 0, 0)
    position = put_head(out, position, limit, length, op == TEXT or op == HEAP_TEXT)
    return put_octets(words, source, length, out, position, limit)


@kernel
def pack(
    program: Words, at: int, words: Words, source: int, out: Bytes, position: int, limit: int
) -> int:
    """Write the value whose words begin at `source`, as the program at `at` says, to out[position:].

    Returns where it ends, or NO_ROOM: it does not end before `limit`. Then anything may stand there.
    """
    t = row = 0
    while position >= 0:
        op = program[at]
        at += 1
        if op == DONE:
            return position
        if op == LITERAL:
            position = put_octets(program, at + 1, program[at], out, position, limit)
            at += 1 + (program[at] + 7 >> 3)
            continue
        if op == ROW:
            t, row = program[at], words[source]
            source += 1
            at += 1
            continue
        if op == ITEMS:
            position = put_items_head(out, position, limit, words[source])
            item = words[source + 1]
            for _ in range(words[source]):
                if position >= 0:
                    position = pack(program, at + 2, words, item, out, position, limit)
                item += program[at]
            source += 2
            at += 2 + program[at + 1]
            continue
        taken = source
        if op >= COLUMN:
            op -= COLUMN
            taken = whole_at(words, t, program[at], row)
            value = get_packed(words, t, program[at], row) if taken < 0 else words[taken]
            at += 1
            step = 0
        else:
            value = words[source]
            source += 1
            step = 1
        length = 0
        if op == OPTIONAL:
            if value == 0:
                position = put_number(out, position, limit, NONE, 0, 0)
                source += step * program[at + 1]
                at += program[at]
            at += 2
            continue
        if op == TEXT or op == DATA:
            length = program[at + 1]
            if op == TEXT:
                length = text_length(words, taken, program[at])
            source += step * (program[at] - 1)
            at += 2
        elif op == HEAP_TEXT or op == HEAP_DATA:
            length = value & LENGTH_MASK
            taken = words[t + T_HEAP] + (value >> REFERENCE_BITS)
        position = put_value(op, value, words, taken, length, out, position, limit)
    return NO_ROOM
