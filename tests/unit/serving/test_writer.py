"""Parts of the writer, without its processes."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import msgpack
import pytest
from tests.support.once import SMALL, Rig, frame, keyed

from diptych.control_page import Word
from diptych.durable import DiskFull
from diptych.durable.patience import COUNT_MIN, Patience
from diptych.serving.checkpoint_peer import CheckpointPeer
from diptych.serving.frames import FrameBuffer
from diptych.serving.peers import UNSENT_SOFT_BYTES, GatewayPeer
from diptych.serving.writer import SYNCS_TOLD, Writer
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


def test_frames_that_wait_for_held_replies_are_run_when_these_have_left() -> None:
    """All at once, so that the socket never is in the way, and so never tells."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        gateway = GatewayPeer(ours, 1)
        gateway.count = 5
        worked: list[GatewayPeer] = []
        writer: Any = SimpleNamespace(
            _look_at_log=lambda: gateway.release(1), _gateways=[gateway], _work=worked.append
        )
        gateway.hold(1, bytearray(UNSENT_SOFT_BYTES // 2 + 1))
        gateway.hold(2, bytearray(UNSENT_SOFT_BYTES // 2 + 1))
        assert gateway.full
        Writer._on_log(writer, 0)
        assert worked == [gateway]


class SlowLog:
    """A log whose first sync ends while the first piece of a batch runs."""

    written = durable = 0

    def append_batch(self, *record: Any) -> int:
        self.written = 1
        return 1

    def start_sync(self) -> None:
        pass

    def wait_briefly(self, seconds: float) -> None:
        pass  # not as briefly as that

    def on_wakeup(self) -> None:
        self.durable = self.written


def test_answers_leave_when_their_sync_has_ended_not_when_their_batch_has() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        gateway = GatewayPeer(ours, 1)
        gateway.buffer = FrameBuffer.holding(frame("put", "a") + frame("put", "b"))
        happened: list[str] = []
        engine = SimpleNamespace(sequence=0, aborts=[], replies=bytearray(), outcome=0)
        engine.begin = lambda time_ns: None

        def run(frames: Any, starts: Any, first: int, count: int, deadline_ns: int) -> int:
            happened.append(f"run {first}")
            engine.replies += b"reply"
            return 1

        engine.run = run
        writer: Any = Writer.__new__(Writer)
        vars(writer).update(
            engine=engine,
            _log=SlowLog(),
            _gateways=[gateway],
            _ahead=Mock(),
            _sync=lambda: None,
            _note_log=lambda: None,
            _send=lambda gateway, data: happened.append("send"),
            _outcome=0,
            _patience=Patience(),
            _syncs=0,
            _transaction_ns=1.0,
        )
        writer._transact(gateway, 0, 2)
    assert happened == ["run 0", "send", "run 1", "send"]


def test_how_long_syncs_take_is_told_also_when_they_are_waited_for() -> None:
    """The checkpointer goes by it."""
    log = SimpleNamespace(written=1, durable=0, sync_us=lambda percentile: 1_000 + percentile)

    def wait_briefly(seconds: float) -> None:
        log.durable, log.written = log.written, log.written + 1

    log.wait_briefly = wait_briefly
    words: dict[Word, int] = {}
    writer: Any = Writer.__new__(Writer)
    vars(writer).update(_log=log, _patience=Patience(), _syncs=0, _control_words=words)
    for _ in range(SYNCS_TOLD - 1):
        writer._wait_for_sync(COUNT_MIN)
    assert words == {}
    writer._wait_for_sync(COUNT_MIN)
    assert words == {Word.SYNC_US: 1_099}


def test_a_sync_that_nobody_waits_for_is_taken_note_of_too() -> None:
    """Its descriptor would stay readable, and the writer would look at it for ever."""
    noted: list[bool] = []
    log = SimpleNamespace(written=1, durable=1, on_wakeup=lambda: noted.append(True))
    writer: Any = Writer.__new__(Writer)
    vars(writer).update(_log=log, _gateways=[], _syncs=0)
    writer._on_log(0)
    assert noted == [True]


def test_a_checkpointer_that_left_takes_no_handler_of_another_with_it() -> None:
    """Its descriptor's number was given to the next socket before it was reaped."""
    ours, theirs = socket.socketpair()
    with select.epoll() as epoll, theirs:
        peer = CheckpointPeer(ours, 9, Mock(), epoll)
        others = {peer.fd: lambda _: None}
        writer: Any = SimpleNamespace(_ready=others, _checkpoints=peer, _gateways=[], syncer=Mock())
        peer.close()
        Writer._obey(writer, {"do": "left", "holder": 9})
        assert list(others) == [peer.fd]
