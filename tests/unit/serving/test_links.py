"""The gateway's end of the socket to a writer: what is gathered, and when it leaves."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from diptych.serving.gateway import Gateway
from diptych.serving.links import GATHERED_BYTES_MAX, WriterLink


class Transport:
    """Remembers what was written; none of it is ever too much."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def abort(self) -> None:
        pass


class Side:
    """A link whose loop goes round when it is told to."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []
        loop = SimpleNamespace(call_soon=self.soon.append)
        self.lost: list[object] = []
        gateway = SimpleNamespace(loop=loop, writer_lost=self.lost.append)
        self.transport = Transport()
        self.link = WriterLink(cast(Gateway, gateway))
        self.link.connection_made(cast(Any, self.transport))

    def go_round(self) -> list[bytes]:
        """What one round of the loop writes."""
        before = len(self.transport.written)
        calls, self.soon[:] = self.soon[:], []
        for call in calls:
            call()
        return self.transport.written[before:]


@pytest.fixture
def side() -> Side:
    return Side()


def test_what_a_round_brings_leaves_together_and_in_order(side: Side) -> None:
    for data in (b"one ", b"two ", b"three"):
        side.link.send_soon(data)
    assert side.transport.written == []
    assert side.go_round() == [b"one two three"]
    side.link.send_soon(b"four")
    assert side.go_round() == [b"four"]
    assert side.go_round() == []


def test_what_can_not_wait_takes_what_was_gathered_before_it_along(side: Side) -> None:
    side.link.send_soon(b"one ")
    side.link.send(b"now")
    assert side.transport.written == [b"one now"]
    assert side.go_round() == []


def test_what_belongs_behind_a_round_waits_for_its_end(side: Side) -> None:
    side.link.send_behind(b" behind")
    side.link.send_soon(b"one")
    side.link.send(b" now")
    side.link.send_soon(b"two")
    assert side.transport.written == [b"one now"]
    assert side.go_round() == [b"two behind"]
    assert side.go_round() == []


def test_much_leaves_at_once(side: Side) -> None:
    half = bytes(GATHERED_BYTES_MAX // 2)
    side.link.send_soon(half)
    side.link.send_soon(half)
    assert [len(data) for data in side.transport.written] == [GATHERED_BYTES_MAX]
    side.link.send_soon(b"more")
    assert side.go_round() == [b"more"]


@pytest.mark.parametrize("ends", ["close", "connection_lost"])
def test_nothing_is_written_to_a_writer_that_is_gone(side: Side, ends: str) -> None:
    side.link.send_soon(b"one")
    side.link.send_behind(b"two")
    if ends == "close":
        side.link.close()
    else:
        side.link.connection_lost(None)
        assert side.lost == [side.link]
    assert side.go_round() == []
