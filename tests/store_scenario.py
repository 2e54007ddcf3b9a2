"""One fixed history of a table, whose bytes must not depend on whether kernels are compiled.

`python -m tests.store_scenario` prints the digest of all bytes the history went through.
"""

from __future__ import annotations

import hashlib
import random

from tests.store_region import FLOAT, INT, TEXT, IndexPlan, TablePlan, lay_out

from diptych.store import btree, rows, undo, verify
from diptych.store import words as at

WORDS = [0, 1, -1, 513, -513, 1 << 62, -(1 << 63), (1 << 63) - 1]


def scenario() -> str:
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
            digest.update(words.tobytes())
            region.argue(numbers.choice(WORDS))
            cursor = btree.open_cursor(words, region.index(t, 0), 1, 0, 0, step % 2)
            while (row := btree.advance(words, cursor)) >= 0:
                digest.update(int(row).to_bytes(8, "little"))
    assert verify.check(words, t) == 0
    assert region.state(t, at.ROW_COUNT) > 100
    return digest.hexdigest()


if __name__ == "__main__":
    print(scenario())
