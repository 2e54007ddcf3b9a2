"""What the suite says of its goals follows from the figures in a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bench.suite.goals import Sections, goal_rows, main
from bench.suite.measure import Figure
from bench.suite.report import Report, Result, Table, Told

LOST = "lost (least, most)"


def sections_of(*tables: tuple[str, Table]) -> Sections:
    return {name: {"tables": [vars(table)]} for name, table in tables}


def judged(sections: Sections, cpus: int = 2) -> dict[tuple[str, str], tuple[str, str]]:
    """By what a goal is about and its kind: the figure, and what is said of it."""
    return {(row[0], row[1]): (row[3], row[4]) for row in goal_rows(sections, cpus)}


def test_what_was_not_measured_is_said_so() -> None:
    assert {said for _, said in judged({}).values()} == {"not measured"}


@pytest.mark.parametrize(("median", "said"), [(8.0, "met"), (7.9, "missed")])
def test_a_ratio_with_its_spread(median: float, said: str) -> None:
    figure = Figure((median - 1, median, median + 1)).as_dict()
    table = Table(
        "50 x 32 in flight",
        ("system", "orders/s", "Diptych is"),
        [("Diptych", 1.5e6, "1"), ("Redis Lua", 1e5, figure)],  # type: ignore[list-item]
    )
    found = judged(sections_of(("orders", table)))
    text = f"{median:.3g} ({median - 1:.3g}..{median + 1:.3g})"
    assert found["Orders, times Redis Lua", "floor"] == (text, said)
    assert found["Orders a second", "aim"] == ("1,500,000", "met")
    assert found["Orders, times asyncio", "floor"][1] == "not measured"
    assert found["Orders a second, 8 x 500", "aim"][1] == "not measured"  # of another table


def test_figures_in_words_and_over_sizes() -> None:
    rows: list[Any] = [
        ("10,000", "1.00", "1.10", "9.1% (8.0%, 12.0%)"),
        ("1,000,000", "1.50", "2.31", "35.0% (30.0%, 40.0%)"),
    ]
    table = Table("", ("resting orders", "off", "on", LOST), rows)
    found = judged(sections_of(("load", table)))
    assert found["Writer's time lost to tracking and syncs", "floor"][1] == "met"
    assert found["The same, at the worst size", "aim"] == ("35.0% (30.0%, 40.0%)", "missed")
    key = ("Time of an order, largest by least of all sizes", "floor")
    assert found[key] == ("2.10 over 2 sizes", "missed")
    assert judged(sections_of(("load", Table("", table.columns, rows[:1]))))[key][1] == (
        "not measured"
    )


@pytest.mark.parametrize(("cpus", "said"), [(2, "met"), (4, "missed")])
def test_two_shared_cores_allow_a_query_more(cpus: int, said: str) -> None:
    table = Table("At a fixed rate, 9 trades", ("system", "p99 ratio"), [("Diptych", 1.8)])
    about = "p99 at half rate beside the query, times quiet"
    assert judged(sections_of(("analytics", table)), cpus)[about, "floor"] == ("1.8", said)


def test_goals_in_a_report_and_of_several(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = {"tpcc": ("compiled", "48,000 (1..2)"), "queries": ("50 x 32", "compiled", "0.90")}
    columns = {
        "tpcc": ("system", "transactions/s"),
        "queries": ("shape", "way", "calls/s, of Redis"),
    }
    for name, row in rates.items():
        report = Report("command", "now", {}, {})
        result = Result([Table("", columns[name], [row])])
        report.sections.append(Told(name, name, "About.", "again", 1.0, result))
        report.write(tmp_path / name)
    text = (tmp_path / "tpcc" / "report.md").read_text()
    assert "| TPC-C transactions a second | floor | at least 30,000 | 48,000 (1..2) | met |" in text
    assert "not measured" not in text  # only what this run is about
    paths = [str(tmp_path / name / "report.json") for name in rates]
    assert main(paths[:1]) == 0
    capsys.readouterr()
    assert main(paths) == 1
    printed = capsys.readouterr().out
    assert "| Point queries, times Redis GET | floor | at least 1 | 0.90 | missed |" in printed
    assert "48,000" in printed
    assert json.loads(Path(paths[0]).read_text())["cpus"]


def test_a_quick_run_says_nothing_of_goals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = Report("command", "now", {}, {}, judged=False)
    result = Result([Table("", ("system", "transactions/s"), [("compiled", "48,000")])])
    report.sections.append(Told("tpcc", "tpcc", "About.", "again", 1.0, result))
    report.write(tmp_path)
    assert "Goals" not in (tmp_path / "report.md").read_text()
    assert main([str(tmp_path / "report.json")]) == 0
    assert "48,000" not in capsys.readouterr().out


def test_the_columns_that_goals_are_read_from_exist() -> None:
    """Each goal's table and column is one that a section or a script writes."""
    bench = Path(__file__).resolve().parents[3] / "bench"
    source = "".join(
        path.read_text() for path in (*bench.glob("*.py"), *bench.glob("suite/sections/*.py"))
    )
    goals = (bench / "suite" / "goals.py").read_text()
    for title in (LOST, "calls/s, of Redis", "p50, of Redis", "p99 ratio", "compiled is"):
        assert title in goals
        assert title in source
