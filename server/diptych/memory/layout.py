"""Pages and extents: the units in which memory is allocated, tracked and copied.

Page numbers count from the start of a region, so they mean the same in the region and in each of
its images. Page 0 is the stamp (see `stamp`): it is never tracked, never copied.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

PAGE_BYTES = 4096
PAGE_WORDS = PAGE_BYTES // 8
STAMP_PAGE = 0

Pages: TypeAlias = npt.NDArray[np.int64]
Words: TypeAlias = npt.NDArray[np.int64]


class Extent(NamedTuple):
    """The pages `start`, `start + 1`, ... up to, but not including, `stop`."""

    start: int
    stop: int

    @property
    def page_count(self) -> int:
        return self.stop - self.start

    def pages(self) -> Pages:
        return np.arange(self.start, self.stop, dtype=np.int64)


def merged(extents: Iterable[Extent]) -> list[Extent]:
    """The same pages in ascending extents that neither overlap nor touch."""
    result: list[Extent] = []
    for extent in sorted(extents):
        if result and extent.start <= result[-1].stop:
            last = result.pop()
            extent = Extent(last.start, max(last.stop, extent.stop))
        result.append(Extent(*extent))
    return result


def pages_of(extents: Iterable[Extent]) -> Pages:
    """All pages of `extents` (merged ones), ascending."""
    parts = [extent.pages() for extent in extents]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def extent_array(extents: Iterable[Extent]) -> npt.NDArray[np.int64]:
    """`extents` as rows of (start, stop), as kernels take them."""
    return np.array(list(extents), dtype=np.int64).reshape(-1, 2)


def pages_in(size_bytes: int) -> int:
    """How many pages hold `size_bytes`."""
    return -(-size_bytes // PAGE_BYTES)


def without(extent: Extent, extents: Iterable[Extent]) -> list[Extent]:
    """The parts of `extent` that are in none of `extents` (merged ones)."""
    parts = []
    start = extent.start
    for other in extents:
        if other.stop <= start or other.start >= extent.stop:
            continue
        if other.start > start:
            parts.append(Extent(start, other.start))
        start = other.stop
    if start < extent.stop:
        parts.append(Extent(start, extent.stop))
    return parts
