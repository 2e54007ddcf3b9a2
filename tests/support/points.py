"""Accounts with queries of both lanes: what compiled ones may do, and what goes wrong in them."""

from __future__ import annotations

from typing import Annotated

from diptych import App, Db, Rejected, between, key, text

app = App("points")
ACCOUNTS = 1_000
CASH = 1_000


@app.table
class Account:
    id: int = key()
    cash: int = 0
    name: Annotated[str, text(16)] = ""
    limit: int | None = None


@app.setup
def setup(db: Db) -> None:
    for number in range(1, ACCOUNTS + 1):
        limit = number if number % 2 else None
        db.account.insert(id=number, cash=CASH, name=f"né {number}", limit=limit)


def cash_of(db: Db, account: int) -> int:
    """A helper of transactions and queries, which only reads."""
    cash: int = db.account[account].cash
    return cash


@app.transaction
def transfer(db: Db, source: int, target: int, amount: int) -> int:
    if not 0 < amount <= cash_of(db, source):
        raise Rejected("insufficient_funds", needed=amount)
    db.account[source].cash -= amount
    db.account[target].cash += amount
    return cash_of(db, source)


@app.transaction
def nothing(db: Db) -> None:
    """Takes a number and changes no row."""


@app.query(compiled=True)
def point(db: Db, account: int) -> int:
    return cash_of(db, account)


@app.query(compiled=True)
def both(db: Db, first: int, second: int) -> int:
    return cash_of(db, first) + cash_of(db, second)


@app.query
def plain(db: Db, account: int) -> int:
    return cash_of(db, account)


@app.query(compiled=True)
def total(db: Db) -> int:
    cash = 0
    for account in db.account:
        cash += account.cash
    return cash


@app.query(compiled=True)
def owner(db: Db, account: int, fallback: int = 7) -> tuple[str, int | None, int]:
    row = db.account.get(account)
    if row is None:
        return "", None, fallback
    return row.name, row.limit, fallback


@app.query(compiled=True)
def at_most(db: Db, account: int, most: int) -> int:
    row = db.account[account]
    if row.cash > most:
        raise Rejected("too_rich", cash=row.cash, most=most)
    return row.cash


@app.query(compiled=True)
def seen(db: Db) -> tuple[int, int]:
    return db.sequence, db.now


@app.query
def seen_plainly(db: Db) -> tuple[int, int]:
    return db.sequence, db.now


@app.query(compiled=True)
def amounts(db: Db, count: Annotated[int, between(0, ACCOUNTS)]) -> list[int]:
    found: list[int] = []
    for number in range(count):
        found.append(db.account[number + 1].cash)
    return found


@app.query(compiled=True)
def busy(db: Db, rounds: int) -> int:
    """Takes as long as it is told to, and looks at no data meanwhile."""
    value = 1
    number = 0
    while number != rounds:  # below zero: for ever
        value = (value * 48271 + number % 7) % 2147483647
        number += 1
    return value
