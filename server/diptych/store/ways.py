"""The ways to a row's places in all indexes of its table, found at the same time.

In a large index most of a descent is waiting for memory. So the descents for one row go down
together, a level of each in turn: while one waits, the next is searched. The ways lie in scratch
until `take_way` puts one where `descent` would have left it; a change to one index leaves those of
the others right.
"""

from __future__ import annotations

from diptych.kernel import kernel
from diptych.memory.layout import Words
from diptych.store.descent import child_of, prefetch_node, search, write_entry
from diptych.store.spans import copy
from diptych.store.words import (
    HEIGHT,
    INDEX_WORDS,
    NODE_WORDS,
    ROOT,
    S_KEY,
    S_PATH,
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
def find_ways(words: Words, t: int, row: int) -> int:
    """Find the way to each place of a row, as `seek` would with the whole entry; returns 0."""
    first = words[SCRATCH] + S_WAYS
    count = words[t + T_INDEXES]
    top = 0
    for i in range(count):
        x = t + T_INDEX + i * INDEX_WORDS
        way = first + i * WAY_WORDS
        state = words[x + X_STATE]
        height = words[state + HEIGHT]
        root = words[x + X_NODES] + (words[state + ROOT] - 1) * NODE_WORDS
        if height > 0:
            prefetch_node(words, root)
        write_entry(words, x, row, way + W_KEY)
        words[way + W_LEVEL] = height - 1
        words[way + W_NODE] = root
        top = max(top, height)
    for _ in range(top):
        for i in range(count):
            way = first + i * WAY_WORDS
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
def take_way(words: Words, x: int, number: int) -> int:
    """Leave the way in index number `number` of the table in S_PATH, and the entry in S_KEY, whose
    position is returned.
    """
    scratch = words[SCRATCH]
    way = scratch + S_WAYS + number * WAY_WORDS
    copy(words, way, scratch + S_PATH, 2 * words[words[x + X_STATE] + HEIGHT])
    copy(words, way + W_KEY, scratch + S_KEY, words[x + X_KEYS] + 1)
    key: int = scratch + S_KEY
    return key
