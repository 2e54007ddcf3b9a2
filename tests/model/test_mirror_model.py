"""The mirror's set arithmetic on real memory: random schedules, and whole images compared.

A schedule writes pages again and again (few pages, so that they meet in every set), levels,
pre-copies while the owner writes on, abandons syncs, loses tracking, grows, and cuts. A cut may be
committed at once, or after any of the other steps. Each committed image must equal what the region
was at its cut, byte for byte. The obvious wrong rules run through the same schedules, and must be
caught. So are copies kept elsewhere, in two slots, by the pages alone that changed since a slot's
last one.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.memory import (
    NONE,
    CompareTracker,
    Extent,
    KernelTracker,
    Mirror,
    Region,
    SyncRecord,
)
from diptych.memory.hot_pages import HotPages
from diptych.memory.layout import Pages
from diptych.memory.page_set import PageSet

PAGES = 28
FIRST_EXTENT = Extent(1, 15)
Choose = Callable[[int], int]  # a number from 0 up to, but not including, its argument
STEPS = (
    "write",
    "write",
    "write",
    "back",
    "level",
    "precopy",
    "abort",
    "sync",
    "sync",
    "cut",
    "commit",
    "copy",
    "copy",
    "grow",
    "lose",
)


class LastTakeMirror(Mirror):
    """Wrong: images are told to lack only what the last take brought."""

    def _take(self) -> Pages:
        self.last = super()._take()
        return self.last

    def commit(self, image: int) -> None:
        self._cut_pages.clear()
        self._cut_pages.add(self.last)
        super().commit(image)


class ThisSyncMirror(Mirror):
    """Wrong: a sync that is abandoned forgets what it took."""

    def abort(self, image: int) -> None:
        super().abort(image)
        self._written.clear()


class LevelFromRegionMirror(Mirror):
    """Wrong: levelling reads the region and calls a page level that is written again meanwhile."""

    def level(self, image: int) -> None:
        super().level(image)
        pages = self._missing[image].pages()
        self._missing[image].clear()
        self._uncopied.discard(pages)


class ForgetfulCutMirror(Mirror):
    """Wrong: the cut copies what it took itself, not what an earlier sync took and left."""

    def cut(self, image: int, sequence: int, history: int) -> SyncRecord | None:
        self._uncopied = PageSet(PAGES)
        return super().cut(image, sequence, history)


class OneSetMirror(Mirror):
    """Wrong: the commit takes all that is known by then for what the cut copied."""

    def commit(self, image: int) -> None:
        self._cut_pages.add(self._written.pages())
        self._written.clear()
        super().commit(image)


class ForgottenCutMirror(Mirror):
    """Wrong: a cut that is abandoned is taken for one that never took anything."""

    def abort(self, image: int) -> None:
        self._cut_pages.clear()
        super().abort(image)


class UncutPagesMirror(Mirror):
    """Wrong: what the cut set aside for its commit does not reach the other images."""

    def commit(self, image: int) -> None:
        self._cut_pages.clear()
        super().commit(image)


class HotTracker(KernelTracker):
    """As servers use it: pages that are written all the time are left unprotected."""

    def __init__(self, region: Region) -> None:
        super().__init__(region, leave_hot=True)


class ForgottenHotTracker(HotTracker):
    """Wrong: what was left unprotected is not reported."""

    def _take_leaving_hot(self, known: HotPages) -> Pages:
        pages = super()._take_leaving_hot(known)
        return pages[~np.isin(pages, known._hot)]


class Schedule:
    """One region and its mirror, driven by the numbers that `choose` gives."""

    def __init__(
        self,
        choose: Choose,
        mirror_kind: type[Mirror] = Mirror,
        tracker_kind: type[KernelTracker] | type[CompareTracker] = KernelTracker,
    ) -> None:
        self.choose = choose
        self.region = Region.create(PAGES * 4096)
        self.images = [Region.create(PAGES * 4096) for _ in range(2 + choose(3))]
        self.tracker = tracker_kind(self.region)
        self.tracker.start()
        self.take = self.tracker.take
        self.tracker.take = self.take_and_write_on  # type: ignore[method-assign]  # a seam
        self.standing_still = False
        # A clock of its own: how many rounds a pre-copy makes must not depend on the machine.
        clock = itertools.count()
        self.mirror = mirror_kind(
            self.region, self.tracker, self.images, now_ns=lambda: next(clock)
        )
        self.mirror.add_extent(FIRST_EXTENT)
        self.grown = FIRST_EXTENT.stop
        # What the region was at a cut that is not committed yet.
        self.at_cut: bytes | None = None
        self.value = 1
        self.wrong = 0
        self.compared = 0
        self.copies = [np.zeros(PAGES * 512, np.int64) for _ in range(2)]
        self.copied_pages = [0, 0]  # how many each has, the stamp left out: extents grow at the end
        self.stale = 0

    def run(self, steps: int) -> Schedule:
        for _ in range(steps):
            getattr(self, STEPS[self.choose(len(STEPS))])()
        self.sync()
        return self

    def take_and_write_on(self) -> Pages:
        """The owner does not wait for a take that is not a cut's: it writes before the copying."""
        pages = self.take()
        if not self.standing_still:
            for _ in range(self.choose(3)):
                (self.write, self.back)[self.choose(2)]()
        return pages

    def close(self) -> None:
        self.mirror.tracker.stop()
        for memory in (self.region, *self.images):
            memory.close()

    def write(self) -> None:
        page = 1 + self.choose(self.grown - 1)
        self.value += 1
        self.region.words[page * 512 + self.choose(512)] = self.value

    def back(self) -> None:
        """A page gets the bytes it has in some image: what comparing alone does not see."""
        page = 1 + self.choose(self.grown - 1)
        part = slice(page * 512, page * 512 + 512)
        self.region.words[part] = self.images[self.choose(len(self.images))].words[part]

    def level(self) -> None:
        if self.mirror.filling == NONE:
            free = [i for i in range(len(self.images)) if i != self.mirror.current]
            self.mirror.level(free[self.choose(len(free))])

    def precopy(self) -> None:
        if self.mirror.filling != NONE and self.at_cut is None:
            self.mirror.precopy(self.mirror.filling, self.choose(4))

    def abort(self) -> None:
        if self.mirror.filling != NONE:
            if self.choose(2):
                self.cut()
            self.mirror.abort(self.mirror.filling)
            self.at_cut = None

    def cut(self) -> None:
        """Not committed yet. If nothing was written, the current image must show this instant."""
        if self.mirror.filling == NONE or self.at_cut is not None:
            return
        self.standing_still = True
        record = self.mirror.cut(self.mirror.filling, self.mirror.sequence + 1, 1)
        self.standing_still = False
        now = self.content(self.region)
        if record is None:
            self.compare(self.mirror.current, now)
        else:
            self.at_cut = now

    def commit(self) -> None:
        if self.at_cut is not None:
            image = self.mirror.filling
            self.mirror.commit(image)
            self.compare(image, self.at_cut)
            self.at_cut = None

    def sync(self) -> None:
        self.commit()
        self.level()
        self.cut()
        self.commit()

    def content(self, memory: Region) -> bytes:
        """Not by the mirror's own comparison: every byte of what is allocated."""
        return memory.words[512 : self.grown * 512].tobytes()

    def compare(self, image: int, expected: bytes) -> None:
        self.compared += 1
        self.wrong += self.content(self.images[image])[: len(expected)] != expected

    def copy(self) -> None:
        """Bring one of the copies up to the current image. It knows what it had."""
        if self.mirror.current == NONE:
            return
        slot, image = self.choose(2), self.images[self.mirror.current].words
        if self.choose(10) == 0:
            self.mirror.forget_changes(slot)
        pages = self.mirror.changed(slot)
        whole = np.arange(1, self.grown)
        new = whole if pages is None else np.append(pages, whole[self.copied_pages[slot] :])
        self.copied_pages[slot] = whole.size
        for page in new.tolist():
            part = slice(page * 512, page * 512 + 512)
            self.copies[slot][part] = image[part]
        part = slice(512, self.grown * 512)
        self.stale += not np.array_equal(self.copies[slot][part], image[part])

    def grow(self) -> None:
        if self.grown < PAGES and self.choose(2):
            if self.choose(2):  # the owner may have written before it asks
                self.value += 1
                self.region.words[self.grown * 512 + self.choose(512)] = self.value
            self.mirror.add_extent(Extent(self.grown, self.grown + 1))
            self.grown += 1

    def lose(self) -> None:
        if self.choose(8) == 0:
            self.mirror.tracker.stop()


@pytest.mark.parametrize("tracker_kind", [KernelTracker, HotTracker, CompareTracker])
@settings(max_examples=150)
@given(data=st.data(), steps=st.integers(1, 60))
def test_every_image_equals_the_region(
    tracker_kind: type[KernelTracker], data: st.DataObject, steps: int
) -> None:
    schedule = Schedule(lambda n: data.draw(st.integers(0, n - 1)), Mirror, tracker_kind)
    schedule.run(steps)
    schedule.close()
    assert (schedule.wrong, schedule.stale) == (0, 0)


def wrong_and_stale(
    kind: type[Mirror], tracker_kind: type[KernelTracker], schedules: int
) -> tuple[int, int]:
    """Images that are not the region, and copies that are not the image."""
    wrong = stale = 0
    for seed in range(schedules):
        schedule = Schedule(random.Random(seed).randrange, kind, tracker_kind).run(120)
        schedule.close()
        wrong += schedule.wrong
        stale += schedule.stale
    return wrong, stale


@pytest.mark.parametrize("tracker_kind", [KernelTracker, HotTracker, CompareTracker])
def test_long_schedules_with_the_right_rule(tracker_kind: type[KernelTracker]) -> None:
    assert wrong_and_stale(Mirror, tracker_kind, 60) == (0, 0)


@pytest.mark.parametrize(
    "kind",
    [
        LastTakeMirror,
        ThisSyncMirror,
        LevelFromRegionMirror,
        ForgetfulCutMirror,
        OneSetMirror,
        ForgottenCutMirror,
        UncutPagesMirror,
    ],
)
def test_the_wrong_rules_are_caught(kind: type[Mirror]) -> None:
    assert wrong_and_stale(kind, KernelTracker, 30)[0] > 0


def test_a_hot_page_that_is_not_reported_is_caught() -> None:
    assert wrong_and_stale(Mirror, ForgottenHotTracker, 30)[0] > 0


class MissingForChangedMirror(Mirror):
    """Wrong: a copy is told what some image lacked, as if that were what changed for the copy."""

    def changed(self, slot: int) -> Pages | None:
        pages = super().changed(slot)
        return None if pages is None else self._missing[slot].pages()


def test_a_wrong_rule_for_copies_is_caught() -> None:
    wrong, stale = wrong_and_stale(MissingForChangedMirror, KernelTracker, 30)
    assert (wrong, stale > 0) == (0, True)
