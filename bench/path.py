"""Where a transaction's CPU time goes between the client and the engine: Markdown tables or JSON.

    python bench/path.py                      the exchange, and an engine that answers at once
    python bench/path.py echo --shape 50x32 --durability none os fsync
    python bench/path.py echo exchange --shape 8x500 --latency --json

echo      an engine that answers every order without running it: what is left is the path, that is
          client, gateway, the writer's loop, log and sockets
toy       the toy order of bench/durability_apps.py
exchange  the exchange's flow
tpcc      TPC-C's mix at full size, one warehouse; an order here is a transaction of the writer,
          and what the mix's queries cost (8 calls in a hundred) is counted in with them

For each way it starts a server, puts a closed loop of load on it, and reads from /proc, in the
middle of the load, how much CPU time every process used, of that in the kernel, and how often it
went to sleep or was put aside. Page tracking and syncs are on; the load generator shares the
machine. `--latency` adds one call in flight on one connection. CPU time per order says more than
orders/s where other work goes on. CPU time is exact; the kernel's share of it is told by clock
ticks, which miss much of short system calls, so read it as a lower bound.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import crc32c
import numba
import numpy as np
import numpy.typing as npt

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))

from durability_apps import toy  # noqa: E402

from diptych import App  # noqa: E402 - the examples come first
from diptych.control_page import Word  # noqa: E402
from diptych.engine.engine import Engine  # noqa: E402
from diptych.serving.local import Server  # noqa: E402
from diptych.store import words as at  # noqa: E402
from diptych.testing import running  # noqa: E402
from diptych_client import Client  # noqa: E402
from diptych_client.protocol import HEADER_BYTES, Kind  # noqa: E402
from exchange import app as exchange  # noqa: E402
from tpcc import Scale  # noqa: E402
from tpcc import app as tpcc  # noqa: E402
from tpcc.driver import TIMEOUT_S, populate  # noqa: E402

TOY = ("--call", "place 1..1000 100 5")
SUBJECTS: dict[str, tuple[App, tuple[str, ...]]] = {
    "echo": (toy, TOY),
    "toy": (toy, TOY),
    "exchange": (exchange, ("--mix", "exchange.flow:Flow")),
    "tpcc": (tpcc, ("--mix", "tpcc.terminals:Terminals", "--no-setup", "--fresh")),
}
ANSWER = (0xCE, 0, 1, 0x86, 0xA0)  # a number, as an order's

LOOK_S = 0.15
STEADY_LOOKS = 8  # one after the other that find more orders: no setup takes so long
NO_CHECKPOINTS = {"checkpoint_interval_s": 1e6, "checkpoint_after_bytes": 1 << 40}
Figures = dict[str, Any]


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def echoed(
    frames: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    first: int,
    stop: int,
    sequence: int,
    out: npt.NDArray[np.uint8],
) -> int:
    """A result to each of these frames, in `out`; returns its length."""
    size = 0
    for number in range(first, stop):
        start = starts[number]
        out[size : size + HEADER_BYTES] = frames[start : start + HEADER_BYTES]
        out[size : size + 4] = 0
        out[size] = len(ANSWER)
        out[size + 4] = RESULT
        for i in range(8):
            out[size + 16 + i] = ((sequence + number - first) >> (8 * i)) & 255
        for i in range(len(ANSWER)):
            out[size + HEADER_BYTES + i] = ANSWER[i]
        size += HEADER_BYTES + len(ANSWER)
    return size


RESULT = int(Kind.RESULT)


def answer_at_once(
    engine: Engine,
    frames: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    first: int,
    count: int,
    deadline_ns: int,
) -> int:
    """In place of `Engine.run`, where nothing is to be run."""
    sequence = engine.sequence
    out = np.empty((count - first) * (HEADER_BYTES + len(ANSWER)), np.uint8)
    size = echoed(frames, starts, first, count, sequence + 1, out)
    engine.replies += out.data[:size]
    engine.outcome = crc32c.crc32c(out.data[:size], engine.outcome)
    engine.region.words[at.SEQUENCE] = sequence + count - first
    engine.control[Word.SEQUENCE] = sequence + count - first
    engine.committed += count - first
    return count - first


@contextlib.contextmanager
def answering(subject: str) -> Iterator[None]:
    """While a server is started. Logins are the engine's own business and go on as ever."""
    run = Engine.run
    if subject == "echo":
        Engine.run = answering_or(run)  # type: ignore[method-assign]
    try:
        yield
    finally:
        Engine.run = run  # type: ignore[method-assign]


def answering_or(run: Any) -> Any:
    def chosen(
        engine: Engine,
        frames: npt.NDArray[np.uint8],
        starts: npt.NDArray[np.int64],
        first: int,
        count: int,
        deadline_ns: int,
    ) -> int:
        if frames[starts[first] + 7] >> 6:  # number of an operation of the server's own
            stop = first + 1
            return int(run(engine, frames, starts, first, stop, deadline_ns))
        return answer_at_once(engine, frames, starts, first, count, deadline_ns)

    return chosen


@dataclass
class Used:
    """What a process used up to now, all its threads together."""

    cpu_ns: int = 0
    kernel_ns: int = 0
    waited_ns: int = 0  # ready, but another one ran
    slept: int = 0  # times that it went to sleep
    preempted: int = 0

    def __sub__(self, other: Used) -> Used:
        return Used(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(Used)))

    def __add__(self, other: Used) -> Used:
        return Used(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Used)))


def used_by(pid: int) -> Used:
    used = Used()
    user_ticks, kernel_ticks = (
        int(field)
        for field in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    )
    for task in Path(f"/proc/{pid}/task").iterdir():
        cpu_ns, waited_ns, _ = map(int, (task / "schedstat").read_text().split())
        status = dict(
            line.split(":", 1) for line in (task / "status").read_text().splitlines() if ":" in line
        )
        used += Used(
            cpu_ns,
            0,
            waited_ns,
            int(status["voluntary_ctxt_switches"]),
            int(status["nonvoluntary_ctxt_switches"]),
        )
    share = kernel_ticks / max(1, user_ticks + kernel_ticks)
    used.kernel_ns = round(used.cpu_ns * share)
    return used


def measured(arguments: argparse.Namespace, subject: str, shape: str, mode: str) -> Figures:
    """One server, one load."""
    app, flags = SUBJECTS[subject]
    connections, in_flight = shape.split("x")
    with contextlib.ExitStack() as stack:
        settings: Figures = {"readers": 1}
        if mode != "no data":
            path = stack.enter_context(
                tempfile.TemporaryDirectory(dir=arguments.directory, prefix="path-")
            )
            settings |= {"data": path, "durability": mode, **NO_CHECKPOINTS}
        stack.enter_context(answering(subject))
        server = stack.enter_context(running(app, **settings))
        if subject == "tpcc":
            with Client(server.address, timeout=TIMEOUT_S) as client:
                populate(client, Scale())
        latency_us = loaded(server, flags, "1", "1", 2.0)["p50"] if arguments.latency else None
        load = started(
            server,
            flags,
            connections,
            in_flight,
            arguments.seconds + arguments.warmup + arguments.slack + LOOK_S * STEADY_LOOKS,
        )
        figures = watched(server, load, arguments.seconds, arguments.warmup)
        report = report_of(load)
        return {
            "subject": subject,
            "shape": shape,
            "durability": mode,
            **figures,
            "p50_ms": report["transactions_latency_us"]["p50"] / 1000,
            "p99_ms": report["transactions_latency_us"]["p99"] / 1000,
            "alone_p50_us": latency_us,
        }


def watched(
    server: Server, load: subprocess.Popen[bytes], seconds: float, warmup_s: float
) -> Figures:
    """Of the middle of a load: orders/s, and what each process used per order."""
    with server.client() as client:
        wait_for_load(client, load)
        time.sleep(warmup_s)
        roles = {"client": [load.pid]} | server.pids
        pids = {role: roles[role] for role in ("client", "gateway", "writer", "reader")}
        began = [{pid: used_by(pid) for of in pids.values() for pid in of}, orders(client.info())]
        began_ns = time.monotonic_ns()
        time.sleep(seconds)
        ended = [{pid: used_by(pid) for of in pids.values() for pid in of}, orders(client.info())]
        took_ns = time.monotonic_ns() - began_ns
    count = ended[1] - began[1]
    processes = {}
    for role, of in pids.items():
        used = sum((ended[0][pid] - began[0][pid] for pid in of), Used())
        processes[role] = {
            "us_per_order": used.cpu_ns / count / 1000,
            "kernel_us_per_order": used.kernel_ns / count / 1000,
            "cpu_share": used.cpu_ns / took_ns,
            "waited_share": used.waited_ns / took_ns,
            "sleeps_per_s": used.slept / took_ns * 1e9,
            "preemptions_per_s": used.preempted / took_ns * 1e9,
        }
    return {
        "orders_per_s": count / took_ns * 1e9,
        "us_per_order": sum(of["us_per_order"] for of in processes.values()),
        "processes": processes,
    }


def wait_for_load(client: Client, load: subprocess.Popen[bytes]) -> None:
    """Until calls come without a pause: between a mix's setup and its load they are encoded, which
    takes the client seconds and is not the path.
    """
    in_a_row, before = 0, orders(client.info())
    while in_a_row < STEADY_LOOKS and load.poll() is None:
        time.sleep(LOOK_S)
        now = orders(client.info())
        in_a_row = in_a_row + 1 if now > before else 0
        before = now


def orders(info: Figures) -> int:
    return int(info["transactions"] + info["rejected"])


def started(
    server: Server, flags: tuple[str, ...], connections: str, in_flight: str, seconds: float
) -> subprocess.Popen[bytes]:
    """The load generator, in a process of its own."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "diptych.cli", "loadtest", server.address, "--json"),
            *("--connections", connections, "--in-flight", in_flight, *flags),
            *("--duration", str(seconds)),
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


def loaded(
    server: Server, flags: tuple[str, ...], connections: str, in_flight: str, seconds: float
) -> Figures:
    report = report_of(started(server, flags, connections, in_flight, seconds))
    latency_us: Figures = report["transactions_latency_us"]
    return latency_us


def main() -> int:
    arguments = parsed()
    rows = [
        measured(arguments, subject, shape, mode)
        for subject in arguments.subjects or ("exchange", "echo")
        for shape in arguments.shape
        for mode in arguments.durability
    ]
    if arguments.json:
        print(json.dumps({"machine": machine(), "rows": rows}))
        return 0
    print(f"{machine()}\n")
    for row in rows:
        alone = f", alone {row['alone_p50_us']:.0f} us" if row["alone_p50_us"] else ""
        print(
            f"## {row['subject']}, {row['shape']}, {row['durability']}: "
            f"{row['orders_per_s']:,.0f} orders/s, {row['us_per_order']:.2f} us an order, "
            f"p50 {row['p50_ms']:.2f} ms, p99 {row['p99_ms']:.2f} ms{alone}\n"
        )
        print(
            "| process | us an order | in the kernel | of a CPU | waited | sleeps/s | preempted/s |"
        )
        print("| --- " * 7 + "|")
        for role, of in row["processes"].items():
            print(
                f"| {role} | {of['us_per_order']:.3f} | {of['kernel_us_per_order']:.3f} "
                f"| {of['cpu_share']:.0%} | {of['waited_share']:.0%} | {of['sleeps_per_s']:,.0f} "
                f"| {of['preemptions_per_s']:,.0f} |"
            )
        print(flush=True)
    return 0


def machine() -> str:
    return (
        f"Linux {platform.release()} {platform.machine()}, {os.cpu_count()} CPUs, "
        f"Python {platform.python_version()}"
    )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help=", ".join(SUBJECTS))
    parser.add_argument("--seconds", type=float, default=5.0, help="that are watched (5)")
    parser.add_argument("--warmup", type=float, default=1.0, help="before them (1)")
    parser.add_argument("--slack", type=float, default=1.0, help="how long the load goes on (1)")
    parser.add_argument(
        "--shape", nargs="+", default=["50x32"], help="connections x in flight on each (50x32)"
    )
    parser.add_argument(
        "--durability",
        nargs="+",
        default=["no data"],
        choices=("no data", "none", "os", "fsync"),
        help="(no data)",
    )
    parser.add_argument("--latency", action="store_true", help="of one call at a time, too")
    parser.add_argument("--directory", type=Path, help="where data is written (temporary files)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if unknown := set(arguments.subjects) - set(SUBJECTS):
        parser.error(f"no such subject: {', '.join(sorted(unknown))}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
