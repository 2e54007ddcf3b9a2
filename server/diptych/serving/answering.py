"""A reader's bundles: whole reads of them through the compiled lane, and what that can't take.

The interpreter takes single queries in between: those that are rejected by a table, or wrong, or
unknown. So whatever a client is told is told by the same code as without bundles.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from diptych.engine.queries import Queries
from diptych.engine.results import RESULT_BYTES_MAX
from diptych.kernel import ready
from diptych.serving import bundles
from diptych.serving.channel import AGE_US_MAX, MORE, Run
from diptych.serving.frames import FrameBuffer, Words
from diptych.store.lane import Compiled
from diptych.store.lane_queries import (
    FULL_BYTES,
    TOLD_END,
    TOLD_FULL,
    TOLD_REJECTED,
    TOLD_RESULTS,
)
from diptych_client.protocol import HEADER, HEADER_BYTES, Kind

REPLIES_BYTES = FULL_BYTES + 2 * HEADER_BYTES + RESULT_BYTES_MAX
COUNTED: dict[int, int] = {Kind.RESULT: TOLD_RESULTS, Kind.REJECTED: TOLD_REJECTED}

run_bundles = ready(
    bundles.run_bundles,
    "(int64[::1], int64, int64[::1], uint8[::1], int64[::1], int64, int64, uint8[::1], int64, "
    "int64[::1], int64[::1])",
)
end_answers = ready(bundles.end_answers, "(uint8[::1], int64, uint8[::1], int64, int64[::1])")
begin_answers = ready(bundles.begin_answers, "(int64[::1],)")
stamp_times = ready(bundles.stamp_times, "(uint8[::1], int64, int64, int64)")


class Bundles:
    """Runs bundles on one reader's images. `progress`: an array of one, which says what runs.
    `send` gets whole ANSWERS frames, valid during the call.
    """

    def __init__(
        self,
        compiled: Compiled,
        queries: Queries,
        progress: Words,
        send: Callable[[memoryview], None],
    ) -> None:
        self._table, self._queries, self._progress, self._send = (
            compiled.table,
            queries,
            progress,
            send,
        )
        self._replies = np.zeros(REPLIES_BYTES, np.uint8)
        self._view = self._replies.data
        self._state: Words = np.zeros(bundles.STATE_WORDS, np.int64)
        self._began_ns = 0

    def answer(self, run: Run, buffer: FrameBuffer, first: int, count: int) -> int:
        """Answer the bundles that frame `first` begins with; the first frame that is none.

        Errors: ImageChanged, ViewKept; what was not sent by then is not answered.
        """
        state, region = self._state, self._queries.images[run.image]
        state[:] = 0
        state[bundles.FRAME] = first
        self._began_ns = time.monotonic_ns()
        self._queries.check(run.image, run.epoch)
        while True:
            run_bundles(
                region.words,
                region.address,
                self._table,
                buffer.array,
                buffer.starts,
                count,
                run.sequence,
                self._replies,
                RESULT_BYTES_MAX,
                self._progress,
                state,
            )
            if state[TOLD_FULL]:
                self._flush(run, buffer)
            elif state[bundles.AT]:
                self._interpret(run, buffer)
            else:
                break
        self._flush(run, buffer)
        return int(state[bundles.FRAME])

    def _interpret(self, run: Run, buffer: FrameBuffer) -> None:
        """Answer the query before which the kernel stopped."""
        state = self._state
        at, end = int(state[bundles.AT]), int(state[TOLD_END])
        length, _, _, number, request, _, _ = HEADER.unpack_from(buffer.view, at)
        stop = at + HEADER_BYTES + length
        payload = buffer.view[at + HEADER_BYTES : stop]
        reply = self._queries.run(*run[:4], number, request, payload)
        self._view[end : end + len(reply)] = reply
        state[TOLD_END] += len(reply)
        state[bundles.AT] = stop
        state[COUNTED.get(reply[4], bundles.ERRORS)] += 1

    def _flush(self, run: Run, buffer: FrameBuffer) -> None:
        """Send what there is: a bundle that is not over goes on in another ANSWERS."""
        state = self._state
        within = bool(state[bundles.AT])
        if within:
            start = buffer.starts[state[bundles.FRAME]]
            end_answers(buffer.array, start, self._replies, MORE, state)
        stop = int(state[TOLD_END])
        if stop:
            now_ns = time.monotonic_ns()
            age_us = min(AGE_US_MAX, max(0, now_ns - run.time_ns) // 1000)
            stamp_times(self._replies, stop, age_us, now_ns - self._began_ns)
            self._queries.check(run.image, run.epoch)
            self._send(self._view[:stop])
            self._began_ns = time.monotonic_ns()
        state[TOLD_END] = 0
        if within:
            begin_answers(state)
