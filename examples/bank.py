"""A bank in one page: accounts, transfers between them, and a total that never changes.

The smallest application there is. Serve it with `diptych serve bank:app`, then call it from a
shell: `diptych call transfer 1 2 50`, `diptych call total`. Every function below runs unchanged in
a test, too.
"""

from diptych import App, Db, Rejected, key

app = App("bank")


@app.table
class Account:  # handlers see it as db.account
    id: int = key()
    cash: int = 0


@app.setup
def setup(db: Db) -> None:
    """Runs once, as the first transaction of an empty server."""
    for number in range(1, 101):
        db.account.insert(id=number, cash=1_000)


@app.transaction
def transfer(db: Db, source: int, target: int, amount: int) -> int:
    """Move money and return the payer's new balance."""
    payer, payee = db.account[source], db.account[target]
    if not 0 < amount <= payer.cash:
        raise Rejected("insufficient_funds", needed=amount, available=payer.cash)
    payer.cash -= amount
    payee.cash += amount
    return payer.cash


@app.query
def balance(db: Db, account: int) -> int:
    """What one account holds."""
    return db.account[account].cash


@app.query
def total(db: Db) -> int:
    """What all accounts hold together: transfers never change it."""
    return int(db.account.columns().cash.sum())


@app.invariant
def nobody_is_overdrawn(db: Db) -> bool:
    """Checked after every transaction of a test."""
    return bool((db.account.columns().cash >= 0).all())
