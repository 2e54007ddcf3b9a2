"""Exchange orders a second over TCP, with Python handlers: a Markdown table or JSON.

    python bench/orders.py                        three runs of 6 s each way
    python bench/orders.py --seconds 20 --runs 5 --json

Starts the exchange, then for each run puts the example's flow on it (55 % new limit orders, 35 %
cancels, 10 % immediate-or-cancel), closed loop: once alone, once with query clients that download
books and average prices all the time. Page tracking and syncs are on, the load generator shares the
machine. Reports medians over the runs, and what the server said of pauses and staleness. It has no
data directory, so nothing is durable: bench/durability.py measures that. Absolute figures belong to
the machine and what else it does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))

from diptych.testing import running  # noqa: E402 - the examples come first
from exchange import app  # noqa: E402

QUERY_CONNECTIONS = 4


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
    print(
        "| queries | orders/s | p50 ms | p99 ms | queries/s | pause p50 / p99 ms | pages a sync "
        "| staleness p50 / p99 ms |"
    )
    print("| --- " * 8 + "|")
    for row in rows:
        print(
            f"| {row['query_connections'] or 'none'} | {row['orders_per_s']:,.0f} "
            f"| {row['p50_ms']:.1f} | {row['p99_ms']:.1f} | {row['queries_per_s']:,.0f} "
            f"| {row['pause_p50_ms']:.2f} / {row['pause_p99_ms']:.2f} | {row['pages']:,.0f} "
            f"| {row['staleness_p50_ms']:.1f} / {row['staleness_p99_ms']:.1f} |"
        )
    return 0


def measured(arguments: argparse.Namespace, queries: int) -> dict[str, float]:
    """One run on a server of its own."""
    with running(app) as server:
        load = subprocess.run(
            [
                *(sys.executable, "-m", "diptych.cli", "loadtest", server.address, "--json"),
                *("--mix", "exchange.flow:Flow"),
                *(("--queries", str(queries)) if queries else ()),
                *("--connections", str(arguments.connections)),
                *("--in-flight", str(arguments.in_flight)),
                *("--duration", str(arguments.seconds)),
            ],
            cwd=EXAMPLES,
            stdout=subprocess.PIPE,
            check=True,
        )
    told: dict[str, Any] = json.loads(load.stdout)
    sync = told["server_after"]["writer"]["sync"]
    staleness = told["server_after"]["queries"]["staleness_us"]
    return {
        "orders_per_s": told["transactions_rate"],
        "p50_ms": told["transactions_latency_us"]["p50"] / 1000,
        "p99_ms": told["transactions_latency_us"]["p99"] / 1000,
        "queries_per_s": told["queries_rate"],
        "pause_p50_ms": sync["pause_us"]["p50"] / 1000,
        "pause_p99_ms": sync["pause_us"]["p99"] / 1000,
        "pages": sync["pages_per_sync"]["p50"],
        "staleness_p50_ms": staleness["p50"] / 1000,
        "staleness_p99_ms": staleness["p99"] / 1000,
    }


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    found = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    found["orders_per_s_least"] = min(run["orders_per_s"] for run in runs)
    found["orders_per_s_most"] = max(run["orders_per_s"] for run in runs)
    return found


def machine() -> str:
    return (
        f"Linux {platform.release()} {platform.machine()}, {os.cpu_count()} CPUs, "
        f"Python {platform.python_version()}"
    )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
