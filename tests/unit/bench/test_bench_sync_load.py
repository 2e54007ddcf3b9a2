"""The benchmark of what tracking costs runs, at a size that says nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[3] / "bench" / "sync_load.py"


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    # Its engines are compiled first, unless that was kept.
    done = subprocess.run(
        [sys.executable, str(BENCH), "--quick", *flags], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done


def test_as_a_table_with_progress() -> None:
    done = run()
    lines = done.stdout.splitlines()
    assert [line.split("|")[1].strip() for line in lines[::2]] == ["resting orders", "500"]
    assert len({line.count("|") for line in lines}) == 1
    assert "round 2 of 2, on 500 resting orders" in done.stderr


def test_as_json_with_cancels_of_any_order() -> None:
    (row,) = json.loads(run("--scattered", "--json").stdout)["rows"]
    assert row["resting"] == 500
    assert row["scattered"]
    assert row["us_per_order_off"] > 0
    assert row["us_per_order_on"] > 0
    assert row["syncs"] > 2  # two of them before anything is measured
