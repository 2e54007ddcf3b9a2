"""A pages file: page n of a region lies n pages from its start, as it is in memory.

Page 0, which no checkpoint has, is the file's own header. Pages of no extent are holes or of no
meaning. The file is changed in place, so by itself it is never known to be whole: the manifest of
a checkpoint says which pages belong to it, and has a checksum of each.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from crc32c import crc32c

from diptych.durable.files import Files
from diptych.durable.manifest import Checksums
from diptych.durable.pacing import Pacer
from diptych.memory import PAGE_BYTES, Extent, Region
from diptych.memory.layout import Pages, pages_of

MAGIC = b"DIPTYPGS"
FORMAT = 1
READ_PAGES = 256
"""Read and checked at a time: 1 MiB."""
SYNC_BYTES = 256 << 10
"""Written at most before it is on the disk: more at a time would make others wait for it."""
SCANS_A_WRITE = 32
"""A page that is only looked at counts as this part of one that is written."""
_HEADER = struct.Struct("<8sIIQQ")
HEADER_CODES = "IIQQ"
_CHECKSUM = struct.Struct("<I")
_CHECKSUM_AT = PAGE_BYTES - _CHECKSUM.size

Advance = Callable[[int], None]


class BadPages(Exception):
    """A pages file is not what its checkpoint says. The message says what is wrong."""


class PagesHeader(NamedTuple):
    """`identity` is drawn when the file is made; every manifest for it has the same."""

    slot: int
    region_bytes: int
    identity: int

    def pack(self) -> bytes:
        packed = bytearray(PAGE_BYTES)
        _HEADER.pack_into(packed, 0, MAGIC, FORMAT, *self)
        _CHECKSUM.pack_into(packed, _CHECKSUM_AT, crc32c(packed))
        return bytes(packed)


def file_name(slot: int) -> str:
    return f"pages-{slot}.diptych"


def read_header(fd: int) -> PagesHeader:
    """Errors: BadPages, OSError."""
    raw = bytearray(os.pread(fd, PAGE_BYTES, 0))
    if len(raw) < PAGE_BYTES:
        raise BadPages(f"it has {len(raw)} bytes, which is too short for its header")
    (checksum,) = _CHECKSUM.unpack_from(raw, _CHECKSUM_AT)
    _CHECKSUM.pack_into(raw, _CHECKSUM_AT, 0)
    if crc32c(raw) != checksum:
        raise BadPages("the checksum of its header differs")
    magic, file_format, *fields = _HEADER.unpack_from(raw)
    if magic != MAGIC or file_format != FORMAT:
        raise BadPages(f"it has format {file_format}, not {FORMAT}")
    return PagesHeader(*fields)


@dataclass(frozen=True)
class Before:
    """What a file holds, by the manifest that it had until now."""

    extents: tuple[Extent, ...]
    table: Checksums


@dataclass(frozen=True)
class Written:
    """The checksums of all pages, how many pages were written, and how many of these differed
    though nobody had said that they changed."""

    table: Checksums
    pages: int
    surprises: int


def write(
    files: Files,
    fd: int,
    region: Region,
    extents: tuple[Extent, ...],
    *,
    before: Before | None,
    changed: Pages | None,
    pacer: Pacer | None,
    advance: Advance,
) -> Written:
    """Make a file equal to `region`, which nobody changes meanwhile, in all pages of `extents`.

    Writes pages that are `changed` (None: all) or new against `before` (None: all). All pages are
    read for their checksums anyway, so one that changed without being named is found, and written.
    `advance` is told how many bytes are done. Errors: OSError.
    """
    pages = pages_of(extents)
    table = np.zeros(pages.size, np.uint32)
    old, needed = _known(pages, before, changed)
    written = surprises = number = unsynced_bytes = 0
    for piece in pieces(extents, SYNC_BYTES // PAGE_BYTES):
        part = slice(number, number + piece.page_count)
        number += piece.page_count
        data = _bytes_of(region, piece)
        table[part] = checksums(data)
        differing = table[part] != old[part]
        surprises += int(np.count_nonzero(differing & ~needed[part]))
        now = np.flatnonzero(needed[part] | differing)
        for first, stop in _runs(now):
            run = data[first * PAGE_BYTES : stop * PAGE_BYTES]
            files.write(fd, run, (piece.start + first) * PAGE_BYTES)
        written += now.size
        unsynced_bytes += now.size * PAGE_BYTES
        if unsynced_bytes >= SYNC_BYTES:
            files.sync_data(fd)
            unsynced_bytes = 0
        if pacer is not None:
            pacer.spent(now.size * PAGE_BYTES + len(data) // SCANS_A_WRITE)
        advance(len(data))
    files.sync(fd)
    return Written(table, written, surprises)


def read(
    fd: int,
    extents: Iterable[Extent],
    table: Checksums,
    place: Callable[[Extent], memoryview],
    advance: Advance,
) -> None:
    """Read all pages of `extents` to where `place` says, and check each. Errors: BadPages, OSError.

    `advance` is told how many bytes are done.
    """
    number = 0
    for piece in pieces(extents, READ_PAGES):
        data = place(piece)
        _fill(fd, data, piece.start * PAGE_BYTES)
        wrong = np.flatnonzero(checksums(data) != table[number : number + piece.page_count])
        if len(wrong):
            raise BadPages(f"page {piece.start + int(wrong[0])}: its checksum differs")
        number += piece.page_count
        advance(len(data))


def checksums(data: memoryview) -> Checksums:
    """CRC-32C of each page."""
    found = [crc32c(data[at : at + PAGE_BYTES]) for at in range(0, len(data), PAGE_BYTES)]
    return np.array(found, np.uint32)


def pieces(extents: Iterable[Extent], page_count: int) -> Iterator[Extent]:
    """The same pages in pieces of at most so many."""
    for extent in extents:
        for start in range(extent.start, extent.stop, page_count):
            yield Extent(start, min(start + page_count, extent.stop))


def _known(
    pages: Pages, before: Before | None, changed: Pages | None
) -> tuple[Checksums, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    """Of each of `pages` (ascending): its checksum in the file, and whether it must be written."""
    old = np.zeros(pages.size, np.uint32)
    needed = np.ones(pages.size, np.bool_)
    if before is None or changed is None:
        return old, needed
    held = pages_of(before.extents)
    _, here, there = np.intersect1d(pages, held, assume_unique=True, return_indices=True)
    old[here] = before.table[there]
    needed[here] = False
    needed[np.isin(pages, changed)] = True
    return old, needed


def _runs(pages: Pages) -> Iterator[tuple[int, int]]:
    """Neighbours among `pages` (ascending) as (first, after the last)."""
    if pages.size:
        for run in np.split(pages, np.flatnonzero(np.diff(pages) > 1) + 1):
            yield int(run[0]), int(run[-1]) + 1


def _bytes_of(region: Region, piece: Extent) -> memoryview:
    return region.buffer[piece.start * PAGE_BYTES : piece.stop * PAGE_BYTES]


def _fill(fd: int, target: memoryview, offset: int) -> None:
    rest = target
    while rest:
        count = os.preadv(fd, [rest], offset)
        if count == 0:
            raise BadPages(f"it ends at byte {offset}")
        rest, offset = rest[count:], offset + count
