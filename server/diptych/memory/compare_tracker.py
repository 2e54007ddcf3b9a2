"""Tracking by comparison: a shadow copy of the tracked pages, and what differs from it is written.

Works on any Linux, in any container, as any user. It costs as much memory again as is tracked, and
each question costs a pass over all of it (a tenth of a second a gigabyte), so it suits small
regions and places where the kernel's tracking is not to be had. A page written with the bytes it
had does not count as written.
"""

from __future__ import annotations

import mmap
import threading

import numpy as np

from diptych.memory.errors import TrackingLost
from diptych.memory.kernels import compare_written, copy_extents
from diptych.memory.layout import PAGE_BYTES, Extent, Pages, Words, extent_array
from diptych.memory.region import Region
from diptych.memory.tracked import TrackedExtents


class CompareTracker:
    """A page tracker (see `tracking.PageTracker`) with a shadow of its own."""

    name = "compare"
    protected_pages = 0  # it costs no faults
    unprotected: Pages = np.zeros(0, dtype=np.int64)

    def __init__(self, region: Region) -> None:
        self._region = region
        self._lock = threading.RLock()
        self._tracked = TrackedExtents(region)
        self._on = False
        # Anonymous memory is sparse: only the pages of tracked extents ever cost anything.
        self._shadow: Words = np.frombuffer(
            mmap.mmap(-1, region.page_count * PAGE_BYTES), dtype=np.int64
        )

    @property
    def source(self) -> Words:
        return self._shadow

    def start(self) -> None:
        """Begin, or begin anew, with nothing written."""
        with self._lock:
            self._on = True
            self.clear()

    def track(self, extent: Extent) -> None:
        """Report writes to `extent`, too, from now on."""
        with self._lock:
            self._tracked.check(extent)
            copy_extents(self._region.words, self._shadow, extent_array([extent]))
            self._tracked.add(extent)

    def written(self, limit: int | None = None) -> Pages:
        """The first `limit` pages that differ from the shadow; none while stopped."""
        with self._lock:
            if not self._on:
                return np.zeros(0, dtype=np.int64)
            return self._compare(False, self._tracked.out.size if limit is None else limit)

    def clear(self) -> None:
        """Nothing counts as written any more."""
        with self._lock:
            copy_extents(self._region.words, self._shadow, self._tracked.rows)

    def take(self) -> Pages:
        """All pages written, cleared in the same step. Raises TrackingLost while stopped."""
        with self._lock:
            if not self._on:
                raise TrackingLost("tracking is off")
            return self._compare(True, self._tracked.out.size)

    def stop(self) -> None:
        """Nothing is seen until the next start; the extents stay known."""
        with self._lock:
            self._on = False

    def _compare(self, take: bool, limit: int) -> Pages:
        out = self._tracked.out
        count = compare_written(
            self._region.words,
            self._shadow,
            self._tracked.rows,
            take,
            min(limit, out.size),
            out,
        )
        return out[:count].copy()
