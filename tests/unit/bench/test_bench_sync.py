"""The sync benchmark runs, at a size that says nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[3] / "bench" / "sync.py"


def run(*flags: str) -> str:
    done = subprocess.run(
        [sys.executable, str(BENCH), "--quick", *flags], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_as_a_table() -> None:
    lines = run().splitlines()
    rows = [line for line in lines if line.startswith("| ") and " MiB |" in line]
    assert len(rows) == 4
    heads = next(line for line in lines if line.startswith("| memory"))
    assert len({line.count("|") for line in (heads, *rows)}) == 1


def test_as_json() -> None:
    rows = json.loads(run("--json"))["rows"]
    assert [(row["size_bytes"] >> 20, row["written_pages"]) for row in rows] == [
        (2, 10),
        (2, 100),
        (4, 10),
        (4, 100),
    ]
    assert all(row["pause_median_us"] > 0 and row["fork_stop_us"] > 0 for row in rows)
