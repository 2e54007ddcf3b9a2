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

import numpy as np

from diptych.engine.queries import Queries
from diptych.engine.results import RESULT_BYTES_MAX
from diptych.kernel import bound, ready
from diptych.serving.channel import Image
from diptych.serving.frames import Bytes, FrameBuffer
from diptych.serving.prompt_frames import answer_frames
from diptych.store.lane import Compiled
from diptych.store.lane_queries import (
    FULL_BYTES,
    TOLD_END,
    TOLD_REJECTED,
    TOLD_RESULTS,
    TOLD_WORDS,
)
from diptych_client.protocol import HEADER_BYTES

REPLIES_BYTES = FULL_BYTES + HEADER_BYTES + RESULT_BYTES_MAX

log = logging.getLogger("diptych.serving")


ready(
    answer_frames,
    "(int64[::1], int64, int64[::1], int64, int64, int64, uint8[::1], int64, int64, uint8[::1], "
    "int64, int64, int64, uint8[::1], int64, int64[::1], int64[::1])",
)


class Prompt:
    """Answers prompt queries of `compiled` on the images of `queries`. `kinds`: of operations, as
    `frames.classify` takes them.
    """

    def __init__(self, compiled: Compiled, queries: Queries, kinds: Bytes) -> None:
        self._places = [(image.words, image.address, compiled.table) for image in queries.images]
        self._queries = queries  # whose memory those are of
        self._kinds = kinds
        self._replies = np.zeros(REPLIES_BYTES, np.uint8)
        self._view = self._replies.data
        self._progress = np.zeros(1, np.int64)  # the kernel asks for it, nobody looks
        self._told = np.zeros(TOLD_WORDS, np.int64)
        self._run = bound(
            answer_frames,
            *self._places[0],
            *(0, 0, 0, self._replies, 0, 0, kinds, 0, 0, 0),
            *(self._replies, 0, self._progress, self._told),
        )

    def answer(
        self, image: Image, newest: int, age_us: int, buffer: FrameBuffer, at: int, stop: int
    ) -> tuple[int, bytes, int, int]:
        """Answer the frames from byte `at` to `stop` on, for as long as that can be told here: the
        byte behind the last one, replies as a client gets them, results and rejections.

        `newest`: the highest number that anybody was told in this image's history.
        """
        number, epoch, sequence, _, history, _ = image
        end = self._run(
            *self._places[number],
            epoch,
            sequence,
            age_us,
            buffer.array,
            at,
            stop,
            self._kinds,
            buffer.payload_bytes_max,
            history,
            newest,
            self._replies,
            RESULT_BYTES_MAX,
            self._progress,
            self._told,
        )
        if end < 0:
            log.critical("answers were thrown away: image %d is not at epoch %d", number, epoch)
            return at, b"", 0, 0
        told: list[int] = self._told.tolist()
        return end, bytes(self._view[: told[TOLD_END]]), told[TOLD_RESULTS], told[TOLD_REJECTED]
