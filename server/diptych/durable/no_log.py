"""The log of a server that keeps none: everything counts as safe at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class NoLog:
    """Has what the writer uses of a `CommandLog`."""

    written = durable = 0
    durable_sequence = 0
    bytes_written = 0
    wakeup_fd = -1
    needs_idle = False

    def append_batch(
        self, frames: bytes | memoryview, first: int, count: int, time_ns: int, outcome: int | None
    ) -> int:
        return 0

    def append_aborts(self, aborts: Sequence[tuple[int, int]]) -> int:
        return 0

    def start_sync(self) -> None:
        pass

    def on_wakeup(self) -> None:
        pass

    def wait_briefly(self, seconds: float) -> None:
        pass

    def wait(self, ticket: int) -> None:
        pass

    def idle(self) -> None:
        pass

    def sync_us(self, percentile: int) -> int:
        return 0

    def figures(self) -> dict[str, Any]:
        return {"durability": "none"}

    def close(self) -> None:
        pass
