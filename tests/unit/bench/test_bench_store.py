"""The store's benchmark runs, at a size that says nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[3] / "bench" / "store.py"
OPERATIONS = {"read", "update", "insert random", "insert ascending", "step", "delete"}


def run(*flags: str) -> str:
    done = subprocess.run(
        [sys.executable, str(BENCH), "--quick", *flags], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_as_json() -> None:
    told = json.loads(run("--json"))
    assert set(told["interpreted_ns"]) == {"Diptych", "dict", "SortedDict", "SQLite"}
    assert set(told["compiled_ns"]) == {"kernels", "compiled lane"}
    for systems in (told["interpreted_ns"], told["compiled_ns"]):
        for name, times in systems.items():
            assert set(times) == OPERATIONS - ({"step"} if name == "dict" else set())
            assert all(ns > 0 for ns in times.values())
    assert [size["rows"] for size in told["growth"]] == [1_000, 10_000]


def test_as_tables() -> None:
    lines = run().splitlines()
    heads = [line for line in lines if line.startswith(("| operation", "| rows"))]
    assert len(heads) == 3
    assert any(line.startswith("| insert random | ") and line.endswith("| 500 |") for line in lines)
