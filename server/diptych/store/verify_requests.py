"""Are sessions, answers and keys what they claim to be? Bounds, chains, bits and counters.

As `verify` for tables: reads all of it, changes nothing, stops at the first thing that is wrong.
"""

from __future__ import annotations

from diptych.kernel import bulk_kernel
from diptych.memory.layout import Words
from diptych.store.answers import DELTA_SHIFT, FIRST_POSITION, LENGTH_MASK, entry_at, is_kept
from diptych.store.keys import bucket_of, key_row, row_at, rows_max
from diptych.store.sessions import REQUEST_MAX, SLOT_MASK, is_answered
from diptych.store.spans import is_zero
from diptych.store.words import (
    A_LENGTHS,
    A_PAYLOAD,
    A_REQUEST,
    A_SEQUENCE,
    ANSWERS,
    ANSWERS_ALLOCATED,
    ANSWERS_HEAD,
    ANSWERS_WORDS,
    K_INLINE,
    K_LENGTH,
    K_NAME,
    K_NEXT,
    K_POSITION,
    K_SEQUENCE,
    K_TIME,
    KEY_BUCKETS,
    KEY_INLINE_BYTES,
    KEY_ROW_WORDS,
    KEYS,
    KEYS_ALLOCATED,
    KEYS_HEAD,
    KEYS_TAIL,
    KEYS_WORDS,
    NOW,
    R_BITS,
    R_LAST,
    R_MAX,
    R_NUMBER,
    R_USED,
    SEQUENCE,
    SESSION_WORDS,
    SESSIONS,
    SESSIONS_ALLOCATED,
    SESSIONS_HIGH,
    SESSIONS_WORDS,
    SLOT_BITS,
    WINDOW,
)

RANGES = 1
SESSION_ROW = 2
SESSION_BITS = 3
CHAIN = 4
ANSWER = 5
ANSWER_BITS = 6
NOT_ZERO = 7
KEY_COUNTERS = 8
KEY_ROW = 9
KEY_CHAIN = 10

EXPLANATIONS = {
    RANGES: "the counters of sessions, answers or keys contradict their memory",
    SESSION_ROW: "a session's number or time can't be",
    SESSION_BITS: "a session's window does not hold its highest request, or one above it",
    CHAIN: "a session's answers lead to a place that is none",
    ANSWER: "an answer's number, length or transaction can't be",
    ANSWER_BITS: "there is an answer to a request that its session takes for new",
    NOT_ZERO: "unused memory of sessions, answers or keys is not zero",
    KEY_COUNTERS: "the counters of keys contradict each other",
    KEY_ROW: "a remembered key's time, transaction or answer can't be",
    KEY_CHAIN: "a remembered key is missing from the hash, or there twice",
}


@bulk_kernel
def check_ranges(words: Words) -> int:
    """Counters against memory, memory against the ranges' length."""
    high = words[SESSIONS_HIGH]
    if not 0 <= high * SESSION_WORDS <= words[SESSIONS_ALLOCATED] <= words[SESSIONS_WORDS]:
        return RANGES
    start = words[SESSIONS]
    if not is_zero(words, start + high * SESSION_WORDS, start + words[SESSIONS_ALLOCATED]):
        return NOT_ZERO
    head = words[ANSWERS_HEAD]
    if (
        head < FIRST_POSITION
        or head % 8
        or not 0 <= words[ANSWERS_ALLOCATED] <= words[ANSWERS_WORDS]
    ):
        return RANGES
    if head < words[ANSWERS_WORDS] * 8 and words[ANSWERS_ALLOCATED] > 0:
        start = words[ANSWERS]
        if not is_zero(words, start + head // 8, start + words[ANSWERS_ALLOCATED]):
            return NOT_ZERO
    return 0


@bulk_kernel
def check_answers(words: Words, row: int) -> int:
    """The chain of one session's answers, from the last one back to what is written over."""
    position = words[row + R_LAST]
    if position >= words[ANSWERS_HEAD] or position < 0:
        return CHAIN
    later = words[SEQUENCE] + 1
    while is_kept(words, position):
        offset = position % (words[ANSWERS_WORDS] * 8)
        if position % 8 or offset // 8 + A_PAYLOAD > words[ANSWERS_ALLOCATED]:
            return CHAIN
        entry = entry_at(words, position)
        length = words[entry + A_LENGTHS] & LENGTH_MASK
        size = A_PAYLOAD + (length + 7) // 8
        if position + size * 8 > words[ANSWERS_HEAD]:
            return ANSWER
        if offset // 8 + size > words[ANSWERS_ALLOCATED]:
            return ANSWER
        request = words[entry + A_REQUEST]
        if not 1 <= request <= words[row + R_MAX]:
            return ANSWER
        if not 1 <= words[entry + A_SEQUENCE] < later:
            return ANSWER
        later = words[entry + A_SEQUENCE]
        if request > words[row + R_MAX] - WINDOW and not is_answered(words, row, request):
            return ANSWER_BITS
        delta = words[entry + A_LENGTHS] >> DELTA_SHIFT
        if delta < 0 or delta >= position:
            return CHAIN
        if delta == 0:
            return 0
        position -= delta
    return 0


@bulk_kernel
def check_session(words: Words, slot: int) -> int:
    """One session's row, and what it was answered."""
    row = words[SESSIONS] + slot * SESSION_WORDS
    number = words[row + R_NUMBER]
    if number & SLOT_MASK != slot or not 1 <= number >> SLOT_BITS <= words[SEQUENCE]:
        return SESSION_ROW
    if words[row + R_USED] > words[NOW] or not is_zero(words, row + R_LAST + 1, row + R_BITS):
        return SESSION_ROW
    high = words[row + R_MAX]
    if not 0 <= high <= REQUEST_MAX or (high > 0 and not is_answered(words, row, high)):
        return SESSION_BITS
    for above in range(high + 1, WINDOW + 1):  # what the window has never held
        if is_answered(words, row, above):
            return SESSION_BITS
    return check_answers(words, row)


@bulk_kernel
def check_key(words: Words, count: int) -> int:
    """One remembered key's row."""
    row = key_row(words, count)
    if words[row + K_TIME] > words[NOW] or not 1 <= words[row + K_SEQUENCE] <= words[SEQUENCE]:
        return KEY_ROW
    length = words[row + K_LENGTH]
    if length < 0 or words[row + K_POSITION] < 0 or words[row + K_POSITION] % 8:
        return KEY_ROW
    if words[row + K_POSITION] >= words[ANSWERS_HEAD]:
        return KEY_ROW
    inline = (length + 7) // 8 if length <= KEY_INLINE_BYTES else 0
    return 0 if is_zero(words, row + K_INLINE + inline, row + KEY_ROW_WORDS) else NOT_ZERO


@bulk_kernel
def check_keys(words: Words) -> int:
    """Counters, rows, and that each row is in its bucket once."""
    head = words[KEYS_HEAD]
    tail = words[KEYS_TAIL]
    buckets = words[KEY_BUCKETS]
    if not 0 <= tail <= head <= tail + rows_max(words) or words[KEYS_ALLOCATED] > words[KEYS_WORDS]:
        return KEY_COUNTERS
    if head == 0:
        return 0 if is_zero(words, words[KEYS], words[KEYS] + words[KEYS_ALLOCATED]) else NOT_ZERO
    rows = (words[KEYS_ALLOCATED] - buckets) // KEY_ROW_WORDS
    if min(head, rows_max(words)) > rows:
        return KEY_COUNTERS
    for count in range(tail, head):
        code = check_key(words, count)
        if code != 0:
            return code
    # With every link from a row in use to its own bucket, as many links as rows are all of them.
    links = 0
    for bucket in range(words[KEYS], words[KEYS] + buckets):
        link = words[bucket]
        while link != 0:
            links += 1
            if not 1 <= link <= rows or links > head - tail:
                return KEY_CHAIN
            slot = link - 1
            if (slot - tail) % rows_max(words) >= head - tail:
                return KEY_CHAIN
            row = row_at(words, link)
            if bucket_of(words, row + K_NAME) != bucket:
                return KEY_CHAIN
            link = words[row + K_NEXT]
    if links != head - tail:
        return KEY_CHAIN
    start = words[KEYS] + buckets
    for slot in range(rows):
        unused = (slot - tail) % rows_max(words) >= head - tail
        row = start + slot * KEY_ROW_WORDS
        if unused and not is_zero(words, row, row + KEY_ROW_WORDS):
            return NOT_ZERO
    return 0


@bulk_kernel
def check_requests(words: Words) -> int:
    """0 when all is sound, else the number of the first thing found wrong (EXPLANATIONS)."""
    code = check_ranges(words)
    if code != 0:
        return code
    for slot in range(words[SESSIONS_HIGH]):
        code = check_session(words, slot)
        if code != 0:
            return code
    return check_keys(words)
