"""Pages that are written all the time: left unprotected, reported, and looked at now and then."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest

from diptych.memory import Extent, KernelTracker, Region
from diptych.memory.hot_pages import (
    GAP_PAGES,
    HOT_PAGES_MAX,
    NEIGHBOURS,
    PERIOD,
    STREAK,
    HotPages,
)

EXTENTS = np.array([(1, 4000), (5000, 9000)])


def divided(known: HotPages, *pages: int) -> tuple[list[int], list[tuple[int, ...]]]:
    hot, ranges = known.divide(np.array(pages, dtype=np.int64), EXTENTS)
    return hot.tolist(), [tuple(row) for row in ranges.tolist()]


def heated(*pages: int) -> HotPages:
    """`pages` were written in every one of many takes."""
    known = HotPages(9000)
    for _ in range(2 * PERIOD):
        divided(known, *pages)
    return known


def test_a_page_is_hot_when_takes_in_a_row_report_it() -> None:
    known = HotPages(9000)
    for _ in range(STREAK - 1):
        assert divided(known, 7) == ([], [(7, 8)])
    assert divided(known, 7) == ([7], [])
    assert divided(known) == ([], [])
    assert divided(known, 7) == ([], [(7, 8)]), "it begins anew"


def test_a_hot_page_is_protected_now_and_then_and_hot_again_at_its_next_write() -> None:
    known = heated(7)
    rounds = [divided(known, 7)[0] for _ in range(3 * PERIOD)]
    assert [len(hot) for hot in rounds].count(0) == 3
    assert [] not in [a + b for a, b in pairwise(rounds)]


def test_neighbours_are_protected_together() -> None:
    pages = range(NEIGHBOURS, 3 * NEIGHBOURS)
    known = heated(*pages)
    rounds = [divided(known, *pages)[1] for _ in range(PERIOD)]
    ranges = sorted(row for rows in rounds for row in rows)
    assert ranges == [(NEIGHBOURS, 2 * NEIGHBOURS), (2 * NEIGHBOURS, 3 * NEIGHBOURS)]


def test_ranges_hold_no_hot_page_and_no_gap_between_extents() -> None:
    known = HotPages(9000)
    for _ in range(STREAK):
        hot, ranges = divided(known, 20, 3990, 6000)
    assert hot == [20, 3990, 6000]
    hot, ranges = divided(known, 18, 20, 22, 30, 3990, 3999, 5000, 6000, 6000 + 3 * GAP_PAGES)
    assert hot == [20, 3990, 6000]
    assert ranges == [(18, 19), (22, 31), (3999, 4000), (5000, 5001), (6768, 6769)]


def test_what_is_hot_has_a_limit() -> None:
    known = HotPages(9000)
    for _ in range(STREAK):
        hot, ranges = divided(known, *range(1, 3000))
    assert len(hot) == HOT_PAGES_MAX
    assert sum(stop - start for start, stop in ranges) == 2999 - HOT_PAGES_MAX


def test_no_page_is_hot_after_forgetting() -> None:
    known = heated(7)
    known.forget()
    assert divided(known, 7)[0] == []


@pytest.fixture
def region() -> Iterator[Region]:
    with Region.create(64 * 4096) as region:
        yield region


@pytest.fixture
def tracker(region: Region) -> Iterator[KernelTracker]:
    tracker = KernelTracker(region, leave_hot=True)
    tracker.track(Extent(1, 40))
    tracker.start()
    yield tracker
    tracker.stop()


def test_a_hot_page_costs_no_more_faults_and_all_others_stay_exact(
    region: Region, tracker: KernelTracker
) -> None:
    faults = 0
    for number in range(4 * PERIOD):
        region.words[9 * 512] = region.words[10 * 512] = number
        other = 11 + number % 5
        region.words[other * 512] = number
        assert tracker.take().tolist() == [9, 10, other]
        faults += tracker.protected_pages - 1
    assert faults < 4 * PERIOD


def test_a_page_that_is_written_no_more_is_not_reported_for_ever(
    region: Region, tracker: KernelTracker
) -> None:
    for number in range(PERIOD):
        region.words[9 * 512] = number
        tracker.take()
    reported = [tracker.take().tolist() for _ in range(PERIOD + 1)]
    assert [9] in reported
    assert reported[-1] == []


def test_clearing_clears_hot_pages_too(region: Region, tracker: KernelTracker) -> None:
    for number in range(PERIOD):
        region.words[9 * 512] = number
        tracker.take()
    tracker.clear()
    assert tracker.take().tolist() == []
