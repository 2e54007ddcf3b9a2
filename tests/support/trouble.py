"""An application that makes trouble on request: slow, wrong, greedy and deadly operations."""

import os
import signal
import time
from typing import Any

from diptych import App, Db, Rejected, key

app = App("trouble")
ACCOUNTS = 50
CASH = 1_000
KEPT: list[Any] = []


@app.table(capacity=10_000)
class Account:
    id: int = key()
    cash: int = 0


@app.setup
def setup(db: Db) -> None:
    for number in range(1, ACCOUNTS + 1):
        db.account.insert(id=number, cash=CASH)


@app.transaction
def transfer(db: Db, source: int, target: int, amount: int) -> int:
    payer, payee = db.account[source], db.account[target]
    if not 0 < amount <= payer.cash:
        raise Rejected("insufficient_funds", needed=amount, available=payer.cash)
    payer.cash -= amount
    payee.cash += amount
    return int(payer.cash)


@app.transaction
def broken(db: Db) -> int:
    db.account[1].cash = 0
    raise ZeroDivisionError("a bug in a handler")


@app.transaction
def linger(db: Db, milliseconds: int) -> int:
    db.account[1].cash += 0
    time.sleep(milliseconds / 1000)
    return int(db.sequence)


@app.transaction
def kill_writer(db: Db) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@app.transaction
def exit_writer(db: Db) -> None:
    os._exit(1)


@app.transaction
def give(db: Db, size: int) -> bytes:
    return bytes(size)


@app.query
def total(db: Db) -> int:
    return int(db.account.columns().cash.sum())


@app.query
def balance(db: Db, account: int) -> int:
    return int(db.account[account].cash)


@app.query
def slow(db: Db, milliseconds: int) -> int:
    """Read the same thing again and again: the image must not change under a query."""
    first = int(db.account.columns().cash.sum())
    until = time.monotonic() + milliseconds / 1000
    while time.monotonic() < until:
        if int(db.account.columns().cash.sum()) != first:
            raise AssertionError("the image changed under a query")
        time.sleep(0.001)
    return first


@app.query
def kill_reader(db: Db) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@app.query
def keep_a_view(db: Db) -> int:
    KEPT.append(db.account.columns().cash)
    return 1


@app.query
def broken_query(db: Db) -> int:
    return 1 // 0


@app.query
def large(db: Db, size: int) -> bytes:
    return bytes(size)


@app.query
def echo(db: Db, text: str) -> str:
    return text
