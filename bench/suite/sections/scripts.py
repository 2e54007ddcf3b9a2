"""The benchmarks that are commands of their own, as sections: run, and their tables taken over.

Each prints Markdown tables; other lines are not needed. Knows their flags, nothing else of them.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.suite.options import Options
from bench.suite.report import Result, Table

ROOT = Path(__file__).resolve().parents[3]
TIMEOUT_S = 900.0
RULE = re.compile(r"^\|[\s|:-]+\|$")


@dataclass(frozen=True)
class Script:
    """`usual` and `quick`: its flags."""

    name: str
    title: str
    about: str
    file: str
    usual: tuple[str, ...]
    quick: tuple[str, ...]

    def run(self, options: Options) -> Result:
        flags = self.quick if options.quick else self.usual
        words = [sys.executable, f"bench/{self.file}", *flags]
        shown = f"Measured by `{shlex.join(['python', *words[1:]])}`."
        path = os.pathsep.join(filter(None, (str(ROOT / "examples"), *sys.path)))
        try:
            done = subprocess.run(
                words,
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": path, "TMPDIR": str(options.directory)},
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            return Result([], [shown, f"It did not end within {TIMEOUT_S:.0f} s."])
        tables = list(tables_in(done.stdout))
        notes = [shown]
        if done.returncode or not tables:
            said = done.stderr.strip().splitlines()[-1:] or ["nothing"]
            notes.append(f"It ended with {done.returncode} and said: {said[0]}")
        return Result(tables, notes, raw=done.stdout)


def tables_in(text: str) -> Iterator[Table]:
    """The Markdown tables of a text, each under the last line of text before it."""
    title, rows = "", []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            if not RULE.match(line):
                rows.append(tuple(cell.strip() for cell in line.strip("|").split("|")))
            continue
        if rows:
            yield Table(title, rows[0], list(rows[1:]))
            title, rows = "", []
        if line.strip():
            title = line.strip("# :")


TPCC = """\
One warehouse, the exact deck, no keying times; no result as the TPC means it. SQLite in one
process; PostgreSQL over TCP, a function an operation. *compiled is*: so many times as fast as this,
of what is as durable. In a durable PostgreSQL rows stay locked until a commit is synced, and all
payments write one warehouse's."""
SCRIPTS = (
    Script(
        "tpcc",
        "TPC-C",
        TPCC,
        "tpcc.py",
        (
            *("--runs", "3", "--seconds", "2", "--systems", "compiled", "SQLite", "PostgreSQL"),
            *("compiled, fsync", "PostgreSQL, fsync"),
        ),
        ("--runs", "1", "--seconds", "0.3", "--items", "300", "--customers", "30"),
    ),
    Script(
        "queries",
        "Point queries beside Redis GET",
        "One row by its key; Diptych answers from an image, with the age of what it shows.",
        "queries.py",
        ("--runs", "3", "--seconds", "1"),
        ("--runs", "1", "--seconds", "0.3"),
    ),
    Script(
        "sync",
        "What a sync costs, beside fork() and a full copy",
        "*pause*: the writer stands still. *fork*: so long fork() stops a process so large.",
        "sync.py",
        ("--sizes", "64,1024", "--rounds", "20"),
        ("--quick",),
    ),
    Script(
        "load",
        "What tracking and syncs cost a writer at full load, by the size of its data",
        "The engine alone, tracked and synced or not, in turn; *on*, *off*: with and without both.",
        "sync_load.py",
        ("--sizes", "10000,100000,1000000", "--rounds", "3"),
        ("--quick",),
    ),
    Script(
        "store",
        "The store's operations",
        "Nanoseconds an operation, systems in turn, in this process.",
        "store.py",
        ("--rounds", "7", "--growth", "6"),
        ("--quick",),
    ),
    Script(
        "recovery",
        "Restarts, takeovers, replays",
        "Seconds to the first answer after a kill; transactions a second from the log.",
        "durability.py",
        ("restart", "takeover", "replay", "--rounds", "3", "--kills", "3", "--mebibytes", "256"),
        ("restart", "replay", "--quick"),
    ),
)
