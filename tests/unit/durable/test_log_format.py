"""Headers of segments and records: there and back, and refused when they can't be."""

from __future__ import annotations

import re
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from diptych.durable import log_format
from diptych.durable.log_format import (
    BadSegment,
    Kind,
    Mode,
    SegmentHeader,
    is_sound,
    pack_record,
    segment_header_bytes,
    unpack_record,
    unpack_segment,
)

HEADER = SegmentHeader(
    app="exchänge",
    facts='{"numpy": "2.4"}',
    mode=Mode.OS,
    history=-3,
    previous_history=2**62,
    first=101,
    durable_through=99,
    number=12,
    salt=2**64 - 1,
    size_bytes=1 << 33,
    created_ns=1_700_000_000_000_000_000,
    chain=2**32 - 1,
)


def test_a_segment_header_there_and_back() -> None:
    packed = HEADER.pack()
    assert len(packed) == segment_header_bytes(packed) == 4096
    assert unpack_segment(packed) == HEADER


def test_facts_may_be_long() -> None:
    header = replace(HEADER, facts="x" * 9000)
    assert segment_header_bytes(header.pack()) == 3 * 4096
    assert unpack_segment(header.pack()) == header


def test_facts_that_no_reader_would_take() -> None:
    with pytest.raises(ValueError, match="too long"):
        replace(HEADER, facts="x" * log_format.HEADER_BYTES_MAX).pack()


def spoiled(at: int, value: bytes) -> bytes:
    """HEADER with other bytes, and a checksum that is right."""
    raw = bytearray(HEADER.pack())
    raw[at : at + len(value)] = value
    raw[12:16] = bytes(4)
    raw[12:16] = log_format.crc32c(raw).to_bytes(4, "little")
    return bytes(raw)


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (8, b"\x09", "has format 9; this version of Diptych reads format 1"),
        (20, b"\x07", "7 is not a valid Mode"),
        (92, b"\xff\xff", "contradict"),
        (72, bytes(8), "contradict"),
        (110, b"\x01", "contradict"),
        (128, b"\xff\xff", "can't be"),
    ],
)
def test_a_segment_header_that_nobody_wrote(at: int, value: bytes, message: str) -> None:
    with pytest.raises(BadSegment, match=message):
        unpack_segment(spoiled(at, value))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "too short"),
        (bytes(4096), "does not begin as"),
        (b"DIPTYLOG" + bytes(4088), "0 bytes, which can't be"),
        (b"DIPTYLOG" + b"\xff" * 4088, "4294967295 bytes, which can't be"),
    ],
)
def test_the_beginning_of_something_else(raw: bytes, message: str) -> None:
    with pytest.raises(BadSegment, match=message):
        segment_header_bytes(raw[: log_format.FIXED_BYTES])


@pytest.mark.parametrize("length_bytes", [0, 1, 7, 8, 100])
def test_a_record_there_and_back(length_bytes: int) -> None:
    payload = bytes(range(1, 1 + length_bytes))
    seed = HEADER.seed
    numbers = (Kind.BATCH, 1, 7, 8, 2**63, -5, 32, 3, 1_700, 2**62)
    packed, checksum = pack_record(seed, memoryview(payload), length_bytes, *numbers)
    found = unpack_record(packed)
    assert (found.kind, found.flags, found.previous, found.outcome) == numbers[:4]
    assert (found.number, found.first, found.count, found.lag) == numbers[4:8]
    assert (found.time_ns, found.durable_through) == numbers[8:]
    assert (found.checksum, found.length_bytes) == (checksum, length_bytes)
    assert found.last == 26
    assert found.durable_number == 2**63 - 4
    padding = bytes(-length_bytes % 8)
    assert found.end_bytes == log_format.RECORD_BYTES + length_bytes + len(padding)
    assert is_sound(packed, payload + padding, seed)
    assert not is_sound(packed, payload + padding, replace(HEADER, history=4).seed)
    assert not is_sound(packed, payload + padding, replace(HEADER, salt=4).seed)
    assert not is_sound(packed, payload + padding + bytes(8), seed)


def test_only_batches_use_up_sequence_numbers() -> None:
    packed, _ = pack_record(0, b"", 0, Kind.ABORTS, 0, 0, 0, 1, 51, 3, 0, 0, 0)
    assert unpack_record(packed).last == 50


def test_aborts_there_and_back() -> None:
    aborts = [(1, 1), (2**62, 4)]
    assert log_format.unpack_aborts(log_format.pack_aborts(aborts)) == aborts
    assert log_format.pack_aborts([]) == b""


def test_the_document_has_the_headers_as_they_are() -> None:
    document = (Path(__file__).parents[3] / "docs/formats.md").read_text()
    log = document.split("\n## The command log\n")[1].split("\n## ")[0]
    of_segment, of_record = log.split("| header of a record |")
    for text, codes, whole_bytes in (
        (of_segment, "8s" + log_format.FIXED_CODES + "28s", log_format.FIXED_BYTES),
        (of_record, "4s" + log_format.RECORD_CODES, log_format.RECORD_BYTES),
    ):
        rows = re.findall(r"^\| (\d+) \| (\d+) \|", text, re.MULTILINE)
        sizes = [struct.calcsize(f"<{code}") for code in re.findall(r"\d*[a-zA-Z]", codes)]
        assert [int(size) for _, size in rows] == sizes
        ends = [int(at) + int(size) for at, size in rows]
        assert [int(at) for at, _ in rows] == [0, *ends[:-1]]
        assert ends[-1] == whole_bytes
    for kind in Kind:
        assert f"\n| {kind.value}, {kind.name.lower().removesuffix('s')}" in log
