"""One value word of one row: read, and written with undo, however rows share words.

Most columns give each row whole words. Narrow ones put 2, 4, 8 or 64 rows into a word (`T_PACK`),
as an array of small numbers would lie in memory; what is read is extended to 64 bits, what is
written is cut to its width, which callers have made sure loses nothing. Types are not known here.
"""

from __future__ import annotations

import numpy as np

from diptych.kernel import kernel
from diptych.memory.layout import Words
from diptych.store.undo import put
from diptych.store.words import PACK_ROWS, PACK_SIGNED, T_BASE, T_PACK, T_STRIDE

WORD_BITS = 64


@kernel
def get_value(words: Words, t: int, value: int, row: int) -> int:
    """Value word number `value` of a row."""
    base = words[t + T_BASE + value]
    pack = words[t + T_PACK + value]
    rows_bits = pack & PACK_ROWS
    if rows_bits == 0:
        whole: int = words[base + row * words[t + T_STRIDE + value]]
        return whole
    bits = WORD_BITS >> rows_bits
    shift = (row & ((1 << rows_bits) - 1)) * bits
    word = words[base + (row >> rows_bits)]
    number: int = (word >> shift) & ((1 << bits) - 1)
    if pack & PACK_SIGNED != 0 and number >> (bits - 1) != 0:
        number -= 1 << bits
    return number


@kernel
def put_value(words: Words, t: int, value: int, row: int, word: int) -> bool:
    """Set value word number `value` of a row; False, and nothing written, when the undo log is
    full.
    """
    base = words[t + T_BASE + value]
    rows_bits = words[t + T_PACK + value] & PACK_ROWS
    if rows_bits == 0:
        return put(words, base + row * words[t + T_STRIDE + value], word)
    bits = WORD_BITS >> rows_bits
    shift = np.uint64((row & ((1 << rows_bits) - 1)) * bits)
    mask = np.uint64((1 << bits) - 1) << shift
    at = base + (row >> rows_bits)
    new = (np.uint64(words[at]) & ~mask) | (np.uint64(np.int64(word)) << shift & mask)
    return put(words, at, int(np.int64(new)))
