"""The report: tables of figures with what is needed to read and to repeat them.

A section gives a `Result`; the report adds machine and versions, and writes report.md, report.json
and, where there is matplotlib, a PNG for each plot. Knows nothing of how figures came about.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.suite.goals import COLUMNS, goal_rows
from bench.suite.measure import Figure
from bench.suite.plots import Plot, draw

Cell = str | float | int | Figure | None


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first column says what a row is about."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]


@dataclass
class Result:
    """What a section found. `raw`: everything measured, for the JSON."""

    tables: list[Table]
    notes: list[str] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    raw: Any = None


@dataclass(frozen=True)
class Told:
    """A section in the report."""

    name: str
    title: str
    about: str
    command: str
    seconds: float
    result: Result


@dataclass
class Report:
    """`judged`: the run is large enough that its figures say which goals are met."""

    command: str
    began: str
    versions: dict[str, str]
    skipped: dict[str, str]
    judged: bool = True
    sections: list[Told] = field(default_factory=list)

    def write(self, directory: Path) -> None:
        """All files. Called after each section, so that a run that is ended leaves what it had."""
        directory.mkdir(parents=True, exist_ok=True)
        drawn = {
            told.name: [path for plot in told.result.plots if (path := draw(plot, directory))]
            for told in self.sections
        }
        data = json.dumps(self._data(), indent=1, default=_plain)
        sections = json.loads(data)["sections"] if self.judged else {}
        judged = [row for row in goal_rows(sections, os.cpu_count() or 1) if row[3]]
        lines = self._lines(drawn, Table("", COLUMNS, judged))
        (directory / "report.md").write_text("\n".join(lines) + "\n")
        (directory / "report.json").write_text(data)

    def _data(self) -> dict[str, Any]:
        return {
            "command": self.command,
            "began": self.began,
            "machine": machine(),
            "cpus": os.cpu_count(),
            "judged": self.judged,
            "versions": self.versions,
            "skipped": self.skipped,
            "sections": {
                told.name: {
                    "title": told.title,
                    "command": told.command,
                    "seconds": told.seconds,
                    "tables": [vars(table) for table in told.result.tables],
                    "notes": told.result.notes,
                    "raw": told.result.raw,
                }
                for told in self.sections
            },
        }

    def _lines(self, drawn: dict[str, list[Path]], judged: Table) -> Iterable[str]:
        yield from ("# Benchmark report", "")
        yield f"`{self.command}`, {self.began}, on {machine()}."
        yield from ("", *READING.splitlines(), "")
        yield from (f"- {name}: {version}" for name, version in self.versions.items())
        yield from (f"- {name}: left out, {why}" for name, why in self.skipped.items())
        if any(told.result.plots for told in self.sections) and not any(drawn.values()):
            yield "- No plots: matplotlib is not installed (`pip install 'diptych[bench]'`)."
        if judged.rows:
            yield from ("", "## Goals", "", *GOALS.splitlines(), "", *table_lines(judged))
        for told in self.sections:
            yield from ("", f"## {told.title}", "", *told.about.splitlines(), "")
            yield f"Command: `{told.command}` ({told.seconds:.0f} s)."
            for table in told.result.tables:
                yield from ("", f"**{table.title}**", "")
                yield from table_lines(table)
            if told.result.notes:
                yield from ("", *(f"- {note}" for note in told.result.notes))
            for path in drawn[told.name]:
                yield from ("", f"![{path.stem}]({path.name})")


READING = """\
Ratios are the claims: of figures of the same round, with all subjects in turn, as the median over
the rounds and, in brackets, the least and the most. Absolute figures are of this machine at that
time; load generator and system share its processors."""
GOALS = """\
*floor*: what must hold; *aim*: what would be fine. By the medians of this run's figures below."""


def table_lines(table: Table) -> Iterable[str]:
    """The table in Markdown."""
    yield "| " + " | ".join(table.columns) + " |"
    yield "| --- |" + " ---: |" * (len(table.columns) - 1)
    for row in table.rows:
        yield "| " + " | ".join(cell_text(cell) for cell in row) + " |"


def cell_text(cell: Cell) -> str:
    if isinstance(cell, Figure):
        if len(cell.samples) == 1:
            return number_text(cell.median)
        least, most = cell.spread
        return f"{number_text(cell.median)} ({number_text(least)}..{number_text(most)})"
    if isinstance(cell, bool) or cell is None:
        return "" if cell is None else str(cell).lower()
    return number_text(cell) if isinstance(cell, int | float) else cell


def number_text(value: float) -> str:
    if abs(value) >= 100 or float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.2g}"


def machine() -> str:
    model = "an unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return (
        f"{os.cpu_count()} x {model}, {memory_gib:.0f} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}"
    )


def _plain(value: Any) -> Any:
    return value.as_dict() if isinstance(value, Figure) else str(value)
