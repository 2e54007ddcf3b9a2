"""How far a long piece of work is: a line in the log now and then, with a share and an estimate.

Quick work says nothing on the way. Used for saving, loading and migrating.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

FIRST_S = 1.0
EVERY_S = 2.0
ESTIMATED_PERCENT = 5
"""Before so much is done an estimate is a guess."""
MIB = 1 << 20


class Progress:
    """One piece of work. `shown` puts a part of `total` into a number of `unit`."""

    def __init__(
        self,
        log: logging.Logger,
        what: str,
        total: int,
        shown: Callable[[int], str],
        unit: str,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log, self._what, self._total = log, what, total
        self._shown, self._unit = shown, unit
        self._clock_s = clock_s
        self.began_s = clock_s()
        self._next_s = self.began_s + FIRST_S
        self.done = 0

    def add(self, count: int) -> None:
        """So many units more are done."""
        self.done += count
        now_s = self._clock_s()
        if now_s < self._next_s or self.done >= self._total:
            return
        self._next_s = now_s + EVERY_S
        percent = 100 * self.done // max(1, self._total)
        left_s = (now_s - self.began_s) * (self._total - self.done) / max(1, self.done)
        self._log.info(
            "%s: %s of %s %s, %d %%%s",
            self._what,
            self._shown(self.done),
            self._shown(self._total),
            self._unit,
            percent,
            f", about {left_s:.0f} s left" if percent >= ESTIMATED_PERCENT else "",
        )

    @property
    def elapsed_s(self) -> float:
        return self._clock_s() - self.began_s


def in_mebibytes(size_bytes: int) -> str:
    return f"{size_bytes / MIB:,.1f}"
