"""Point queries a second over TCP, compiled and interpreted, beside Redis GET: Markdown or JSON.

    python bench/queries.py                         three rounds of 3 s each way
    python bench/queries.py --seconds 10 --runs 5 --json

One row by its key, 50 connections x 32 in flight and one call in flight on one connection, closed
loop. Each round measures all ways one after another, so that each has the same machine; ratios are
medians over the rounds. Diptych gets `diptych loadtest`, Redis a load generator of the same make
(`resp.py`); both share the machine with what they load. Without redis-server on the PATH its
columns are left out. Diptych answers with the age of what was read, from an image; Redis answers
from what it writes, and neither writes to a disk.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diptych import App, Db, key
from diptych.testing import running

ROOT = Path(__file__).resolve().parents[1]
ACCOUNTS = 1_000
SHAPES = ((50, 32), (1, 1))
START_S = 10.0
COLUMNS = (
    *("connections x in flight", "way", "calls/s", "calls/s, of Redis", "p50 us", "p50, of Redis"),
    *("p99 us", "staleness p99 ms"),
)
FIGURES = (
    *(("per_s", 0), ("of_redis", 2), ("p50_us", 0), ("p50_of_redis", 2), ("p99_us", 0)),
    ("staleness_p99_ms", 1),
)

app = App("points")


@app.table
class Account:
    id: int = key()
    cash: int = 0


@app.setup
def setup(db: Db) -> None:
    for number in range(1, ACCOUNTS + 1):
        db.account.insert(id=number, cash=1_000)


@app.query(compiled=True)
def compiled(db: Db, account: int) -> int:
    cash: int = db.account[account].cash
    return cash


@app.query
def interpreted(db: Db, account: int) -> int:
    cash: int = db.account[account].cash
    return cash


def main() -> int:
    arguments = parsed()
    rows = []
    with running(app) as server, redis() as port:
        if port is None:
            print("redis-server is not on the PATH: left out", file=sys.stderr)
        for connections, in_flight in SHAPES:
            rounds = [
                measured(arguments, server.address, port, connections, in_flight)
                for _ in range(arguments.runs)
            ]
            rows.append({"connections": connections, "in_flight": in_flight} | told(rounds))
    if arguments.json:
        print(json.dumps({"machine": machine(), "runs": arguments.runs, "rows": rows}))
        return 0
    print(f"{machine()}; medians of {arguments.runs}\n")
    print("| " + " | ".join(COLUMNS) + " |\n" + "| --- " * len(COLUMNS) + "|")
    for row in rows:
        for way, found in row["ways"].items():
            shape = f"{row['connections']} x {row['in_flight']}"
            cells = (shape, way, *(cell(found, *each) for each in FIGURES))
            print("| " + " | ".join(cells) + " |")
    return 0


def cell(found: dict[str, list[float]], name: str, digits: int) -> str:
    """The median, with the least and the most."""
    values = found.get(name)
    if not values:
        return ""
    least, middle, most = (
        f"{value:,.{digits}f}" for value in (min(values), statistics.median(values), max(values))
    )
    return f"{middle} ({least}..{most})" if len(values) > 1 else middle


def measured(
    arguments: argparse.Namespace, address: str, port: int | None, connections: int, in_flight: int
) -> dict[str, dict[str, float]]:
    """One round: what each way gave."""
    shape = ("--connections", str(connections), "--in-flight", str(in_flight))
    seconds = ("--duration", str(arguments.seconds))
    found = {}
    for way in ("compiled", "interpreted"):
        load = run("-m", "diptych.cli", "loadtest", address, "--json", *shape, *seconds)(
            "--call", f"{way} 1..{ACCOUNTS}"
        )
        latency_us = load["transactions_latency_us"]
        found[way] = {
            "per_s": load["transactions_rate"],
            "p50_us": latency_us["p50"],
            "p99_us": latency_us["p99"],
            "staleness_p99_ms": load["server_after"]["queries"]["staleness_us"]["p99"] / 1000,
        }
    if port is not None:
        keys = ("--keys", str(ACCOUNTS))
        found["redis"] = run("-m", "bench.resp", str(port), *shape, *seconds)(*keys)
    return found


def run(*words: str) -> Any:
    """A command of this Python, given its last words: what it tells as JSON."""

    def told_by(*more: str) -> Any:
        command = [sys.executable, *words, *more]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
        return json.loads(done.stdout)

    return told_by


def told(rounds: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Each round's figures, and ratios within it."""
    ways: dict[str, dict[str, list[float]]] = {}
    for way in rounds[0]:
        ways[way] = {name: [each[way][name] for each in rounds] for name in rounds[0][way]}
        if "redis" in rounds[0]:
            for name, share in (("per_s", "of_redis"), ("p50_us", "p50_of_redis")):
                ways[way][share] = [each[way][name] / each["redis"][name] for each in rounds]
    return {"ways": ways}


@contextlib.contextmanager
def redis() -> Iterator[int | None]:
    """A Redis that keeps nothing, on a free port of the loopback; None where there is none."""
    program = shutil.which("redis-server")
    if program is None:
        yield None
        return
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    words = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with subprocess.Popen([program, *words], stdout=subprocess.DEVNULL) as process:
        try:
            wait_for(port)
            yield port
        finally:
            process.terminate()


def wait_for(port: int) -> None:
    until = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)
        else:
            return


def machine() -> str:
    return (
        f"Linux {platform.release()} {platform.machine()}, {os.cpu_count()} CPUs, "
        f"Python {platform.python_version()}"
    )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
