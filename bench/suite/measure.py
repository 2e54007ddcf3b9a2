"""Rounds in turn, and what is told of them: medians, spread, ratios within a round.

Whatever else the machine does falls on all subjects of a round, so a ratio of two figures of the
same round travels better than either. Subjects run forwards and backwards in turn.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Figures = dict[str, float | None]
Subject = Callable[[], Figures]


@dataclass(frozen=True)
class Figure:
    """One figure over the rounds."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def spread(self) -> tuple[float, float]:
        return min(self.samples), max(self.samples)

    def as_dict(self) -> dict[str, object]:
        least, most = self.spread
        return {"median": self.median, "least": least, "most": most, "samples": self.samples}


@dataclass
class Rounds:
    """What was measured: for each subject a list of figures, an item a round."""

    taken: dict[str, list[Figures]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def figure(self, subject: str, name: str) -> Figure | None:
        """None where nothing of that name was measured."""
        values = [each.get(name) for each in self.taken.get(subject, [])]
        found = tuple(value for value in values if value is not None)
        return Figure(found) if found else None

    def ratio(self, subject: str, base: str, name: str) -> Figure | None:
        """Of each round `subject`'s figure by that of `base`."""
        pairs = zip(self.taken.get(subject, []), self.taken.get(base, []), strict=False)
        found = []
        for one, other in pairs:
            above, below = one.get(name), other.get(name)
            if above is not None and below:
                found.append(above / below)
        return Figure(tuple(found)) if found else None


def in_turn(subjects: Mapping[str, Subject], rounds: int) -> Rounds:
    """Measure all subjects `rounds` times. One that fails is left out from then on, and named."""
    told = Rounds({name: [] for name in subjects})
    for turn in range(rounds):
        names = list(subjects)
        for name in names if turn % 2 == 0 else reversed(names):
            if name in told.failed:
                continue
            began = time.monotonic()
            try:
                figures = subjects[name]()
            except Exception as error:
                told.failed[name] = f"{type(error).__name__}: {error}"
                progress(f"{name} failed: {told.failed[name]}")
                continue
            told.taken[name].append(figures)
            progress(
                f"{turn + 1}/{rounds} {name}: {shown(figures)} [{time.monotonic() - began:.1f} s]"
            )
    return told


def shown(figures: Figures) -> str:
    return ", ".join(
        f"{name} {value:,.4g}" if abs(value) < 1000 else f"{name} {value:,.0f}"
        for name, value in list(figures.items())[:4]
        if value is not None
    )


def progress(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)
