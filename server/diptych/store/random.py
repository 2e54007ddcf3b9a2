"""`db.random`: numbers that are the same each time a transaction runs, wherever that is.

Draw n of transaction S is splitmix64's output for the n-th state after a key, which is made of the
SEED in the region's header and of S. So nothing is kept from one transaction to the next, and
nothing of it lies in the region: which transaction drew last, and how often, stands in the scratch.
A transaction that is undone and runs again begins anew, with the same numbers.

For simulations, samples and shuffles. Who knows some numbers can find out the others, so for
nothing that must stay secret.

All of it multiplies and adds in halves, which cannot overflow, so that it is the same with and
without compilation.
"""

from __future__ import annotations

import operator

import numpy as np

from diptych.kernel import direct, kernel
from diptych.memory.layout import Words
from diptych.store import words as at
from diptych.store.views import Space
from diptych.store.words import (
    S_RANDOM_COUNT,
    S_RANDOM_SEQUENCE,
    SCRATCH,
    SEED,
    SEQUENCE,
)

LOW_HALF = np.uint64(0xFFFFFFFF)
MAX = np.uint64(0xFFFFFFFFFFFFFFFF)
STEP = np.uint64(0x9E3779B97F4A7C15)  # splitmix64's, as are the two factors
FACTOR_A = np.uint64(0xBF58476D1CE4E5B9)
FACTOR_B = np.uint64(0x94D049BB133111EB)
ONE = np.uint64(1)
SHIFT_11, SHIFT_27, SHIFT_30 = np.uint64(11), np.uint64(27), np.uint64(30)
SHIFT_31, SHIFT_32 = np.uint64(31), np.uint64(32)
FRACTION = 2.0**-53


@kernel
def plus(a: np.uint64, b: np.uint64) -> np.uint64:
    """The sum, modulo 2^64."""
    low = (a & LOW_HALF) + (b & LOW_HALF)
    high = (a >> SHIFT_32) + (b >> SHIFT_32) + (low >> SHIFT_32)
    return high << SHIFT_32 | low & LOW_HALF


@kernel
def times(a: np.uint64, b: np.uint64) -> np.uint64:
    """The product, modulo 2^64."""
    low = (a & LOW_HALF) * (b & LOW_HALF)
    one = (a >> SHIFT_32) * (b & LOW_HALF) & LOW_HALF
    other = (a & LOW_HALF) * (b >> SHIFT_32) & LOW_HALF
    return (low >> SHIFT_32) + one + other << SHIFT_32 | low & LOW_HALF


@kernel
def scrambled(state: np.uint64) -> np.uint64:
    """What splitmix64 puts out for a state."""
    value = times(state ^ state >> SHIFT_30, FACTOR_A)
    value = times(value ^ value >> SHIFT_27, FACTOR_B)
    return value ^ value >> SHIFT_31


@kernel
def draw(words: Words) -> np.uint64:
    """The next 64 bits of the transaction that runs."""
    scratch, sequence = words[SCRATCH], words[SEQUENCE]
    if words[scratch + S_RANDOM_SEQUENCE] != sequence:
        words[scratch + S_RANDOM_SEQUENCE] = sequence
        words[scratch + S_RANDOM_COUNT] = 0
    words[scratch + S_RANDOM_COUNT] += 1
    count = np.uint64(words[scratch + S_RANDOM_COUNT])
    key = scrambled(plus(np.uint64(words[SEED]), scrambled(np.uint64(sequence))))
    return scrambled(plus(key, times(count, STEP)))


@kernel
def fraction(words: Words) -> float:
    """A float of 53 random bits, from 0 up to but not including 1."""
    bits = draw(words) >> SHIFT_11
    return float(bits) * FRACTION


@kernel
def integer(words: Words, low: int, high: int) -> int:
    """An int from `low` up to but not including `high`, which is greater; each is as likely.

    Of the draws those are left out that would make the first few more likely than the rest.
    """
    count = np.uint64(high - low)
    left_out = (MAX - (count - ONE)) % count
    drawn = draw(words)
    while drawn < left_out:
        drawn = draw(words)
    offset = drawn % count
    half = np.int64(offset >> ONE)  # the whole may have all 64 bits
    return int(low + half + (half + np.int64(offset & ONE)))


draw_fraction = direct(fraction, 0)
draw_integer = direct(integer, 2)


class Generator:
    """The `db.random` of a transaction; see `diptych.app.Random`."""

    __slots__ = ("_words",)

    def __init__(self, space: Space) -> None:
        self._words = space.words

    def random(self) -> float:
        """A float from 0 up to but not including 1, of 53 bits."""
        return draw_fraction(self._words)

    def integers(self, low: int, high: int | None = None) -> int:
        """An int from `low` up to but not including `high`; with one bound, from 0 up to that.

        Errors: ValueError where there is no such int, or a bound is beyond 64 bits.
        """
        if high is None:
            low, high = 0, low
        if type(low) is not int or type(high) is not int:
            low, high = int(operator.index(low)), int(operator.index(high))
        if low >= high:
            raise ValueError(f"there is no int from {low} up to, but not including, {high}")
        try:
            return draw_integer(self._words, low, high)
        except OverflowError:
            raise ValueError(f"{low} or {high} is beyond 64 bits") from None


def restart(space: Space) -> None:
    """Begin anew: what was drawn is undone with the rest of the transaction."""
    space.scratch[at.S_RANDOM_SEQUENCE] = -1
