"""The exchange's types, tables and results.

Prices are whole minor units (cents), quantities whole units of whatever is traded, and cash is
price times quantity, so nothing is ever rounded. What an open order could need is reserved when it
rests, cash for a buy and shares for a sale, so that a match can never fail half-way.

Declarations only: `app` holds the handlers, `invariants` what must always be true.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, NamedTuple

from diptych import App, Db, Table, Time, between, key, ordered, ref, scaled, text

app = App("exchange", compiled=True)

# The highest price times the highest quantity is 5 * 10**18, and all cash together stays below
# MONEY_MAX: no product, sum or balance in here can leave 64 bits.
MONEY_MAX = 4 * 10**18
SHARES_MAX = 4 * 10**18
Symbol = Annotated[str, text(8)]
Price = Annotated[int, scaled(2), between(1, 10**8)]
Quantity = Annotated[int, between(1, 5 * 10**10)]
Amount = Annotated[int, scaled(2), between(0, MONEY_MAX)]
Shares = Annotated[int, between(1, SHARES_MAX)]
Levels = Annotated[int, between(1, 1_000)]
Many = Annotated[int, between(1, 10_000)]

TREASURY = 1  # the one row of Treasury


class Side(IntEnum):
    BUY = 1
    SELL = -1


class Until(IntEnum):
    """How long an order may wait for a match."""

    CANCELLED = 0  # until somebody cancels it
    NOW = 1  # whatever does not match at once is dropped
    FILLED = 2  # all of it at once, or nothing at all


@app.table(capacity=1)
class Treasury:
    """What came in from outside: the sum that all accounts together must show."""

    id: int = key()
    cash: int = 0


@app.table(capacity=10_000)
class Market:
    """One symbol that is traded here."""

    symbol: Symbol = key()
    tick: int = 1  # prices are multiples of this
    lot: int = 1  # and quantities of this
    issued: int = 0  # shares that came in from outside
    last_trade: int = 0  # number of the latest trade, 0 before the first


@app.table(capacity=1_000_000)
class Account:
    id: int = key()
    cash: int = 0
    reserved: int = 0  # the part of cash that open buy orders may need


@app.table(capacity=4_000_000)
class Holding:
    account: int = key()
    symbol: Symbol = key()
    shares: int = 0
    reserved: int = 0  # the part of shares that open sell orders may need
    by_account = ordered("account", "symbol")


@app.table(capacity=5_000_000)
class Order:
    """An open order. One that is filled or cancelled is gone."""

    id: int = key(auto=True)
    account: int = ref(Account)
    symbol: Symbol
    side: Side
    rank: int  # -side * price: one ascending index holds both sides, best price first
    price: Price
    remaining: Quantity
    by_book = ordered("symbol", "side", "rank", "id")
    by_account = ordered("account", "id")


@app.table(capacity=50_000_000)
class Trade:
    id: int = key(auto=True)
    symbol: Symbol
    price: Price
    quantity: Quantity
    buyer: int
    seller: int
    time: Time
    previous: int  # the symbol's trade before this one, 0 for its first


class Tables(Db):
    treasury: Table[Treasury]
    market: Table[Market]
    account: Table[Account]
    holding: Table[Holding]
    order: Table[Order]
    trade: Table[Trade]


class Placed(NamedTuple):
    order: int  # number of the order that now rests, 0 when none does
    filled: int


class Level(NamedTuple):
    price: int
    quantity: int


class Position(NamedTuple):
    symbol: str
    shares: int
    reserved: int


class Statement(NamedTuple):
    cash: int
    reserved: int
    positions: list[Position]


class OpenOrder(NamedTuple):
    order: int
    symbol: str
    side: Side
    price: int
    remaining: int


class Print(NamedTuple):
    """One trade, as the tape prints it."""

    trade: int
    price: int
    quantity: int
    time: int


class Average(NamedTuple):
    trades: int
    volume: int
    price: float | None  # volume-weighted; None before the first trade


class Conservation(NamedTuple):
    broken: list[str]  # names of the invariants that do not hold: empty when all is well
    cash: int
    open_orders: int
    trades: int
