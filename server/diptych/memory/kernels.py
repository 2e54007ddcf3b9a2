"""What happens per page: scanning for written pages, comparing, copying, keeping page sets.

Free functions over arrays and integers; all run without the interpreter lock, so that a helper
thread can use them while the owner of the region goes on writing it. Extents are rows of (start,
stop); `words` arrays begin at page 0. Callers check ranges: nothing here does.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from diptych.kernel import bulk_kernel
from diptych.memory.layout import Pages, Words
from diptych.memory.native import carray, errno_location, ioctl, memcmp, memcpy

# Literals of their own, since kernels see module constants as compile-time values.
PAGE_BYTES = 4096
PAGE_WORDS = 512

# PAGEMAP_SCAN takes and returns twelve words, and fills a list of runs (start, end, categories).
PAGEMAP_SCAN = 0xC0606610
REQUEST_WORDS = 12
# No more than the kernel gathers at a time: given room for more, it goes round by itself, and when
# the last round ends at the end of the range, it leaves in `walk_end` where that round began.
RUNS = 512
SCAN_WORDS = REQUEST_WORDS + 3 * RUNS
WRITE_PROTECT_MATCHING = 1
CHECK_ASYNC_PROTECTION = 2
PAGE_IS_WRITTEN = 2


@bulk_kernel
def scan_written(
    pagemap_fd: int,
    address: int,
    extents: npt.NDArray[np.int64],
    take: bool,
    limit: int,
    work: npt.NDArray[np.int64],
    out: Pages,
) -> tuple[int, int]:
    """Written pages of all extents, ascending, into `out`: (how many, errno or 0).

    With `take`, a page is write-protected again in the same step that reports it, so a write is
    either in this result or in a later one. `limit` (at most the room in `out`) ends the scan
    early.
    """
    request = work.ctypes.data
    runs = work.ctypes.data + 8 * REQUEST_WORDS
    flags = CHECK_ASYNC_PROTECTION
    if take:
        flags |= WRITE_PROTECT_MATCHING
    count = 0
    past = 0  # the page after the last one reported
    for e in range(extents.shape[0]):
        position = address + extents[e, 0] * PAGE_BYTES
        end = address + extents[e, 1] * PAGE_BYTES
        # The kernel stops when its list of runs is full and says where: go on from there.
        while position < end and count < limit:
            work[0] = 8 * REQUEST_WORDS
            work[1] = flags
            work[2] = position
            work[3] = end
            work[4] = 0
            work[5] = runs
            work[6] = RUNS
            work[7] = limit - count
            # WRITTEN alone: asking for PRESENT as well would miss written pages that were swapped
            # out.
            work[8] = 0
            work[9] = PAGE_IS_WRITTEN
            work[10] = 0
            work[11] = PAGE_IS_WRITTEN
            found = ioctl(pagemap_fd, PAGEMAP_SCAN, request)
            if found < 0:
                # Never 0, which would pass for success.
                return count, max(1, carray(errno_location(), 1)[0])
            for r in range(found):
                at = REQUEST_WORDS + 3 * r
                first = max(past, (work[at] - address) // PAGE_BYTES)
                last = (work[at + 1] - address) // PAGE_BYTES
                for page in range(first, last):
                    out[count] = page
                    count += 1
                past = max(past, last)
            position = work[4]
    return count, 0


@bulk_kernel
def compare_written(
    words: Words,
    shadow: Words,
    extents: npt.NDArray[np.int64],
    take: bool,
    limit: int,
    out: Pages,
) -> int:
    """Pages of all extents on which `words` and `shadow` differ, ascending, into `out`: how many.

    With `take`, the shadow gets each differing page's bytes as they are now. What is written after
    that moment differs from the shadow again.
    """
    count = 0
    current = words.ctypes.data
    before = shadow.ctypes.data
    for e in range(extents.shape[0]):
        for page in range(extents[e, 0], extents[e, 1]):
            at = page * PAGE_BYTES
            if memcmp(current + at, before + at, PAGE_BYTES) != 0:
                if count == limit:
                    return count
                out[count] = page
                count += 1
                if take:
                    memcpy(before + at, current + at, PAGE_BYTES)
    return count


@bulk_kernel
def copy_pages(source: Words, target: Words, pages: Pages) -> int:
    """Copy `pages` (ascending) from `source` to `target`, neighbours as one: pieces copied."""
    pieces = 0
    i = 0
    count = pages.size
    while i < count:
        j = i + 1
        while j < count and pages[j] == pages[j - 1] + 1:
            j += 1
        at = pages[i] * PAGE_BYTES
        memcpy(target.ctypes.data + at, source.ctypes.data + at, (j - i) * PAGE_BYTES)
        pieces += 1
        i = j
    return pieces


@bulk_kernel
def copy_extents(source: Words, target: Words, extents: npt.NDArray[np.int64]) -> None:
    for e in range(extents.shape[0]):
        at = extents[e, 0] * PAGE_BYTES
        size = (extents[e, 1] - extents[e, 0]) * PAGE_BYTES
        memcpy(target.ctypes.data + at, source.ctypes.data + at, size)


@bulk_kernel
def write_pages(words: Words, pages: Pages, value: int) -> None:
    """Write one word in each of `pages`: what benchmarks and the doctor use as a load."""
    for i in range(pages.size):
        words[pages[i] * PAGE_WORDS + 8] = value + i


@bulk_kernel
def include(members: npt.NDArray[np.uint8], listed: Pages, count: int, pages: Pages) -> int:
    """Add `pages` to the set (members, listed[:count]), which has room: the new count."""
    for i in range(pages.size):
        page = pages[i]
        if members[page] == 0:
            members[page] = 1
            listed[count] = page
            count += 1
    return count


@bulk_kernel
def exclude(members: npt.NDArray[np.uint8], listed: Pages, count: int, pages: Pages) -> int:
    """Take `pages` out of the set (members, listed[:count]): the new count."""
    for i in range(pages.size):
        members[pages[i]] = 0
    kept = 0
    for i in range(count):
        if members[listed[i]] != 0:
            listed[kept] = listed[i]
            kept += 1
    return kept


@bulk_kernel
def absent_from(members: npt.NDArray[np.uint8], pages: Pages, out: Pages) -> int:
    """Those of `pages` that are not members, in the same order, into `out`, which may be `pages`
    itself: how many.
    """
    count = 0
    for i in range(pages.size):
        if members[pages[i]] == 0:
            out[count] = pages[i]
            count += 1
    return count
