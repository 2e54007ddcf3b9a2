"""The TPC-C benchmark and the count of written pages run, at a size that says nothing."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest
from tests.unit.bench.test_bench_orders import run

from diptych import Rejected
from tpcc import Scale, app, population

BENCH = Path(__file__).resolve().parents[3] / "bench"
sys.path.append(str(BENCH))  # behind the examples, of which one has the name of a file there
import tpcc_sqlite  # noqa: E402

SMALL = ("--items", "300", "--customers", "20")


def test_over_tcp() -> None:
    flags = ("--runs", "1", "--seconds", "0.5", "--connections", "4", "--queries", "1")
    rows = run("tpcc.py", *flags, "--in-flight", "16", *SMALL)["rows"]
    assert [row["system"] for row in rows] == ["compiled", "interpreted", "SQLite"]
    assert all(row["transactions_per_s"] > 0 for row in rows)
    assert all(row["tpmc"] > 0 for row in rows)
    assert all(row["pages_per_transaction"] > 0 for row in rows[:2])
    assert all(row["queries_per_s"] > 0 for row in rows[:2])


def test_sqlite_does_what_the_example_does() -> None:
    """The same calls on the same rows leave the same rows, but for times."""
    scale = Scale(1, items=100, customers=20)
    calls = tpcc_sqlite.keyed(scale)[:500]
    with tempfile.TemporaryDirectory() as directory, app.open(now=1) as bench:
        store = tpcc_sqlite.Store(Path(directory))
        store.load(scale)
        for call in population(scale):
            bench.call(*call[:1], *call[1])
        for operation, arguments in calls:
            outcomes = []
            for one in (bench.call, lambda name, *given: store.call(name, given)):
                try:
                    one(operation, *arguments)
                    outcomes.append("done")
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
            found = set(store.run(f'SELECT {chosen} FROM "{name}"'))
            assert found == {tuple(getattr(row, column) for column in columns) for row in table}
        assert store.broken() == []
        store.connection.close()


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
def test_sqlite_is_held_to_the_conditions_of_the_example(
    tmp_path: Path, condition: str, damage: str
) -> None:
    store = tpcc_sqlite.Store(tmp_path)
    store.load(Scale(1, items=100, customers=20))
    assert store.broken() == []
    store.run(damage)
    broken = store.broken()
    store.connection.close()
    assert condition in broken
