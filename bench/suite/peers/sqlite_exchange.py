"""The exchange in SQL and Python, on a connection to SQLite. The rules are those of the example.

Methods run inside the caller's transaction. Whatever is refused is refused before the first write.
"""

from __future__ import annotations

import sqlite3
import time

from bench.suite.peers.asyncio_exchange import PRICE_MAX, QUANTITY_MAX, TIMES, Refused

__all__ = ["SCHEMA", "Exchange", "Refused", "average"]

SCHEMA = """
CREATE TABLE market (symbol TEXT PRIMARY KEY, tick INTEGER, lot INTEGER) WITHOUT ROWID;
CREATE TABLE account (id INTEGER PRIMARY KEY, cash INTEGER, reserved INTEGER);
CREATE TABLE holding (
  account INTEGER, symbol TEXT, shares INTEGER, reserved INTEGER, PRIMARY KEY (account, symbol)
) WITHOUT ROWID;
CREATE TABLE orders (
  id INTEGER PRIMARY KEY AUTOINCREMENT, account INTEGER, symbol TEXT, side INTEGER, rank INTEGER,
  price INTEGER, remaining INTEGER
);
CREATE INDEX by_book ON orders (symbol, side, rank, id);
CREATE TABLE trade (
  id INTEGER PRIMARY KEY, symbol TEXT, price INTEGER, quantity INTEGER, buyer INTEGER,
  seller INTEGER, time INTEGER
);
"""
BEST = """
SELECT id, account, price, remaining FROM orders
WHERE symbol = ? AND side = ? AND rank <= ? ORDER BY rank, id LIMIT 1
"""
TAKE = """
UPDATE holding SET shares = shares - ?, reserved = reserved - ? WHERE account = ? AND symbol = ?
"""
GIVE = """
INSERT INTO holding VALUES (?, ?, ?, 0)
ON CONFLICT (account, symbol) DO UPDATE SET shares = shares + excluded.shares
"""
PAY = "UPDATE account SET cash = cash + ?, reserved = reserved - ? WHERE id = ?"
RESERVE_CASH = "UPDATE account SET reserved = reserved + ? WHERE id = ?"
RESERVE_SHARES = "UPDATE holding SET reserved = reserved + ? WHERE account = ? AND symbol = ?"
RECORD = (
    "INSERT INTO trade (symbol, price, quantity, buyer, seller, time) VALUES (?, ?, ?, ?, ?, ?)"
)
PLACE = (
    "INSERT INTO orders (account, symbol, side, rank, price, remaining) VALUES (?, ?, ?, ?, ?, ?)"
)


class Exchange:
    """Operations on one connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._run = connection.execute

    def open_account(self, account: int, cash: int) -> None:
        self._run("INSERT INTO account VALUES (?, ?, 0)", (account, cash))

    def list_symbol(self, symbol: str, tick: int, lot: int) -> None:
        self._run("INSERT INTO market VALUES (?, ?, ?)", (symbol, tick, lot))

    def issue_shares(self, account: int, symbol: str, shares: int) -> None:
        self._run(GIVE, (account, symbol, shares))

    def place_order(
        self, account: int, symbol: str, side: int, price: int, quantity: int, until: int = 0
    ) -> tuple[int, int]:
        self._check(account, symbol, side, price, quantity, until)
        filled, cost = self._match(account, symbol, side, price, quantity)
        run = self._run
        if filled and side == 1:
            run(PAY, (-cost, 0, account))
            run(GIVE, (account, symbol, filled))
        elif filled:
            run(PAY, (cost, 0, account))
            run(TAKE, (filled, 0, account, symbol))
        rest = 0 if until else quantity - filled
        if rest == 0:
            return 0, filled
        if side == 1:
            run(RESERVE_CASH, (price * rest, account))
        else:
            run(RESERVE_SHARES, (rest, account, symbol))
        number = run(PLACE, (account, symbol, side, -side * price, price, rest)).lastrowid
        assert number is not None
        return number, filled

    def _check(
        self, account: int, symbol: str, side: int, price: int, quantity: int, until: int
    ) -> None:
        if not (
            1 <= price <= PRICE_MAX
            and 1 <= quantity <= QUANTITY_MAX
            and side in (1, -1)
            and until in TIMES
        ):
            raise Refused("bad_arguments")
        run = self._run
        market = run("SELECT tick, lot FROM market WHERE symbol = ?", (symbol,)).fetchone()
        if market is None:
            raise Refused("unknown_symbol")
        if price % market[0]:
            raise Refused("bad_price")
        if quantity % market[1]:
            raise Refused("bad_quantity")
        free = run("SELECT cash - reserved FROM account WHERE id = ?", (account,)).fetchone()
        if free is None:
            raise Refused("unknown_account")
        if side == 1:
            if free[0] < price * quantity:
                raise Refused("insufficient_funds")
            return
        free = run(
            "SELECT shares - reserved FROM holding WHERE account = ? AND symbol = ?",
            (account, symbol),
        ).fetchone()
        if free is None or free[0] < quantity:
            raise Refused("insufficient_shares")

    def _match(
        self, account: int, symbol: str, side: int, price: int, quantity: int
    ) -> tuple[int, int]:
        """Fill against the other side, best price first, then oldest: quantity and its cost."""
        run = self._run
        left, cost = quantity, 0
        while left:
            maker = run(BEST, (symbol, -side, side * price)).fetchone()
            if maker is None:
                break
            number, owner, maker_price, remaining = maker
            fill = min(left, remaining)
            amount = maker_price * fill
            if side == 1:
                run(PAY, (amount, 0, owner))
                run(TAKE, (fill, fill, owner, symbol))
                parties = (account, owner)
            else:
                run(PAY, (-amount, amount, owner))
                run(GIVE, (owner, symbol, fill))
                parties = (owner, account)
            run(RECORD, (symbol, maker_price, fill, *parties, time.time_ns()))
            if fill == remaining:
                run("DELETE FROM orders WHERE id = ?", (number,))
            else:
                run("UPDATE orders SET remaining = ? WHERE id = ?", (remaining - fill, number))
            left -= fill
            cost += amount
        return quantity - left, cost

    def cancel_order(self, account: int, order: int) -> int:
        run = self._run
        found = run(
            "SELECT account, symbol, side, price, remaining FROM orders WHERE id = ?", (order,)
        ).fetchone()
        if found is None:
            raise Refused("unknown_order")
        owner, symbol, side, price, remaining = found
        if owner != account:
            raise Refused("not_yours")
        if side == 1:
            run(RESERVE_CASH, (-price * remaining, account))
        else:
            run(RESERVE_SHARES, (-remaining, account, symbol))
        run("DELETE FROM orders WHERE id = ?", (order,))
        return int(remaining)


def average(connection: sqlite3.Connection, symbol: str) -> tuple[int, int, float]:
    """Number, volume and volume-weighted average price of all trades in a symbol."""
    count, volume, turnover = connection.execute(
        "SELECT count(*), sum(quantity), sum(price * quantity) FROM trade WHERE symbol = ?",
        (symbol,),
    ).fetchone()
    return count, volume, turnover / volume
