"""The TPC-C benchmark and the count of written pages run, at a size that says nothing."""

from __future__ import annotations

import pytest
from tests.unit.bench.test_bench_orders import run

SMALL = ("--items", "300", "--customers", "20")


def test_over_tcp() -> None:
    told = run("tpcc.py", "--runs", "1", "--seconds", "0.5", "--connections", "4", *SMALL)
    rows = told["rows"]
    assert [row["query_connections"] for row in rows] == [0, 2]
    assert all(row["transactions_per_s"] > 0 for row in rows)
    assert all(row["tpmc"] > 0 for row in rows)
    assert all(row["pages_per_transaction"] > 0 for row in rows)
    assert rows[1]["queries_per_s"] > 0


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
