"""The extents that a tracker watches, in the shapes its kernels take them."""

from __future__ import annotations

import numpy as np

from diptych.memory.layout import STAMP_PAGE, Extent, Pages, extent_array, merged, without
from diptych.memory.region import Region


class TrackedExtents:
    """Extents of `region`, neighbours merged, with room for all their pages in `out`.

    Neighbours are one piece because a scan costs a call an extent, besides what it finds.
    """

    def __init__(self, region: Region) -> None:
        self._region = region
        self._set([])

    def check(self, extent: Extent) -> None:
        """Raises ValueError unless `extent` may be added."""
        if not STAMP_PAGE < extent.start < extent.stop <= self._region.page_count:
            raise ValueError(f"{extent} cannot be tracked in {self._region}")
        if without(extent, self.extents) != [extent]:
            # Tracking it again would forget what was written in it.
            raise ValueError(f"{extent} is tracked already, at least in part")

    def add(self, extent: Extent) -> None:
        self._set([*self.extents, extent])

    def _set(self, extents: list[Extent]) -> None:
        self.extents = merged(extents)
        self.rows = extent_array(self.extents)
        self.out: Pages = np.empty(sum(e.page_count for e in self.extents), dtype=np.int64)
