"""Is a table what it claims to be? Counters, lists, hash, indexes and heap against its rows.

`check` reads all memory that a table has and changes none of it; a byte a row, a node and a used
word of the heap is its only allocation. It stops at the first thing that is wrong and returns a
number for it, which `explain` puts into words. Besides what lookups rely on, it holds the store to
its promise that unused memory is zero, which replay and comparison byte by byte rest on.

It costs about as much as entering every row into a hash and its indexes anew: 0.3 us a row with one
index and one value in the heap, half of that for the value. A transaction must not be running, or
its own half-done work is what is judged.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from diptych.kernel import bulk_kernel
from diptych.memory.layout import Words
from diptych.store.btree import has_none
from diptych.store.descent import agrees, entry_of, is_before
from diptych.store.fields import get_value
from diptych.store.hashing import bucket_of, find_at, hash_row
from diptych.store.nodes import ENTRY_SPACE
from diptych.store.slots import LIVE
from diptych.store.spans import is_zero
from diptych.store.verify_heap import EXPLANATIONS as HEAP_EXPLANATIONS
from diptych.store.verify_heap import check_heap
from diptych.store.words import (
    AUTO_LAST,
    BUCKET_COUNT,
    ENTRY_COUNT,
    FREE,
    HEIGHT,
    HEIGHT_MAX,
    INDEX_WORDS,
    N_COUNT,
    N_ENTRIES,
    N_LINK,
    NODE_FREE,
    NODE_HIGH,
    NODE_WORDS,
    PACK_ROWS,
    PENDING,
    PENDING_LAST,
    ROOT,
    ROW_COUNT,
    ROW_HIGH,
    S_KEY,
    SCRATCH,
    T_ALLOCATED,
    T_AUTO,
    T_BASE,
    T_BUCKETS,
    T_CAPACITY,
    T_HEAPS,
    T_INDEX,
    T_INDEXES,
    T_LIVE,
    T_NEXT,
    T_PACK,
    T_STATE,
    T_STRIDE,
    T_VALUES,
    X_KEYS,
    X_NODES,
    X_NODES_ALLOCATED,
    X_NODES_MAX,
    X_STATE,
    X_TABLE,
    X_UNIQUE,
)

Marks = npt.NDArray[np.uint8]

BUCKETS_FIRST = 8
VALID_PACK = 6  # a bit a row: only what tells values from None is packed like that

COUNTERS = 1
LIVE_COUNT = 2
FREE_LIST = 3
NOT_ZERO = 4
BUCKETS = 5
CHAIN_ROW = 6
CHAIN_PLACE = 7
CHAIN_COUNT = 8
SAME_KEY = 9
AUTO_KEY = 10
NONE_VALUE = 11
# 12 to 16 are the heap's.
# Codes of index number i are these plus INDEX_CODES * (i + 1).
INDEX_CODES = 100
TREE_COUNTERS = 51
TREE_NODE = 52
TREE_FILL = 53
TREE_BOUND = 54
TREE_ORDER = 55
TREE_ROW = 56
TREE_KEY = 57
TREE_UNIQUE = 58
TREE_COUNT = 59
TREE_FREE = 60

EXPLANATIONS = {
    COUNTERS: "the counters of rows contradict each other or the capacity",
    LIVE_COUNT: "the number of live rows is not the one counted",
    FREE_LIST: "the lists of free slots do not hold each free slot once",
    NOT_ZERO: "unused memory of the table is not zero",
    BUCKETS: "the number of hash buckets is out of range, or a bucket beyond it is used",
    CHAIN_ROW: "a hash chain leads to a slot that is not a live row, or twice to one row",
    CHAIN_PLACE: "a row is in the hash bucket of another key",
    CHAIN_COUNT: "rows are missing from the hash",
    SAME_KEY: "two rows have the same key",
    AUTO_KEY: "a row has a key above the counter that gives out new ones",
    NONE_VALUE: "a value that is None is not zero",
    **HEAP_EXPLANATIONS,
    TREE_COUNTERS: "root, height or node counters contradict each other",
    TREE_NODE: "a node is out of range, used twice, empty, overfull, or not zero where unused",
    TREE_FILL: "two sibling nodes would fit in half a node",
    TREE_BOUND: "a bound in an inner node does not separate the entries on its sides",
    TREE_ORDER: "entries are not in order",
    TREE_ROW: "an entry leads to a slot that is not a live row",
    TREE_KEY: "an entry differs from its row",
    TREE_UNIQUE: "two rows agree on a unique key",
    TREE_COUNT: "the number of entries is not that of the rows",
    TREE_FREE: "the list of free nodes does not hold each free node once, or one is not zero",
}


def explain(code: int) -> str:
    """What a result of `check` means, in words."""
    if code == 0:
        return "nothing is wrong"
    if code < INDEX_CODES:
        return EXPLANATIONS[code]
    return f"index {code // INDEX_CODES - 1}: {EXPLANATIONS[code % INDEX_CODES]}"


@bulk_kernel
def check_list(words: Words, t: int, head: int, marks: Marks) -> int:
    """Walk a list of free slots and mark them: its last slot + 1, or -1 when it is broken."""
    live = words[t + T_LIVE]
    high = words[words[t + T_STATE] + ROW_HIGH]
    link = head
    last = 0
    while link != 0:
        if link < 0 or link > high or words[live + link - 1] == LIVE or marks[link - 1] != 0:
            return -1
        marks[link - 1] = 1
        last = link
        link = words[live + link - 1]
    return last


@bulk_kernel
def check_none(words: Words, t: int, valid: int) -> int:
    """The values of which value word `valid` tells whether they are None: zero where they are."""
    live = words[t + T_LIVE]
    # A column's words lie next to each other, so from row to row there are as many as it has.
    packed = words[t + T_PACK + valid - 1] & PACK_ROWS != 0
    count = 1 if packed else words[t + T_STRIDE + valid - 1]
    for row in range(words[words[t + T_STATE] + ROW_HIGH]):
        if words[live + row] == LIVE and get_value(words, t, valid, row) == 0:
            for value in range(valid - count, valid):
                if get_value(words, t, value, row) != 0:
                    return NONE_VALUE
    return 0


@bulk_kernel
def check_packs(words: Words, t: int) -> int:
    """Columns whose rows share words: None, and the rest of a word behind the last row."""
    allocated = words[t + T_ALLOCATED]
    for value in range(words[t + T_VALUES]):
        rows_bits = words[t + T_PACK + value] & PACK_ROWS
        beside = allocated & ((1 << rows_bits) - 1)
        if beside != 0:
            last = words[words[t + T_BASE + value] + (allocated >> rows_bits)]
            if last >> (beside << (6 - rows_bits)) != 0:
                return NOT_ZERO
        if rows_bits == VALID_PACK and check_none(words, t, value) != 0:
            return NONE_VALUE
    return 0


@bulk_kernel
def check_slots(words: Words, t: int) -> int:
    """Counters, live column, free lists, and that free slots are zero."""
    state = words[t + T_STATE]
    high = words[state + ROW_HIGH]
    allocated = words[t + T_ALLOCATED]
    if not 0 <= words[state + ROW_COUNT] <= high <= allocated <= words[t + T_CAPACITY]:
        return COUNTERS
    marks = np.zeros(high, np.uint8)
    if check_list(words, t, words[state + FREE], marks) < 0:
        return FREE_LIST
    if check_list(words, t, words[state + PENDING], marks) != words[state + PENDING_LAST]:
        return FREE_LIST
    live_count = 0
    for row in range(allocated):
        if row < high and words[words[t + T_LIVE] + row] == LIVE:
            live_count += 1
            continue
        if row < high and marks[row] == 0:
            return FREE_LIST
        if row >= high and words[words[t + T_LIVE] + row] != 0:
            return NOT_ZERO
        if words[words[t + T_NEXT] + row] != 0:
            return NOT_ZERO
        for value in range(words[t + T_VALUES]):
            if get_value(words, t, value, row) != 0:
                return NOT_ZERO
    return 0 if live_count == words[state + ROW_COUNT] else LIVE_COUNT


@bulk_kernel
def check_hash(words: Words, t: int) -> int:
    """Every live row is in the chain of its key, once, and no two have one key."""
    state = words[t + T_STATE]
    count = words[state + BUCKET_COUNT]
    limit = max(BUCKETS_FIRST, words[t + T_ALLOCATED])
    buckets = words[t + T_BUCKETS]
    if not BUCKETS_FIRST <= count <= limit:
        return BUCKETS
    if words[t + T_ALLOCATED] > 0 and not is_zero(words, buckets + count, buckets + limit):
        return BUCKETS
    high = words[state + ROW_HIGH]
    marks = np.zeros(high, np.uint8)
    found = 0
    for bucket in range(count if high > 0 else 0):
        link = words[buckets + bucket]
        while link != 0:
            row = link - 1
            if row < 0 or row >= high or marks[row] != 0:
                return CHAIN_ROW
            if words[words[t + T_LIVE] + row] != LIVE:
                return CHAIN_ROW
            marks[row] = 1
            found += 1
            if bucket_of(hash_row(words, t, row), count) != bucket:
                return CHAIN_PLACE
            if find_at(words, t, words[SCRATCH] + S_KEY) != row:
                return SAME_KEY
            if words[t + T_AUTO] != 0 and words[words[SCRATCH] + S_KEY] > words[state + AUTO_LAST]:
                return AUTO_KEY
            link = words[words[t + T_NEXT] + row]
    return 0 if found == words[state + ROW_COUNT] else CHAIN_COUNT


@bulk_kernel
def check_node(words: Words, x: int, number: int, level: int, marks: Marks) -> int:
    """One node by itself, not looking at keys; marks it as used."""
    if number < 0 or number >= len(marks) or marks[number] != 0:
        return TREE_NODE
    marks[number] = 1
    node = words[x + X_NODES] + number * NODE_WORDS
    stride = words[x + X_KEYS] + (2 if level > 0 else 1)
    count = words[node + N_COUNT]
    if count < 1 or count * stride > ENTRY_SPACE or words[node + N_LINK] != 0:
        return TREE_NODE
    if not is_zero(words, node + N_ENTRIES + count * stride, node + NODE_WORDS):
        return TREE_NODE
    if level > 0 and not is_zero(words, node + N_ENTRIES, node + N_ENTRIES + stride - 1):
        return TREE_BOUND
    return 0


@bulk_kernel
def check_fill(words: Words, x: int, node: int, level: int, high: int) -> int:
    """Children of an inner node at `level`, by twos: together they hold more than half a node."""
    stride = words[x + X_KEYS] + 2
    child_stride = stride if level > 1 else stride - 1
    before = ENTRY_SPACE
    for position in range(words[node + N_COUNT]):
        number = words[node + N_ENTRIES + position * stride + stride - 1] - 1
        if number < 0 or number >= high:
            return TREE_NODE
        count = words[words[x + X_NODES] + number * NODE_WORDS + N_COUNT]
        if 2 * (before + count) * child_stride <= ENTRY_SPACE:
            return TREE_FILL
        before = count
    return 0


@bulk_kernel
def check_leaf(words: Words, x: int, leaf: int, before: int) -> int:
    """A leaf's entries against each other, the entry at `before` (or -1) and the rows."""
    t = words[x + X_TABLE]
    keys = words[x + X_KEYS]
    for position in range(words[leaf + N_COUNT]):
        entry = leaf + N_ENTRIES + position * (keys + 1)
        if before >= 0:
            if not is_before(words, before, entry, keys + 1, 0):
                return TREE_ORDER
            same = words[x + X_UNIQUE] != 0 and agrees(words, before, entry, keys)
            if same and not has_none(words, x, entry):
                return TREE_UNIQUE
        row = words[entry + keys]
        if row < 0 or row >= words[words[t + T_STATE] + ROW_HIGH]:
            return TREE_ROW
        if words[words[t + T_LIVE] + row] != LIVE:
            return TREE_ROW
        if not agrees(words, entry_of(words, x, row), entry, keys):
            return TREE_KEY
        before = entry
    return 0


@bulk_kernel
def check_tree(words: Words, x: int, marks: Marks) -> int:
    """Walk the tree from left to right; marks its nodes. 0 or a code."""
    state = words[x + X_STATE]
    keys = words[x + X_KEYS]
    nodes = words[x + X_NODES]
    top = words[state + HEIGHT] - 1
    path = np.zeros(HEIGHT_MAX, np.int64)
    positions = np.zeros(HEIGHT_MAX, np.int64)
    level = top
    number = words[state + ROOT] - 1
    before = -1
    entries = 0
    while level <= top:
        code = check_node(words, x, number, level, marks)
        if code != 0:
            return code
        node = nodes + number * NODE_WORDS
        path[level], positions[level] = node, 0
        if level > 0:
            code = check_fill(words, x, node, level, len(marks))
            if code != 0:
                return code
        else:
            # The bound passed on the way here; the ones above it were looked at before.
            above = 1
            while above <= top and positions[above] == 0:
                above += 1
            if above <= top:
                bound = path[above] + N_ENTRIES + positions[above] * (keys + 2)
                if not is_before(words, before, bound, keys + 1, 0):
                    return TREE_BOUND
                if not is_before(words, bound, node + N_ENTRIES, keys + 1, 1):
                    return TREE_BOUND
            code = check_leaf(words, x, node, before)
            if code != 0:
                return code
            count = words[node + N_COUNT]
            entries += count
            before = node + N_ENTRIES + (count - 1) * (keys + 1)
            level += 1
            while level <= top:
                positions[level] += 1
                if positions[level] < words[path[level] + N_COUNT]:
                    break
                level += 1
        if level <= top:
            child = path[level] + N_ENTRIES + positions[level] * (keys + 2) + keys + 1
            number = words[child] - 1
            level -= 1
    return 0 if entries == words[state + ENTRY_COUNT] else TREE_COUNT


@bulk_kernel
def check_index(words: Words, x: int) -> int:
    """One index: its tree, its free nodes, and the nodes never used."""
    state = words[x + X_STATE]
    high = words[state + NODE_HIGH]
    nodes = words[x + X_NODES]
    allocated = words[x + X_NODES_ALLOCATED]
    if not 0 <= high <= allocated <= words[x + X_NODES_MAX]:
        return TREE_COUNTERS
    if not 0 <= words[state + HEIGHT] <= HEIGHT_MAX:
        return TREE_COUNTERS
    if (words[state + ROOT] == 0) != (words[state + HEIGHT] == 0):
        return TREE_COUNTERS
    if words[state + ENTRY_COUNT] != words[words[words[x + X_TABLE] + T_STATE] + ROW_COUNT]:
        return TREE_COUNT
    marks = np.zeros(high, np.uint8)
    if words[state + ROOT] != 0:
        code = check_tree(words, x, marks)
        if code != 0:
            return code
    elif words[state + ENTRY_COUNT] != 0:
        return TREE_COUNT
    link = words[state + NODE_FREE]
    while link != 0:
        if link < 0 or link > high or marks[link - 1] != 0:
            return TREE_FREE
        marks[link - 1] = 1
        node = nodes + (link - 1) * NODE_WORDS
        if words[node + N_COUNT] != 0:
            return TREE_FREE
        if not is_zero(words, node + N_ENTRIES, node + NODE_WORDS):
            return TREE_FREE
        link = words[node + N_LINK]
    for number in range(high):
        if marks[number] == 0:
            return TREE_FREE
    unused = is_zero(words, nodes + high * NODE_WORDS, nodes + allocated * NODE_WORDS)
    return 0 if unused else TREE_FREE


@bulk_kernel
def check(words: Words, t: int) -> int:
    """0 when the table is sound, else the number of the first thing found wrong (see `explain`)."""
    code = check_slots(words, t)
    if code == 0:
        code = check_packs(words, t)
    if code == 0 and words[t + T_HEAPS] != 0:
        code = check_heap(words, t)
    if code == 0:
        code = check_hash(words, t)
    for i in range(words[t + T_INDEXES]):
        if code == 0:
            code = check_index(words, t + T_INDEX + i * INDEX_WORDS)
            if code != 0:
                code += INDEX_CODES * (i + 1)
    return code
