"""The server's figures, as INFO shows them: the gateway's own counts beside the writer's.

Counted in the gateway, where every call passes; the writer adds what only it knows (its sequence
number and the syncs). Times and shares say their unit in their name; counts are since the process
started.
"""

from __future__ import annotations

import os
import time
from collections import deque
from typing import Any, NamedTuple

import numpy as np

from diptych.serving.queries import Queries
from diptych_client.protocol import Kind

RECENT = 8192
"""Answers over which percentiles are taken; those given at once are one."""


class Counts:
    """What one gateway counts."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.transactions = self.rejected = self.errors = self.unknown = self.resent = 0
        self.queries = self.query_rejected = self.query_errors = self.stopped = 0
        self.refused = self.dropped = 0
        self.bytes_in = self.bytes_out = 0
        self.restarts: dict[str, int] = {}
        # How many were answered together, how old what they saw was, and what each took.
        self._answers: deque[tuple[int, int, int]] = deque(maxlen=RECENT)

    def query(self, kind: int, age_us: int, run_us: int) -> None:
        """A query was answered."""
        rejected = kind == Kind.REJECTED
        self.several(kind == Kind.RESULT, rejected, kind == Kind.ERROR, age_us, run_us)

    def several(self, results: int, rejected: int, errors: int, age_us: int, run_us: int) -> None:
        """Queries were answered at once, in `run_us` each."""
        self.queries += results
        self.query_rejected += rejected
        self.query_errors += errors
        self._answers.append((results + rejected + errors, age_us, run_us))

    def staleness_us(self) -> dict[str, float]:
        return self._percentiles(1)

    def query_time_us(self) -> dict[str, float]:
        return self._percentiles(2)

    def _percentiles(self, column: int) -> dict[str, float]:
        if not self._answers:
            return {"p50": 0.0, "p90": 0.0, "p99": 0.0, "max": 0.0}
        answers = np.array(self._answers)
        values = np.repeat(answers[:, column], answers[:, 0])
        p50, p90, p99, most = np.percentile(values, (50, 90, 99, 100)).tolist()
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
