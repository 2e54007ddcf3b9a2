"""What was answered, in one ring, ordered by transaction: for callers who ask again.

Positions count bytes for ever; the ring has those of the last ANSWERS_WORDS words, and an answer
that does not fit before the ring's end goes to its beginning. Each answer leads to the one before
it of the same session. Nothing here is undone: an answer is written when its transaction has ended,
whatever became of it.

Which requests there were is for `sessions` and `keys`.
"""

from __future__ import annotations

from diptych.kernel import kernel
from diptych.memory.layout import Words
from diptych.store.words import (
    A_CHECK,
    A_LENGTHS,
    A_PAYLOAD,
    A_REQUEST,
    A_SEQUENCE,
    A_WHAT,
    ANSWERS,
    ANSWERS_ALLOCATED,
    ANSWERS_HEAD,
    ANSWERS_WORDS,
    WINDOW,
)

FIRST_POSITION = 8  # 0 means none
ANSWER_BYTES_MAX = 1 << 20
DELTA_SHIFT = 32
LENGTH_MASK = (1 << DELTA_SHIFT) - 1
STEPS_MAX = 2 * WINDOW
"""More answers than that are never between a request in the window and the session's last one."""


@kernel
def place_for(words: Words, length: int) -> int:
    """Position of the next answer, if it has so many bytes; -1 without the memory for it."""
    ring = words[ANSWERS_WORDS] * 8
    size = (A_PAYLOAD + (length + 7) // 8) * 8
    position = words[ANSWERS_HEAD]
    offset = position % ring
    if offset + size > ring:
        position += ring - offset
        offset = 0
    found: int = position if offset + size <= words[ANSWERS_ALLOCATED] * 8 else -1
    return found


@kernel
def has_room(words: Words) -> bool:
    """Whether the longest answer there may be has memory now."""
    return place_for(words, min(ANSWER_BYTES_MAX, longest(words))) >= 0


@kernel
def longest(words: Words) -> int:
    """Bytes of the longest payload that a ring of this size takes."""
    size_bytes: int = words[ANSWERS_WORDS] * 2 - A_PAYLOAD * 8
    return size_bytes


@kernel
def is_kept(words: Words, position: int) -> bool:
    """Whether the answer at this position has not been written over."""
    return bool(position > 0 and position >= words[ANSWERS_HEAD] - words[ANSWERS_WORDS] * 8)


@kernel
def entry_at(words: Words, position: int) -> int:
    """Word position of the answer at a position that is kept."""
    entry: int = words[ANSWERS] + position % (words[ANSWERS_WORDS] * 8) // 8
    return entry


@kernel
def append(
    words: Words,
    request: int,
    check: int,
    what: int,
    length: int,
    sequence: int,
    before: int,
) -> int:
    """Begin the next answer, of transaction `sequence`; its position, or -1 without memory.

    `before`: position of the session's last one, or 0. The payload is the caller's to write.
    """
    position = place_for(words, length)
    if position < 0:
        return -1
    entry = entry_at(words, position)
    delta = position - before if before > 0 else 0
    if delta >= words[ANSWERS_WORDS] * 8:
        delta = 0
    words[entry + A_REQUEST] = request
    words[entry + A_CHECK] = check
    words[entry + A_LENGTHS] = delta << DELTA_SHIFT | length
    words[entry + A_SEQUENCE] = sequence
    words[entry + A_WHAT] = what
    payload_words = (length + 7) // 8
    if payload_words > 0:
        words[entry + A_PAYLOAD + payload_words - 1] = 0
    words[ANSWERS_HEAD] = position + (A_PAYLOAD + payload_words) * 8
    return position


@kernel
def find_answer(words: Words, last: int, request: int) -> int:
    """The answer to `request` among a session's, the last of which is at position `last`; or 0."""
    position = last
    for _ in range(STEPS_MAX):
        if not is_kept(words, position):
            return 0
        entry = entry_at(words, position)
        if words[entry + A_REQUEST] == request:
            return entry
        delta = words[entry + A_LENGTHS] >> DELTA_SHIFT
        if delta == 0:
            return 0
        position -= delta
    return 0
