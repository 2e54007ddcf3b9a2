"""The suite's peers take orders as the exchange does, and what it says of figures is right."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from bench.suite.command import SECTIONS, main
from bench.suite.loads import kernels
from bench.suite.measure import Figure, Figures, in_turn
from bench.suite.peers.asyncio_exchange import Exchange, Refused
from bench.suite.peers.asyncio_peer import Asyncio
from bench.suite.peers.base import Peer
from bench.suite.peers.every import behaviour, compared
from bench.suite.peers.postgres_peer import PostgreSql
from bench.suite.peers.redis_peer import RedisLua
from bench.suite.peers.sqlite_peer import Sqlite
from bench.suite.peers.tarantool_peer import TarantoolLua
from bench.suite.report import Report, Result, Table, Told
from bench.suite.sections.loading import figures_of
from bench.suite.sections.scripts import tables_in
from bench.suite.workload import SYMBOL, State, flow, played, trades

from diptych import Rejected
from diptych.loadtest import LoadSettings
from exchange import app

CALLS = 700
Behaviour = tuple[list[object], State]


def of_exchange(exchange: Exchange) -> Callable[..., Any]:
    def call(name: str, *arguments: Any) -> Any:
        try:
            return getattr(exchange, name)(*arguments)
        except Refused as no:
            return no.code

    return call


@pytest.fixture(scope="module")
def expected() -> Behaviour:
    """What the exchange in dicts does."""
    exchange = Exchange()
    call = of_exchange(exchange)
    for name, arguments in flow().setup():
        call(name, *arguments)
    answers = played(call, CALLS)
    return answers, State(exchange.tape(), exchange.holdings())


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that another user can get to, as PostgreSQL must when this is root."""
    with TemporaryDirectory() as path:
        yield Path(path)


def test_the_reference_does_what_the_application_does(expected: Behaviour) -> None:
    with app.open() as bench:

        def call(name: str, *arguments: Any) -> Any:
            try:
                return bench.call(name, *arguments)
            except Rejected as no:
                return no.code

        for name, arguments in flow().setup():
            call(name, *arguments)
        answers = played(call, CALLS)
        held = []
        for number in range(1, 401):
            told = bench.account(number)
            shares = sorted((p.symbol, p.shares, p.reserved) for p in told.positions)
            held.append((number, told.cash, told.reserved, shares))
        tape = [
            (symbol, trade.price, trade.quantity)
            for symbol in sorted(flow().symbols)
            for trade in reversed(bench.last_trades(symbol, 10_000))
        ]
    assert compared(expected, (answers, State(tape, held))) == ""
    assert len(tape) > 100
    assert "unknown_order" in answers


@pytest.mark.parametrize(
    "peer",
    [Asyncio(), Sqlite(), RedisLua(), TarantoolLua(), PostgreSql()],
    ids=lambda peer: type(peer).__name__,
)
def test_a_peer(peer: Peer, expected: Behaviour, place: Path) -> None:
    if why := peer.missing():
        pytest.skip(why)
    assert compared(expected, behaviour(peer, place, CALLS)) == ""
    durability = peer.durabilities[-1]
    assert peer.version()
    with TemporaryDirectory(dir=place) as path, peer.open(Path(path), durability) as served:
        served.setup(flow().setup())
        served.preload(2_000)
        made = trades(2_000)
        count, volume, average = served.call("vwap", SYMBOL)
        assert (count, volume) == (2_000, made.quantity.sum())
        assert average == pytest.approx((made.price * made.quantity).sum() / volume)
        settings = LoadSettings(
            connections=2, in_flight=8, duration_s=0.4, warmup_s=0.1, query_connections=1,
            setup=False,
        )  # fmt: skip
        report = served.load(flow(8), settings)
        assert report.clean
        figures = figures_of(report)
        assert (figures["per_s"] or 0) > 0
        assert (figures["queries_per_s"] or 0) > 0
        # Cash neither appears nor goes.
        assert sum(cash for _, cash, _, _ in served.holdings()) == 400 * 10**12


def test_what_differs_is_named(expected: Behaviour) -> None:
    answers, state = expected
    assert "answers call 3" in compared(expected, ([*answers[:3], "x", *answers[4:]], state))
    assert "trades" in compared(expected, (answers, State(state.tape[:-1], state.holdings)))
    assert "balances" in compared(expected, (answers, State(state.tape, state.holdings[:-1])))


def test_refusals_change_nothing() -> None:
    exchange = Exchange()
    exchange.list_symbol("ABC", 5, 10)
    exchange.open_account(1, 1_000)
    before = exchange.holdings()
    for arguments, code in (
        ((1, "ABC", 1, 100, 20), "insufficient_funds"),
        ((1, "ABC", -1, 100, 10), "insufficient_shares"),
        ((1, "ABC", 1, 7, 10), "bad_price"),
        ((1, "ABC", 1, 10, 5), "bad_quantity"),
        ((1, "XYZ", 1, 10, 10), "unknown_symbol"),
        ((9, "ABC", 1, 10, 10), "unknown_account"),
        ((1, "ABC", 1, 0, 10), "bad_arguments"),
    ):
        assert of_exchange(exchange)("place_order", *arguments) == code
    assert exchange.holdings() == before


def test_rounds_are_in_turn_and_ratios_within_a_round() -> None:
    order: list[str] = []
    speeds = {"a": iter([10.0, 30.0, 20.0]), "b": iter([5.0, 10.0, 20.0])}

    def subject(name: str) -> Callable[[], Figures]:
        def run() -> Figures:
            order.append(name)
            return {"per_s": next(speeds[name])}

        return run

    def broken() -> Figures:
        raise RuntimeError("no")

    rounds = in_turn({"a": subject("a"), "b": subject("b"), "c": broken}, 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    ratio = rounds.ratio("a", "b", "per_s")
    assert ratio is not None
    assert (ratio.median, ratio.spread) == (2.0, (1.0, 3.0))
    assert rounds.failed == {"c": "RuntimeError: no"}
    assert rounds.figure("c", "per_s") is None


def test_a_report(tmp_path: Path) -> None:
    table = Table(
        "speeds", ("system", "per s"), [("this", Figure((1.0, 3.0, 2.0))), ("that", None)]
    )
    report = Report("command", "now", {"this": "1.0"}, {"that": "it is not there"})
    report.sections.append(
        Told("s", "Section", "About.", "again", 1.0, Result([table], ["a note"]))
    )
    report.write(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "| this | 2 (1..3) |" in text
    assert "- that: left out, it is not there" in text
    told = json.loads((tmp_path / "report.json").read_text())
    (_, figure), _ = told["sections"]["s"]["tables"][0]["rows"]
    assert figure == {"median": 2.0, "least": 1.0, "most": 3.0, "samples": [1.0, 3.0, 2.0]}
    assert told["machine"]


def test_tables_of_other_benchmarks() -> None:
    text = "## First\n\n| a | b |\n| --- | ---: |\n| 1 | 2 |\n\nLinux\n\n| c |\n|---|\n| 3 |\n"
    first, second = tables_in(text)
    assert (first.title, first.columns, first.rows) == ("First", ("a", "b"), [("1", "2")])
    assert (second.title, second.columns, second.rows) == ("Linux", ("c",), [("3",)])


def test_the_command(tmp_path: Path) -> None:
    assert "orders" in SECTIONS
    flags = ("--quick", "--seconds", "0.2", "--peers", "asyncio", "--output", str(tmp_path))
    assert main(["orders", *flags]) == 0
    told = json.loads((tmp_path / "report.json").read_text())
    (section,) = told["sections"].values()
    assert [row[0] for row in section["tables"][0]["rows"]] == ["Diptych", "asyncio"]


@pytest.mark.parametrize(
    ("reply", "ok", "value"),
    [
        (b"+OK\r\n", 1, 0),
        (b":12\r\n", 1, 12),
        (b"*2\r\n:7\r\n:8\r\n", 1, 7),
        (b"$4\r\n1000\r\n", 1, 4),
        (b"$-1\r\n", 1, 0),
        (b"-ERR no\r\n", 0, 0),
    ],
)
def test_where_a_reply_of_redis_ends(reply: bytes, ok: int, value: int) -> None:
    shared = np.zeros(kernels.WORDS, np.int64)
    data = np.frombuffer(b"??" + reply + b"$1\r\nx\r\n", np.uint8)
    end = 2 + len(reply)
    assert kernels.find_resp(shared, data, 2, len(data)) == end
    assert (shared[kernels.OK], shared[kernels.VALUE]) == (ok, value)
    for have in range(2, end):
        assert kernels.find_resp(shared, data, 2, have) == -1
