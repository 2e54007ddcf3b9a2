"""The order benchmarks run, at a size that says nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

BENCH = Path(__file__).parents[3] / "bench"


def run(name: str, *flags: str) -> Any:
    done = subprocess.run(
        [sys.executable, str(BENCH / name), "--json", *flags],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_over_tcp() -> None:
    rows = run("orders.py", "--runs", "1", "--seconds", "0.5", "--connections", "4")["rows"]
    assert [row["query_connections"] for row in rows] == [0, 4]
    assert all(row["orders_per_s"] > 0 for row in rows)
    assert rows[1]["queries_per_s"] > 0


def test_the_engine_in_both_lanes() -> None:
    told = run("engine.py", "--runs", "1", "--events", "1500")
    assert set(told["us_per_order"]) == {"interpreted", "compiled"}
    assert told["trades"]["compiled"] > 100
