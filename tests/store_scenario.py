"""One fixed history of a table, whose bytes must not depend on whether kernels are compiled.

`python -m tests.store_scenario` prints the digest of all bytes the history went through.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np
from tests.store_region import FLOAT, INT, TEXT, IndexPlan, StoreRegion, TablePlan, lay_out

from diptych.store import btree, bulk_writes, heap, heap_bulk, rows, undo, verify
from diptych.store import words as at

WORDS = [0, 1, -1, 513, -513, 1 << 62, -(1 << 63), (1 << 63) - 1]


PACKS = (0, 1 | at.PACK_SIGNED, 6, 3, 6, 0, at.PACK_HEAP)
HEAP_WORDS = 800


def scenario() -> str:
    """Digests of two histories: of whole words, and of what is in the heap or shares words."""
    return f"{whole_words()} {narrow_and_long_values()}"


def all_bytes(region: StoreRegion) -> bytes:
    """Region and scratch, without the megabytes where values wait for the heap."""
    first = region.scratch + at.S_BLOB
    return region.words[:first].tobytes() + region.words[first + at.BLOB_WORDS :].tobytes()


def narrow_and_long_values() -> str:
    """A digest of region and scratch bytes, taken again and again on the way."""
    indexes = [IndexPlan((2, 1, 4, 3), kinds=(4, INT, 4, INT), nodes=300)]
    plan = TablePlan(7, capacity=300, indexes=indexes, packs=PACKS, heap_words=HEAP_WORDS)
    region = lay_out(plan)
    words, t = region.words, region.tables[0]
    numbers = random.Random(12)
    digest = hashlib.sha256()
    for step in range(2000):
        region.begin(1 + step // 5)
        mark = undo.mark(words)
        choice = numbers.randrange(10)
        row = numbers.randrange(-2, 300)
        first = (numbers.randrange(-(1 << 31), 1 << 31), 1) if numbers.randrange(3) else (0, 0)
        small = (*first, numbers.randrange(256), 1)
        length = region.blob(numbers.randbytes(numbers.choice([0, 3, 8, 60, 130])))
        code = 0
        if choice < 4:
            code = heap.store(words, t, length)
            region.argue(numbers.randrange(1000), *small, 0, code)
            code = rows.insert(words, t) if code >= 0 else code
        elif choice < 6:
            code = rows.delete(words, t, row)
        elif choice < 7:
            code = heap.assign(words, t, row, 6, length)
        elif choice < 8:
            region.argue(*small)
            code = rows.update_words(words, t, row, 1, 4)
        else:
            chosen = np.array([row, row + 1])
            code = bulk_writes.write_rows(words, t, 5, chosen, np.array([5, -5]))
        if code < 0 or numbers.randrange(8) == 0:
            undo.rollback(words, mark)
        if code == at.COMPACT_HEAP:
            undo.rollback(words, 0)
            code = heap_bulk.compact(words, t)
            assert code > 0
        digest.update(int(code).to_bytes(8, "little", signed=True))
        if step % 50 == 0:
            digest.update(all_bytes(region))
    assert verify.check(words, t) == 0
    assert region.heap_state(t, at.H_COMPACTED) > 0
    return digest.hexdigest()


def whole_words() -> str:
    """A digest of region and scratch bytes, taken again and again on the way."""
    indexes = [
        IndexPlan((2, 3, 1), kinds=(TEXT, INT, INT), nodes=300),
        IndexPlan((4, 0), kinds=(FLOAT, INT), unique=True, nodes=300),
    ]
    region = lay_out(TablePlan(5, keys=(0, 1), capacity=700, indexes=indexes))
    words, t = region.words, region.tables[0]
    numbers = random.Random(11)
    digest = hashlib.sha256()
    for step in range(2500):
        region.begin(1 + step // 5)
        mark = undo.mark(words)
        choice = numbers.randrange(10)
        if choice < 6:
            key = (numbers.randrange(-300, 300), numbers.choice(WORDS))
            region.argue(*key, *(numbers.choice(WORDS) for _ in range(2)), numbers.getrandbits(60))
            code = rows.insert(words, t)
        elif choice < 8:
            code = rows.delete(words, t, numbers.randrange(-2, 700))
        else:
            word = numbers.choice(WORDS)
            code = rows.update(words, t, numbers.randrange(700), numbers.randrange(2, 5), word)
        if numbers.randrange(8) == 0:
            undo.rollback(words, mark)
        digest.update(int(code).to_bytes(8, "little", signed=True))
        if step % 50 == 0:
            digest.update(all_bytes(region))
            region.argue(numbers.choice(WORDS))
            cursor = btree.open_cursor(words, region.index(t, 0), 1, 0, 0, step % 2)
            while (row := btree.advance(words, cursor)) >= 0:
                digest.update(int(row).to_bytes(8, "little"))
    assert verify.check(words, t) == 0
    assert region.state(t, at.ROW_COUNT) > 100
    return digest.hexdigest()


if __name__ == "__main__":
    print(scenario())
