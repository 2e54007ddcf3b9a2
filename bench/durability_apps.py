"""The two small applications that `bench/durability.py` serves beside the exchange.

`toy` takes orders of the simplest kind, which `durability_others` does with other systems, too.
`bulky` is as large as one likes, a KiB a row, and its transactions are small.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np

from diptych import App, Db, Rejected, key, text

ACCOUNTS = 1_000
CASH = 10**15
ROW_BYTES = 1024
NOTE_BYTES = ROW_BYTES - 80
FILL_ROWS = 20_000

toy = App("toy")
bulky = App("bulky")


@toy.table(capacity=ACCOUNTS)
class Account:
    id: int = key()
    cash: int = CASH
    reserved: int = 0


@toy.table(capacity=50_000_000)
class Order:
    id: int = key(auto=True)
    account: int
    price: int
    quantity: int


@toy.setup
def open_accounts(db: Db) -> None:
    for number in range(1, ACCOUNTS + 1):
        db.account.insert(id=number)


@toy.transaction
def place(db: Db, account: int, price: int, quantity: int) -> int:
    """Reserve what an order needs, and keep the order."""
    row = db.account[account]
    if row.cash - row.reserved < price * quantity:
        raise Rejected("insufficient_funds")
    row.reserved += price * quantity
    return db.order.insert(account=account, price=price, quantity=quantity).id


@bulky.table(capacity=16_000_000)
class Item:
    id: int = key(auto=True)
    changes: int = 0
    note: Annotated[str, text(NOTE_BYTES)] = ""


@bulky.transaction
def fill(db: Db, count: int) -> int:
    """Add rows. Returns how many there are."""
    note = "x" * NOTE_BYTES
    for _ in range(count):
        db.item.insert(note=note)
    return len(db.item)


@bulky.transaction
def change(db: Db, item: int) -> int:
    """What the load does: one row of many, so that pages all over are written."""
    row = db.item[item]
    row.changes += 1
    return row.changes


@bulky.transaction
def change_all(db: Db, first: int, stop: int) -> None:
    """Write to every page that some rows are in: texts are most of them, four to a page."""
    for item in range(first, stop, 4):
        row = db.item[item]
        row.changes += 1
        row.note = ("y" if row.changes % 2 else "x") * NOTE_BYTES


@bulky.query
def total(db: Db) -> int:
    return int(np.sum(db.item.columns().changes))
