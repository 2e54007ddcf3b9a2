"""What a new writer makes of the memory that the one before left behind, whatever it was doing."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from diptych import App, Db, key
from diptych.config import load
from diptych.engine.sync import Published
from diptych.memory import NONE, Region, Stamp, State, newest_complete, read_stamp, write_stamp
from diptych.serving.resources import make_memory
from diptych.serving.takeover import Memory, Request, Taken, take_memory

SETTINGS = load(environment={}, flags={"tracker": "compare", "interval_ms": 0, "max_duty": 1.0})

app = App("ledger")


@app.table(capacity=10_000)
class Entry:
    id: int = key(auto=True)
    amount: int = 0


@pytest.fixture
def memory() -> Iterator[Memory]:
    memory = make_memory(app, SETTINGS)
    yield memory
    for fd in (memory.region_fd, *memory.image_fds):
        os.close(fd)


def take(memory: Memory) -> Taken:
    return take_memory(app, SETTINGS, memory, Request())


def insert(taken: Taken, count: int, amount: int) -> None:
    def entries(db: Db) -> None:
        for _ in range(count):
            db.entry.insert(amount=amount)

    taken.engine.transact(entries)


def publish(taken: Taken) -> int:
    """Sync until the newest transaction is published; the image."""
    engine = taken.engine
    while True:
        for event in taken.syncer.step(engine.sequence, engine.history):
            assert isinstance(event, Published)
            return event.image


def die(taken: Taken) -> None:
    """What a kill leaves: the memory. The thread, which the kernel would end, we end."""
    taken.syncer.close()


def stamp_of(memory: Memory, image: int) -> Stamp | None:
    region = Region.attach(memory.image_fds[image], memory.size_bytes)
    try:
        return read_stamp(region)
    finally:
        region.close()


def spoil(memory: Memory, image: int) -> None:
    """As if the writer had died with all pages copied to `image` and its stamp not yet renewed."""
    region = Region.attach(memory.image_fds[image], memory.size_bytes, writable=True)
    write_stamp(region, Stamp(State.FILLING, 0, 0, 0, 0))
    region.close()


def test_a_new_writer_goes_on_from_the_newest_whole_image(memory: Memory) -> None:
    first = take(memory)
    assert not first.recovered
    insert(first, 10, amount=7)
    image = publish(first)
    history = first.engine.history
    insert(first, 10, amount=7)
    die(first)
    second = take(memory)
    assert second.recovered
    assert second.engine.sequence == 1
    assert second.engine.history != history
    assert len(second.engine.db.entry) == 10
    stamp = stamp_of(memory, image)
    assert stamp is not None
    assert stamp.sequence == 1
    die(second)


def test_memory_of_an_abandoned_growth_is_zero_when_it_is_given_again(memory: Memory) -> None:
    """Two deaths: before the growth was published, and after its bytes came back in an image."""
    first = take(memory)
    insert(first, 10, amount=7)
    publish(first)
    insert(first, 2_000, amount=7)
    grown = publish(first)
    spoil(memory, grown)
    die(first)
    second = take(memory)
    assert len(second.engine.db.entry) == 10
    insert(second, 1, amount=7)
    while publish(second) != grown:
        insert(second, 1, amount=7)
    die(second)
    third = take(memory)
    before = len(third.engine.db.entry)
    insert(third, 2_000, amount=0)
    third.engine.verify()
    amounts = [entry.amount for entry in third.engine.db.entry]
    assert amounts == [7] * before + [0] * 2_000
    image = publish(third)
    attached = Region.attach(memory.image_fds[image], memory.size_bytes)
    assert newest_complete([attached]) != NONE
    for extent in third.engine.extents():
        part = slice(extent.start * 512, extent.stop * 512)
        assert (attached.words[part] == third.engine.region.words[part]).all()
    attached.close()
    die(third)


def test_what_readers_have_is_published_from_the_start(memory: Memory) -> None:
    first = take(memory)
    insert(first, 10, amount=7)
    image = publish(first)
    die(first)
    second = take(memory)
    published = second.syncer.published
    assert published is not None
    assert (published.image, published.sequence) == (image, first.engine.sequence)
    assert published.history == second.engine.history
    assert first.syncer.published is not None
    assert published.epoch == first.syncer.published.epoch
    die(second)
