"""What the suite asks of a system: to be started, filled, asked, loaded, and looked at.

A `Peer` is a system as it may be installed; `open` starts it in a directory and gives a `Served`.
Systems differ in protocol, and in what "durable" means: `DURABILITIES` are our names for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from bench.suite.workload import Holdings, State, Tape

from diptych.loadtest import LoadSettings, Mix, Report
from diptych.loadtest.mix import Call

DURABILITIES = ("none", "everysec", "fsync")
"""Nothing on disk or at least nothing waited for; synced once a second; before each answer."""


class Served(ABC):
    """A running system."""

    @abstractmethod
    def call(self, name: str, *arguments: Any) -> Any:
        """Make a call and wait: its value, or the text of a code when it was refused."""

    @abstractmethod
    def load(self, mix: Mix, settings: LoadSettings) -> Report:
        """Put load on it. Its setup has run."""

    @abstractmethod
    def preload(self, count: int) -> None:
        """Add `workload.trades(count)`."""

    @abstractmethod
    def tape(self) -> Tape: ...

    @abstractmethod
    def holdings(self) -> Holdings: ...

    @abstractmethod
    def pids(self) -> list[int]:
        """The processes that belong to it."""

    def setup(self, calls: Iterable[Call]) -> None:
        """Run a mix's setup."""
        for name, arguments in calls:
            self.call(name, *arguments)

    def state(self) -> State:
        return State(self.tape(), self.holdings())

    def memory_bytes(self) -> int:
        """What its processes have in memory, what they share counted once."""
        return sum(pss_bytes(pid) for pid in self.pids())


class Peer(ABC):
    """A system that may be installed here."""

    name: str
    durabilities: tuple[str, ...] = ("none",)
    warmup_factor = 1.0
    """Slow systems warm up longer: until the first orders are old enough there are no cancels."""

    def missing(self) -> str | None:
        """Why it can't run here, None when it can."""
        return None

    @abstractmethod
    def version(self) -> str: ...

    @abstractmethod
    def open(self, directory: Path, durability: str = "none") -> AbstractContextManager[Served]:
        """Start it with an empty exchange; its data goes below `directory`."""


def pss_bytes(pid: int) -> int:
    """Proportional set size: pages shared by n processes count as 1/n in each."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("Pss:"))
