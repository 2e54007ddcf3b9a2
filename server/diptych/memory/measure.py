"""What a sync costs on this machine, measured: for the doctor and the benchmark.

Uses the mirror as the writer does, with one thread, so that the figures are those of the work
itself. Absolute figures belong to the machine and the moment; compare only what one run measured.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from types import TracebackType

import numpy as np

from diptych.memory.kernels import copy_extents, write_pages
from diptych.memory.layout import PAGE_BYTES, Extent, Pages, extent_array, pages_in
from diptych.memory.mirror import NONE, Mirror
from diptych.memory.region import Region
from diptych.memory.tracking import Preference, choose_tracker


@dataclass(frozen=True, slots=True)
class SyncCost:
    """Of syncs of `written_pages` random pages of `size_bytes` of allocated memory."""

    size_bytes: int
    written_pages: int
    tracker: str
    pause_median_us: float
    pause_p99_us: float
    scan_us: float  # of the pause: finding the written pages
    clean_scan_us: float  # finding that nothing was written
    copy_ns_per_page: float  # of the pause: the rest
    first_write_ns_per_page: float  # the fault at the first write to a page after a sync
    level_us: float  # beside the writer: bringing the next image up to date


class SyncMeasurement:
    """A region of `size_bytes` in use, all of it allocated, with `images` images. Close it."""

    def __init__(self, size_bytes: int, *, images: int = 2, tracker: Preference = "auto") -> None:
        self.size_bytes = size_bytes
        page_count = 1 + pages_in(size_bytes)
        self.region = Region.create(page_count * PAGE_BYTES, name="measure")
        self.images = [
            Region.create(page_count * PAGE_BYTES, name=f"measure-{number}")
            for number in range(images)
        ]
        self._tracker = choose_tracker(self.region, tracker)
        self._mirror = Mirror(self.region, self._tracker, self.images)
        self._mirror.add_extent(Extent(1, page_count))
        self._random = np.random.default_rng(1)
        self._value = 1
        self._sync()

    def __enter__(self) -> SyncMeasurement:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._tracker.stop()
        for memory in (self.region, *self.images):
            memory.close()

    def run(self, written_pages: int, rounds: int) -> SyncCost:
        """Write that many random pages, then sync; `rounds` times, the first ones to warm up."""
        pauses_us, scans_us, copies_ns, writes_ns, levels_us = [], [], [], [], []
        for number in range(rounds + len(self.images)):
            pages = self.random_pages(written_pages)
            first_ns, again_ns = self.write(pages), self.write(pages)
            level_us, pause_us, scan_us = self._sync()
            if number < len(self.images):
                continue
            pauses_us.append(pause_us)
            scans_us.append(scan_us)
            levels_us.append(level_us)
            copies_ns.append((pause_us - scan_us) * 1000 / max(1, pages.size))
            writes_ns.append((first_ns - again_ns) / max(1, pages.size))
        return SyncCost(
            size_bytes=self.size_bytes,
            written_pages=written_pages,
            tracker=self._tracker.name,
            pause_median_us=round(statistics.median(pauses_us), 1),
            pause_p99_us=round(float(np.percentile(pauses_us, 99)), 1),
            scan_us=round(statistics.median(scans_us), 1),
            clean_scan_us=round(self._clean_scan_us(), 1),
            copy_ns_per_page=round(statistics.median(copies_ns), 1),
            first_write_ns_per_page=round(statistics.median(writes_ns), 1),
            level_us=round(statistics.median(levels_us), 1),
        )

    def full_copy_ms(self) -> float:
        """All of the region into an image, as a mirror without tracking would."""
        extents = extent_array([Extent(1, self.region.page_count)])
        times_ms = []
        for _ in range(3):
            began_ns = time.perf_counter_ns()
            copy_extents(self.region.words, self.images[0].words, extents)
            times_ms.append((time.perf_counter_ns() - began_ns) / 1e6)
        return round(statistics.median(times_ms), 3)

    def random_pages(self, count: int) -> Pages:
        """`count` different pages, ascending."""
        last = self.region.page_count
        return np.sort(self._random.choice(last - 1, min(count, last - 1), replace=False) + 1)

    def write(self, pages: Pages) -> int:
        """Write in each page, in random order as an application would; returns the ns it took."""
        shuffled = self._random.permutation(pages)
        self._value += 1
        began_ns = time.perf_counter_ns()
        write_pages(self.region.words, shuffled, self._value)
        return time.perf_counter_ns() - began_ns

    def _clean_scan_us(self) -> float:
        times_us = []
        for _ in range(5):
            began_ns = time.perf_counter_ns()
            self._tracker.written()
            times_us.append((time.perf_counter_ns() - began_ns) / 1000)
        return statistics.median(times_us)

    def _sync(self) -> tuple[float, float, float]:
        """One sync: microseconds of levelling, of the pause, and of the pause's scan."""
        mirror = self._mirror
        image = 0 if mirror.current == NONE else (mirror.current + 1) % len(self.images)
        began_ns = time.perf_counter_ns()
        mirror.level(image)
        levelled_ns = time.perf_counter_ns()
        record = mirror.cut(image, mirror.sequence + 1, 1)
        if record is None:
            mirror.abort(image)
        else:
            mirror.commit(image)
        pause_us = (time.perf_counter_ns() - levelled_ns) / 1000
        scan_us = record.scan_ns / 1000 if record else pause_us
        return (levelled_ns - began_ns) / 1000, pause_us, scan_us
