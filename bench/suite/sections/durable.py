"""Orders a second when every answer waits for the disk, or for a sync once a second."""

from __future__ import annotations

from functools import partial

from bench.suite.measure import Subject, in_turn
from bench.suite.options import Options
from bench.suite.plots import Plot
from bench.suite.report import Result, Table
from bench.suite.sections.loading import failures, fresh_load
from bench.suite.sections.orders import COLUMNS, rows

TITLE = "Exchange orders a second, durable"
ABOUT = """\
The same flow, 50 x 32 in flight. *fsync*: an answer means that the order is on the disk (Diptych
`fsync`, Redis `appendfsync always`, PostgreSQL `synchronous_commit=on`, SQLite
`synchronous=FULL`, Tarantool `wal_mode=fsync`). *everysec*: what a second lost is lost. The disk
is the one below the data directory."""


def run(options: Options) -> Result:
    subjects: dict[str, Subject] = {
        f"{peer.name}, {durability}": partial(
            fresh_load, peer, options, durability, options.shapes[0]
        )
        for peer in options.peers
        for durability in peer.durabilities
        if durability != "none"
    }
    rounds = in_turn(subjects, options.rounds)
    medians: dict[str, tuple[float | None, ...]] = {
        name: (figure.median if (figure := rounds.figure(name, "per_s")) else None,)
        for name in subjects
    }
    return Result(
        [Table("50 x 32 in flight", COLUMNS, rows(rounds, list(subjects)))],
        failures(rounds),
        [Plot("durable", TITLE, "orders/s", ("50 x 32",), medians)],
        rounds.taken,
    )
