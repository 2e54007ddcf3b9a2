"""The supervisor's children as it knows them, and when one that died is started again.

A policy and records, no processes. A child that had been ready is started again at once, and after
pauses that grow when that happens often. One that dies before it is ready, again and again, will
not get better: the server gives up.
"""

from __future__ import annotations

import signal
import time
from collections import deque
from dataclasses import dataclass, field

from diptych.serving.control import Control
from diptych.serving.spawn import Spawned

START_FAILURES_MAX = 5
"""Children that may die within WINDOW_S without having been ready."""
WINDOW_S = 60.0
PAUSE_S = 0.05
PAUSE_READY_MAX_S = 0.25
"""Of a child that had been ready: it served for a while, and so will the next one."""
PAUSE_MAX_S = 2.0
RECENT_S = 10.0
PAUSE_SPARE_MAX_S = 10.0
"""Of a process that the server can do without for a while."""


@dataclass(slots=True, eq=False)
class Child:
    """One process. `number` is never used again; `holder`: whose images a reader looks at.

    `over_budget`: the transaction for which a writer was killed, since it would not end.
    """

    role: str
    number: int
    spawned: Spawned
    control: Control
    holder: int = 0
    ready: bool = False
    stopped_because: str = ""
    started_ns: int = field(default_factory=time.monotonic_ns)
    over_budget: int = 0

    @property
    def name(self) -> str:
        return self.role if self.role == "writer" else f"{self.role} {self.number}"


@dataclass(slots=True)
class RestartPolicy:
    """Times are seconds of one monotonic clock."""

    _failures: deque[float] = field(default_factory=deque)
    _deaths: dict[str, deque[float]] = field(default_factory=dict)

    def pause_s(self, role: str, *, ready: bool, now: float) -> float | None:
        """A child died: how long to wait before the next one; None: give up."""
        if not ready:
            self._failures.append(now)
            _forget(self._failures, now - WINDOW_S)
            if len(self._failures) >= START_FAILURES_MAX:
                return None
        deaths = self._deaths.setdefault(role, deque())
        _forget(deaths, now - RECENT_S)
        deaths.append(now)
        if ready and len(deaths) == 1:
            return 0.0
        longest_s = PAUSE_READY_MAX_S if ready else PAUSE_MAX_S
        return float(min(PAUSE_S * 2 ** (len(deaths) - 1), longest_s))

    def spare_pause_s(self, role: str, now: float) -> float:
        """The same for a process that the server can do without: nobody gives up over that one."""
        deaths = self._deaths.setdefault(role, deque())
        _forget(deaths, now - WINDOW_S)
        deaths.append(now)
        return float(min(PAUSE_S * 2 ** (len(deaths) - 1), PAUSE_SPARE_MAX_S))


def ending(code: int) -> str:
    """How a process ended, in words, by its exit code; negative for a signal."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:  # most real-time signals have no name
        return f"signal {-code}"


def _forget(times: deque[float], before: float) -> None:
    while times and times[0] < before:
        times.popleft()
