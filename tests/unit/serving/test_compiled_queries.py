"""Compiled queries: what a client is told is what it would be told without them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from numba.core import config
from tests.support import points
from tests.support.burst import Burst
from tests.support.lanes import Lanes
from tests.support.points import ACCOUNTS, CASH

from diptych import App, Db, Rejected, key
from diptych.engine.lane import compiled_for
from diptych.engine.queries import ImageChanged
from diptych.errors import DeclarationError
from diptych.serving.answering import Bundles
from diptych.serving.bundles import Answers, Mark, Progress, bundle
from diptych.serving.channel import Run
from diptych.serving.frames import FrameBuffer
from diptych.store.compiled.handlers import compiled_operations
from diptych.testing import EPOCH, Bench, Server, running
from diptych_client.errors import TimedOut
from diptych_client.protocol import HEADER_BYTES, Header, Kind, encode_frame
from exchange import app as exchange
from exchange.schema import Side

pytestmark = pytest.mark.skipif(config.DISABLE_JIT, reason="nothing is compiled")

TOKEN = 77
SHORT, LONG = 10, 60_000_000


# Both lanes.


class Compared:
    """Runs calls as one bundle on the data of a bench, and each by the interpreter."""

    def __init__(self, app: App, bench: Bench) -> None:
        self.bench = bench
        self.queries = bench._queries
        self.progress = Progress()
        self.sent: list[bytes] = []
        compiled = compiled_for(app)
        assert compiled is not None
        self.compiled = compiled
        self.bundles = Bundles(
            compiled,
            self.queries,
            self.progress.slot(0),
            lambda data: self.sent.append(bytes(data)),
        )
        self.numbers = {operation.name: operation.number for operation in app.operations}

    def frame(self, request: int, name: str, arguments: Any) -> bytes:
        number = self.numbers.get(name, 999)
        return encode_frame(Kind.QUERY, msgpack.packb(arguments), operation=number, request=request)

    def run(self, *calls: tuple[str, list[Any]]) -> list[Answers]:
        """Compare; returns what the headers of ANSWERS told."""
        frames = [self.frame(i, name, given) for i, (name, given) in enumerate(calls, 1)]
        run = Run(0, EPOCH, self.bench._engine.sequence, time.monotonic_ns(), 1)
        buffer = FrameBuffer.holding(bundle(TOKEN, len(frames), b"".join(frames)))
        self.sent.clear()
        assert self.bundles.answer(run, buffer, 0, 1) == 1
        told, replies = self.read()
        assert len(replies) == len(frames)
        for frame, reply in zip(frames, replies, strict=True):
            header = Header.read(frame)
            payload = frame[HEADER_BYTES:]
            alone = self.queries.run(*run[:4], header.operation, header.request, payload)
            expected, got = Header.read(alone), Header.read(reply)
            assert got._replace(context=0) == expected._replace(context=0)
            assert reply[HEADER_BYTES:] == alone[HEADER_BYTES:]
            assert got.context == told[-1].age_us or len(told) > 1
        return told

    def read(self) -> tuple[list[Answers], list[bytes]]:
        told: list[Answers] = []
        replies: list[bytes] = []
        for data in self.sent:
            outer = FrameBuffer.holding(data)
            for i in range(outer.count):
                frame = bytes(outer.frame(i))
                told.append(Answers.read(frame))
                if len(frame) > HEADER_BYTES:
                    inner = FrameBuffer.holding(frame[HEADER_BYTES:])
                    replies += [bytes(inner.frame(k)) for k in range(inner.count)]
        return told, replies


@pytest.fixture
def compared() -> Iterator[Compared]:
    with points.app.open(setup=True, now=5_000) as bench:
        yield Compared(points.app, bench)


def test_a_mixed_bundle_is_answered_as_its_queries_alone_are(compared: Compared) -> None:
    told = compared.run(
        ("point", [1]),
        ("plain", [2]),
        ("owner", [3]),
        ("owner", [4, 8]),
        ("owner", [4_000]),
        ("at_most", [5, CASH]),
        ("at_most", [5, 10]),
        ("point", [4_000]),
        ("point", ["x"]),
        ("point", []),
        ("point", {"account": 1}),
        ("point", [1 << 63]),
        ("unheard_of", []),
        ("transfer", [1, 2, 3]),
        ("seen", []),
        ("total", []),
        ("amounts", [3]),
        ("amounts", [-1]),
        ("point", [6]),
    )
    assert [(t.token, t.more, t.results, t.rejected, t.errors) for t in told] == [
        (TOKEN, False, 10, 2, 7)
    ]
    # The last one that ran, of that bundle.
    assert Mark.of(int(compared.progress.slot(0)[0])) == Mark(TOKEN, 18)


def test_bytes_that_are_no_arguments(compared: Compared) -> None:
    for payload in (b"", b"\x91", b"\xc1", b"\xdd\xff\xff\xff\xff", b"\x91\x01\x01"):
        number = compared.numbers["point"]
        frame = encode_frame(Kind.QUERY, payload, operation=number, request=9)
        run = Run(0, EPOCH, 1, time.monotonic_ns(), 1)
        compared.sent.clear()
        compared.bundles.answer(run, FrameBuffer.holding(bundle(TOKEN, 1, frame)), 0, 1)
        ((told,), (reply,)) = compared.read()
        assert (told.errors, reply[4]) == (1, Kind.ERROR)


def test_a_query_sees_the_number_of_the_image_and_the_time_of_the_last_change(
    compared: Compared,
) -> None:
    compared.bench.transfer(1, 2, 5)
    compared.run(("seen", []), ("seen_plainly", []), ("point", [1]), ("point", [2]))
    # An image may be known to show more than was cut with it: nothing else was changed.
    run = Run(0, EPOCH, 12_345, time.monotonic_ns(), 1)
    frame = compared.frame(1, "seen", [])
    compared.sent.clear()
    compared.bundles.answer(run, FrameBuffer.holding(bundle(TOKEN, 1, frame)), 0, 1)
    (_, (reply,)) = compared.read()
    assert msgpack.unpackb(reply[HEADER_BYTES:]) == [12_345, 5_000]
    assert Header.read(reply).sequence == 12_345


def test_answers_beyond_a_bundles_room_are_sent_in_parts(compared: Compared) -> None:
    calls = [("amounts", [ACCOUNTS]), ("amounts", ["bad"])] * 600
    told = compared.run(*calls)
    assert len(told) > 1
    assert [each.more for each in told] == [True] * (len(told) - 1) + [False]
    assert sum(each.results for each in told) == sum(each.errors for each in told) == 600


def test_several_bundles_are_one_run(compared: Compared) -> None:
    parts = [bundle(token, 2, compared.frame(1, "point", [token]) * 2) for token in (1, 2, 3)]
    buffer = FrameBuffer.holding(b"".join(parts) + encode_frame(Kind.PING))
    run = Run(0, EPOCH, 1, time.monotonic_ns(), 3)
    assert compared.bundles.answer(run, buffer, 0, 4) == 3
    told, replies = compared.read()
    assert [(each.token, each.results) for each in told] == [(1, 2), (2, 2), (3, 2)]
    assert (len(compared.sent), len(replies)) == (1, 6)


def test_another_image_than_was_meant_is_not_read(compared: Compared) -> None:
    buffer = FrameBuffer.holding(bundle(TOKEN, 1, compared.frame(1, "point", [1])))
    with pytest.raises(ImageChanged):
        compared.bundles.answer(Run(0, EPOCH + 1, 1, 0, 1), buffer, 0, 1)
    assert compared.sent == []


def test_the_exchanges_compiled_queries() -> None:
    """On empty books, and on books of many prices."""
    with exchange.open(now=1_000) as bench:
        bench.list_symbol("AAPL", 1, 1)
        for account in (1, 2):
            bench.open_account(account)
            bench.deposit(account, 1_000_000)
            bench.issue_shares(account, "AAPL", 10_000)
        compared = Compared(exchange, bench)
        calls: list[tuple[str, list[Any]]] = [("best", ["AAPL"]), ("best", ["nothing"])]
        for side in Side:
            calls += [("depth", ["AAPL", side]), ("depth", ["AAPL", side, 3])]
        assert {"best", "depth"} <= {each.name for each in exchange.operations if each.compiled}
        compared.run(*calls)
        for number in range(60):
            side = Side.BUY if number % 2 else Side.SELL
            price = 100 + number % 7 + (0 if side is Side.BUY else 20)
            bench.place_order(1 + number % 2, "AAPL", side, price, 1 + number)
        assert len(bench.depth("AAPL", Side.BUY)) == 7
        compared.run(*calls)


# On a bench.


def test_a_compiled_bench_runs_its_queries_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    with points.app.open(lane="compiled", setup=True, now=5_000) as bench:
        interpreted: list[int] = []
        run = bench._queries.run

        def counted(*given: Any) -> bytes:
            interpreted.append(given[4])
            return run(*given)

        monkeypatch.setattr(bench._queries, "run", counted)
        assert bench.transfer(1, 2, 5) == bench.point(1) == CASH - 5
        assert bench.total() == ACCOUNTS * CASH
        assert bench.owner(3) == ("né 3", 3, 7)
        assert bench.amounts(2) == [CASH - 5, CASH + 5]
        bench.advance(seconds=1)
        assert bench.seen() == (bench.db.sequence, 5_000)  # of the transaction, as on an image
        with pytest.raises(Rejected, match="too_rich"):
            bench.at_most(1, 1)
        assert interpreted == []
        with pytest.raises(Rejected, match="not_found"):
            bench.point(4_000)
        assert bench.plain(2) == CASH + 5
        assert len(interpreted) == 2


@pytest.mark.parametrize(
    ("name", "arguments", "outcome"),
    [
        ("point", [1], CASH - 5),
        ("plain", [1], CASH - 5),
        ("point", [4_000], ("rejected", "not_found", {"table": "account", "key": 4_000})),
        ("both", [1, 2], 2 * CASH),
        ("total", [], ACCOUNTS * CASH),
        ("owner", [0, -1], ("", None, -1)),
        ("owner", [2], ("né 2", None, 7)),
        ("at_most", [1, CASH], CASH - 5),
        ("at_most", [2, 1], ("rejected", "too_rich", {"cash": CASH + 5, "most": 1})),
        ("seen", [], (2, 2_000_001_000)),
        ("amounts", [3], [CASH - 5, CASH + 5, CASH]),
        ("amounts", [0], []),
    ],
)
def test_a_benchs_queries_are_the_same_in_both_lanes(
    lanes: Lanes, name: str, arguments: list[Any], outcome: Any
) -> None:
    assert lanes.check(name, *arguments) == outcome


def test_a_benchs_errors_are_the_same_in_both_lanes(lanes: Lanes) -> None:
    assert lanes.check("point", 2**70)[0] == "bad_arguments"
    assert lanes.check("point", "1")[0] == "bad_arguments"
    assert lanes.check("amounts", ACCOUNTS + 1)[0] == "bad_arguments"
    assert lanes.check("amounts", ACCOUNTS) == [CASH - 5, CASH + 5] + [CASH] * (ACCOUNTS - 2)
    with lanes.benches[0].transaction() as one, lanes.benches[1].transaction() as other:
        for db in (one, other):
            db.account[1].cash = 2**63 - 1
    assert lanes.check("both", 1, 2) == 2**63 - 1 + CASH + 5  # beyond what compiled code adds


@pytest.fixture
def lanes() -> Iterator[Lanes]:
    """One transaction after the setup, two seconds later."""
    with Lanes(points.app, setup=True) as both:
        both.advance(2)
        assert both.call("transfer", 1, 2, 5) == CASH - 5
        yield both


# What is refused.


class Thing:
    id: int = key()
    size: int = 0


def inserting(db: Db) -> None:
    """a query can't change data; make it a transaction"""
    db.thing.insert(id=1)  # here


def getting_or_inserting(db: Db) -> int:
    """a query can't change data; make it a transaction"""
    size: int = db.thing.get_or_insert(id=1).size  # here
    return size


def deleting(db: Db) -> None:
    """a query can't change data; make it a transaction"""
    db.thing.delete(db.thing[1])  # here


def assigning(db: Db) -> None:
    """a query can't change data; make it a transaction"""
    db.thing[1].size = 5  # here


def adding(db: Db) -> None:
    """a query can't change data; make it a transaction"""
    db.thing[1].size += 5  # here


def grow(db: Db) -> None:
    db.thing[1].size += 1  # there


def helped(db: Db) -> None:
    """a query can't change data; make it a transaction"""
    grow(db)


def drawing(db: Db) -> float:
    """db.random is for transactions: a query has no number of its own"""
    return db.random.random()  # here


@pytest.mark.parametrize(
    "function", [inserting, getting_or_inserting, deleting, assigning, adding, helped, drawing]
)
def test_a_compiled_query_that_writes_is_refused_with_its_line(function: Any) -> None:
    app = App("things")
    app.table(Thing)
    app.query(compiled=True)(function)
    with pytest.raises(DeclarationError, match=function.__doc__) as refused:
        compiled_operations(app)
    source = "there" if function is helped else "here"
    lines = Path(__file__).read_text().splitlines()
    file, line = str(refused.value).split(":")[:2]
    assert file == __file__
    assert lines[int(line) - 1].endswith(f"# {source}")


# In a server.


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(points.app, interval_ms=2, query_ms=1_500, prompt_queries="readers") as server:
        yield server


def test_a_mixed_burst(server: Server) -> None:
    calls = [
        *[("point", 5)] * 20,
        ("plain", 6),
        ("at_most", 5, 1),
        ("point", 4_000),
        ("point", "x"),
        ("unheard_of",),
        ("transfer", 1, 2, 3),
        *[("total",), ("owner", 3)] * 10,
    ]
    with Burst(server) as wire:
        expected = [wire.burst(call)[0] for call in calls]
        wire.learn(("point", 1), ("total",), ("owner", 3), ("at_most", 5, 1))
        for _ in range(20):
            assert wire.burst(*calls) == expected
        assert expected[20:26] == [
            CASH,
            ["too_rich", {"cash": CASH, "most": 1}],
            ["not_found", {"table": "account", "key": 4_000}],
            "bad_arguments",
            "unknown_operation",
            "call_error",
        ]


def test_a_client_sees_its_own_writes_in_bundles(server: Server) -> None:
    with Burst(server) as wire:
        wire.learn(("point", 1))
        wire.sees_its_own_writes()


def test_queries_of_another_history_are_refused_one_by_one(server: Server) -> None:
    with Burst(server) as wire:
        wire.learn(("point", 1))
        assert wire.burst(*[("point", 1)] * 3, at_least=1, history=1) == ["history_changed"] * 3
        assert wire.burst(*[("point", 900)] * 3) == [CASH] * 3


def test_beyond_the_limits_queries_are_refused(server: Server) -> None:
    with Burst(server) as wire:
        wire.learn(("point", 900))
        found = wire.burst(*[("point", 900)] * 2_000)
        assert set(found) <= {CASH, "busy"}
        assert found.count(CASH) >= 256
        assert wire.burst(("point", 900)) == [CASH]


def test_what_is_never_over_costs_its_bundle_little(server: Server) -> None:
    """It is ended with its reader; the others of its bundle are answered long before."""
    with Burst(server) as wire:
        wire.learn(("point", 900), ("busy", SHORT))
        began = time.monotonic()
        found = wire.burst(*[("point", 900)] * 9, ("busy", -1), *[("point", 900)] * 9)
        assert found == [CASH] * 9 + [TimedOut.code] + [CASH] * 9
        assert time.monotonic() - began < 10
        assert wire.burst(*[("point", 900)] * 9) == [CASH] * 9


def is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "R"


def test_a_reader_that_is_killed_in_a_bundle(server: Server) -> None:
    """Whatever it ran is run by another one."""
    with Burst(server) as wire:
        (value,) = wire.burst(("busy", LONG))
        wire.learn(*[("busy", SHORT)] * 4, ("point", 900))
        killed: list[int] = []

        def kill() -> None:
            killed.extend(filter(is_running, server.pids["reader"]))
            os.kill(killed[0], signal.SIGKILL)

        timer = threading.Timer(0.05, kill)
        timer.start()
        found = wire.burst(*[("point", 900)] * 5, ("busy", LONG), *[("point", 900)] * 5)
        timer.join()
        assert killed, "none of them ran it"
        assert found == [CASH] * 5 + [value] + [CASH] * 5


def test_no_image_is_torn(server: Server) -> None:
    """While money moves, every total that compiled queries see is the same."""
    over = threading.Event()

    def move() -> None:
        with server.client() as client:
            number = 0
            while not over.is_set():
                number += 1
                client.transfer(1 + number % 500, 501 + number % 499, 1)

    mover = threading.Thread(target=move)
    mover.start()
    try:
        with Burst(server) as wire:
            wire.learn(("total",))
            until = time.monotonic() + 1.5
            while time.monotonic() < until:
                assert set(wire.burst(*[("total",)] * 50)) == {ACCOUNTS * CASH}
    finally:
        over.set()
        mover.join()
