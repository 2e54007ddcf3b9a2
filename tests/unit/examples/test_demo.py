"""The demo, short: it ends by itself, accounts for everything, and says so in its last line."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from exchange import demo
from exchange.demo_view import Figures
from exchange.player import Tally
from exchange.schema import Conservation
from exchange.tape import COLUMNS


def test_made_up_flow(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(["--seconds", "1", "--connections", "8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    figures = json.loads(lines[-1])
    assert figures["accounted"]
    assert figures["conserved"]
    assert figures["broken"] == {}
    assert sum(figures["outcomes"].values()) == figures["transactions"] > 1_000
    assert figures["queries"] > 10
    assert figures["images_checked"] >= 1
    assert figures["syncs"] >= 1
    assert figures["transaction_latency_us"]["p99"] > 0
    assert any("books balance" in line for line in lines)


def test_a_tape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "day.csv"
    lines = [",".join(COLUMNS)]
    for number in range(1, 501):
        lines.append(f"{number},1,1,236.50,1000,created,{'bid' if number % 2 else 'ask'}")
    path.write_text("\n".join(lines))
    assert demo.main(["--tape", str(path)]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["outcomes"] == {
        "accepted: order matched at once": 250,
        "accepted: order rests": 250,
    }
    assert figures["trades"] == 250
    assert figures["open_orders"] == 0


def test_what_is_missing_or_broken_is_not_well() -> None:
    figures = Figures(conservation=Conservation([], 0, 0, 0))
    assert not figures.accounted
    assert figures.conserved
    figures.played(Tally(read=3, outcomes=Counter(a=2), calls=2), 1.0)
    assert not figures.accounted
    figures.outcomes["b"] += 1
    assert figures.accounted
    figures.audited(["no_book_is_crossed"], 7)
    assert not figures.conserved
