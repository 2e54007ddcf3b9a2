"""Queries that the gateway answers itself, on the image that is current, as soon as they are read.

Those are compiled queries that end soon whatever they are given (`promptness`): a way to a reader
and back would take several times as long as they do. The gateway holds the current image until the
next is published, so nothing has to be noted for queries that end before it looks at anything else.
A whole read's queries are one call of a kernel, straight from the bytes that came to those that
leave.

What compiled code can't tell is for a reader, which is the one source of errors. Knows neither
connections nor who may be answered from which image.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from diptych.app import App
from diptych.engine.queries import ImageChanged, Queries
from diptych.engine.results import RESULT_BYTES_MAX
from diptych.kernel import kernel, ready
from diptych.memory import Region
from diptych.serving.bundles import Answers
from diptych.serving.channel import AGE_US_MAX, Image
from diptych.serving.frames import Bytes, FrameBuffer, Words, put_word
from diptych.store.batches import number_at
from diptych.store.database import SCRATCH_BYTES
from diptych.store.lane import Compiled
from diptych.store.lane_queries import (
    FULL_BYTES,
    TOLD_END,
    TOLD_REJECTED,
    TOLD_RESULTS,
    TOLD_WORDS,
    run_queries,
)
from diptych_client.protocol import HEADER_BYTES

REPLIES_BYTES = FULL_BYTES + HEADER_BYTES + RESULT_BYTES_MAX
_HEADER = HEADER_BYTES
_CONTEXT_AT = 24
NOTHING = Answers(0, False, 0, 0, 0, 0, 0)

log = logging.getLogger("diptych.serving")


@dataclass(frozen=True)
class Images:
    """What a gateway is given to look at images: descriptors that are read-only."""

    fds: tuple[int, ...]
    size_bytes: int

    def open(self, app: App, capacities: Mapping[str, int]) -> Queries:
        """The images with the application's tables on them."""
        regions = [
            Region.attach(fd, self.size_bytes, scratch_bytes=SCRATCH_BYTES) for fd in self.fds
        ]
        return Queries(app, regions, capacities)


class Answered(NamedTuple):
    """Replies as a client gets them, and what they are."""

    replies: bytes
    told: Answers


@kernel
def answer_run(
    words: Words,
    base: int,
    table: Words,
    frames: Bytes,
    at: int,
    stop: int,
    sequence: int,
    age_us: int,
    replies: Bytes,
    answer_bytes_max: int,
    progress: Words,
    told: Words,
) -> None:
    """`run_queries`, from nothing, and the age of what was read written into each reply."""
    for i in range(TOLD_WORDS):
        told[i] = 0
    run_queries(
        words,
        base,
        table,
        frames,
        at,
        stop,
        sequence,
        replies,
        answer_bytes_max,
        progress,
        0,
        told,
    )
    position = 0
    while position < told[TOLD_END]:
        put_word(replies, position + _CONTEXT_AT, age_us)
        position += _HEADER + number_at(replies, position, 4)


answer_run_ready = ready(
    answer_run,
    "(int64[::1], int64, int64[::1], uint8[::1], int64, int64, int64, int64, uint8[::1], int64, "
    "int64[::1], int64[::1])",
)


class Prompt:
    """Answers prompt queries of `compiled` on the images of `queries`."""

    def __init__(self, compiled: Compiled, queries: Queries) -> None:
        self._queries, self._table = queries, compiled.table
        self._replies = np.zeros(REPLIES_BYTES, np.uint8)
        self._progress = np.zeros(1, np.int64)  # asked for by the kernel, read by nobody
        self._told = np.zeros(TOLD_WORDS, np.int64)

    def answer(self, image: Image, buffer: FrameBuffer, first: int, count: int) -> Answered:
        """Answer frames from number `first` on, `count` at the most, for as long as compiled code
        can tell and there is room for replies.
        """
        region, told, starts = self._queries.images[image.image], self._told, buffer.starts
        began_ns = time.monotonic_ns()
        age_us = min(AGE_US_MAX, max(0, began_ns - image.time_ns) // 1000)
        answer_run_ready(
            region.words,
            region.address,
            self._table,
            buffer.array,
            starts[first],
            starts[first + count],
            image.sequence,
            age_us,
            self._replies,
            RESULT_BYTES_MAX,
            self._progress,
            told,
        )
        try:
            # An epoch never comes back, so it was this one's all the time.
            self._queries.check(image.image, image.epoch)
        except ImageChanged as error:
            log.critical("answers were thrown away: %s", error)
            return Answered(b"", NOTHING)
        run_us = (time.monotonic_ns() - began_ns) // 1000
        results, rejected = int(told[TOLD_RESULTS]), int(told[TOLD_REJECTED])
        replies = self._replies[: told[TOLD_END]].tobytes()
        return Answered(replies, Answers(0, False, results, rejected, 0, age_us, run_us))
