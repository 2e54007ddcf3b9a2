"""A stock exchange: accounts, symbols, limit orders with price-time priority, trades.

A trade happens at the resting order's price. Cash and shares only move: both are conserved, and
`invariants` says so in code. An account may trade with itself: such a match moves nothing, but it
is recorded, and the book stays free of crossed orders, which passing over one's own would not keep.

Handlers and their helpers, nothing else: `flow` and `tape` make orders, and the engine does the
rest. Helpers are plain functions, compiled along with the handlers that call them.
"""

from __future__ import annotations

import numpy as np

from diptych import Rejected
from exchange.schema import (
    MONEY_MAX,
    SHARES_MAX,
    TREASURY,
    Amount,
    Average,
    Level,
    Levels,
    Many,
    Market,
    OpenOrder,
    Order,
    Placed,
    Position,
    Price,
    Print,
    Quantity,
    Shares,
    Side,
    Statement,
    Symbol,
    Tables,
    Until,
    app,
)

# Accounts and symbols ---------------------------------------------------------------------------


def take_in(db: Tables, amount: int) -> None:
    """Record cash that comes from outside, or goes there when `amount` is negative."""
    treasury = db.treasury.get_or_insert(id=TREASURY)
    if treasury.cash + amount > MONEY_MAX:
        raise Rejected("too_much", room=MONEY_MAX - treasury.cash)
    treasury.cash += amount


@app.transaction
def open_account(db: Tables, account: int, cash: Amount = 0) -> int:
    """Open an account under a number of the caller's choice and return its balance."""
    if db.account.get(account) is not None:
        raise Rejected("account_exists", account=account)
    take_in(db, cash)
    db.account.insert(id=account, cash=cash)
    return cash


@app.transaction
def deposit(db: Tables, account: int, amount: Amount) -> int:
    """Bring cash in and return the account's new balance."""
    trader = db.account.get(account)
    if trader is None:
        raise Rejected("unknown_account", account=account)
    take_in(db, amount)
    trader.cash += amount
    return trader.cash


@app.transaction
def withdraw(db: Tables, account: int, amount: Amount) -> int:
    """Take out cash that no open order may need, and return the account's new balance."""
    trader = db.account.get(account)
    if trader is None:
        raise Rejected("unknown_account", account=account)
    free = trader.cash - trader.reserved
    if amount > free:
        raise Rejected("insufficient_funds", needed=amount, free=free)
    take_in(db, -amount)
    trader.cash -= amount
    return trader.cash


@app.transaction
def list_symbol(db: Tables, symbol: Symbol, tick: Price = 1, lot: Quantity = 1) -> None:
    """Open a market. Prices are to be multiples of `tick`, quantities of `lot`."""
    if db.market.get(symbol) is not None:
        raise Rejected("symbol_exists", symbol=symbol)
    db.market.insert(symbol=symbol, tick=tick, lot=lot)


@app.transaction
def issue_shares(db: Tables, account: int, symbol: Symbol, shares: Shares) -> int:
    """Bring shares in from outside and return how many the account now holds."""
    market = db.market.get(symbol)
    if market is None:
        raise Rejected("unknown_symbol", symbol=symbol)
    if db.account.get(account) is None:
        raise Rejected("unknown_account", account=account)
    if market.issued + shares > SHARES_MAX:
        raise Rejected("too_much", room=SHARES_MAX - market.issued)
    market.issued += shares
    holding = db.holding.get_or_insert(account=account, symbol=symbol)
    holding.shares += shares
    return holding.shares


# Orders -----------------------------------------------------------------------------------------


def settle(
    db: Tables, market: Market, symbol: str, account: int, side: int, maker: Order, quantity: int
) -> None:
    """Give the resting order its part of a match, and record the trade.

    The taker's part is booked once, after its last match: see `place_order`.
    """
    price, owner = maker.price, maker.account
    if side == Side.BUY:
        buyer, seller = account, owner
        db.account[owner].cash += price * quantity
        sold = db.holding[owner, symbol]
        sold.shares -= quantity
        sold.reserved -= quantity
    else:
        buyer, seller = owner, account
        payer = db.account[owner]
        payer.cash -= price * quantity
        payer.reserved -= price * quantity
        db.holding.get_or_insert(account=owner, symbol=symbol).shares += quantity
    trade = db.trade.insert(
        symbol=symbol,
        price=price,
        quantity=quantity,
        buyer=buyer,
        seller=seller,
        time=db.now,
        previous=market.last_trade,
    )
    market.last_trade = trade.id


def match(
    db: Tables, market: Market, symbol: str, account: int, side: int, price: int, quantity: int
) -> tuple[int, int]:
    """Fill against the other side, best price first, then oldest; return the quantity and its cost.

    Asks for the first order again and again: whatever is matched either leaves the book or ends
    the loop, so a range over the index would only be slower.
    """
    filled = cost = 0
    while filled < quantity:
        maker = db.order.by_book.first(symbol, -side)
        if maker is None:
            break
        maker_price = maker.price
        if side * (maker_price - price) > 0:
            break
        open_quantity = maker.remaining
        fill = min(quantity - filled, open_quantity)
        settle(db, market, symbol, account, side, maker, fill)
        filled += fill
        cost += fill * maker_price
        if fill == open_quantity:
            db.order.delete(maker)
        else:
            maker.remaining = open_quantity - fill
    return filled, cost


@app.transaction
def place_order(
    db: Tables,
    account: int,
    symbol: Symbol,
    side: Side,
    price: Price,
    quantity: Quantity,
    until: Until = Until.CANCELLED,
) -> Placed:
    """Match an order against the book; what is left over rests, or not, as `until` says.

    Rejects with unknown_symbol, bad_price (not a multiple of the tick), bad_quantity (not one of
    the lot), unknown_account, insufficient_funds or insufficient_shares for all of the order at its
    own price, and not_filled when all or nothing was asked.
    """
    market = db.market.get(symbol)
    if market is None:
        raise Rejected("unknown_symbol", symbol=symbol)
    if price % market.tick != 0:
        raise Rejected("bad_price", price=price, tick=market.tick)
    if quantity % market.lot != 0:
        raise Rejected("bad_quantity", quantity=quantity, lot=market.lot)
    trader = db.account.get(account)
    if trader is None:
        raise Rejected("unknown_account", account=account)
    if side == Side.BUY:
        free = trader.cash - trader.reserved
        if free < price * quantity:
            raise Rejected("insufficient_funds", needed=price * quantity, free=free)
        filled, cost = match(db, market, symbol, account, side, price, quantity)
        rest = quantity - filled if until == Until.CANCELLED else 0
        if filled > 0:
            trader.cash -= cost
            db.holding.get_or_insert(account=account, symbol=symbol).shares += filled
        if rest > 0:
            trader.reserved += price * rest
    else:
        holding = db.holding.get((account, symbol))
        if holding is None:
            raise Rejected("insufficient_shares", needed=quantity, free=0)
        free = holding.shares - holding.reserved
        if free < quantity:
            raise Rejected("insufficient_shares", needed=quantity, free=free)
        filled, cost = match(db, market, symbol, account, side, price, quantity)
        rest = quantity - filled if until == Until.CANCELLED else 0
        if filled > 0:
            trader.cash += cost
            holding.shares -= filled
        if rest > 0:
            holding.reserved += rest
    if until == Until.FILLED and filled < quantity:
        raise Rejected("not_filled", available=filled)  # and every match above is undone
    if rest == 0:
        return Placed(0, filled)
    order = db.order.insert(
        account=account, symbol=symbol, side=side, rank=-side * price, price=price, remaining=rest
    )
    return Placed(order.id, filled)


def owned(db: Tables, account: int, order: int) -> Order:
    """The open order of that number, if it is this account's."""
    row = db.order.get(order)
    if row is None:
        raise Rejected("unknown_order", order=order)
    if row.account != account:
        raise Rejected("not_yours", order=order)
    return row


def release(db: Tables, row: Order, quantity: int) -> None:
    """Give back what `quantity` of an open order had reserved."""
    if row.side == Side.BUY:
        db.account[row.account].reserved -= row.price * quantity
    else:
        db.holding[row.account, row.symbol].reserved -= quantity


@app.transaction
def cancel_order(db: Tables, account: int, order: int) -> int:
    """Take an open order off the book and return the quantity that was still open."""
    row = owned(db, account, order)
    remaining = row.remaining
    release(db, row, remaining)
    db.order.delete(row)
    return remaining


@app.transaction
def reduce_order(db: Tables, account: int, order: int, quantity: Quantity) -> int:
    """Make an open order smaller by `quantity` and return what stays open.

    It keeps its place in the queue. Taking off all of it is a cancel; more than is open, or no
    multiple of the lot, is rejected with bad_quantity.
    """
    row = owned(db, account, order)
    remaining = row.remaining
    lot = db.market[row.symbol].lot
    if quantity > remaining or quantity % lot != 0:
        raise Rejected("bad_quantity", quantity=quantity, open=remaining, lot=lot)
    release(db, row, quantity)
    if quantity == remaining:
        db.order.delete(row)
    else:
        row.remaining = remaining - quantity
    return remaining - quantity


@app.transaction
def move_order(
    db: Tables, account: int, order: int, price: Price, reserve: Price | None = None
) -> Placed:
    """Change an open order's price: cancel it and place the rest anew, in one transaction.

    The order gets a new number and goes to the end of its new price's queue; it may trade at once.
    A reserve price bounds the move: a buy never goes above it and a sale never below it, else
    nothing happens and the call is rejected with beyond_reserve.
    """
    row = owned(db, account, order)
    symbol, side = row.symbol, row.side
    if reserve is not None and side * (price - reserve) > 0:
        raise Rejected("beyond_reserve", price=price, reserve=reserve)
    remaining = cancel_order(db, account, order)
    return place_order(db, account, symbol, side, price, remaining)


# Queries ----------------------------------------------------------------------------------------


@app.query
def best(db: Tables, symbol: Symbol) -> tuple[int | None, int | None]:
    """The best bid and the best ask, None where that side is empty."""
    bid = db.order.by_book.first(symbol, Side.BUY)
    ask = db.order.by_book.first(symbol, Side.SELL)
    return (
        bid.price if bid is not None else None,
        ask.price if ask is not None else None,
    )


@app.query
def depth(db: Tables, symbol: Symbol, side: Side, levels: Levels = 10) -> list[Level]:
    """One side of the book: the best `levels` prices and what is open at each."""
    book = []
    price = quantity = 0
    for order in db.order.by_book.range(symbol, side):
        if order.price != price and quantity > 0:
            book.append(Level(price, quantity))
            quantity = 0
            if len(book) == levels:
                break
        price = order.price
        quantity += order.remaining
    if quantity > 0:
        book.append(Level(price, quantity))
    return book


@app.query(compiled=False)
def account(db: Tables, account: int) -> Statement:
    """An account's cash and shares, and how much of each its open orders have reserved."""
    trader = db.account.get(account)
    if trader is None:
        raise Rejected("unknown_account", account=account)
    positions = [
        Position(holding.symbol, holding.shares, holding.reserved)
        for holding in db.holding.by_account.range(account)
    ]
    return Statement(trader.cash, trader.reserved, positions)


@app.query(compiled=False)
def open_orders(db: Tables, account: int) -> list[OpenOrder]:
    """An account's open orders, oldest first."""
    return [
        OpenOrder(order.id, order.symbol, Side(order.side), order.price, order.remaining)
        for order in db.order.by_account.range(account)
    ]


@app.query(compiled=False)
def last_trades(db: Tables, symbol: Symbol, count: Many = 10) -> list[Print]:
    """A symbol's latest trades, newest first."""
    market = db.market.get(symbol)
    if market is None:
        raise Rejected("unknown_symbol", symbol=symbol)
    prints: list[Print] = []
    number = market.last_trade
    while number != 0 and len(prints) < count:
        trade = db.trade[number]
        prints.append(Print(number, trade.price, trade.quantity, trade.time))
        number = trade.previous
    return prints


@app.query(compiled=False)
def vwap(db: Tables, symbol: Symbol) -> Average:
    """Number, volume and volume-weighted average price of all trades in a symbol."""
    trades = db.trade.columns(symbol=symbol)
    if len(trades) == 0:
        return Average(0, 0, None)
    volume = int(trades.quantity.sum())
    # As floats: the sum of all price * quantity is the one figure here that may pass 64 bits.
    turnover = np.dot(trades.price.astype(np.float64), trades.quantity.astype(np.float64))
    return Average(len(trades), volume, float(turnover / volume))
