"""The mirror step by step; random schedules are in tests/model/test_mirror_model.py."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from diptych.memory import (
    NONE,
    AllocationFailed,
    CompareTracker,
    Extent,
    KernelTracker,
    Mirror,
    PageTracker,
    Region,
    State,
    SyncRecord,
    TrackingLost,
    TrackingUnavailable,
    newest_complete,
    read_stamp,
    restore,
)
from diptych.memory.hot_pages import STREAK
from diptych.memory.layout import Pages

PAGES = 64
IMAGES = 3
SIZE = PAGES * 4096


@pytest.fixture(params=["memory", "files"])
def images(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[Region]]:
    directory = tmp_path if request.param == "files" else None
    images = [Region.create(SIZE, directory=directory) for _ in range(IMAGES)]
    yield images
    for image in images:
        image.close()


@pytest.fixture(params=[KernelTracker, CompareTracker], ids=["kernel", "compare"])
def mirror(
    region: Region, images: list[Region], request: pytest.FixtureRequest
) -> Iterator[Mirror]:
    tracker = request.param(region)
    tracker.start()
    mirror = Mirror(region, tracker, images)
    mirror.add_extent(Extent(1, 33))
    yield mirror
    tracker.stop()


def write(mirror: Mirror, *pages: int) -> None:
    for page in pages:
        mirror.region.words[page * 512 + page] += 1


def sync(mirror: Mirror, image: int | None = None, *, goal: int = 1000) -> SyncRecord:
    if image is None:
        image = (mirror.current + 1) % IMAGES
    mirror.prepare(image, goal)
    record = mirror.cut(image, mirror.sequence + 1, 99)
    assert record is not None
    assert mirror.differences(image).tolist() == []
    mirror.commit(image)
    return record


def cut(mirror: Mirror, image: int) -> SyncRecord:
    """Write a page, and cut: the commit is left to the caller."""
    write(mirror, 3)
    mirror.prepare(image, 1000)
    record = mirror.cut(image, mirror.sequence + 1, 99)
    assert record is not None
    return record


def test_a_sync_copies_what_was_written_and_stamps_the_image(mirror: Mirror) -> None:
    assert mirror.current == NONE
    first = sync(mirror)
    assert first.pages + first.precopied_pages == 32
    write(mirror, 3, 7, 7)
    second = sync(mirror)
    assert (second.image, second.pages, second.epoch, second.epoch_pages) == (1, 2, 2, 2)
    assert (mirror.current, mirror.epoch, mirror.sequence) == (1, 2, 2)
    stamp = read_stamp(mirror.images[1])
    assert stamp == (State.COMPLETE, 2, 2, 99, second.time_ns)
    assert newest_complete(mirror.images) == 1


def test_an_image_catches_up_on_all_epochs_it_missed(mirror: Mirror) -> None:
    sync(mirror, 0)
    write(mirror, 3)
    sync(mirror, 1)
    write(mirror, 4)
    sync(mirror, 0)
    write(mirror, 5)
    record = sync(mirror, 2)
    # Image 2 was never filled: everything comes from the current image, page 5 from the region.
    assert (record.levelled_pages, record.pages) == (32, 1)
    write(mirror, 5, 6)
    mirror.prepare(1, 0)
    mirror.abort(1)
    record = sync(mirror, 0)
    # Pages 5 and 6 are known to be written again: they come from the region.
    assert (record.levelled_pages, record.pages) == (0, 2)


def test_nothing_written_makes_no_image(mirror: Mirror) -> None:
    sync(mirror, 0)
    mirror.prepare(1, 10)
    assert mirror.cut(1, 50, 99) is None
    assert (mirror.current, mirror.epoch, mirror.sequence) == (0, 1, 50)
    write(mirror, 9)
    record = mirror.cut(1, 51, 99)
    assert record is not None
    assert record.pages == 1
    mirror.commit(1)
    assert mirror.differences(1).tolist() == []


def test_what_changed_is_told_to_each_slot_once(mirror: Mirror) -> None:
    sync(mirror)
    assert mirror.changed(1) is None
    write(mirror, 3, 4)
    sync(mirror)
    assert mirror.changed(2) is None
    write(mirror, 4, 5)
    assert mirror.changed(1).tolist() == [3, 4], "of the current image, not of the region"
    sync(mirror)
    assert sorted(mirror.changed(2).tolist()) == [4, 5]
    assert sorted(mirror.changed(1).tolist()) == [4, 5]
    assert mirror.changed(1).tolist() == []
    mirror.forget_changes(1)
    mirror.forget_changes(3)
    assert mirror.changed(1) is None


def test_an_abandoned_sync_loses_nothing(mirror: Mirror) -> None:
    for image in (0, 1, 2):
        write(mirror, 1)
        sync(mirror, image)
    write(mirror, 7)
    mirror.prepare(0, 0)
    mirror.abort(0)
    write(mirror, 8)
    assert mirror.uncopied_pages >= 1
    record = sync(mirror, 1)
    assert record.pages + record.precopied_pages == 2
    for image in (0, 2):
        write(mirror, 9)
        sync(mirror, image)


def test_an_image_that_was_cut_may_still_be_abandoned(mirror: Mirror) -> None:
    sync(mirror, 0)
    write(mirror, 7)
    mirror.prepare(1, 1000)
    cut = mirror.cut(1, 2, 99)
    assert cut is not None
    mirror.abort(1)
    write(mirror, 8)
    record = sync(mirror, 2)
    assert record.epoch > cut.epoch, "no epoch is given twice"
    write(mirror, 9)
    sync(mirror, 1)


def test_what_comes_between_cut_and_commit_is_for_the_next_image(mirror: Mirror) -> None:
    sync(mirror, 0)
    record = cut(mirror, 1)
    assert newest_complete(mirror.images) == 1, "whole in memory, whoever may see it"
    assert mirror.current == 0
    write(mirror, 3, 8)
    mirror.region.words[40 * 512] = 7
    mirror.add_extent(Extent(33, 50))
    assert mirror.uncopied_pages == 1, "page 40; what was cut is copied"
    mirror.commit(1)
    assert (mirror.current, mirror.sequence, record.epoch_pages) == (1, 2, 1)
    assert mirror.differences(1).tolist() == [3, 8, 40]
    assert mirror.missing_pages(0) == 1, "page 3, as the cut copied it"
    following = sync(mirror, 0)
    assert (following.pages, following.levelled_pages) == (3, 1)


def test_filling_is_on_the_stamp_before_the_first_byte(mirror: Mirror) -> None:
    sync(mirror, 0)
    write(mirror, 7)
    sync(mirror, 1)
    mirror.level(0)
    stamp = read_stamp(mirror.images[0])
    assert stamp is not None
    assert (stamp.state, stamp.epoch) == (State.FILLING, 0)
    assert newest_complete(mirror.images) == 1


@pytest.mark.parametrize(
    "misuse",
    [
        lambda mirror: mirror.level(0),  # the current one
        lambda mirror: mirror.cut(1, 1, 1),  # not prepared
        lambda mirror: mirror.precopy(1, 1),
        lambda mirror: mirror.commit(1),
        lambda mirror: mirror.abort(1),
        lambda mirror: [mirror.level(1), mirror.level(2)],  # two at a time
        lambda mirror: [mirror.level(1), mirror.commit(1)],  # not cut
        lambda mirror: [cut(mirror, 1), mirror.cut(1, 3, 1)],  # cut already
        lambda mirror: [cut(mirror, 1), mirror.precopy(1, 1)],
        lambda mirror: [cut(mirror, 1), mirror.level(2)],
        lambda mirror: mirror.add_extent(Extent(0, 5)),  # the stamp
    ],
)
def test_misuse_is_refused(mirror: Mirror, misuse: Callable[[Mirror], object]) -> None:
    sync(mirror, 0)
    with pytest.raises(ValueError):
        misuse(mirror)


def test_precopy_leaves_the_pause_what_was_written_meanwhile(mirror: Mirror) -> None:
    sync(mirror, 0)
    write(mirror, *range(1, 31))
    mirror.level(1)
    mirror.precopy(1, 5)
    write(mirror, 2, 3)
    record = mirror.cut(1, 2, 99)
    assert record is not None
    assert (record.precopied_pages, record.pages, record.epoch_pages) == (30, 2, 30)
    assert record.protected_pages == (32 if mirror.tracker.name == "kernel" else 0)
    mirror.commit(1)
    assert mirror.differences(1).tolist() == []


@pytest.fixture
def hot(region: Region, images: list[Region]) -> Iterator[Mirror]:
    """A mirror whose page 9 was written before every sync, so that its tracker leaves it be."""
    tracker = KernelTracker(region, leave_hot=True)
    tracker.start()
    mirror = Mirror(region, tracker, images)
    mirror.add_extent(Extent(1, 33))
    for _ in range(IMAGES + STREAK):
        write(mirror, 9)
        sync(mirror)
    assert tracker.unprotected.tolist() == [9]
    yield mirror
    mirror.tracker.stop()


def test_levelling_leaves_out_what_the_cut_copies_anyway(hot: Mirror) -> None:
    write(hot, 9, 10)
    assert sync(hot).levelled_pages == 0
    write(hot, 9)
    record = sync(hot)
    assert (record.levelled_pages, record.pages) == (1, 1)


def test_what_levelling_left_out_is_not_lost_with_an_abandoned_sync(hot: Mirror) -> None:
    image = (hot.current + 1) % IMAGES
    for precopies in (False, True):
        hot.level(image)
        if precopies:
            hot.precopy(image, 0)
        hot.abort(image)
    sync(hot, image)
    for other in range(IMAGES):
        if other != image:
            sync(hot, other)


def test_what_levelling_left_out_is_copied_also_when_no_take_brings_it(hot: Mirror) -> None:
    """Should the tracker lose its word in between, as when another takes its place."""
    image = (hot.current + 1) % IMAGES
    hot.level(image)
    hot.tracker.clear()
    write(hot, 10)
    record = hot.cut(image, hot.sequence + 1, 99)
    assert record is not None
    assert (record.epoch_pages, record.pages) == (1, 2)
    assert hot.differences(image).tolist() == []


def test_a_page_that_went_back_after_precopy_is_not_missed(mirror: Mirror) -> None:
    """The compare tracker cannot see it, so pre-copy must not have copied the value between."""
    words = mirror.region.words
    sync(mirror, 0)
    words[7 * 512] = 1
    mirror.level(1)
    take = mirror.tracker.take

    def take_then_change() -> Pages:
        pages = take()
        words[7 * 512] = 2
        return pages

    mirror.tracker.take = take_then_change  # type: ignore[method-assign]  # the writer goes on
    mirror.precopy(1, 1000)
    mirror.tracker.take = take  # type: ignore[method-assign]  # as it was
    words[7 * 512] = 1
    assert mirror.cut(1, 2, 99) is not None
    mirror.commit(1)
    assert mirror.differences(1).tolist() == []


def test_images_follow_a_writer_that_never_stops(mirror: Mirror) -> None:
    """Prepare in one thread, writes in another; cuts with the writer standing still."""
    stop, pause = threading.Event(), threading.Lock()

    def work() -> None:
        random = np.random.default_rng(3)
        while not stop.is_set():
            with pause:
                write(mirror, *random.integers(1, 33, 5).tolist())

    writer = threading.Thread(target=work)
    writer.start()
    try:
        for number in range(60):
            image = (mirror.current + 1) % IMAGES
            mirror.prepare(image, number % 7)
            with pause:
                record = mirror.cut(image, number, 99)
                if record is None:
                    mirror.abort(image)
                    continue
                mirror.commit(image)
                assert mirror.differences(image).tolist() == []
    finally:
        stop.set()
        writer.join()


@pytest.mark.parametrize("stage", ["before", "filling", "committed"])
def test_growth_at_any_moment(mirror: Mirror, stage: str) -> None:
    if stage != "before":
        sync(mirror, 0)
        write(mirror, 5)
        sync(mirror, 1)
    if stage == "filling":
        mirror.level(2)
    # Bytes of another life, and bytes written before the extent is asked for.
    mirror.region.words[40 * 512] = 7
    mirror.images[0].words[41 * 512] = 8
    mirror.images[2].words[42 * 512] = 9
    mirror.add_extent(Extent(33, 50))
    mirror.add_extent(Extent(20, 60))
    assert mirror.extents == [Extent(1, 60)]
    write(mirror, 59)
    if stage == "filling":
        assert mirror.cut(2, 9, 99) is not None
        mirror.commit(2)
        assert mirror.differences(2).tolist() == []
    for _ in range(4):
        write(mirror, 59)
        sync(mirror)


def test_growth_keeps_what_was_written_in_older_extents(mirror: Mirror) -> None:
    sync(mirror, 0)
    write(mirror, 32)
    mirror.add_extent(Extent(30, 40))
    record = sync(mirror, 1)
    assert record.pages >= 1


def test_growth_without_memory_changes_nothing(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync(mirror, 0)

    def full(extent: Extent) -> None:
        raise AllocationFailed("no memory")

    monkeypatch.setattr(mirror.images[2], "allocate", full)
    with pytest.raises(AllocationFailed):
        mirror.add_extent(Extent(33, 40))
    assert mirror.extents == [Extent(1, 33)]
    write(mirror, 4)
    sync(mirror, 1)


def test_lost_tracking_means_a_full_copy_and_a_warning(
    mirror: Mirror, caplog: pytest.LogCaptureFixture
) -> None:
    for image in (0, 1, 2):
        write(mirror, 1)
        sync(mirror, image)
    write(mirror, 5)
    mirror.tracker.stop()
    write(mirror, 6)
    with caplog.at_level(logging.WARNING, "diptych.memory"):
        record = sync(mirror, 0)
    assert record.pages == 32
    assert mirror.lost_count == 1
    assert "every allocated page is copied" in caplog.text
    write(mirror, 7)
    assert sync(mirror, 1).pages == 1, "tracking works again"
    sync_all_and_compare(mirror)


def test_tracking_lost_half_way_through_a_take(region: Region, images: list[Region]) -> None:
    class Failing(CompareTracker):
        fail = False

        def take(self) -> Pages:
            pages = super().take()
            if self.fail:
                self.fail = False
                raise TrackingLost("half-way", pages[:1])
            return pages

    tracker = Failing(region)
    tracker.start()
    mirror = Mirror(region, tracker, images)
    mirror.add_extent(Extent(1, 33))
    sync_all_and_compare(mirror)
    write(mirror, 5, 6)
    tracker.fail = True
    mirror.prepare(mirror.current - 1, 0)
    sync_all_and_compare(mirror, abort=mirror.filling)


def test_tracking_that_cannot_start_again_is_replaced(
    region: Region,
    images: list[Region],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tracker = KernelTracker(region)
    tracker.start()
    mirror = Mirror(region, tracker, images)
    mirror.add_extent(Extent(1, 33))
    sync(mirror, 0)
    write(mirror, 6)
    tracker.stop()

    def refused() -> None:
        raise TrackingUnavailable("not any more")

    monkeypatch.setattr(tracker, "start", refused)
    sync(mirror, 1)
    assert mirror.tracker.name == "compare"
    assert "not any more" in caplog.text
    sync_all_and_compare(mirror)


def test_an_extent_that_cannot_be_tracked_changes_the_tracker(
    region: Region, images: list[Region], monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = KernelTracker(region)
    tracker.start()
    mirror = Mirror(region, tracker, images)
    mirror.add_extent(Extent(1, 33))
    sync_all_and_compare(mirror)
    write(mirror, 6)

    def refused(extent: Extent) -> None:
        raise TrackingUnavailable("too many mappings")

    monkeypatch.setattr(tracker, "track", refused)
    mirror.add_extent(Extent(40, 50))
    assert mirror.tracker.name == "compare"
    write(mirror, 45)
    sync_all_and_compare(mirror)


def test_growth_while_the_tracker_is_replaced(
    region: Region,
    images: list[Region],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The helper finds that tracking is lost, for good, just when the owner adds an extent."""
    tracker = KernelTracker(region)
    tracker.start()
    mirror = Mirror(region, tracker, images)
    mirror.add_extent(Extent(1, 33))
    sync_all_and_compare(mirror)
    filling = (mirror.current + 1) % IMAGES
    mirror.level(filling)
    helper = threading.Thread(target=mirror.precopy, args=(filling, 1000))

    def refused() -> None:
        raise TrackingUnavailable("not any more")

    def track(extent: Extent) -> None:
        KernelTracker.track(tracker, extent)
        tracker.stop()
        helper.start()
        helper.join(timeout=0.2)  # it may have to wait for us

    monkeypatch.setattr(tracker, "start", refused)
    monkeypatch.setattr(tracker, "track", track)
    mirror.add_extent(Extent(40, 50))
    helper.join()
    assert mirror.tracker.name == "compare"
    write(mirror, 45)
    assert 45 in mirror.tracker.written()
    sync_all_and_compare(mirror, abort=filling)


def sync_all_and_compare(mirror: Mirror, abort: int = NONE) -> None:
    if abort != NONE:
        mirror.abort(abort)
    for _ in mirror.images:
        write(mirror, 31)
        sync(mirror)


def test_a_successor_goes_on_from_the_newest_image(mirror: Mirror) -> None:
    for image in (0, 1):
        write(mirror, 5, 9)
        sync(mirror, image)
    expected = bytes(mirror.images[1].buffer[4096:])
    # The owner dies: in the middle of a transaction, with an image half filled.
    mirror.region.words[11 * 512] = 666
    mirror.region.words[50 * 512] = 666
    mirror.level(2)
    mirror.images[2].words[12 * 512] = 666
    mirror.tracker.stop()

    current = newest_complete(mirror.images)
    assert current == 1
    with Region.attach(mirror.region.fd, SIZE, writable=True) as region:
        restore(region, mirror.images[1])
        assert bytes(region.buffer[4096:]) == expected
        tracker: PageTracker = KernelTracker(region)
        tracker.start()
        successor = Mirror(region, tracker, mirror.images, current=1)
        assert (successor.epoch, successor.sequence) == (2, 2)
        successor.add_extent(Extent(1, 33))
        assert successor.uncopied_pages == 0, "region and image 1 are equal"
        assert successor.missing_pages(2) == 32
        write(successor, 6)
        record = sync(successor, 2)
        assert (record.epoch, record.pages, record.levelled_pages) == (3, 1, 32)
        write(successor, 7)
        sync(successor, 0)
        tracker.stop()


def test_an_image_that_is_not_whole_is_no_base(mirror: Mirror) -> None:
    mirror.level(0)
    for image in (0, 1):
        with pytest.raises(ValueError, match="not whole"):
            restore(mirror.region, mirror.images[image])
        with pytest.raises(ValueError, match="not whole"):
            Mirror(mirror.region, mirror.tracker, mirror.images, current=image)


def test_a_mirror_needs_two_images_of_the_regions_size(region: Region) -> None:
    tracker = CompareTracker(region)
    with pytest.raises(ValueError, match="two images"):
        Mirror(region, tracker, [region])
    with Region.create(4096) as small, pytest.raises(ValueError, match="size"):
        Mirror(region, tracker, [small, small])


def test_memory_is_given_back_to_nobody_else(mirror: Mirror) -> None:
    """Every descriptor of the mirror's is its own: closing all leaves the count as it was."""
    before = len(os.listdir("/proc/self/fd"))
    tracker = KernelTracker(mirror.region)
    tracker.start()
    tracker.stop()
    assert len(os.listdir("/proc/self/fd")) == before


def test_memory_that_is_warm_is_not_mirrored_before_it_is_added(mirror: Mirror) -> None:
    sync(mirror, 0)
    mirror.warm(Extent(33, 60))
    assert mirror.extents == [Extent(1, 33)]
    mirror.add_extent(Extent(33, 40))
    mirror.add_extent(Extent(40, 60))
    assert mirror.extents == [Extent(1, 60)]
    write(mirror, 59)
    sync(mirror, 1)
    assert mirror.differences(mirror.current).tolist() == []


def test_warming_what_is_in_use_already_changes_no_byte(mirror: Mirror) -> None:
    """A growth that came sooner has it, and may have been written and synced meanwhile."""
    sync(mirror, 0)
    write(mirror, 5)
    mirror.level(2)
    mirror.warm(Extent(1, 33))
    write(mirror, 6)
    assert mirror.cut(2, 1, 99) is not None
    mirror.warm(Extent(1, 33))
    mirror.commit(2)
    assert mirror.differences(2).tolist() == []
    write(mirror, 7)
    sync(mirror, 1)
    assert mirror.differences(mirror.current).tolist() == []
