"""The ways to a row's places in all indexes of its table, found at the same time.

In a large index most of a descent is waiting for memory. So the descents for one row go down
together, a level of each in turn: while one waits, the next is searched. A way is a path like that
of a `seek`, and the row's entry behind it, in scratch. A change to one index leaves the ways in the
others right.
"""

from __future__ import annotations

from diptych.kernel import kernel
from diptych.memory.layout import Words
from diptych.store.descent import child_of, prefetch_node, search, seek_path, write_entry
from diptych.store.words import (
    HEIGHT,
    INDEX_WORDS,
    NODE_WORDS,
    ROOT,
    S_WAYS,
    SCRATCH,
    T_INDEX,
    T_INDEXES,
    W_KEY,
    W_LEVEL,
    W_NODE,
    WAY_WORDS,
    X_KEYS,
    X_NODES,
    X_STATE,
)


@kernel
def way_of(words: Words, number: int) -> int:
    """The position of the way in index number `number` of a table."""
    way: int = words[SCRATCH] + S_WAYS + number * WAY_WORDS
    return way


@kernel
def find_ways(words: Words, t: int, row: int) -> int:
    """Find the way to each place of a row, returns 0."""
    count = words[t + T_INDEXES]
    top = 0
    for i in range(count):
        x = t + T_INDEX + i * INDEX_WORDS
        way = way_of(words, i)
        state = words[x + X_STATE]
        height = words[state + HEIGHT]
        root = words[x + X_NODES] + (words[state + ROOT] - 1) * NODE_WORDS
        write_entry(words, x, row, way + W_KEY)
        words[way + W_LEVEL] = height - 1
        words[way + W_NODE] = root
        top = max(top, height)
    for _ in range(top):
        for i in range(count):
            way = way_of(words, i)
            if words[way + W_LEVEL] >= 0:
                descend(words, t + T_INDEX + i * INDEX_WORDS, way)
    return 0


@kernel
def descend(words: Words, x: int, way: int) -> int:
    """Go one level down a way; returns 0."""
    level = words[way + W_LEVEL]
    node = words[way + W_NODE]
    count = words[x + X_KEYS] + 1
    position = search(words, node, level, count, way + W_KEY, count, 1)
    words[way + 2 * level] = node
    words[way + 2 * level + 1] = position
    words[way + W_LEVEL] = level - 1
    if level > 0:
        child = child_of(words, x, node, position)
        prefetch_node(words, child)
        words[way + W_NODE] = child
    return 0


@kernel
def find_way(words: Words, x: int, row: int) -> int:
    """Find the way to a row's place in one index alone; it is that of index number 0."""
    way = way_of(words, 0)
    key = write_entry(words, x, row, way + W_KEY)
    if words[words[x + X_STATE] + ROOT] != 0:
        seek_path(words, x, way, key, words[x + X_KEYS] + 1, 1)
    return way
