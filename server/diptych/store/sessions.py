"""Sessions: which requests of a client were answered, so that none runs twice.

A session is a row: who it is, the highest request number, and a bit for each of the last WINDOW
numbers. A number below the window, or of a session that is not known, never runs. A session's
number has its slot in it, so finding it is one access; opening one looks at them all.

Nothing here is undone. What was answered is in `answers`.
"""

from __future__ import annotations

import numpy as np

from diptych.kernel import kernel
from diptych.memory.layout import Words
from diptych.store.answers import append, entry_at, find_answer, has_room
from diptych.store.spans import clear, copy
from diptych.store.words import (
    A_CHECK,
    A_WHAT,
    BURNT,
    CALLER_WORDS,
    GROW_ANSWERS,
    GROW_SESSIONS,
    NOW,
    R_BITS,
    R_IDENTITY,
    R_LAST,
    R_MAX,
    R_NUMBER,
    R_USED,
    REQUEST_CONFLICT,
    REQUEST_EXPIRED,
    REQUEST_FORGOTTEN,
    REQUEST_NEW,
    REQUEST_NUMBER,
    REQUESTS_FULL,
    S_ARGUMENT,
    SCRATCH,
    SEQUENCE,
    SESSION_WORDS,
    SESSIONS,
    SESSIONS_ALLOCATED,
    SESSIONS_HIGH,
    SESSIONS_WORDS,
    SLOT_BITS,
    WINDOW,
)

SESSION_IDLE_NS = 24 * 3600 * 1_000_000_000
"""A session that was used within so long is never given up for another."""
REQUEST_MAX = 1 << 62
SLOT_MASK = (1 << SLOT_BITS) - 1
WHO_WORDS = 2 + CALLER_WORDS  # identity and caller: what a session is found by
BITS_WORDS = WINDOW // 64
NEVER = (1 << 63) - 1


@kernel
def row_of(words: Words, session: int) -> int:
    """Word position of a session's row, or 0 when it is not known."""
    slot = session & SLOT_MASK
    if session <= 0 or slot >= words[SESSIONS_HIGH]:
        return 0
    row: int = words[SESSIONS] + slot * SESSION_WORDS
    return row if words[row + R_NUMBER] == session else 0


@kernel
def is_answered(words: Words, row: int, request: int) -> bool:
    """Of a request in the window."""
    spot = request & (WINDOW - 1)
    return bool(words[row + R_BITS + (spot >> 6)] >> (spot & 63) & 1 != 0)


@kernel
def set_answered(words: Words, row: int, request: int) -> int:
    """Note a request that is in the window or above it, which moves the window; returns 0."""
    high = words[row + R_MAX]
    if request - high >= WINDOW:
        clear(words, row + R_BITS, BITS_WORDS)
    else:
        for between in range(high + 1, request):
            spot = between & (WINDOW - 1)
            words[row + R_BITS + (spot >> 6)] &= ~(np.int64(1) << np.int64(spot & 63))
    words[row + R_MAX] = max(high, request)
    spot = request & (WINDOW - 1)
    words[row + R_BITS + (spot >> 6)] |= np.int64(1) << np.int64(spot & 63)
    return 0


@kernel
def look_up(words: Words, session: int, request: int) -> int:
    """Where the answer to a request is, or why there is none: REQUEST_NEW if it may run."""
    row = row_of(words, session)
    if row == 0:
        return REQUEST_EXPIRED
    if request < 1 or request > REQUEST_MAX:
        return REQUEST_NUMBER
    high = words[row + R_MAX]
    if request <= high - WINDOW:
        return REQUEST_FORGOTTEN
    if request > high or not is_answered(words, row, request):
        return REQUEST_NEW
    entry = find_answer(words, words[row + R_LAST], request)
    return entry if entry != 0 else REQUEST_FORGOTTEN


@kernel
def admit(words: Words, session: int, request: int, check: int) -> int:
    """What `look_up` says of a frame with this hash. If it may run, there is memory for its answer,
    and its request counts as answered from now on: it has to be remembered.
    """
    found = look_up(words, session, request)
    if found > 0:
        same = words[found + A_CHECK] == check or words[found + A_WHAT] & BURNT != 0
        return found if same else REQUEST_CONFLICT
    if found == REQUEST_NEW:
        if not has_room(words):
            return GROW_ANSWERS
        set_answered(words, row_of(words, session), request)
    return found


@kernel
def remember(words: Words, session: int, request: int, check: int, what: int, length: int) -> int:
    """Note that a request was answered; the answer's word position, or 0 without memory for it.

    It never runs again then, either.
    """
    row = row_of(words, session)
    if row == 0:
        return 0
    set_answered(words, row, request)
    words[row + R_USED] = words[NOW]
    before = words[row + R_LAST]
    position = append(words, request, check, what, length, words[SEQUENCE], before)
    if position < 0:
        return 0
    words[row + R_LAST] = position
    return entry_at(words, position)


@kernel
def open_session(words: Words) -> int:
    """The session of the identity and caller in S_ARGUMENT, opened if there is none; or a code.

    When all slots are in use, the one unused for longest is given up, if it is idle.
    """
    who = words[SCRATCH] + S_ARGUMENT
    high = words[SESSIONS_HIGH]
    slot = -1
    longest_unused = NEVER
    for each in range(high):
        row = words[SESSIONS] + each * SESSION_WORDS
        i = 0
        while i < WHO_WORDS and words[row + R_IDENTITY + i] == words[who + i]:
            i += 1
        if i == WHO_WORDS:
            words[row + R_USED] = words[NOW]
            known: int = words[row + R_NUMBER]
            return known
        if words[row + R_USED] < longest_unused:
            longest_unused = words[row + R_USED]
            slot = each
    if (high + 1) * SESSION_WORDS <= words[SESSIONS_WORDS]:
        if (high + 1) * SESSION_WORDS > words[SESSIONS_ALLOCATED]:
            return GROW_SESSIONS
        slot = high
        words[SESSIONS_HIGH] = high + 1
    elif words[NOW] - longest_unused <= SESSION_IDLE_NS:
        return REQUESTS_FULL
    row = words[SESSIONS] + slot * SESSION_WORDS
    clear(words, row, SESSION_WORDS)
    number: int = words[SEQUENCE] << SLOT_BITS | slot
    words[row + R_NUMBER] = number
    copy(words, who, row + R_IDENTITY, WHO_WORDS)
    words[row + R_USED] = words[NOW]
    return number


@kernel
def touch(words: Words, session: int) -> int:
    """Note that a session is in use; 0 when it is not known."""
    row = row_of(words, session)
    if row != 0:
        words[row + R_USED] = words[NOW]
    return row
