"""The header of a checkpoint file: what it says, and how it is written and checked.

Fixed fields in the first 128 bytes, then extents, the application's name and the schema's text,
zeros up to a whole page. A checksum covers all of it, the zeros included. docs/formats.md has the
same byte by byte.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import NamedTuple

from diptych.memory import PAGE_BYTES, Extent

MAGIC = b"DIPTYCHK"
FORMAT = 1
WHOLE = 0
"""The only kind of checkpoint there is: all pages of all extents."""
FIXED_BYTES = 128
HEADER_BYTES_MAX = 1 << 28
FIXED_CODES = "IIqqQQQQIIIII"
"""What stands behind the magic, in the order of docs/formats.md."""
_FIXED = struct.Struct(f"<8s{FIXED_CODES}")
_EXTENT = struct.Struct("<QQ")
_CHECKSUM = struct.Struct("<I")
_CHECKSUM_AT = FIXED_BYTES - _CHECKSUM.size


class BadHeader(Exception):
    """Not the header of a checkpoint, or not any more. The message says what is wrong."""


class NewerFormat(Exception):
    """A sound header of a format that this version can't read; the argument is its number."""


class _Fixed(NamedTuple):
    magic: bytes
    format: int
    header_bytes: int
    history: int
    sequence: int
    epoch: int
    time_ns: int
    region_bytes: int
    page_count: int
    extent_count: int
    app_bytes: int
    schema_bytes: int
    table_checksum: int
    kind: int


@dataclass(frozen=True)
class Header:
    """`epoch` counts the checkpoints of a directory; `time_ns`: when it was written, since 1970."""

    app: str
    schema: bytes
    history: int
    sequence: int
    epoch: int
    time_ns: int
    region_bytes: int
    extents: tuple[Extent, ...]
    table_checksum: int = 0

    @property
    def page_count(self) -> int:
        return sum(extent.page_count for extent in self.extents)

    @property
    def file_name(self) -> str:
        return f"checkpoint-{self.sequence:020d}-{self.epoch:010d}.diptych"

    @property
    def size_bytes(self) -> int:
        """Of this header in the file: whole pages."""
        used = FIXED_BYTES + len(self.extents) * _EXTENT.size
        return _whole_pages(used + len(self.app.encode()) + len(self.schema))

    @property
    def table_bytes(self) -> int:
        """Of the table of checksums that follows: whole pages."""
        return _whole_pages(self.page_count * _CHECKSUM.size)

    @property
    def pages_at(self) -> int:
        """Where the first page begins in the file."""
        return self.size_bytes + self.table_bytes

    @property
    def file_bytes(self) -> int:
        return self.pages_at + self.page_count * PAGE_BYTES

    def pack(self) -> bytes:
        app = self.app.encode()
        packed = bytearray(self.size_bytes)
        _FIXED.pack_into(
            packed,
            0,
            *_Fixed(
                MAGIC,
                FORMAT,
                self.size_bytes,
                self.history,
                self.sequence,
                self.epoch,
                self.time_ns,
                self.region_bytes,
                self.page_count,
                len(self.extents),
                len(app),
                len(self.schema),
                self.table_checksum,
                WHOLE,
            ),
        )
        rest = b"".join(_EXTENT.pack(*extent) for extent in self.extents) + app + self.schema
        packed[FIXED_BYTES : FIXED_BYTES + len(rest)] = rest
        _CHECKSUM.pack_into(packed, _CHECKSUM_AT, zlib.crc32(packed))
        return bytes(packed)


def header_bytes(fixed: bytes, file_bytes: int) -> int:
    """How long the header is that begins with these FIXED_BYTES. Errors: BadHeader."""
    if len(fixed) < FIXED_BYTES:
        raise BadHeader(f"the file has {file_bytes} bytes, which is too short for a header")
    found = _Fixed(*_FIXED.unpack_from(fixed))
    if found.magic != MAGIC:
        raise BadHeader("the header does not begin as a checkpoint's does")
    size_bytes = found.header_bytes
    limit_bytes = min(file_bytes, HEADER_BYTES_MAX)
    if size_bytes % PAGE_BYTES or not PAGE_BYTES <= size_bytes <= limit_bytes:
        raise BadHeader(f"the header says that it has {size_bytes} bytes, which can't be")
    return size_bytes


def unpack(raw: bytes) -> Header:
    """A whole header. Errors: BadHeader, NewerFormat."""
    (checksum,) = _CHECKSUM.unpack_from(raw, _CHECKSUM_AT)
    zeroed = bytearray(raw)
    zeroed[_CHECKSUM_AT:FIXED_BYTES] = bytes(_CHECKSUM.size)
    if zlib.crc32(zeroed) != checksum:
        raise BadHeader("the header's checksum differs")
    fixed = _Fixed(*_FIXED.unpack_from(raw))
    if fixed.format != FORMAT or fixed.kind != WHOLE:
        raise NewerFormat(fixed.format)
    app_at = FIXED_BYTES + fixed.extent_count * _EXTENT.size
    schema_at = app_at + fixed.app_bytes
    if schema_at + fixed.schema_bytes > len(raw):
        raise BadHeader("the header's parts are longer than the header")
    header = Header(
        app=raw[app_at:schema_at].decode(errors="replace"),
        schema=raw[schema_at : schema_at + fixed.schema_bytes],
        history=fixed.history,
        sequence=fixed.sequence,
        epoch=fixed.epoch,
        time_ns=fixed.time_ns,
        region_bytes=fixed.region_bytes,
        extents=tuple(Extent(*e) for e in _EXTENT.iter_unpack(raw[FIXED_BYTES:app_at])),
        table_checksum=fixed.table_checksum,
    )
    _check(header, fixed, len(raw))
    return header


def _check(header: Header, fixed: _Fixed, size_bytes: int) -> None:
    """What a writer of this format can't have written, checksum or not."""
    past = 1
    for extent in header.extents:
        if not past <= extent.start < extent.stop <= header.region_bytes // PAGE_BYTES:
            raise BadHeader(f"the header names pages {extent.start} to {extent.stop}")
        past = extent.stop
    if header.page_count != fixed.page_count or header.size_bytes != size_bytes:
        raise BadHeader("the header's counts contradict each other")


def _whole_pages(size_bytes: int) -> int:
    return -(-size_bytes // PAGE_BYTES) * PAGE_BYTES
