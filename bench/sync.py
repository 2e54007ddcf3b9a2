"""What a sync costs, beside fork() and a full copy, all in one run: a Markdown table or JSON.

    python bench/sync.py                         64 MiB to 4 GiB; needs about 13 GiB of free memory
    python bench/sync.py --sizes 64,1024 --written 1000

For each size of allocated memory and each number of random pages written between two syncs:
  pause        what the writer stands still for: finding the written pages and copying them
  first write  what it pays later, at the first write to each page that the sync looked at
  fork         how long fork() stops a process with as much private memory (huge pages off, as is
               advised for stores that fork), and its first write to a page while the child lives
  full copy    copying all of the memory, which is what a mirror without tracking would do
What a loaded writer loses to all of it is for bench/sync_load.py. Ratios within one run mean
something; absolute figures belong to the machine and what else it does.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from diptych.memory.kernels import write_pages
from diptych.memory.machine import data_cost_bytes, memory_limits
from diptych.memory.measure import SyncMeasurement

MIB = 1 << 20
PAGE_BYTES = 4096


def main() -> int:
    arguments = parsed(sys.argv[1:])
    if arguments.fork_only:
        print(json.dumps(fork_costs(arguments.sizes[0], arguments.written)))
        return 0
    rows = []
    for size_mib in arguments.sizes:
        needed = data_cost_bytes(size_mib * MIB, arguments.images, readers=0)
        if needed > 0.8 * memory_limits().usable_bytes:
            print(f"{size_mib} MiB left out: it needs {needed // MIB} MiB", file=sys.stderr)
            continue
        rows += measured(size_mib, arguments)
    if arguments.json:
        machine = {
            "kernel": platform.release(),
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
        }
        print(json.dumps({"machine": machine, "rounds": arguments.rounds, "rows": rows}, indent=2))
    else:
        print(f"Linux {platform.release()}, {os.cpu_count()} CPUs, {arguments.rounds} rounds\n")
        print(table(rows))
    return 0


def parsed(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sizes", type=numbers, default=[64, 256, 1024, 4096], help="MiB of memory, by commas"
    )
    parser.add_argument(
        "--written", type=numbers, default=[10, 100, 1000, 10000], help="pages, by commas"
    )
    parser.add_argument("--rounds", type=int, default=50, help="syncs per row")
    parser.add_argument("--images", type=int, default=2, help="images of the mirror")
    parser.add_argument("--tracker", choices=("auto", "kernel", "compare"), default="auto")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs")
    parser.add_argument("--fork-only", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.quick:
        arguments.sizes, arguments.written, arguments.rounds = [2, 4], [10, 100], 5
    return arguments


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def measured(size_mib: int, arguments: argparse.Namespace) -> list[dict[str, object]]:
    """The rows of one size."""
    # In a process of its own, so that it forks with this much memory and no more.
    command = [sys.executable, str(Path(__file__)), "--fork-only", "--sizes", str(size_mib)]
    command += ["--written", ",".join(map(str, arguments.written))]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    forked = json.loads(subprocess.check_output(command, env=environment))
    rows: list[dict[str, object]] = []
    with SyncMeasurement(
        size_mib * MIB, images=arguments.images, tracker=arguments.tracker
    ) as measurement:
        copy_ms = measurement.full_copy_ms()
        for written in arguments.written:
            cost = measurement.run(written, arguments.rounds)
            rows.append(
                asdict(cost)
                | {
                    "fork_stop_us": forked["stop_us"],
                    "fork_first_write_ns_per_page": forked["first_write_ns"][str(written)],
                    "full_copy_us": copy_ms * 1000,
                }
            )
    return rows


def fork_costs(size_mib: int, written: list[int]) -> dict[str, object]:
    """How long fork() takes with so much private memory, and what first writes cost after it."""
    memory = mmap.mmap(-1, size_mib * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    words = np.frombuffer(memory, dtype=np.int64)
    words[:: PAGE_BYTES // 8] = 1
    random = np.random.default_rng(1)
    stops_us, first_write_ns = [], {}
    for count in written:
        per_page = []
        for _ in range(5):
            pages = random.choice(words.size * 8 // PAGE_BYTES, count, replace=False)
            before_ns = written_ns(words, pages)
            reading, writing = os.pipe()
            began_ns = time.perf_counter_ns()
            child = os.fork()
            if child == 0:
                os.close(writing)
                os.read(reading, 1)  # until the parent closes its end
                os._exit(0)
            stops_us.append((time.perf_counter_ns() - began_ns) / 1000)
            per_page.append((written_ns(words, pages) - before_ns) / count)
            os.close(reading)
            os.close(writing)
            os.waitpid(child, 0)
        first_write_ns[str(count)] = round(statistics.median(per_page), 1)
    return {"stop_us": round(statistics.median(stops_us), 1), "first_write_ns": first_write_ns}


def written_ns(words: np.ndarray, pages: np.ndarray) -> int:
    began_ns = time.perf_counter_ns()
    write_pages(words, pages, 1)
    return time.perf_counter_ns() - began_ns


def table(rows: list[dict[str, object]]) -> str:
    heads = (
        "memory", "written pages", "tracker", "pause median", "pause p99", "first write",
        "fork stop", "fork first write", "full copy",
    )  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|" + " ---: |" * len(heads)]
    for row in rows:
        cells = (
            f"{row['size_bytes'] // MIB} MiB",
            f"{row['written_pages']:,}",
            row["tracker"],
            milliseconds(row["pause_median_us"]),
            milliseconds(row["pause_p99_us"]),
            f"{row['first_write_ns_per_page']:,.0f} ns",
            milliseconds(row["fork_stop_us"]),
            f"{row['fork_first_write_ns_per_page']:,.0f} ns",
            milliseconds(row["full_copy_us"]),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def milliseconds(value_us: float) -> str:
    return f"{value_us / 1000:,.2f} ms"


if __name__ == "__main__":
    sys.exit(main())
