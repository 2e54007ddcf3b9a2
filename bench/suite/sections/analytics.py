"""Transactions beside an analytic query: what each does to the other."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from bench.suite.measure import Figures, Rounds, Subject, in_turn, progress
from bench.suite.options import Options
from bench.suite.peers.base import Served
from bench.suite.plots import Plot
from bench.suite.report import Cell, Result, Table
from bench.suite.sections.loading import failures, figures_of, loaded, settings_of
from bench.suite.workload import flow

TITLE = "Beside an analytic query"
ABOUT = """\
One client asks for the volume-weighted average price of every trade in one symbol, again and
again without a pause, while orders come: at a fixed rate of half of what the system did in a
closed loop just before, and in a closed loop (50 x 32). The trades are there before; what the
flow adds is the same in all columns of a row. Ratios: with the query by without it, in the same
round. *late*: calls of the timetable that could not even be sent."""
CASES = ("query alone", "rate", "rate, query", "loop", "loop, query")


def run(options: Options) -> Result:
    with ExitStack() as stack:
        subjects: dict[str, Subject] = {}
        rates: dict[str, float] = {}
        names: list[str] = []
        for peer in options.peers:
            path = stack.enter_context(tempfile.TemporaryDirectory(dir=options.directory))
            served = stack.enter_context(peer.open(Path(path)))
            served.setup(flow().setup())
            served.preload(options.trades)
            rate = loaded(served, settings_of(options, options.shapes[0]))["per_s"] or 0.0
            rates[peer.name] = rate / 2
            names.append(peer.name)
            progress(f"{peer.name}: {rate:,.0f} orders/s in a closed loop")
            for case in CASES:
                subjects[f"{peer.name}: {case}"] = partial(
                    measured, served, options, case, rate / 2
                )
        rounds = in_turn(subjects, options.rounds)
    tables = [
        Table(
            f"At a fixed rate, {options.trades:,} trades",
            (
                *("system", "orders/s asked", "p50 ms", "p99 ms", "p50 with query"),
                *("p99 with query", "p99 ratio", "late with query"),
            ),
            [fixed_row(rounds, name, rates[name]) for name in names],
        ),
        Table(
            "In a closed loop",
            (
                *("system", "orders/s", "with query", "ratio", "p99 ms", "p99 with query"),
                *("pause p99", "staleness p99 with query"),
            ),
            [loop_row(rounds, name) for name in names],
        ),
        Table(
            "The query itself: median time in ms",
            (
                *("system", "idle", "at the rate", "ratio", "p99 at the rate"),
                *("in the loop", "ratio", "p99 in the loop", "staleness p99 at the rate"),
            ),
            [query_row(rounds, name) for name in names],
        ),
    ]
    return Result(tables, failures(rounds), [plot(rounds, names)], rounds.taken)


def measured(served: Served, options: Options, case: str, rate: float) -> Figures:
    """One case. Queries are counted and timed by the load."""
    more: dict[str, Any] = {}
    if case != "rate" and case != "loop":
        more |= {"query_connections": 1, "query_in_flight": 1}
    if case.startswith("rate"):
        more["rate"] = rate
    settings = settings_of(options, options.shapes[0], **more)
    if case == "query alone":
        settings = settings_of(options, (0, 1), **more)
        return figures_of(served.load(flow(), settings))
    return loaded(served, settings)


def fixed_row(rounds: Rounds, name: str, rate: float) -> tuple[Cell, ...]:
    quiet, beside = f"{name}: rate", f"{name}: rate, query"
    return (
        name,
        rate,
        *(rounds.figure(case, of) for case in (quiet, beside) for of in ("p50_ms", "p99_ms")),
        rounds.ratio(beside, quiet, "p99_ms"),
        rounds.figure(beside, "late_share"),
    )


def loop_row(rounds: Rounds, name: str) -> tuple[Cell, ...]:
    quiet, beside = f"{name}: loop", f"{name}: loop, query"
    return (
        name,
        rounds.figure(quiet, "per_s"),
        rounds.figure(beside, "per_s"),
        rounds.ratio(beside, quiet, "per_s"),
        rounds.figure(quiet, "p99_ms"),
        rounds.figure(beside, "p99_ms"),
        rounds.figure(beside, "pause_p99_ms"),
        rounds.figure(beside, "staleness_p99_ms"),
    )


def query_row(rounds: Rounds, name: str) -> tuple[Cell, ...]:
    idle, rate, loop = (f"{name}: {case}" for case in ("query alone", "rate, query", "loop, query"))
    return (
        name,
        rounds.figure(idle, "query_p50_ms"),
        rounds.figure(rate, "query_p50_ms"),
        rounds.ratio(rate, idle, "query_p50_ms"),
        rounds.figure(rate, "query_p99_ms"),
        rounds.figure(loop, "query_p50_ms"),
        rounds.ratio(loop, idle, "query_p50_ms"),
        rounds.figure(loop, "query_p99_ms"),
        rounds.figure(rate, "staleness_p99_ms"),
    )


def plot(rounds: Rounds, names: list[str]) -> Plot:
    def median(subject: str) -> float | None:
        figure = rounds.figure(subject, "p99_ms")
        return figure.median if figure else None

    series = {
        label: tuple(median(f"{name}: {case}") for name in names)
        for label, case in (("quiet", "rate"), ("with the query", "rate, query"))
    }
    title = "p99 at half of the capacity, without and with the query"
    return Plot("analytics", title, "ms", tuple(names), series, logarithmic=True)
