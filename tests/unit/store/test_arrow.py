"""Arrow tables and data frames of columns: types, values, None, and what is a view of memory."""

from __future__ import annotations

import datetime
import decimal
from typing import Annotated, Any

import pandas as pd
import pyarrow as pa
import pytest
from tests.support import everything
from tests.support.bulk import load

from diptych import App, key
from diptych.schema import Unit
from diptych.store import arrow
from diptych.testing import Bench
from diptych_client.errors import ServerError

app = everything.app
ROWS = [everything.row(number) for number in range(1, 60)]


@pytest.fixture
def bench():
    with app.open(now=0) as bench:
        load(bench, "owner", [{"id": i, "name": f"owner {i}"} for i in range(5)])
        load(bench, "thing", ROWS)
        yield bench


def test_types(bench: Bench) -> None:
    schema = bench.db.thing.arrow().schema
    names = pa.dictionary(pa.int32(), pa.string())
    expected = {
        "id": pa.int64(),
        "tiny": pa.int8(),
        "port": pa.uint16(),
        "huge": pa.uint64(),
        "ratio": pa.float64(),
        "rough": pa.float32(),
        "yes": pa.bool_(),
        "label": pa.string(),
        "digest": pa.binary(16),
        "made": pa.timestamp("ns", tz="UTC"),
        "due": pa.date32(),
        "price": pa.decimal128(19, 2),
        "fee": pa.decimal128(19, 5),
        "small_side": names,
        "note": pa.string(),
        "blob": pa.binary(),
        "flag": pa.bool_(),
        "mood": names,
    }
    assert {name: schema.field(name).type for name in expected} == expected
    optional = {column.name for column in everything.COLUMNS.values() if column.optional}
    assert {field.name for field in schema if field.nullable} == optional


def expected_value(name: str, value: Any) -> Any:
    """What Arrow gives back for a column's value."""
    mark = everything.COLUMNS[name].value
    if value is None:
        return None
    if mark.is_enum:
        return mark.base(value).name
    if mark.scaled:
        return decimal.Decimal(value).scaleb(-mark.scaled.digits)
    if name in ("due", "until"):
        return datetime.date(1970, 1, 1) + datetime.timedelta(value)
    if name == "rough":
        return pa.scalar(value, pa.float32()).as_py()
    return value


@pytest.mark.parametrize("holes", [False, True])
def test_values(bench: Bench, holes: bool) -> None:
    rows = ROWS
    if holes:
        for number in (1, 8, 9, 30, 59):
            bench.drop_thing(number)
        rows = [row for row in ROWS if row["id"] not in (1, 8, 9, 30, 59)]
    table = bench.db.thing.arrow()
    table.validate(full=True)
    assert table.num_rows == len(rows)
    for name in everything.COLUMNS:
        column = table[name]
        if name == "made":
            column = column.cast(pa.int64())
        found = column.to_pylist()
        assert found == [expected_value(name, row[name]) for row in rows], name


def test_a_selection_has_its_rows_alone(bench: Bench) -> None:
    chosen = bench.db.thing.columns(owner=3)
    expected = [row for row in ROWS if row["owner"] == 3]
    table = chosen.arrow()
    assert table["id"].to_pylist() == [row["id"] for row in expected]
    assert table["story"].to_pylist() == [row["story"] for row in expected]
    assert table["parent"].to_pylist() == [row["parent"] for row in expected]
    assert chosen.df()["id"].tolist() == table["id"].to_pylist()
    nobody = bench.db.thing.columns(owner=77).arrow()
    assert (nobody.num_rows, nobody.schema) == (0, table.schema)


def test_an_empty_table() -> None:
    with app.open(now=0) as bench:
        table = bench.db.thing.arrow()
        table.validate(full=True)
        assert table.num_rows == 0
        assert len(bench.db.thing.df()) == 0


def test_a_frame_keeps_ints_as_ints(bench: Bench) -> None:
    frame = bench.db.thing.df()
    assert frame["parent"].dtype == pd.Int64Dtype()
    assert frame["flag"].dtype == pd.BooleanDtype()
    extreme = next(row for row in ROWS if row["parent"] and abs(row["parent"]) > 2**53)
    (found,) = frame.loc[frame["id"] == extreme["id"], "parent"]
    assert found == extreme["parent"]
    assert frame["side"].tolist() == [row["side"].name for row in ROWS]
    assert frame["price"].iloc[1] == decimal.Decimal(ROWS[1]["price"]).scaleb(-2)
    assert str(frame["made"].dtype) == "datetime64[ns, UTC]"


def test_columns_as_memory_has_them_are_views(bench: Bench) -> None:
    table = bench.db.thing.arrow()
    space = bench.db.space
    start = space.root.ctypes.data
    layout = bench.db.thing.layout

    def is_view(name: str, buffer: int = 1) -> bool:
        address = table[name].chunk(0).buffers()[buffer].address
        return bool(start <= address < start + len(space.root))

    for name in ("id", "tiny", "port", "huge", "ratio", "rough", "digest", "made", "due"):
        assert is_view(name), name
    assert is_view("parent", 0)
    assert is_view("parent")
    assert not is_view("label")
    assert not is_view("price")
    assert table["id"].chunk(0).buffers()[1].address == start + layout.bases[0] * 8


def test_a_kept_table_is_noticed(bench: Bench) -> None:
    try:
        with pytest.raises(ServerError, match="kept a view"):
            bench.kept()
    finally:
        everything.KEPT.clear()
    assert bench.thing_count() == len(ROWS)


def test_without_the_extra_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(arrow.importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r"pip install 'diptych\[arrow\]'"):
        arrow.library("pyarrow.parquet")


def test_a_column_may_have_the_name_of_a_conversion() -> None:
    odd = App("odd")

    @odd.table(capacity=8)
    class Shot:
        id: int = key()
        arrow: int = 0

    with odd.open() as bench:
        with bench.transaction() as db:
            db.shot.insert(id=1, arrow=7)
        assert bench.db.shot.columns()["arrow"].tolist() == [7]
        assert bench.db.shot.arrow()["arrow"].to_pylist() == [7]
        assert bench.db.shot.columns().df()["arrow"].tolist() == [7]


def test_days_beyond_the_calendar_of_arrow_are_refused() -> None:
    far = App("far")

    @far.table(capacity=8)
    class Star:
        id: int = key()
        seen: Annotated[int, Unit("day")] = 0

    with far.open() as bench:
        with bench.transaction() as db:
            db.star.insert(id=1, seen=2**40)
        with pytest.raises(ValueError, match="date32"):
            bench.db.star.arrow()
