"""Sockets read and written by kernels: what goes by in runs, and what is left to connections."""

from __future__ import annotations

import fcntl
import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from diptych.serving import client_sockets as sockets
from diptych.serving.client_sockets import ClientSockets, write_now
from diptych.serving.connection import Connection
from diptych.serving.frames import FrameBuffer
from diptych.serving.gateway import Gateway
from diptych_client.protocol import Header, Kind, encode_frame

KINDS = np.array([0, Kind.TRANSACTION, Kind.QUERY], np.uint8)
FIRST = 2
FRAME_BYTES = 4096
IN_FLIGHT = 8


def call(request: int, size: int = 0) -> bytes:
    return encode_frame(Kind.TRANSACTION, bytes(size), operation=1, request=request)


def query(request: int) -> bytes:
    return encode_frame(Kind.QUERY, b"", operation=2, request=request)


def split(data: bytes) -> list[Header]:
    found = []
    while data:
        found.append(Header.read(data))
        data = data[32 + found[-1].length :]
    return found


class Client:
    """A connection as far as it is needed, and the other end of its socket."""

    def __init__(self, row: Any, session: int) -> None:
        self.row, self.session = row, session
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.far.settimeout(10)
        self.buffer = FrameBuffer(sockets.READ_BYTES, FRAME_BYTES)
        self.left: list[bytes] = []
        self.over: list[str] = []

    @property
    def number(self) -> int:
        return int(self.row[sockets.NUMBER])

    def received(self, data: bytes) -> None:
        self.buffer.space()[: len(data)] = data
        self.buffer_updated(len(data))

    def buffer_updated(self, count: int) -> None:
        """Take whole frames, keep part of one."""
        self.buffer.added(count)
        whole = self.buffer.split()
        self.left += [bytes(self.buffer.frame(number)) for number in range(whole)]
        self.buffer.consume()

    def ended(self) -> None:
        self.over.append("ended")

    def abort(self) -> None:
        self.over.append("aborted")


class Side:
    """What the sockets need of a gateway."""

    def __init__(self) -> None:
        limits = SimpleNamespace(
            connections=4, frame_bytes=FRAME_BYTES, transactions_in_flight=IN_FLIGHT
        )
        self.settings = SimpleNamespace(limits=limits)
        self.greeter = SimpleNamespace(kinds=KINDS)
        self.counts = SimpleNamespace(bytes_out=0)
        self.loop = self
        self.clients: dict[int, Client] = {}
        self.runs: list[tuple[bytes, int]] = []
        self.room_left = 100
        self.on_ready: Callable[[], None]
        self.sockets = ClientSockets(cast(Gateway, self), FIRST)
        self.sockets.begin()

    def add_reader(self, _: int, on_ready: Callable[[], None]) -> None:
        self.on_ready = on_ready

    def connection(self, number: int) -> Client | None:
        return self.clients.get(number)

    def room(self) -> int:
        return self.room_left

    def take_run(self, data: bytes, count: int) -> None:
        self.runs.append((data, count))
        self.room_left -= count

    def client(self, session: int = 0) -> Client:
        client = Client(self.sockets.row(), session)
        self.clients[client.number] = client
        self.sockets.adopt(cast(Connection, client), client.near.fileno())
        return client

    def leave(self, client: Client) -> None:
        self.sockets.leave(cast(Connection, client))

    def reply(self, *to: tuple[int, bytes, int]) -> list[tuple[int, bytes, int]]:
        """Send replies; those that are left."""
        data, rows = b"", []
        for number, reply, count in to:
            rows.append([number, len(data), len(data) + len(reply), count])
            data += reply
        runs = np.array(rows, np.int64)
        replies = np.frombuffer(bytearray(data), np.uint8)
        left = self.sockets.write(replies, runs, len(rows))
        return [(n, data[start:stop], count) for n, start, stop, count in runs[:left].tolist()]


@pytest.fixture
def side() -> Iterator[Side]:
    side = Side()
    yield side
    for client in side.clients.values():
        client.near.close()
        client.far.close()


def test_what_all_have_sent_is_one_run_that_says_whose_it_is(side: Side) -> None:
    clients = [side.client(session=10 * number) for number in range(3)]
    for number, client in enumerate(clients):
        client.far.sendall(b"".join(call(10 * number + i, size=i) for i in range(3)))
    side.on_ready()
    ((data, count),) = side.runs
    frames = split(data)
    assert count == len(frames) == 9
    for number, client in enumerate(clients):
        mine = [frame for frame in frames if frame.context == client.number]
        assert [frame.request for frame in mine] == [10 * number + i for i in range(3)]
        assert {frame.sequence for frame in mine} == {client.session}
        assert client.row[sockets.UNANSWERED] == 3
        assert not client.left
    side.on_ready()
    assert len(side.runs) == 1


def test_a_frame_in_parts_is_the_connections_until_it_is_whole(side: Side) -> None:
    client, frame = side.client(), call(2, size=100)
    client.far.sendall(call(1) + frame[:50])
    side.on_ready()
    assert [[f.request for f in split(data)] for data, _ in side.runs] == [[1]]
    client.far.sendall(frame[50:90])
    side.on_ready()
    assert not client.left
    client.far.sendall(frame[90:] + query(3))
    side.on_ready()
    assert client.left == [frame, query(3)]
    client.far.sendall(call(4))
    side.on_ready()
    assert [[f.request for f in split(data)] for data, _ in side.runs] == [[1], [4]]


def test_what_is_no_transaction_comes_behind_those_before_it(side: Side) -> None:
    first, second = side.client(), side.client()
    first.far.sendall(call(1))
    second.far.sendall(call(2) + query(3) + call(4))

    def received(data: bytes) -> None:
        assert 2 in [f.request for data, _ in side.runs for f in split(data)]
        second.left.append(data)

    second.received = received  # type: ignore[method-assign]  # a seam
    side.on_ready()
    assert second.left == [query(3) + call(4)]
    assert sorted(f.request for data, _ in side.runs for f in split(data)) == [1, 2]


@pytest.mark.parametrize("of", ["all", "one"])
def test_beyond_the_room_it_is_for_the_connection_to_refuse(side: Side, of: str) -> None:
    client = side.client()
    if of == "all":
        side.room_left = 3
    else:
        client.row[sockets.UNANSWERED] = IN_FLIGHT - 3
    client.far.sendall(b"".join(call(i) for i in range(1, 6)))
    side.on_ready()
    assert [count for _, count in side.runs] == [3]
    assert client.left == [call(4), call(5)]
    side.room_left = 0
    client.far.sendall(call(6))
    side.on_ready()
    assert client.left == [call(4), call(5), call(6)]


def test_meaningless_bytes_and_frames_that_are_too_long_are_left(side: Side) -> None:
    meaningless, long = side.client(), side.client()
    meaningless.far.sendall(call(1) + bytes(32))
    header = (FRAME_BYTES + 1).to_bytes(4, "little") + call(3)[4:]
    long.far.sendall(call(2) + header)
    got: list[bytes] = []
    for client in (meaningless, long):
        client.received = got.append  # type: ignore[method-assign]  # a seam
    side.on_ready()
    assert sorted(got) == sorted([bytes(32), header])
    assert sorted(f.request for data, _ in side.runs for f in split(data)) == [1, 2]


def test_much_comes_in_several_runs(side: Side) -> None:
    side.room_left = 1 << 20
    clients = [side.client() for _ in range(4)]
    for client in clients:
        client.row[sockets.UNANSWERED] = -(1 << 20)
        client.near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        client.far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    frames = [call(i, size=4000) for i in range(30)]
    for client in clients:
        client.far.sendall(b"".join(frames))
    while sum(len(data) for data, _ in side.runs) + sum(
        len(b"".join(client.left)) + client.buffer.end for client in clients
    ) < 4 * len(b"".join(frames)):
        side.on_ready()
    assert max(len(data) for data, _ in side.runs) <= sockets.RUN_BYTES
    for client in clients:
        taken = [
            f.request for data, _ in side.runs for f in split(data) if f.context == client.number
        ]
        own = [Header.read(frame).request for frame in client.left]
        assert sorted(taken + own) == list(range(30))


def test_ends(side: Side) -> None:
    ended, own_ended, broken = side.client(), side.client(), side.client()
    own_ended.far.sendall(call(1)[:10])
    side.on_ready()
    ended.far.sendall(call(2))
    for client in (ended, own_ended):
        client.far.shutdown(socket.SHUT_WR)
    side.on_ready()
    side.on_ready()
    assert ended.over[:1] == own_ended.over[:1] == ["ended"]
    assert [count for _, count in side.runs] == [1]
    # What is unread when it closes makes a reset of its end.
    broken.near.send(b"unread")
    broken.far.close()
    side.on_ready()
    assert broken.over[:1] == ["aborted"]


def test_a_bug_costs_one_client(side: Side, caplog: pytest.LogCaptureFixture) -> None:
    def fails(_: bytes) -> None:
        raise ZeroDivisionError

    first, faulty, last = side.client(), side.client(), side.client()
    faulty.received = fails  # type: ignore[method-assign]  # a seam
    first.far.sendall(call(1))
    faulty.far.sendall(call(2) + query(3))
    last.far.sendall(call(4))
    side.on_ready()
    assert (first.over, faulty.over, last.over) == ([], ["aborted"], [])
    assert sorted(f.request for data, _ in side.runs for f in split(data)) == [1, 2, 4]
    assert "ZeroDivisionError" in caplog.text


def test_one_that_has_left_is_not_read_and_not_written(side: Side) -> None:
    client, other = side.client(), side.client()
    client.row[sockets.WRITTEN_HERE] = 1
    side.leave(client)
    side.leave(client)
    client.far.sendall(call(1))
    other.far.sendall(call(2))
    side.on_ready()
    assert [f.request for data, _ in side.runs for f in split(data)] == [2]
    assert side.reply((client.number, b"reply", 1)) == [(client.number, b"reply", 1)]
    assert client.near.recv(1000) == call(1)


def test_replies_go_to_their_sockets(side: Side) -> None:
    first, second, later = side.client(), side.client(), side.client()
    for client in (first, second, later):
        client.row[sockets.UNANSWERED] = 5
        client.row[sockets.WRITTEN_HERE] = client is not later
    left = side.reply(
        (first.number, b"one", 1),
        (0, b"our own", 1),
        (second.number, b"two", 2),
        (later.number, b"three", 1),
        (first.number, b"four", 1),
        (first.number + 64, b"gone", 1),
    )
    assert left == [
        (0, b"our own", 1),
        (later.number, b"three", 1),
        (first.number + 64, b"gone", 1),
    ]
    assert first.far.recv(100) == b"onefour"
    assert second.far.recv(100) == b"two"
    counts = [int(client.row[sockets.UNANSWERED]) for client in (first, second, later)]
    assert counts == [3, 3, 5]
    assert side.counts.bytes_out == 10


def test_what_a_socket_does_not_take_is_left(side: Side) -> None:
    client = side.client()
    client.row[sockets.UNANSWERED] = 2
    client.row[sockets.WRITTEN_HERE] = 1
    much = bytes(range(256)) * (1 << 14)
    ((number, rest, count),) = side.reply((client.number, much, 1))
    assert (number, count) == (client.number, 0)
    assert 0 < len(rest) < len(much)
    assert much.endswith(rest)
    # Behind that, nothing is written past whoever writes the rest.
    assert side.reply((client.number, b"next", 1)) == [(client.number, b"next", 1)]
    assert client.row[sockets.UNANSWERED] == 1
    got = b""
    while len(got) < len(much) - len(rest):
        got += client.far.recv(1 << 20)
    assert got + rest == much


def test_write_now(side: Side) -> None:
    client = side.client()
    assert write_now(client.near.fileno(), b"all") == 3
    assert 0 < write_now(client.near.fileno(), bytes(1 << 24)) < 1 << 24
    assert write_now(client.near.fileno(), b"full") == 0
    client.far.close()
    assert write_now(client.near.fileno(), b"closed") == 0


def test_numbers_are_never_used_again(side: Side) -> None:
    numbers = []
    stays = side.client()
    for _ in range(100):
        client = side.client()
        numbers.append(client.number)
        side.leave(client)
        client.near.close()
        client.far.close()
        del side.clients[client.number]
        client.row[sockets.NUMBER] = 0
    assert len({stays.number, *numbers}) == 101
    assert min(stays.number, *numbers) == FIRST
    stays.far.sendall(call(7))
    side.on_ready()
    assert split(side.runs[0][0])[0].context == stays.number


def test_high_descriptors(side: Side) -> None:
    client = side.client()
    side.leave(client)
    low = client.near
    fd = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 3000)
    client.near = socket.socket(fileno=fd)
    low.close()
    side.sockets.adopt(cast(Connection, client), client.near.fileno())
    client.far.sendall(call(1))
    side.on_ready()
    assert [count for _, count in side.runs] == [1]
