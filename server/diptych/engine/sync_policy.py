"""When a sync is due: a decision on numbers alone, so that it can be tested without time or memory.

Three limits, in their order of sacrifice. A pause longer than `max_pause_ms` is prevented first (by
pre-copying, see `pages_goal`), then more of the writer's time than `max_duty` (by waiting), and
what gives way is staleness. Duty is a token bucket with room for one sync: a sync may start when
the ones before it are paid for, so an idle server syncs at once and a saturated one in its turn.

A sync costs the writer its pause and, later, a fault at the first write to each page that it
protected again, and what it worked on back into its processor's caches, which the copying took.
Work of the helper thread costs it nothing here, nor does time in which it was not scheduled.

A debt is bounded: at the latest `DELAY_MS_MAX` after a sync the next one may start, whatever that
one cost, since queries that wait for their client's own write wait as long.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diptych.memory.tracking import Preference

FAULT_NS = 1300  # the first write to a page after it was taken
REFILL_NS = 500  # in lost cache lines, for a page that was copied while it stood still
COPY_NS = 1000  # of a page, until measured here
STOP_MS_MAX = 20
"""What one part of a sync can cost by its stop, for the account: several times the longest pause.
More is the machine's doing, which virtual ones count as time of the process that they stopped."""
DELAY_MS_MAX = 2000
"""The longest that a sync has to wait for the ones before it to be paid for."""
PAGES_GOAL_MIN = 64
PAGES_PER_TRANSACTION = 16  # until one epoch was seen here
_MS = 1_000_000


@dataclass(frozen=True, slots=True)
class SyncSettings:
    """How often the mirror is renewed, and what that may cost."""

    interval_ms: float = 10.0  # from one sync to the next while transactions write
    max_duty: float = 0.10  # share of the writer's time that syncs may take
    max_pause_ms: float = 5.0  # longest stop that one sync should cause
    max_pin_ms: float = 1000.0  # how long holders may keep every image from being filled
    images: int = 3
    tracker: Preference = "auto"
    directory: Path | None = None  # where images are files; memory without a name otherwise

    def __post_init__(self) -> None:
        if self.interval_ms < 0 or self.max_pause_ms <= 0 or self.max_pin_ms <= 0:
            raise ValueError("interval_ms, max_pause_ms and max_pin_ms are times, in milliseconds")
        if not 0 < self.max_duty <= 1:
            raise ValueError("max_duty is a share: above 0, at most 1")
        if self.images < 2:
            raise ValueError("a mirror needs two images: one to read, one to fill")
        if self.tracker not in ("auto", "kernel", "compare"):
            raise ValueError("tracker is auto, kernel or compare")


class SyncPolicy:
    """Keeps account of what syncs cost. All times are nanoseconds of one monotonic clock."""

    def __init__(self, settings: SyncSettings, now_ns: int) -> None:
        self._settings = settings
        self._paid_ns = now_ns  # when the syncs so far are paid for
        self._next_ns = now_ns  # when the interval is over
        self._copy_ns = float(COPY_NS)
        self._scan_ns = 0.0
        self._epoch_pages = 0
        self._epoch_transactions = 0

    def delay_ns(self, now_ns: int, *, demanded: bool) -> int:
        """How long a sync has to wait yet; 0: it may start. A demanded one ignores the interval."""
        due_ns = self._paid_ns
        if not demanded and due_ns < self._next_ns:
            due_ns = self._next_ns
        return due_ns - now_ns if due_ns > now_ns else 0

    def began(self, now_ns: int) -> None:
        """A cut begins: the interval runs from here."""
        self._next_ns = now_ns + round(self._settings.interval_ms * _MS)

    def spent(
        self, now_ns: int, writer_ns: int, *, protected_pages: int = 0, copied_pages: int = 0
    ) -> int:
        """The writer was kept from its work for `writer_ns`; what that and the rest of it cost.

        It will fault on `protected_pages`; `copied_pages` of the region went through its caches.
        """
        later_ns = FAULT_NS * protected_pages + REFILL_NS * copied_pages
        cost_ns = min(writer_ns, STOP_MS_MAX * _MS) + later_ns
        paid_ns = max(now_ns, self._paid_ns) + round(cost_ns / self._settings.max_duty)
        self._paid_ns = min(paid_ns, now_ns + DELAY_MS_MAX * _MS)
        return writer_ns + later_ns

    def measured(self, pages: int, scan_ns: int, copy_ns: int) -> None:
        """What one pause was made of; later pauses are planned by it."""
        self._scan_ns += 0.2 * (scan_ns - self._scan_ns)
        if pages >= PAGES_GOAL_MIN:
            self._copy_ns += 0.2 * (copy_ns / pages - self._copy_ns)

    def epoch(self, pages: int, transactions: int) -> None:
        """So many different pages were written between one image and the next."""
        self._epoch_pages = pages
        self._epoch_transactions = max(1, transactions)

    @property
    def pages_goal(self) -> int:
        """How many pages a pause of `max_pause_ms` can copy."""
        room_ns = self._settings.max_pause_ms * _MS - self._scan_ns
        return max(PAGES_GOAL_MIN, int(room_ns / max(1.0, self._copy_ns)))

    def expected_pages(self, transactions: int) -> int:
        """A guess at how many pages so many transactions wrote: not below the last epoch's.

        Too high a guess costs a round of pre-copying; too low a guess, a long pause.
        """
        if self._epoch_transactions == 0:
            return PAGES_PER_TRANSACTION * transactions
        share = transactions / self._epoch_transactions
        return round(self._epoch_pages * max(1.0, share))
