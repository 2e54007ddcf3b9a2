"""Mapped memory, the pages written in it, and its mirror images: usable as a library on its own.

    region = Region.create(1 << 20)
    tracker = choose_tracker(region)
    tracker.track(Extent(1, region.page_count))
    region.buffer[4096] = 1
    tracker.take()  # array([1])

Knows nothing of tables, transactions or sockets. Linux only.
"""

from diptych.memory.compare_tracker import CompareTracker
from diptych.memory.errors import (
    AllocationFailed,
    MemoryFailure,
    TrackingLost,
    TrackingUnavailable,
)
from diptych.memory.kernel_tracker import KernelTracker
from diptych.memory.layout import PAGE_BYTES, PAGE_WORDS, STAMP_PAGE, Extent
from diptych.memory.region import Region
from diptych.memory.tracking import PageTracker, choose_tracker

__all__ = [
    "PAGE_BYTES",
    "PAGE_WORDS",
    "STAMP_PAGE",
    "AllocationFailed",
    "CompareTracker",
    "Extent",
    "KernelTracker",
    "MemoryFailure",
    "PageTracker",
    "Region",
    "TrackingLost",
    "TrackingUnavailable",
    "choose_tracker",
]
