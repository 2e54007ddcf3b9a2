"""The exchange's rules, one at a time, and thousands of random orders against a naive exchange."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from tests.unit.examples.naive_exchange import NaiveExchange, Refused

from diptych import Rejected
from diptych.testing import Bench, running
from diptych_client import BadArguments
from exchange import Average, Conservation, Level, OpenOrder, Position, Side, Statement, Until, app

BUY, SELL = Side.BUY, Side.SELL
ALICE, BOB, CAROL = 1, 2, 3


@pytest.fixture(params=["interpreted", "compiled"])
def exchange(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Alice has cash, Bob has shares, Carol has both; every invariant is checked at each step."""
    with app.open(lane=request.param, now=1_000, check=True) as exchange:
        exchange.list_symbol("AAPL")
        exchange.list_symbol("GOLD", tick=5, lot=10)
        exchange.open_account(ALICE, 10_000)
        exchange.open_account(BOB)
        exchange.open_account(CAROL, 10_000)
        exchange.issue_shares(BOB, "AAPL", 50)
        exchange.issue_shares(CAROL, "AAPL", 50)
        exchange.issue_shares(CAROL, "GOLD", 100)
        yield exchange


def refused(exchange: Bench, operation: str, *arguments: Any, **named: Any) -> Rejected:
    """The rejection a call ends with, which must leave no trace."""
    before = exchange.fingerprint()
    with pytest.raises(Rejected) as no:
        exchange.call(operation, *arguments, **named)
    assert exchange.fingerprint() == before
    return no.value


def test_order_rests_and_reserves(exchange: Bench) -> None:
    placed = exchange.place_order(ALICE, "AAPL", BUY, price=100, quantity=30)
    assert placed.order > 0
    assert placed.filled == 0
    assert exchange.best("AAPL") == (100, None)
    assert exchange.account(ALICE) == Statement(10_000, 3_000, [])
    assert exchange.open_orders(ALICE) == [OpenOrder(placed.order, "AAPL", BUY, 100, 30)]
    sale = exchange.place_order(BOB, "AAPL", SELL, price=101, quantity=20)
    assert exchange.account(BOB) == Statement(0, 0, [Position("AAPL", 50, 20)])
    assert exchange.best("AAPL") == (100, 101)
    assert sale.order > placed.order


def test_trade_happens_at_the_resting_price(exchange: Bench) -> None:
    exchange.place_order(BOB, "AAPL", SELL, price=90, quantity=20)
    placed = exchange.place_order(ALICE, "AAPL", BUY, price=100, quantity=20)
    assert placed == (0, 20)
    assert exchange.account(ALICE) == Statement(10_000 - 1_800, 0, [Position("AAPL", 20, 0)])
    assert exchange.account(BOB) == Statement(1_800, 0, [Position("AAPL", 30, 0)])
    assert exchange.best("AAPL") == (None, None)


def test_sale_gets_the_bid(exchange: Bench) -> None:
    exchange.place_order(ALICE, "AAPL", BUY, price=100, quantity=20)
    placed = exchange.place_order(BOB, "AAPL", SELL, price=90, quantity=30)
    assert placed.filled == 20
    assert placed.order > 0
    assert exchange.account(BOB) == Statement(2_000, 0, [Position("AAPL", 30, 10)])
    assert exchange.account(ALICE).reserved == 0
    assert exchange.best("AAPL") == (None, 90)


def test_better_price_first_then_older(exchange: Bench) -> None:
    exchange.place_order(BOB, "AAPL", SELL, price=101, quantity=10)
    early = exchange.place_order(BOB, "AAPL", SELL, price=100, quantity=10)
    late = exchange.place_order(CAROL, "AAPL", SELL, price=100, quantity=10)
    assert exchange.place_order(ALICE, "AAPL", BUY, price=101, quantity=15).filled == 15
    assert [order.order for order in exchange.open_orders(CAROL)] == [late.order]
    assert exchange.open_orders(CAROL)[0].remaining == 5
    assert early.order not in [order.order for order in exchange.open_orders(BOB)]
    assert exchange.depth("AAPL", SELL) == [Level(100, 5), Level(101, 10)]


def test_immediate_or_cancel_drops_the_rest(exchange: Bench) -> None:
    exchange.place_order(BOB, "AAPL", SELL, price=100, quantity=10)
    placed = exchange.place_order(ALICE, "AAPL", BUY, 100, 25, until=Until.NOW)
    assert placed == (0, 10)
    assert exchange.account(ALICE) == Statement(9_000, 0, [Position("AAPL", 10, 0)])
    assert exchange.best("AAPL") == (None, None)
    assert exchange.place_order(ALICE, "AAPL", BUY, 100, 25, until=Until.NOW) == (0, 0)


def test_fill_or_kill_leaves_nothing_behind(exchange: Bench) -> None:
    exchange.place_order(BOB, "AAPL", SELL, price=100, quantity=50)
    no = refused(exchange, "place_order", ALICE, "AAPL", BUY, 100, 60, Until.FILLED)
    assert no == Rejected("not_filled", available=50)
    assert exchange.best("AAPL") == (None, 100)
    assert exchange.place_order(ALICE, "AAPL", BUY, 100, 50, Until.FILLED) == (0, 50)


def test_trading_with_oneself_moves_nothing_and_is_recorded(exchange: Bench) -> None:
    exchange.place_order(CAROL, "AAPL", SELL, price=100, quantity=20)
    assert exchange.place_order(CAROL, "AAPL", BUY, price=100, quantity=20) == (0, 20)
    exchange.place_order(CAROL, "AAPL", BUY, price=100, quantity=5)
    assert exchange.place_order(CAROL, "AAPL", SELL, price=90, quantity=5) == (0, 5)
    assert exchange.account(CAROL).cash == 10_000
    assert exchange.account(CAROL).positions[0] == Position("AAPL", 50, 0)
    assert exchange.vwap("AAPL") == Average(2, 25, 100.0)


@pytest.mark.parametrize(
    ("arguments", "no"),
    [
        ((ALICE, "NOPE", BUY, 100, 1), Rejected("unknown_symbol", symbol="NOPE")),
        ((ALICE, "GOLD", BUY, 101, 10), Rejected("bad_price", price=101, tick=5)),
        ((ALICE, "GOLD", BUY, 100, 11), Rejected("bad_quantity", quantity=11, lot=10)),
        ((99, "AAPL", BUY, 100, 1), Rejected("unknown_account", account=99)),
        (
            (ALICE, "AAPL", BUY, 100, 101),
            Rejected("insufficient_funds", needed=10_100, free=10_000),
        ),
        ((BOB, "AAPL", SELL, 100, 51), Rejected("insufficient_shares", needed=51, free=50)),
        ((ALICE, "AAPL", SELL, 100, 1), Rejected("insufficient_shares", needed=1, free=0)),
    ],
)
def test_bad_orders_are_rejected(exchange: Bench, arguments: Any, no: Rejected) -> None:
    assert refused(exchange, "place_order", *arguments) == no


@pytest.mark.parametrize(
    ("arguments", "parameter"),
    [
        ((ALICE, "AAPL", BUY, 0, 1), "price"),
        ((ALICE, "AAPL", BUY, -5, 1), "price"),
        ((ALICE, "AAPL", BUY, 100, 0), "quantity"),
        ((ALICE, "AAPL", BUY, 100, 10**12), "quantity"),
        ((ALICE, "AAPL", 7, 100, 1), "side"),
        ((ALICE, "NINE CHARS", BUY, 100, 1), "symbol"),
    ],
)
def test_arguments_out_of_bounds_never_reach_a_handler(
    exchange: Bench, arguments: Any, parameter: str
) -> None:
    with pytest.raises(BadArguments) as bad:
        exchange.place_order(*arguments)
    assert bad.value.parameter == parameter


def test_what_is_reserved_can_not_be_used_twice(exchange: Bench) -> None:
    exchange.place_order(ALICE, "AAPL", BUY, price=100, quantity=99)
    no = refused(exchange, "place_order", ALICE, "AAPL", BUY, 50, 3)
    assert no == Rejected("insufficient_funds", needed=150, free=100)
    no = refused(exchange, "withdraw", ALICE, 101)
    assert no == Rejected("insufficient_funds", needed=101, free=100)
    assert exchange.withdraw(ALICE, 100) == 9_900


def test_cancel_releases(exchange: Bench) -> None:
    buy = exchange.place_order(ALICE, "AAPL", BUY, price=100, quantity=30)
    sale = exchange.place_order(BOB, "AAPL", SELL, price=110, quantity=30)
    assert refused(exchange, "cancel_order", BOB, buy.order) == Rejected(
        "not_yours", order=buy.order
    )
    assert exchange.cancel_order(ALICE, buy.order) == 30
    assert exchange.cancel_order(BOB, sale.order) == 30
    assert exchange.account(ALICE).reserved == 0
    assert exchange.account(BOB).positions == [Position("AAPL", 50, 0)]
    assert refused(exchange, "cancel_order", ALICE, buy.order) == Rejected(
        "unknown_order", order=buy.order
    )


def test_reduce_keeps_the_place_in_the_queue(exchange: Bench) -> None:
    first = exchange.place_order(BOB, "AAPL", SELL, price=100, quantity=20)
    exchange.place_order(CAROL, "AAPL", SELL, price=100, quantity=20)
    assert exchange.reduce_order(BOB, first.order, 15) == 5
    assert exchange.account(BOB).positions == [Position("AAPL", 50, 5)]
    exchange.place_order(ALICE, "AAPL", BUY, price=100, quantity=5)
    assert exchange.open_orders(BOB) == []
    assert len(exchange.open_orders(CAROL)) == 1


def test_reduce_by_all_is_a_cancel_and_by_more_is_refused(exchange: Bench) -> None:
    order = exchange.place_order(CAROL, "GOLD", SELL, price=100, quantity=20).order
    assert refused(exchange, "reduce_order", CAROL, order, 30).code == "bad_quantity"
    assert refused(exchange, "reduce_order", CAROL, order, 5).code == "bad_quantity"
    assert refused(exchange, "reduce_order", ALICE, order, 10).code == "not_yours"
    assert exchange.reduce_order(CAROL, order, 20) == 0
    assert exchange.open_orders(CAROL) == []


def test_move_goes_to_the_end_of_the_queue(exchange: Bench) -> None:
    mine = exchange.place_order(BOB, "AAPL", SELL, price=105, quantity=10)
    exchange.place_order(CAROL, "AAPL", SELL, price=100, quantity=10)
    moved = exchange.move_order(BOB, mine.order, 100)
    assert moved.order > mine.order
    exchange.place_order(ALICE, "AAPL", BUY, price=100, quantity=10)
    assert [order.order for order in exchange.open_orders(BOB)] == [moved.order]
    assert exchange.open_orders(CAROL) == []


def test_move_may_trade_at_once(exchange: Bench) -> None:
    buy = exchange.place_order(ALICE, "AAPL", BUY, price=90, quantity=30)
    exchange.place_order(BOB, "AAPL", SELL, price=100, quantity=10)
    moved = exchange.move_order(ALICE, buy.order, 100)
    assert moved.filled == 10
    assert exchange.depth("AAPL", BUY) == [Level(100, 20)]


def test_reserve_price_bounds_a_move(exchange: Bench) -> None:
    buy = exchange.place_order(ALICE, "AAPL", BUY, price=90, quantity=10).order
    no = refused(exchange, "move_order", ALICE, buy, 101, reserve=100)
    assert no == Rejected("beyond_reserve", price=101, reserve=100)
    buy = exchange.move_order(ALICE, buy, 100, reserve=100).order
    assert exchange.best("AAPL") == (100, None)
    sale = exchange.place_order(BOB, "AAPL", SELL, price=120, quantity=10).order
    no = refused(exchange, "move_order", BOB, sale, 109, reserve=110)
    assert no == Rejected("beyond_reserve", price=109, reserve=110)
    exchange.move_order(BOB, sale, 110, reserve=110)
    assert exchange.best("AAPL") == (100, 110)
    no = refused(exchange, "move_order", ALICE, buy, 10_001)
    assert no.code == "insufficient_funds"
    assert exchange.best("AAPL") == (100, 110)


def test_accounts_and_symbols(exchange: Bench) -> None:
    assert exchange.deposit(BOB, 500) == 500
    assert refused(exchange, "deposit", 99, 1).code == "unknown_account"
    assert refused(exchange, "withdraw", 99, 1).code == "unknown_account"
    assert refused(exchange, "open_account", BOB, 1).code == "account_exists"
    assert refused(exchange, "list_symbol", "AAPL").code == "symbol_exists"
    assert refused(exchange, "issue_shares", BOB, "NOPE", 1).code == "unknown_symbol"
    assert refused(exchange, "issue_shares", 99, "AAPL", 1).code == "unknown_account"
    assert refused(exchange, "deposit", BOB, 4 * 10**18).code == "too_much"
    assert refused(exchange, "account", 99).code == "unknown_account"
    assert exchange.issue_shares(BOB, "AAPL", 7) == 57


def test_trades_are_listed_newest_first(exchange: Bench) -> None:
    for price in (100, 101, 102):
        exchange.place_order(BOB, "AAPL", SELL, price, 2)
        exchange.place_order(CAROL, "GOLD", SELL, 100, 10)
        exchange.advance(seconds=1)
        exchange.place_order(ALICE, "AAPL", BUY, price, 2)
        exchange.place_order(ALICE, "GOLD", BUY, 100, 10)
    prints = exchange.last_trades("AAPL", 2)
    assert [(trade.price, trade.quantity) for trade in prints] == [(102, 2), (101, 2)]
    assert prints[0].time - prints[1].time == 1_000_000_000
    assert len(exchange.last_trades("AAPL")) == 3
    assert exchange.vwap("AAPL") == Average(3, 6, 101.0)
    assert exchange.vwap("NOPE") == Average(0, 0, None)
    assert refused(exchange, "last_trades", "NOPE").code == "unknown_symbol"


def test_depth_stops_at_the_levels_asked_for(exchange: Bench) -> None:
    for price in (96, 97, 97, 98):
        exchange.place_order(ALICE, "AAPL", BUY, price, 3)
    assert exchange.depth("AAPL", BUY, 2) == [Level(98, 3), Level(97, 6)]
    assert exchange.depth("AAPL", BUY) == [Level(98, 3), Level(97, 6), Level(96, 3)]
    assert exchange.depth("AAPL", SELL) == []


def test_conservation_names_what_is_broken() -> None:
    with app.open(now=0) as exchange:
        exchange.list_symbol("AAPL")
        exchange.open_account(ALICE, 100)
        exchange.issue_shares(ALICE, "AAPL", 5)
        exchange.place_order(ALICE, "AAPL", BUY, 10, 3)
        assert exchange.conservation() == Conservation([], 100, 1, 0)
        with exchange.transaction() as db:
            db.account[ALICE].cash = 20
            db.holding[ALICE, "AAPL"].shares = 4
            db.holding[ALICE, "AAPL"].reserved = 9
        assert exchange.conservation().broken == [
            "cash_is_conserved",
            "shares_are_conserved",
            "nothing_is_overdrawn",
            "reservations_match_open_orders",
        ]


@pytest.mark.parametrize("seed", range(3))
def test_random_orders_against_a_naive_exchange(seed: int) -> None:
    source = random.Random(seed)
    naive = NaiveExchange()
    symbols = {"AAPL": (1, 1), "GOLD": (5, 10)}
    with app.open(now=0) as exchange:
        for symbol, (tick, lot) in symbols.items():
            exchange.list_symbol(symbol, tick, lot)
            naive.markets[symbol] = (tick, lot)
        for account in range(1, 6):
            exchange.open_account(account, 20_000)
            naive.cash[account] = 20_000
            for symbol in symbols:
                exchange.issue_shares(account, symbol, 300)
                naive.shares[account, symbol] = 300
        for step in range(1_200):
            operation, arguments = random_call(source, naive)
            assert outcome(exchange.call, operation, *arguments) == outcome(
                lambda name, *given: getattr(naive, name)(*given), operation, *arguments
            ), (step, operation, arguments)
        assert exchange.conservation().broken == []
        exchange.verify()
        assert exchange.conservation().trades == len(naive.trades) > 100
        for symbol in symbols:
            for side in Side:
                assert exchange.depth(symbol, side, 50) == naive.levels(symbol, side, 50)
        for account, cash in naive.cash.items():
            statement = exchange.account(account)
            assert (statement.cash, statement.reserved) == (cash, naive.reserved_cash(account))
            for position in statement.positions:
                assert position.shares == naive.shares[account, position.symbol]
                assert position.reserved == naive.reserved_shares(account, position.symbol)


def random_call(source: random.Random, naive: NaiveExchange) -> tuple[str, tuple[Any, ...]]:
    """Any of the four calls, sometimes a wrong one."""
    account = source.randint(1, 6) if source.random() < 0.1 else source.randint(1, 5)
    order = source.choice([*naive.orders, 10**6]) if naive.orders else 1
    if naive.orders and source.random() < 0.8:
        account = naive.orders[order]["account"] if order in naive.orders else account
    price = source.choice([source.randint(90, 110), 5 * source.randint(18, 22)])
    quantity = source.choice([source.randint(1, 40), 10 * source.randint(1, 6)])
    kind = source.random()
    if kind < 0.6:
        symbol = "AAPL" if source.random() < 0.6 else "GOLD"
        symbol = "NOPE" if source.random() < 0.02 else symbol
        until = source.choices([0, 1, 2], [7, 2, 2])[0]
        return "place_order", (account, symbol, source.choice([1, -1]), price, quantity, until)
    if kind < 0.75:
        return "cancel_order", (account, order)
    if kind < 0.85:
        return "reduce_order", (account, order, quantity)
    reserve = source.choice([None, source.randint(90, 110)])
    return "move_order", (account, order, price, reserve)


def outcome(call: Any, *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except (Rejected, Refused) as no:
        return no.code if isinstance(no, Rejected) else str(no)


def test_over_tcp() -> None:
    with running(app) as server, server.client() as exchange:
        assert exchange.best("AAPL") == (None, None)
        exchange.list_symbol("AAPL")
        exchange.open_account(ALICE, 1_000)
        placed = exchange.place_order(ALICE, "AAPL", side=1, price=10, quantity=3)
        assert exchange.best("AAPL") == (10, None)
        with pytest.raises(Rejected) as no:
            exchange.cancel_order(ALICE, placed.order + 1)
        assert no.value.code == "unknown_order"
        assert exchange.conservation().broken == []
