"""Orders a second in a closed loop, with nothing durable: what each system can do at most."""

from __future__ import annotations

from functools import partial

from bench.suite.measure import Rounds, Subject, in_turn
from bench.suite.options import Options
from bench.suite.plots import Plot
from bench.suite.report import Cell, Result, Table
from bench.suite.sections.loading import failures, fresh_load, ratio_cell

TITLE = "Exchange orders a second, nothing durable"
ABOUT = """\
55 % new limit orders, 35 % cancels, 10 % immediate-or-cancel, with reservations, price-time
matching and trades recorded; a closed loop of connections x calls in flight, each run on a system
just started. In-process systems have no connections: they are called by one thread, and send
nothing anywhere. Latency in a closed loop is that of all calls in flight. *Diptych is*: so many
times as fast. *pause*, *staleness*: p99, from the server's own INFO."""


def run(options: Options) -> Result:
    tables, notes, raw = [], [], {}
    series: dict[str, tuple[float | None, ...]] = {}
    for shape in options.shapes:
        name = f"{shape[0]} x {shape[1]}"
        subjects: dict[str, Subject] = {
            peer.name: partial(fresh_load, peer, options, "none", shape) for peer in options.peers
        }
        rounds = in_turn(subjects, options.rounds)
        tables.append(Table(f"{name} in flight", COLUMNS, rows(rounds, list(subjects))))
        notes += failures(rounds)
        raw[name] = rounds.taken
        for peer in subjects:
            figure = rounds.figure(peer, "per_s")
            series[peer] = (*series.get(peer, ()), figure.median if figure else None)
    labels = tuple(f"{shape[0]} x {shape[1]}" for shape in options.shapes)
    plot = Plot("orders", TITLE, "orders/s", labels, series)
    return Result(tables, notes, [plot], raw)


COLUMNS = (
    "system",
    "orders/s",
    "Diptych is",
    "p50 ms",
    "p99 ms",
    "p99.9 ms",
    "memory MiB",
    "pause ms",
    "staleness ms",
)


def rows(rounds: Rounds, subjects: list[str]) -> list[tuple[Cell, ...]]:
    """A row a subject; *Diptych is*: the first one's rate by this one's."""
    names = ("p50_ms", "p99_ms", "p99.9_ms", "memory_mib", "pause_p99_ms", "staleness_p99_ms")
    return [
        (
            subject,
            rounds.figure(subject, "per_s"),
            ratio_cell(rounds, subjects[0], subject),
            *(rounds.figure(subject, name) for name in names),
        )
        for subject in subjects
        if rounds.taken[subject]
    ]
