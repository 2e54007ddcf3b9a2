"""Compiled queries one by one, on one region: what `engine.lane` is to transactions.

It calls the kernel that also runs bundles in a server's readers and prompt queries in its gateway.
A query that compiled code can't tell is for the interpreter (`engine.queries`), as it is there.
"""

from __future__ import annotations

import numpy as np

from diptych.engine.results import RESULT_BYTES_MAX
from diptych.kernel import ready
from diptych.memory import Region
from diptych.store import lane_queries
from diptych.store.lane import Compiled
from diptych_client.protocol import HEADER_BYTES

run_queries = ready(
    lane_queries.run_queries,
    "(int64[::1], int64, int64[::1], uint8[::1], int64, int64, int64, uint8[::1], int64, "
    "int64[::1], int64, int64[::1])",
)


class QueryLane:
    """Compiled queries on a region mapped with scratch, which it only reads."""

    def __init__(self, compiled: Compiled, region: Region) -> None:
        self._table, self._words, self._base = compiled.table, region.words, region.address
        self._replies = np.zeros(HEADER_BYTES + RESULT_BYTES_MAX, np.uint8)
        self._progress = np.zeros(1, np.int64)  # the kernel asks for it, nobody looks

    def run(self, frame: bytes, sequence: int) -> bytes | None:
        """The reply to one QUERY frame, without an age; None: the interpreter has to say it.

        `sequence`: what the region shows.
        """
        told = np.zeros(lane_queries.TOLD_WORDS, np.int64)
        run_queries(
            self._words,
            self._base,
            self._table,
            np.frombuffer(bytearray(frame), np.uint8),
            0,
            len(frame),
            sequence,
            self._replies,
            RESULT_BYTES_MAX,
            self._progress,
            0,
            told,
        )
        return self._replies[: told[lane_queries.TOLD_END]].tobytes() or None
