"""Arguments of a call: from MessagePack to the words that compiled handlers read.

A *program* says what is expected, and `unpack` follows it over the payload, once and without going
back. A program is a list of ops, each with its operands, in an array of words; jumps are counted
from behind the op. `compiled/programs.py` makes them, `compiled/shapes.py` says which words come
out, and `engine/arguments.py` is the measure of what is allowed: nothing passes here that would not
pass there. What does not pass is left to Python, which knows how to say why.

Payloads are anybody's bytes: each length is compared with where the payload ends, and each count
with what the program allows, before it is believed. Programs are trusted.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from diptych.kernel import inlined, kernel
from diptych.memory.layout import Words
from diptych.store.spans import clear

Bytes = npt.NDArray[np.uint8]

# Ops, and their operands. Those of values have two more in front: how many operands there are in
# all, and how many words the value takes.
INT = 0  # low, high
MEMBER = 1  # how many follow, the members of an enum
FLOAT = 2
LIMITED_FLOAT = 3  # IS_SHORT and IS_BOUNDED, low and high as bits of doubles, the same as ints
BOOL = 4
NIL = 5
TEXT = 6  # bytes at most
DATA = 7  # bytes
VALUES = 8  # the ops below are of values
OPTIONAL = 8  # jump, words with the one that says whether there is a value
ARRAY = 9  # least, most items
ITEMS = 10  # least, most, words of an item, jump
AGAIN = 11  # jump back to an item's first op
ARGUMENTS = 12  # least, most: the array around all
DEFAULT = 13  # number of a parameter, jump, its words, how many follow, those: if it is left out
DONE = 14

NONE, TRUE = 0xC0, 0xC3
INT_MAX = (1 << 63) - 1
IS_SHORT, IS_BOUNDED = 1, 2
SIGN_BITS = 0x8080808080808080
LOW_BITS = 0x7F7F7F7F7F7F7F7F
SHORT_END_BITS = 0x47EFFFFFF0000000
"""Of the double where numbers begin that are nearer to infinity than to the largest of 32 bits."""
INFINITY_BITS = 0x7FF0000000000000
BAD = -1


@inlined
def octets(data: Bytes, position: int, count: int) -> int:
    """`count` bytes, 8 at most, as a word in memory has them: the first one is the lowest."""
    at = np.uint64(position)
    word = np.uint64(0)
    if position + 8 <= len(data):
        for i in range(8):
            word |= np.uint64(data[at + np.uint64(i)]) << np.uint64(8 * i)
        if count < 8:
            word &= (np.uint64(1) << np.uint64(8 * count)) - np.uint64(1)
    else:
        for i in range(count):
            word |= np.uint64(data[at + np.uint64(i)]) << np.uint64(8 * i)
    return int(np.int64(word))


@inlined
def number(data: Bytes, position: int, size: int) -> int:
    """1, 2, 4 or 8 bytes, the highest first, without a sign; what needs 64 bits is negative."""
    at, word = np.uint64(position), np.uint64(0)
    if position + 8 <= len(data):
        for i in range(8):
            word = word << np.uint64(8) | np.uint64(data[at + np.uint64(i)])
        word >>= np.uint64(64 - 8 * size)
    else:
        for i in range(size):
            word = word << np.uint64(8) | np.uint64(data[at + np.uint64(i)])
    return int(np.int64(word))


@inlined
def int_bytes(first: int) -> int:
    """How many bytes the int has that begins with this one; 0: it is no int."""
    if first < 0x80 or first >= 0xE0:
        return 1
    if 0xCC <= first <= 0xD3:
        return 1 + (1 << (first & 3))
    return 0


@inlined
def int_at(data: Bytes, position: int, first: int, size: int) -> int:
    """The int of `size` bytes at a position; without a sign and above 63 bits, it is negative."""
    if size == 1:
        return first if first < 0x80 else first - 0x100
    value = number(data, position + 1, size - 1)
    if first >= 0xD0 and size < 9:
        sign = 1 << (8 * size - 9)
        return (value ^ sign) - sign
    return value


@inlined
def double_of(value: int, unsigned: bool) -> int:
    """Bits of the double nearest to an int, as Python's float() has it."""
    if unsigned and value < 0:
        # Half of it, and what is lost kept as a bit that only rounding looks at.
        half = (value >> 1) & 0x7FFFFFFFFFFFFFFF | value & 1
        return int(np.float64(np.float64(half) * 2.0).view(np.int64))
    return int(np.float64(value).view(np.int64))


@inlined
def is_between(bits: int, low: int, high: int) -> bool:
    """Whether a double is between two, all given as bits; NaN is not."""
    value = np.int64(bits).view(np.float64)
    return bool(np.int64(low).view(np.float64) <= value <= np.int64(high).view(np.float64))


@inlined
def count_at(data: Bytes, position: int, first: int, stop: int) -> int:
    """How many items the array has that begins with this byte, or BAD."""
    if 0x90 <= first <= 0x9F:
        return first & 0x0F
    if first == 0xDC and stop - position > 2:
        return number(data, position + 1, 2)
    if first == 0xDD and stop - position > 4:
        return number(data, position + 1, 4)
    return BAD


@inlined
def text_head(first: int) -> int:
    """Bytes before the text that begins with this byte; 0: it is no text."""
    if 0xA0 <= first <= 0xBF:
        return 1
    return 1 + (1 << (first - 0xD9)) if 0xD9 <= first <= 0xDB else 0


@inlined
def data_head(first: int) -> int:
    """The same of data."""
    return 1 + (1 << (first - 0xC4)) if 0xC4 <= first <= 0xC6 else 0


@inlined
def array_head(first: int) -> int:
    """The same of an array."""
    if first == 0xDC:
        return 3
    return 5 if first == 0xDD else 1


@kernel
def is_utf8(data: Bytes, position: int, stop: int) -> bool:
    """Whether these bytes are UTF-8 as Python reads it: no surrogates, nothing too long."""
    while position < stop:
        first = int(data[position])
        position += 1
        if first < 0x80:
            continue
        if first < 0xC2 or first > 0xF4:
            return False
        more = 1 if first < 0xE0 else 2 if first < 0xF0 else 3
        if stop - position < more:
            return False
        second = int(data[position])
        low, high = 0x80, 0xBF
        if first == 0xE0:
            low = 0xA0
        elif first == 0xED:
            high = 0x9F
        elif first == 0xF0:
            low = 0x90
        elif first == 0xF4:
            high = 0x8F
        if second < low or second > high:
            return False
        for i in range(1, more):
            if int(data[position + i]) & 0xC0 != 0x80:
                return False
        position += more
    return True


@inlined
def put_octets(
    data: Bytes, position: int, length: int, words: Words, target: int, count: int
) -> int:
    """Write bytes as `count` words, zeros behind them. Returns the sign bits of all of them, and 1
    in the lowest bit if one of the bytes is zero.
    """
    found = np.uint64(0)
    for i in range(count):
        size = min(length - i * 8, 8)
        if size <= 0:
            words[target + i] = 0
            continue
        word = np.uint64(np.int64(octets(data, position + i * 8, size)))
        words[target + i] = np.int64(word)
        found |= word & np.uint64(SIGN_BITS)
        if size < 8:
            word |= ~((np.uint64(1) << np.uint64(8 * size)) - np.uint64(1))
        # What makes a byte's sign bit here is any bit of the byte.
        marks = (word & np.uint64(LOW_BITS)) + np.uint64(LOW_BITS) | word
        if marks & np.uint64(SIGN_BITS) != np.uint64(SIGN_BITS):
            found |= np.uint64(1)
    return int(np.int64(found))


@inlined
def put_text(
    program: Words, at: int, data: Bytes, position: int, stop: int, words: Words, target: int
) -> int:
    """Write the text at a position; where it ends, or BAD. `at`: where its op is."""
    first = int(data[np.uint64(position)])
    head = text_head(first)
    if head == 0 or stop - position < head:
        return BAD
    length = first & 0x1F if head == 1 else number(data, position + 1, head - 1)
    position += head
    if length > program[at + 3] or stop - position < length:
        return BAD
    found = put_octets(data, position, length, words, target, program[at + 2])
    if found & 1 != 0 or (found != 0 and not is_utf8(data, position, position + length)):
        return BAD
    return position + length


@inlined
def put_data(
    program: Words, at: int, data: Bytes, position: int, stop: int, words: Words, target: int
) -> int:
    """The same of data."""
    head = data_head(int(data[np.uint64(position)]))
    if head == 0 or stop - position < head:
        return BAD
    length = number(data, position + 1, head - 1)
    position += head
    if length != program[at + 3] or stop - position < length:
        return BAD
    put_octets(data, position, length, words, target, program[at + 2])
    return position + length


@inlined
def put_float(
    program: Words, at: int, data: Bytes, position: int, stop: int, words: Words, target: int
) -> int:
    """The same of a number, as a double."""
    first = int(data[np.uint64(position)])
    limits = program[at + 3] if program[at] == LIMITED_FLOAT else 0
    size = int_bytes(first)
    if first == 0xCB:
        size = 9
    elif first == 0xCA:
        size = 5
    if size == 0 or stop - position < size:
        return BAD
    if first == 0xCB:
        bits = number(data, position + 1, 8)
    elif first == 0xCA:
        short = np.int32(number(data, position + 1, 4) - (1 << 31)) ^ np.int32(-(1 << 31))
        bits = int(np.float64(np.int32(short).view(np.float32)).view(np.int64))
    else:
        value = int_at(data, position, first, size)
        is_large = first == 0xCF and value < 0
        words[target] = double_of(value, is_large)
        # As ints: one that is no double may be beyond a bound, and the double next to it not.
        fits = not is_large and program[at + 6] <= value <= program[at + 7]
        return BAD if limits & IS_BOUNDED != 0 and not fits else position + size
    words[target] = bits
    if limits & IS_BOUNDED != 0 and not is_between(bits, program[at + 4], program[at + 5]):
        return BAD
    if limits & IS_SHORT != 0 and SHORT_END_BITS <= bits & INT_MAX < INFINITY_BITS:
        return BAD
    return position + size


@inlined
def put_int(
    program: Words, at: int, data: Bytes, position: int, stop: int, words: Words, target: int
) -> int:
    """The same of an int."""
    first = int(data[np.uint64(position)])
    size = int_bytes(first)
    if size == 0 or stop - position < size:
        return BAD
    value = int_at(data, position, first, size)
    if first == 0xCF and value < 0:
        return BAD
    words[target] = value
    if program[at] == INT:
        return position + size if program[at + 3] <= value <= program[at + 4] else BAD
    for i in range(program[at + 3]):
        if value == program[at + 4 + i]:
            return position + size
    return BAD


@inlined
def put_value(
    program: Words, at: int, data: Bytes, position: int, stop: int, words: Words, target: int
) -> int:
    """The same of what the op at `at` wants."""
    op = program[at]
    if op <= MEMBER:
        return put_int(program, at, data, position, stop, words, target)
    if op <= LIMITED_FLOAT:
        return put_float(program, at, data, position, stop, words, target)
    if op == TEXT:
        return put_text(program, at, data, position, stop, words, target)
    if op == DATA:
        return put_data(program, at, data, position, stop, words, target)
    first = int(data[np.uint64(position)])
    if op == NIL:
        return position + 1 if first == NONE else BAD
    words[target] = first & 1
    return position + 1 if first | 1 == TRUE else BAD


@kernel
def unpack(
    program: Words, at: int, payload: Bytes, start: int, stop: int, words: Words, target: int
) -> int:
    """Write the arguments in payload[start:stop] to words[target:], as the program at `at` says.

    Returns 0, or 1: Python shall take this frame. Then anything may stand in the words that the
    program's arguments take; no others are ever written.
    """
    position, given, behind, left = start, 0, target, 0
    while position >= 0:
        op = program[at]
        if op < VALUES and position < stop:
            position = put_value(program, at, payload, position, stop, words, target)
            target += program[at + 2]
            at += 1 + program[at + 1]
        elif op == DONE:
            return 0 if position == stop else 1
        elif op == AGAIN:
            left -= 1
            target = target if left > 0 else behind
            at += 2 if left == 0 else -program[at + 1]
        elif op == DEFAULT:
            literals = program[at + 4]
            if program[at + 1] >= given:
                for i in range(literals):
                    words[target + i] = program[at + 5 + i]
                target += program[at + 3]
                at += program[at + 2]
            at += 5 + literals
        elif position >= stop:
            return 1
        elif op == OPTIONAL:
            if payload[np.uint64(position)] != NONE:
                words[target] = 1
                target += 1
            else:
                clear(words, target, program[at + 2])
                position += 1
                target += program[at + 2]
                at += program[at + 1]
            at += 3
        else:
            first = int(payload[np.uint64(position)])
            count = count_at(payload, position, first, stop)
            if count < program[at + 1] or count > program[at + 2]:
                return 1
            position += array_head(first)
            if op == ARGUMENTS:
                given = count
            elif op == ITEMS:
                words[target] = left = count
                behind = target + 1 + program[at + 2] * program[at + 3]
                target = behind if count == 0 else target + 1
                at += 2 + (program[at + 4] if count == 0 else 0)
            at += 3
    return 1
