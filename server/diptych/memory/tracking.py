"""Which pages were written: the protocol that both trackers share, and the choice between them.

The calls are those of the origin (turn tracking on or off, get the written pages, clear them) and
one more, `take`, which gets and clears in one step, so that no write is lost between the two.
"""

from __future__ import annotations

import logging
from typing import Literal, Protocol, TypeAlias

from diptych.memory.compare_tracker import CompareTracker
from diptych.memory.errors import TrackingLost, TrackingUnavailable
from diptych.memory.kernel_tracker import KernelTracker
from diptych.memory.layout import Extent, Pages, Words
from diptych.memory.region import Region

log = logging.getLogger("diptych.memory")

Preference: TypeAlias = Literal["auto", "kernel", "compare"]


class PageTracker(Protocol):
    """Knows which pages of one region were written since they were last cleared.

    One consumer takes; everybody else is told by it. `track` may be called while another thread
    takes.
    """

    name: str
    protected_pages: int  # by the last take: each costs a fault at its next write
    unprotected: Pages  # by the last take: what the next one reports anyway, ascending

    @property
    def source(self) -> Words:
        """Where to copy taken pages from while the owner writes on.

        The region itself, if a write after the take is always reported later. The shadow, if a page
        may go back to the bytes it had when taken, and then would not be reported.
        """
        ...

    def start(self) -> None: ...
    def track(self, extent: Extent) -> None: ...
    def written(self, limit: int | None = None) -> Pages: ...
    def clear(self) -> None: ...
    def take(self) -> Pages: ...
    def stop(self) -> None: ...


def choose_tracker(
    region: Region, prefer: Preference = "auto", *, leave_hot: bool = False
) -> PageTracker:
    """A started tracker for `region`: the kernel's if it works here, unless told otherwise.

    With `leave_hot` it may report pages that are written all the time when they were not, which
    spares faults (see `hot_pages`). Raises TrackingUnavailable when `prefer` is "kernel" and that
    does not work.
    """
    if prefer == "compare":
        return _compare_tracker(region, "as configured")
    try:
        check_kernel_tracking()
        tracker = KernelTracker(region, leave_hot=leave_hot)
        tracker.start()
    except TrackingUnavailable as reason:
        if prefer == "kernel":
            raise
        log.warning("written pages are found by comparing, which is slow: %s", reason)
        return _compare_tracker(region, "the kernel's tracking does not work here")
    log.info("written pages are tracked by the kernel (userfaultfd by %s)", tracker.opened_by)
    return tracker


def check_kernel_tracking(opening: str | None = None) -> None:
    """Write and see whether it is reported, since what a kernel claims is not always so.

    Raises TrackingUnavailable.
    """
    with Region.create(8 * 4096, name="tracking-check") as region:
        tracker = KernelTracker(region, opening)
        tracker.track(Extent(1, 8))
        tracker.start()
        try:
            region.words[3 * 512] = 1
            taken = [tracker.take().tolist(), tracker.take().tolist()]
        except TrackingLost as failure:
            raise TrackingUnavailable(f"{failure} (Linux 6.7 or newer has this call)") from failure
        finally:
            tracker.stop()
        if taken != [[3], []]:
            raise TrackingUnavailable(f"the kernel reported {taken} for one write to page 3")


def _compare_tracker(region: Region, reason: str) -> CompareTracker:
    tracker = CompareTracker(region)
    tracker.start()
    log.info("written pages are found by comparing with a shadow copy (%s)", reason)
    return tracker
