"""A small region with content, and a directory to save it in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diptych.durable import Checkpoint, DataDirectory, Files, read_manifest, read_pages
from diptych.durable.pages import file_name
from diptych.memory import PAGE_BYTES, Extent, Region

REGION_PAGES = 64
EXTENTS = (Extent(1, 4), Extent(10, 30))
SCHEMA = b'{"tables": []}'


@contextmanager
def region_of(value: int, extents: tuple[Extent, ...] = EXTENTS) -> Iterator[Region]:
    """A region whose every allocated word is its position plus `value`."""
    with Region.create(REGION_PAGES * PAGE_BYTES) as region:
        for extent in extents:
            region.allocate(extent)
            first, last = extent.start * 512, extent.stop * 512
            region.words[first:last] = range(first + value, last + value)
        yield region


def save(
    path: Path, value: int, sequence: int, files: Files | None = None, app: str = "shop"
) -> Checkpoint:
    with DataDirectory.open(path, app, files) as directory, region_of(value) as region:
        return directory.save(region, EXTENTS, app=app, schema=SCHEMA, history=7, sequence=sequence)


def pages_file(checkpoint: Checkpoint) -> Path:
    """Where its pages are."""
    return checkpoint.path.with_name(file_name(read_manifest(checkpoint.path).slot))


def flip(path: Path, position: int, bit: int = 0) -> None:
    """Damage a file: one bit."""
    with path.open("r+b") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ (1 << bit)]))


def load(checkpoint: Checkpoint) -> list[int]:
    """All words that a checkpoint gives."""
    with Region.create(REGION_PAGES * PAGE_BYTES) as region:
        read_pages(checkpoint, region, lambda _: None)
        return list(region.words.tolist())


def words_of(value: int) -> list[int]:
    """All words of `region_of`."""
    with region_of(value) as region:
        return list(region.words.tolist())
