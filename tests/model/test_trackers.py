"""Both trackers against a model: sets of written pages, kept beside random writes and calls."""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from diptych.memory import CompareTracker, Extent, KernelTracker, PageTracker, Region

PAGES = 24
pages = st.integers(1, PAGES - 1)


class TrackerMachine(RuleBasedStateMachine):
    """The kernel's tracker reports pages written; the compare tracker, pages that differ."""

    kind: type[KernelTracker] | type[CompareTracker]

    @initialize()
    def open(self) -> None:
        self.region = Region.create(PAGES * 4096)
        self.tracker: PageTracker = self.kind(self.region)
        self.tracked: set[int] = set()
        self.on = False
        self.written: set[int] = set()
        self.before = bytearray(self.region.size_bytes)

    def teardown(self) -> None:
        if hasattr(self, "tracker"):
            self.tracker.stop()
            self.region.close()

    @rule(start=pages, size=st.integers(1, 6))
    def track(self, start: int, size: int) -> None:
        extent = Extent(start, min(start + size, PAGES))
        fresh = set(range(*extent))
        if fresh & self.tracked:
            return
        self.tracker.track(extent)
        self.tracked |= fresh
        self.forget(fresh)

    @rule()
    def start(self) -> None:
        self.tracker.start()
        self.on = True
        self.forget(self.tracked)

    @rule()
    def stop(self) -> None:
        self.tracker.stop()
        self.on = False

    @rule(page=pages, at=st.integers(0, 511), value=st.integers(-3, 3))
    def write(self, page: int, at: int, value: int) -> None:
        self.region.words[page * 512 + at] = value
        if self.on:
            self.written.add(page)

    @rule(first=pages, count=st.integers(1, 10), value=st.integers(0, 3))
    def write_slice(self, first: int, count: int, value: int) -> None:
        last = min(first + count, PAGES)
        self.region.words[first * 512 : last * 512] = value
        if self.on:
            self.written |= set(range(first, last))

    @rule(limit=st.none() | st.integers(0, PAGES))
    def ask(self, limit: int | None) -> None:
        expected = self.expected() if self.on else []
        assert self.tracker.written(limit).tolist() == expected[:limit]

    @precondition(lambda self: self.on)
    @rule()
    def take(self) -> None:
        assert self.tracker.take().tolist() == self.expected()
        self.forget(self.tracked)

    @rule()
    def clear(self) -> None:
        self.tracker.clear()
        self.forget(self.tracked)

    def expected(self) -> list[int]:
        if self.kind is KernelTracker:
            return sorted(self.written & self.tracked)
        now = np.frombuffer(self.region.buffer, dtype=np.int64).reshape(PAGES, 512)
        before = np.frombuffer(self.before, dtype=np.int64).reshape(PAGES, 512)
        differing = np.flatnonzero((now != before).any(axis=1)).tolist()
        return sorted(set(differing) & self.tracked)

    def forget(self, pages: set[int]) -> None:
        self.written -= pages
        for page in pages:
            part = slice(page * 4096, page * 4096 + 4096)
            self.before[part] = self.region.buffer[part]


class KernelMachine(TrackerMachine):
    kind = KernelTracker


class CompareMachine(TrackerMachine):
    kind = CompareTracker


TestKernelTracker = KernelMachine.TestCase
TestKernelTracker.settings = settings(max_examples=80, stateful_step_count=40)
TestCompareTracker = CompareMachine.TestCase
TestCompareTracker.settings = settings(max_examples=80, stateful_step_count=40)
