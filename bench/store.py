"""What the store's operations cost, side by side in one run, and how they grow: Markdown or JSON.

    python bench/store.py                     100,000 rows, 21 rounds; growth from 10^3 to 10^6 rows
    python bench/store.py --growth 7          growth to 10^7 rows; needs 4 GiB of free memory
    python bench/store.py --quick --json      a size that says nothing

Systems and operations take turns within each round, and medians over the rounds are told, so what
else the machine does falls on all of them. "read" is a lookup by key and one column; "update" one
column of a row at hand, with undo; inserts keep two ordered indexes, by random or by ascending
values; "step" is the next row of an ordered range. A dict keeps no order and undoes nothing;
SortedDict, with two of them as indexes, undoes nothing; SQLite is in memory, with prepared
statements executed one by one, in one transaction. Diptych runs ten writes a transaction, in this
process, without page tracking.

The growth table has Diptych alone: kernels from compiled loops, and memory per row beside the raw
bytes of its four columns.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from store_systems import (
    CompiledLane,
    Diptych,
    Kernels,
    PlainDict,
    Rows,
    Sorted,
    SQLite,
)

from diptych.memory.machine import memory_limits
from diptych.store.fill import table_figures

OPERATIONS = ("read", "update", "insert random", "insert ascending", "step", "delete")
GOALS_NS = {
    "interpreted": {"read": 1_000, "update": 500, "insert random": 6_000, "step": 1_000},
    "compiled": {"read": 100, "update": 20, "insert random": 500, "step": 30},
}
GROUPS = 1_000
PRICES = 1 << 31
STEPS = 1_000  # of one walk
RAW_BYTES = 4 * 8
BYTES_PER_ROW_MAX = 300  # what a row may take here, generously
CALLS = {"read": 10_000, "update": 1_000, "insert random": 100, "insert ascending": 100}


def main() -> int:
    arguments = parsed(sys.argv[1:])
    told: dict[str, Any] = {
        "machine": {
            "kernel": platform.release(),
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
        },
        "rows": arguments.rows,
        "rounds": arguments.rounds,
        "interpreted_ns": compared(
            [Diptych(), PlainDict(), Sorted(), SQLite()], arguments.rows, arguments
        ),
        "compiled_ns": compared([Kernels()], arguments.rows, arguments)
        | compiled_lane(arguments.rows, arguments),
        "growth": [grown(10**power, arguments) for power in powers(arguments.growth)],
    }
    if arguments.json:
        print(json.dumps(told, indent=2))
        return 0
    for lane, goals in GOALS_NS.items():
        print(f"\n{lane.capitalize()}, {arguments.rows:,} rows, ns an operation:\n")
        print(operations_table(told[f"{lane}_ns"], goals))
    print(f"\nGrowth, ns an operation, and bytes a row ({RAW_BYTES} raw):\n")
    print(growth_table(told["growth"]))
    return 0


def parsed(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000, help="of the comparison")
    parser.add_argument("--batch", type=int, default=1_000, help="operations timed at once")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument(
        "--growth", type=int, default=6, metavar="POWER", help="most rows: 10^POWER, 3 to 7"
    )
    parser.add_argument("--quick", action="store_true", help="a size that says nothing")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(given)
    if arguments.quick:
        arguments.rows, arguments.batch, arguments.rounds, arguments.growth = 2_000, 300, 2, 4
    return arguments


def powers(last: int) -> list[int]:
    """Powers of ten to grow to, without those that memory has no room for."""
    chosen = []
    for power in range(3, last + 1):
        needed = 10**power * BYTES_PER_ROW_MAX
        if needed > 0.8 * memory_limits().usable_bytes:
            print(f"10^{power} rows left out: they need {needed >> 20} MiB", file=sys.stderr)
        else:
            chosen.append(power)
    return chosen


def some_rows(random: np.random.Generator, first: int, count: int, *, ascending: bool) -> Rows:
    """Rows with ids from `first` on, in random order unless everything ascends."""
    ids = np.arange(first, first + count)
    if ascending:
        return np.column_stack((ids, ids + PRICES, ids + PRICES, ids * 0))
    random.shuffle(ids)
    prices = random.integers(0, PRICES, count)
    return np.column_stack((ids, random.integers(0, GROUPS, count), prices, ids * 0))


class Work:
    """What the operations of one turn are done with, the same in all systems."""

    def __init__(self, random: np.random.Generator, rows: int, batch: int) -> None:
        self.ids = random.integers(0, rows, batch)
        self.starts = random.integers(0, PRICES // 2, max(1, batch // STEPS))
        self.by_random = some_rows(random, rows, batch, ascending=False)
        self.ascending = some_rows(random, rows, batch, ascending=True)


def timed(operation: Callable[..., Any], *arguments: Any) -> float:
    began = time.perf_counter()
    operation(*arguments)
    return time.perf_counter() - began


def compared(
    systems: Sequence[Any], rows: int, arguments: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Median ns of each operation in each system, by the system's name."""
    random = np.random.default_rng(1)
    loaded = some_rows(random, 0, rows, ascending=False)
    for system in systems:
        system.insert(loaded)
    found: dict[str, dict[str, list[float]]] = {system.name: {} for system in systems}
    for turn in range(arguments.rounds + 1):
        work = Work(random, rows, arguments.batch)
        for operation in OPERATIONS:
            for system in systems:
                measured = measure(system, operation, work)
                if turn > 0 and measured is not None:  # the first turn compiles
                    found[system.name].setdefault(operation, []).append(measured * 1e9)
    check([system for system in systems if isinstance(system, Diptych)], rows)
    return {
        name: {operation: statistics.median(times) for operation, times in measured.items()}
        for name, measured in found.items()
    }


def measure(system: Any, operation: str, work: Work) -> float | None:
    """Seconds an operation takes, None where the system has no such thing. Leaves the rows."""
    ids = system.given(work.ids)
    if operation == "read":
        return timed(system.read, ids) / len(ids)
    if operation == "update":
        seconds: float = system.update(ids)
        return seconds / len(ids)
    if operation == "step":
        if not hasattr(system, "walk"):
            return None
        starts = system.given(work.starts)
        began = time.perf_counter()
        steps = system.walk(starts, STEPS)
        return (time.perf_counter() - began) / steps
    rows = work.ascending if operation == "insert ascending" else work.by_random
    doomed = system.given(rows[:, 0].copy())
    inserting = timed(system.insert, rows) / len(rows)
    deleting = timed(system.delete, doomed) / len(rows)
    return deleting if operation == "delete" else inserting


def check(systems: Sequence[Diptych], rows: int) -> None:
    """What was timed has really happened. Errors: CorruptionError, AssertionError."""
    for system in systems:
        system.engine.verify()
        assert len(system.engine.db.item) == rows
        system.close()


def compiled_lane(rows: int, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Median ns of each operation in loops of compiled handlers."""
    system = CompiledLane()
    for first in range(0, rows, 100):
        system.run("insert_some", first, first + 1, False, min(100, rows - first))
    found: dict[str, list[float]] = {operation: [] for operation in OPERATIONS}
    stride = int(rows * 0.618) | 1
    for turn in range(arguments.rounds):
        first = turn * 7 % rows
        for operation, name in (("read", "read_some"), ("update", "update_some")):
            count = CALLS[operation]
            seconds = timed(system.run, name, first, stride, rows, count)
            found[operation].append(seconds / count * 1e9)
        for operation in ("insert random", "insert ascending"):
            inserting, deleting = [], []
            for at in range(rows, rows + arguments.batch, CALLS[operation]):
                count, rising = CALLS[operation], operation == "insert ascending"
                inserting.append(timed(system.run, "insert_some", at, at + turn, rising, count))
            for at in range(rows, rows + arguments.batch, CALLS[operation]):
                deleting.append(timed(system.run, "delete_some", at, CALLS[operation]))
            found[operation].append(statistics.median(inserting) / CALLS[operation] * 1e9)
            if operation == "insert random":
                found["delete"].append(statistics.median(deleting) / CALLS[operation] * 1e9)
        began = time.perf_counter()
        steps = system.run("walk_some", first * 1_000, min(10 * STEPS, rows // 2))
        found["step"].append((time.perf_counter() - began) / steps * 1e9)
    check([system], rows)
    return {system.name: {name: statistics.median(times) for name, times in found.items()}}


def grown(rows: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One size: times of kernels and of Python handlers, and memory a row."""
    random = np.random.default_rng(2)
    system = Kernels()
    system.insert(some_rows(random, 0, rows, ascending=False))
    told: dict[str, Any] = {"rows": rows, **memory(system)}
    ways = {"compiled": system, "interpreted": Diptych(system)}
    found: dict[str, list[float]] = {}
    for turn in range(arguments.rounds + 1):
        work = Work(random, rows, min(arguments.batch, rows))
        for way, same in ways.items():
            for operation in ("read", "insert random", "step"):
                seconds = measure(same, operation, work)
                if turn > 0 and seconds is not None:
                    found.setdefault(f"{way} {operation}", []).append(seconds * 1e9)
    told["ns"] = {name: statistics.median(times) for name, times in found.items()}
    check([system], rows)
    return told


def memory(system: Diptych) -> dict[str, float]:
    """Bytes a row: what is allocated, and its parts as far as they are used."""
    figures = table_figures(system.words, system.engine.layout)["item"]
    rows = figures["rows"]
    indexes_bytes = sum(index["memory_bytes"] for index in figures["indexes"].values())
    nodes_bytes = sum(index["nodes"] * 1024 for index in figures["indexes"].values())
    return {
        "columns": RAW_BYTES,
        "liveness": 8,
        "hash": 16,  # a bucket and a link of the chain
        "allocated_without_indexes": (figures["memory_bytes"] - indexes_bytes) / rows,
        "indexes_used": nodes_bytes / rows,
        "indexes_allocated": indexes_bytes / rows,
    }


def operations_table(systems: dict[str, dict[str, float]], goals: dict[str, int]) -> str:
    names = list(systems)
    lines = [
        "| operation | " + " | ".join(names) + " | goal |",
        "| --- |" + " ---: |" * (len(names) + 1),
    ]
    for operation in OPERATIONS:
        cells = [
            f"{systems[name][operation]:,.0f}" if operation in systems[name] else "-"
            for name in names
        ]
        goal = f"{goals[operation]:,}" if operation in goals else ""
        lines.append(f"| {operation} | " + " | ".join(cells) + f" | {goal} |")
    return "\n".join(lines)


def growth_table(sizes: list[dict[str, Any]]) -> str:
    heads = list(sizes[0]["ns"]) if sizes else []
    parts = (
        "columns",
        "liveness",
        "hash",
        "allocated_without_indexes",
        "indexes_used",
        "indexes_allocated",
    )
    titles = [*heads, *(part.replace("_", " ") for part in parts)]
    lines = ["| rows | " + " | ".join(titles) + " |", "| ---: |" + " ---: |" * len(titles)]
    for size in sizes:
        cells = [f"{size['ns'][head]:,.0f}" for head in heads]
        cells += [f"{size[part]:,.1f}" for part in parts]
        lines.append(f"| {size['rows']:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
