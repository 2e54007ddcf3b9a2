"""What a run of frames was answered, remembered at once: a call for each would cost more than this.

Works on frames as they came and on replies as they leave, one for each. That the requests were
answered is noted already, by `sessions.admit`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.kernel import kernel
from diptych.memory.layout import Words
from diptych.store.answers import append, entry_at
from diptych.store.sessions import row_of
from diptych.store.words import A_PAYLOAD, KIND_SHIFT, NOW, R_LAST, R_USED
from diptych_client.protocol import HEADER_BYTES

Bytes = npt.NDArray[np.uint8]

# Of a frame's header.
KIND_AT = 4
OPERATION_AT = 6
REQUEST_AT = 8
SEQUENCE_AT = 16  # of a frame from the gateway: its session


@kernel
def number_at(data: Bytes, at: int, size: int) -> int:
    """So many bytes, little-endian; eight of them as a signed number."""
    value: Any = np.int64(0)
    for i in range(size):
        value |= np.int64(data[at + i]) << np.int64(8 * i)
    number: int = value
    return number


@kernel
def remember_reply(
    words: Words,
    memory: Bytes,
    session: int,
    request: int,
    check: int,
    what: int,
    sequence: int,
    replies: Bytes,
    payload: int,
    stop: int,
) -> None:
    """Remember one reply, whose payload is `replies[payload:stop]`: there is memory for it."""
    row = row_of(words, session)
    before = words[row + R_LAST]
    position = append(words, request, check, what, stop - payload, sequence, before)
    words[row + R_USED] = words[NOW]
    words[row + R_LAST] = position
    target = (entry_at(words, position) + A_PAYLOAD) * 8
    for byte in range(stop - payload):
        memory[np.uint64(target + byte)] = replies[np.uint64(payload + byte)]


@kernel
def remember_run(
    words: Words,
    memory: Bytes,
    frames: Bytes,
    starts: npt.NDArray[np.int64],
    hashes: npt.NDArray[np.int64],
    count: int,
    replies: Bytes,
    reply: int,
) -> None:
    """Remember replies, from byte `reply` on, to `count` frames, which begin where `starts` says.

    Frames without a session are passed over. `memory`: what `words` is of, as bytes. The whole ring
    of answers has memory.
    """
    for i in range(count):
        frame = starts[i]
        length = number_at(replies, reply, 4)
        session = number_at(frames, frame + SEQUENCE_AT, 8)
        if session != 0:
            what = number_at(replies, reply + OPERATION_AT, 2)
            what |= number_at(replies, reply + KIND_AT, 1) << KIND_SHIFT
            payload = reply + HEADER_BYTES
            remember_reply(
                words,
                memory,
                session,
                number_at(frames, frame + REQUEST_AT, 8),
                hashes[i],
                what,
                number_at(replies, reply + SEQUENCE_AT, 8),
                replies,
                payload,
                payload + length,
            )
        reply += HEADER_BYTES + length
