"""Random numbers: splitmix64's, by seed and sequence number, without bias."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.store_region import SEED_FOR_TESTS, StoreRegion, TablePlan, lay_out
from tests.support.lanes import Lanes
from tests.support.reference import STEP, Numbers, scrambled

from diptych import App, Db, key
from diptych.store import random
from diptych.store import words as at

REPOSITORY = Path(__file__).parents[3]
INT_MIN, INT_MAX = -(2**63), 2**63 - 1
LARGE = 3 << 62  # a quarter of all draws must be left out
PLAIN = """
import numpy as np
from tests.store_region import TablePlan, lay_out
from diptych.store import random
region = lay_out(TablePlan(1))
region.begin(9)
low, high = -(2**63), 2**63 - 1
drawn = [random.integer(region.words, low, low + (3 << 62)) for _ in range(20)]
drawn += [random.integer(region.words, -5, 5), random.integer(region.words, low, high)]
print([int(n) for n in drawn], float(random.fraction(region.words)))
"""


@pytest.fixture
def region() -> StoreRegion:
    made = lay_out(TablePlan(1))
    made.begin(9)
    return made


def test_the_source_is_splitmix64() -> None:
    # Of its first outputs for the seed 1234567, as its authors' code has them.
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [scrambled(1234567 + n * STEP) for n in (1, 2, 3)] == known
    for n, expected in enumerate(known, 1):
        step = np.uint64(random.times(np.uint64(n), random.STEP))
        state = np.uint64(random.plus(np.uint64(1234567), step))
        assert random.scrambled(state) == expected


def test_numbers_are_those_of_the_reference(region: StoreRegion) -> None:
    words, reference = region.words, Numbers(SEED_FOR_TESTS, 9)
    for low, high in ((0, 1), (0, 6), (-5, 5), (INT_MIN, INT_MAX), (INT_MIN, INT_MIN + LARGE)) * 20:
        assert random.draw_integer(words, low, high) == reference.integers(low, high)
        assert random.draw_fraction(words) == reference.random()
    assert reference.drawn > 200  # some were left out
    assert words[region.scratch + at.S_RANDOM_COUNT] == reference.drawn


def test_they_begin_anew_with_each_transaction(region: StoreRegion) -> None:
    first = [random.draw_fraction(region.words) for _ in range(3)]
    region.begin(10)
    second = [random.draw_fraction(region.words) for _ in range(3)]
    region.begin(9)
    assert [random.draw_fraction(region.words) for _ in range(3)] == first
    region.words[at.SEED] += 1
    region.begin(10)
    assert not {*first, *second} & {random.draw_fraction(region.words) for _ in range(3)}


def test_each_int_is_as_likely(region: StoreRegion) -> None:
    counts = np.bincount([random.draw_integer(region.words, 0, 7) for _ in range(70_000)])
    assert len(counts) == 7
    # Chi-squared, of 6 degrees of freedom: 22.5 at one in a thousand; the numbers are always these.
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 22.5


def test_without_compilation_they_are_the_same(region: StoreRegion) -> None:
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, "-W", "error", "-c", PLAIN]
    child = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=60
    )
    assert child.stderr == ""
    reference = Numbers(SEED_FOR_TESTS, 9)
    bounds = [(INT_MIN, INT_MIN + LARGE)] * 20 + [(-5, 5), (INT_MIN, INT_MAX)]
    expected = [reference.integers(low, high) for low, high in bounds]
    assert child.stdout.strip() == f"{expected} {reference.random()}"


def test_what_runs_again_for_memory_draws_the_same() -> None:
    app = App("dice", compiled=True)

    @app.table
    class Throw:
        id: int = key()

    @app.transaction
    def throw(db: Db, count: int) -> int:
        for _ in range(count):
            db.throw.insert(id=db.random.integers(1 << 60))
        return db.random.integers(1 << 60)

    with Lanes(app) as lanes:
        extents = lanes.benches[0].extents()
        numbers = Numbers(seed=5, sequence=1)
        expected = [numbers.integers(0, 1 << 60) for _ in range(3_001)]
        assert lanes.check("throw", 3_000) == expected[-1]
        assert lanes.benches[0].extents() != extents
        assert all(number in lanes.benches[0].db.throw for number in expected[:-1])


def test_the_wrapper_takes_what_counts_as_an_int() -> None:
    app = App("dice")

    @app.table
    class Throw:
        id: int = key(auto=True)

    @app.transaction
    def throw(db: Db) -> list[int]:
        numbers = [db.random.integers(True), db.random.integers(np.int8(3), high=np.int64(4))]
        for wrong in (1.5, "1", None):
            with pytest.raises(TypeError):
                db.random.integers(wrong)
        return numbers

    with app.open(now=0) as bench:
        assert bench.throw() == [0, 3]
