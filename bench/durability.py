"""What durability costs, and what it gives back: Markdown tables or JSON.

    python bench/durability.py                              everything
    python bench/durability.py throughput takeover --json   some of it
    python bench/durability.py --quick                      small, to see that it runs

throughput  exchange orders and toy orders a second with durability none, os and fsync, in turn
            within one run; the toy order also in SQLite (WAL, synchronous=FULL) and, if there is a
            redis-server, in Redis (appendfsync always), see durability_others
restart     from the end of a server with much data to the first answer of the next one
takeover    kill -9 of the writer at that size: how long no transaction was answered, and errors
checkpoint  latency at a fixed rate while a checkpoint of everything is written, and without
replay      transactions a second from the log, against the same ones under load

All processes and the load share the machine. Medians; absolute figures belong to the machine and
its disk, ratios within a table travel. Data is written below --directory.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
sys.path.insert(0, str(EXAMPLES))

from durability_apps import FILL_ROWS, ROW_BYTES, bulky, toy  # noqa: E402
from durability_others import redis_orders_per_s, sqlite_orders_per_s  # noqa: E402

from diptych import App  # noqa: E402 - the examples come first
from diptych.serving.local import Server  # noqa: E402
from diptych.testing import running  # noqa: E402
from diptych_client import DiptychError  # noqa: E402
from exchange import app as exchange  # noqa: E402

MODES = ("none", "os", "fsync")
EXCHANGE = ("--mix", "exchange.flow:Flow")
TOY = ("--call", "place 1..1000 100 5")
NO_CHECKPOINTS = {"checkpoint_interval_s": 1e6, "checkpoint_after_bytes": 1 << 40}
CLIENTS = 20
REPLAYED = re.compile(r"replayed (\d+) transactions, .* in ([\d.]+) s")
"""What a start logs."""
Figures = dict[str, Any]


# Parts ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def data_directory(arguments: argparse.Namespace) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=arguments.directory, prefix="durability-") as path:
        yield Path(path)


def load_on(server: Server, *flags: str, arguments: argparse.Namespace) -> subprocess.Popen[bytes]:
    """The load generator, in a process of its own."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "diptych.cli", "loadtest", server.address, "--json"),
            *("--connections", str(arguments.connections)),
            *("--in-flight", str(arguments.in_flight)),
            *flags,
        ],
        cwd=EXAMPLES,
        stdout=subprocess.PIPE,
    )


def report_of(load: subprocess.Popen[bytes]) -> Figures:
    said, _ = load.communicate()
    if load.returncode:
        raise RuntimeError(f"the load failed: {said.decode()}")
    report: Figures = json.loads(said)
    return report


def filled(arguments: argparse.Namespace, path: Path) -> int:
    """Make a directory with so much data, stopped in order. Returns the number of rows."""
    rows = max(FILL_ROWS, arguments.mebibytes * (1 << 20) // ROW_BYTES)
    with running(bulky, data=path, readers=1, transaction_ms=0) as server:
        with server.client(timeout=120) as client:
            while client.fill(FILL_ROWS) < rows:
                continue
        server.stop()
    return rows


def first_answer_s(app: App, path: Path, item: int | None, **settings: Any) -> float:
    """From nothing to the answer of a transaction, or of a ping; the server is killed then."""
    began = time.monotonic()
    with running(app, data=path, readers=1, **settings) as server:
        with server.client(timeout=120) as client:
            if item is None:
                client.ping()
            else:
                client.change(item)
            took = time.monotonic() - began
        killed(server)
    return took


def killed(server: Server) -> None:
    """Everything at once, as when the machine loses power but for its memory."""
    os.kill(server.pid, signal.SIGKILL)
    server.wait()


# Throughput -------------------------------------------------------------------------------------


def throughput(arguments: argparse.Namespace) -> Figures:
    """Rounds of every way in turn. Rates by subject and mode, and each round's share of `none`."""
    rounds: dict[str, dict[str, list[float]]] = {"exchange": {}, "toy": {}, "others": {}}
    p99_ms: dict[str, list[float]] = {}

    def keep(subject: str, way: str, rate: float) -> None:
        rounds[subject].setdefault(way, []).append(rate)
        print(f"{subject}, {way}: {rate:,.0f} /s", file=sys.stderr)

    batch = arguments.connections * arguments.in_flight
    for turn in range(arguments.rounds):
        for subject, app, flags in (("exchange", exchange, EXCHANGE), ("toy", toy, TOY)):
            for mode in MODES if turn % 2 == 0 else reversed(MODES):
                report = orders(arguments, app, flags, mode)
                keep(subject, mode, report["transactions_rate"])
                latency_us = report["transactions_latency_us"]
                p99_ms.setdefault(f"{subject} {mode}", []).append(latency_us["p99"] / 1000)
        for size in (1, batch):
            with data_directory(arguments) as path:
                rate = sqlite_orders_per_s(path, arguments.seconds, size)
                keep("others", f"SQLite, {size} a commit", rate)
        with data_directory(arguments) as path:
            found = redis_orders_per_s(
                path, arguments.seconds, arguments.connections, arguments.in_flight
            )
            if found is not None:
                keep("others", "Redis, appendfsync always", found)
    if not any("Redis" in way for way in rounds["others"]):
        print("no redis-server on the PATH: Redis is left out", file=sys.stderr)
    rows = []
    for subject, ways in rounds.items():
        for way, rates in ways.items():
            base = ways.get("none")
            shares = [rate / none for rate, none in zip(rates, base, strict=True)] if base else []
            p99 = p99_ms.get(f"{subject} {way}")
            rows.append(
                {
                    "subject": subject,
                    "way": way,
                    "orders_per_s": statistics.median(rates),
                    "least": min(rates),
                    "most": max(rates),
                    "share": statistics.median(shares) if shares else None,
                    "p99_ms": statistics.median(p99) if p99 else None,
                }
            )
    return {"rows": rows}


def orders(arguments: argparse.Namespace, app: App, flags: tuple[str, ...], mode: str) -> Figures:
    """One run on a server of its own, with a directory of its own."""
    with (
        data_directory(arguments) as path,
        running(app, data=path, durability=mode, **NO_CHECKPOINTS) as server,
    ):
        duration = ("--duration", str(arguments.seconds), "--warmup", str(arguments.warmup))
        report = report_of(load_on(server, *flags, *duration, arguments=arguments))
        killed(server)
        return report


# Restart, takeover ------------------------------------------------------------------------------


def restart(arguments: argparse.Namespace) -> Figures:
    """Seconds to the first answer: with all data in a checkpoint, and in an empty server."""
    with data_directory(arguments) as path, data_directory(arguments) as empty:
        rows = filled(arguments, path)
        with running(bulky, data=empty, readers=1) as server:
            server.stop()
        full_s, empty_s = [], []
        for _ in range(arguments.rounds):
            full_s.append(first_answer_s(bulky, path, rows))
            empty_s.append(first_answer_s(bulky, empty, None))
    return {
        "mebibytes": rows * ROW_BYTES >> 20,
        "first_answer_s": statistics.median(full_s),
        "most_s": max(full_s),
        "empty_s": statistics.median(empty_s),
    }


def takeover(arguments: argparse.Namespace) -> Figures:
    """The writer is killed under load; each time the longest silence is noted."""
    with data_directory(arguments) as path:
        rows = filled(arguments, path)
        with running(bulky, data=path) as server:
            silences, errors, answers = asyncio.run(killings(server, rows, arguments.kills))
            restarts = server.client().info()["restarts"]["writer"]
    if restarts != arguments.kills:
        raise RuntimeError(f"{arguments.kills} kills, and {restarts} new writers")
    return {
        "mebibytes": rows * ROW_BYTES >> 20,
        "kills": arguments.kills,
        "silence_ms": statistics.median(silences) * 1000,
        "silence_most_ms": max(silences) * 1000,
        "answers": answers,
        "errors": dict(errors),
    }


async def killings(server: Server, rows: int, kills: int) -> tuple[list[float], Counter[str], int]:
    """Clients at work all the time. For each kill the time from it to the next answer, in s."""
    errors: Counter[str] = Counter()
    answered_at = [0.0, 0.0]  # when, and how many
    over = asyncio.Event()

    async def work(number: int) -> None:
        item = number
        async with server.async_client() as client:
            while not over.is_set():
                item = (item * 7919 + 13) % rows + 1
                try:
                    await client.change(item)
                except DiptychError as error:
                    errors[error.code] += 1
                else:
                    answered_at[0] = time.monotonic()
                    answered_at[1] += 1

    workers = [asyncio.create_task(work(number)) for number in range(CLIENTS)]
    silences = []
    for _ in range(kills):
        await asyncio.sleep(1.0)
        (writer,) = server.pids["writer"]
        count = answered_at[1]
        at = time.monotonic()
        os.kill(writer, signal.SIGKILL)
        # What the gateway had already is no answer of the new writer: wait until there is one.
        while server.pids.get("writer", [writer]) == [writer] or answered_at[1] < count + CLIENTS:
            await asyncio.sleep(0.001)
            if time.monotonic() > at + 60:
                raise RuntimeError(f"no answers: {errors}\n{server.log()}")
        silences.append(answered_at[0] - at)
    over.set()
    await asyncio.gather(*workers)
    return silences, errors, int(answered_at[1])


# Checkpoints ------------------------------------------------------------------------------------


def checkpoint(arguments: argparse.Namespace) -> Figures:
    """p99 at a fixed rate, quiet and while every page is written to a checkpoint, in turn."""
    with data_directory(arguments) as path:
        rows = filled(arguments, path)
        settings = NO_CHECKPOINTS | {"transaction_ms": 0}
        with running(bulky, data=path, readers=1, **settings) as server:
            rate = arguments.rate or half_of_most(server, rows, arguments)
            quiet, busy, took_s = [], [], []
            for _ in range(arguments.rounds):
                quiet.append(at_rate(server, rows, rate, arguments))
                change_everything(server, rows)
                with ThreadPoolExecutor(1) as beside:
                    asked = beside.submit(write_checkpoint, server)
                    busy.append(at_rate(server, rows, rate, arguments))
                    if asked.done():
                        print("the checkpoint was done before the load was", file=sys.stderr)
                    took_s.append(asked.result())
    ratios = [with_it / without for with_it, without in zip(busy, quiet, strict=True)]
    return {
        "mebibytes": rows * ROW_BYTES >> 20,
        "transactions_per_s": rate,
        "quiet_p99_ms": statistics.median(quiet),
        "busy_p99_ms": statistics.median(busy),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "checkpoint_s": statistics.median(took_s),
    }


def write_checkpoint(server: Server) -> float:
    """Ask for one, and wait until it is there: how long that took, in s."""
    began = time.monotonic()
    with server.client(timeout=600) as client:
        client.admin({"do": "checkpoint"})
    return time.monotonic() - began


def half_of_most(server: Server, rows: int, arguments: argparse.Namespace) -> float:
    flags = ("--call", f"change 1..{rows}", "--duration", str(arguments.seconds))
    report = report_of(load_on(server, *flags, arguments=arguments))
    return float(round(report["transactions_rate"] / 2))


def at_rate(server: Server, rows: int, rate: float, arguments: argparse.Namespace) -> float:
    """p99 in ms."""
    flags = ("--call", f"change 1..{rows}", "--duration", str(arguments.seconds))
    report = report_of(load_on(server, *flags, "--rate", str(rate), arguments=arguments))
    p99_us: float = report["transactions_latency_us"]["p99"]
    return p99_us / 1000


def change_everything(server: Server, rows: int) -> None:
    with server.client(timeout=120) as client:
        for first in range(1, rows + 1, FILL_ROWS):
            client.change_all(first, min(first + FILL_ROWS, rows + 1))
        client.total()  # so an image has it


# Replay -----------------------------------------------------------------------------------------


def replay(arguments: argparse.Namespace) -> Figures:
    """How fast the log of a load is run again, against the load itself."""
    live, again = [], []
    for _ in range(arguments.rounds):
        with data_directory(arguments) as path:
            with running(exchange, data=path, **NO_CHECKPOINTS) as server:
                duration = ("--duration", str(arguments.seconds), "--warmup", "0")
                report = report_of(load_on(server, *EXCHANGE, *duration, arguments=arguments))
                killed(server)
            live.append(report["transactions_rate"])
            with running(exchange, data=path, **NO_CHECKPOINTS) as server:
                said = REPLAYED.search(server.log())
                killed(server)
            if said is None:
                raise RuntimeError("nothing was replayed")
            again.append(int(said[1]) / float(said[2]))
    return {
        "executed_per_s": statistics.median(live),
        "replayed_per_s": statistics.median(again),
        "ratio": statistics.median(b / a for a, b in zip(live, again, strict=True)),
    }


# Output -----------------------------------------------------------------------------------------

SECTIONS: dict[str, Callable[[argparse.Namespace], Figures]] = {
    "throughput": throughput,
    "restart": restart,
    "takeover": takeover,
    "checkpoint": checkpoint,
    "replay": replay,
}


def main() -> int:
    arguments = parsed()
    figures = {}
    for section in arguments.sections or SECTIONS:
        figures[section] = SECTIONS[section](arguments)
        if not arguments.json:
            print(f"## {section}\n")
            print("\n".join(table(figures[section])), end="\n\n", flush=True)
    if arguments.json:
        print(json.dumps({"machine": machine()} | figures))
    else:
        print(machine())
    return 0


def table(figures: Figures) -> Iterator[str]:
    """One row, or those of `rows`, under the names of the figures."""
    rows = figures.get("rows", [figures])
    yield "| " + " | ".join(rows[0]) + " |"
    yield "| --- " * len(rows[0]) + "|"
    for row in rows:
        yield "| " + " | ".join(shown(value) for value in row.values()) + " |"


def shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    return "" if value is None else str(value or "none")


def machine() -> str:
    return (
        f"Linux {platform.release()} {platform.machine()}, {os.cpu_count()} CPUs, "
        f"Python {platform.python_version()}"
    )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--seconds", type=float, default=6.0, help="of load, each time (6)")
    parser.add_argument("--warmup", type=float, default=1.0, help="before it, not counted (1)")
    parser.add_argument("--rounds", type=int, default=5, help="of every way (5)")
    parser.add_argument("--kills", type=int, default=5, help="of the writer, for takeover (5)")
    parser.add_argument("--mebibytes", type=int, default=1024, help="of data (1024)")
    parser.add_argument("--rate", type=float, help="for checkpoint; left out: half of the most")
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--directory", type=Path, help="where data is written (temporary files)")
    parser.add_argument("--quick", action="store_true", help="small, to see that it runs")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    unknown = set(arguments.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"no such section: {', '.join(sorted(unknown))}")
    if arguments.quick:
        arguments.seconds, arguments.rounds, arguments.kills = 0.5, 1, 2
        arguments.mebibytes, arguments.connections, arguments.warmup = 32, 4, 0.1
    return arguments


if __name__ == "__main__":
    sys.exit(main())
