"""Runs of QUERY frames through compiled queries: decoded, run on an image, answered.

The same table, programs and entries as for transactions (`store.lane`). Nothing is written but the
process's own scratch, so nothing is undone. A run stops before the first frame that is not for it,
and the interpreter takes that one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from diptych.kernel import kernel
from diptych.memory.layout import Words
from diptych.store.batches import OPERATION_AT, REQUEST_AT, number_at
from diptych.store.lane import (
    REJECTED_KIND,
    RESULT_KIND,
    call_operation,
    operation_of,
    pack_answer,
    put_header,
)
from diptych.store.words import S_QUERY_SEQUENCE, SCRATCH
from diptych_client.protocol import HEADER_BYTES, Kind

Bytes = npt.NDArray[np.uint8]

QUERY = int(Kind.QUERY)
FULL_BYTES = 1 << 20
"""With so many bytes of replies, no further query is begun: behind them, one more always fits."""

# What `run_queries` adds to.
TOLD_END = 0  # where the next reply goes
TOLD_RESULTS = 1
TOLD_REJECTED = 2
TOLD_FULL = 3  # 1: it stopped because of FULL_BYTES
TOLD_WORDS = 4


@kernel
def run_queries(
    words: Words,
    base: int,
    table: Words,
    frames: Bytes,
    at: int,
    stop: int,
    sequence: int,
    replies: Bytes,
    answer_bytes_max: int,
    progress: Words,
    mark: int,
    told: Words,
) -> int:
    """Run the frames in frames[at:stop] for as long as it can; where the first is that it did not.

    Replies are as a client gets them, but for their age. `sequence` is what the image shows. Before
    each query, `mark` and then the numbers above it are written to progress[0].
    """
    words[words[SCRATCH] + S_QUERY_SEQUENCE] = sequence
    told[TOLD_FULL] = 0
    while at < stop:
        end = at + HEADER_BYTES + number_at(frames, at, 4)
        position = told[TOLD_END]
        payload = position + HEADER_BYTES
        if position >= FULL_BYTES:
            told[TOLD_FULL] = 1
            break
        operation = operation_of(table, frames, at, QUERY)
        if operation == 0:
            break
        progress[0] = mark
        code = call_operation(words, base, table, operation, frames, at, end)
        limit = payload + answer_bytes_max
        answer = pack_answer(words, table, operation, code, replies, payload, limit)
        if answer < 0:
            break
        kind = RESULT_KIND
        if code == 0:
            told[TOLD_RESULTS] += 1
        else:
            kind = REJECTED_KIND
            told[TOLD_REJECTED] += 1
        number = number_at(frames, at + OPERATION_AT, 2)
        request = number_at(frames, at + REQUEST_AT, 8)
        put_header(replies, position, answer - payload, kind, number, request, sequence, 0)
        told[TOLD_END] = answer
        at = end
        mark += 1
    return at
