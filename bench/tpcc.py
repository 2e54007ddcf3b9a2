"""TPC-C over TCP, one warehouse, with Python handlers: a Markdown table or JSON.

    python bench/tpcc.py                                three runs of 8 s each way
    python bench/tpcc.py --seconds 30 --runs 5 --json

Each run starts the example, loads it, and puts its terminals' mix on it, closed loop and without
keying or thinking times: once alone, once with connections that ask for order status and stock
levels all the time. Two of the mix's operations are queries, which here see all that was answered
before. Page tracking and syncs are on, the load generator shares the machine. Reports medians over
the runs; nothing is durable. Absolute figures belong to the machine and what else it does, and
tpmC (new orders entered a minute) is no result in the sense of the TPC.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from diptych.loadtest import LoadSettings
from diptych.testing import running
from tpcc import Scale, app
from tpcc.driver import CYCLE_CALLS, drive

QUERY_CONNECTIONS = 2
OPERATIONS = ("new_order", "payment", "delivery", "order_status", "stock_level")


def main() -> int:
    arguments = parsed()
    rows = []
    for queries in (0, QUERY_CONNECTIONS):
        runs = [measured(arguments, queries) for _ in range(arguments.runs)]
        rows.append({"query_connections": queries, "runs": arguments.runs} | medians(runs))
    if arguments.json:
        print(json.dumps({"machine": machine(), "rows": rows}))
        return 0
    print(f"{machine()}; {arguments.connections} connections x {arguments.in_flight} in flight\n")
    columns = (
        *(
            "more queries",
            "transactions/s",
            "tpmC",
            *(f"{name} p50 / p99 ms" for name in OPERATIONS),
        ),
        *("queries/s", "pages a sync", "pages a transaction", "pause p50 ms"),
    )
    print("| " + " | ".join(columns) + " |\n" + "| --- " * len(columns) + "|")
    for row in rows:
        shown = [
            row["query_connections"] or "none",
            f"{row['transactions_per_s']:,.0f}",
            f"{row['tpmc']:,.0f}",
            *(f"{row[f'{n}_p50_ms']:.1f} / {row[f'{n}_p99_ms']:.1f}" for n in OPERATIONS),
            f"{row['queries_per_s']:,.0f}",
            f"{row['pages_per_sync']:,.0f}",
            f"{row['pages_per_transaction']:.1f}",
            f"{row['pause_p50_ms']:.2f}",
        ]
        print("| " + " | ".join(map(str, shown)) + " |")
    return 0


def measured(arguments: argparse.Namespace, queries: int) -> dict[str, float]:
    """One run on a server of its own. Errors: RuntimeError when not all went well."""
    settings = LoadSettings(
        connections=arguments.connections,
        in_flight=arguments.in_flight,
        duration_s=arguments.seconds,
        query_connections=queries,
        fresh=True,
        cycle_calls=CYCLE_CALLS,
        setup=False,
    )
    scale = Scale(1, arguments.items, arguments.customers)
    with running(app) as server:
        done = drive(server.address, scale, settings)
    if not done.clean:
        raise RuntimeError("\n".join(done.lines()))
    told: dict[str, Any] = done.as_dict()
    figures: dict[str, float] = {
        "transactions_per_s": told["transactions_per_s"],
        "tpmc": told["tpmc"],
        "queries_per_s": told["queries_per_s"],
        "pages_per_sync": told["pages_per_sync"]["p50"],
        "pages_per_transaction": told["pages_per_transaction"],
        "pause_p50_ms": told["pause_us"]["p50"] / 1000,
        "loaded_s": told["loaded_s"],
    }
    for name in OPERATIONS:
        latency_us = told["operations"][name]["latency_us"]
        figures[f"{name}_p50_ms"] = latency_us["p50"] / 1000
        figures[f"{name}_p99_ms"] = latency_us["p99"] / 1000
    return figures


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def machine() -> str:
    return (
        f"Linux {platform.release()} {platform.machine()}, {os.cpu_count()} CPUs, "
        f"Python {platform.python_version()}"
    )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--connections", type=int, default=10)
    parser.add_argument("--in-flight", type=int, default=16)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--customers", type=int, default=3_000, help="of each district")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
