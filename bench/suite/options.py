"""How much is measured, and on whom."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.suite.peers.base import Peer


@dataclass(frozen=True)
class Options:
    """`shapes`: connections and calls in flight on each. `peers[0]` is Diptych."""

    directory: Path
    peers: list[Peer]
    rounds: int
    seconds: float
    warmup_s: float
    trades: int
    cycle_calls: int
    shapes: tuple[tuple[int, int], ...] = ((50, 32), (8, 500))
    quick: bool = False

    def peer(self, name: str) -> Peer | None:
        return next((peer for peer in self.peers if peer.name == name), None)
