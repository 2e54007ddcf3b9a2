"""Nodes of an ordered index: the pool they come from, and entries moved in and out of one.

A node is NODE_WORDS words: its number of entries, a link used by free nodes only, and the entries
in order. What lies behind the last entry is zero, and so is all of a free node but its link,
which makes the bytes a function of what was done. `stride` is the length of an entry: comparable
key words and row, and in an inner node the child's number + 1 behind them.

Descending, splitting and merging are `btree`'s.
"""

from __future__ import annotations

from diptych.kernel import kernel
from diptych.memory.layout import Words
from diptych.store.spans import clear, copy, shift_up
from diptych.store.undo import keep, put, save
from diptych.store.words import (
    GROW_INDEX,
    N_COUNT,
    N_ENTRIES,
    N_LINK,
    NODE_FREE,
    NODE_HIGH,
    NODE_WORDS,
    S_FAULT,
    SCRATCH,
    TABLE_FULL,
    UNDO_FULL,
    X_NODES,
    X_NODES_ALLOCATED,
    X_NODES_MAX,
    X_STATE,
)

ENTRY_SPACE = NODE_WORDS - N_ENTRIES


@kernel
def take_node(words: Words, x: int) -> int:
    """The number of a zeroed node, or a negative code."""
    state = words[x + X_STATE]
    node = words[state + NODE_FREE] - 1
    if node >= 0:
        link = words[x + X_NODES] + node * NODE_WORDS + N_LINK
        if not (put(words, state + NODE_FREE, words[link]) and put(words, link, 0)):
            return UNDO_FULL
    else:
        node = words[state + NODE_HIGH]
        if node >= words[x + X_NODES_ALLOCATED] or node >= words[x + X_NODES_MAX]:
            words[words[SCRATCH] + S_FAULT] = x
            return TABLE_FULL if node >= words[x + X_NODES_MAX] else GROW_INDEX
        if not put(words, state + NODE_HIGH, node + 1):
            return UNDO_FULL
    taken: int = node
    return taken


@kernel
def free_node(words: Words, x: int, node: int, stride: int) -> bool:
    """Zero the node at position `node` and list it; False when the undo log is full."""
    state = words[x + X_STATE]
    used = N_ENTRIES + words[node + N_COUNT] * stride
    if not save(words, node, used):
        return False
    clear(words, node, used)
    words[node + N_LINK] = words[state + NODE_FREE]
    number = (node - words[x + X_NODES]) // NODE_WORDS
    return put(words, state + NODE_FREE, number + 1)


@kernel
def insert_entry(words: Words, node: int, position: int, stride: int, entry: int) -> bool:
    """Copy the entry at word `entry` to `position` of a node with room; False: undo full."""
    count = words[node + N_COUNT]
    at = node + N_ENTRIES + position * stride
    above = (count - position) * stride
    old = keep(words, at, above + stride)
    if old < 0 and not save(words, at, above + stride):
        return False
    if not put(words, node + N_COUNT, count + 1):
        return False
    if old >= 0:
        # From the undo log, which lies apart: moved within the node, word must follow word.
        copy(words, old, at + stride, above)
    else:
        shift_up(words, at, above, stride)
    copy(words, entry, at, stride)
    return True


@kernel
def remove_entry(words: Words, node: int, position: int, stride: int) -> bool:
    """Take the entry at `position` out; False: undo full."""
    count = words[node + N_COUNT]
    at = node + N_ENTRIES + position * stride
    above = (count - 1 - position) * stride
    old = keep(words, at, above + stride)
    if old < 0 and not save(words, at, above + stride):
        return False
    if not put(words, node + N_COUNT, count - 1):
        return False
    copy(words, (at if old < 0 else old) + stride, at, above)
    clear(words, at + above, stride)
    return True


@kernel
def move_entries(words: Words, source: int, first: int, target: int, stride: int) -> bool:
    """Move a node's entries from `first` on behind those of another; False: undo full."""
    kept = words[target + N_COUNT]
    moved = words[source + N_COUNT] - first
    if moved == 0:
        return True
    old = source + N_ENTRIES + first * stride
    new = target + N_ENTRIES + kept * stride
    size = moved * stride
    if not (save(words, old, size) and save(words, new, size)):
        return False
    copy(words, old, new, size)
    clear(words, old, size)
    return put(words, source + N_COUNT, first) and put(words, target + N_COUNT, kept + moved)
