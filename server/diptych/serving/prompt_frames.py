"""Whole reads of prompt queries, answered in one call, straight from the bytes that came.

Knows frames and an image; what is done with the rest of a read is `connection`'s business.
"""

from __future__ import annotations

from diptych.kernel import entry_kernel, kernel
from diptych.memory.stamp import EPOCH_WORD
from diptych.serving.frames import PROMPT_QUERY, Bytes, Words, class_of, put_word, word_at
from diptych.store.batches import SEQUENCE_AT, number_at
from diptych.store.lane_queries import TOLD_END, TOLD_WORDS, run_queries
from diptych_client.protocol import HEADER_BYTES

_HEADER = HEADER_BYTES
_CONTEXT_AT = 24


@kernel
def admitted(
    frames: Bytes,
    at: int,
    stop: int,
    operations: Bytes,
    frame_bytes_max: int,
    history: int,
    newest: int,
    sequence: int,
) -> int:
    """Where the first frame from `at` on is that is not whole, not a prompt query, or one that must
    see more than `sequence`.
    """
    # As unsigned, a number beyond 63 bits is beyond the newest, too.
    shown = min(newest, sequence)
    while stop - at >= _HEADER:
        length = number_at(frames, at, 4)
        if length > frame_bytes_max or length > stop - at - _HEADER:
            break
        if class_of(frames, at, operations) != PROMPT_QUERY:
            break
        at_least = word_at(frames, at + SEQUENCE_AT)
        if at_least < 0 or at_least > shown:
            break
        if at_least > 0 and word_at(frames, at + _CONTEXT_AT) != history:
            break
        at += _HEADER + length
    return at


@entry_kernel
def answer_frames(
    words: Words,
    base: int,
    table: Words,
    epoch: int,
    sequence: int,
    age_us: int,
    frames: Bytes,
    at: int,
    stop: int,
    operations: Bytes,
    frame_bytes_max: int,
    history: int,
    newest: int,
    replies: Bytes,
    answer_bytes_max: int,
    progress: Words,
    told: Words,
) -> int:
    """Answer the frames from `at` on, as far as can be told here: where the first is that was not.

    With nothing told if the image turns out to be of another epoch.
    """
    for i in range(TOLD_WORDS):
        told[i] = 0
    end = admitted(frames, at, stop, operations, frame_bytes_max, history, newest, sequence)
    end = run_queries(
        words,
        base,
        table,
        frames,
        at,
        end,
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
    # An epoch never comes back: if it is this one now, it was all the time.
    return end if words[EPOCH_WORD] == epoch else -1
