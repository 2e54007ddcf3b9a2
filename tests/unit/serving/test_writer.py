"""Parts of the writer, without its processes."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import msgpack
import pytest
from tests.support.once import SMALL, Rig, frame, keyed

from diptych.durable import DiskFull
from diptych.serving.frames import FrameBuffer
from diptych.serving.peers import GatewayPeer
from diptych.serving.writer import Writer
from diptych_client.protocol import HEADER_BYTES, Kind


@pytest.fixture(name="rig")
def _rig() -> Iterator[Rig]:
    rig = Rig(**SMALL)
    yield rig
    rig.close()


def refused(rig: Rig, *frames: bytes) -> list[Any]:
    """What a writer on a full disk answers: values, or codes of errors."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        gateway = GatewayPeer(ours, 1)
        gateway.buffer = FrameBuffer.holding(b"".join(frames))
        writer: Any = SimpleNamespace(
            engine=rig.engine, _log=SimpleNamespace(written=7), _release=lambda _: None
        )
        Writer._refuse(writer, gateway, 0, len(frames), DiskFull("full"))
        assert gateway.release(6) == b"", "what it says may not be durable yet"
        replies = FrameBuffer.holding(gateway.release(7))
    assert replies.count == len(frames)
    found = []
    for reply in map(replies.frame, range(replies.count)):
        said = msgpack.unpackb(reply[HEADER_BYTES:])
        found.append(said if reply[4] == Kind.RESULT else said["code"])
    return found


def test_a_full_disk_does_not_deny_what_was_done_before(rig: Rig) -> None:
    """As when the gateway sends again what a writer died over."""
    session = rig.open()
    ran = [frame("put", "a", session=session), keyed("put", "k", "b", session=session)]
    rig.run(*ran)
    before = rig.memory()
    never = [
        frame("put", "c", session=session, request=2),
        keyed("put", "l", "d", session=session),
        frame("put", "e"),
    ]
    others = [frame("put", "z", session=session), keyed("put", "k", "z", session=session)]
    codes = ["unavailable"] * 3 + ["identity_conflict"] * 2
    assert refused(rig, *ran, *never, *others) == [1, 2, *codes]
    assert rig.memory() == before
