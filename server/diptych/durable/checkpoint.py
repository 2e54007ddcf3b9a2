"""One checkpoint file: write it from a region, read it back, check every byte of it.

A file is complete when it has its final name, and it gets that only after all of it has reached
the disk. Its checksums are of the pages as they are in memory, so what is loaded is what was
saved, or an error that names the file, the page and what is wrong.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from diptych.durable import header as headers
from diptych.durable.files import Files
from diptych.durable.header import BadHeader, Header, NewerFormat
from diptych.errors import ConfigurationError, CorruptionError
from diptych.memory import PAGE_BYTES, Extent, Region

PIECE_PAGES = 256
"""Read and written at a time: 1 MiB."""
SYNC_BYTES = 64 << 20
"""Written data is sent to the disk this often, so that progress is not the page cache's."""

Checksums = npt.NDArray[np.uint32]
Advance = Callable[[int], None]


@dataclass(frozen=True)
class Checkpoint:
    """A complete file, by its name alone: nothing of it has been read."""

    path: Path
    sequence: int
    epoch: int


def write_checkpoint(
    files: Files, path: Path, region: Region, header: Header, advance: Advance
) -> None:
    """Write `header` and the pages of its extents to a new file, and wait for the disk.

    The header comes last. `advance` is told how many bytes were written. Errors: OSError; then the
    file may be there in part.
    """
    fd = files.create(path)
    try:
        files.reserve(fd, header.file_bytes)
        table = np.zeros(header.table_bytes // 4, np.uint32)
        offset, number, unsynced_bytes = header.pages_at, 0, 0
        for piece in _pieces(header.extents):
            data = region.buffer[piece.start * PAGE_BYTES : piece.stop * PAGE_BYTES]
            table[number : number + piece.page_count] = _checksums(data)
            files.write(fd, data, offset)
            number += piece.page_count
            offset += len(data)
            unsynced_bytes += len(data)
            if unsynced_bytes >= SYNC_BYTES:
                files.sync_data(fd)
                unsynced_bytes = 0
            advance(len(data))
        packed = table.astype("<u4").tobytes()
        files.write(fd, packed, header.size_bytes)
        whole = replace(header, table_checksum=zlib.crc32(packed))
        files.write(fd, whole.pack(), 0)
        files.sync(fd)
    finally:
        files.close(fd)


def read_header(path: Path) -> Header:
    """Errors: CorruptionError; ConfigurationError for a format of another version; OSError."""
    with _opened(path) as (fd, _):
        return _read_header(fd, path)


def read_pages(path: Path, region: Region, advance: Advance) -> Header:
    """Load a checkpoint into a region of zeros; every page is checked.

    Errors: CorruptionError, ConfigurationError, AllocationFailed, OSError.
    """
    with _opened(path) as (fd, file_bytes):
        header = _read_header(fd, path)
        if header.region_bytes != region.size_bytes:
            raise _corrupt(path, f"it is of a region of {header.region_bytes} bytes")
        _check_length(path, header, file_bytes)
        table = _read_table(fd, path, header)
        for extent in header.extents:
            region.allocate(extent)
            region.populate(extent)

        def place(piece: Extent) -> memoryview:
            return region.buffer[piece.start * PAGE_BYTES : piece.stop * PAGE_BYTES]

        _read(fd, path, header, table, place, advance)
        return header


def verify_pages(path: Path, advance: Advance) -> Header:
    """Read a whole checkpoint, and check it without keeping it. Errors: as `read_pages`."""
    with _opened(path) as (fd, file_bytes):
        header = _read_header(fd, path)
        _check_length(path, header, file_bytes)
        table = _read_table(fd, path, header)
        space = memoryview(bytearray(PIECE_PAGES * PAGE_BYTES))
        _read(fd, path, header, table, lambda p: space[: p.page_count * PAGE_BYTES], advance)
        return header


def _read(
    fd: int,
    path: Path,
    header: Header,
    table: Checksums,
    place: Callable[[Extent], memoryview],
    advance: Advance,
) -> None:
    offset, number = header.pages_at, 0
    for piece in _pieces(header.extents):
        data = place(piece)
        _fill(fd, path, data, offset)
        wrong = np.flatnonzero(_checksums(data) != table[number : number + piece.page_count])
        if len(wrong):
            page = piece.start + int(wrong[0])
            raise _corrupt(path, f"page {page}: its checksum differs")
        number += piece.page_count
        offset += len(data)
        advance(len(data))


def _read_header(fd: int, path: Path) -> Header:
    file_bytes = os.fstat(fd).st_size
    try:
        size_bytes = headers.header_bytes(os.pread(fd, headers.FIXED_BYTES, 0), file_bytes)
        raw = bytearray(size_bytes)
        _fill(fd, path, memoryview(raw), 0)
        header = headers.unpack(bytes(raw))
    except BadHeader as bad:
        raise _corrupt(path, str(bad)) from None
    except NewerFormat as newer:
        raise ConfigurationError(
            f"data: {path} has format {newer.args[0]}; this version of Diptych reads format "
            f"{headers.FORMAT}"
        ) from None
    if path.name.startswith("checkpoint-") and path.name != header.file_name:
        raise _corrupt(path, f"its header is that of {header.file_name}")
    return header


def _read_table(fd: int, path: Path, header: Header) -> Checksums:
    packed = bytearray(header.table_bytes)
    _fill(fd, path, memoryview(packed), header.size_bytes)
    if zlib.crc32(packed) != header.table_checksum:
        raise _corrupt(path, "the checksum of its table of checksums differs")
    return np.frombuffer(packed, "<u4")


def _check_length(path: Path, header: Header, file_bytes: int) -> None:
    if file_bytes != header.file_bytes:
        raise _corrupt(path, f"it has {file_bytes} bytes, and should have {header.file_bytes}")


def _fill(fd: int, path: Path, target: memoryview, offset: int) -> None:
    rest = target
    while rest:
        count = os.preadv(fd, [rest], offset)
        if count == 0:
            raise _corrupt(path, f"it ends at byte {offset}")
        rest, offset = rest[count:], offset + count


def _checksums(data: memoryview) -> list[int]:
    crc32 = zlib.crc32
    return [crc32(data[at : at + PAGE_BYTES]) for at in range(0, len(data), PAGE_BYTES)]


def _pieces(extents: tuple[Extent, ...]) -> Iterator[Extent]:
    for extent in extents:
        for start in range(extent.start, extent.stop, PIECE_PAGES):
            yield Extent(start, min(start + PIECE_PAGES, extent.stop))


def _corrupt(path: Path, what: str) -> CorruptionError:
    return CorruptionError(f"{path} is damaged: {what}")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[int, int]]:
    """Its descriptor and its length in bytes."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd, os.fstat(fd).st_size
    finally:
        os.close(fd)
