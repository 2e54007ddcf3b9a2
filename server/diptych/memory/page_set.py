"""A set of page numbers whose operations cost what its members number, whatever the region's size.

A byte a page says who is a member, and a list holds the members in the order they came. A region's
address space may be far larger than its memory, so nothing here ever walks the bytes.
"""

from __future__ import annotations

import numpy as np

from diptych.memory.kernels import absent_from, exclude, include
from diptych.memory.layout import Pages


class PageSet:
    """Page numbers below `page_count`, each at most once."""

    def __init__(self, page_count: int) -> None:
        self._members = np.zeros(page_count, dtype=np.uint8)
        self._listed: Pages = np.empty(64, dtype=np.int64)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def pages(self) -> Pages:
        """All members, ascending; a copy."""
        return np.sort(self._listed[: self._count])

    def unordered(self) -> Pages:
        """All members, in no order; a view that the next change makes invalid."""
        return self._listed[: self._count]

    def add(self, pages: Pages) -> None:
        """Add `pages`, in any order, members or not."""
        room = self._count + pages.size
        if room > self._listed.size:
            grown = np.empty(max(room, 2 * self._listed.size), dtype=np.int64)
            grown[: self._count] = self._listed[: self._count]
            self._listed = grown
        self._count = include(self._members, self._listed, self._count, pages)

    def discard(self, pages: Pages) -> None:
        """Take out those of `pages` that are members."""
        self._count = exclude(self._members, self._listed, self._count, pages)

    def clear(self) -> None:
        self._count = exclude(self._members, self._listed, self._count, self._listed[: self._count])

    def without(self, *others: PageSet) -> Pages:
        """Members that all `others` lack, ascending."""
        pages = self.pages()
        for other in others:
            pages = pages[: absent_from(other._members, pages, pages)]
        return pages
