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
from diptych.memory.holds import Hold, Holder, Holds
from diptych.memory.kernel_tracker import KernelTracker
from diptych.memory.layout import PAGE_BYTES, PAGE_WORDS, STAMP_PAGE, Extent
from diptych.memory.mirror import NONE, Mirror, SyncRecord
from diptych.memory.region import Region
from diptych.memory.restore import empty_beyond, restore
from diptych.memory.stamp import Stamp, State, newest_complete, read_stamp, write_stamp
from diptych.memory.tracking import PageTracker, Preference, check_kernel_tracking, choose_tracker
from diptych.memory.warm import warm

__all__ = [
    "NONE",
    "PAGE_BYTES",
    "PAGE_WORDS",
    "STAMP_PAGE",
    "AllocationFailed",
    "CompareTracker",
    "Extent",
    "Hold",
    "Holder",
    "Holds",
    "KernelTracker",
    "MemoryFailure",
    "Mirror",
    "PageTracker",
    "Preference",
    "Region",
    "Stamp",
    "State",
    "SyncRecord",
    "TrackingLost",
    "TrackingUnavailable",
    "check_kernel_tracking",
    "choose_tracker",
    "empty_beyond",
    "newest_complete",
    "read_stamp",
    "restore",
    "warm",
    "write_stamp",
]
