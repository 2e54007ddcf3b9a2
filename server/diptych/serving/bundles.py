"""Bundles: a client's compiled queries that travel as one, and their answers likewise.

A BUNDLE has a client's frames as its payload, word for word. ANSWERS has frames that a client can
be sent as they are, of one bundle: all of them, or with the flag MORE some, in their order. So
neither gateway nor reader looks at a single query: kernels here do, and for a reader a whole read
of bundles is one call.

A reader's mark says which query it runs: the bundle's token, above MARK_BITS of the query's place
in it. Knows bytes; knows neither images nor sockets.
"""

from __future__ import annotations

import mmap
from typing import NamedTuple

import numpy as np

from diptych.kernel import kernel
from diptych.serving.channel import AGE_US_MAX, MORE, RUN_US_SHIFT, BytesLike, Internal
from diptych.serving.frames import Bytes, Words, put_word, word_at
from diptych.store.batches import KIND_AT, number_at
from diptych.store.lane import put_header, put_number
from diptych.store.lane_queries import (
    FULL_BYTES,
    TOLD_END,
    TOLD_FULL,
    TOLD_REJECTED,
    TOLD_RESULTS,
    TOLD_WORDS,
    run_queries,
)
from diptych_client.protocol import HEADER, HEADER_BYTES

QUERIES_MAX = 4096
"""In one bundle."""
MARK_BITS = 16
SLOTS = 512

_BUNDLE = int(Internal.BUNDLE)
_ANSWERS = int(Internal.ANSWERS)
_AGE_US_MAX = AGE_US_MAX
_RUN_US_SHIFT = RUN_US_SHIFT
_MARK_BITS = MARK_BITS
_HEADER = HEADER_BYTES
_FLAGS_AT = 5
_REQUEST_AT = 8
_SEQUENCE_AT = 16
_CONTEXT_AT = 24
_COUNT_BITS = 20
_COUNT_MASK = (1 << _COUNT_BITS) - 1

# A reader's state: the words of `run_queries`, then these.
ERRORS = TOLD_WORDS  # of the answers that are being written
FRAME = TOLD_WORDS + 1  # which of the frames that came
AT = TOLD_WORDS + 2  # where its next query is; 0: it has not begun
HEAD = TOLD_WORDS + 3  # where its answers begin
DONE = TOLD_WORDS + 4  # queries of it that are answered
STATE_WORDS = TOLD_WORDS + 5


class Progress:
    """Shared memory in which each reader says what it runs: it tells who was at fault when one
    dies. A slot is one word.
    """

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, SLOTS * 8)
        self.words: Words = np.frombuffer(self._map, np.int64)

    def slot(self, number: int) -> Words:
        """A slot as an array of one; there are SLOTS, taken in turn."""
        return self.words[number % SLOTS : number % SLOTS + 1]


class Mark(NamedTuple):
    """Which query of which bundle (or single query) a reader runs."""

    token: int
    place: int

    @classmethod
    def of(cls, word: int) -> Mark:
        return cls(word >> MARK_BITS, word & (1 << MARK_BITS) - 1)


class Answers(NamedTuple):
    """What the header of ANSWERS tells. `run_us`: of all queries here together."""

    token: int
    more: bool
    results: int
    rejected: int
    errors: int
    age_us: int
    run_us: int

    @classmethod
    def read(cls, frame: BytesLike) -> Answers:
        _, _, flags, _, token, counts, times = HEADER.unpack_from(frame)
        return cls(
            token,
            bool(flags & MORE),
            counts & _COUNT_MASK,
            counts >> _COUNT_BITS & _COUNT_MASK,
            counts >> 2 * _COUNT_BITS,
            times & AGE_US_MAX,
            times >> RUN_US_SHIFT,
        )

    def and_then(self, later: Answers) -> Answers:
        """These and later ones to the same bundle."""
        return Answers(
            self.token,
            later.more,
            self.results + later.results,
            self.rejected + later.rejected,
            self.errors + later.errors,
            later.age_us,
            self.run_us + later.run_us,
        )

    @property
    def queries(self) -> int:
        """How many are answered here."""
        return self.results + self.rejected + self.errors


def bundle(token: int, count: int, frames: BytesLike) -> bytes:
    """The frame for a reader."""
    return HEADER.pack(len(frames), Internal.BUNDLE, 0, 0, token, count, 0) + frames


def part(bundled: bytes, first: int, count: int) -> bytes:
    """So many of the queries in a bundle, from number `first` on."""
    position, start = HEADER_BYTES, 0
    for number in range(first + count):
        if number == first:
            start = position
        position += HEADER_BYTES + int.from_bytes(bundled[position : position + 4], "little")
    return bundled[start:position]


def calls(bundled: bytes) -> list[tuple[int, int]]:
    """Operation and request number of each query."""
    position, found = HEADER_BYTES, []
    while position < len(bundled):
        length, _, _, operation, request, _, _ = HEADER.unpack_from(bundled, position)
        found.append((operation, request))
        position += HEADER_BYTES + length
    return found


@kernel
def admit_run(
    buffer: Bytes,
    starts: Words,
    first: int,
    count: int,
    history: int,
    newest: int,
    shown: int,
    told: Words,
) -> int:
    """How many queries from frame `first` on can be one bundle: all are shown by the current image,
    whose number is `shown`, or none is. 0: the first names what this history does not have.

    told[0]: the highest number that one of them must see.
    """
    highest = 0
    i = first
    while i < first + count:
        at_least = word_at(buffer, starts[i] + _SEQUENCE_AT)
        if at_least != 0:
            if word_at(buffer, starts[i] + _CONTEXT_AT) != history:
                break
            # As unsigned: a number beyond 63 bits is beyond the newest, too.
            if at_least < 0 or at_least > newest:
                break
        if i > first and (at_least > shown) != (highest > shown):
            break
        highest = max(highest, at_least)
        i += 1
    told[0] = highest
    return i - first


@kernel
def run_bundles(
    words: Words,
    base: int,
    table: Words,
    frames: Bytes,
    starts: Words,
    count: int,
    sequence: int,
    replies: Bytes,
    answer_bytes_max: int,
    progress: Words,
    state: Words,
) -> None:
    """Go on with the bundles among `count` frames, to the end or to what is not for it.

    That is a frame of another kind (FRAME), a query that the interpreter has to take (AT), or
    enough replies (TOLD_FULL).
    """
    state[TOLD_FULL] = 0
    while state[FRAME] < count:
        start, stop = starts[state[FRAME]], starts[state[FRAME] + 1]
        if frames[start + KIND_AT] != _BUNDLE:
            break
        if state[AT] == 0:
            if state[TOLD_END] >= FULL_BYTES:
                state[TOLD_FULL] = 1
                break
            state[AT] = start + _HEADER
            state[DONE] = 0
            begin_answers(state)
        answered = state[TOLD_RESULTS] + state[TOLD_REJECTED] + state[ERRORS]
        mark = word_at(frames, start + _REQUEST_AT) << _MARK_BITS | (state[DONE] + answered)
        state[AT] = run_queries(
            words,
            base,
            table,
            frames,
            state[AT],
            stop,
            sequence,
            replies,
            answer_bytes_max,
            progress,
            mark,
            state,
        )
        if state[AT] < stop:
            break
        end_answers(frames, start, replies, 0, state)
        state[FRAME] += 1
        state[AT] = 0


@kernel
def begin_answers(state: Words) -> None:
    """Leave room for the header of ANSWERS."""
    state[HEAD] = state[TOLD_END]
    state[TOLD_END] += _HEADER
    state[TOLD_RESULTS] = 0
    state[TOLD_REJECTED] = 0
    state[ERRORS] = 0


@kernel
def end_answers(frames: Bytes, start: int, replies: Bytes, flags: int, state: Words) -> None:
    """Write the header of the ANSWERS to the bundle at `start`; `flags` are 0 or MORE."""
    head = state[HEAD]
    results, rejected, errors = state[TOLD_RESULTS], state[TOLD_REJECTED], state[ERRORS]
    state[DONE] += results + rejected + errors
    counts = results | rejected << _COUNT_BITS | errors << 2 * _COUNT_BITS
    length = state[TOLD_END] - head - _HEADER
    token = word_at(frames, start + _REQUEST_AT)
    put_header(replies, head, length, _ANSWERS, 0, token, counts, 0)
    put_number(replies, head + _FLAGS_AT, flags, 1)


@kernel
def stamp_times(replies: Bytes, stop: int, age_us: int, run_ns: int) -> None:
    """Write into all ANSWERS in replies[:stop], and into what they hold, how old the data is, and
    share out the time that they took by the number of queries.
    """
    total = 0
    at = 0
    while at < stop:
        total += count_of(word_at(replies, at + _SEQUENCE_AT))
        at += _HEADER + number_at(replies, at, 4)
    at = 0
    while at < stop:
        end = at + _HEADER + number_at(replies, at, 4)
        count = count_of(word_at(replies, at + _SEQUENCE_AT))
        run_us = min(_AGE_US_MAX, run_ns * count // max(1, total) // 1000)
        put_word(replies, at + _CONTEXT_AT, age_us | run_us << _RUN_US_SHIFT)
        at += _HEADER
        while at < end:
            put_word(replies, at + _CONTEXT_AT, age_us)
            at += _HEADER + number_at(replies, at, 4)


@kernel
def count_of(counts: int) -> int:
    """All answers that a header counts."""
    results = counts & _COUNT_MASK
    return results + (counts >> _COUNT_BITS & _COUNT_MASK) + (counts >> 2 * _COUNT_BITS)
