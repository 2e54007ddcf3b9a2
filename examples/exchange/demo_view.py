"""What the demo knows while it runs, and how it shows that: a live table, lines, a summary, JSON.

`Figures` only adds up; `demo` fills it. No sockets and no tasks in here.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from diptych.loadtest.latency import BINS, Counters, bin_of, summary_us
from exchange.player import Tally
from exchange.schema import Average, Conservation

Market = tuple[int | None, int | None, Average]

NAMES = ("p50", "p99", "p99.9", "max")
MARKETS_SHOWN = 10  # so that all fits on a terminal of 24 lines


def _counters() -> Counters:
    return np.zeros(BINS, np.int64)


@dataclass
class Figures:
    """`outcomes`: how many calls or events ended how; `complete`: every call was answered."""

    elapsed_s: float = 0.0
    transactions: int = 0
    transactions_rate: float = 0.0
    seconds: float = 0.0
    latency_us: dict[str, float | None] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    expected: int = 0
    complete: bool = False
    queries: int = 0
    began_s: float = 0.0
    watched_s: float = 0.0
    query_latencies: Counters = field(default_factory=_counters)
    ages: Counters = field(default_factory=_counters)
    audits: int = 0
    images: set[int] = field(default_factory=set)
    broken: Counter[str] = field(default_factory=Counter)
    conservation: Conservation | None = None
    server: dict[str, Any] = field(default_factory=dict)
    markets: dict[str, Market] = field(default_factory=dict)

    def progress(
        self,
        elapsed_s: float,
        transactions: int,
        queries: int,
        transactions_rate: float,
        queries_rate: float,
    ) -> None:
        """How far the load is; queries are counted by those who make them."""
        self.started()
        self.elapsed_s, self.transactions = elapsed_s, transactions
        self.transactions_rate = transactions_rate

    def started(self) -> None:
        """The load begins: from now on queries count. Before, nothing changed that could be old."""
        if not self.began_s:
            self.began_s = time.perf_counter()

    def ended(self) -> None:
        self.watched_s = time.perf_counter() - self.began_s

    def queried(self, took_ns: int, age_ms: float) -> None:
        if not self.began_s or self.watched_s:
            return
        self.queries += 1
        self.query_latencies[bin_of(took_ns)] += 1
        self.ages[bin_of(int(age_ms * 1e6))] += 1

    def audited(self, broken: list[str], sequence: int) -> None:
        self.audits += 1
        self.images.add(sequence)
        self.broken.update(broken)

    def report(self, said: dict[str, Any]) -> None:
        """The load test's own report."""
        self.elapsed_s = self.seconds = said["seconds"]
        self.transactions_rate = said["transactions_rate"]
        self.latency_us = said["transactions_latency_us"]
        for name, operation in said["operations"].items():
            self.expected += operation["calls"]
            self.outcomes[f"{name}: accepted"] += operation["results"]
            for code, count in operation["refused"].items():
                self.outcomes[f"{name}: {code}"] += count
        self.transactions = self.expected
        if said["unanswered"]:
            self.outcomes["never answered"] += said["unanswered"]
            self.expected += said["unanswered"]

    def played(self, tally: Tally, seconds: float) -> None:
        """A tape was played to its end."""
        self.elapsed_s = self.seconds = seconds
        self.transactions = tally.calls
        self.transactions_rate = tally.calls / seconds
        self.latency_us = summary_us(tally.latencies)
        self.outcomes.update(tally.outcomes)
        self.expected = tally.read
        self.complete = tally.failures == 0

    @property
    def queries_rate(self) -> float:
        if not self.began_s:
            return 0.0
        return self.queries / (self.watched_s or time.perf_counter() - self.began_s)

    @property
    def accounted(self) -> bool:
        return self.complete and self.outcomes.total() == self.expected > 0

    @property
    def conserved(self) -> bool:
        return not self.broken and self.conservation is not None

    @property
    def sync(self) -> dict[str, Any]:
        writer = self.server.get("writer") or {}
        found: dict[str, Any] = writer.get("sync", {})
        return found

    def as_dict(self) -> dict[str, Any]:
        """The last line's JSON."""
        end = self.conservation
        return {
            "transactions": self.transactions,
            "transactions_per_second": round(self.transactions_rate),
            "queries": self.queries,
            "queries_per_second": round(self.queries_rate),
            "transaction_latency_us": self.latency_us,
            "query_latency_us": summary_us(self.query_latencies),
            "staleness_us": summary_us(self.ages),
            "syncs": self.sync.get("syncs"),
            "pause_us": self.sync.get("pause_us"),
            "pages_per_sync": self.sync.get("pages_per_sync"),
            "tracker": self.sync.get("tracker"),
            "outcomes": dict(sorted(self.outcomes.items())),
            "accounted": self.accounted,
            "images_checked": len(self.images),
            "broken": dict(self.broken),
            "conserved": self.conserved,
            "trades": end.trades if end else None,
            "open_orders": end.open_orders if end else None,
        }


def screen(figures: Figures) -> Group:
    """What a terminal shows: the markets traded most, and below how the server does."""
    shown = Table(expand=False)
    for name in ("symbol", "bid", "ask", "average", "volume", "trades"):
        shown.add_column(name, justify="left" if name == "symbol" else "right")
    markets = figures.markets.items()
    for symbol, (bid, ask, average) in sorted(
        sorted(markets, key=lambda item: -item[1][2].trades)[:MARKETS_SHOWN]
    ):
        shown.add_row(
            symbol,
            _price(bid),
            _price(ask),
            _price(average.price),
            f"{average.volume:,}",
            f"{average.trades:,}",
        )
    rows = [
        ("transactions", f"{figures.transactions_rate:>10,.0f} /s  ({figures.transactions:,})"),
        ("queries", f"{figures.queries_rate:>10,.0f} /s  ({figures.queries:,})"),
        ("staleness ms", _percentiles(summary_us(figures.ages), NAMES)),
        ("pause ms", _percentiles(figures.sync.get("pause_us", {}), ("p50", "p99", "max"))),
        ("images", f"{len(figures.images):>10,}  checked: {_held(figures)}"),
    ]
    lines = [f"{name:<16}{text}" for name, text in rows]
    text = Text("\n".join([f"after {figures.elapsed_s:.0f} s", *lines]), no_wrap=True)
    return Group(shown, text)


def show_line(figures: Figures) -> None:
    """One plain line, once a second."""
    print(_line(figures), flush=True)


def _line(figures: Figures) -> str:
    return (
        f"{figures.elapsed_s:5.1f} s  {figures.transactions:>10,} transactions "
        f"{figures.transactions_rate:>9,.0f} /s  {figures.queries:>8,} queries  "
        f"{figures.sync.get('syncs', 0):>6,} syncs  "
        f"{len(figures.images):>4} images: {_held(figures)}"
    )


def _held(figures: Figures) -> str:
    return "books balance" if not figures.broken else "BOOKS DO NOT BALANCE"


def show_summary(figures: Figures) -> int:
    """Print the summary and the line of JSON; the exit code."""
    sync, names = figures.sync, NAMES
    rows = [
        ("transactions", f"{figures.transactions_rate:>10,.0f} /s  ({figures.transactions:,})"),
        ("queries", f"{figures.queries_rate:>10,.0f} /s  ({figures.queries:,})"),
        ("transaction ms", _percentiles(figures.latency_us, names)),
        ("query ms", _percentiles(summary_us(figures.query_latencies), names)),
        ("staleness ms", _percentiles(summary_us(figures.ages), names)),
        ("syncs", f"{sync.get('syncs', 0):>10,}  by the {sync.get('tracker', '?')} tracker"),
        ("pause ms", _percentiles(sync.get("pause_us", {}), ("p50", "p99", "max"))),
        ("pages per sync", _plain(sync.get("pages_per_sync", {}), ("p50", "p99", "max"))),
    ]
    print()
    for name, text in rows:
        print(f"{name:<16}{text}")
    print()
    for outcome, count in sorted(figures.outcomes.items()):
        print(f"{count:>12,}  {outcome}")
    total = figures.outcomes.total()
    print(f"{total:>12,}  of {figures.expected:,} accounted for")
    if figures.conservation is not None:
        print(
            f"{figures.conservation.open_orders:,} orders rest, "
            f"{figures.conservation.trades:,} trades; books balance on "
            f"{len(figures.images)} images checked, the last one included"
            if figures.conserved
            else f"INVARIANTS BROKEN: {dict(figures.broken)}"
        )
    print(json.dumps(figures.as_dict()), flush=True)
    return 0 if figures.accounted and figures.conserved else 1


def _price(price: float | None) -> str:
    return "-" if price is None else f"{price / 100:,.2f}"


def _ms(value_us: float | None) -> str:
    return "-" if value_us is None else f"{value_us / 1_000:,.2f}"


def _percentiles(latency_us: dict[str, float | None], names: tuple[str, ...]) -> str:
    return "  ".join(f"{name} {_ms(latency_us.get(name)):>8}" for name in names)


def _plain(counts: dict[str, float], names: tuple[str, ...]) -> str:
    return "  ".join(f"{name} {counts.get(name, 0):>8,.0f}" for name in names)
