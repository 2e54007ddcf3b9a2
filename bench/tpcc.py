"""TPC-C over TCP, one warehouse: compiled, interpreted, and SQLite and PostgreSQL beside it.

    python bench/tpcc.py                                three runs of 8 s of each, in turn
    python bench/tpcc.py --seconds 30 --runs 5 --json
    python bench/tpcc.py --systems compiled --queries 2

A run starts the example, loads it, and puts its terminals' mix on it, closed loop and without
keying or thinking times; with `--queries` also connections that ask for order status and stock
levels all the time. Two of the mix's operations are queries, which here see all that was answered
before. Page tracking and syncs are on, the load generator shares the machine, and the consistency
conditions are checked at the end of each run. SQLite (`tpcc_sqlite`) has no network and no other
process beside it; PostgreSQL (`tpcc_postgres`) is loaded over TCP by as many connections as suit it
best, and left out with a notice where there is none. Reports medians over the runs. With *fsync* an
answer means that its transaction is on the disk below the directory of temporary files (TMPDIR),
and is compared with the compiled lane's that means so, too; else nothing is durable. Absolute
figures belong to the machine and what else it does, and tpmC (new orders entered a minute) is no
result in the sense of the TPC.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import math
import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
sys.path.append(str(Path(__file__).resolve().parent))

import tpcc_postgres
import tpcc_sqlite
from bench.suite.peers import postgres_server
from bench.suite.peers.diptych_peer import NO_CHECKPOINTS

from diptych import App
from diptych.loadtest import LoadSettings
from diptych.testing import running
from tpcc import Scale, app
from tpcc.driver import CYCLE_CALLS, Run, drive

FSYNC = ", fsync"
SYSTEMS = (
    *("compiled", "interpreted", "SQLite", "PostgreSQL"),
    *(f"compiled{FSYNC}", f"PostgreSQL{FSYNC}"),
)
OPERATIONS = ("new_order", "payment", "delivery", "order_status", "stock_level")


def main() -> int:
    arguments = parsed()
    systems = present(arguments.systems)
    runs: dict[str, list[dict[str, float]]] = {system: [] for system in systems}
    for _ in range(arguments.runs):
        for system in systems:
            runs[system].append(measured(system, arguments))
    rows = [
        {"system": system, "runs": arguments.runs}
        | medians(each)
        | ratios(runs.get(f"compiled{FSYNC}" if system.endswith(FSYNC) else "compiled", []), each)
        for system, each in runs.items()
    ]
    if arguments.json:
        print(json.dumps({"machine": machine(), "rows": rows}))
        return 0
    print(f"{machine()}; {arguments.connections} connections x {arguments.in_flight} in flight\n")
    columns = (
        *(
            "system",
            "transactions/s",
            "compiled is",
            "tpmC",
            *(f"{name} p50 / p99 ms" for name in OPERATIONS),
        ),
        *("more queries/s", "staleness p50 / p99 ms", "pause p50 / p99 ms"),
        *("pages a transaction", "conditions"),
    )
    print("| " + " | ".join(columns) + " |\n" + "| --- " * len(columns) + "|")
    for row in rows:
        own = "pause_p50_ms" in row  # what only this server tells of itself
        shown = [
            row["system"],
            spread(row, "transactions_per_s", 0),
            spread(row, "compiled_is", 1),
            f"{row['tpmc']:,.0f}",
            *(f"{row[f'{n}_p50_ms']:.2f} / {row[f'{n}_p99_ms']:.1f}" for n in OPERATIONS),
            f"{row['queries_per_s']:,.0f}" if own else "-",
            *(
                f"{row[f'{what}_p50_ms']:.1f} / {row[f'{what}_p99_ms']:.1f}" if own else "-"
                for what in ("staleness", "pause")
            ),
            f"{row['pages_per_transaction']:.1f}" if own else "-",
            "hold",
        ]
        print("| " + " | ".join(map(str, shown)) + " |")
    return 0


def present(systems: list[str]) -> list[str]:
    """Those that can run here. Says why the others can't."""
    found = [each for each in systems if not each.startswith("PostgreSQL")]
    why = postgres_server.missing()
    if why is None or found == systems:
        return systems
    print(f"PostgreSQL is left out: {why}", file=sys.stderr)
    return found


def measured(system: str, arguments: argparse.Namespace) -> dict[str, float]:
    """One run of one system. Errors: RuntimeError when not all went well."""
    scale = Scale(1, arguments.items, arguments.customers)
    durability = "fsync" if system.endswith(FSYNC) else "none"
    if system == "SQLite":
        figures = tpcc_sqlite.measured(scale, arguments.seconds)
        if broken := figures.pop("broken"):
            raise RuntimeError(f"SQLite: {', '.join(broken)}")
        return figures
    if system.startswith("PostgreSQL"):
        done = tpcc_postgres.measured(scale, arguments.seconds, durability)
        refused = {each.name: each.refused for each in done.operations}
        if done.audit.broken or done.failures or not done.report.clean:
            raise RuntimeError(f"{system}: {done.audit.broken or refused}")
        return figures_of(done)
    return served(
        interpreted(app) if system == "interpreted" else app, scale, durability, arguments
    )


def interpreted(compiled: App) -> App:
    """The same application with no operation compiled."""
    made = copy.copy(compiled)
    made.compiled = False
    made.operations = [dataclasses.replace(each, compiled=False) for each in compiled.operations]
    return made


def served(
    chosen: App, scale: Scale, durability: str, arguments: argparse.Namespace
) -> dict[str, float]:
    """One run on a server of its own."""
    settings = LoadSettings(
        connections=arguments.connections,
        in_flight=arguments.in_flight,
        duration_s=arguments.seconds,
        query_connections=arguments.queries,
        fresh=True,
        cycle_calls=CYCLE_CALLS,
        setup=False,
    )
    with tempfile.TemporaryDirectory() as directory:
        options: dict[str, Any] = {}
        if durability != "none":
            options = NO_CHECKPOINTS | {"data": Path(directory), "durability": durability}
        with running(chosen, **options) as server:
            done = drive(server.address, scale, settings)
    if not done.clean:
        raise RuntimeError("\n".join(done.lines()))
    told: dict[str, Any] = done.as_dict()
    return figures_of(done) | {
        "queries_per_s": told["queries_per_s"],
        "pages_per_sync": told["pages_per_sync"]["p50"],
        "pages_per_transaction": told["pages_per_transaction"],
        "loaded_s": told["loaded_s"],
        **times("pause", told["pause_us"]),
        **times("staleness", done.report.server_after["queries"]["staleness_us"]),
    }


def figures_of(done: Run) -> dict[str, float]:
    """What every system that is loaded over TCP tells."""
    figures = {"transactions_per_s": done.transactions_per_s, "tpmc": done.tpmc}
    latencies_us = {each.name: each.latency_us for each in done.operations}
    for name in OPERATIONS:
        figures |= times(name, latencies_us[name])
    return figures


def times(name: str, found_us: dict[str, Any]) -> dict[str, float]:
    """Two percentiles in ms; not a number where a short run had no such call."""
    return {
        f"{name}_{part}_ms": math.nan if found_us[part] is None else found_us[part] / 1000
        for part in ("p50", "p99")
    }


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    found = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    found["transactions_per_s_least"] = min(run["transactions_per_s"] for run in runs)
    found["transactions_per_s_most"] = max(run["transactions_per_s"] for run in runs)
    return found


def ratios(compiled: list[dict[str, float]], runs: list[dict[str, float]]) -> dict[str, float]:
    """How many times as fast the compiled lane was than this one, in the same round."""
    found = [
        one["transactions_per_s"] / other["transactions_per_s"]
        for one, other in zip(compiled, runs, strict=False)
    ]
    if not found:
        return {}
    return {
        "compiled_is": statistics.median(found),
        "compiled_is_least": min(found),
        "compiled_is_most": max(found),
    }


def spread(row: dict[str, Any], name: str, digits: int) -> str:
    """The median, with the least and the most."""
    if name not in row:
        return ""
    middle, least, most = (f"{row[name + end]:,.{digits}f}" for end in ("", "_least", "_most"))
    return f"{middle} ({least}..{most})" if row["runs"] > 1 else middle


def machine() -> str:
    return (
        f"Linux {platform.release()} {platform.machine()}, {os.cpu_count()} CPUs, "
        f"Python {platform.python_version()}"
    )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--queries", type=int, default=0, help="connections that only ask (0)")
    parser.add_argument("--connections", type=int, default=20)
    parser.add_argument("--in-flight", type=int, default=150)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--customers", type=int, default=3_000, help="of each district")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
