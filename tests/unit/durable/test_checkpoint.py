"""A checkpoint gives back what was saved, or says what is wrong with it."""

from __future__ import annotations

import random
import re
import shutil
import struct
import zlib
from pathlib import Path

import pytest
from crc32c import crc32c
from tests.unit.durable.checkpoints import (
    EXTENTS,
    REGION_PAGES,
    SCHEMA,
    flip,
    load,
    pages_file,
    save,
    words_of,
)

from diptych.durable import (
    CheckpointReplaced,
    checkpoints_in,
    pages,
    read_manifest,
    read_pages,
    verify_pages,
)
from diptych.durable import manifest as manifests
from diptych.errors import ConfigurationError, CorruptionError
from diptych.memory import PAGE_BYTES, Region


def seal(path: Path, raw: bytearray) -> None:
    """Write a manifest with a checksum that is right for what it says."""
    size_bytes = int.from_bytes(raw[12:16], "little")
    raw[124:128] = bytes(4)
    raw[124:128] = crc32c(raw[:size_bytes]).to_bytes(4, "little")
    path.write_bytes(raw)


def test_what_was_saved_is_read(tmp_path: Path) -> None:
    checkpoint = save(tmp_path, value=5, sequence=12)
    assert load(checkpoint) == words_of(5)
    manifest = read_manifest(checkpoint.path)
    assert (manifest.app, manifest.schema, manifest.facts) == ("shop", SCHEMA, "")
    assert (manifest.sequence, manifest.epoch, manifest.history) == (12, 1, 7)
    assert (manifest.extents, manifest.page_count, manifest.slot) == (EXTENTS, 23, 1)
    assert manifest.file_bytes == checkpoint.path.stat().st_size
    assert verify_pages(checkpoint, lambda _: None) == manifest
    assert verify_pages(checkpoint, lambda _: None, cached=False) == manifest


def test_progress_is_told_in_bytes(tmp_path: Path) -> None:
    checkpoint = save(tmp_path, value=5, sequence=12)
    told: list[int] = []
    verify_pages(checkpoint, told.append)
    assert sum(told) == 23 * PAGE_BYTES


def test_every_bit_of_a_manifest_is_covered_by_a_checksum(tmp_path: Path) -> None:
    """Fixed fields, extents, name, schema, padding, table, padding."""
    checkpoint = save(tmp_path, value=5, sequence=12)
    manifest, chance = read_manifest(checkpoint.path), random.Random(1)
    positions = [*range(manifests.FIXED_BYTES + 32 + 4 + len(SCHEMA) + 4)]
    positions += [manifest.header_bytes - 1, manifest.file_bytes - 1]
    positions += range(manifest.header_bytes, manifest.header_bytes + 23 * 4 + 4)
    for position in positions:
        bit = chance.randrange(8)
        flip(checkpoint.path, position, bit)
        with pytest.raises(CorruptionError, match="is damaged") as noticed:
            verify_pages(checkpoint, lambda _: None)
        assert str(checkpoint.path) in str(noticed.value)
        with pytest.raises(CorruptionError, match="is damaged"):
            load(checkpoint)
        flip(checkpoint.path, position, bit)
    assert load(checkpoint) == words_of(5)


def test_every_bit_of_the_pages_is_covered_by_a_checksum(tmp_path: Path) -> None:
    """Its own header, and the pages of all extents; what is in none of them means nothing."""
    checkpoint = save(tmp_path, value=5, sequence=12)
    path, chance = pages_file(checkpoint), random.Random(2)
    positions = [*range(40), PAGE_BYTES - 4, PAGE_BYTES - 1]
    for extent in EXTENTS:
        first, last = extent.start * PAGE_BYTES, extent.stop * PAGE_BYTES
        positions += [first, last - 1, *(chance.randrange(first, last) for _ in range(50))]
    for position in positions:
        bit = chance.randrange(8)
        flip(path, position, bit)
        with pytest.raises(CorruptionError, match=r"is damaged: pages-1.diptych: "):
            verify_pages(checkpoint, lambda _: None)
        with pytest.raises(CorruptionError, match=r"is damaged: pages-1.diptych: "):
            load(checkpoint)
        flip(path, position, bit)
    flip(path, 5 * PAGE_BYTES)
    assert load(checkpoint) == words_of(5)


def test_a_damaged_page_is_named(tmp_path: Path) -> None:
    checkpoint = save(tmp_path, value=5, sequence=12)
    flip(pages_file(checkpoint), 11 * PAGE_BYTES + 100)
    with pytest.raises(CorruptionError, match="page 11: its checksum differs"):
        load(checkpoint)


@pytest.mark.parametrize("length", [0, 1, 127, 128, 4095, 4096, 5000, 8191, -1])
def test_a_torn_manifest(tmp_path: Path, length: int) -> None:
    checkpoint = save(tmp_path, value=5, sequence=12)
    checkpoint.path.write_bytes(checkpoint.path.read_bytes()[:length])
    with pytest.raises(CorruptionError, match="is damaged"):
        load(checkpoint)


def test_a_manifest_that_is_too_long(tmp_path: Path) -> None:
    checkpoint = save(tmp_path, value=5, sequence=12)
    checkpoint.path.write_bytes(checkpoint.path.read_bytes() + b"\0")
    with pytest.raises(CorruptionError, match="should have"):
        load(checkpoint)


@pytest.mark.parametrize("length", [0, 1, 4095, 4096, 4097, 50_000, -1])
def test_a_torn_pages_file(tmp_path: Path, length: int) -> None:
    checkpoint = save(tmp_path, value=5, sequence=12)
    path = pages_file(checkpoint)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CorruptionError, match="is damaged"):
        load(checkpoint)


def test_a_pages_file_that_is_not_there(tmp_path: Path) -> None:
    checkpoint = save(tmp_path, value=5, sequence=12)
    pages_file(checkpoint).unlink()
    with pytest.raises(CorruptionError, match=r"pages-1.diptych: there is no such file"):
        load(checkpoint)


def test_the_pages_of_another_checkpoint_do_not_fit(tmp_path: Path) -> None:
    first, second = save(tmp_path, 5, 12), save(tmp_path, 6, 13)
    shutil.copy(pages_file(second), pages_file(first))
    with pytest.raises(CorruptionError, match="is not the file that this checkpoint"):
        load(first)
    elsewhere = save(tmp_path / "elsewhere", 5, 12)
    shutil.copy(pages_file(elsewhere), pages_file(first))
    with pytest.raises(CorruptionError, match="is not the file that this checkpoint"):
        load(first)


def test_a_manifest_under_another_ones_name(tmp_path: Path) -> None:
    first, second = save(tmp_path, 5, 12), save(tmp_path, 6, 13)
    first.path.rename(second.path)
    with pytest.raises(CorruptionError, match=f"that of {first.path.name}"):
        load(second)


def test_what_is_overwritten_while_it_is_read_is_not_called_damaged(tmp_path: Path) -> None:
    """A server that runs changes the oldest checkpoint's pages, after it removed its name."""
    checkpoint = save(tmp_path, 5, 12)
    told: list[int] = []

    def overwrite(size_bytes: int) -> None:
        if not told:
            for sequence in (13, 14, 15):
                save(tmp_path, sequence, sequence)
        told.append(size_bytes)

    with pytest.raises(CheckpointReplaced, match="newer ones"):
        verify_pages(checkpoint, overwrite)
    assert checkpoint not in checkpoints_in(tmp_path)


def test_a_region_of_another_size(tmp_path: Path) -> None:
    checkpoint = save(tmp_path, 5, 12)
    with (
        Region.create(2 * REGION_PAGES * PAGE_BYTES) as region,
        pytest.raises(CorruptionError, match="a region of"),
    ):
        read_pages(checkpoint, region, lambda _: None)


def test_a_format_of_the_future(tmp_path: Path) -> None:
    checkpoint = save(tmp_path, 5, 12)
    raw = bytearray(checkpoint.path.read_bytes())
    raw[8:12] = (9).to_bytes(4, "little")
    seal(checkpoint.path, raw)
    with pytest.raises(ConfigurationError, match=r"has format 9; .* reads format 2"):
        load(checkpoint)


def test_the_format_before_is_refused_by_name(tmp_path: Path) -> None:
    """One file with its pages behind the header, and checksums of zlib's kind."""
    checkpoint = save(tmp_path, 5, 12)
    raw = bytearray(checkpoint.path.read_bytes())
    raw[8:12] = (1).to_bytes(4, "little")
    raw[124:128] = bytes(4)
    raw[124:128] = zlib.crc32(raw[:4096]).to_bytes(4, "little")
    checkpoint.path.write_bytes(raw)
    with pytest.raises(ConfigurationError, match=r"has format 1; .* reads format 2"):
        load(checkpoint)
    raw[200] ^= 1
    checkpoint.path.write_bytes(raw)
    with pytest.raises(CorruptionError, match="the header's checksum differs"):
        load(checkpoint)


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [(8 + 8 + 40, 99, "counts contradict"), (72, 10**6, "longer than"), (128, 0, "names pages")],
)
def test_a_manifest_that_nobody_wrote(tmp_path: Path, at: int, value: int, message: str) -> None:
    """With a right checksum: such a file is refused by what it says."""
    checkpoint = save(tmp_path, 5, 12)
    raw = bytearray(checkpoint.path.read_bytes())
    raw[at : at + 4] = value.to_bytes(4, "little")
    seal(checkpoint.path, raw)
    with pytest.raises(CorruptionError, match=message):
        load(checkpoint)


def test_the_document_has_the_headers_as_they_are() -> None:
    document = (Path(__file__).parents[3] / "docs/formats.md").read_text()
    for title, codes, size_bytes in (
        ("header, format 2", manifests.FIXED_CODES, manifests.FIXED_BYTES),
        ("page 0, format 1", pages.HEADER_CODES, PAGE_BYTES),
    ):
        (shown,) = re.findall(rf"^\| offset \| size \| {title} .*?\n\n", document, re.M | re.S)
        rows = [
            (int(at), int(size)) for at, size in re.findall(r"^\| (\d+) \| (\d+) \|", shown, re.M)
        ]
        sizes = [struct.calcsize(f"<{code}") for code in ("8s", *codes)]
        assert [size for _, size in rows[: len(sizes)]] == sizes
        ends = [at + size for at, size in rows]
        assert [at for at, _ in rows] == [0, *ends[:-1]]
        assert ends[-1] == size_bytes
