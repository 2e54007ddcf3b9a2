"""Which handlers end soon, whatever they are given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import pytest
from tests.support import points

from diptych import App, Db, Rejected, between
from diptych.store.compiled import promptness
from diptych.store.compiled.handlers import compiled_operations
from diptych.store.compiled.promptness import why_not_prompt

app = App("prompt")


def read(db: Db, number: int) -> int:
    cash: int = db.account[number].cash
    return cash


def cash(db: Db, number: int) -> Any:
    """It does not call itself: a column has its name."""
    return db.account[number].cash


def added(db: Db) -> int:
    total = 0
    for account in db.account:
        total += account.cash
    return total


def of_reads(db: Db, number: int) -> int:
    if number < 0:
        raise Rejected("too_low", number=number)
    return read(db, number) + points.cash_of(db, number)


@app.query
def bounded(db: Db, number: Annotated[int, between(0, 9)]) -> int:
    """What stands in hints and decorators is no part of it."""
    return read(db, number)


def ranged(db: Db) -> Any:
    return db.account.by_cash.range(1)


def waiting(db: Db, number: int) -> int:
    while number > 0:
        number -= 1
    return number


def of_a_loop(db: Db) -> int:
    return added(db)


def listed(db: Db) -> list[int]:
    return [2 * number for number in range(3)]


def itself(db: Db, number: int) -> int:
    return itself(db, number - 1) if number else 0


def there(db: Db, number: int) -> int:
    return back(db, number - 1) if number else 0


def back(db: Db, number: int) -> int:
    return there(db, number)


def ten(db: Db) -> int:
    row = db.account
    return len(row) + len(row) + len(row) + len(row) + len(row) + len(row) + len(row) + len(row)


def hundred(db: Db) -> int:
    return ten(db) + ten(db) + ten(db) + ten(db) + ten(db) + ten(db) + ten(db) + ten(db)


def thousand(db: Db) -> int:
    some = hundred(db) + hundred(db) + hundred(db) + hundred(db)
    return some + hundred(db) + hundred(db) + hundred(db) + hundred(db)


@pytest.mark.parametrize("function", [read, of_reads, bounded, cash, ten, hundred])
def test_these_are_prompt(function: Callable[..., Any]) -> None:
    assert why_not_prompt(function) == ""


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (added, "has a loop"),
        (waiting, "has a loop"),
        (listed, "has a loop"),
        (points.total, "has a loop"),
        (of_a_loop, "calls added, which has a loop"),
        (ranged, "asks for a range"),
        (itself, "calls itself"),
        (there, "calls back, which calls there, which calls itself"),
        (back, "calls there, which calls back, which calls itself"),
        (thousand, "may make more than 100 calls and look-ups"),
    ],
)
def test_these_are_not_and_it_says_why(function: Callable[..., Any], why: str) -> None:
    assert why_not_prompt(function) == why


def test_without_its_source_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promptness, "parsed", lambda function: None)
    assert why_not_prompt(read) == "has no source to be read"


def test_transactions_and_loops_are_not_among_an_applications_prompt_queries() -> None:
    numbers = {operation.number: operation.name for operation in points.app.operations}
    prompt = {numbers[number] for number in compiled_operations(points.app).prompt}
    assert prompt == {"point", "both", "owner", "at_most", "seen"}
