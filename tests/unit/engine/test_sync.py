"""The syncer over a real mirror, with a clock that the test moves."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from diptych.engine.helper import Helper
from diptych.engine.sync import (
    INLINE_PAGES_MAX,
    WANTED_MAX,
    Event,
    Pinned,
    Published,
    Syncer,
    SyncSettings,
)
from diptych.engine.sync_policy import DELAY_MS_MAX, FAULT_NS, REFILL_NS
from diptych.memory import (
    NONE,
    Extent,
    KernelTracker,
    Mirror,
    Region,
    newest_complete,
    read_stamp,
    restore,
)

MS = 1_000_000
PAGES = 1024
HISTORY = 99


class Bench:
    """A region, its mirror and a syncer; `now_ns` is the clock."""

    def __init__(self, images: int = 3, unknown: tuple[str, ...] = (), **settings: float) -> None:
        self.region = Region.create(PAGES * 4096)
        self.images = [Region.create(PAGES * 4096) for _ in range(images)]
        self.tracker = KernelTracker(self.region)
        self.tracker.start()
        self.mirror = Mirror(self.region, self.tracker, self.images)
        self.mirror.add_extent(Extent(1, 64))
        self.now_ns = 0
        self.not_run_ns = 0  # of that, what other processes had in this one's place
        self.sequence = 0
        self.ticket = self.durable = 0  # of a log that has no record yet
        chosen = SyncSettings(images=images, **settings)  # type: ignore[arg-type]  # numbers
        self.syncer = Syncer(
            self.mirror,
            chosen,
            unknown=unknown,
            now_ns=lambda: self.now_ns,
            spent_ns=lambda: self.now_ns - self.not_run_ns,
        )

    def close(self) -> None:
        self.syncer.close()
        self.tracker.stop()
        for memory in (self.region, *self.images):
            memory.close()

    def write(self, *pages: int) -> None:
        """One transaction."""
        self.sequence += 1
        for page in pages or (1,):
            self.region.words[page * 512] += 1

    def step(self) -> list[Event]:
        """Step until nothing more happens at this moment of the clock."""
        events: list[Event] = []
        for _ in range(100):
            events += self.syncer.step(self.sequence, HISTORY, self.ticket, self.durable)
            wait_ns = self.syncer.wait_ns(self.sequence)
            if wait_ns is None and self.syncer._helper.busy:
                select.select([self.syncer.wakeup_fd], [], [], 10)
            elif wait_ns != 0:
                return events
        raise AssertionError("the syncer has something to do for ever")

    def after(self, ms: float) -> list[Event]:
        self.now_ns += round(ms * MS)
        return self.step()

    def published(self, ms: float = 0) -> Published:
        events = self.after(ms)
        assert len(events) == 1
        assert isinstance(events[0], Published)
        assert self.mirror.differences(events[0].image).tolist() == []
        return events[0]


@pytest.fixture
def make() -> Iterator[Callable[..., Bench]]:
    benches: list[Bench] = []

    def create(*arguments: object, **settings: object) -> Bench:
        benches.append(Bench(*arguments, **settings))  # type: ignore[arg-type]  # passed on
        return benches[-1]

    yield create
    for bench in benches:
        bench.close()


@pytest.fixture
def bench(make: Callable[..., Bench]) -> Bench:
    """One image is out already, at sequence 0."""
    bench = make()
    bench.published()
    return bench


def test_the_first_image_comes_at_once(make: Callable[..., Bench]) -> None:
    bench = make()
    assert bench.syncer.wait_ns(0) == 0
    first = bench.published()
    assert (first.sequence, first.history, first.epoch) == (0, HISTORY, 1)
    assert bench.syncer.published == first


def test_a_query_does_not_wait_for_time_that_another_process_took(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Put aside in the middle of each part of a sync, for as long as it takes to be noticed."""
    for name in ("level", "cut", "commit"):
        part = getattr(bench.mirror, name)

        def put_aside(*arguments: object, part: Callable[..., object] = part) -> object:
            bench.now_ns += 800 * MS
            bench.not_run_ns += 800 * MS
            return part(*arguments)

        monkeypatch.setattr(bench.mirror, name, put_aside)
    bench.write(5)
    bench.syncer.wanted(1)
    bench.published()
    bench.write(6)
    bench.syncer.wanted(2)
    later_ns = bench.syncer.wait_ns(bench.sequence)
    assert later_ns is not None
    assert later_ns < 10 * MS, "only what the pages cost"
    assert bench.published(ms=10).sequence == 2


def test_a_query_waits_for_a_bounded_time_after_the_slowest_sync(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = bench.mirror.cut

    def slow(*arguments: int) -> object:
        bench.now_ns += 60_000 * MS
        return cut(*arguments)

    monkeypatch.setattr(bench.mirror, "cut", slow)
    bench.write(5)
    bench.published(ms=10)
    bench.write(6)
    bench.syncer.wanted(2)
    assert bench.step() == []
    assert bench.published(ms=DELAY_MS_MAX).sequence == 2


def test_an_image_is_not_published_before_it_is_durable(bench: Bench) -> None:
    before = bench.syncer.published
    bench.syncer.joined("reader")
    bench.write(5)
    bench.ticket = 7
    assert bench.after(10) == []
    assert bench.syncer.wait_ns(bench.sequence) is None, "news of the log are what it waits for"
    bench.durable = 6
    assert bench.after(1) == []
    assert bench.syncer.published == before
    assert bench.syncer.joined("another") == before
    bench.durable = 7
    bench.now_ns += 1 * MS
    (event,) = bench.step()
    assert isinstance(event, Published)
    assert (event.sequence, event.pages, event.epoch) == (1, 1, 2)
    assert event.time_ns > 0
    assert bench.mirror.current == event.image
    statistics = bench.syncer.statistics()
    assert statistics["gated"] == {"waits": 1, "last_us": 2000.0}
    assert statistics["syncs"] == 2


def test_what_runs_while_an_image_waits_is_not_in_it(bench: Bench) -> None:
    bench.write(5)
    bench.ticket = 1
    assert bench.after(10) == []
    shown = bench.region.words.copy()
    events: list[Event] = []
    for page in range(6, 12):
        bench.write(5, page)
        bench.ticket += 1
        bench.syncer.wanted(bench.sequence)
        events += bench.after(20)
    assert events == [], "one image waits; there is no other cut meanwhile"
    bench.durable = 1
    (first,) = bench.syncer.step(bench.sequence, HISTORY, bench.ticket, bench.durable)
    assert isinstance(first, Published)
    assert first.sequence == 1
    assert np.array_equal(bench.images[first.image].words[512 : 64 * 512], shown[512 : 64 * 512])
    assert bench.step() == [], "the next one is cut, and waits"
    assert bench.syncer.wait_ns(bench.sequence) is None
    bench.durable = bench.ticket
    second = bench.published()
    assert (second.sequence, second.epoch) == (7, first.epoch + 1)
    assert bench.after(1000) == []
    assert bench.syncer.wait_ns(bench.sequence) is None, "idle again"


def test_what_is_durable_already_is_published_in_the_same_step(bench: Bench) -> None:
    bench.write(5)
    bench.ticket = bench.durable = 9
    assert bench.published(10).sequence == 1
    assert bench.syncer.statistics()["gated"] == {"waits": 0, "last_us": 0.0}


def test_a_transaction_that_wrote_nothing_is_not_told_before_it_is_durable(bench: Bench) -> None:
    before = bench.syncer.published
    assert before is not None
    bench.sequence += 1
    bench.ticket = 1
    bench.syncer.wanted(1)
    assert bench.after(10) == []
    assert bench.syncer.published == before
    bench.write(5)
    bench.ticket = 2
    assert bench.after(10) == []
    bench.durable = 1
    (told,) = bench.syncer.step(bench.sequence, HISTORY, bench.ticket, bench.durable)
    assert isinstance(told, Published)
    assert (told.image, told.epoch, told.sequence, told.pages) == (before.image, 1, 1, 0)
    bench.durable = 2
    assert bench.published(10).sequence == 2


def test_a_writer_that_takes_over_has_the_image_that_waited(bench: Bench) -> None:
    """The log has all that it shows: what is replayed begins behind it."""
    bench.write(5, 6)
    bench.ticket = 1
    assert bench.after(10) == []
    waiting = newest_complete(bench.images)
    assert waiting is not None
    assert waiting != bench.mirror.current
    stamp = read_stamp(bench.images[waiting])
    assert stamp is not None
    assert (stamp.sequence, stamp.epoch) == (1, 2)
    bench.write(7)
    region = Region.create(PAGES * 4096)
    restore(region, bench.images[waiting])
    assert [int(region.words[page * 512]) for page in (5, 6, 7)] == [1, 1, 0]
    region.close()


def test_a_query_that_waits_for_more_than_the_image_shows_goes_on_waiting(
    make: Callable[..., Bench],
) -> None:
    bench = make(max_duty=1.0)
    bench.published()
    bench.write(5)
    bench.ticket = 1
    assert bench.after(10) == []
    bench.write(6)
    bench.syncer.wanted(2)
    bench.durable = 1
    (event,) = bench.step()
    assert isinstance(event, Published)
    assert event.sequence == 1
    assert bench.published(0.1).sequence == 2, "before the interval is over"


@pytest.mark.parametrize("seed", range(5))
def test_a_log_that_lags_never_shows_in_an_image(make: Callable[..., Bench], seed: int) -> None:
    """Random lags, growth, advances: what is published is durable, and is what the region was."""
    bench = make(3, interval_ms=1, max_duty=1.0)
    random = np.random.default_rng(seed)
    bench.published()
    bench.syncer.joined("reader")
    stop = 64
    tickets, regions = {0: 0}, {}  # by sequence
    held: list[Published] = []
    shown: list[int] = []
    for step in range(400):
        match random.integers(0, 5):
            case 0 | 1:
                bench.write(*random.integers(1, stop, 4).tolist())
            case 2:
                bench.sequence += 1  # a transaction that wrote nothing
            case 3 if stop < 112:
                bench.mirror.add_extent(Extent(stop, stop + 1))
                stop += 1
        bench.ticket += bench.sequence not in tickets
        tickets.setdefault(bench.sequence, bench.ticket)
        regions[bench.sequence] = bench.region.words[512 : 112 * 512].tobytes()
        if random.random() < 0.4:
            bench.durable += int(random.integers(0, bench.ticket - bench.durable + 1))
        bench.now_ns += int(random.integers(0, MS))
        if step > 380:
            bench.durable = bench.ticket
            bench.now_ns += MS
        for event in bench.syncer.step(bench.sequence, HISTORY, bench.ticket, bench.durable):
            assert isinstance(event, Published)
            assert tickets[event.sequence] <= bench.durable
            content = bench.images[event.image].words[512 : 112 * 512].tobytes()
            assert content == regions[event.sequence]
            assert event.sequence > max(shown, default=0)
            shown.append(event.sequence)
            for before in held:
                if before.image != event.image:
                    bench.syncer.released("reader", before.image, before.epoch)
            held = [event]
    assert bench.sequence - 3 <= shown[-1]
    gated = bench.syncer.statistics()["gated"]
    assert isinstance(gated, dict)
    assert 10 < gated["waits"] < len(shown)


def test_a_slow_log_is_nobodys_fault(make: Callable[..., Bench]) -> None:
    bench = make(2, max_pin_ms=1000)
    first = bench.published()
    bench.syncer.joined("slow")
    bench.write(5)
    bench.ticket = 1
    assert bench.after(10) == []
    bench.write(6)
    assert bench.after(5000) == [], "no image is free, since one waits for the log"
    bench.durable = 1
    (event,) = bench.step()
    assert isinstance(event, Published)
    assert bench.after(999) == []
    assert bench.after(1) == [Pinned(first.image, first.epoch, ("slow",))]


def test_when_nothing_is_written_nothing_is_done(bench: Bench) -> None:
    assert bench.after(1000) == []
    assert bench.syncer.wait_ns(bench.sequence) is None


def test_writes_are_published_after_the_interval(bench: Bench) -> None:
    bench.write(5, 6)
    assert bench.after(1) == []
    assert bench.syncer.wait_ns(bench.sequence) == 9 * MS
    second = bench.published(9)
    assert (second.sequence, second.pages, second.epoch) == (1, 2, 2)
    assert second.image != 0


def test_a_query_that_waits_gets_a_sync_at_once(bench: Bench) -> None:
    bench.write()
    bench.syncer.wanted(1)
    assert bench.syncer.wait_ns(bench.sequence) == 0
    assert bench.published().sequence == 1
    bench.syncer.wanted(1)
    assert bench.after(0) == []


def test_a_query_waits_for_a_transaction_that_did_not_run_yet(bench: Bench) -> None:
    bench.syncer.wanted(2)
    bench.write()
    assert bench.after(1) == [], "a sync now would not end its wait"
    bench.write()
    assert bench.published().sequence == 2


def test_a_saturated_server_syncs_in_its_turn(bench: Bench) -> None:
    bench.write(*range(1, 41))
    bench.syncer.wanted(1)
    bench.published()
    bench.write()
    bench.syncer.wanted(2)
    # 40 pages cost 52 us of faults and 20 us of caches: at a tenth of the time, paid after 720 us.
    assert bench.syncer.wait_ns(bench.sequence) == 720_000
    assert bench.after(0.7) == []
    assert bench.published(0.03).sequence == 2


def test_far_too_many_waiting_queries_are_bounded(bench: Bench) -> None:
    for number in range(1, WANTED_MAX + 100):
        bench.syncer.wanted(number)
    assert len(bench.syncer._wanted) == WANTED_MAX
    bench.write()
    assert bench.published().sequence == 1


def test_a_transaction_that_wrote_nothing_is_told_without_copying(bench: Bench) -> None:
    before = bench.syncer.published
    assert before is not None
    bench.sequence += 1
    bench.syncer.wanted(1)
    told = bench.published()
    assert (told.image, told.epoch) == (before.image, before.epoch)
    assert (told.sequence, told.pages) == (1, 0)
    bench.write()
    bench.syncer.wanted(2)
    assert bench.published().epoch == before.epoch + 1


def test_an_image_in_use_is_not_written(make: Callable[..., Bench]) -> None:
    bench = make(max_duty=1.0)
    first = bench.published()
    assert bench.syncer.joined("gateway") == first
    content = bytes(bench.images[first.image].buffer)
    before: Published | None = None
    for _ in range(6):
        bench.write(*range(1, 9))
        event = bench.published(10)
        assert event.image != first.image
        assert bytes(bench.images[first.image].buffer) == content
        if before is not None:
            bench.syncer.released("gateway", before.image, before.epoch)
        before = event
    bench.syncer.released("gateway", first.image, first.epoch)
    images = set()
    for _ in range(2):
        bench.write()
        images.add(bench.published(10).image)
    assert first.image in images, "it is free again, and another one is held"


def test_without_a_free_image_it_waits_then_names_the_oldest_holder(
    make: Callable[..., Bench],
) -> None:
    bench = make(2, max_pin_ms=1000)
    first = bench.published()
    bench.syncer.joined("slow")
    bench.write()
    second = bench.published(10)
    bench.write()
    assert bench.after(10) == []
    wait_ns = bench.syncer.wait_ns(bench.sequence)
    assert wait_ns == 1000 * MS
    assert bench.after(999) == []
    assert bench.after(1) == [Pinned(first.image, first.epoch, ("slow",))]
    assert bench.after(999) == [], "said once"
    assert bench.after(1) == [Pinned(first.image, first.epoch, ("slow",))]
    assert bench.syncer.statistics()["pinned"] == 2
    # Late news of another epoch change nothing; the right ones do.
    bench.syncer.released("slow", first.image, second.epoch)
    assert bench.after(1) == []
    bench.syncer.released("slow", first.image, first.epoch)
    assert bench.published().image == first.image


def test_an_image_is_kept_for_as_long_as_it_takes(make: Callable[..., Bench]) -> None:
    """The one who keeps it has none but this, and is never named as the one to be stopped."""
    bench = make(2, max_pin_ms=1000)
    assert bench.syncer.keep("checkpointer", 1) is None
    first = bench.published()
    assert bench.syncer.keep("checkpointer", 1) == (first, None)
    bench.syncer.joined("gateway")
    bench.write(2)
    second = bench.published(10)
    bench.syncer.released("gateway", first.image, first.epoch)
    bench.write(3)
    for _ in range(3):
        assert bench.after(2000) == []
    assert bench.syncer.statistics()["pinned"] == 0
    bench.syncer.released("checkpointer", first.image, first.epoch)
    third = bench.published()
    assert third.image == first.image
    bench.syncer.released("gateway", second.image, second.epoch)
    kept = bench.syncer.keep("checkpointer", 1)
    assert kept is not None
    assert (kept[0], sorted(kept[1].tolist())) == (third, [2, 3])  # type: ignore[union-attr]  # known
    bench.syncer.left("checkpointer")
    bench.syncer.kept_in_vain(1)
    bench.write(4)
    bench.published(10)
    assert bench.syncer.keep("checkpointer", 1)[1] is None  # type: ignore[index]  # published


def test_blocked_with_nothing_new_is_no_reason_to_stop_anybody(make: Callable[..., Bench]) -> None:
    bench = make(2)
    bench.published()
    bench.syncer.joined("slow")
    bench.write()
    bench.published(10)
    assert bench.after(5000) == []
    assert bench.syncer.wait_ns(bench.sequence) is None


def test_a_holder_that_left_holds_nothing(make: Callable[..., Bench]) -> None:
    bench = make(2)
    bench.published()
    bench.syncer.joined("a")
    bench.write()
    bench.published(10)
    bench.write()
    assert bench.after(10) == []
    bench.syncer.left("a")
    bench.published()


def test_holders_of_an_earlier_life_must_answer_first(make: Callable[..., Bench]) -> None:
    bench = make(3, ("a", "b"))
    assert bench.step() == []
    bench.syncer.joined("a", [(1, 7)])
    assert bench.after(1) == []
    assert bench.after(1000) == [Pinned(NONE, 0, ("b",))]
    bench.syncer.left("b")
    for _ in range(4):
        event = bench.published(10)
        assert event.image != 1
        bench.syncer.released("a", event.image, event.epoch)
        bench.write()


def test_much_levelling_is_left_to_the_helper(make: Callable[..., Bench]) -> None:
    bench = make(2, max_duty=1.0)
    bench.mirror.add_extent(Extent(64, PAGES))
    bench.published()
    bench.write(*range(1, INLINE_PAGES_MAX + 10))
    bench.published(10)
    assert bench.syncer.step(bench.sequence, HISTORY) == []
    events = bench.after(10)
    assert events == []
    bench.write(3)
    assert bench.published(10).pages == 1


def test_a_long_pause_is_prevented_by_copying_ahead(make: Callable[..., Bench]) -> None:
    bench = make(max_pause_ms=0.1, max_duty=1.0)
    bench.mirror.add_extent(Extent(64, PAGES))
    first = bench.published()
    assert first.pages == 0, "all of the first image was copied ahead"
    bench.write(*range(1, 900))
    second = bench.published(10)
    bench.write(*range(1, 900))
    third = bench.published(10)
    assert (second.pages, third.pages) == (899, 0)


def test_the_writers_time_is_accounted(bench: Bench) -> None:
    for _ in range(5):
        bench.write(*range(1, 11))
        bench.published(10)
    statistics = bench.syncer.statistics()
    assert statistics["syncs"] == 6
    assert statistics["tracker"] == "kernel"
    assert statistics["tracking_lost"] == 0
    assert statistics["pages_per_sync"] == {"p50": 10.0, "p90": 36.5, "p99": 60.4, "max": 63.0}
    # 5 syncs of 10 pages in 50 ms; the first one, of 63 that were not protected, is for nothing.
    cost_ns = 50 * (FAULT_NS + REFILL_NS)
    assert statistics["writer_time_share"] == pytest.approx(cost_ns / (50 * MS), abs=1e-4)


def test_lost_tracking_is_counted(bench: Bench) -> None:
    bench.write(4)
    bench.tracker.stop()
    bench.published(10)
    assert bench.syncer.statistics()["tracking_lost"] == 1


def test_step_never_waits_for_the_helper(make: Callable[..., Bench]) -> None:
    bench = make(2, max_duty=1.0)
    bench.mirror.add_extent(Extent(64, PAGES))
    bench.published()
    go = threading.Event()
    level = bench.mirror.level

    def slow_level(image: int) -> None:
        assert go.wait(10)
        level(image)

    bench.mirror.level = slow_level  # type: ignore[method-assign]  # a seam
    bench.write(*range(1, PAGES))
    bench.now_ns += 10 * MS
    assert len(bench.syncer.step(bench.sequence, HISTORY)) == 1
    bench.write()
    bench.now_ns += 10 * MS
    for _ in range(3):
        assert bench.syncer.step(bench.sequence, HISTORY) == []
        assert bench.syncer.wait_ns(bench.sequence) is None
    assert select.select([bench.syncer.wakeup_fd], [], [], 0)[0] == []
    go.set()
    assert select.select([bench.syncer.wakeup_fd], [], [], 10)[0] != []
    bench.published()


def test_what_fails_in_the_helper_is_not_lost(make: Callable[..., Bench]) -> None:
    bench = make(2, max_duty=1.0)
    bench.mirror.add_extent(Extent(64, PAGES))
    bench.published()

    def fail(image: int) -> None:
        raise MemoryError("in the helper")

    bench.mirror.level = fail  # type: ignore[method-assign]  # a seam
    bench.write(*range(1, PAGES))
    with pytest.raises(MemoryError, match="in the helper"):
        bench.after(10)


def test_the_helper_ends_when_it_is_closed() -> None:
    before = threading.active_count()
    helper = Helper("test")
    done = []
    helper.submit(lambda: done.append(1))
    helper.close()
    assert done == [1]
    assert threading.active_count() == before


def test_images_are_right_while_the_writer_runs_on(make: Callable[..., Bench]) -> None:
    """Half a second of real time: batches, growth, holders that let go late."""
    bench = make(3, interval_ms=0.5, max_duty=0.9, max_pause_ms=0.05)
    bench.syncer.joined("reader")
    random = np.random.default_rng(5)
    held: list[tuple[int, int]] = []
    grown, count = 64, 0
    began = time.monotonic_ns()
    while (now := time.monotonic_ns() - began) < 500 * MS:
        bench.now_ns = now
        bench.write(*random.integers(1, grown, 40).tolist())
        if grown < PAGES and random.random() < 0.05:
            bench.mirror.add_extent(Extent(grown, grown + 16))
            grown += 16
        if random.random() < 0.3:
            bench.syncer.wanted(bench.sequence)
        for event in bench.syncer.step(bench.sequence, HISTORY):
            assert isinstance(event, Published)
            assert event.sequence == bench.sequence
            assert bench.mirror.differences(event.image).tolist() == []
            count += 1
            held = [h for h in held if h != (event.image, event.epoch)]
            if held and random.random() < 0.8:
                for image, epoch in held:
                    bench.syncer.released("reader", image, epoch)
                held = []
            held.append((event.image, event.epoch))
        if held[:-1] and random.random() < 0.1:
            for image, epoch in held[:-1]:
                bench.syncer.released("reader", image, epoch)
            held = held[-1:]
    assert count > 20
