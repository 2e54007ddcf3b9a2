"""What a load test found, as figures (`as_dict`, for --json) and as lines for people.

Counts cover the calls that were due in the measured time, warm-up and the wait for the last answers
left out. Knows nothing of how they were made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class OperationReport:
    """One operation. `refused`: answers that were no result, by code."""

    name: str
    kind: str
    calls: int
    results: int
    refused: dict[str, int]
    rate: float
    latency_us: dict[str, float | None]


@dataclass(frozen=True)
class Report:
    """All of it. `late_calls`: due at the fixed rate, not sent since the server fell behind."""

    seconds: float
    connections: int
    in_flight: int
    rate: float | None
    operations: list[OperationReport]
    transactions_rate: float
    queries_rate: float
    transactions_latency_us: dict[str, float | None]
    queries_latency_us: dict[str, float | None]
    unanswered: int
    late_calls: int
    lost_connections: int
    setup: dict[str, int] = field(default_factory=dict)
    server_before: dict[str, Any] = field(default_factory=dict)
    server_after: dict[str, Any] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        """Every call that was sent got an answer."""
        return self.unanswered == 0 and self.lost_connections == 0

    def as_dict(self) -> dict[str, Any]:
        shown = dict(vars(self))
        shown["operations"] = {
            operation.name: {k: v for k, v in vars(operation).items() if k != "name"}
            for operation in self.operations
        }
        return shown

    def lines(self) -> Iterator[str]:
        """The report for people."""
        how = f"at {self.rate:,.0f} calls/s" if self.rate else "closed loop"
        yield (
            f"{self.connections} connections x {self.in_flight} in flight, {how}, "
            f"{self.seconds:.1f} s"
        )
        yield f"transactions {self.transactions_rate:>12,.0f} /s"
        yield f"queries      {self.queries_rate:>12,.0f} /s"
        yield ""
        width = max([len(operation.name) for operation in self.operations], default=9)
        names = ("p50", "p90", "p99", "p99.9", "max")
        yield (
            f"{'operation':<{width}} {'calls':>10} {'/s':>9} {'refused':>8}  ms:"
            + "".join(f"{name:>9}" for name in names)
        )
        for operation in self.operations:
            refused = sum(operation.refused.values())
            yield (
                f"{operation.name:<{width}} {operation.calls:>10,} {operation.rate:>9,.0f} "
                f"{refused:>8,}     " + "".join(_ms(operation.latency_us[name]) for name in names)
            )
        for operation in self.operations:
            for code, count in sorted(operation.refused.items()):
                yield f"  {operation.name}: {code} {count:,}"
        for text, count in (
            ("calls were sent and never answered", self.unanswered),
            ("calls were due and never sent: the server fell behind", self.late_calls),
            ("connections were lost", self.lost_connections),
        ):
            if count:
                yield f"{count:,} {text}"
        yield from _server_lines(self.server_before, self.server_after)


def _ms(value_us: float | None) -> str:
    return f"{'-':>9}" if value_us is None else f"{value_us / 1_000:>9.2f}"


def _server_lines(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """The server's own figures: what they are now, and what whole numbers rose by."""
    earlier = dict(_flat(before))
    now = dict(_flat(after))
    if not now:
        return
    yield ""
    yield "server, after the load"
    for name, value in now.items():
        old = earlier.get(name)
        rose = ""
        if isinstance(value, int) and isinstance(old, int) and value > old:
            rose = f"   (+{value - old:,})"
        yield f"  {name:<34} {_shown(value)}{rose}"


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.2f}" if isinstance(value, float) else str(value)


def _flat(figures: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif not isinstance(value, list | tuple | bytes):
            yield f"{prefix}{name}", value
