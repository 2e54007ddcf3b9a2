"""The TPC-C benchmark and the count of written pages run, at a size that says nothing."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from bench.suite.loads.ordered import run_ordered
from bench.suite.loads.postgres import INT4, INT4_ROWS, NULL, TEXT, call_of
from bench.suite.peers import postgres_server
from tests.unit.bench.test_bench_orders import run

from diptych import Rejected
from diptych.loadtest import LoadSettings
from tpcc import Scale, app, population
from tpcc.terminals import Terminals

BENCH = Path(__file__).resolve().parents[3] / "bench"
sys.path.append(str(BENCH))  # behind the examples, of which one has the name of a file there
import tpcc_postgres  # noqa: E402
import tpcc_sqlite  # noqa: E402

SMALL = ("--items", "300", "--customers", "20")


@contextmanager
def in_sqlite(scale: Scale) -> Iterator[Any]:
    with tempfile.TemporaryDirectory() as directory:
        store = tpcc_sqlite.Store(Path(directory))
        store.load(scale)
        yield store
        store.connection.close()


@contextmanager
def in_postgres(scale: Scale) -> Iterator[Any]:
    if why := postgres_server.missing():
        pytest.skip(why)
    with (
        # Not pytest's own: another user has to get there when this is root.
        tempfile.TemporaryDirectory() as directory,
        postgres_server.started(Path(directory), "none") as cluster,
        closing(tpcc_postgres.Store(cluster)) as store,
    ):
        store.load(scale)
        yield store


def test_over_tcp() -> None:
    flags = ("--runs", "1", "--seconds", "0.5", "--connections", "4", "--queries", "1")
    systems = ["compiled", "interpreted", "SQLite", "compiled, fsync"]
    rows = run("tpcc.py", *flags, "--in-flight", "16", *SMALL, "--systems", *systems)["rows"]
    assert [row["system"] for row in rows] == systems
    assert all(row["transactions_per_s"] > 0 for row in rows)
    assert all(row["tpmc"] > 0 for row in rows)
    assert all(("queries_per_s" in row) == (row["system"] != "SQLite") for row in rows)
    assert all(row.get("pages_per_transaction", 1) > 0 for row in rows)
    assert all(row.get("queries_per_s", 1) > 0 for row in rows)
    assert rows[0]["compiled_is"] == rows[3]["compiled_is"] == 1  # each beside its like


def test_postgres_in_both_durabilities() -> None:
    if why := postgres_server.missing():
        pytest.skip(why)
    systems = ["PostgreSQL", "PostgreSQL, fsync"]
    rows = run("tpcc.py", "--runs", "1", "--seconds", "0.5", *SMALL, "--systems", *systems)["rows"]
    assert [row["system"] for row in rows] == systems
    assert all(row["tpmc"] > 0 for row in rows)


@pytest.mark.skipif(importlib.util.find_spec("pgserver") is not None, reason="it is in a wheel")
def test_without_postgres_it_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    flags = ("--runs", "1", "--seconds", "0.2", "--systems", "SQLite", "PostgreSQL")
    rows = run("tpcc.py", *flags, *SMALL)["rows"]
    assert [row["system"] for row in rows] == ["SQLite"]


def test_calls_of_postgres_with_rows_and_none() -> None:
    call, hole = call_of("f", (INT4, TEXT, INT4_ROWS), (None, "ab", [(1, 2, 3), (4, 5, -6)]))
    numbers = b"".join(
        b"\0\0\0\4" + each.to_bytes(4, "big", signed=True) for each in (1, 2, 3, 4, 5, -6)
    )
    head = b"".join(each.to_bytes(4, "big") for each in (2, 0, INT4, 2, 1, 3, 1))
    array = (len(head) + len(numbers)).to_bytes(4, "big") + head + numbers
    assert b"\0\3" + NULL + b"\0\0\0\2ab" + array + b"\0\1\0\1E" in call
    assert hole == -1


@pytest.mark.parametrize("opened", [in_sqlite, in_postgres])
def test_others_do_what_the_example_does(opened: Callable[[Scale], Any]) -> None:
    """The same calls on the same rows leave the same rows, but for times."""
    scale = Scale(1, items=100, customers=20)
    calls = tpcc_sqlite.keyed(scale)[:500]
    with opened(scale) as store, app.open(now=1) as bench:
        for call in population(scale):
            bench.call(*call[:1], *call[1])
        for operation, arguments in calls:
            outcomes: list[Any] = []
            for one in (bench.call, lambda name, *given: store.call(name, given)):
                try:
                    value = one(operation, *arguments)
                    counted = operation == "stock_level"
                    outcomes.append(int_of(value) if counted else "done")
                except Rejected as no:
                    outcomes.append(no.code)
            assert outcomes[0] == outcomes[1], (operation, arguments)
        for name, table in bench.db.tables.items():
            columns = [
                column.name
                for column in table.layout.spec.columns
                if column.name not in ("entered", "delivered", "date", "since")
            ]
            chosen = ", ".join(f'"{column}"' for column in columns)
            found = {
                tuple(map(text_of, row)) for row in store.run(f'SELECT {chosen} FROM "{name}"')
            }
            assert found == {
                tuple(text_of(getattr(row, column)) for column in columns) for row in table
            }
        assert store.broken() == []


def int_of(value: Any) -> int:
    """A result that is one int; of PostgreSQL it is a column of bytes."""
    return int.from_bytes(value[0], "big") if isinstance(value, list) else value


def text_of(value: Any) -> str:
    """A column of any store as PostgreSQL has it in text."""
    if isinstance(value, bytes):
        value = value.decode()
    return {None: "", "t": "1", "f": "0", True: "1", False: "0"}.get(value, str(value))


def test_postgres_under_load_takes_from_stocks_what_it_orders() -> None:
    """So many at once on so little that all wait for each other: none of them in a circle."""
    scale = Scale(2, items=50, customers=20)
    settings = LoadSettings(
        connections=16, in_flight=2, duration_s=1.0, warmup_s=0.0, cycle_calls=200, setup=False
    )
    with in_postgres(scale) as store:
        before = store.run("SELECT count(*), sum(quantity) FROM order_line")
        report = run_ordered(store.protocol, Terminals(scale), settings)
        assert report.clean
        refused = {code for operation in report.operations for code in operation.refused}
        assert refused <= {"item_not_found"}
        assert store.broken() == []
        after = store.run("SELECT count(*), sum(quantity) FROM order_line")
        more = [int(new) - int(old) for old, new in zip(before[0], after[0], strict=True)]
        taken = store.run("SELECT sum(order_count), sum(year_to_date) FROM stock")
        assert [int(each) for each in taken[0]] == more
        assert more[0] > 0


def test_pages_a_transaction() -> None:
    told = run("pages_per_transaction.py", "--epochs", "0.05", *SMALL)
    assert set(told) == {"exchange", "TPC-C"}
    for figures in told.values():
        pages = [figures["pages"][size] for size in ("1", "10", "100", "1000")]
        assert pages == sorted(pages, reverse=True), "more share their pages, the more there are"
        assert pages[-1] > 0
        for size, held in figures["held"].items():
            assert sum(held.values()) == pytest.approx(figures["pages"][size])
    assert "stock.quantity" in told["TPC-C"]["held"]["10"]


@pytest.mark.parametrize(
    ("condition", "damage"),
    [
        ("payments_add_up", "UPDATE district SET year_to_date = year_to_date + 1 WHERE id = 2"),
        ("orders_are_counted", "UPDATE district SET next_order = next_order + 1 WHERE id = 2"),
        (
            "orders_are_counted",
            'DELETE FROM new_order WHERE district = 2 AND "order" = '
            '(SELECT max(id) FROM "order" WHERE district = 2)',
        ),
        (
            "waiting_orders_have_no_gaps",
            'DELETE FROM new_order WHERE district = 2 AND "order" = '
            '(SELECT max(id) - 1 FROM "order" WHERE district = 2)',
        ),
        (
            "lines_are_counted",  # as many in all, in other districts
            'UPDATE "order" SET line_count = line_count + CASE district WHEN 1 THEN 1 ELSE -1 END '
            "WHERE id = 1 AND district IN (1, 2)",
        ),
    ],
)
@pytest.mark.parametrize("opened", [in_sqlite, in_postgres])
def test_others_are_held_to_the_conditions_of_the_example(
    opened: Callable[[Scale], Any], condition: str, damage: str
) -> None:
    with opened(Scale(1, items=100, customers=20)) as store:
        assert store.broken() == []
        store.run(damage)
        assert condition in store.broken()
