"""The exchange in dicts and sorted containers: what the asyncio server serves.

The rules are those of `examples/exchange/app.py`, as far as the flow uses them. Objects have slots,
a price level is a dict in order of arrival. Nothing is undone, so everything is checked first.
What the average price is made of also lies in arrays, so that numpy adds it up.
Knows nothing of sockets.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator
from typing import Any

import numpy as np
from sortedcontainers import SortedDict

PRICE_MAX, QUANTITY_MAX = 10**8, 5 * 10**10
TIMES = (0, 1)  # good until cancelled, now


class Refused(Exception):
    """A rejection: `code`, and details by name."""

    def __init__(self, code: str, **details: Any) -> None:
        self.code, self.details = code, details


class Account:
    __slots__ = ("cash", "holdings", "reserved")

    def __init__(self, cash: int) -> None:
        self.cash = cash
        self.reserved = 0
        self.holdings: dict[str, Holding] = {}


class Holding:
    __slots__ = ("reserved", "shares")

    def __init__(self) -> None:
        self.shares = self.reserved = 0


class Order:
    __slots__ = ("account", "number", "price", "remaining", "side", "symbol")

    def __init__(
        self, number: int, account: int, symbol: str, side: int, price: int, remaining: int
    ) -> None:
        self.number, self.account, self.symbol = number, account, symbol
        self.side, self.price, self.remaining = side, price, remaining


class Half:
    """One side of a book: levels by rank, which is lowest for the best price. None is empty."""

    __slots__ = ("best", "levels")

    def __init__(self) -> None:
        self.levels: SortedDict[int, dict[int, Order]] = SortedDict()
        self.best: int | None = None  # rank of the best level

    def add(self, rank: int, order: Order) -> None:
        level = self.levels.get(rank)
        if level is not None:
            level[order.number] = order
            return
        self.levels[rank] = {order.number: order}
        if self.best is None or rank < self.best:
            self.best = rank

    def remove(self, rank: int, number: int) -> None:
        level = self.levels[rank]
        del level[number]
        if not level:
            del self.levels[rank]
            if rank == self.best:
                self.best = self.levels.peekitem(0)[0] if self.levels else None


class Market:
    __slots__ = ("halves", "last_trade", "lot", "prices", "quantities", "tick", "trades")

    def __init__(self, tick: int, lot: int) -> None:
        self.tick, self.lot, self.last_trade = tick, lot, 0
        self.halves = {1: Half(), -1: Half()}
        # number, price, quantity, buyer, seller, time in ns, the trade before
        self.trades: list[tuple[int, int, int, int, int, int, int]] = []
        self.prices, self.quantities = array("q"), array("q")  # of the same trades

    def record(
        self, number: int, price: int, quantity: int, buyer: int, seller: int, time_ns: int
    ) -> None:
        self.trades.append((number, price, quantity, buyer, seller, time_ns, self.last_trade))
        self.prices.append(price)
        self.quantities.append(quantity)
        self.last_trade = number


class Exchange:
    """All of it. Methods that a client may call return what is packed as the answer."""

    def __init__(self) -> None:
        self.accounts: dict[int, Account] = {}
        self.markets: dict[str, Market] = {}
        self.orders: dict[int, Order] = {}
        self.last_order = self.last_trade = 0

    def open_account(self, account: int, cash: int) -> int:
        if account in self.accounts:
            raise Refused("account_exists", account=account)
        self.accounts[account] = Account(cash)
        return cash

    def list_symbol(self, symbol: str, tick: int, lot: int) -> None:
        if symbol in self.markets:
            raise Refused("symbol_exists", symbol=symbol)
        self.markets[symbol] = Market(tick, lot)

    def issue_shares(self, account: int, symbol: str, shares: int) -> int:
        holding = self.accounts[account].holdings.setdefault(symbol, Holding())
        holding.shares += shares
        return holding.shares

    def place_order(
        self, account: int, symbol: str, side: int, price: int, quantity: int, until: int = 0
    ) -> tuple[int, int]:
        if not (
            type(price) is type(quantity) is int
            and 1 <= price <= PRICE_MAX
            and 1 <= quantity <= QUANTITY_MAX
            and side in (1, -1)
            and until in TIMES
        ):
            raise Refused("bad_arguments")
        market = self.markets.get(symbol)
        if market is None:
            raise Refused("unknown_symbol", symbol=symbol)
        if price % market.tick:
            raise Refused("bad_price", price=price, tick=market.tick)
        if quantity % market.lot:
            raise Refused("bad_quantity", quantity=quantity, lot=market.lot)
        trader = self.accounts.get(account)
        if trader is None:
            raise Refused("unknown_account", account=account)
        rank = -side * price
        if side == 1:
            free = trader.cash - trader.reserved
            if free < price * quantity:
                raise Refused("insufficient_funds", needed=price * quantity, free=free)
        else:
            holding = trader.holdings.get(symbol)
            free = 0 if holding is None else holding.shares - holding.reserved
            if holding is None or free < quantity:
                raise Refused("insufficient_shares", needed=quantity, free=free)
        other = market.halves[-side]
        filled = 0
        # The other side's rank of this price is -rank: what is at or below it crosses.
        if other.best is not None and other.best <= -rank:
            filled = self._match(market, symbol, account, trader, side, -rank, quantity)
        rest = 0 if until else quantity - filled
        if rest == 0:
            return 0, filled
        if side == 1:
            trader.reserved += price * rest
        else:
            trader.holdings[symbol].reserved += rest
        self.last_order = number = self.last_order + 1
        order = Order(number, account, symbol, side, price, rest)
        self.orders[number] = order
        market.halves[side].add(rank, order)
        return number, filled

    def _match(
        self,
        market: Market,
        symbol: str,
        account: int,
        trader: Account,
        side: int,
        rank_max: int,
        quantity: int,
    ) -> int:
        """Fill against the other side, best price first, then oldest. How much was filled."""
        half = market.halves[-side]
        left, cost = quantity, 0
        accounts, record = self.accounts, market.record
        now_ns = time.time_ns()
        while left and half.best is not None and half.best <= rank_max:
            number, maker = next(iter(half.levels[half.best].items()))
            fill = min(left, maker.remaining)
            price, owner = maker.price, accounts[maker.account]
            if side == 1:
                owner.cash += price * fill
                sold = owner.holdings[symbol]
                sold.shares -= fill
                sold.reserved -= fill
                buyer, seller = account, maker.account
            else:
                owner.cash -= price * fill
                owner.reserved -= price * fill
                owner.holdings.setdefault(symbol, Holding()).shares += fill
                buyer, seller = maker.account, account
            self.last_trade += 1
            record(self.last_trade, price, fill, buyer, seller, now_ns)
            left -= fill
            cost += price * fill
            maker.remaining -= fill
            if maker.remaining == 0:
                half.remove(half.best, number)
                del self.orders[number]
        filled = quantity - left
        if filled:
            holding = trader.holdings.setdefault(symbol, Holding())
            holding.shares += side * filled
            trader.cash -= side * cost
        return filled

    def cancel_order(self, account: int, order: int) -> int:
        found = self.orders.get(order)
        if found is None:
            raise Refused("unknown_order", order=order)
        if found.account != account:
            raise Refused("not_yours", order=order)
        remaining = found.remaining
        trader = self.accounts[account]
        if found.side == 1:
            trader.reserved -= found.price * remaining
        else:
            trader.holdings[found.symbol].reserved -= remaining
        del self.orders[order]
        half = self.markets[found.symbol].halves[found.side]
        half.remove(-found.side * found.price, order)
        return remaining

    def vwap(self, symbol: str) -> tuple[int, int, float | None]:
        """Number, volume and volume-weighted average price of all trades in a symbol."""
        market = self.markets[symbol]
        prices, quantities = np.asarray(market.prices), np.asarray(market.quantities)
        volume = int(quantities.sum())
        turnover = float(prices.astype(np.float64) @ quantities)
        return len(prices), volume, turnover / volume if volume else None

    def preload(self, symbol: str, trades: Iterator[tuple[int, int, int, int]]) -> None:
        """Record trades that never happened: price, quantity, buyer, seller."""
        market = self.markets[symbol]
        for each in trades:
            self.last_trade += 1
            market.record(self.last_trade, *each, 0)

    def holdings(self) -> list[tuple[int, int, int, list[tuple[str, int, int]]]]:
        """Every account's number, cash, what of it is reserved, and its shares likewise."""
        return [
            (
                number,
                each.cash,
                each.reserved,
                sorted((name, h.shares, h.reserved) for name, h in each.holdings.items()),
            )
            for number, each in sorted(self.accounts.items())
        ]

    def tape(self) -> list[tuple[str, int, int]]:
        """Symbol, price and quantity of every trade, by symbol, oldest first."""
        return [
            (symbol, price, quantity)
            for symbol, market in sorted(self.markets.items())
            for _, price, quantity, *_ in market.trades
        ]
