"""The small parts: extents, page sets, stamps, holds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.memory import Extent, Holds, Region, Stamp, State, newest_complete
from diptych.memory.layout import merged, pages_in, pages_of, without
from diptych.memory.page_set import PageSet
from diptych.memory.stamp import FILLING, read_stamp, write_stamp

extents = st.lists(
    st.builds(
        lambda start, size: Extent(start, start + size), st.integers(1, 50), st.integers(1, 9)
    )
)
page_lists = st.lists(st.lists(st.integers(1, 99), unique=True))


def members(extents_: list[Extent]) -> set[int]:
    return {page for extent in extents_ for page in range(*extent)}


@given(extents)
def test_merged_extents_have_the_same_pages_and_do_not_touch(some: list[Extent]) -> None:
    result = merged(some)
    assert pages_of(result).tolist() == sorted(members(some))
    assert all(a.stop < b.start for a, b in itertools.pairwise(result))


@given(extents, st.integers(1, 50), st.integers(1, 20))
def test_without_leaves_the_rest(some: list[Extent], start: int, size: int) -> None:
    extent = Extent(start, start + size)
    rest = without(extent, merged(some))
    assert members(rest) == members([extent]) - members(some)
    assert all(part.start < part.stop for part in rest)


def test_pages_in_rounds_up() -> None:
    assert [pages_in(size) for size in (0, 1, 4096, 4097)] == [0, 1, 1, 2]


@given(
    st.lists(st.tuples(st.sampled_from(["add", "discard", "clear"]), st.lists(st.integers(1, 99))))
)
def test_a_page_set_is_a_set(steps: list[tuple[str, list[int]]]) -> None:
    real, model = PageSet(100), set[int]()
    for step, numbers in steps:
        pages = np.array(numbers, dtype=np.int64)
        if step == "add":
            real.add(pages)
            model |= set(numbers)
        elif step == "discard":
            real.discard(pages)
            model -= set(numbers)
        else:
            real.clear()
            model.clear()
        assert real.pages().tolist() == sorted(model)
        assert len(real) == len(model)


@given(st.sets(st.integers(1, 99)), st.sets(st.integers(1, 99)))
def test_a_page_set_without_another(some: set[int], other: set[int]) -> None:
    left, right = PageSet(100), PageSet(100)
    left.add(np.array(sorted(some), dtype=np.int64))
    right.add(np.array(sorted(other), dtype=np.int64))
    assert left.without(right).tolist() == sorted(some - other)


def test_a_stamp_is_read_as_written(region: Region) -> None:
    assert read_stamp(region) is None
    stamp = Stamp(State.COMPLETE, 7, 1 << 40, (1 << 64) - 1, 123456789)
    write_stamp(region, stamp)
    assert read_stamp(region) == stamp
    write_stamp(region, FILLING)
    assert read_stamp(region) == FILLING


@pytest.mark.parametrize("at", range(0, 56, 5))
def test_a_damaged_stamp_is_none(region: Region, at: int) -> None:
    write_stamp(region, Stamp(State.COMPLETE, 7, 8, 9, 10))
    region.buffer[at] ^= 0x10
    assert read_stamp(region) is None


def test_the_newest_complete_image() -> None:
    images = [Region.create(4096) for _ in range(4)]
    assert newest_complete(images) is None
    write_stamp(images[1], Stamp(State.COMPLETE, 7, 70, 1, 1))
    write_stamp(images[2], Stamp(State.COMPLETE, 8, 71, 1, 1))
    write_stamp(images[3], FILLING)
    assert newest_complete(images) == 2
    write_stamp(images[2], FILLING)
    assert newest_complete(images) == 1


def test_a_hold_ends_by_its_own_name_only() -> None:
    holds = Holds()
    holds.acquire("gateway", 0, 5)
    holds.acquire("gateway", 0, 7)
    assert holds.release("gateway", 0, 5)
    assert holds.held(0), "the image is looked at again, at another epoch"
    assert not holds.release("gateway", 0, 5), "said twice"
    assert not holds.release("checkpointer", 0, 7), "said by another"
    assert not holds.release("gateway", 1, 7)
    assert holds.release("gateway", 0, 7)
    assert not holds.held(0)


def test_a_holder_that_is_gone_holds_nothing() -> None:
    holds = Holds()
    for holder, image in (("a", 0), ("a", 1), ("b", 1)):
        holds.acquire(holder, image, 3)
    holds.drop_holder("a")
    assert [holds.held(image) for image in (0, 1, 2)] == [False, True, False]


def test_the_oldest_hold() -> None:
    holds = Holds()
    assert holds.oldest() is None
    holds.acquire("a", 2, 9)
    holds.acquire("b", 1, 8)
    holds.acquire("c", 1, 8)
    assert holds.oldest() in (("b", 1, 8), ("c", 1, 8))
    assert holds.oldest(besides=1) == ("a", 2, 9)
    assert holds.holders_of(1, 8) == ["b", "c"]
    assert holds.oldest(exempt=["b"]) == ("a", 2, 9), "c would end for nothing: b stays on 1"
    assert holds.oldest(besides=2, exempt=["b"]) is None


def test_unknown_holders_hold_everything_until_each_has_answered() -> None:
    holds = Holds(unknown=["a", "b"])
    assert holds.held(0)
    assert holds.held(1)
    holds.answered("a", [(0, 4)])
    assert holds.held(1)
    holds.drop_holder("b")
    assert holds.held(0)
    assert not holds.held(1)
    assert holds.unknown == frozenset()
