"""How fast bytes may go: a checkpoint that is written freely makes the log wait for the disk."""

from __future__ import annotations

import time
from collections.abc import Callable

BEHIND_S = 0.05
"""Time that was not used may be made up for by so much; more would be a burst."""


class Pacer:
    """`bytes_s` says how many bytes a second are allowed just now; math.inf: as many as can be.

    `wait` sleeps for so many seconds, or shorter, when something has come up.
    """

    def __init__(
        self,
        bytes_s: Callable[[], float],
        wait: Callable[[float], None] = time.sleep,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bytes_s, self._wait, self._clock_s = bytes_s, wait, clock_s
        self._due_s = clock_s()

    def spent(self, size_bytes: int) -> None:
        """So many bytes went: wait as long as they should have taken."""
        self._due_s = max(self._due_s, self._clock_s() - BEHIND_S)
        self._due_s += size_bytes / self._bytes_s()
        left_s = self._due_s - self._clock_s()
        if left_s > 0:
            self._wait(left_s)
