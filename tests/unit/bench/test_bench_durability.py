"""The durability benchmark runs, at a size that says nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[3] / "bench"


def run(section: str) -> Any:
    done = subprocess.run(
        [sys.executable, str(BENCH / "durability.py"), section, "--quick", "--json"],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)[section]


def test_throughput() -> None:
    rates = {(row["subject"], row["way"]): row["orders_per_s"] for row in run("throughput")["rows"]}
    for mode in ("none", "os", "fsync"):
        assert rates["exchange", mode] > 0
        assert rates["toy", mode] > 0
    assert rates["others", "SQLite, 1 a commit"] > 0


@pytest.mark.parametrize(
    ("section", "figure"),
    [("restart", "first_answer_s"), ("takeover", "silence_ms"), ("replay", "replayed_per_s")],
)
def test_another_section(section: str, figure: str) -> None:
    assert run(section)[figure] > 0
