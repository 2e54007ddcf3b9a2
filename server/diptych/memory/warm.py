"""Compile every kernel of this package, or load it, so that no later call pays for it."""

from __future__ import annotations

import contextlib

from diptych.memory.compare_tracker import CompareTracker
from diptych.memory.errors import TrackingUnavailable
from diptych.memory.layout import PAGE_BYTES, Extent
from diptych.memory.mirror import Mirror
from diptych.memory.region import Region
from diptych.memory.restore import restore
from diptych.memory.tracking import check_kernel_tracking

_PAGES = 8


def warm() -> None:
    """Run a sync of a few pages with either tracker; leaves no mapping and no descriptor behind."""
    # Where it is not available, its kernel is not needed; who chooses a tracker reports why.
    with contextlib.suppress(TrackingUnavailable):
        check_kernel_tracking()
    memories = [Region.create(_PAGES * PAGE_BYTES, name="warm") for _ in range(3)]
    region, *images = memories
    tracker = CompareTracker(region)
    tracker.start()
    mirror = Mirror(region, tracker, images)
    mirror.add_extent(Extent(1, 4))
    for image in (0, 1, 0):
        region.words[512] += 1
        mirror.prepare(image, pages_goal=1)
        mirror.cut(image, sequence=1, history=1)
        mirror.commit(image)
    mirror.add_extent(Extent(4, _PAGES))
    restore(region, images[0])
    for memory in memories:
        memory.close()
