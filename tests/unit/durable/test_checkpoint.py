"""A checkpoint file gives back what was saved, or says what is wrong with it."""

from __future__ import annotations

import random
import re
import struct
import zlib
from pathlib import Path

import pytest
from tests.unit.durable.checkpoints import EXTENTS, REGION_PAGES, SCHEMA, region_of, save

from diptych.durable import header as headers
from diptych.durable import read_header, read_pages, verify_pages
from diptych.errors import ConfigurationError, CorruptionError
from diptych.memory import PAGE_BYTES, Region


def load(path: Path) -> list[int]:
    """All words that a file gives."""
    with Region.create(REGION_PAGES * PAGE_BYTES) as region:
        read_pages(path, region, lambda _: None)
        return list(region.words.tolist())


def test_what_was_saved_is_read(tmp_path: Path) -> None:
    path = save(tmp_path, value=5, sequence=12).path
    with region_of(5) as region:
        assert load(path) == region.words.tolist()
    header = read_header(path)
    assert (header.app, header.schema) == ("shop", SCHEMA)
    assert (header.sequence, header.epoch, header.history) == (12, 1, 7)
    assert header.extents == EXTENTS
    assert header.page_count == 23
    assert header.file_bytes == path.stat().st_size
    assert verify_pages(path, lambda _: None) == header


def test_progress_is_told_in_bytes(tmp_path: Path) -> None:
    path = save(tmp_path, value=5, sequence=12).path
    told: list[int] = []
    verify_pages(path, told.append)
    assert sum(told) == 23 * PAGE_BYTES


def test_every_class_of_position_is_covered_by_a_checksum(tmp_path: Path) -> None:
    """A bit flipped anywhere: fixed fields, extents, name, schema, padding, table, pages."""
    path = save(tmp_path, value=5, sequence=12).path
    good = path.read_bytes()
    header = read_header(path)
    chance = random.Random(1)
    positions = [*range(headers.FIXED_BYTES + 32 + 4 + len(SCHEMA) + 4), header.size_bytes - 1]
    positions += range(header.size_bytes, header.size_bytes + 23 * 4 + 4)
    positions += [header.pages_at - 1, header.pages_at, len(good) - 1]
    positions += [chance.randrange(header.pages_at, len(good)) for _ in range(100)]
    for position in positions:
        bad = bytearray(good)
        bad[position] ^= 1 << chance.randrange(8)
        path.write_bytes(bad)
        with pytest.raises(CorruptionError, match="is damaged") as noticed:
            verify_pages(path, lambda _: None)
        assert str(path) in str(noticed.value)
        with pytest.raises(CorruptionError, match="is damaged"):
            load(path)


def test_a_damaged_page_is_named(tmp_path: Path) -> None:
    path = save(tmp_path, value=5, sequence=12).path
    bad = bytearray(path.read_bytes())
    bad[read_header(path).pages_at + 4 * PAGE_BYTES] ^= 1  # the fifth page: 1, 2, 3, 10, 11
    path.write_bytes(bad)
    with pytest.raises(CorruptionError, match="page 11: its checksum differs"):
        load(path)


@pytest.mark.parametrize("length", [0, 1, 127, 128, 4095, 4096, 8191, 8192, 50_000, -1])
def test_a_torn_file(tmp_path: Path, length: int) -> None:
    path = save(tmp_path, value=5, sequence=12).path
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CorruptionError, match="is damaged"):
        load(path)


def test_a_file_that_is_too_long(tmp_path: Path) -> None:
    path = save(tmp_path, value=5, sequence=12).path
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(CorruptionError, match="should have"):
        load(path)


def test_pages_of_another_checkpoint_do_not_fit(tmp_path: Path) -> None:
    first, second = save(tmp_path, 5, 12).path, save(tmp_path, 6, 13).path
    at = read_header(first).pages_at
    first.write_bytes(first.read_bytes()[:at] + second.read_bytes()[at:])
    with pytest.raises(CorruptionError, match="page 1: "):
        load(first)


def test_a_file_under_another_ones_name(tmp_path: Path) -> None:
    first, second = save(tmp_path, 5, 12).path, save(tmp_path, 6, 13).path
    first.rename(second)
    with pytest.raises(CorruptionError, match=f"that of {first.name}"):
        load(second)


def test_a_region_of_another_size(tmp_path: Path) -> None:
    path = save(tmp_path, 5, 12).path
    with (
        Region.create(2 * REGION_PAGES * PAGE_BYTES) as region,
        pytest.raises(CorruptionError, match="a region of"),
    ):
        read_pages(path, region, lambda _: None)


def test_a_format_of_the_future(tmp_path: Path) -> None:
    path = save(tmp_path, 5, 12).path
    raw = bytearray(path.read_bytes())
    size_bytes = read_header(path).size_bytes
    raw[8:12] = (9).to_bytes(4, "little")
    raw[124:128] = bytes(4)
    raw[124:128] = zlib.crc32(raw[:size_bytes]).to_bytes(4, "little")
    path.write_bytes(raw)
    with pytest.raises(ConfigurationError, match=r"has format 9; .* reads format 1"):
        load(path)


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [(8 + 8 + 40, 99, "counts contradict"), (72, 10**6, "longer than"), (128, 0, "names pages")],
)
def test_a_header_that_nobody_wrote(tmp_path: Path, at: int, value: int, message: str) -> None:
    """With a right checksum: such a file is refused by what it says."""
    path = save(tmp_path, 5, 12).path
    raw = bytearray(path.read_bytes())
    size_bytes = read_header(path).size_bytes
    raw[at : at + 4] = value.to_bytes(4, "little")
    raw[124:128] = bytes(4)
    raw[124:128] = zlib.crc32(raw[:size_bytes]).to_bytes(4, "little")
    path.write_bytes(raw)
    with pytest.raises(CorruptionError, match=message):
        load(path)


def test_the_document_has_the_header_as_it_is() -> None:
    document = (Path(__file__).parents[3] / "docs/formats.md").read_text()
    document = document.split("\n## A checkpoint\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\d+) \| (\d+) \|", document, re.MULTILINE)
    sizes = [struct.calcsize(f"<{code}") for code in ("8s", *headers.FIXED_CODES)]
    assert [int(size) for _, size in rows[: len(sizes)]] == sizes
    ends = [int(at) + int(size) for at, size in rows]
    assert [int(at) for at, _ in rows] == [0, *ends[:-1]]
    assert ends[-1] == headers.FIXED_BYTES
