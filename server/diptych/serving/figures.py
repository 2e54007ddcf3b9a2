"""The server's figures, as INFO shows them: the gateway's own counts beside the writer's.

Counted in the gateway, where every call passes; the writer adds what only it knows (its sequence
number and the syncs). Times and shares say their unit in their name; counts are since the process
started.
"""

from __future__ import annotations

import os
import time
from collections import deque
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np

from diptych.serving.bundles import Answers
from diptych.serving.queries import Queries
from diptych_client.protocol import Kind

RECENT = 8192
"""Answers over which percentiles are taken."""


class Counts:
    """What one gateway counts."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.transactions = self.rejected = self.errors = self.unknown = self.resent = 0
        self.queries = self.query_rejected = self.query_errors = self.stopped = 0
        self.refused = self.dropped = 0
        self.bytes_in = self.bytes_out = 0
        self.restarts: dict[str, int] = {}
        self._ages_us: deque[int] = deque(maxlen=RECENT)
        self._runs_us: deque[int] = deque(maxlen=RECENT)

    def query(self, kind: int, age_us: int, run_us: int) -> None:
        """A reader answered a query."""
        if kind == Kind.RESULT:
            self.queries += 1
        elif kind == Kind.REJECTED:
            self.query_rejected += 1
        else:
            self.query_errors += 1
        self._ages_us.append(age_us)
        self._runs_us.append(run_us)

    def bundle(self, told: Answers) -> None:
        """A reader answered so many queries at once."""
        count = told.queries
        self.queries += told.results
        self.query_rejected += told.rejected
        self.query_errors += told.errors
        self._ages_us.extend(repeat(told.age_us, count))
        self._runs_us.extend(repeat(told.run_us // max(1, count), count))

    def staleness_us(self) -> dict[str, float]:
        return percentiles(self._ages_us)

    def query_time_us(self) -> dict[str, float]:
        return percentiles(self._runs_us)


def percentiles(values: deque[int]) -> dict[str, float]:
    if not values:
        return {"p50": 0.0, "p90": 0.0, "p99": 0.0, "max": 0.0}
    p50, p90, p99, most = np.percentile(np.array(values), (50, 90, 99, 100)).tolist()
    return {"p50": p50, "p90": p90, "p99": p99, "max": most}


class Now(NamedTuple):
    """How it is at this moment. `writer`: its part of the figures, None while there is none;
    `places`: where processes run, as configured."""

    durability: str
    log_failed: bool
    connections: int
    sessions: int
    writer: dict[str, Any] | None
    places: dict[str, Any]


def describe(counts: Counts, queries: Queries, now: Now) -> dict[str, Any]:
    """All figures, as one map."""
    lived_s = max(1e-9, time.monotonic() - counts.began)
    return {
        "uptime_s": round(lived_s, 3),
        "durability": now.durability,
        "log_failed": now.log_failed,
        "pid": os.getpid(),
        "connections": now.connections,
        "sessions": now.sessions,
        "transactions": counts.transactions,
        "rejected": counts.rejected,
        "errors": counts.errors,
        "unknown": counts.unknown,
        "resent": counts.resent,
        "queries": {
            "results": counts.queries,
            "rejected": counts.query_rejected,
            "errors": counts.query_errors,
            "stopped": counts.stopped,
            "retried": queries.retried,
            "in_flight": len(queries),
            "waiting": queries.waiting,
            "run_us": counts.query_time_us(),
            "staleness_us": counts.staleness_us(),
        },
        "readers": [
            {
                "number": reader.number,
                "queries": reader.answered,
                "busy_share": round(reader.busy_us / 1e6 / lived_s, 4),
            }
            for reader in queries.readers.values()
        ],
        "refused": counts.refused,
        "dropped": counts.dropped,
        "bytes_in": counts.bytes_in,
        "bytes_out": counts.bytes_out,
        "restarts": counts.restarts,
        "places": now.places,
        "writer": now.writer,
    }
