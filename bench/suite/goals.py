"""What the project set out to reach, and whether a report shows it: `goal_rows`.

    python -m bench.suite.goals bench-report/report.json [more reports of the same machine]

Floors are what must hold, aims what would be fine. A figure is looked up in a report's data by
section, table, row and column; one that no section of the run measured is told as that. Medians
decide; the spread stands beside them. Knows where figures stand, not how they came about.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

Sections = dict[str, Any]
NUMBER = re.compile(r"(-?\d[\d,]*\.?\d*)(%?)")
COLUMNS = ("goal", "", "wanted", "found", "so it is")


class Found(NamedTuple):
    """A median, and how it is written, with its spread where there is one."""

    value: float
    text: str


class Goal(NamedTuple):
    """`bound`: at least so much, with `most` at most."""

    about: str
    kind: str
    bound: float
    find: Callable[[Sections], Found | None]
    most: bool = False

    def met(self, found: Found) -> bool:
        return found.value <= self.bound if self.most else found.value >= self.bound


def cell(section: str, table: str, row: tuple[str, ...], column: str) -> Any:
    """Looks up one figure: the first table whose title begins so, of it the first such row."""

    def find(sections: Sections) -> Found | None:
        return next(iter(found_in(sections, section, table, row, column)), None)

    return find


def worst(section: str, column: str) -> Any:
    """The largest figure of a column of a section's first table."""

    def find(sections: Sections) -> Found | None:
        return max(found_in(sections, section, "", (), column), default=None)

    return find


def span(section: str, column: str) -> Any:
    """How many times the smallest figure of a column its largest one is, over several sizes."""

    def find(sections: Sections) -> Found | None:
        values = [found.value for found in found_in(sections, section, "", (), column)]
        if len(values) < 2:
            return None
        ratio = max(values) / min(values)
        return Found(ratio, f"{ratio:.2f} over {len(values)} sizes")

    return find


def found_in(
    sections: Sections, section: str, table: str, row: tuple[str, ...], column: str
) -> Iterator[Found]:
    """The figures of a column, in all rows that begin with `row`."""
    for each in sections.get(section, {"tables": []})["tables"]:
        if not each["title"].startswith(table) or column not in each["columns"]:
            continue
        at = each["columns"].index(column)
        for cells in each["rows"]:
            if tuple(cells[: len(row)]) == row and (found := read(cells[at])):
                yield found
        return


def read(value: Any) -> Found | None:
    """A cell of a report's data: a figure over rounds, a number, or a text that begins with one."""
    if isinstance(value, dict):
        text = f"{short(value['median'])} ({short(value['least'])}..{short(value['most'])})"
        return Found(value["median"], text)
    if isinstance(value, int | float):
        return Found(value, short(value))
    match = NUMBER.match(value or "")
    if match is None:
        return None
    return Found(float(match[1].replace(",", "")) / (100 if match[2] else 1), value)


def short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def goals(cpus: int) -> list[Goal]:
    """All of them, on a machine with so many processors."""
    loop, deep = "50 x 32 in flight", "8 x 500 in flight"
    # Where everything shares two cores, a query takes its share of the transactions' time.
    beside = 2.0 if cpus <= 2 else 1.5
    fixed, query, both = "At a fixed rate", "The query itself", "In a closed loop"
    single = cell("queries", "", ("1 x 1", "compiled"), "p50, of Redis")
    point = cell("queries", "", ("50 x 32", "compiled"), "calls/s, of Redis")
    share, rate = "Diptych is", "orders/s"

    def orders(section: str, table: str, row: str, column: str) -> Any:
        return cell(section, table, (row,), column)

    def against(peer: str, durability: str = "") -> Any:
        section = "durable" if durability else "orders"
        return orders(section, loop, peer + durability, share)

    def tpcc(system: str) -> Any:
        return cell("tpcc", "", (system,), "compiled is")

    return [
        Goal("Orders, times Redis Lua", "floor", 8, against("Redis Lua")),
        Goal("Orders, times Tarantool", "floor", 8, against("Tarantool")),
        Goal("Orders, times asyncio", "floor", 5, against("asyncio")),
        Goal("Orders with fsync, times Redis Lua", "floor", 8, against("Redis Lua", ", fsync")),
        Goal("Orders with fsync, times Tarantool", "floor", 8, against("Tarantool", ", fsync")),
        Goal("Orders a second", "aim", 1e6, orders("orders", loop, "Diptych", rate)),
        Goal(
            "Orders a second with fsync", "aim", 550e3,
            orders("durable", loop, "Diptych, fsync", rate),
        ),
        Goal("Orders a second, 8 x 500", "aim", 2.5e6, orders("orders", deep, "Diptych", rate)),
        Goal("Point queries, times Redis GET", "floor", 1, point),
        Goal("One point query in flight, p50, times Redis", "floor", 2, single, most=True),
        Goal(
            "p99 at half rate beside the query, times quiet", "floor", beside,
            orders("analytics", fixed, "Diptych", "p99 ratio"), most=True,
        ),
        Goal(
            "The query at half rate, times idle", "floor", 1.3,
            orders("analytics", query, "Diptych", "ratio"), most=True,
        ),
        Goal(
            "Closed loop beside the query, of quiet", "floor", 0.9,
            orders("analytics", both, "Diptych", "ratio"),
        ),
        Goal(
            "Writer's time lost to tracking and syncs", "floor", 0.15,
            cell("load", "", (), "lost (least, most)"), most=True,
        ),
        Goal(
            "The same, at the worst size", "aim", 0.15,
            worst("load", "lost (least, most)"), most=True,
        ),
        Goal("Time of an order, largest by least of all sizes", "floor", 2, span("load", "on"),
             most=True),
        Goal("TPC-C transactions a second", "floor", 30e3,
             cell("tpcc", "", ("compiled",), "transactions/s")),
        Goal("TPC-C, times SQLite", "floor", 10, tpcc("SQLite")),
        Goal("TPC-C, times PostgreSQL", "floor", 10, tpcc("PostgreSQL")),
        Goal("TPC-C with fsync, times PostgreSQL", "floor", 10, tpcc("PostgreSQL, fsync")),
        Goal("TPC-C transactions a second", "aim", 100e3,
             cell("tpcc", "", ("compiled",), "transactions/s")),
    ]  # fmt: skip


def goal_rows(sections: Sections, cpus: int) -> list[tuple[str, ...]]:
    """A row a goal, under COLUMNS."""
    rows: list[tuple[str, ...]] = []
    for goal in goals(cpus):
        found = goal.find(sections)
        wanted = f"at {'most' if goal.most else 'least'} {short(goal.bound)}"
        if found is None:
            rows.append((goal.about, goal.kind, wanted, "", "not measured"))
        else:
            said = "met" if goal.met(found) else "missed"
            rows.append((goal.about, goal.kind, wanted, found.text, said))
    return rows


def main(paths: list[str]) -> int:
    """Print the goals of some reports together. 1 when a floor that was measured is missed."""
    sections: Sections = {}
    cpus = 1
    for path in paths:
        data = json.loads(Path(path).read_text())
        if not data["judged"]:
            print(f"{path} is of a quick run, whose figures say nothing", file=sys.stderr)
            continue
        sections |= data["sections"]
        cpus = data["cpus"]
    rows = goal_rows(sections, cpus)
    print("| " + " | ".join(COLUMNS) + " |\n" + "| --- " * len(COLUMNS) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    return int(any(row[1] == "floor" and row[-1] == "missed" for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
