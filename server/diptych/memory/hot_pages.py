"""Pages that are written all the time: better left unprotected, and copied whether written or not.

Protecting a page and taking the fault at its next write costs the owner several times what copying
it does. So a page that `STREAK` takes in a row reported is *hot*: a take leaves it as it is, which
means that it counts as written, and the next take reports it again. Now and then it is protected
after all, to see whether it is still written. What is reported is never less than what was written;
it is more by the hot pages that were not.

Knows page numbers, not the kernel: see `kernel_tracker`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from diptych.kernel import bulk_kernel
from diptych.memory.layout import Pages

# Measured with an exchange's orders, a sync each 10 ms: two thirds fewer faults, and a tenth (small
# data) to a quarter (large) more pages to copy. A longer period spares few more faults.
STREAK = 3
PERIOD = 16  # takes from one look at a hot page to the next
NEIGHBOURS = 16  # pages that are looked at together, so that what is protected comes in pieces
HOT_PAGES_MAX = 2048  # about a millisecond of copying, should none of them be written any more
GAP_PAGES = 256  # a system call costs as much as passing over so many pages

STREAK_BITS = 8
STREAK_MASK = (1 << STREAK_BITS) - 1


@bulk_kernel
def divide(
    pages: Pages,
    extents: npt.NDArray[np.int64],
    notes: npt.NDArray[np.int64],
    number: int,
    hot: Pages,
    ranges: npt.NDArray[np.int64],
) -> tuple[int, int]:
    """Of written `pages` (ascending, in `extents`), those to be left as they are, into `hot`, and
    `ranges` of (start, stop) with all the others, each within one extent: how many of both.

    `notes` has of each page the last take, by its `number`, that reported it, above the streak.
    """
    hot_count = range_count = extent = 0
    stop = -1  # of the range that is open
    for i in range(pages.size):
        page = pages[i]
        while page >= extents[extent, 1]:
            extent += 1
            stop = -1
        streak = 1
        if notes[page] >> STREAK_BITS == number - 1:
            streak = min(STREAK_MASK, (notes[page] & STREAK_MASK) + 1)
        due = (page // NEIGHBOURS + number) % PERIOD == 0
        if streak >= STREAK and not due and hot_count < hot.size:
            hot[hot_count] = page
            hot_count += 1
            stop = -1
        else:
            streak = min(streak, STREAK - 1)
            if stop < 0 or page - stop > GAP_PAGES:
                ranges[range_count, 0] = page
                range_count += 1
            stop = page + 1
            ranges[range_count - 1, 1] = stop
        notes[page] = number << STREAK_BITS | streak
    return hot_count, range_count


class HotPages:
    """Which pages of one region are hot."""

    def __init__(self, page_count: int) -> None:
        # Never walked, and sparse: only what is written ever costs memory.
        self._notes = np.zeros(page_count, dtype=np.int64)
        self._number = 1
        self._hot: Pages = np.empty(HOT_PAGES_MAX, dtype=np.int64)
        self._ranges = np.empty((64, 2), dtype=np.int64)

    def divide(
        self, pages: Pages, extents: npt.NDArray[np.int64]
    ) -> tuple[Pages, npt.NDArray[np.int64]]:
        """Of the pages that a take found written, the hot ones, and what it is to protect, as
        ascending rows of (start, stop); views that the next call makes invalid.
        """
        if pages.size > len(self._ranges):
            self._ranges = np.empty((2 * pages.size, 2), dtype=np.int64)
        self._number += 1
        hot_count, range_count = divide(
            pages, extents, self._notes, self._number, self._hot, self._ranges
        )
        return self._hot[:hot_count], self._ranges[:range_count]

    def forget(self) -> None:
        """No page is hot any more."""
        self._number += 1
