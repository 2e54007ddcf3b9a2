"""Ordered indexes: a B+tree over one pool of nodes for each index, and cursors that walk it.

A full node splits in half, except at the right end of the tree, where the new node starts with
the new entry alone: keys that only grow fill their nodes. A removal that leaves a node at most
half full joins it with a sibling when both fit in three quarters of a node. Hence two siblings
always hold more than half a node together, which bounds the pool (`nodes_for`), and a node on the
edge does not flap.

A cursor lives in scratch and remembers the entry it gave last. As long as VERSION, which counts
changes, has not moved, the next one is beside it; otherwise the cursor looks up where its last
entry would be and goes on from there. So it survives any change, also of the entry it stands on,
and never skips or repeats one. There are CURSORS of them; opening more than that loses the
oldest.
"""

from __future__ import annotations

from diptych.kernel import entry_kernel, kernel
from diptych.memory.layout import Words
from diptych.store.budget import is_over_budget
from diptych.store.descent import agrees, comparable, first_entry, is_before, prefetch_beside
from diptych.store.nodes import (
    ENTRY_SPACE,
    free_node,
    insert_entry,
    move_entries,
    remove_entry,
    take_node,
)
from diptych.store.undo import mark, rollback, save
from diptych.store.ways import find_way
from diptych.store.words import (
    C_HIGH,
    C_HIGH_COUNT,
    C_HIGH_OPEN,
    C_INDEX,
    C_LAST,
    C_LEAF,
    C_LOW,
    C_LOW_COUNT,
    C_POSITION,
    C_REVERSE,
    C_SERIAL,
    C_STARTED,
    C_VERSION,
    CURSOR_LOST,
    CURSOR_WORDS,
    CURSORS,
    ENTRY_COUNT,
    HEIGHT,
    HEIGHT_MAX,
    KEY_WORDS_MAX,
    N_COUNT,
    N_ENTRIES,
    NODE_WORDS,
    NOT_FOUND,
    NOT_UNIQUE,
    ORDER_VALID,
    OVER_BUDGET,
    ROOT,
    S_ARGUMENT,
    S_CURSOR_SERIAL,
    S_CURSORS,
    S_FAULT,
    S_KEY,
    S_PATH,
    SCRATCH,
    TABLE_FULL,
    UNDO_FULL,
    VERSION,
    W_KEY,
    X_KEYS,
    X_NODES,
    X_STATE,
    X_TEXT,
    X_UNIQUE,
)

STATE_CHANGED = VERSION + 1  # words of an index's state block that kernels change


def nodes_for(rows: int, keys: int) -> int:
    """The nodes that an index of `rows` entries with `keys` key words can ever need.

    In the worst case two sibling nodes hold half a node together, and one node in each group of
    siblings counts for nothing; ordinary use needs a third of this.
    """
    leaf = ENTRY_SPACE // (keys + 1)
    fanout = ENTRY_SPACE // (keys + 2)
    waste = 4 / (1 - 2 / (fanout // 2 + 1))
    leaves = rows * waste / leaf
    return int(leaves / (1 - waste / fanout)) + 4 * HEIGHT_MAX


@kernel
def has_none(words: Words, x: int, key: int) -> bool:
    """Whether None is in the comparable key words that stand from `key` on."""
    for i in range(words[x + X_KEYS]):
        if words[x + X_TEXT + i] == ORDER_VALID and words[key + i] == 0:
            return True
    return False


@kernel
def is_taken(words: Words, x: int, way: int) -> bool:
    """Whether an entry agrees with that of a way on all key words; None agrees with nothing.

    It would be next to where the way leads. Where that is not in the same leaf, look for it.
    """
    key = way + W_KEY
    keys = words[x + X_KEYS]
    if words[words[x + X_STATE] + ROOT] == 0 or has_none(words, x, key):
        return False
    leaf = words[way]
    position = words[way + 1]
    if 0 < position < words[leaf + N_COUNT]:
        after = leaf + N_ENTRIES + position * (keys + 1)
        return agrees(words, after, key, keys) or agrees(words, after - keys - 1, key, keys)
    entry = first_entry(words, x, key, keys, 0, 0)
    return entry >= 0 and agrees(words, entry, key, keys)


@kernel
def plant(words: Words, x: int, way: int) -> int:
    """Make an empty leaf the root, and a way lead there; 0 or a negative code."""
    state = words[x + X_STATE]
    node = take_node(words, x)
    if node < 0:
        return node
    words[state + ROOT] = node + 1
    words[state + HEIGHT] = 1
    words[way] = words[x + X_NODES] + node * NODE_WORDS
    words[way + 1] = 0
    return 0


@kernel
def grow_root(words: Words, x: int, key: int) -> int:
    """Put a new root above the old one and the node that the entry at `key` names; 0 or a code."""
    state = words[x + X_STATE]
    stride = words[x + X_KEYS] + 2
    if words[state + HEIGHT] == HEIGHT_MAX:
        words[words[SCRATCH] + S_FAULT] = x
        return TABLE_FULL
    number = take_node(words, x)
    if number < 0:
        return number
    root = words[x + X_NODES] + number * NODE_WORDS
    if not save(words, root, N_ENTRIES + 2 * stride):
        return UNDO_FULL
    words[root + N_COUNT] = 2
    words[root + N_ENTRIES + stride - 1] = words[state + ROOT]
    for i in range(stride):
        words[root + N_ENTRIES + stride + i] = words[key + i]
    words[state + ROOT] = number + 1
    words[state + HEIGHT] += 1
    return 0


@kernel
def is_rightmost(words: Words, x: int, way: int, level: int) -> bool:
    """Whether a way's node at `level` is the last of its level."""
    for above in range(level + 1, words[words[x + X_STATE] + HEIGHT]):
        if words[way + 2 * above + 1] != words[words[way + 2 * above] + N_COUNT] - 1:
            return False
    return True


@kernel
def split(words: Words, x: int, way: int, level: int, position: int, stride: int) -> int:
    """Split a way's node at `level`, full, and put the way's entry at `position` of the two.

    Leaves the entry for the level above in its place. 0 or a negative code.
    """
    key = way + W_KEY
    left = words[way + 2 * level]
    count = words[left + N_COUNT]
    number = take_node(words, x)
    if number < 0:
        return number
    right = words[x + X_NODES] + number * NODE_WORDS
    half = count // 2
    keep = half
    if position > half:
        keep = count if position == count and is_rightmost(words, x, way, level) else half + 1
    if not move_entries(words, left, keep, right, stride):
        return UNDO_FULL
    if position > half:
        done = insert_entry(words, right, position - keep, stride, key)
    else:
        done = insert_entry(words, left, position, stride, key)
    if not done:
        return UNDO_FULL
    # The right node's first entry bounds it from below; an inner node keeps no bound there itself.
    bound = words[x + X_KEYS] + 1
    for i in range(bound):
        words[key + i] = words[right + N_ENTRIES + i]
        if level > 0:
            words[right + N_ENTRIES + i] = 0
    words[key + bound] = number + 1
    return 0


@kernel
def enter(words: Words, x: int, way: int) -> int:
    """Put a way's entry where the way leads, and split upwards; 0 or a negative code."""
    key = way + W_KEY
    position = words[way + 1]
    stride = words[x + X_KEYS] + 1
    level = 0
    while True:
        node = words[way + 2 * level]
        if (words[node + N_COUNT] + 1) * stride <= ENTRY_SPACE:
            return 0 if insert_entry(words, node, position, stride, key) else UNDO_FULL
        failed = split(words, x, way, level, position, stride)
        if failed < 0:
            return failed
        level += 1
        if level == words[words[x + X_STATE] + HEIGHT]:
            return grow_root(words, x, key)
        position = words[way + 2 * level + 1] + 1
        stride = words[x + X_KEYS] + 2


@kernel
def add(words: Words, x: int, row: int) -> int:
    """Enter a row that is not in the index yet; 0, NOT_UNIQUE, or another negative code."""
    return add_on(words, x, find_way(words, x, row))


@kernel
def add_on(words: Words, x: int, way: int) -> int:
    """Enter the row whose way has been found; 0, NOT_UNIQUE, or another negative code."""
    state = words[x + X_STATE]
    start = mark(words)
    if words[x + X_UNIQUE] != 0 and is_taken(words, x, way):
        words[words[SCRATCH] + S_FAULT] = x
        return NOT_UNIQUE
    if not save(words, state, STATE_CHANGED):
        return UNDO_FULL
    words[state + ENTRY_COUNT] += 1
    words[state + VERSION] += 1
    failed = 0
    if words[state + ROOT] == 0:
        failed = plant(words, x, way)
    if failed == 0:
        failed = enter(words, x, way)
    if failed < 0:
        rollback(words, start)
    return failed


@kernel
def drop_child(words: Words, x: int, parent: int, position: int) -> bool:
    """Take an entry out of an inner node, whose first has no bound; False: undo full."""
    stride = words[x + X_KEYS] + 2
    if not remove_entry(words, parent, position, stride):
        return False
    if position == 0:
        for i in range(stride - 1):
            words[parent + N_ENTRIES + i] = 0
    return True


@kernel
def join(words: Words, x: int, parent: int, position: int, stride: int) -> int:
    """Move child `position` of a parent into the one before it when both fit in three quarters of
    a node.

    1 when it did, 0 when they do not fit, or UNDO_FULL.
    """
    above = words[x + X_KEYS] + 2
    bound = parent + N_ENTRIES + position * above
    nodes = words[x + X_NODES]
    left = nodes + (words[bound - 1] - 1) * NODE_WORDS
    right = nodes + (words[bound + above - 1] - 1) * NODE_WORDS
    if 4 * (words[left + N_COUNT] + words[right + N_COUNT]) * stride > 3 * ENTRY_SPACE:
        return 0
    middle = left + N_ENTRIES + words[left + N_COUNT] * stride
    if not move_entries(words, right, 0, left, stride):
        return UNDO_FULL
    if stride == above:
        for i in range(above - 1):
            words[middle + i] = words[bound + i]
    if not (free_node(words, x, right, stride) and drop_child(words, x, parent, position)):
        return UNDO_FULL
    return 1


@kernel
def join_down(words: Words, x: int, parent: int, position: int, level: int) -> int:
    """Join child `position` of a parent, at `level`, with the one before it if they fit; then
    those of their children that have become neighbours by it, and so on down.

    Without the second step small nodes on both sides of the seam would stay apart for good. 1 when
    the first two were joined, 0 when they do not fit, or UNDO_FULL.
    """
    first = 0
    while level >= 0:
        above = words[x + X_KEYS] + 2
        number = words[parent + N_ENTRIES + position * above - 1]
        left = words[x + X_NODES] + (number - 1) * NODE_WORDS
        seam = words[left + N_COUNT]
        joined = join(words, x, parent, position, above if level > 0 else above - 1)
        if joined <= 0:
            return joined if joined < 0 else first
        first = 1
        parent = left
        position = seam
        level -= 1
    return first


@kernel
def lower_root(words: Words, x: int, root: int, stride: int) -> int:
    """Drop a root that has nothing to choose from: the last leaf, empty, or an only child's parent.

    1 when it did, so that the next may follow, 0 when the root stays, or UNDO_FULL.
    """
    state = words[x + X_STATE]
    inner = words[state + HEIGHT] > 1
    if words[root + N_COUNT] > (1 if inner else 0):
        return 0
    words[state + ROOT] = words[root + N_ENTRIES + stride - 1] if inner else 0
    words[state + HEIGHT] -= 1
    return 1 if free_node(words, x, root, stride) else UNDO_FULL


@kernel
def shrink(words: Words, x: int, way: int) -> int:
    """Join nodes along a way, from the leaf up, after an entry left it; 0 or a negative code."""
    state = words[x + X_STATE]
    stride = words[x + X_KEYS] + 1
    top = words[state + HEIGHT] - 1
    for level in range(top):
        node = words[way + 2 * level]
        parent = words[way + 2 * level + 2]
        position = words[way + 2 * level + 3]
        count = words[node + N_COUNT]
        joined = 0
        if count == 0:
            joined = 1
            if not (free_node(words, x, node, stride) and drop_child(words, x, parent, position)):
                return UNDO_FULL
        elif 2 * count * stride <= ENTRY_SPACE:
            if position > 0:
                joined = join_down(words, x, parent, position, level)
            if joined == 0 and position + 1 < words[parent + N_COUNT]:
                joined = join_down(words, x, parent, position + 1, level)
        if joined <= 0:
            return joined
        stride = words[x + X_KEYS] + 2
    lowered = 1
    while lowered > 0 and words[state + ROOT] != 0:
        root = words[x + X_NODES] + (words[state + ROOT] - 1) * NODE_WORDS
        stride = words[x + X_KEYS] + (2 if words[state + HEIGHT] > 1 else 1)
        lowered = lower_root(words, x, root, stride)
    return lowered if lowered < 0 else 0


@kernel
def remove(words: Words, x: int, row: int) -> int:
    """Take a row out, while it still has its key; 0, NOT_FOUND, or UNDO_FULL."""
    return remove_on(words, x, find_way(words, x, row))


@kernel
def remove_on(words: Words, x: int, way: int) -> int:
    """Take out the row whose way has been found; 0, NOT_FOUND or UNDO_FULL."""
    state = words[x + X_STATE]
    if words[state + ROOT] == 0:
        return NOT_FOUND
    start = mark(words)
    key = way + W_KEY
    stride = words[x + X_KEYS] + 1
    leaf = words[way]
    position = words[way + 1] - 1
    if position < 0 or not agrees(words, leaf + N_ENTRIES + position * stride, key, stride):
        return NOT_FOUND
    if not save(words, state, STATE_CHANGED):
        return UNDO_FULL
    words[state + ENTRY_COUNT] -= 1
    words[state + VERSION] += 1
    failed = UNDO_FULL
    if remove_entry(words, leaf, position, stride):
        failed = shrink(words, x, way)
    if failed < 0:
        rollback(words, start)
    return failed


@entry_kernel
def open_cursor(
    words: Words, x: int, low_count: int, high_count: int, high_open: int, reverse: int
) -> int:
    """Begin a walk over the entries between two prefixes of the key; returns the cursor's serial.

    The raw words of the low bound stand in S_ARGUMENT and those of the high one KEY_WORDS_MAX
    further. Both bounds are inside, the high one not if `high_open`; a bound of 0 words is none.
    """
    scratch = words[SCRATCH]
    serial = words[scratch + S_CURSOR_SERIAL] + 1
    words[scratch + S_CURSOR_SERIAL] = serial
    block = scratch + S_CURSORS + serial % CURSORS * CURSOR_WORDS
    low_count = min(max(low_count, 0), words[x + X_KEYS])
    high_count = min(max(high_count, 0), words[x + X_KEYS])
    for i in range(low_count):
        words[block + C_LOW + i] = comparable(words, x, i, words[scratch + S_ARGUMENT + i])
    for i in range(high_count):
        word = words[scratch + S_ARGUMENT + KEY_WORDS_MAX + i]
        words[block + C_HIGH + i] = comparable(words, x, i, word)
    words[block + C_SERIAL] = serial
    words[block + C_INDEX] = x
    words[block + C_LOW_COUNT] = low_count
    words[block + C_HIGH_COUNT] = high_count
    words[block + C_HIGH_OPEN] = 1 if high_open != 0 and high_count > 0 else 0
    words[block + C_REVERSE] = 1 if reverse != 0 else 0
    words[block + C_STARTED] = 0
    opened: int = serial
    return opened


@kernel
def is_inside(words: Words, block: int, entry: int) -> bool:
    """Whether an entry has not passed the bound that a cursor walks towards."""
    if words[block + C_REVERSE] != 0:
        return not is_before(words, entry, block + C_LOW, words[block + C_LOW_COUNT], 0)
    equal = 1 - words[block + C_HIGH_OPEN]
    return is_before(words, entry, block + C_HIGH, words[block + C_HIGH_COUNT], equal)


@kernel
def resume(words: Words, block: int) -> int:
    """Descend to a cursor's next entry: the position of its words, or NOT_FOUND."""
    x = words[block + C_INDEX]
    reverse = words[block + C_REVERSE]
    if words[block + C_STARTED] != 0:
        return first_entry(words, x, block + C_LAST, words[x + X_KEYS] + 1, 1 - reverse, reverse)
    if reverse != 0:
        equal = 1 - words[block + C_HIGH_OPEN]
        return first_entry(words, x, block + C_HIGH, words[block + C_HIGH_COUNT], equal, 1)
    return first_entry(words, x, block + C_LOW, words[block + C_LOW_COUNT], 0, 0)


@entry_kernel
def advance(words: Words, serial: int) -> int:
    """The row of a cursor's next entry, NOT_FOUND at its end, CURSOR_LOST or OVER_BUDGET.

    A cursor at its end stays there: asked again it looks behind the last entry it gave.
    """
    if is_over_budget(words):
        return OVER_BUDGET
    block = words[SCRATCH] + S_CURSORS + serial % CURSORS * CURSOR_WORDS
    if serial <= 0 or words[block + C_SERIAL] != serial:
        return CURSOR_LOST
    x = words[block + C_INDEX]
    keys = words[x + X_KEYS]
    version = words[words[x + X_STATE] + VERSION]
    entry = NOT_FOUND
    direction = 1 if words[block + C_REVERSE] == 0 else -1
    undisturbed = words[block + C_STARTED] != 0 and words[block + C_VERSION] == version
    if undisturbed:
        leaf = words[block + C_LEAF]
        position = words[block + C_POSITION] + direction
        if 0 <= position < words[leaf + N_COUNT]:
            entry = leaf + N_ENTRIES + position * (keys + 1)
            words[block + C_POSITION] = position
    if entry < 0:
        entry = resume(words, block)
        if entry < 0:
            return NOT_FOUND
        if undisturbed:
            # It has walked through a whole leaf, so it will probably want the one after this.
            prefetch_beside(words, x, direction)
        words[block + C_LEAF] = words[words[SCRATCH] + S_PATH]
        words[block + C_POSITION] = words[words[SCRATCH] + S_PATH + 1]
        words[block + C_VERSION] = version
    if not is_inside(words, block, entry):
        return NOT_FOUND
    for i in range(keys + 1):
        words[block + C_LAST + i] = words[entry + i]
    words[block + C_STARTED] = 1
    row: int = words[entry + keys]
    return row


@entry_kernel
def first(words: Words, x: int, count: int, reverse: int) -> int:
    """The row of the first entry, in `reverse` the last, whose key begins with the `count` raw
    words in S_ARGUMENT; NOT_FOUND or OVER_BUDGET.
    """
    if is_over_budget(words):
        return OVER_BUDGET
    key = words[SCRATCH] + S_KEY
    count = min(max(count, 0), words[x + X_KEYS])
    for i in range(count):
        words[key + i] = comparable(words, x, i, words[words[SCRATCH] + S_ARGUMENT + i])
    entry = first_entry(words, x, key, count, 1 if reverse != 0 else 0, reverse)
    if entry < 0 or not agrees(words, entry, key, count):
        return NOT_FOUND
    row: int = words[entry + words[x + X_KEYS]]
    return row
