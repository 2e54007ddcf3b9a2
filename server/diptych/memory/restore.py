"""A region's content from one of its images: how a new owner goes on where the last one ended.

The old content of the region is not trusted, whatever state its owner died in: pages that the
image has are copied, all others become holes again. Happens before tracking starts, since punching
holes is invisible to it.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterable

from diptych.memory.kernels import copy_extents
from diptych.memory.layout import PAGE_BYTES, STAMP_PAGE, Extent, extent_array, without
from diptych.memory.region import Region
from diptych.memory.stamp import State, read_stamp

_KEEP_SIZE = 1
_PUNCH_HOLE = 2


def restore(region: Region, image: Region) -> list[Extent]:
    """Make `region` equal to `image` beyond the stamp; returns what extents that filled.

    Raises ValueError when the image is not whole.
    """
    stamp = read_stamp(image)
    if stamp is None or stamp.state is not State.COMPLETE:
        raise ValueError("the image is not whole")
    extents = data_extents(image)
    empty_beyond(region, extents)
    for extent in extents:
        region.allocate(extent)
        region.populate(extent)
    copy_extents(image.words, region.words, extent_array(extents))
    return extents


def empty_beyond(region: Region, kept: Iterable[Extent]) -> None:
    """Make every page of `region` zero but the stamp and those `kept` (merged): they are holes."""
    for hole in without(Extent(STAMP_PAGE + 1, region.page_count), kept):
        _punch(region.fd, hole)


def data_extents(region: Region) -> list[Extent]:
    """Where `region` has content, the stamp left out; pages elsewhere are zero."""
    extents = []
    at = (STAMP_PAGE + 1) * PAGE_BYTES
    while at < region.size_bytes:
        try:
            start = os.lseek(region.fd, at, os.SEEK_DATA)
        except OSError as failure:
            if failure.errno != errno.ENXIO:
                raise
            break
        at = min(os.lseek(region.fd, start, os.SEEK_HOLE), region.size_bytes)
        extents.append(Extent(start // PAGE_BYTES, -(-at // PAGE_BYTES)))
    return extents


def _punch(fd: int, extent: Extent) -> None:
    fallocate = ctypes.CDLL(None, use_errno=True).fallocate
    fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    offset, size = extent.start * PAGE_BYTES, extent.page_count * PAGE_BYTES
    if fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, size) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"fallocate: {os.strerror(error)}")
