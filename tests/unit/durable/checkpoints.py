"""A small region with content, and a directory to save it in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diptych.durable import Checkpoint, DataDirectory, Files
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
