"""Memory for the next growth of what fills up, got ready before it is needed.

First touches of memory take several times a copy, for the region and for each image: a large table
that grows would stop the writer for a good part of a second. So a thread of its own touches what
will be wanted, and then the writer takes it over in small pieces, paced. Whatever was not ready in
time is grown on the spot, as ever; and a machine that has no memory to spare is only told about
when memory is needed.

The data does not change by any of this: how much memory a table *has* is said by its words, which
a transaction sets (`Growth`). What is ready beyond that is known here and to the mirror alone.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import partial

from diptych.engine.growth import Growth, Need
from diptych.engine.helper import Helper
from diptych.memory import Extent, MemoryFailure

LOOK_NS = 20_000_000  # a look at all tables takes some tens of microseconds
STEP_NS = 2_000_000  # while something is being got ready
AGAIN_NS = 1_000_000_000  # after the machine had no memory
WARM_PAGES = 128  # touched at a time: what stands in the way of other threads' system calls
PIECE_PAGES = 64  # taken over at a time, some tenths of a millisecond
REST = 9  # times as long as a piece took the writer does other things


class GrowthAhead:
    """Used by the writer's one thread, between batches. `warm` gets memory for an extent and
    touches it, in any thread; it raises OSError or MemoryFailure when there is none.
    """

    def __init__(
        self,
        growth: Growth,
        warm: Callable[[Extent], None],
        *,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._growth, self._warm, self._now_ns = growth, warm, now_ns
        self._helper: Helper | None = None
        self._need: Need | None = None
        self._pieces: deque[Extent] = deque()
        self._next_ns = 0

    def close(self) -> None:
        """End the thread, after the job it has."""
        if self._helper is not None:
            self._helper.close()
            self._helper = None

    def step(self) -> None:
        """Do a little, if it is time for it. Never raises for want of memory."""
        now_ns = self._now_ns()
        if now_ns < self._next_ns:
            return
        if self._need is None:
            self._begin()
            self._next_ns = now_ns + (LOOK_NS if self._need is None else STEP_NS)
            return
        self._next_ns = now_ns + STEP_NS
        assert self._helper is not None
        try:
            if self._helper.finished():
                self._take_over(self._need, now_ns)
        except (OSError, MemoryFailure):
            self._need = None
            self._next_ns = now_ns + AGAIN_NS

    def _begin(self) -> None:
        self._need = self._growth.next_need()
        if self._need is None:
            return
        if self._helper is None:
            self._helper = Helper("diptych-memory")
        self._pieces = deque(_cut(self._need.extents, PIECE_PAGES))
        self._helper.submit(partial(self._warm_all, self._need))

    def _warm_all(self, need: Need) -> None:
        for extent in _cut(need.extents, WARM_PAGES):
            self._warm(extent)

    def _take_over(self, need: Need, began_ns: int) -> None:
        if self._pieces:
            self._growth.grow(self._pieces.popleft())
            ended_ns = self._now_ns()
            self._next_ns = ended_ns + REST * (ended_ns - began_ns)
        if not self._pieces:
            self._growth.ready(need)
            self._need = None


def _cut(extents: list[Extent], pages: int) -> list[Extent]:
    return [
        Extent(start, min(start + pages, extent.stop))
        for extent in extents
        for start in range(extent.start, extent.stop, pages)
    ]
