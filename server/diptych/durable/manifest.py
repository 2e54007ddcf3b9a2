"""A manifest: what one checkpoint is, in which file its pages lie, and each page's checksum.

Fixed fields in the first 128 bytes, then extents, the application's name, the schema's text and
the writer's facts, zeros up to a whole page; then the table of checksums, in the order of the
extents. One checksum covers the header, zeros included, and one in it the table. Bytes alone: when
a manifest is written and removed is the business of `store`. docs/formats.md has the same byte by
byte.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from crc32c import crc32c

from diptych.memory import PAGE_BYTES, Extent

MAGIC = b"DIPTYCHK"
FORMAT = 2
SINGLE_FILE_FORMAT = 1
"""Of another life: header and pages in one file, with checksums of zlib's kind."""
FIXED_BYTES = 128
HEADER_BYTES_MAX = 1 << 28
FIXED_CODES = "IIqqQQQQIIIIIIQ"
"""What stands behind the magic, in the order of docs/formats.md."""
_FIXED = struct.Struct(f"<8s{FIXED_CODES}")
_EXTENT = struct.Struct("<QQ")
_CHECKSUM = struct.Struct("<I")
_CHECKSUM_AT = FIXED_BYTES - _CHECKSUM.size

Checksums = npt.NDArray[np.uint32]


class BadManifest(Exception):
    """Not a manifest, or not any more. The message says what is wrong."""


class OtherFormat(Exception):
    """A sound file of a format that this version can't read; the argument is its number."""


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
    facts_bytes: int
    table_checksum: int
    slot: int
    pages_id: int


@dataclass(frozen=True)
class Manifest:
    """`epoch` counts the checkpoints of a directory; `time_ns`: when it was written, since 1970.

    `slot` and `pages_id` name the file that the pages are in. `facts`: JSON of who wrote it.
    """

    app: str
    schema: bytes
    history: int
    sequence: int
    epoch: int
    time_ns: int
    region_bytes: int
    extents: tuple[Extent, ...]
    slot: int
    pages_id: int
    facts: str = ""
    table_checksum: int = 0

    @property
    def page_count(self) -> int:
        return sum(extent.page_count for extent in self.extents)

    @property
    def data_bytes(self) -> int:
        """Of its pages."""
        return self.page_count * PAGE_BYTES

    @property
    def file_name(self) -> str:
        return f"checkpoint-{self.sequence:020d}-{self.epoch:010d}.diptych"

    @property
    def header_bytes(self) -> int:
        """Whole pages."""
        used = FIXED_BYTES + len(self.extents) * _EXTENT.size + len(self.schema)
        return _whole_pages(used + len(self.app.encode()) + len(self.facts.encode()))

    @property
    def table_bytes(self) -> int:
        """Of the table of checksums that follows: whole pages."""
        return _whole_pages(self.page_count * _CHECKSUM.size)

    @property
    def file_bytes(self) -> int:
        return self.header_bytes + self.table_bytes

    def pack(self) -> bytes:
        """The header."""
        app, facts = self.app.encode(), self.facts.encode()
        packed = bytearray(self.header_bytes)
        _FIXED.pack_into(
            packed,
            0,
            *_Fixed(
                MAGIC,
                FORMAT,
                self.header_bytes,
                self.history,
                self.sequence,
                self.epoch,
                self.time_ns,
                self.region_bytes,
                self.page_count,
                len(self.extents),
                len(app),
                len(self.schema),
                len(facts),
                self.table_checksum,
                self.slot,
                self.pages_id,
            ),
        )
        extents = b"".join(_EXTENT.pack(*extent) for extent in self.extents)
        rest = extents + app + self.schema + facts
        packed[FIXED_BYTES : FIXED_BYTES + len(rest)] = rest
        _CHECKSUM.pack_into(packed, _CHECKSUM_AT, crc32c(packed))
        return bytes(packed)


def pack_table(manifest: Manifest, table: Checksums) -> bytes:
    """The table as it stands in the file, zeros up to a whole page."""
    return table.astype("<u4").tobytes().ljust(manifest.table_bytes, b"\0")


def unpack_table(manifest: Manifest, packed: bytes | bytearray) -> Checksums:
    """The checksums of all pages. Errors: BadManifest."""
    if crc32c(packed) != manifest.table_checksum:
        raise BadManifest("the checksum of its table of checksums differs")
    return np.frombuffer(packed, "<u4", manifest.page_count)


def header_bytes(fixed: bytes, file_bytes: int) -> int:
    """How long the header is that begins with these FIXED_BYTES. Errors: BadManifest."""
    if len(fixed) < FIXED_BYTES:
        raise BadManifest(f"the file has {file_bytes} bytes, which is too short for a header")
    found = _Fixed(*_FIXED.unpack_from(fixed))
    if found.magic != MAGIC:
        raise BadManifest("the header does not begin as a checkpoint's does")
    size_bytes = found.header_bytes
    limit_bytes = min(file_bytes, HEADER_BYTES_MAX)
    if size_bytes % PAGE_BYTES or not PAGE_BYTES <= size_bytes <= limit_bytes:
        raise BadManifest(f"the header says that it has {size_bytes} bytes, which can't be")
    return size_bytes


def unpack(raw: bytes) -> Manifest:
    """A whole header. Errors: BadManifest, OtherFormat."""
    (checksum,) = _CHECKSUM.unpack_from(raw, _CHECKSUM_AT)
    zeroed = bytearray(raw)
    zeroed[_CHECKSUM_AT:FIXED_BYTES] = bytes(_CHECKSUM.size)
    fixed = _Fixed(*_FIXED.unpack_from(raw))
    if crc32c(zeroed) != checksum:
        if fixed.format == SINGLE_FILE_FORMAT and zlib.crc32(zeroed) == checksum:
            raise OtherFormat(SINGLE_FILE_FORMAT)
        raise BadManifest("the header's checksum differs")
    if fixed.format != FORMAT:
        raise OtherFormat(fixed.format)
    app_at = FIXED_BYTES + fixed.extent_count * _EXTENT.size
    schema_at = app_at + fixed.app_bytes
    facts_at = schema_at + fixed.schema_bytes
    end = facts_at + fixed.facts_bytes
    if end > len(raw):
        raise BadManifest("the header's parts are longer than the header")
    manifest = Manifest(
        app=raw[app_at:schema_at].decode(errors="replace"),
        schema=raw[schema_at:facts_at],
        history=fixed.history,
        sequence=fixed.sequence,
        epoch=fixed.epoch,
        time_ns=fixed.time_ns,
        region_bytes=fixed.region_bytes,
        extents=tuple(Extent(*e) for e in _EXTENT.iter_unpack(raw[FIXED_BYTES:app_at])),
        slot=fixed.slot,
        pages_id=fixed.pages_id,
        facts=raw[facts_at:end].decode(errors="replace"),
        table_checksum=fixed.table_checksum,
    )
    _check(manifest, fixed, len(raw))
    return manifest


def _check(manifest: Manifest, fixed: _Fixed, size_bytes: int) -> None:
    """What a writer of this format can't have written, checksum or not."""
    past = 1
    for extent in manifest.extents:
        if not past <= extent.start < extent.stop <= manifest.region_bytes // PAGE_BYTES:
            raise BadManifest(f"the header names pages {extent.start} to {extent.stop}")
        past = extent.stop
    if manifest.page_count != fixed.page_count or manifest.header_bytes != size_bytes:
        raise BadManifest("the header's counts contradict each other")


def _whole_pages(size_bytes: int) -> int:
    return -(-size_bytes // PAGE_BYTES) * PAGE_BYTES
