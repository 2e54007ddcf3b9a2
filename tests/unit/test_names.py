"""Misspelt names in handlers are found when an application is opened, and nothing else is."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import Annotated, Any

import pytest
from tests.support import club, crates, depot, everything, semantics, trouble

import bank
import exchange
import tpcc
from diptych import App, Db, Table, key, ordered, ref, text, unique
from diptych.app import Columns
from diptych.errors import DeclarationError
from diptych.names import INDEX_NAMES, SELECTION_NAMES
from diptych.store.columns import Selection
from diptych.store.tables import IndexView
from diptych.testing import running
from diptych_client import ServerError

Symbol = Annotated[str, text(8)]


class Account:
    id: int = key()
    cash: int = 0


class Order:
    id: int = key(auto=True)
    account: int = ref(Account)
    symbol: Symbol
    price: int
    remaining: int = 0
    by_book = ordered("symbol", "price", "id")
    by_symbol = unique("symbol")


class Holding:
    account: int = key()
    symbol: Symbol = key()
    shares: int = 0


class Tables(Db):
    account: Table[Account]
    order: Table[Order]


def said(*handlers: Callable[..., Any]) -> list[str]:
    """What is wrong with handlers: `line in the function: message`."""
    app = App("shop")
    for record in (Account, Order, Holding):
        app.table(record)
    for handler in handlers:
        app.transaction(handler)
    try:
        app.check_names()
    except DeclarationError as error:
        found = []
        for line in str(error).splitlines():
            file, number, function, message = re.fullmatch(
                r"(.*):(\d+): (\w+): (.*)", line
            ).groups()
            assert file == __file__
            code = next((h for h in handlers if h.__name__ == function), None)
            first = (code or globals()[function]).__code__.co_firstlineno
            found.append(f"{int(number) - first} {message}")
        return found
    return []


# What is found ----------------------------------------------------------------------------------


def test_a_table() -> None:
    def handler(db: Db) -> int:
        return len(db.ordr)

    assert said(handler) == ["1 there is no table 'ordr'; did you mean 'order'?"]


def test_an_index_or_a_method() -> None:
    def handler(db: Db) -> None:
        db.order.by_bok.first("A")
        orders = db.order
        orders.inser(account=1, symbol="A", price=1)
        orders.by_book.frist("A")
        db.order.price  # noqa: B018

    assert said(handler) == [
        "1 table 'order' has no index 'by_bok'; did you mean 'by_book'?",
        "3 table 'order' has no index 'inser'; did you mean 'insert'?",
        "4 index 'by_book' has no 'frist'; did you mean 'first'?",
        "5 table 'order' has no index 'price'",
    ]


def test_columns_of_an_insert() -> None:
    def handler(db: Tables, rest: dict[str, int]) -> None:
        db.order.insert(account=1, symbol="A", prize=3)
        db.order.insert(account=1, **rest)
        db.order.insert(1, symbol="A", account=2, price=3)
        db.holding.get_or_insert(account=1, share=3)

    assert said(handler) == [
        "1 order.insert needs the column 'price'",
        "1 table 'order' has no column 'prize'; did you mean 'price'?",
        "3 order.insert takes columns by name: column=value",
        "4 holding.get_or_insert needs the column 'symbol'",
        "4 table 'holding' has no column 'share'; did you mean 'shares'?",
    ]


def test_columns_of_a_selection() -> None:
    def handler(db: Db) -> int:
        chosen = db.order.columns(symbl="A")
        chosen.write(pice=chosen.price)
        return int(chosen.price.sum() + chosen.remainig.sum())

    assert said(handler) == [
        "1 table 'order' has no column 'symbl'; did you mean 'symbol'?",
        "2 table 'order' has no column 'pice'; did you mean 'price'?",
        "3 table 'order' has no column 'remainig'; did you mean 'remaining'?",
    ]


def test_more_values_than_an_index_has_columns() -> None:
    def handler(db: Db, more: list[int]) -> None:
        db.order.by_symbol.first("A", 1)
        for _ in db.order.by_symbol.range("A", start=2):
            pass
        db.order.by_book.range("A", 1, start=2, stop=3)
        db.order.by_book.last("A", 1, *more)
        db.order.by_book.range("A", strat=2)

    assert said(handler) == [
        "1 index 'by_symbol' has the columns (symbol); 2 values are given",
        "2 index 'by_symbol' has the columns (symbol); 2 values are given",
        "6 by_book.range has no option 'strat'; did you mean 'start'?",
    ]


def test_a_key() -> None:
    def handler(db: Db, both: tuple[int, str]) -> None:
        db.holding[1, "A"].shares += db.holding[both].shares
        db.holding.get((1, "A", 2))
        db.account[1, 2].cash = 0

    assert said(handler) == [
        "2 the key of 'holding' is (account, symbol); 3 values are given",
        "3 the key of 'account' is (id); 2 values are given",
    ]


def test_columns_of_a_row() -> None:
    def handler(db: Db, id: int) -> int:
        row = db.order[id]
        row.remainig -= 1
        row.id = 3
        payer, other = db.account.get(1), db.account[2]
        if payer is not None:
            payer.csh = other.cahs
        best = db.order.by_book.first("A") or db.order.by_book.last("B")
        total = best.pice
        for each in db.order.by_book.range("A", reverse=True):
            total += each.pric
        for each in list(db.order):
            db.order.delete(each)
        return total + sum(account.cush for account in db.account)

    assert said(handler) == [
        "2 table 'order' has no column 'remainig'; did you mean 'remaining'?",
        "3 order.id is part of the key: it can't be assigned to",
        "6 table 'account' has no column 'cahs'; did you mean 'cash'?",
        "6 table 'account' has no column 'csh'; did you mean 'cash'?",
        "8 table 'order' has no column 'pice'; did you mean 'price'?",
        "10 table 'order' has no column 'pric'; did you mean 'price'?",
        "13 table 'account' has no column 'cush'; did you mean 'cash'?",
    ]


def test_a_row_of_another_table() -> None:
    def handler(db: Db) -> None:
        account = db.account[1]
        db.order.delete(account)

    assert said(handler) == ["2 order.delete takes its own rows, not one of account"]


def test_functions_within() -> None:
    def handler(db: Db) -> list[int]:
        orders = db.order

        def price(id: int) -> int:
            return orders[id].prise

        return sorted(map(price, (1, 2)), key=lambda id: db.order[id].idd)

    assert said(handler) == [
        "4 table 'order' has no column 'prise'; did you mean 'price'?",
        "6 table 'order' has no column 'idd'; did you mean 'id'?",
    ]


def helper(db, row: Order, other):  # type: ignore[no-untyped-def]
    return db.order[1].pryce + row.pryce + other.pryce


def found(db: Tables, id: int) -> Order | None:
    return db.order.get(id)


def listed(db: Tables) -> list[Order]:
    return list(db.ordr)


modules: Any = ModuleType("modules")
modules.here = sys.modules[__name__]


def test_helpers_that_a_handler_calls() -> None:
    def handler(db: Db) -> int:
        row = found(db, 1)
        return helper(db, row, row) + row.prize + next(iter(listed(db))).prize

    module = sys.modules[__name__]

    def through_the_module(db: Db) -> int:
        return module.helper(db, 1, 2)  # a local name: not followed

    def through_two_modules(db: Db) -> int:
        return modules.here.helper(db, 1, 2)  # type: ignore[no-any-return]

    wrong = "table 'order' has no column"
    assert said(handler) == [
        f"1 {wrong} 'pryce'; did you mean 'price'?",
        "1 there is no table 'ordr'; did you mean 'order'?",
        f"2 {wrong} 'prize'; did you mean 'price'?",
    ]
    assert said(through_the_module) == []
    assert said(through_two_modules) == [f"1 {wrong} 'pryce'; did you mean 'price'?"]


def test_every_mistake_is_told_with_its_place() -> None:
    app = App("shop")
    app.table(Account)

    @app.transaction
    def one(db: Db) -> None:
        db.acount[1].cash = 0

    @app.invariant
    def two(db: Db) -> bool:
        return db.account[1].cush == 0

    @app.setup
    def three(db: Db) -> None:
        db.account.insert(id=1, cach=2)

    for _ in range(2):
        with pytest.raises(DeclarationError) as raised:
            app.open()
        first = one.__code__.co_firstlineno
        assert str(raised.value).splitlines() == [
            f"{__file__}:{first + 2}: one: there is no table 'acount'; did you mean 'account'?",
            f"{__file__}:{first + 6}: two: table 'account' has no column 'cush'; "
            "did you mean 'cash'?",
            f"{__file__}:{first + 10}: three: table 'account' has no column 'cach'; "
            "did you mean 'cash'?",
        ]


def test_a_server_does_not_start() -> None:
    app = App("shop")
    app.table(Account)

    @app.query
    def one(db: Db) -> int:
        return len(db.acount)

    with pytest.raises(RuntimeError, match="one: there is no table 'acount'"), running(app):
        pass


def test_one_that_only_a_call_can_find_is_in_the_log_with_its_place(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = App("shop")
    app.table(Account)

    @app.transaction
    def pay(db: Db, table: str) -> None:
        getattr(db, table)[1].cash += 1

    @app.query
    def look(db: Db, table: str) -> int:
        return len(getattr(db, table))

    with app.open() as shop, caplog.at_level(logging.ERROR, "diptych.engine"):
        for handler in (pay, look):
            with pytest.raises(ServerError) as raised:
                shop.call(handler, "acount")
            assert raised.value.error_id in caplog.text
            assert f'File "{__file__}", line {handler.__code__.co_firstlineno + 2}' in caplog.text
    assert caplog.text.count("there is no table 'acount'; did you mean 'account'?") == 2


# What is left alone -----------------------------------------------------------------------------


def test_names_that_stand_for_more_than_one_thing() -> None:
    def rebound(db: Db, id: int) -> None:
        row = db.order[id]
        print(row.anything)
        row = id  # type: ignore[assignment]
        db_ = db
        db_ = 3  # type: ignore[assignment]
        print(db_.anything)

    def either(db: Db, id: int) -> Any:
        return (db.order.get(id) or db.account[id]).anything

    def captured(db: Db) -> Any:
        row = db.order[1]

        def within() -> None:
            nonlocal row
            row = 3  # type: ignore[assignment]

        within()
        return row.anything

    def shadowed(db: Db) -> Any:
        def helper(*given: Any) -> Any:
            return given

        row = db.order[1]
        found = helper(row).anything, [row.anything for row in (1, 2)]
        return found, (lambda row: row.anything)

    def walrus(db: Db) -> Any:
        row = db.order[1]
        return [(row := number) for number in (1, 2)], row.anything

    def matched(db: Db) -> Any:
        row = db.order[1]
        match row:
            case [row, *_] | {"a": row}:
                return row.anything

    def handed(db: Db, make: Any) -> Any:
        with make() as row, make() as (row, other):
            pass
        for row, other in make():
            print(row, other)
        row, *other = make()
        return db.order[1].__class__, row.anything, other.anything

    assert said(rebound, either, captured, shadowed, walrus, matched, handed) == []


def test_code_that_expects_the_error() -> None:
    def handler(db: Db) -> Any:
        try:
            return db.anything
        except AttributeError:
            pass
        with suppress(AttributeError):
            return db.order.anything
        return None

    def looks_first(db: Db) -> Any:
        return db.anything if hasattr(db, "anything") else None

    assert said(handler, looks_first) == []


def test_what_others_wrapped_or_has_no_source() -> None:
    made: dict[str, Any] = {"Db": Db}
    exec("def handler(db: Db) -> None:\n    db.anything", made)

    def wrapper(db: Db) -> None:
        db.anything  # noqa: B018

    wrapper.__wrapped__ = made["handler"]  # type: ignore[attr-defined]
    assert said(made["handler"], wrapper) == []


APPLICATIONS = (bank, exchange, tpcc, club, crates, depot, everything, semantics, trouble)


@pytest.mark.parametrize("app", [module.app for module in APPLICATIONS], ids=str)
def test_applications_without_mistakes(app: App) -> None:
    app.check_names()


def test_the_names_are_those_of_the_classes() -> None:
    assert {name for name in dir(IndexView) if name[0] != "_"} <= INDEX_NAMES
    assert {name for name in dir(Selection) if name[0] != "_"} <= SELECTION_NAMES
    assert {name for name in vars(Columns) if name[0] != "_"} <= SELECTION_NAMES
