"""The specification's random values (clauses 2.1.6 and 4.3.2), and those who draw them.

`Draws` makes many at once, for the loader, the same for the same seed on any machine; a terminal
draws one at a time from Python's `random.Random`. Knows no tables.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

SYLLABLES = ("BAR", "OUGHT", "ABLE", "PRI", "PRES", "ESE", "ANTI", "CALLY", "ATION", "EING")
NAMES = 1_000

# The constants C of NURand, one for each of its ranges A. For last names the run has another one
# than the load had; the specification wants 65 to 119 between them, and neither 96 nor 112.
LAST_A, CUSTOMER_A, ITEM_A = 255, 1_023, 8_191
LAST_C_LOAD, LAST_C_RUN = 123, 208
CUSTOMER_C, ITEM_C = 259, 7_911

_LETTERS = np.frombuffer(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", np.uint8
)


def last_name(number: int) -> str:
    """The last name of a number from 0 to 999: a syllable for each digit."""
    return SYLLABLES[number // 100] + SYLLABLES[number // 10 % 10] + SYLLABLES[number % 10]


def nurand(source: random.Random, a: int, c: int, low: int, high: int) -> int:
    """One int from `low` to `high`, some of them much more often than others."""
    drawn = int(source.random() * (a + 1)) | (low + int(source.random() * (high - low + 1)))
    return (drawn + c) % (high - low + 1) + low


class Draws:
    """Values for many rows. `seed`: ints that say which rows they are for."""

    def __init__(self, *seed: int) -> None:
        # This generator's numbers are promised never to change, unlike the newer ones'.
        self._source = np.random.RandomState(np.array(seed, np.uint32))

    def ints(self, low: int, high: int, count: int) -> list[int]:
        drawn: list[int] = self._ints(low, high, count).tolist()
        return drawn

    def nurand(self, a: int, c: int, low: int, high: int, count: int) -> list[int]:
        drawn = self._ints(0, a, count) | self._ints(low, high, count)
        made: list[int] = ((drawn + c) % (high - low + 1) + low).tolist()
        return made

    def permutation(self, count: int) -> list[int]:
        """1 to `count`, shuffled."""
        shuffled: list[int] = (self._source.permutation(count) + 1).tolist()
        return shuffled

    def texts(self, low: int, high: int, count: int) -> list[str]:
        """Letters and digits, `low` to `high` of them."""
        return self._texts(_LETTERS, self._ints(low, high, count))

    def capitals(self, length: int, count: int) -> list[str]:
        return self._texts(_LETTERS[:26], np.full(count, length))

    def digits(self, length: int, count: int) -> list[str]:
        return self._texts(_LETTERS[52:], np.full(count, length))

    def chosen(self, percent: int, count: int) -> list[bool]:
        """For each row whether it is one of so many in a hundred."""
        chosen: list[bool] = (self._ints(1, 100, count) <= percent).tolist()
        return chosen

    def marked(self, texts: Sequence[str], mark: str, percent: int) -> list[str]:
        """The texts, so many in a hundred of them with `mark` written over somewhere."""
        places = self._source.random_sample(len(texts)).tolist()
        return [
            _written_over(text, mark, place) if chosen else text
            for text, place, chosen in zip(
                texts, places, self.chosen(percent, len(texts)), strict=True
            )
        ]

    def _ints(self, low: int, high: int, count: int) -> npt.NDArray[np.int64]:
        return self._source.randint(low, high + 1, count, np.int64)

    def _texts(self, alphabet: npt.NDArray[np.uint8], lengths: npt.NDArray[np.int64]) -> list[str]:
        drawn = self._source.randint(0, len(alphabet), int(lengths.sum()), np.int64)
        text = alphabet[drawn].tobytes().decode()
        stops = np.cumsum(lengths).tolist()
        return [text[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]


def _written_over(text: str, mark: str, place: float) -> str:
    start = int(place * (len(text) - len(mark) + 1))
    return text[:start] + mark + text[start + len(mark) :]
