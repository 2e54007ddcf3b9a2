"""One value word of one row: read, and written with undo, however rows share words.

Most columns give each row whole words. Narrow ones put 2, 4, 8 or 64 rows into a word (`T_PACK`),
as an array of small numbers would lie in memory; what is read is extended to 64 bits, what is
written is cut to its width, which callers have made sure loses nothing. Types are not known here.

Whoever loops over values asks `whole_at` first, which the compiler merges into the loop, as it
would not do with all of `put_value` (measured: a third more for a row of eight values).
"""

from __future__ import annotations

import numpy as np

from diptych.kernel import kernel
from diptych.memory.layout import Words
from diptych.store.undo import put
from diptych.store.words import PACK_ROWS, PACK_SIGNED, T_BASE, T_PACK, T_STRIDE

WORD_BITS = 64


@kernel
def whole_at(words: Words, t: int, value: int, row: int) -> int:
    """Position of a value word, or -1 where rows share words."""
    stride = words[t + T_STRIDE + value]
    if stride == 0:
        return -1
    at: int = words[t + T_BASE + value] + row * stride
    return at


@kernel
def get_packed(words: Words, t: int, value: int, row: int) -> int:
    """`get_value` where rows share words."""
    pack = words[t + T_PACK + value]
    rows_bits = pack & PACK_ROWS
    bits = WORD_BITS >> rows_bits
    shift = (row & ((1 << rows_bits) - 1)) * bits
    word = words[words[t + T_BASE + value] + (row >> rows_bits)]
    number: int = (word >> shift) & ((1 << bits) - 1)
    if pack & PACK_SIGNED != 0 and number >> (bits - 1) != 0:
        number -= 1 << bits
    return number


@kernel
def put_packed(words: Words, t: int, value: int, row: int, word: int) -> bool:
    """`put_value` where rows share words."""
    rows_bits = words[t + T_PACK + value] & PACK_ROWS
    bits = WORD_BITS >> rows_bits
    shift = np.uint64((row & ((1 << rows_bits) - 1)) * bits)
    mask = np.uint64((1 << bits) - 1) << shift
    at = words[t + T_BASE + value] + (row >> rows_bits)
    new = (np.uint64(words[at]) & ~mask) | (np.uint64(np.int64(word)) << shift & mask)
    return put(words, at, int(np.int64(new)))


@kernel
def get_value(words: Words, t: int, value: int, row: int) -> int:
    """Value word number `value` of a row."""
    at = whole_at(words, t, value, row)
    if at < 0:
        return get_packed(words, t, value, row)
    whole: int = words[at]
    return whole


@kernel
def put_value(words: Words, t: int, value: int, row: int, word: int) -> bool:
    """Set value word number `value` of a row; False, and nothing written, when the undo log is
    full.
    """
    at = whole_at(words, t, value, row)
    return put(words, at, word) if at >= 0 else put_packed(words, t, value, row, word)
