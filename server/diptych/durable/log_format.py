"""Bytes of the command log: the header of a segment, and of a record; packed, read and checked.

A segment is a file: a header of whole pages, then records back to back, each at a multiple of 8,
then zeros. Every record says which checksum the one before it has, and all checksums begin at a
seed of the segment's history and of a random number that only the segment knows: what was written
in another life, or sent by a client to look like a record, is none. docs/formats.md has it byte by
byte. Nothing here touches a file.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from crc32c import crc32c

from diptych.memory import PAGE_BYTES

MAGIC = b"DIPTYLOG"
FORMAT = 1
FIXED_BYTES = 128
HEADER_BYTES_MAX = 1 << 20
FIXED_CODES = "IIIIqqqqQQQqIII"
"""What stands behind the magic of a segment, in the order of docs/formats.md."""
RECORD_MAGIC = b"DREC"
RECORD_CODES = "IIBBHIIQqIIqq"
"""What stands behind the magic of a record, in the order of docs/formats.md."""
FRESH = 1
"""Number of the first record of a chain that continues none."""

_FIXED = struct.Struct(f"<8s{FIXED_CODES}")
_CHECKSUM = struct.Struct("<I")
_CHECKSUM_AT = 12
_SEED = struct.Struct("<qQ")
_RECORD = struct.Struct(f"<4s{RECORD_CODES}")
_RECORD_CHECKSUM_AT = 4
_ABORT = struct.Struct("<qB")
RECORD_BYTES = _RECORD.size
ABORT_BYTES = _ABORT.size
LAG_MAX = (1 << 32) - 1
_NO_CHECKSUM = bytes(_CHECKSUM.size)


class Mode(IntEnum):
    """When answers leave, as `log.durability` says."""

    FSYNC = 1
    OS = 2


class Kind(IntEnum):
    """Of a record."""

    BATCH = 1
    """Frames of transactions, as they were received; each takes one sequence number."""
    ABORTS = 2
    """What ended transactions of the batch before it, where replay could not find that out."""
    MARK = 3
    """Nothing of its own: says that the record before it is durable."""


class Flag(IntEnum):
    """Bits of a record's flags."""

    OUTCOME = 1
    """`outcome` is known."""


class BadSegment(Exception):
    """Not the header of a segment, or not any more. The message says what is wrong."""


@dataclass(frozen=True)
class SegmentHeader:
    """`number` is that of its first record, `chain` the checksum of the record before that.

    `durable_through`: the sequence number known to be safe when the segment was begun.
    `size_bytes` is the file's. `previous_history` is that of the transaction before `first`.
    """

    app: str
    facts: str
    mode: Mode
    history: int
    previous_history: int
    first: int
    durable_through: int
    number: int
    salt: int
    size_bytes: int
    created_ns: int
    chain: int

    @property
    def header_bytes(self) -> int:
        """Of the header in the file: whole pages."""
        return whole_pages(FIXED_BYTES + len(self.app.encode()) + len(self.facts.encode()))

    @property
    def seed(self) -> int:
        return crc32c(_SEED.pack(self.history, self.salt))

    def pack(self) -> bytes:
        """Errors: ValueError when the facts are too long."""
        app, facts = self.app.encode(), self.facts.encode()
        if self.header_bytes > HEADER_BYTES_MAX:
            raise ValueError(f"the facts are too long: {len(facts)} bytes")
        packed = bytearray(self.header_bytes)
        _FIXED.pack_into(
            packed,
            0,
            MAGIC,
            FORMAT,
            0,
            len(packed),
            self.mode,
            self.history,
            self.previous_history,
            self.first,
            self.durable_through,
            self.number,
            self.salt,
            self.size_bytes,
            self.created_ns,
            self.chain,
            len(app),
            len(facts),
        )
        packed[FIXED_BYTES : FIXED_BYTES + len(app) + len(facts)] = app + facts
        _CHECKSUM.pack_into(packed, _CHECKSUM_AT, crc32c(packed))
        return bytes(packed)


def segment_header_bytes(fixed: bytes) -> int:
    """How long the header is that begins with these FIXED_BYTES. Errors: BadSegment."""
    if len(fixed) < FIXED_BYTES:
        raise BadSegment(f"it has {len(fixed)} bytes, which is too short for a header")
    magic, _, _, size_bytes, *_ = _FIXED.unpack_from(fixed)
    if magic != MAGIC:
        raise BadSegment("it does not begin as a segment of the log does")
    if size_bytes % PAGE_BYTES or not PAGE_BYTES <= size_bytes <= HEADER_BYTES_MAX:
        raise BadSegment(f"its header says that it has {size_bytes} bytes, which can't be")
    return int(size_bytes)


def unpack_segment(raw: bytes) -> SegmentHeader:
    """A whole header. Errors: BadSegment."""
    zeroed = bytearray(raw)
    zeroed[_CHECKSUM_AT : _CHECKSUM_AT + 4] = _NO_CHECKSUM
    (_, format_, checksum, _, mode, *numbers, app_bytes, facts_bytes) = _FIXED.unpack_from(raw)
    if crc32c(zeroed) != checksum:
        raise BadSegment("its header's checksum differs")
    if format_ != FORMAT:
        raise BadSegment(f"it has format {format_}; this version of Diptych reads format {FORMAT}")
    facts_at = FIXED_BYTES + app_bytes
    try:
        header = SegmentHeader(
            raw[FIXED_BYTES:facts_at].decode(),
            raw[facts_at : facts_at + facts_bytes].decode(),
            Mode(mode),
            *numbers,
        )
    except ValueError as error:
        raise BadSegment(f"its header can't be: {error}") from None
    if header.pack() != raw or header.size_bytes < len(raw):
        raise BadSegment("its header's parts contradict each other")
    return header


@dataclass(slots=True)
class RecordHeader:
    """`lag`: how many of the records before it were not yet known to be safe.

    `previous` is the checksum of the record before it. `first`: of a batch its first sequence
    number, of others the next one to be given.
    """

    magic: bytes
    checksum: int
    length_bytes: int
    kind: int
    flags: int
    zero: int
    previous: int
    outcome: int
    number: int
    first: int
    count: int
    lag: int
    time_ns: int
    durable_through: int

    @property
    def last(self) -> int:
        """The last sequence number up to and with this record."""
        return self.first + self.count - 1 if self.kind == Kind.BATCH else self.first - 1

    @property
    def durable_number(self) -> int:
        """Records up to this number were known to be safe when it was written."""
        return self.number - 1 - self.lag

    @property
    def end_bytes(self) -> int:
        """From the record's beginning to that of the next."""
        return RECORD_BYTES + padded(self.length_bytes)


def pack_record(
    seed: int,
    payload: bytes | memoryview,
    length_bytes: int,
    kind: int,
    flags: int,
    previous: int,
    outcome: int,
    number: int,
    first: int,
    count: int,
    lag: int,
    time_ns: int,
    durable_through: int,
) -> tuple[bytearray, int]:
    """The header of a record, and its checksum."""
    packed = bytearray(
        _RECORD.pack(
            RECORD_MAGIC,
            0,
            length_bytes,
            kind,
            flags,
            0,
            previous,
            outcome,
            number,
            first,
            count,
            lag,
            time_ns,
            durable_through,
        )
    )
    checksum = crc32c(payload, crc32c(packed, seed))
    _CHECKSUM.pack_into(packed, _RECORD_CHECKSUM_AT, checksum)
    return packed, checksum


def unpack_record(raw: bytes | memoryview) -> RecordHeader:
    """From RECORD_BYTES of any content; nothing is checked."""
    return RecordHeader(*_RECORD.unpack_from(raw))


def is_sound(raw: bytes | memoryview, padded_payload: bytes | memoryview, seed: int) -> bool:
    """Whether these are the header and the payload, with its padding, of a record."""
    header = unpack_record(raw)
    if header.magic != RECORD_MAGIC or len(padded_payload) != padded(header.length_bytes):
        return False
    payload = padded_payload[: header.length_bytes]
    zeroed = bytearray(raw)
    zeroed[_RECORD_CHECKSUM_AT : _RECORD_CHECKSUM_AT + 4] = _NO_CHECKSUM
    return crc32c(payload, crc32c(zeroed, seed)) == header.checksum and not any(
        padded_payload[header.length_bytes :]
    )


def pack_aborts(aborts: Sequence[tuple[int, int]]) -> bytes:
    """Payload of an ABORTS record: sequence numbers and causes."""
    return b"".join(_ABORT.pack(*abort) for abort in aborts)


def unpack_aborts(payload: bytes | memoryview) -> list[tuple[int, int]]:
    """Errors: struct.error when it is none, which a sound record's never is."""
    return list(_ABORT.iter_unpack(payload))


def padded(length_bytes: int) -> int:
    return -(-length_bytes // 8) * 8


def whole_pages(length_bytes: int) -> int:
    return -(-length_bytes // PAGE_BYTES) * PAGE_BYTES
