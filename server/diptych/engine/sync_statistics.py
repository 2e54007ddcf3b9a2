"""What syncs were like: percentiles over the recent ones, counts over all."""

from __future__ import annotations

from collections import deque

import numpy as np

from diptych.memory import SyncRecord

RECENT = 4096


class SyncStatistics:
    """Filled by the syncer; all times are nanoseconds of its clock."""

    def __init__(self, now_ns: int) -> None:
        self.syncs = 0
        self.pages = 0
        self.advances = 0
        self.pinned = 0
        self._gated = 0
        self._gated_last_ns = 0
        self._began_ns = now_ns
        self._cost_ns = 0
        self._pauses_ns: deque[int] = deque(maxlen=RECENT)
        self._pages: deque[int] = deque(maxlen=RECENT)
        self._precopied: deque[int] = deque(maxlen=RECENT)
        # (when, cost) of recent syncs: the share of the writer's time is taken over this window.
        self._costs_ns: deque[tuple[int, int]] = deque(maxlen=RECENT)

    def cost(self, cost_ns: int) -> None:
        """The writer lost, or will lose, so much time."""
        self._cost_ns += cost_ns

    def sync(self, now_ns: int, pause_ns: int, record: SyncRecord, cost_ns: int) -> None:
        self.syncs += 1
        self.pages += record.epoch_pages
        self._pauses_ns.append(pause_ns)
        self._pages.append(record.epoch_pages)
        self._precopied.append(record.precopied_pages)
        self._costs_ns.append((now_ns, cost_ns))

    def gated(self, waited_ns: int) -> None:
        """What a sync shows became durable so long after its cut; the writer went on meanwhile."""
        self._gated += 1
        self._gated_last_ns = waited_ns

    def summary(self, now_ns: int) -> dict[str, object]:
        return {
            "syncs": self.syncs,
            "pages": self.pages,
            "advances": self.advances,
            "pinned": self.pinned,
            "gated": {"waits": self._gated, "last_us": round(self._gated_last_ns / 1000, 1)},
            "pause_us": _percentiles(self._pauses_ns, 1000),
            "pages_per_sync": _percentiles(self._pages, 1),
            "precopied_pages_per_sync": _percentiles(self._precopied, 1),
            "writer_time_share": self._share(now_ns),
            "writer_time_ms": round(self._cost_ns / 1e6, 3),
        }

    def _share(self, now_ns: int) -> float:
        if not self._costs_ns:
            return 0.0
        full = len(self._costs_ns) == RECENT
        since_ns = self._costs_ns[0][0] if full else self._began_ns
        cost_ns = sum(cost for _, cost in self._costs_ns)
        return round(cost_ns / max(1, now_ns - since_ns), 4)


def _percentiles(values: deque[int], unit: int) -> dict[str, float]:
    if not values:
        return {"p50": 0.0, "p90": 0.0, "p99": 0.0, "max": 0.0}
    p50, p90, p99, most = np.percentile(np.array(values), (50, 90, 99, 100)) / unit
    return {
        "p50": round(float(p50), 1),
        "p90": round(float(p90), 1),
        "p99": round(float(p99), 1),
        "max": round(float(most), 1),
    }
