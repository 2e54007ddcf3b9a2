"""What no proper client sends: a typed error or a closed connection, and nobody else notices."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterator

import msgpack
import pytest
from tests.support.trouble import ACCOUNTS, CASH, app
from tests.support.wire import Wire, numbers, wait_until

from diptych.serving.local import Server, running
from diptych_client.protocol import (
    FRAME_BYTES_DEFAULT,
    HEADER,
    HELLO_BYTES_MAX,
    PREAMBLE,
    Kind,
    encode_frame,
)

HELLO = encode_frame(Kind.HELLO, msgpack.packb({"client": "odd"}))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(app, handshake_ms=300, output_bytes=1 << 20, interval_ms=2) as server:
        yield server


@pytest.fixture(autouse=True)
def neighbour(server: Server) -> Iterator[None]:
    """A healthy client beside every test: all of its calls are answered, soon."""
    ending = threading.Event()
    slowest_s = [0.0]
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with server.client() as bank:
                while not ending.is_set():
                    began = time.monotonic()
                    bank.transfer(1, 2, 1)
                    bank.transfer(2, 1, 1)
                    assert bank.total() == ACCOUNTS * CASH
                    slowest_s[0] = max(slowest_s[0], time.monotonic() - began)
                    time.sleep(0.001)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    yield
    ending.set()
    thread.join()
    assert not failures, failures
    assert slowest_s[0] < 1


@pytest.fixture
def wire(server: Server) -> Iterator[Wire]:
    with Wire(server.address) as wire:
        yield wire


@pytest.mark.parametrize(
    "said",
    [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x00" * 64, b"DIPTYCx\x01", b"d", b"\x16\x03\x01\x02"],
)
def test_another_protocol_is_closed(wire: Wire, said: bytes) -> None:
    wire.send(said)
    assert wire.closed()


def test_another_version_is_told_ours(wire: Wire) -> None:
    wire.send(b"DIPTYCH\x07" + HELLO)
    assert wire.read(8) == PREAMBLE
    error = wire.error()
    assert (error["code"], "version 7" in error["message"]) == ("protocol", True)
    assert wire.closed()


@pytest.mark.parametrize(
    "hello",
    [
        encode_frame(Kind.PING),
        encode_frame(Kind.TRANSACTION, msgpack.packb([1, 2, 3])),
        encode_frame(Kind.HELLO),
        encode_frame(Kind.HELLO, b"\xc1"),
        encode_frame(Kind.HELLO, msgpack.packb([1, 2])),
        encode_frame(Kind.HELLO, msgpack.packb({"client": 5})),
        encode_frame(Kind.HELLO, msgpack.packb({"fingerprint": "text"})),
        encode_frame(Kind.HELLO, b"\x91" * 5000),
        encode_frame(Kind.HELLO, bytes(HELLO_BYTES_MAX + 1)),
    ],
)
def test_a_wrong_hello(wire: Wire, hello: bytes) -> None:
    wire.send(PREAMBLE + hello)
    assert wire.read(8) == PREAMBLE
    assert wire.error()["code"] == "protocol"
    assert wire.closed()


@pytest.mark.parametrize("said", [b"", b"DIP", PREAMBLE, PREAMBLE + HELLO[:40]])
def test_silence_is_ended(wire: Wire, said: bytes) -> None:
    wire.send(said)
    assert wire.read(8) == PREAMBLE
    assert wire.error()["code"] == "protocol"
    assert wire.closed()


def test_a_hello_in_pieces_is_fine(wire: Wire) -> None:
    for byte in PREAMBLE + HELLO:
        wire.send(bytes([byte]))
    assert wire.read(8) == PREAMBLE
    assert wire.frame()[0].kind == Kind.WELCOME


@pytest.mark.parametrize("kind", [0, 1, 8, 16, 17, 21, 64, 66, 68, 69, 72, 255])
def test_a_frame_that_means_nothing(wire: Wire, kind: int) -> None:
    wire.greet()
    wire.send(encode_frame(kind, b"abc", request=3))
    assert wire.error()["code"] == "protocol"
    assert wire.closed()


def test_flags_mean_nothing(wire: Wire) -> None:
    wire.greet()
    wire.send(HEADER.pack(0, Kind.PING, 1, 0, 1, 0, 0))
    assert wire.error()["code"] == "protocol"
    assert wire.closed()


@pytest.mark.parametrize("length", [FRAME_BYTES_DEFAULT + 1, 2**31, 2**32 - 1])
def test_an_oversized_frame(wire: Wire, length: int) -> None:
    number = numbers(wire.greet())["echo"]
    wire.call(Kind.QUERY, number, ["before"], request=1)
    wire.send(HEADER.pack(length, Kind.QUERY, 0, number, 2, 0, 0) + bytes(1000))
    replies = [wire.frame(), wire.frame()]
    assert {header.kind for header, _ in replies} <= {Kind.RESULT, Kind.ERROR}
    assert "protocol" in [body["code"] for header, body in replies if header.kind == Kind.ERROR]
    assert wire.closed()


def test_the_largest_frame_is_taken(wire: Wire) -> None:
    number = numbers(wire.greet())["echo"]
    text = "x" * (FRAME_BYTES_DEFAULT - 6)
    wire.call(Kind.QUERY, number, [text], request=1)
    assert wire.frame()[1] == text
    wire.call(Kind.QUERY, number, ["small"], request=2)
    assert wire.frame()[1] == "small"


@pytest.mark.parametrize("missing", [1, 3, 4, 20, 35])
def test_a_truncated_frame_is_not_run(server: Server, wire: Wire, missing: int) -> None:
    number = numbers(wire.greet())["transfer"]
    frame = encode_frame(Kind.TRANSACTION, msgpack.packb([7, 8, 100]), operation=number, request=1)
    wire.send(frame[:-missing])
    wire.socket.shutdown(socket.SHUT_WR)
    assert wire.closed()
    with server.client() as bank:
        assert bank.balance(7) == CASH


def test_an_unknown_operation(wire: Wire) -> None:
    wire.greet()
    for number in (len(app.operations), 60_000):
        for kind in (Kind.TRANSACTION, Kind.QUERY):
            wire.call(kind, number, [], request=number)
            header, error = wire.frame()
            assert (header.kind, header.request) == (Kind.ERROR, number)
            assert (header.operation, error["code"]) == (number, "unknown_operation")
    wire.send(encode_frame(Kind.PING, request=5))
    assert wire.frame()[0].kind == Kind.PONG


def test_an_operation_of_the_other_kind(wire: Wire) -> None:
    number = numbers(wire.greet())
    wire.call(Kind.QUERY, number["transfer"], [1, 2, 3])
    assert wire.error()["code"] == "call_error"
    wire.call(Kind.TRANSACTION, number["total"], [])
    assert wire.error()["code"] == "call_error"
    wire.call(Kind.QUERY, number["total"], [])
    assert wire.frame()[1] == ACCOUNTS * CASH


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\x93\x01\x02",
        b"\x93\x01\x02\x03\x04",
        msgpack.packb(7),
        msgpack.packb({"source": 1}),
        msgpack.packb([]),
        msgpack.packb([1, 2]),
        msgpack.packb([1, 2, 3, 4]),
        msgpack.packb([1, 2, "3"]),
        msgpack.packb([1, 2, 3.5]),
        msgpack.packb([1, 2, None]),
        msgpack.packb([1, 2, [3]]),
        msgpack.packb([1, 2, 2**64 - 1]),
        b"\x91" * 5000,
        b"\xdd\xff\xff\xff\xff",
    ],
)
def test_wrong_arguments(wire: Wire, payload: bytes) -> None:
    number = numbers(wire.greet())
    wire.send(encode_frame(Kind.TRANSACTION, payload, operation=number["transfer"], request=9))
    header, error = wire.frame()
    assert (header.kind, header.request) == (Kind.ERROR, 9), error
    assert error["code"] == "bad_arguments"
    wire.send(encode_frame(Kind.QUERY, payload, operation=number["balance"], request=10))
    header, error = wire.frame()
    assert (header.kind, header.request) == (Kind.ERROR, 10) or error == "not_found"
    wire.call(Kind.QUERY, number["total"], [])
    assert wire.frame()[1] == ACCOUNTS * CASH


@pytest.mark.parametrize("seed", range(8))
def test_garbage(server: Server, seed: int) -> None:
    """Random bytes after a good start, and good frames with random bytes changed."""
    chance = random.Random(seed)
    with Wire(server.address) as wire:
        number = numbers(wire.greet())["echo"]
        good = bytearray(
            b"".join(
                encode_frame(Kind.QUERY, msgpack.packb(["x" * i]), operation=number, request=i)
                for i in range(200)
            )
        )
        for _ in range(20):
            good[chance.randrange(len(good))] = chance.randrange(256)
        wire.send(bytes(good) + chance.randbytes(5000))
        wire.socket.shutdown(socket.SHUT_WR)
        answers = 0
        while not wire.closed():
            answers += 1
        assert answers <= 200_000


def test_a_client_that_never_reads_is_dropped(server: Server) -> None:
    with Wire(server.address, timeout_s=20) as wire, server.client() as bank:
        number = numbers(wire.greet())["large"]
        dropped = bank.info()["dropped"]
        frame = encode_frame(Kind.QUERY, msgpack.packb([1 << 20]), operation=number, request=1)
        with pytest.raises(OSError):
            wire.flood(frame, 10_000, pause_s=0.001)
        wait_until(lambda: bank.info()["dropped"] == dropped + 1)


def test_a_flood_of_pings_that_nobody_reads(server: Server) -> None:
    with Wire(server.address, timeout_s=20) as wire, server.client() as bank:
        wire.greet()
        dropped = bank.info()["dropped"]
        flood = encode_frame(Kind.PING, request=1) * 1000
        with pytest.raises(OSError):
            wire.flood(flood, 10_000)
        wait_until(lambda: bank.info()["dropped"] == dropped + 1)


def test_a_sequence_number_from_nowhere(wire: Wire) -> None:
    welcome = wire.greet()
    number = numbers(welcome)["total"]
    for sequence, history in ((2**63, welcome["history"]), (1, 12345), (2**64 - 1, 0)):
        wire.send(
            encode_frame(
                Kind.QUERY, b"\x90", operation=number, request=1, sequence=sequence, context=history
            )
        )
        error = wire.error()
        assert error["code"] == "history_changed"
        assert error["history"] == welcome["history"]
        assert error["sequence"] >= 1


def test_a_client_that_leaves_at_once(server: Server) -> None:
    """Connections that come, send and vanish, with answers on their way."""
    with Wire(server.address) as first:
        number = numbers(first.greet())
    for _ in range(50):
        with Wire(server.address) as wire:
            wire.send(PREAMBLE + HELLO)
            wire.call(Kind.TRANSACTION, number["transfer"], [3, 4, 0])
            wire.call(Kind.QUERY, number["slow"], [5])
    with server.client() as bank:
        wait_until(lambda: bank.info()["connections"] <= 2)
        wait_until(lambda: bank.info()["queries"]["in_flight"] == 0)


def test_too_many_connections() -> None:
    with running(app, connections=2, readers=1) as server, server.client() as bank:
        with Wire(server.address) as second, Wire(server.address) as third:
            second.greet()
            assert third.read(8) == PREAMBLE
            assert third.error()["code"] == "busy"
            assert third.closed()
        assert bank.total() == ACCOUNTS * CASH
