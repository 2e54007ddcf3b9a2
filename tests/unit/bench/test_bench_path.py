"""The benchmark of the path runs, at a size that says nothing, and accounts for every process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[3] / "bench"


def test_an_engine_that_answers_at_once() -> None:
    done = subprocess.run(
        [
            *(sys.executable, str(BENCH / "path.py"), "echo", "--json"),
            *("--seconds", "0.3", "--warmup", "0", "--slack", "6", "--shape", "4x8"),
        ],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["rows"]
    processes = row["processes"]
    assert row["orders_per_s"] > 0
    assert set(processes) == {"client", "gateway", "writer", "reader"}
    assert processes["gateway"]["us_per_order"] > 0
    assert row["us_per_order"] > processes["client"]["us_per_order"]
