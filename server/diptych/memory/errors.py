"""What can go wrong with mapped memory, each with a hint at what to do about it.

They are about the machine (no memory, a kernel that lacks a call), never about the caller's data;
misuse of this package is an ordinary `ValueError` or an assertion.
"""

from __future__ import annotations

import numpy as np

from diptych.memory.layout import Pages


class MemoryFailure(Exception):
    """The machine refused something that mapped memory needs."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.hint = hint


class AllocationFailed(MemoryFailure):
    """There is no memory (or no space in the file system) for the pages asked for."""


class TrackingUnavailable(MemoryFailure):
    """A way of tracking written pages does not work here; the message says why."""


class TrackingLost(MemoryFailure):
    """Pages written since the last take are no longer known in full.

    `pages` are those that the failed take had already got (and cleared): they are written, and
    nothing will report them again. All the rest must be treated as written, too.
    """

    def __init__(self, message: str, pages: Pages | None = None) -> None:
        super().__init__(message)
        self.pages: Pages = np.zeros(0, dtype=np.int64) if pages is None else pages
