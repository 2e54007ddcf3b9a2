"""Runs of words moved and cleared: what inserting, deleting, splitting and undoing come down to.

Positions are cast to unsigned before they index, because Numba otherwise allows for negative ones
at each word, which keeps the loops from becoming vector moves (measured: three times as slow).
"""

from __future__ import annotations

import numpy as np

from diptych.kernel import kernel
from diptych.memory.layout import Words


@kernel
def copy(words: Words, source: int, target: int, count: int) -> int:
    """Copy `count` words, first to last: right where the target lies below the source, or apart."""
    for i in range(count):
        words[np.uint64(target + i)] = words[np.uint64(source + i)]
    return 0


@kernel
def shift_up(words: Words, at: int, count: int, distance: int) -> int:
    """Move `count` words up by `distance`, which may be less than `count`."""
    for i in range(at + count - 1, at - 1, -1):
        words[np.uint64(i + distance)] = words[np.uint64(i)]
    return 0


@kernel
def clear(words: Words, at: int, count: int) -> int:
    """Set `count` words to 0."""
    for i in range(count):
        words[np.uint64(at + i)] = 0
    return 0


@kernel
def is_zero(words: Words, start: int, stop: int) -> bool:
    """Whether all words of a span are 0."""
    at = start
    while at < stop and words[at] == 0:
        at += 1
    return at >= stop
