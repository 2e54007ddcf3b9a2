"""One load on one system, as figures: what the sections about orders share."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.suite.measure import Figures, Rounds
from bench.suite.options import Options
from bench.suite.peers.base import Peer, Served
from bench.suite.report import Cell
from bench.suite.workload import flow

from diptych.loadtest import LoadSettings, Report

MIB = 1 << 20


def settings_of(options: Options, shape: tuple[int, int], **more: Any) -> LoadSettings:
    connections, in_flight = shape
    return replace(
        LoadSettings(
            connections=connections,
            in_flight=in_flight,
            duration_s=options.seconds,
            warmup_s=options.warmup_s,
            # Cancels begin late in a cycle where many calls are in flight.
            cycle_calls=max(options.cycle_calls, 8 * in_flight),
            setup=False,
        ),
        **more,
    )


def fresh_load(peer: Peer, options: Options, durability: str, shape: tuple[int, int]) -> Figures:
    """A closed loop on a system that was just started."""
    with (
        tempfile.TemporaryDirectory(dir=options.directory) as path,
        peer.open(Path(path), durability) as served,
    ):
        served.setup(flow().setup())
        warmup_s = options.warmup_s * peer.warmup_factor
        return loaded(served, settings_of(options, shape, warmup_s=warmup_s))


def loaded(served: Served, settings: LoadSettings) -> Figures:
    """Put the flow on it. Errors: RuntimeError when answers are missing."""
    report = served.load(flow(settings.in_flight), settings)
    if not report.clean:
        raise RuntimeError(f"{report.unanswered} calls without an answer")
    figures = figures_of(report)
    figures["memory_mib"] = served.memory_bytes() / MIB or None
    return figures


def figures_of(report: Report) -> Figures:
    """Rates in 1/s, latencies in ms; of Diptych also what its INFO says."""
    figures: Figures = {"per_s": report.transactions_rate}
    for name in ("p50", "p99", "p99.9"):
        figures[f"{name}_ms"] = _ms(report.transactions_latency_us[name])
    if report.queries_rate:
        figures["queries_per_s"] = report.queries_rate
        for name in ("p50", "p99"):
            figures[f"query_{name}_ms"] = _ms(report.queries_latency_us[name])
    if report.rate:
        due = report.transactions_rate * report.seconds
        figures["late_share"] = report.late_calls / (report.late_calls + due)
    return figures | _own(report.server_after, report.transactions_rate)


def _own(info: dict[str, Any], rate: float) -> Figures:
    """What a Diptych server says of itself."""
    if "writer" not in info:
        return {}
    sync = info["writer"]["sync"]
    figures: Figures = {
        "pause_p99_ms": _ms(sync["pause_us"]["p99"]),
        "pages_per_sync": sync["pages_per_sync"]["p50"],
        "sync_share": sync["writer_time_share"],
        "writer_busy": info["writer"]["busy_share"],
    }
    staleness = info["queries"]["staleness_us"]
    if staleness["max"]:
        figures["staleness_p99_ms"] = _ms(staleness["p99"])
    return figures


def _ms(value_us: float | None) -> float | None:
    return None if value_us is None else value_us / 1000


def ratio_cell(rounds: Rounds, subject: str, base: str, name: str = "per_s") -> Cell:
    return "1" if subject == base else rounds.ratio(subject, base, name)


def failures(rounds: Rounds) -> list[str]:
    return [f"{name} failed: {why}" for name, why in rounds.failed.items()]
