"""Building text in compiled handlers: kernels over a small array of words that is the call's own.

Text is UTF-8, eight bytes a word from the lowest, zeros behind the last byte; it has no zero
character. What is built begins at word 0, and what it is built of lies behind it. Words behind
those that are used must be zero.
"""

from __future__ import annotations

from diptych.kernel import kernel
from diptych.memory.layout import Words

ONES = 0x0101010101010101
HIGH_BITS = -0x7F7F7F7F7F7F7F80  # of each byte
LOW_HIGH_BITS = 0x0080808080808080  # of each but the highest byte
LOW_BITS = 0x007F7F7F7F7F7F7F  # the other bits of those
BYTES_MASK = 0x00FFFFFFFFFFFFFF
MINUS, ZERO = ord("-"), ord("0")


@kernel
def bytes_used(words: Words, start: int, count: int) -> int:
    """How many bytes the text in `count` words has."""
    while count > 0 and words[start + count - 1] == 0:
        count -= 1
    if count == 0:
        return 0
    last, size = words[start + count - 1], 8 * (count - 1)
    while last != 0:
        last = (last >> 8) & BYTES_MASK
        size += 1
    return size


@kernel
def join(words: Words, size: int, start: int, count: int) -> int:
    """Put a text behind the first `size` bytes; how many there are then."""
    added = bytes_used(words, start, count)
    shift, place = 8 * (size & 7), size >> 3
    for i in range((added + 7) >> 3):
        part = words[start + i]
        words[place + i] |= part << shift
        if shift > 0:
            words[place + i + 1] |= (part >> (64 - shift)) & ((1 << shift) - 1)
    return size + added


@kernel
def put_byte(words: Words, size: int, byte: int) -> int:
    words[size >> 3] |= byte << (8 * (size & 7))
    return size + 1


@kernel
def join_int(words: Words, size: int, value: int, width: int, fill: int) -> int:
    """Put an int behind the first `size` bytes as `format` does it; how many there are then.

    `width`: characters at the least, made up with `fill`, a space or a zero. `value` is not the
    lowest int.
    """
    rest, digits, power = abs(value), 1, 1
    while rest // power >= 10:
        power *= 10
        digits += 1
    missing = width - digits - (1 if value < 0 else 0)
    if value < 0 and fill == ZERO:
        size = put_byte(words, size, MINUS)
    for _ in range(missing):
        size = put_byte(words, size, fill)
    if value < 0 and fill != ZERO:
        size = put_byte(words, size, MINUS)
    for _ in range(digits):
        size = put_byte(words, size, ZERO + rest // power % 10)
        power //= 10
    return size


@kernel
def keep(words: Words, count: int, length: int) -> int:
    """Cut the text in the first `count` words after `length` characters; 0, or -1: not all of
    them are ASCII, where characters are bytes.
    """
    if bytes_used(words, 0, count) <= length:
        return 0
    place, rest = length >> 3, 8 * (length & 7)
    mixed = 0
    for i in range(place):
        mixed |= words[i]
    words[place] &= (1 << rest) - 1
    mixed |= words[place]
    for i in range(place + 1, count):
        words[i] = 0
    return -1 if mixed & HIGH_BITS != 0 else 0


@kernel
def characters(words: Words, count: int) -> int:
    """How many characters the text in the first `count` words has."""
    found = 0
    for i in range(bytes_used(words, 0, count)):
        byte = words[i >> 3] >> (8 * (i & 7)) & 0xFF
        if byte & 0xC0 != 0x80:  # which a character's first byte alone is not
            found += 1
    return found


@kernel
def contains(words: Words, count: int, start: int, sought_count: int) -> int:
    """1 when the text in the first `count` words contains the one at `start`, else 0.

    One more word than the first text has must be zero.
    """
    size = bytes_used(words, 0, count)
    sought_size = bytes_used(words, start, sought_count)
    if sought_size == 0:
        return 1
    first = words[start] & 0xFF
    pattern = first * ONES if first < 0x80 else 0
    last = size - sought_size
    for i in range((last >> 3) + 1 if last >= 0 else 0):
        if first < 0x80:
            # A byte that is equal is zero here, and adding tells a zero byte from all others.
            other = words[i] ^ pattern
            zeros = ~(((other & LOW_BITS) + LOW_BITS) | other) & LOW_HIGH_BITS
            if zeros == 0 and (other >> 56) & 0xFF != 0:
                continue
        for at in range(8 * i, min(8 * i + 8, last + 1)):
            if words[i] >> (8 * (at & 7)) & 0xFF == first and begins(words, at, start, sought_size):
                return 1
    return 0


@kernel
def begins(words: Words, at: int, start: int, size: int) -> bool:
    """Whether the bytes from `at` on begin with the text of `size` bytes at word `start`."""
    shift, place = 8 * (at & 7), at >> 3
    for i in range((size + 7) >> 3):
        part = words[place + i]
        if shift > 0:
            part = (part >> shift) & ((1 << (64 - shift)) - 1) | words[place + i + 1] << (
                64 - shift
            )
        rest = size - 8 * i
        mask = -1 if rest >= 8 else (1 << (8 * rest)) - 1
        if (part ^ words[start + i]) & mask != 0:
            return False
    return True
