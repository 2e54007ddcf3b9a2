from __future__ import annotations

from collections.abc import Iterator

import pytest

from diptych.memory import CompareTracker, Extent, KernelTracker, PageTracker, Region

PAGES = 64


@pytest.fixture
def region() -> Iterator[Region]:
    with Region.create(PAGES * 4096, scratch_bytes=8192) as region:
        yield region


@pytest.fixture(params=["kernel", "compare"])
def tracker(region: Region, request: pytest.FixtureRequest) -> Iterator[PageTracker]:
    """Either tracker, on, of all pages of `region`."""
    kinds = {"kernel": KernelTracker, "compare": CompareTracker}
    tracker: PageTracker = kinds[request.param](region)
    tracker.track(Extent(1, PAGES))
    tracker.start()
    yield tracker
    tracker.stop()
