"""Lists and sets of ints that a compiled handler builds, in an area of the scratch.

The area is the call's own: each call begins with all of it, nothing in it is given back, and what
does not fit ends as a negative number, so that the interpreter takes the call.

Lists keep their items one after another, `item_words` each, and move when they grow. Sets are
tables of a power of two places, half of them empty, each a flag and an int, found by probing from
place to place.
"""

from __future__ import annotations

from diptych.kernel import kernel
from diptych.memory.layout import Words
from diptych.store.words import (
    B_COUNT,
    B_ITEMS,
    B_ROOM,
    BUILT_HEADER_WORDS,
    BUILT_WORDS,
    S_BUILT,
    S_BUILT_USED,
    SCRATCH,
)

LIST_ROOM = 16  # items that a list takes memory for at first
SET_ROOM = 32
SPREAD = 0x9E3779B1  # odd, of 32 bits
MASK_31 = 0x7FFFFFFF


@kernel
def take(words: Words, count: int) -> int:
    """So many words of the area: the position of the first, or -1 when they are not there."""
    scratch = words[SCRATCH]
    used = words[scratch + S_BUILT_USED]
    if count > BUILT_WORDS - used:
        return -1
    words[scratch + S_BUILT_USED] = used + count
    place: int = scratch + S_BUILT + used
    return place


@kernel
def empty(words: Words) -> int:
    """A new list or set: the position of its header, or -1."""
    header = take(words, BUILT_HEADER_WORDS)
    if header >= 0:
        words[header + B_COUNT] = words[header + B_ROOM] = words[header + B_ITEMS] = 0
    return header


@kernel
def append(words: Words, header: int, item_words: int) -> int:
    """Make room for one more item in a list: the position of that item, or -1."""
    count, items = words[header + B_COUNT], words[header + B_ITEMS]
    if count == words[header + B_ROOM]:
        room = max(LIST_ROOM, 2 * count)
        moved = take(words, room * item_words)
        if moved < 0:
            return -1
        for i in range(count * item_words):
            words[moved + i] = words[items + i]
        items = moved
        words[header + B_ROOM], words[header + B_ITEMS] = room, items
    words[header + B_COUNT] = count + 1
    place: int = items + count * item_words
    return place


@kernel
def place_in_set(words: Words, header: int, value: int) -> int:
    """Where an int is in a set that has room, or else where it would go."""
    mask = 2 * words[header + B_ROOM] - 1
    mixed = (value ^ value >> 31 ^ value >> 62) & MASK_31
    number = (mixed * SPREAD >> 16) & mask
    place: int = words[header + B_ITEMS] + 2 * number
    while words[place] != 0 and words[place + 1] != value:
        number = (number + 1) & mask
        place = words[header + B_ITEMS] + 2 * number
    return place


@kernel
def set_contains(words: Words, header: int, value: int) -> int:
    """1 when the int is in the set, else 0."""
    if words[header + B_ROOM] == 0:
        return 0
    return 1 if words[place_in_set(words, header, value)] != 0 else 0


@kernel
def set_add(words: Words, header: int, value: int) -> int:
    """Put an int into a set: 0, or -1 when there is no memory for more."""
    if words[header + B_COUNT] == words[header + B_ROOM]:
        old, items = 2 * words[header + B_ROOM], words[header + B_ITEMS]
        room = max(SET_ROOM, old)
        moved = take(words, 4 * room)
        if moved < 0:
            return -1
        for i in range(2 * room):
            words[moved + 2 * i] = 0
        words[header + B_ROOM], words[header + B_ITEMS] = room, moved
        for i in range(old):
            if words[items + 2 * i] != 0:
                again = words[items + 2 * i + 1]
                place = place_in_set(words, header, again)
                words[place], words[place + 1] = 1, again
    place = place_in_set(words, header, value)
    if words[place] == 0:
        words[place], words[place + 1] = 1, value
        words[header + B_COUNT] += 1
    return 0
