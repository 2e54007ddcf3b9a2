"""Changed pages alone are written, to the right file, and what a checkpoint holds is what it says.

The model at the end writes, saves, fails and loses at random; whatever is complete afterwards is
loaded and compared with what memory was.
"""

from __future__ import annotations

import itertools
import logging
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.durable.checkpoints import SCHEMA, flip, pages_file
from tests.unit.durable.test_directory import Counting

from diptych.durable import (
    Checkpoint,
    CheckpointStore,
    Files,
    Pacer,
    Saved,
    read_manifest,
    read_pages,
    slots,
    verify_pages,
)
from diptych.durable.pages import SYNC_BYTES
from diptych.errors import CorruptionError
from diptych.memory import PAGE_BYTES, Extent, Region
from diptych.memory.layout import Pages

PAGES = 256
EXTENT = Extent(1, 200)


@pytest.fixture
def region() -> Iterator[Region]:
    with Region.create(PAGES * PAGE_BYTES) as region:
        yield region


def save(
    store: CheckpointStore,
    region: Region,
    sequence: int,
    changed: list[int] | None = None,
    pacer: Pacer | None = None,
    extents: tuple[Extent, ...] = (EXTENT,),
) -> Saved:
    pages = None if changed is None else np.array(changed, np.int64)
    return store.save(
        region,
        extents,
        app="shop",
        schema=SCHEMA,
        history=7,
        sequence=sequence,
        slot=store.next_slot(),
        changed=pages,
        pacer=pacer,
        facts='{"python": "3.11"}',
    )


def loaded(checkpoint: Checkpoint) -> bytes:
    with Region.create(PAGES * PAGE_BYTES) as region:
        read_pages(checkpoint, region, lambda _: None)
        return bytes(region.buffer)


@given(st.lists(st.integers(1, 3)), st.integers(0, 2**32))
def test_the_newest_two_are_never_touched(order: list[int], seed: int) -> None:
    epochs = {slot: epoch for epoch, slot in enumerate(order, 1)}
    free = slots.free_slots(epochs)
    assert free
    newest = sorted(epochs.values())[-2:]
    assert all(epochs.get(slot, 0) not in newest for slot in free)
    assert not epochs or len(free) == 3 - min(2, len(epochs))
    assert epochs.get(free[0], 0) == min(epochs.get(slot, 0) for slot in free)


def test_a_slot_of_the_newest_two_is_refused(tmp_path: Path, region: Region) -> None:
    store = CheckpointStore(tmp_path)
    given = {"app": "shop", "schema": SCHEMA, "history": 7, "sequence": 1}
    store.save(region, (EXTENT,), slot=2, **given)
    with pytest.raises(ValueError, match="slot 2"):
        store.save(region, (EXTENT,), slot=2, **given)


def test_changed_pages_alone_are_written(tmp_path: Path, region: Region) -> None:
    files = Counting()
    store = CheckpointStore(tmp_path, files)
    region.allocate(Extent(1, PAGES))
    for sequence in (1, 2, 3):
        saved = save(store, region, sequence)
        assert (saved.slot, saved.pages, saved.page_count) == (sequence, 199, 199)
    region.words[50 * 512] = region.words[52 * 512] = region.words[199 * 512 + 511] = 7
    saved = save(store, region, 4, [199, 52, 50, 51])
    assert (saved.slot, saved.pages) == (1, 4)
    assert loaded(saved.checkpoint) == bytes(region.buffer)
    assert read_manifest(saved.checkpoint.path).facts == '{"python": "3.11"}'
    # What is new belongs to it, also where nobody wrote.
    region.words[220 * 512] = 8
    saved = save(store, region, 5, [50, 52, 199], extents=(Extent(1, 221),))
    assert (saved.slot, saved.pages) == (2, 3 + 21)
    assert loaded(saved.checkpoint) == bytes(region.buffer)


def test_a_change_that_nobody_named_is_found(
    tmp_path: Path, region: Region, caplog: pytest.LogCaptureFixture
) -> None:
    store = CheckpointStore(tmp_path)
    region.allocate(EXTENT)
    for sequence in (1, 2, 3):
        save(store, region, sequence)
    region.words[70 * 512] = 7
    with caplog.at_level(logging.ERROR):
        saved = save(store, region, 4, [])
    assert saved.pages == 1
    assert "1 pages had changed unnoticed" in caplog.text
    assert loaded(saved.checkpoint) == bytes(region.buffer)


def test_what_is_not_proven_is_written_whole(tmp_path: Path, region: Region) -> None:
    """The slot has no manifest, or one that is damaged, or its file is not the one named."""
    store = CheckpointStore(tmp_path)
    region.allocate(EXTENT)
    first, second, third = (save(store, region, number).checkpoint for number in (1, 2, 3))
    first.path.unlink()
    assert save(store, region, 4, []).pages == 199
    flip(second.path, read_manifest(second.path).header_bytes)
    assert save(store, region, 5, []).pages == 199
    flip(pages_file(third), 20)
    saved = save(store, region, 6, [])
    assert saved.pages == 199
    assert [each.sequence for each in store.checkpoints()] == [4, 5, 6]
    for checkpoint in store.checkpoints():
        verify_pages(checkpoint, lambda _: None)


def test_a_manifest_that_can_not_be_read_is_set_aside(tmp_path: Path, region: Region) -> None:
    store = CheckpointStore(tmp_path)
    region.allocate(EXTENT)
    saved = [save(store, region, number).checkpoint for number in (1, 2, 3)]
    flip(saved[1].path, 30)
    assert save(store, region, 4).slot == 2
    aside = saved[1].path.with_name(saved[1].path.name + ".damaged")
    assert aside.exists()
    assert [each.epoch for each in store.checkpoints()] == [1, 3, 4]


def test_a_damaged_one_that_is_set_aside_is_written_anew(tmp_path: Path, region: Region) -> None:
    store = CheckpointStore(tmp_path)
    region.allocate(EXTENT)
    for number in (1, 2, 3):
        newest = save(store, region, number).checkpoint
    flip(pages_file(newest), 100 * PAGE_BYTES)
    with pytest.raises(CorruptionError) as damage:
        verify_pages(newest, lambda _: None)
    store.set_aside(newest, str(damage.value))
    saved = save(store, region, 4, [])
    assert (saved.slot, saved.pages, saved.checkpoint.epoch) == (3, 199, 4)
    assert loaded(saved.checkpoint) == bytes(region.buffer)


def test_another_size_of_region_begins_a_new_file(tmp_path: Path, region: Region) -> None:
    store = CheckpointStore(tmp_path)
    region.allocate(EXTENT)
    before = [read_manifest(save(store, region, n).checkpoint.path).pages_id for n in (1, 2, 3)]
    with Region.create(2 * PAGES * PAGE_BYTES) as larger:
        larger.allocate(EXTENT)
        saved = save(store, larger, 4, [])
    assert saved.pages == 199
    assert read_manifest(saved.checkpoint.path).pages_id not in before


def test_the_pace(tmp_path: Path, region: Region) -> None:
    """Nothing lies written and unsynced for long, and the rate is that of the moment."""
    now, waits, rate = [0.0], [], [1e6]

    def wait(seconds: float) -> None:
        waits.append(seconds)
        now[0] += seconds

    pacer = Pacer(lambda: rate[0], wait, lambda: now[0])
    files = Counting()
    region.allocate(EXTENT)
    save(CheckpointStore(tmp_path, files), region, 1, pacer=pacer)
    size_bytes = 199 * PAGE_BYTES
    assert now[0] == pytest.approx((size_bytes + size_bytes / 32) / 1e6, rel=0.1)
    assert files.calls.count("sync_data") == size_bytes // SYNC_BYTES
    rate[0], waits[:] = math.inf, []
    pacer.spent(10**9)
    assert waits == []
    rate[0] = 100.0
    pacer.spent(50)
    assert sum(waits) == pytest.approx(0.5)
    now[0] += 100  # what was not used is not saved up
    waits.clear()
    pacer.spent(50)
    assert sum(waits) == pytest.approx(0.45)


class Model:
    """A region that is written and saved at random; `images`: what it was at each save."""

    def __init__(self, path: Path, choose: Callable[[int], int]) -> None:
        self.choose = choose
        self.path = path
        self.region = Region.create(PAGES * PAGE_BYTES)
        self.stop = 20
        self.region.allocate(Extent(1, PAGES))
        self.changed: dict[int, set[int] | None] = dict.fromkeys(slots.SLOTS)
        self.images: dict[int, bytes] = {}
        self.sequence = itertools.count(1)
        self.failures = self.partly = 0

    def write(self) -> None:
        for _ in range(self.choose(6)):
            page = 1 + self.choose(self.stop - 1)
            self.region.words[page * 512 + self.choose(512)] += 1
            for pages in self.changed.values():
                if pages is not None:
                    pages.add(page)

    def grow(self) -> None:
        self.stop = min(PAGES, self.stop + self.choose(9))

    def forget(self) -> None:
        """Another writer: it knows of no slot what changed since."""
        self.changed = dict.fromkeys(slots.SLOTS)

    def save(self) -> None:
        self._save(Files())

    def fail(self) -> None:
        files = Counting(failing=self.choose(24))
        try:
            self._save(files)
        except OSError:
            self.failures += 1

    def _save(self, files: Files) -> None:
        store = CheckpointStore(self.path, files)
        slot, sequence = CheckpointStore(self.path).next_slot(), next(self.sequence)
        given, self.changed[slot] = self.changed[slot], set()
        pages: Pages | None = None if given is None else np.array(list(given), np.int64)
        self.images[sequence] = bytes(self.region.buffer[: self.stop * PAGE_BYTES])
        try:
            saved = store.save(
                self.region,
                (Extent(1, self.stop),),
                app="shop",
                schema=SCHEMA,
                history=7,
                sequence=sequence,
                slot=slot,
                changed=pages,
            )
        except OSError:
            self.changed[slot] = None
            raise
        self.partly += saved.pages < saved.page_count

    def check(self) -> None:
        complete = CheckpointStore(self.path).checkpoints()
        for checkpoint in complete:
            image = self.images[checkpoint.sequence]
            assert loaded(checkpoint)[PAGE_BYTES : len(image)] == image[PAGE_BYTES:]
        assert len(complete) >= min(2, len(self.images) - self.failures)


def test_every_checkpoint_is_the_image_that_it_says(tmp_path: Path) -> None:
    failures = partly = 0
    for seed in range(12):
        model = Model(tmp_path / str(seed), random.Random(seed).randrange)
        model.path.mkdir()
        steps = (model.write, model.write, model.save, model.fail, model.grow, model.forget)
        weights = (30, 30, 20, 10, 8, 2)
        for step in random.Random(seed).choices(steps, weights, k=60):
            step()
            if step in (model.save, model.fail):
                model.check()
        failures, partly = failures + model.failures, partly + model.partly
        model.region.close()
    assert failures > 10, "no save ever failed"
    assert partly > 10, "no save ever wrote changed pages alone"
