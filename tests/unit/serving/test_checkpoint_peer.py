"""The writer's side of checkpoints, with a real syncer and a socket that the test holds."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator

import numpy as np
import pytest
from tests.unit.engine.test_sync import HISTORY, Bench

from diptych.serving.channel import CheckpointDone, CheckpointImage, CheckpointWanted
from diptych.serving.checkpoint_peer import CheckpointPeer

HOLDER = 9


class Lent:
    """`theirs` is the checkpointer's end."""

    def __init__(self) -> None:
        # With two, one that is held holds up everything but what is current already.
        self.bench = Bench(2, max_duty=1.0)
        self.epoll = select.epoll()
        self.connect()

    def connect(self) -> None:
        ours, self.theirs = socket.socketpair()
        ours.setblocking(False)
        self.peer = CheckpointPeer(ours, HOLDER, self.bench.syncer, self.epoll)
        self.theirs.setblocking(False)

    def close(self) -> None:
        self.peer.close()
        self.theirs.close()
        self.epoll.close()
        self.bench.close()

    def turn(self) -> bool:
        """What the writer's loop does."""
        alive = True
        for _, events in self.epoll.poll(0):
            alive = self.peer.on_ready(events)
        self.bench.after(20)
        self.peer.look()
        return alive

    def want(self, slot: int, through: int = 0) -> None:
        self.theirs.sendall(CheckpointWanted(slot, through).frame())
        self.turn()

    def done(self, slot: int, epoch: int, ok: bool = True) -> None:
        self.theirs.sendall(CheckpointDone(slot, epoch, ok).frame())
        self.turn()

    def heard(self) -> CheckpointImage | None:
        try:
            return CheckpointImage.read(self.theirs.recv(1 << 20))
        except BlockingIOError:
            return None

    def get(self, slot: int) -> CheckpointImage:
        self.want(slot)
        image = self.heard()
        assert image is not None
        return image

    def pages(self, image: CheckpointImage) -> list[int]:
        return sorted(np.frombuffer(image.pages, "<i8").tolist())

    def write(self, *pages: int) -> None:
        self.bench.write(*pages)
        self.turn()


@pytest.fixture
def lent() -> Iterator[Lent]:
    lent = Lent()
    yield lent
    lent.close()


def test_it_gets_an_image_and_then_what_changed(lent: Lent) -> None:
    lent.write(3)
    first = lent.get(1)
    assert (first.sequence, first.history, first.all, first.pages) == (1, HISTORY, True, b"")
    lent.done(1, first.epoch)
    lent.write(4, 5)
    assert lent.get(2).all, "of this slot nothing is known yet"
    lent.done(2, lent.bench.mirror.epoch)
    lent.write(6)
    second = lent.get(1)
    assert (second.all, lent.pages(second)) == (False, [4, 5, 6])


def test_it_waits_until_an_image_shows_what_is_wanted(lent: Lent) -> None:
    lent.write(3)
    lent.want(1, through=3)
    assert lent.heard() is None
    lent.write(4)
    assert lent.heard() is None
    lent.write(5)
    image = lent.heard()
    assert image is not None
    assert image.sequence == 3


@pytest.mark.parametrize("how", ["failed", "gone", "silent"])
def test_what_was_not_finished_is_not_proven(lent: Lent, how: str) -> None:
    lent.write(3)
    first = lent.get(1)
    lent.done(1, first.epoch)
    lent.write(4)
    second = lent.get(1)
    assert not second.all
    if how == "failed":
        lent.done(1, second.epoch, ok=False)
    else:
        if how == "silent":  # it was done, and said so, but nobody read that any more
            lent.theirs.sendall(CheckpointDone(1, second.epoch, True).frame())
        lent.peer.left()
        lent.theirs.close()
        lent.connect()
    assert lent.get(1).all


def published(lent: Lent) -> int:
    """Write, and say which transaction is published then."""
    lent.write(3)
    assert lent.bench.syncer.published is not None
    return lent.bench.syncer.published.sequence


def test_the_image_is_held_until_it_is_done_or_reaped(lent: Lent) -> None:
    assert published(lent) == 1
    image = lent.get(1)
    assert published(lent) == 2
    assert published(lent) == 2
    lent.done(1, image.epoch)
    assert published(lent) == 4
    lent.get(2)
    assert published(lent) == 5
    lent.theirs.close()
    assert not lent.turn(), "its end of the stream"
    assert published(lent) == 5, "it may be reading yet"
    lent.peer.left()
    assert published(lent) == 7


def test_late_words_change_nothing(lent: Lent) -> None:
    assert published(lent) == 1
    image = lent.get(1)
    assert published(lent) == 2
    lent.done(1, image.epoch + 1)
    lent.done(2, image.epoch)
    assert published(lent) == 2
    lent.done(1, image.epoch)
    lent.done(1, image.epoch)
    assert published(lent) == 4


def test_a_long_answer_waits_for_whoever_does_not_read(lent: Lent) -> None:
    """The writer goes on meanwhile."""
    lent.bench.mirror.add_extent(lent.bench.mirror.extents[0]._replace(start=64, stop=1024))
    lent.write(3)
    lent.get(1)
    lent.done(1, lent.bench.mirror.epoch)
    lent.write(*range(64, 1024))
    lent.peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    lent.want(1)
    received = b""
    for _ in range(100):
        lent.write(3)
        try:
            received += lent.theirs.recv(1000)
        except BlockingIOError:
            break
    image = CheckpointImage.read(received)
    assert lent.pages(image) == list(range(64, 1024))
