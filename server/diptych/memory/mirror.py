"""The mirror: images of a region, each brought up to date by copying just the pages it lacks.

For a region R, the current image C and an image F that is being filled, the sets are
  A     pages written since C was cut, as far as they were taken from the tracker,
  M(i)  pages that image i lacks against C,
  B     pages that an image which was cut and is not current yet has beyond C,
and the steps of a sync, in this order,
  level     copy M(F) - A - H from C, never from R, which is already beyond C; H are pages that the
            tracker reports at its next take whatever happens (see `hot_pages`), so the cut copies
            them, and would a second time;
  pre-copy  take P; A |= P; M(F) |= P; copy P from R; as often as it helps;
  cut       with R standing still: take W; A |= W; copy every page of A that was not copied since
            its last take, and H; F now equals R; B = A; A = 0;
  commit    M(i) |= B for all i other than F; M(F) = 0; B = 0; C = F.
Between cut and commit R may be written and grow, for any length of time: from the cut on, A is what
R has beyond F. A sync may be abandoned at any step: M(F) is kept, and after a cut A |= B, so the
next one, into whichever image, still copies what this one took from the tracker.

Level and pre-copy may run in a helper thread while the owner writes R and adds extents. Cut and
commit belong to the owner, which may leave a commit for as long as nobody should see the image yet.
Which image is free to be filled is the caller's knowledge (see `holds`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from diptych.memory.compare_tracker import CompareTracker
from diptych.memory.errors import TrackingLost, TrackingUnavailable
from diptych.memory.kernels import compare_written, copy_pages
from diptych.memory.layout import (
    STAMP_PAGE,
    Extent,
    Pages,
    extent_array,
    merged,
    pages_of,
    without,
)
from diptych.memory.page_set import PageSet
from diptych.memory.region import Region
from diptych.memory.stamp import FILLING, Stamp, State, read_stamp, write_stamp
from diptych.memory.tracking import PageTracker

log = logging.getLogger("diptych.memory")

PRECOPY_ROUNDS_MAX = 8
NONE = -1  # in place of an image number


@dataclass(frozen=True, slots=True)
class SyncRecord:
    """What one sync did. Times are in nanoseconds."""

    image: int
    epoch: int
    sequence: int
    history: int
    time_ns: int  # CLOCK_MONOTONIC of the instant that the image shows
    pages: int  # copied while the owner stood still
    precopied_pages: int  # copied before that, while it ran
    levelled_pages: int  # copied from the image before
    protected_pages: int  # by this sync: each costs the owner a fault later
    epoch_pages: int  # different pages written since the image before
    scan_ns: int
    pause_ns: int


class Mirror:
    """The images of `region`. `current` is the image that readers get, NONE before the first.

    With `current` given, the region was restored from that image (see `restore`), and readers may
    still be looking at it.
    """

    def __init__(
        self,
        region: Region,
        tracker: PageTracker,
        images: Sequence[Region],
        *,
        current: int = NONE,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        if len(images) < 2:
            raise ValueError("a mirror needs two images: one to read, one to fill")
        if any(image.page_count != region.page_count for image in images):
            raise ValueError("an image must have the region's size")
        self.region = region
        self.tracker = tracker
        self.images = list(images)
        self.current = NONE
        self.epoch = 0
        self.sequence = 0
        self.lost_count = 0
        self._now_ns = now_ns
        self._lock = threading.Lock()
        # Held while it changes what is tracked, or by which tracker; taken before the other.
        self._tracking = threading.RLock()
        self._extents: list[Extent] = []
        self._written = PageSet(region.page_count)
        self._cut_pages = PageSet(region.page_count)
        self._missing = [PageSet(region.page_count) for _ in images]
        # By slot, see `changed`: pages that were of B at some commit since.
        self._changed: dict[int, PageSet] = {}
        # Of A, what the image being filled still has to get from the region.
        self._uncopied = PageSet(region.page_count)
        # H: what the next take is sure to bring, and levelling therefore left out.
        self._left = PageSet(region.page_count)
        self._filling = NONE
        self._cut: SyncRecord | None = None
        self._began = False
        self._precopied_pages = self._levelled_pages = self._protected_pages = 0
        self._epoch_pages = 0
        self._taken_ns = now_ns()
        # Epochs are never used twice, also not by a mirror that goes on with these images.
        stamps = [read_stamp(image) for image in images]
        self._last_epoch = max((stamp.epoch for stamp in stamps if stamp), default=0)
        if current != NONE:
            stamp = stamps[current]
            if stamp is None or stamp.state is not State.COMPLETE:
                raise ValueError(f"image {current} is not whole")
            self.current, self.epoch, self.sequence = current, stamp.epoch, stamp.sequence

    @property
    def extents(self) -> list[Extent]:
        """What is allocated, tracked and mirrored."""
        return list(self._extents)

    @property
    def filling(self) -> int:
        return self._filling

    @property
    def uncopied_pages(self) -> int:
        """Pages known to need copying from the region; writes since the last take are not known."""
        return len(self._uncopied if self._copying else self._written)

    @property
    def _copying(self) -> bool:
        """Whether an image is being filled, and not cut yet."""
        return self._filling != NONE and self._cut is None

    def missing_pages(self, image: int) -> int:
        """How much levelling `image` would be."""
        return len(self._missing[image])

    def add_extent(self, extent: Extent) -> None:
        """Allocate `extent` in region and images, and track it: by the owner, outside a pause.

        What is known already is left alone. Raises AllocationFailed, and then nothing is mirrored
        that was not before.
        """
        if extent.start <= STAMP_PAGE:
            raise ValueError("page 0 is the stamp")
        fresh = without(extent, self._extents)
        for part in fresh:
            self.warm(part)
        for part in fresh:
            with self._tracking:
                self._track(part)
                with self._lock:
                    self._note_extent(part)

    def warm(self, extent: Extent) -> None:
        """Get memory for `extent` in region and images, and touch it: by any thread, at any time.

        Nothing else is changed, so that `add_extent` of the same takes little time later. What is
        mirrored already keeps its bytes, but may be copied once more. Raises AllocationFailed.
        """
        for memory in (self.region, *self.images):
            memory.allocate(extent)
        # A first touch costs several times a copy; it is paid here and not in a pause.
        for memory in (self.region, *self.images):
            memory.populate(extent)

    def _track(self, extent: Extent) -> None:
        try:
            self.tracker.track(extent)
        except TrackingUnavailable as reason:
            self._compare_from_now_on(reason)
            self.tracker.track(extent)
            everything = pages_of(self._extents)
            with self._lock:
                self._written.add(everything)
                self._uncopied.add(everything)

    def _note_extent(self, extent: Extent) -> None:
        # Fresh memory is zero everywhere and equal. But an earlier life of these images may have
        # left its bytes, and a caller may have written before it asked: nothing is taken on trust.
        if self.current == NONE:
            written = extent.pages()
        elif self._began:
            parts = [self._unequal(image, extent) for image in self.images]
            written = np.unique(np.concatenate(parts))
        else:
            # Restored: all of every other image is copied sooner or later, so it is not looked at.
            written = self._unequal(self.images[self.current], extent)
            self._add_to_missing(extent.pages())
        self._extents = merged([*self._extents, extent])
        self._written.add(written)
        if self._copying:
            self._uncopied.add(written)

    def prepare(self, image: int, pages_goal: int) -> None:
        """Do all that can be done before the owner stands still.

        That is to level and, if the pause would otherwise have more than `pages_goal` pages to copy
        (going by the last epoch), to pre-copy.
        """
        self.level(image)
        if self.uncopied_pages + self._epoch_pages > pages_goal:
            self.precopy(image, pages_goal)

    def level(self, image: int) -> None:
        """Begin to fill `image`: stamp it FILLING, then make it equal to C in all pages but A."""
        with self._lock:
            if self._filling != NONE or image == self.current:
                raise ValueError(f"image {image} cannot be filled now")
            self._filling = image
            self._began = True
            self._precopied_pages = self._levelled_pages = self._protected_pages = 0
            self._uncopied.add(self._written.pages())
            self._left.clear()
            self._left.add(self.tracker.unprotected)
            pages = self._missing[image].without(self._written, self._left)
        target = self.images[image]
        write_stamp(target, FILLING)
        if pages.size:
            copy_pages(self.images[self.current].words, target.words, pages)
            with self._lock:
                self._missing[image].discard(pages)
        self._levelled_pages = pages.size

    def precopy(self, image: int, pages_goal: int) -> None:
        """Copy written pages while the owner writes on, until about `pages_goal` are left.

        Ends, too, when rounds stop getting smaller: the owner then writes as fast as we copy.
        """
        self._check_copying(image)
        previous = 2 * self.region.page_count
        for number in range(PRECOPY_ROUNDS_MAX):
            began_ns = self._now_ns()
            since_take_ns = max(1, began_ns - self._taken_ns)
            taken = self._take()
            with self._lock:
                pages = self._uncopied.pages()
                # Should this sync be abandoned, the image has bytes beyond C in these pages.
                self._missing[image].add(pages)
                self._uncopied.clear()
            copy_pages(self.tracker.source, self.images[image].words, pages)
            self._precopied_pages += pages.size
            # The owner went on at the rate it had, for as long as this round took. Before the
            # first round that rate may be of a time when it stood still.
            left = taken.size * (self._now_ns() - began_ns) / since_take_ns
            enough = pages.size <= pages_goal or (number > 0 and left <= pages_goal)
            if enough or pages.size > 0.7 * previous:
                return
            previous = pages.size

    def cut(self, image: int, sequence: int, history: int) -> SyncRecord | None:
        """Make `image` equal to the region, which stands still, and stamp it COMPLETE.

        None when nothing was written since the current image was cut: that one shows this instant
        as well, and `image` stays prepared.
        """
        self._check_copying(image)
        began_ns = self._now_ns()
        self._take()
        scanned_ns = self._now_ns()
        if self.current != NONE and not len(self._written):
            self.sequence = sequence
            return None
        target = self.images[image]
        pages = self._uncopied.pages()
        copy_pages(self.tracker.source, target.words, pages)
        self._uncopied.clear()
        self._last_epoch += 1
        stamp = Stamp(State.COMPLETE, self._last_epoch, sequence, history, scanned_ns)
        write_stamp(target, stamp)
        self._cut = SyncRecord(
            image=image,
            epoch=stamp.epoch,
            sequence=sequence,
            history=history,
            time_ns=scanned_ns,
            pages=pages.size,
            precopied_pages=self._precopied_pages,
            levelled_pages=self._levelled_pages,
            protected_pages=self._protected_pages,
            epoch_pages=len(self._written),
            scan_ns=scanned_ns - began_ns,
            pause_ns=self._now_ns() - began_ns,
        )
        with self._lock:
            self._written, self._cut_pages = self._cut_pages, self._written
        return self._cut

    def commit(self, image: int) -> None:
        """The image that was cut is the current one from now on, however long ago that was."""
        self._check_filling(image)
        if self._cut is None:
            raise ValueError(f"image {image} was not cut")
        with self._lock:
            # Unordered, since sorting takes longest of all this.
            pages = self._cut_pages.unordered()
            # The first image has all pages, which says nothing about the next ones.
            self._epoch_pages = pages.size if self.current != NONE else 0
            self.current, self.epoch = image, self._cut.epoch
            self.sequence = self._cut.sequence
            self._add_to_missing(pages)
            for changed in self._changed.values():
                changed.add(pages)
            self._missing[image].clear()
            self._cut_pages.clear()
            self._filling, self._cut = NONE, None

    def abort(self, image: int) -> None:
        """Give this sync up, wherever it stands. What it took is not lost: see A and B above."""
        self._check_filling(image)
        with self._lock:
            self._written.add(self._cut_pages.unordered())
            self._cut_pages.clear()
            self._uncopied.clear()
            self._filling, self._cut = NONE, None

    def changed(self, slot: int) -> Pages | None:
        """Pages that the current image may have otherwise than the image that was current when this
        was last asked for `slot`; in no order. None the first time: any page may be.

        For whoever keeps copies of images elsewhere, in slots; belongs to the owner. Counts from
        the current image on.
        """
        if slot not in self._changed:
            self._changed[slot] = PageSet(self.region.page_count)
            return None
        pages = self._changed[slot].unordered().copy()
        self._changed[slot].clear()
        return pages

    def forget_changes(self, slot: int) -> None:
        """What was last asked for `slot` came to nothing: the next answer is None again."""
        self._changed.pop(slot, None)

    def differences(self, image: int) -> Pages:
        """Pages on which `image` and the region differ: a full comparison, for checks and tests."""
        parts = [self._unequal(self.images[image], extent) for extent in self._extents]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)

    def _unequal(self, image: Region, extent: Extent) -> Pages:
        out = np.empty(extent.page_count, dtype=np.int64)
        rows = extent_array([extent])
        count = compare_written(self.region.words, image.words, rows, False, out.size, out)
        return out[:count]

    def _take(self) -> Pages:
        try:
            pages = self.tracker.take()
            self._protected_pages += self.tracker.protected_pages
        except TrackingLost as lost:
            pages = self._begin_anew(lost)
            self._protected_pages += pages.size
        self._taken_ns = self._now_ns()
        with self._lock:
            self._written.add(pages)
            self._uncopied.add(pages)
            # They are in `pages`; should tracking have changed hands meanwhile, they still count.
            self._uncopied.add(self._left.unordered())
            self._left.clear()
        return pages

    def _begin_anew(self, lost: TrackingLost) -> Pages:
        """Tracking was lost, so any page may have been written: track again, and copy them all."""
        self.lost_count += 1
        log.warning("%s: every allocated page is copied, and tracking starts again", lost)
        with self._tracking:
            try:
                # From here on writes are seen again; all before is in what we return.
                self.tracker.start()
            except TrackingUnavailable as reason:
                self._compare_from_now_on(reason)
            pages = pages_of(self._extents)
            with self._lock:
                self._add_to_missing(pages)
        return pages

    def _compare_from_now_on(self, reason: TrackingUnavailable) -> None:
        log.error("written pages are found by comparing from now on, which is slow: %s", reason)
        tracker = CompareTracker(self.region)
        for extent in self._extents:
            tracker.track(extent)
        tracker.start()
        self.tracker.stop()
        self.tracker = tracker

    def _add_to_missing(self, pages: Pages) -> None:
        """Every image but the current one lacks `pages`."""
        for number, missing in enumerate(self._missing):
            if number != self.current:
                missing.add(pages)

    def _check_filling(self, image: int) -> None:
        if image == NONE or image != self._filling:
            raise ValueError(f"image {image} is not being filled")

    def _check_copying(self, image: int) -> None:
        self._check_filling(image)
        if self._cut is not None:
            raise ValueError(f"image {image} was cut already")
