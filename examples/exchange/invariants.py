"""What is true of the exchange between any two transactions.

The engine runs these after each transaction of a test. The query `conservation` runs them on the
image that it sees, so that a client can have every image checked. Always interpreted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from exchange.schema import TREASURY, Conservation, Side, Tables, app


@app.invariant
def cash_is_conserved(db: Tables) -> bool:
    """All accounts together hold exactly what came in."""
    treasury = db.treasury.get(TREASURY)
    return int(db.account.columns().cash.sum()) == (treasury.cash if treasury is not None else 0)


@app.invariant
def shares_are_conserved(db: Tables) -> bool:
    """All holdings of a symbol together are exactly what was issued."""
    return all(
        int(db.holding.columns(symbol=market.symbol).shares.sum()) == market.issued
        for market in db.market
    )


@app.invariant
def nothing_is_overdrawn(db: Tables) -> bool:
    """Nobody has reserved more than they own, nor owns less than nothing."""
    accounts, holdings = db.account.columns(), db.holding.columns()
    return bool(
        (accounts.reserved >= 0).all()
        and (accounts.reserved <= accounts.cash).all()
        and (holdings.reserved >= 0).all()
        and (holdings.reserved <= holdings.shares).all()
    )


def sum_by(keys: npt.NDArray[Any], values: npt.NDArray[Any]) -> dict[int, int]:
    """The sum of `values` for each key, leaving out sums of zero."""
    distinct, position = np.unique(keys, return_inverse=True)
    sums = np.zeros(len(distinct), np.int64)
    np.add.at(sums, position, values)
    return {
        key: value for key, value in zip(distinct.tolist(), sums.tolist(), strict=True) if value
    }


@app.invariant
def reservations_match_open_orders(db: Tables) -> bool:
    """Each account has reserved exactly what its open orders may need."""
    buys, accounts = db.order.columns(side=Side.BUY), db.account.columns()
    needed = sum_by(buys.account, buys.price * buys.remaining)
    if needed != sum_by(accounts.id, accounts.reserved):
        return False
    for market in db.market:
        sales = db.order.columns(symbol=market.symbol, side=Side.SELL)
        holdings = db.holding.columns(symbol=market.symbol)
        if sum_by(sales.account, sales.remaining) != sum_by(holdings.account, holdings.reserved):
            return False
    return True


@app.invariant
def no_book_is_crossed(db: Tables) -> bool:
    """Nobody bids what somebody else, or they themselves, would sell for."""
    for market in db.market:
        bid = db.order.by_book.first(market.symbol, Side.BUY)
        ask = db.order.by_book.first(market.symbol, Side.SELL)
        if bid is not None and ask is not None and bid.price >= ask.price:
            return False
    return True


INVARIANTS = (
    cash_is_conserved,
    shares_are_conserved,
    nothing_is_overdrawn,
    reservations_match_open_orders,
    no_book_is_crossed,
)


@app.query(compiled=False)
def conservation(db: Tables) -> Conservation:
    """Check every invariant on the image this query sees, and say which do not hold."""
    return Conservation(
        broken=[invariant.__name__ for invariant in INVARIANTS if not invariant(db)],
        cash=int(db.account.columns().cash.sum()),
        open_orders=len(db.order),
        trades=len(db.trade),
    )
