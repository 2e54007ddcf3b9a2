"""An application that records what ran: transfers, each with a row that says whose it was.

Each has a client and a number of that client's choice, which nothing makes unique: one that ran
twice has two rows. So what happened, and in which order, is there to be compared with what the
clients were told; see `history`. Transfers are compiled and the rest is not, so kills and crash
points meet both lanes.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np

from diptych import App, Db, Rejected, Time, key
from diptych_client import Client

app = App("ledger")
ACCOUNTS = 100
CASH = 1_000
MONEY = ACCOUNTS * CASH
ENTRIES_MAX = 20_000_000
ENTRY_FIELDS = 7
PAGE_ROWS = 10_000


class Entry(NamedTuple):
    """A transfer that ran. `sequence`: its number among all transactions; `time_ns`: its db.now."""

    sequence: int
    client: int
    number: int
    source: int
    target: int
    amount: int
    time_ns: int


class Moved(NamedTuple):
    """What a transfer answers: its sequence number, and what the payer has left."""

    sequence: int
    balance: int


class Glance(NamedTuple):
    """A query's view of everything: how many transfers, the last one, and what they add up to."""

    count: int
    last: int
    money: int
    weighted: int


@app.table
class Account:
    id: int = key()
    cash: int = 0


@app.table(capacity=ENTRIES_MAX)
class Entries:
    sequence: int = key()
    client: int
    number: int
    source: int
    target: int
    amount: int
    time: Time


@app.setup
def setup(db: Db) -> None:
    for number in range(1, ACCOUNTS + 1):
        db.account.insert(id=number, cash=CASH)


@app.transaction(compiled=True)
def transfer(db: Db, client: int, number: int, source: int, target: int, amount: int) -> Moved:
    """Move money, and leave a row that says so.

    An amount of zero is a bug's work: it fails after it has written, and must leave nothing.
    """
    payer, payee = db.account[source], db.account[target]
    db.entries.insert(
        sequence=db.sequence,
        client=client,
        number=number,
        source=source,
        target=target,
        amount=amount,
        time=db.now,
    )
    if amount == 0:
        raise ZeroDivisionError("a bug in a handler")
    if amount > payer.cash:
        raise Rejected("insufficient_funds", needed=amount, available=payer.cash)
    payer.cash -= amount
    payee.cash += amount
    return Moved(db.sequence, payer.cash)


@app.transaction
def linger(db: Db, milliseconds: int) -> int:
    """Hold the writer up."""
    time.sleep(milliseconds / 1000)
    return db.sequence


@app.query
def glance(db: Db) -> Glance:
    entries, accounts = db.entries.columns(), db.account.columns()
    return Glance(
        count=len(entries),
        last=int(entries.sequence[-1]) if len(entries) else 0,
        money=int(accounts.cash.sum()),
        weighted=int((accounts.id * accounts.cash).sum()),
    )


@app.query
def some_entries(db: Db, first: int, count: int) -> bytes:
    """Rows `first` to `first + count` of the table, seven numbers of 64 bits each."""
    entries = db.entries.columns()
    rows = slice(first, first + count)
    names = ("sequence", "client", "number", "source", "target", "amount", "time")
    columns = [np.asarray(entries[name][rows]).astype(np.int64) for name in names]
    return np.column_stack(columns).tobytes()


@app.query
def balances(db: Db) -> list[int]:
    """Of all accounts, by number."""
    return [db.account[number].cash for number in range(1, ACCOUNTS + 1)]


@app.invariant
def money_is_conserved(db: Db) -> bool:
    return int(db.account.columns().cash.sum()) == MONEY


@app.invariant
def nobody_is_overdrawn(db: Db) -> bool:
    return bool((db.account.columns().cash >= 0).all())


def table_of(client: Client) -> tuple[list[Entry], list[int]]:
    """All that ran, and what it made of the accounts."""
    client.linger(0)  # so that its queries see all that was answered before
    entries: list[Entry] = []
    while rows := entries_of(client.some_entries(len(entries), PAGE_ROWS)):
        entries += rows
    return entries, client.balances()


def entries_of(rows: bytes) -> list[Entry]:
    """What `some_entries` gave."""
    numbers = np.frombuffer(rows, "<i8").reshape(-1, ENTRY_FIELDS)
    return [Entry(*row) for row in numbers.tolist()]
