"""`db.random` written once more, with Python's own ints, as docs/semantics.md has it."""

from __future__ import annotations

from dataclasses import dataclass

MASK = (1 << 64) - 1
STEP = 0x9E3779B97F4A7C15


def scrambled(state: int) -> int:
    """What splitmix64 puts out for a state."""
    value = state & MASK
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & MASK
    return value ^ value >> 31


@dataclass
class Numbers:
    """Those of one transaction."""

    seed: int
    sequence: int
    drawn: int = 0

    def bits(self) -> int:
        self.drawn += 1
        key = scrambled(self.seed + scrambled(self.sequence))
        return scrambled(key + self.drawn * STEP)

    def random(self) -> float:
        return (self.bits() >> 11) / (1 << 53)

    def integers(self, low: int, high: int) -> int:
        count = high - low
        bits = self.bits()
        while bits < (1 << 64) % count:
            bits = self.bits()
        return low + bits % count


def draws(seed: int, sequence: int) -> list[float | int]:
    """What the transaction `draw` of the semantics' application returns."""
    numbers = Numbers(seed, sequence)
    bounds = ((0, 6), (-3, 3), (-(1 << 62), 1 << 62))
    floats = [numbers.random(), numbers.random()]
    return [*floats, *(numbers.integers(low, high) for low, high in bounds)]
