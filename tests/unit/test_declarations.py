"""Declaring tables: what comes out, and every way to be told that it can't work."""

from __future__ import annotations

import typing
from collections.abc import Callable
from enum import Enum, IntEnum
from typing import Annotated, Any

import pytest

from diptych import (
    App,
    Day,
    Time,
    between,
    bits,
    data,
    f32,
    i8,
    i16,
    key,
    ordered,
    ref,
    scaled,
    text,
    u8,
    u16,
    u32,
    u64,
    unique,
)
from diptych.declarations import DB_NAMES, TABLE_NAMES
from diptych.errors import DeclarationError
from diptych.schema import MISSING, TableSpec, snake_case


class Side(IntEnum):
    BUY = 1
    SELL = -1


class Colour(Enum):
    RED = 1


class Grain(IntEnum):
    FINE = 1
    COARSE = 300


class Vast(IntEnum):
    ALL = 2**63


def declared(record: type, *before: type, capacity: int = 10) -> TableSpec:
    app = App("test")
    for each in before:
        app.table(each)
    assert app.table(capacity=capacity)(record) is record
    return list(app.tables.values())[-1]


def make(
    columns: dict[str, Any], /, _name: str = "Thing", _key: bool = True, **members: Any
) -> type:
    """A class with these columns; its key is `id` unless said otherwise."""
    annotations = ({"id": int} if _key else {}) | columns
    members = ({"id": key()} if _key else {}) | members
    return type(_name, (), {"__annotations__": annotations, "__module__": __name__, **members})


def test_a_table_is_what_it_says() -> None:
    class Account:
        id: int = key()

    class OpenOrder:
        id: int = key(auto=True)
        account: int = ref(Account)
        symbol: Annotated[str, text(20)]
        side: Side = Side.SELL
        price: float
        urgent: bool = False
        by_book = ordered("symbol", "side")
        by_place = unique("side", "id")

    # Local classes are not in any namespace that annotations are looked up in.
    OpenOrder.__annotations__ |= {"account": int, "side": Side}
    spec = declared(OpenOrder, Account, capacity=77)
    assert (spec.name, spec.capacity, spec.words, spec.auto) == ("open_order", 77, 8, True)
    assert [(c.name, c.kind, c.words, c.first_word) for c in spec.columns] == [
        ("id", "int", 1, 0),
        ("account", "int", 1, 1),
        ("symbol", "text", 3, 2),
        ("side", "int", 1, 5),
        ("price", "float", 1, 6),
        ("urgent", "bool", 1, 7),
    ]
    assert [c.name for c in spec.keys] == ["id"]
    assert spec.by_name["account"].reference == "account"
    assert spec.by_name["symbol"].default is MISSING
    assert spec.by_name["side"].default is Side.SELL
    assert [(i.name, i.unique, i.words) for i in spec.indexes] == [
        ("by_book", False, 4),
        ("by_place", True, 2),
    ]


@pytest.mark.parametrize(
    ("annotation", "kind", "words", "bits", "bounds"),
    [
        (int, "int", 1, 64, (-(2**63), 2**63 - 1)),
        (i8, "int", 1, 8, (-128, 127)),
        (u16, "int", 1, 16, (0, 65535)),
        (u32, "int", 1, 32, (0, 2**32 - 1)),
        (u64, "int", 1, 64, (0, 2**64 - 1)),
        (Day, "int", 1, 32, (-(2**31), 2**31 - 1)),
        (Time, "int", 1, 64, (-(2**63), 2**63 - 1)),
        (Annotated[int, scaled(2), between(-5, 10**30)], "int", 1, 64, (-5, 2**63 - 1)),
        (Annotated[i16, between(-5, 5)], "int", 1, 16, (-5, 5)),
        (Annotated[Side, bits(8)], "int", 1, 8, (-128, 127)),
        (float, "float", 1, 64, (None, None)),
        (f32, "float", 1, 32, (None, None)),
        (Annotated[float, between(0, 1.5)], "float", 1, 64, (0, 1.5)),
        (bool, "bool", 1, 8, (None, None)),
        (Annotated[str, text(1)], "text", 1, 8, (None, None)),
        (Annotated[str, text(3)], "text", 1, 32, (None, None)),
        (Annotated[str, text(5)], "text", 1, 64, (None, None)),
        (Annotated[str, text(1024)], "text", 128, 64, (None, None)),
        (Annotated[bytes, data(2)], "data", 1, 16, (None, None)),
        (Annotated[bytes, data(9)], "data", 2, 64, (None, None)),
        (str, "str", 1, 64, (None, None)),
        (bytes, "bytes", 1, 64, (None, None)),
    ],
)
def test_what_a_column_takes(
    annotation: Any, kind: str, words: int, bits: int, bounds: tuple[Any, Any]
) -> None:
    for each, optional in ((annotation, False), (annotation | None, True)):
        column = declared(make({"it": each})).by_name["it"]
        assert (column.kind, column.words, column.bits) == (kind, words, bits)
        assert (column.low, column.high) == bounds
        assert (column.optional, column.all_words) == (optional, words + optional)
        assert column.default is (None if optional else MISSING)


def test_heaps() -> None:
    assert declared(make({"cash": int})).heap_bytes == 0
    assert declared(make({"note": str}), capacity=10).heap_bytes == 1 << 20
    assert declared(make({"note": str, "raw": bytes}), capacity=10**6).heap_bytes == 256 * 10**6
    app = App("test")
    app.table(capacity=10, heap_bytes=1 << 21)(make({"note": str}))
    assert app.tables["thing"].heap_bytes == 1 << 21
    for record, heap_bytes, message in (
        (make({"cash": int}, _name="A"), 1 << 21, "heap_bytes is for tables with str or bytes"),
        (make({"note": str}, _name="B"), 5, "heap_bytes must be 1048576 to 1099511627776"),
    ):
        with pytest.raises(DeclarationError, match=message):
            app.table(heap_bytes=heap_bytes)(record)


@pytest.mark.parametrize(
    ("camel", "snake"),
    [("Account", "account"), ("OpenOrder", "open_order"), ("HTTPLog", "http_log"), ("A1B", "a1_b")],
)
def test_table_names(camel: str, snake: str) -> None:
    assert snake_case(camel) == snake


TEXT8 = Annotated[str, text(8)]
WIDE = {f"c{i}": Annotated[str, text(1024)] for i in range(2)}
NOTHING: dict[str, Any] = {}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (lambda: 5, "@app.table goes on a class, not on 5"),
        (lambda: make(NOTHING, _name="Now"), "a table can't be called 'now'"),
        (lambda: make(NOTHING, _name="_Hidden"), "a table can't be called '_hidden'"),
        (lambda: make({"cash": int}, _key=False), "a table needs a key: id: int = key()"),
        (lambda: make({"cash": "Nowhere"}), "an annotation can't be read.*'Nowhere'"),
        (lambda: make({"cash": "int("}), "an annotation can't be read"),
        (lambda: make({"_cash": int}), "column _cash: .* begin with an underscore"),
        (lambda: make(NOTHING, cash=0), "cash has no annotation, so it is no column"),
        (lambda: make(NOTHING, total=lambda self: 1), "total: rows have no methods"),
        (lambda: make(NOTHING, total=property(lambda self: 1)), "total: rows have no methods"),
        (lambda: make({"cash": int | str}), "column cash: a union may only be with None"),
        (lambda: make({"k": int | None}, _key=False, k=key()), "column k: a key can't be None"),
        (lambda: make({"k": str}, _key=False, k=key()), "column k: a str can't be a key"),
        (lambda: make({"k": u8}, _key=False, k=key(auto=True)), "it must be an int of 64 bits"),
        (lambda: make({"k": u64}, _key=False, k=key(auto=True)), "it must be an int of 64 bits"),
        (lambda: make({"name": str}, by=ordered("name")), "index by: name has no longest value"),
        (lambda: make({"a": Annotated[bytes, data(0)]}), r"data\(\) is for bytes, of 1 or more"),
        (lambda: make({"a": Annotated[bytes, data(1025)]}), "text and data may be 1 to 1024 bytes"),
        (lambda: make({"a": Annotated[bytes, data(2)]}, a=b"abc"), "default b'abc' does not fit"),
        (lambda: make({"a": u8}, a=256), "the default 256 does not fit"),
        (lambda: make({"a": i8}, a=-129), "the default -129 does not fit"),
        (lambda: make({"a": u64}, a=-1), "the default -1 does not fit"),
        (lambda: make({"a": Annotated[int, between(1, 5)]}, a=0), "the default 0 does not fit"),
        (lambda: make({"a": Annotated[u8, between(-9, -1)]}), "no number of 8 bits is within"),
        (lambda: make({"a": Annotated[int, bits(12)]}), r"bits\(\) is for int and IntEnum"),
        (lambda: make({"a": Annotated[float, bits(16)]}), r"bits\(\) is for int and IntEnum"),
        (lambda: make({"a": Annotated[Grain, bits(8)]}), "Grain has members beyond 8 bits"),
        (lambda: make({"a": Annotated[Vast, bits(64, signed=False)]}), "members beyond 63 bits"),
        (lambda: make({"a": Annotated[f32, between(0, 1e39)]}), "beyond what 32 bits can hold"),
        (lambda: make({"name": Annotated[str, text(0)]}), r"text\(\) is for str, of 1 byte"),
        (
            lambda: make({"name": Annotated[str, text(1025)]}),
            "text and data may be 1 to 1024 bytes",
        ),
        (lambda: make({"cash": TEXT8}, cash="x" * 9), "column cash: the default 'xxxxxxxxx'"),
        (lambda: make({"cash": TEXT8}, cash="a\0"), "the default .* does not fit"),
        (lambda: make({"cash": TEXT8}, cash="\ud800"), "the default .* does not fit"),
        (lambda: make({"cash": TEXT8}, cash=5), "the default 5 does not fit"),
        (lambda: make({"cash": int}, cash=2**63), "column cash: the default .* does not fit"),
        (lambda: make({"cash": int}, cash=1.5), "the default 1.5 does not fit"),
        (lambda: make({"cash": int}, cash=None), "the default None does not fit"),
        (lambda: make({"cash": float}, cash="1"), "the default '1' does not fit"),
        (lambda: make({"cash": float}, cash=True), "the default True does not fit"),
        (lambda: make({"cash": bool}, cash=1), "the default 1 does not fit"),
        (lambda: make({"side": Side}, side=7), "column side: the default 7 does not fit"),
        (lambda: make({"side": Side}, side="BUY"), "the default 'BUY' does not fit"),
        (lambda: make({"cash": Annotated[int, text(8)]}), r"column cash: text\(\) is for str"),
        (lambda: make({"cash": list[int]}), "a column can be int, float"),
        (lambda: make({"cash": Any}), "a column can be int, float"),
        (lambda: make({"cash": Colour}), "Colour can't be used here"),
        (lambda: make({"cash": typing.ClassVar[int]}), "ClassVar.* can't be used here"),
        (lambda: make({"cash": float}, cash=key()), "column cash: a float can't be a key"),
        (lambda: make({"k": TEXT8}, _key=False, k=key(auto=True)), "it must be an int"),
        (lambda: make({"k": Side}, _key=False, k=key(auto=True)), "it must be an int"),
        (lambda: make({"more": int}, id=key(auto=True), more=key()), "must be the whole key"),
        (
            lambda: make({"k": Annotated[str, text(57)]}, _key=False, k=key()),
            "7 words .* this has 8",
        ),
        (lambda: make(WIDE), "a row may have 2048 bytes at most"),
        (lambda: make({"k": int}, k=ref(Side)), "Side.* is not a table declared before"),
        (lambda: make({"k": TEXT8}, k=ref(Side)), "so it must be an int"),
        (lambda: make(NOTHING, get=ordered("id")), "index get: an index can't be called that"),
        (lambda: make(NOTHING, _by=ordered("id")), "index _by: an index can't be called that"),
        (lambda: make({"by": int}, by=ordered("id")), "index by: an index has no annotation"),
        (lambda: make(NOTHING, by=ordered()), "index by: name the columns"),
        (lambda: make({"cash": int}, by=ordered("cahs")), "no column 'cahs'; did you mean 'cash'"),
        (lambda: make(NOTHING, by=ordered(5)), "index by: there is no column 5"),
        (lambda: make(NOTHING, by=ordered("id", "id")), "index by: a column is named twice"),
        (
            lambda: make({"name": Annotated[str, text(50)]}, by=ordered("name", "id")),
            "index by: an index may have 7 words at most, and this has 8",
        ),
        (
            lambda: make(NOTHING, **{f"by_{i}": ordered("id") for i in range(11)}),
            "a table may have 10 indexes at most",
        ),
    ],
)
def test_what_can_not_be_declared(record: Callable[[], Any], message: str) -> None:
    app = App("test")
    with pytest.raises(DeclarationError, match=message):
        app.table(record())
    assert app.tables == {}


@pytest.mark.parametrize("capacity", [0, -1, 2**32 + 1, 1.5, "10", None])
def test_capacities(capacity: Any) -> None:
    with pytest.raises(DeclarationError, match="capacity must be 1 to 4294967296, not"):
        declared(make(NOTHING), capacity=capacity)


@pytest.mark.parametrize("name", sorted(DB_NAMES))
def test_tables_that_would_hide_something(name: str) -> None:
    camel = "".join(part.capitalize() for part in name.split("_"))
    with pytest.raises(DeclarationError, match=f"a table can't be called {name!r}"):
        declared(make(NOTHING, _name=camel))


@pytest.mark.parametrize("name", sorted(TABLE_NAMES))
def test_indexes_that_would_hide_something(name: str) -> None:
    with pytest.raises(DeclarationError, match="an index can't be called that"):
        declared(make({"cash": int}, **{name: ordered("cash")}))
    assert declared(make({name: int})).by_name[name].kind == "int"  # columns may


def test_two_tables_of_one_name() -> None:
    with pytest.raises(DeclarationError, match="there is a table 'thing' already"):
        declared(make(NOTHING), make(NOTHING))


def test_references() -> None:
    class Named:
        name: Annotated[str, text(8)] = key()

    class Pair:
        left: int = key()
        right: int = key()

    for target in (Named, Pair):
        with pytest.raises(
            DeclarationError, match=r"ref\(\) needs a table with one int as its key"
        ):
            declared(make({"to": int}, to=ref(target)), target)


def test_an_error_names_file_line_and_class() -> None:
    with pytest.raises(DeclarationError) as error:

        @App("test").table
        class Broken:
            id: int = key()
            name: list

    text = str(error.value)
    assert "test_declarations.py:" in text
    assert "class Broken: column name: a column can be int, float" in text


def test_classes_and_private_names_inside_a_table_are_left_alone() -> None:
    record = make({"cash": int}, Inner=Side, _note="x", by_cash=ordered("cash"))
    assert [column.name for column in declared(record).columns] == ["id", "cash"]
