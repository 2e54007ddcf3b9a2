"""The writer's side of the mirror: between batches, move the next sync one step further.

A sync goes through stages. Levelling an image happens early, as soon as one is free, so that when
a sync is due only the cut is left; copying ahead of the pause happens when the pause would be too
long. Both run in a helper thread. The exception is a levelling of few pages, done on the spot:
handing it over costs the writer as much (waking a thread, then sharing the interpreter lock with
it), and on an idle server it would add that thread's latency to a query that waits.

What an image shows must be safe before anybody sees it, or an answer could be of something that
never happened. So an image that was cut waits, whole and unpublished, until the log's ticket of
that moment is durable; the writer goes on meanwhile, and at most one image waits. The same goes for
news that the current image shows a later transaction as well. A writer
that takes over may go on from it: the log has all of it, if not on the disk yet.

`step` never waits, for a holder, the helper or the log; what it does to the writer is the pause and
no more. It returns events, and the caller tells the holders. An image that was published is held by
every holder that had joined by then, until that holder lets go of that image at that epoch.
Holders do not let go of the current image: the next publication is what ends their use of it.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple, TypeAlias

from sortedcontainers import SortedSet

from diptych.engine.helper import Helper
from diptych.engine.sync_policy import SyncPolicy, SyncSettings
from diptych.engine.sync_statistics import SyncStatistics
from diptych.memory import NONE, Holder, Holds, Mirror, SyncRecord, read_stamp
from diptych.memory.layout import Pages

__all__ = ["Event", "Pinned", "Published", "SyncPolicy", "SyncSettings", "Syncer"]

INLINE_PAGES_MAX = 128  # about 100 us of copying
WANTED_MAX = 4096  # more than that are served by the interval anyway
NEVER = 1 << 63
"""Above every number of a transaction."""
_MS = 1_000_000


class Published(NamedTuple):
    """`image` shows transaction `sequence`, as of CLOCK_MONOTONIC `time_ns`, to all readers.

    With `pages` 0 it is the image they have: nothing was written since, so it shows this as well.
    """

    image: int
    epoch: int
    sequence: int
    history: int
    time_ns: int
    pages: int
    pause_ns: int


class Pinned(NamedTuple):
    """No image was free for `max_pin_ms`: whoever looks at this one for `holders` must be stopped.

    With `image` NONE, `holders` never said what they hold.
    """

    image: int
    epoch: int
    holders: tuple[Holder, ...]


Event: TypeAlias = Published | Pinned


class _Stage(enum.Enum):
    IDLE = "no image is being filled"
    LEVELLING = "the helper brings an image up to the current one"
    LEVEL = "that is done; waiting until a sync is due"
    PRECOPYING = "the helper copies ahead of the pause"
    READY = "only the cut is left"
    GATED = "what was cut waits until it is durable"


class _Cut(NamedTuple):
    """What waits to be published. `record` None: that the current image shows this as well."""

    record: SyncRecord | None
    sequence: int
    history: int
    ticket: int  # of the log: all up to it must be durable
    waits: bool  # whether that was not so at once
    began_ns: int
    ended_ns: int
    cost_ns: int


class Syncer:
    """Used by the writer's one thread, between batches. `unknown` holders were there before it.

    With an image that is current already, which a writer before made, that one counts as published;
    its number is of `history` then. `now_ns` says when things are, `spent_ns` how much time of a
    processor this thread had: while another process ran in its place, a sync cost nothing.
    """

    def __init__(
        self,
        mirror: Mirror,
        settings: SyncSettings,
        *,
        unknown: Iterable[Holder] = (),
        history: int = 0,
        now_ns: Callable[[], int] = time.monotonic_ns,
        spent_ns: Callable[[], int] = time.thread_time_ns,
    ) -> None:
        self._mirror = mirror
        self._settings = settings
        self._now_ns, self._spent_ns = now_ns, spent_ns
        self._policy = SyncPolicy(settings, now_ns())
        self._statistics = SyncStatistics(now_ns())
        self._holds = Holds(unknown)
        self._joined: set[Holder] = set()
        self._keeping: set[Holder] = set()
        self._wanted: SortedSet[int] = SortedSet()
        self._first_wanted = NEVER
        self._published = self._inherited(history)
        self._helper = Helper("diptych-sync")
        self._stage = _Stage.IDLE
        self._image = NONE
        self._gated: _Cut | None = None
        self._blocked_since_ns: int | None = None

    def _inherited(self, history: int) -> Published | None:
        """What readers have from the writer before, so that nobody waits for the first sync."""
        mirror = self._mirror
        if mirror.current == NONE:
            return None
        stamp = read_stamp(mirror.images[mirror.current])
        assert stamp is not None
        return Published(mirror.current, stamp.epoch, stamp.sequence, history, stamp.time_ns, 0, 0)

    @property
    def wakeup_fd(self) -> int:
        """Readable when the helper is done, so that `step` should be called."""
        return self._helper.fd

    @property
    def published(self) -> Published | None:
        """What readers have now."""
        return self._published

    def close(self) -> None:
        """End the helper thread, after the job it has."""
        self._helper.close()

    def wanted(self, sequence: int) -> None:
        """A query waits until `sequence` is published."""
        if self._published is None or sequence > self._published.sequence:
            self._wanted.add(sequence)
            if len(self._wanted) > WANTED_MAX:
                self._wanted.pop()
            self._first_wanted = self._wanted[0]

    def joined(self, holder: Holder, held: Iterable[tuple[int, int]] = ()) -> Published | None:
        """`holder` is there, and holds these (image, epoch). Returns what to tell it first, if any.

        From here on it holds what is published, beginning with what this returns.
        """
        self._holds.answered(holder, held)
        self._joined.add(holder)
        if self._published is not None:
            self._holds.acquire(holder, self._published.image, self._published.epoch)
        return self._published

    def keep(self, holder: Holder, slot: int) -> tuple[Published, Pages | None] | None:
        """`holder` holds what is published, this image alone and for as long as it likes: it is
        never one of those that must be stopped. None when nothing is published yet.

        With it come the pages that `slot` lacks against it (`Mirror.changed`).
        """
        published, mirror = self._published, self._mirror
        if published is None or (published.image, published.epoch) != (
            mirror.current,
            mirror.epoch,
        ):
            return None
        self._keeping.add(holder)
        self._holds.acquire(holder, published.image, published.epoch)
        return published, mirror.changed(slot)

    def kept_in_vain(self, slot: int) -> None:
        """What was handed out for `slot` last was not used, or nobody knows."""
        self._mirror.forget_changes(slot)

    def released(self, holder: Holder, image: int, epoch: int) -> None:
        """`holder` looks at this image of this epoch no more; said too late, it changes nothing."""
        self._holds.release(holder, image, epoch)

    def left(self, holder: Holder) -> None:
        """`holder` and all processes that looked at images for it are gone (reaped)."""
        self._joined.discard(holder)
        self._keeping.discard(holder)
        self._holds.drop_holder(holder)

    def step(self, sequence: int, history: int, written: int = 0, durable: int = 0) -> list[Event]:
        """Do what is to be done now; `sequence` is the last transaction that ran.

        `written`, `durable`: tickets of the log, as they are now. All that ran so far is in the log
        up to `written`, and the log is safe up to `durable`. Without a log, both stay 0.
        """
        if self._stage is _Stage.LEVEL and not self._due(sequence):
            return []  # what most calls come to
        if not self._helper.finished():
            return []
        if self._stage is _Stage.LEVELLING:
            self._stage = _Stage.LEVEL
        elif self._stage is _Stage.PRECOPYING:
            self._stage = _Stage.READY
        if self._stage is _Stage.IDLE:
            image = self._free_image()
            if image == NONE:
                return self._pinned(sequence)
            self._level(image)
        if self._stage is _Stage.LEVEL and self._due(sequence):
            self._precopy_or_ready(sequence)
        if self._stage is _Stage.READY:
            self._cut(sequence, history, written, durable)
        if self._gated is not None and self._gated.ticket <= durable:
            return [self._publish(self._gated)]
        return []

    def wait_ns(self, sequence: int) -> int | None:
        """When `step` has something to do at the latest, from now; None: not before news arrive.

        News are: `sequence` moves on, a query waits, a holder lets go, `wakeup_fd` is readable, the
        log says that more of it is durable.
        """
        if self._helper.busy or self._stage is _Stage.GATED:
            return None
        if self._stage is _Stage.READY:
            return 0
        if self._stage is _Stage.IDLE:
            if self._free_image() != NONE:
                return 0
            if not self._news(sequence) or self._blocked_since_ns is None:
                return 0 if self._news(sequence) else None
            limit_ns = self._blocked_since_ns + round(self._settings.max_pin_ms * _MS)
            return max(0, limit_ns - self._now_ns())
        if not self._news(sequence):
            return None
        return self._policy.delay_ns(self._now_ns(), demanded=self._demanded(sequence))

    def statistics(self) -> dict[str, object]:
        """Counts since the start; times and shares over the last few thousand syncs."""
        result = self._statistics.summary(self._now_ns())
        result["tracker"] = self._mirror.tracker.name
        result["tracking_lost"] = self._mirror.lost_count
        return result

    def _news(self, sequence: int) -> bool:
        """Whether the current image does not show `sequence`."""
        return self._published is None or sequence != self._published.sequence

    def _demanded(self, sequence: int) -> bool:
        """Whether a sync now would end somebody's wait."""
        return self._published is None or self._first_wanted <= sequence

    def _due(self, sequence: int) -> bool:
        if not self._news(sequence):
            return False
        demanded = self._demanded(sequence)
        return self._policy.delay_ns(self._now_ns(), demanded=demanded) == 0

    def _free_image(self) -> int:
        """The image that nobody looks at and that lacks least; NONE if there is none."""
        mirror = self._mirror
        free = [
            image
            for image in range(len(mirror.images))
            if image != mirror.current and not self._holds.held(image)
        ]
        return min(free, key=mirror.missing_pages, default=NONE)

    def _level(self, image: int) -> None:
        self._blocked_since_ns = None
        self._image = image
        if self._mirror.missing_pages(image) > INLINE_PAGES_MAX:
            self._stage = _Stage.LEVELLING
            self._helper.submit(partial(self._mirror.level, image))
            return
        before_ns = self._spent_ns()
        self._mirror.level(image)
        cost_ns = self._policy.spent(self._now_ns(), self._spent_ns() - before_ns)
        self._statistics.cost(cost_ns)
        self._stage = _Stage.LEVEL

    def _precopy_or_ready(self, sequence: int) -> None:
        before = self._published.sequence if self._published else 0
        expected = self._policy.expected_pages(sequence - before) + self._mirror.uncopied_pages
        goal = self._policy.pages_goal
        if expected > goal:
            self._stage = _Stage.PRECOPYING
            self._helper.submit(partial(self._mirror.precopy, self._image, goal))
        else:
            self._stage = _Stage.READY

    def _cut(self, sequence: int, history: int, written: int, durable: int) -> None:
        began_ns, before_ns = self._now_ns(), self._spent_ns()
        self._policy.began(began_ns)
        record = self._mirror.cut(self._image, sequence, history)
        ended_ns = self._now_ns()
        protected_pages = copied_pages = 0
        if record is not None:
            protected_pages = record.protected_pages
            copy_ns = record.pause_ns - record.scan_ns
            self._policy.measured(record.pages, record.scan_ns, copy_ns)
            if self._published is not None:  # the first image has all pages, which says nothing
                transactions = sequence - self._published.sequence
                self._policy.epoch(record.epoch_pages, transactions)
                copied_pages = record.pages
        cost_ns = self._policy.spent(
            ended_ns,
            self._spent_ns() - before_ns,
            protected_pages=protected_pages,
            copied_pages=copied_pages,
        )
        waits = durable < written
        self._gated = _Cut(record, sequence, history, written, waits, began_ns, ended_ns, cost_ns)
        self._stage = _Stage.GATED

    def _publish(self, cut: _Cut) -> Published:
        mirror, record = self._mirror, cut.record
        began_ns, before_ns = self._now_ns(), self._spent_ns()
        if cut.waits:
            self._statistics.gated(began_ns - cut.ended_ns)
        if record is not None:
            mirror.commit(self._image)
        ended_ns = self._now_ns()
        pause_ns = cut.ended_ns - cut.began_ns + ended_ns - began_ns
        cost_ns = cut.cost_ns + self._policy.spent(ended_ns, self._spent_ns() - before_ns)
        self._statistics.cost(cost_ns)
        if record is None:
            # Nothing was written: the current image shows this as well, and this one stays level.
            self._statistics.advances += 1
            self._stage = _Stage.LEVEL
            pages, time_ns = 0, cut.began_ns
        else:
            self._statistics.sync(ended_ns, pause_ns, record, cost_ns)
            self._stage, self._image = _Stage.IDLE, NONE
            pages, time_ns = record.pages, record.time_ns
        self._gated = None
        published = Published(
            mirror.current, mirror.epoch, cut.sequence, cut.history, time_ns, pages, pause_ns
        )
        self._published = published
        for holder in self._joined:
            self._holds.acquire(holder, published.image, published.epoch)
        while self._wanted and self._wanted[0] <= published.sequence:
            self._wanted.pop(0)
        self._first_wanted = self._wanted[0] if self._wanted else NEVER
        return published

    def _pinned(self, sequence: int) -> list[Event]:
        if not self._news(sequence):
            self._blocked_since_ns = None
            return []
        now_ns = self._now_ns()
        if self._blocked_since_ns is None:
            self._blocked_since_ns = now_ns
        if now_ns - self._blocked_since_ns < self._settings.max_pin_ms * _MS:
            return []
        # Said again after as long again, should it not have helped.
        self._blocked_since_ns = now_ns
        if self._holds.unknown:
            self._statistics.pinned += 1
            return [Pinned(NONE, 0, tuple(sorted(self._holds.unknown, key=str)))]
        oldest = self._holds.oldest(besides=self._mirror.current, exempt=self._keeping)
        if oldest is None:
            return []  # whoever is in the way is allowed to be
        self._statistics.pinned += 1
        holders = self._holds.holders_of(oldest.image, oldest.epoch)
        return [Pinned(oldest.image, oldest.epoch, tuple(holders))]
