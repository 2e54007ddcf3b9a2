"""Lists that a compiled handler builds, in an area of the scratch.

The area is the call's own: each call begins with all of it, nothing in it is given back, and what
does not fit ends as a negative number, so that the interpreter takes the call. Lists keep their
items one after another, `item_words` each, and move when they grow.
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
