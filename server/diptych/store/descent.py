"""Finding the way in an ordered index: comparable keys, descents from the root, steps between
leaves.

An entry is the row's key words in comparable form followed by the row number, so that all entries
differ. Text is byte-swapped and its sign turned, the bits of a negative float are turned but for
the sign, after which plain signed comparison orders every word.

A descent leaves its path in scratch (S_PATH: node and entry number, from the leaf up). Leaves are
not linked: a step to the next one goes over the path, once in a leaf's length, and in return a
change touches no neighbours. Nothing here writes to the region.
"""

from __future__ import annotations

import numpy as np

from diptych.kernel import kernel
from diptych.memory.layout import Words
from diptych.store.fields import get_value
from diptych.store.prefetch import prefetch
from diptych.store.words import (
    HEIGHT,
    N_COUNT,
    N_ENTRIES,
    NODE_WORDS,
    NOT_FOUND,
    ORDER_FLOAT,
    ORDER_INT,
    ORDER_UNSIGNED,
    ORDER_VALID,
    ROOT,
    S_KEY,
    S_PATH,
    SCRATCH,
    X_KEYS,
    X_NODES,
    X_STATE,
    X_TABLE,
    X_TEXT,
    X_VALUE,
)

LINE_WORDS = 8
INT_MAX = (1 << 63) - 1
SIGN = np.uint64(1 << 63)
SWAP_8 = np.uint64(0x00FF00FF00FF00FF)
SWAP_16 = np.uint64(0x0000FFFF0000FFFF)
SHIFT_8 = np.uint64(8)
SHIFT_16 = np.uint64(16)
SHIFT_32 = np.uint64(32)


@kernel
def comparable(words: Words, x: int, position: int, word: int) -> int:
    """A key word in the form that signed comparison orders, and back again."""
    kind = words[x + X_TEXT + position]
    if kind in (ORDER_INT, ORDER_VALID):
        return word
    if kind == ORDER_FLOAT:
        return word ^ (word >> 63 & INT_MAX)
    if kind == ORDER_UNSIGNED:
        return int(np.int64(np.uint64(np.int64(word)) ^ SIGN))
    swapped = np.uint64(word)
    swapped = (swapped >> SHIFT_8 & SWAP_8) | (swapped & SWAP_8) << SHIFT_8
    swapped = (swapped >> SHIFT_16 & SWAP_16) | (swapped & SWAP_16) << SHIFT_16
    swapped = swapped >> SHIFT_32 | swapped << SHIFT_32
    return int(np.int64(swapped ^ SIGN))


@kernel
def write_entry(words: Words, x: int, row: int, key: int) -> int:
    """Write the entry of a row to position `key`, which is returned."""
    t = words[x + X_TABLE]
    keys = words[x + X_KEYS]
    for i in range(keys):
        value = words[x + X_VALUE + i]
        words[key + i] = comparable(words, x, i, get_value(words, t, value, row))
    words[key + keys] = row
    return key


@kernel
def entry_of(words: Words, x: int, row: int) -> int:
    """Write the entry of a row to S_KEY and return its position."""
    return write_entry(words, x, row, words[SCRATCH] + S_KEY)


@kernel
def is_before(words: Words, entry: int, key: int, count: int, equal: int) -> bool:
    """Whether `count` words at `entry` come before those at `key`; when they are equal: `equal`."""
    for i in range(count):
        mine, other = words[np.uint64(entry + i)], words[np.uint64(key + i)]
        if mine != other:
            return bool(mine < other)
    return equal != 0


@kernel
def agrees(words: Words, entry: int, key: int, count: int) -> bool:
    """Whether the first `count` words at `entry` are those at `key`."""
    i = 0
    while i < count and words[entry + i] == words[key + i]:
        i += 1
    return i == count


@kernel
def common_words(words: Words, one: int, other: int, key: int, count: int) -> int:
    """How many of the first `count` words at `key` are also those of two entries."""
    i = np.uint64(0)
    while i < np.uint64(count):
        sought = words[np.uint64(key) + i]
        if words[np.uint64(one) + i] != sought or words[np.uint64(other) + i] != sought:
            break
        i += np.uint64(1)
    return int(np.int64(i))


@kernel
def search(
    words: Words, node: int, level: int, entry_words: int, key: int, count: int, equal: int
) -> int:
    """The number of a leaf's first entry that is not before the key, or of the child to go down to.

    `entry_words`: key words and row. Without branches on what it compares: which half a key is in
    can't be predicted, and a wrong guess costs more than all the comparisons of a step.
    """
    # An inner node's entry 0 has no bound: it is before every key.
    inner = 1 if level > 0 else 0
    stride = entry_words + inner
    low = inner
    left = words[np.uint64(node + N_COUNT)] - inner
    first = node + N_ENTRIES
    # Keys that only grow belong behind the last entry: those are told at once.
    last = first + (left + inner - 1) * stride
    if left > 0 and is_before(words, last, key, count, equal):
        found: int = left
        return found
    # Words that the key has in common with the first and the last entry, it has with all.
    common = common_words(words, first + inner * stride, last, key, count) if left > 0 else 0
    while left > 0:
        half = (left + 1) >> 1
        middle = first + (low + half - 1) * stride
        before = np.int64(equal)
        for i in range(count - 1, common - 1, -1):
            mine, other = words[np.uint64(middle + i)], words[np.uint64(key + i)]
            before = np.int64(mine < other) | (np.int64(mine == other) & before)
        low += -before & half
        left -= half
    return low - inner


@kernel
def child_of(words: Words, x: int, node: int, position: int) -> int:
    """The node that entry `position` of an inner node leads to."""
    stride = words[x + X_KEYS] + 2
    number = words[node + N_ENTRIES + position * stride + stride - 1]
    child: int = words[x + X_NODES] + (number - 1) * NODE_WORDS
    return child


@kernel
def prefetch_node(words: Words, node: int) -> int:
    """Ask for all of a node."""
    for line in range(0, NODE_WORDS, LINE_WORDS):
        prefetch(words, node + line)
    return 0


@kernel
def seek(words: Words, x: int, key: int, count: int, equal: int) -> int:
    """`seek_path` with the path in S_PATH."""
    return seek_path(words, x, words[SCRATCH] + S_PATH, key, count, equal)


@kernel
def seek_path(words: Words, x: int, path: int, key: int, count: int, equal: int) -> int:
    """Descend to where `count` key words at `key` belong and leave the way there at `path`.

    The position in the leaf, also returned, is that of the first entry that is not before the
    key, in the sense of `is_before`; it is the leaf's count when that entry opens the next leaf.
    The tree is not empty.
    """
    state = words[x + X_STATE]
    level = words[state + HEIGHT] - 1
    entry_words = words[x + X_KEYS] + 1
    node = words[x + X_NODES] + (words[state + ROOT] - 1) * NODE_WORDS
    while True:
        prefetch_node(words, node)
        position = search(words, node, level, entry_words, key, count, equal)
        words[path + 2 * level] = node
        words[path + 2 * level + 1] = position
        if level == 0:
            return position
        node = child_of(words, x, node, position)
        level -= 1


@kernel
def step(words: Words, x: int, direction: int) -> int:
    """Move the path to the leaf beside its own: 1 to the right, at its first entry, or -1 to the
    left, at its last. The position of the entry's words, or NOT_FOUND at the end.
    """
    path = words[SCRATCH] + S_PATH
    nodes = words[x + X_NODES]
    height = words[words[x + X_STATE] + HEIGHT]
    stride = words[x + X_KEYS] + 2
    level = 1
    while level < height:
        position = words[path + 2 * level + 1] + direction
        if 0 <= position < words[words[path + 2 * level] + N_COUNT]:
            words[path + 2 * level + 1] = position
            break
        level += 1
    if level >= height:
        return NOT_FOUND
    while level > 0:
        child = (
            words[path + 2 * level] + N_ENTRIES + words[path + 2 * level + 1] * stride + stride - 1
        )
        node = nodes + (words[child] - 1) * NODE_WORDS
        level -= 1
        words[path + 2 * level] = node
        words[path + 2 * level + 1] = 0 if direction > 0 else words[node + N_COUNT] - 1
    entry: int = words[path] + N_ENTRIES + words[path + 1] * (stride - 1)
    return entry


@kernel
def prefetch_beside(words: Words, x: int, direction: int) -> int:
    """Ask for the leaf beside the path's own under the same parent, if there is one: returns 0."""
    path = words[SCRATCH] + S_PATH
    if words[words[x + X_STATE] + HEIGHT] > 1:
        parent = words[path + 2]
        position = words[path + 3] + direction
        if 0 <= position < words[parent + N_COUNT]:
            prefetch_node(words, child_of(words, x, parent, position))
    return 0


@kernel
def entry_at(words: Words, x: int, position: int) -> int:
    """The position of the words of entry `position` of the path's leaf.

    One behind its last means the first of the next leaf, and -1 the last of the leaf before;
    NOT_FOUND when there is none. Moves the path along.
    """
    leaf = words[words[SCRATCH] + S_PATH]
    if position < 0:
        return step(words, x, -1)
    if position >= words[leaf + N_COUNT]:
        return step(words, x, 1)
    words[words[SCRATCH] + S_PATH + 1] = position
    entry: int = leaf + N_ENTRIES + position * (words[x + X_KEYS] + 1)
    return entry


@kernel
def first_entry(words: Words, x: int, key: int, count: int, equal: int, reverse: int) -> int:
    """The entry at which a walk starts: the first that is not before the key, or in `reverse` the
    last that is. The position of its words, or NOT_FOUND.
    """
    if words[words[x + X_STATE] + ROOT] == 0:
        return NOT_FOUND
    position = seek(words, x, key, count, equal)
    return entry_at(words, x, position - (1 if reverse != 0 else 0))
