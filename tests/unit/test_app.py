"""Declaring operations: what hello will say of them, and every way that it can't work."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from enum import IntEnum
from typing import Annotated, Any, NamedTuple, NewType

import numpy as np
import pytest

import diptych
from diptych import App, Db, Rejected, Table, between, items, key, scaled, text
from diptych.errors import DeclarationError
from diptych.schema import value_type
from diptych_client import RESERVED_NAMES
from diptych_client.operations import read_operations

app = App("shop", compiled=True)
AccountId = NewType("AccountId", int)
Price = Annotated[int, scaled(2), between(1, 10**9)]


class Side(IntEnum):
    BUY = 1
    SELL = -1


class Line(NamedTuple):
    item: int
    side: Side = Side.BUY


class Order(NamedTuple):
    id: int
    lines: list[Line]


@app.table
class Account:
    id: int = key()
    name: Annotated[str, text(8)] = ""
    side: Side = Side.BUY
    rate: float = 0.0


class Tables(Db):
    account: Table[Account]


def refuse(code: str) -> None:
    raise Rejected("refused", code=code)


@app.transaction
def place(
    db: Tables,
    account: AccountId,
    lines: Annotated[list[Line], items(1, 15)],
    price: Price = 5,
    side: Side = Side.SELL,
    note: str | None = None,
    where: tuple[int, float] = (1, 2.5),
) -> Order:
    """Place an order.

    With all of its lines.
    """
    if not lines:
        raise Rejected("no_lines")
    if price == 13:
        raise diptych.Rejected("unlucky") if note else Rejected("bad_price", price=price)
    refuse("x")
    return Order(1, lines)


@app.query(compiled=False)
def first(db: Tables) -> Account | None:
    return next(iter(db.account), None)


@app.query
def everything(db) -> tuple[list[Account], dict[str, Side], tuple[int, ...], None]:  # type: ignore[no-untyped-def]
    return list(db.account), {}, (), None


@app.setup
def begin(db: Db) -> None:
    db.account.insert(id=1)


@app.invariant
def fine(db: Db) -> bool:
    return True


# What is declared -------------------------------------------------------------------------------


def test_an_operation_is_described_as_hello_tells_it() -> None:
    record = {"record": ["Line", [["item", "int"], ["side", SIDE]]]}
    assert app.describe()[0] == {
        "name": "place",
        "number": 0,
        "kind": "transaction",
        "parameters": [
            {"name": "account", "type": "int"},
            {"name": "lines", "type": {"list": record}},
            {"name": "price", "type": "int", "default": 5},
            {"name": "side", "type": SIDE, "default": -1},
            {"name": "note", "type": {"optional": "str"}, "default": None},
            {"name": "where", "type": {"tuple": ["int", "float"]}, "default": [1, 2.5]},
        ],
        "result": {"record": ["Order", [["id", "int"], ["lines", {"list": record}]]]},
        "codes": ["bad_price", "no_lines", "refused", "unlucky"],
        "doc": "Place an order.\n\nWith all of its lines.",
    }


SIDE = {"enum": ["Side", {"BUY": 1, "SELL": -1}]}
ACCOUNT = {
    "record": ["Account", [["id", "int"], ["name", "str"], ["side", SIDE], ["rate", "float"]]]
}


def test_a_table_as_a_result_is_a_record_of_its_columns() -> None:
    assert app.operation("first").result.describe() == {"optional": ACCOUNT}
    assert app.operation("everything").result.describe() == {
        "tuple": [{"list": ACCOUNT}, {"dict": ["str", SIDE]}, {"list": "int"}, "none"]
    }


def test_a_client_rebuilds_rows_as_named_tuples() -> None:
    with app.open() as shop:
        assert shop.first() is None
        with shop.transaction() as db:
            db.account.insert(id=4, name="Zoë", side=Side.SELL, rate=0.5)
        row = shop.first()
        assert (type(row).__name__, row.name, row.side.name) == ("Account", "Zoë", "SELL")
        assert row == (4, "Zoë", Side.SELL, 0.5)
        assert shop.everything() == ([row], {}, [], None)


def test_decorators_return_what_they_decorate() -> None:
    assert place.__name__ == "place"
    assert app.operation("place").function is place
    assert app.setup_function is begin
    assert app.invariants == [fine]
    assert app.tables["account"].record is Account
    assert repr(app) == "<App shop: 1 tables, 3 operations>"


def test_the_lane_is_the_apps_unless_said_otherwise() -> None:
    compiled = {operation.name: operation.compiled for operation in app.operations}
    assert compiled == {"place": True, "first": False, "everything": True}


def test_operations_by_name() -> None:
    assert [app.operation(name).number for name in ("place", "first", "everything")] == [0, 1, 2]
    with pytest.raises(KeyError, match="shop has no operation 'plac'; did you mean 'place'"):
        app.operation("plac")


def test_clients_understand_the_description() -> None:
    found = read_operations(app.describe())["place"]
    assert str(found).startswith("place(account: int, lines: list[Line], price: int = 5,")


# Fingerprints -----------------------------------------------------------------------------------


def small(
    column: str = "cash", default: Any = 1, capacity: int = 5, doc: str = "", **more: Any
) -> bytes:
    made = App("small")
    made.table(capacity=capacity)(
        type("Thing", (), {"__annotations__": {"id": int, column: int}, "id": key()})
    )

    def touch(db: Db, amount: Any = default) -> None: ...

    touch.__doc__ = doc
    made.transaction(touch)
    return made.fingerprint


def test_the_fingerprint_changes_with_what_clients_or_memory_depend_on() -> None:
    assert len(small()) == 16
    assert small() == small() == small(capacity=6)
    different = [
        small(),
        small("cost"),
        small(default=2),
        small(default=b"\0"),
        small(default={1: [None]}),
        small(doc="x"),
    ]
    assert len(set(different)) == len(different)


# What can't be declared -------------------------------------------------------------------------


class Persnickety(Db):
    acount: Table[Account]


class Mistaken(Db):
    account: Table[Line]


async def asleep(db: Db) -> None: ...


def starred(db: Db, *amounts: int) -> None: ...
def keyword_only(db: Db, *, amount: int) -> None: ...
def without_db() -> None: ...
def other_first(amount: int) -> None: ...
def unannotated(db: Db, amount) -> None: ...  # type: ignore[no-untyped-def]
def unknown_name(db: Db, amount: Nothing) -> None: ...  # type: ignore[name-defined]  # noqa: F821
def row_argument(db: Db, account: Account) -> None: ...
def array_result(db: Db) -> np.ndarray[Any, Any]: ...  # type: ignore[empty-body]
def strange_argument(db: Db, when: complex) -> None: ...
def strange_default(db: Db, when: Any = object()) -> None: ...  # noqa: B008
def misspelt(db: Persnickety) -> None: ...
def mistaken(db: Mistaken) -> None: ...
def wide(db: Db, pair: int | str) -> None: ...
def call(db: Db) -> None: ...
def _private(db: Db) -> None: ...
def first_again(db: Db) -> None: ...
def long_int(db: Db, amount: Annotated[int, text(4)]) -> None: ...
def backwards(db: Db, amount: Annotated[int, between(5, 1)]) -> None: ...
def fractional(db: Db, amount: Annotated[int, between(0.5, 1)]) -> None: ...  # type: ignore[arg-type]
def bounded(db: Db, name: Annotated[str, between(1, 5)]) -> None: ...
def counted(db: Db, amount: Annotated[int, items(1, 5)]) -> None: ...
def counted_tuple(db: Db, pair: Annotated[tuple[int, int], items(1, 5)]) -> None: ...
def scaled_float(db: Db, amount: Annotated[float, scaled(2)]) -> None: ...


first_again.__name__ = "first"


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (asleep, "asleep: a handler is a plain function, without async"),
        (Account, "a handler is a plain function"),
        (lambda db: None, "an operation can't be called '<lambda>'"),
        (starred, "starred, parameter amounts: must be a plain parameter"),
        (keyword_only, "parameter amount: must be a plain parameter"),
        (without_db, "a handler's first parameter is the db: Db"),
        (other_first, "a handler's first parameter is the db: Db"),
        (unannotated, "unannotated, parameter amount: needs an annotation"),
        (unknown_name, "unknown_name: an annotation can't be read: name 'Nothing'"),
        (row_argument, r"parameter account: Account can't be used here.* as a result alone"),
        (array_result, "array_result, result: ndarray can't be used here"),
        (strange_argument, "parameter when: complex can't be used here"),
        (strange_default, "a client can't send the default <object"),
        (misspelt, "names a table 'acount' that the app does not have; did you mean 'account'"),
        (mistaken, r"Mistaken.account must be Table\[Account\]"),
        (wide, "parameter pair: a union may only be with None"),
        (call, "an operation can't be called 'call'"),
        (_private, "an operation can't be called '_private'"),
        (first_again, "there is an operation 'first' already"),
        (long_int, r"parameter amount: text\(\) is for str"),
        (backwards, r"between\(\) is for int or float, with bounds of that type in ascending"),
        (fractional, r"between\(\) is for int or float"),
        (bounded, r"between\(\) is for int or float"),
        (counted, r"items\(\) is for list or tuple\[X, ...\]"),
        (counted_tuple, r"items\(\) is for list or tuple\[X, ...\]"),
        (scaled_float, r"scaled\(\) is for int"),
    ],
)
def test_what_can_not_be_an_operation(handler: Callable[..., Any], message: str) -> None:
    before = len(app.operations)
    for decorator in (app.transaction, app.query(compiled=False)):
        with pytest.raises(DeclarationError, match=message) as error:
            decorator(handler)
        if handler is not Account:
            assert f"{__file__}:" in str(error.value)
    assert len(app.operations) == before


@pytest.mark.parametrize("name", sorted(RESERVED_NAMES))
def test_names_that_clients_use_themselves(name: str) -> None:
    def operation(db: Db) -> None: ...

    operation.__name__ = name
    with pytest.raises(DeclarationError, match=f"an operation can't be called {name!r}"):
        app.transaction(operation)


def test_setup_and_invariants_take_the_db_alone() -> None:
    made = App("made")

    def with_more(db: Db, more: int) -> bool:
        return True

    def right(db: Db) -> bool:
        return True

    with pytest.raises(DeclarationError, match="a setup takes the db alone"):
        made.setup(with_more)  # type: ignore[arg-type]
    with pytest.raises(DeclarationError, match="an invariant takes the db alone"):
        made.invariant(with_more)
    with pytest.raises(DeclarationError, match="first parameter is the db"):
        made.invariant(without_db)  # type: ignore[arg-type]
    made.setup(right)
    with pytest.raises(DeclarationError, match="the app has a setup already"):
        made.setup(right)


@pytest.mark.parametrize("name", ["", "my app", "1st", "a-b"])
def test_names_of_applications(name: str) -> None:
    with pytest.raises(DeclarationError, match="the name must be an identifier"):
        App(name)


def test_types_that_stand_for_others() -> None:
    assert (
        value_type(list[Any], "").describe() == value_type(list, "").describe() == {"list": "any"}
    )
    assert value_type(tuple, "").describe() == {"list": "any"}
    assert value_type(dict, "").describe() == {"dict": ["any", "any"]}
    assert value_type(object, "").describe() == "any"
    assert value_type(NewType("Id", Price), "").scaled is not None
    optional = value_type(Annotated[int | None, between(1, 2)], "")
    assert (optional.optional, optional.between is not None) == (True, True)
    if sys.version_info >= (3, 12):
        namespace: dict[str, Any] = {"Price": Price}
        exec("type Money = Price | None", namespace)
        assert value_type(namespace["Money"], "").describe() == {"optional": "int"}


def test_importing_diptych_is_quick() -> None:
    code = (
        "import sys, diptych; app = diptych.App('a')\n"
        "@app.table\nclass T:\n    id: int = diptych.key()\n"
        "@app.query\ndef q(db: diptych.Db) -> int: ...\n"
        "app.fingerprint\n"
        "slow = {'numpy', 'numba', 'asyncio', 'msgpack', 'uvloop', 'ssl', 'rich'}\n"
        "print(sorted(slow & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # The names a client reserves are asked for by a declaration; they come with msgpack.
    assert done.stdout.strip() in ("[]", "['msgpack']")
