"""Tracking by the kernel: pages are write-protected; the first write to each is noted.

Exact for every kind of synchronous write, also by system calls that read into the region, and the
cost is about a microsecond for the first write to a page after each take. Linux 6.7 or newer.

With `leave_hot`, pages that are written all the time are left unprotected, and count as written
(see `hot_pages`); everything else is as exact as ever.

It belongs to one mapping in one process. Not seen: writes through another mapping or another
process, `pwrite` to the descriptor, direct asynchronous I/O into the region, and holes punched in
the file.
"""

from __future__ import annotations

import os
import threading

import numpy as np
import numpy.typing as npt

from diptych.memory import userfault
from diptych.memory.errors import TrackingLost, TrackingUnavailable
from diptych.memory.hot_pages import HotPages
from diptych.memory.kernels import SCAN_WORDS, scan_written
from diptych.memory.layout import PAGE_BYTES, Extent, Pages, Words
from diptych.memory.region import Region
from diptych.memory.tracked import TrackedExtents

NO_PAGES: Pages = np.zeros(0, dtype=np.int64)


class KernelTracker:
    """A page tracker (see `tracking.PageTracker`) on userfaultfd and PAGEMAP_SCAN.

    `opening` picks one way to get the descriptor (a key of `userfault.OPENINGS`); without it each
    is tried. Its lock lets one thread track a new extent while another takes.
    """

    name = "kernel"

    def __init__(
        self, region: Region, opening: str | None = None, *, leave_hot: bool = False
    ) -> None:
        self.protected_pages = 0
        self.unprotected = NO_PAGES
        self._region = region
        self._hot = HotPages(region.page_count) if leave_hot else None
        self._openings = list(userfault.OPENINGS) if opening is None else [opening]
        self._lock = threading.RLock()
        self._tracked = TrackedExtents(region)
        self._fault_fd = -1
        self._pagemap_fd = -1
        self._process = 0
        self.opened_by = ""
        self._work = np.zeros(SCAN_WORDS, dtype=np.int64)

    @property
    def source(self) -> Words:
        return self._region.words

    def start(self) -> None:
        """Begin, or begin anew, with nothing written. Raises TrackingUnavailable."""
        if os.sysconf("SC_PAGE_SIZE") != PAGE_BYTES:
            raise TrackingUnavailable(f"pages here are not {PAGE_BYTES} bytes")
        with self._lock:
            self.stop()
            self._fault_fd, self.opened_by = self._open()
            self.unprotected = NO_PAGES
            if self._hot is not None:
                self._hot.forget()
            try:
                self._pagemap_fd = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
                self._process = os.getpid()
                for extent in self._tracked.extents:
                    self._register(extent)
            except PermissionError as failure:
                self.stop()
                raise TrackingUnavailable(
                    f"this process may not read its own pagemap: {failure}",
                    hint="a process that changed its user must execute its program anew",
                ) from failure
            except OSError as failure:
                self.stop()
                raise TrackingUnavailable(f"memory cannot be registered: {failure}") from failure

    def track(self, extent: Extent) -> None:
        """Report writes to `extent`, too, from now on."""
        with self._lock:
            self._tracked.check(extent)
            if self._fault_fd >= 0:
                try:
                    self._register(extent)
                except OSError as failure:
                    raise TrackingUnavailable(
                        f"{extent} cannot be registered: {failure}"
                    ) from failure
            self._tracked.add(extent)

    def written(self, limit: int | None = None) -> Pages:
        """The first `limit` pages written and not yet cleared; none while stopped."""
        with self._lock:
            if self._fault_fd < 0:
                return np.zeros(0, dtype=np.int64)
            size = self._tracked.out.size
            return self._scan(self._tracked.rows, False, size if limit is None else limit)

    def clear(self) -> None:
        """Nothing counts as written any more."""
        with self._lock:
            if self._fault_fd >= 0:
                self.unprotected = NO_PAGES
                try:
                    for extent in self._tracked.extents:
                        userfault.protect(self._fault_fd, *self._range(extent))
                except OSError as failure:
                    raise TrackingLost(f"written pages cannot be cleared: {failure}") from failure

    def take(self) -> Pages:
        """All pages written, cleared in the same step. Raises TrackingLost."""
        with self._lock:
            if self._fault_fd < 0:
                raise TrackingLost("tracking is off")
            if self._hot is None:
                pages = self._protect(self._tracked.rows)
            else:
                pages = self._take_leaving_hot(self._hot)
            return pages

    def _take_leaving_hot(self, known: HotPages) -> Pages:
        written = self._scan(self._tracked.rows, False, self._tracked.out.size)
        hot, ranges = known.divide(written, self._tracked.rows)
        self.unprotected = hot.copy()
        # What is written between the two scans is in the second one, or is left for the next take.
        pages = self._protect(ranges)
        if not hot.size:
            return pages
        taken = np.concatenate((hot, pages))
        taken.sort(kind="stable")  # two ascending parts: merged in one pass
        return taken

    def _protect(self, ranges: npt.NDArray[np.int64]) -> Pages:
        pages = self._scan(ranges, True, self._tracked.out.size)
        self.protected_pages = pages.size
        return pages

    def stop(self) -> None:
        """Nothing is seen until the next start; the extents stay known."""
        with self._lock:
            for fd in (self._fault_fd, self._pagemap_fd):
                if fd >= 0:
                    os.close(fd)
            self._fault_fd = self._pagemap_fd = -1

    def _open(self) -> tuple[int, str]:
        reasons = []
        for name in self._openings:
            try:
                fd = userfault.OPENINGS[name]()
            except OSError as failure:
                reasons.append(f"userfaultfd by {name}: {failure.strerror or failure}")
                continue
            try:
                userfault.enable(fd)
            except OSError as failure:
                os.close(fd)
                reasons.append(
                    f"userfaultfd by {name}: the kernel lacks asynchronous write-protection "
                    f"(Linux 6.7 has it): {failure.strerror}"
                )
                continue
            return fd, name
        raise TrackingUnavailable("; ".join(reasons))

    def _register(self, extent: Extent) -> None:
        # Registering alone would report every page of the extent at the next take.
        userfault.register(self._fault_fd, *self._range(extent))
        userfault.protect(self._fault_fd, *self._range(extent))

    def _range(self, extent: Extent) -> tuple[int, int]:
        address = self._region.address + extent.start * PAGE_BYTES
        return address, extent.page_count * PAGE_BYTES

    def _scan(self, ranges: npt.NDArray[np.int64], take: bool, limit: int) -> Pages:
        if os.getpid() != self._process:
            raise TrackingLost("tracking does not survive a fork: the parent has it")
        out = self._tracked.out
        count, error = scan_written(
            self._pagemap_fd,
            self._region.address,
            ranges,
            take,
            min(limit, out.size),
            self._work,
            out,
        )
        pages = out[:count].copy()
        if error:
            raise TrackingLost(f"PAGEMAP_SCAN failed: {os.strerror(error)}", pages)
        return pages
