"""One application in both lanes at once: every call is made in each, and nothing may differ."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import numpy as np

from diptych import App, Rejected
from diptych.memory import PAGE_BYTES
from diptych.testing import Bench
from diptych_client import DiptychError, ServerError


class Lanes:
    """Two benches of one app, interpreted and compiled. A context manager."""

    def __init__(self, app: App, *, setup: bool = False) -> None:
        self.benches = tuple(
            Bench(app, lane=lane, now=1_000, seed=5, setup=setup)
            for lane in ("interpreted", "compiled")
        )

    def __enter__(self) -> Lanes:
        for bench in self.benches:
            bench.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for bench in self.benches:
            bench.__exit__(kind, error, trace)

    def call(self, name: str, *arguments: Any) -> Any:
        """Make a call in both lanes; what it returned, or the error it ended with."""
        outcomes = [outcome(bench, name, arguments) for bench in self.benches]
        # By what they look like, which tells 1 from True and finds nan equal to itself.
        assert repr(outcomes[0]) == repr(outcomes[1]), (name, arguments, outcomes)
        return outcomes[1]

    def check(self, name: str, *arguments: Any) -> Any:
        """The same, and the memory of both is compared."""
        result = self.call(name, *arguments)
        self.compare()
        return result

    def compare(self) -> None:
        """The regions are equal, byte for byte."""
        one, other = self.benches
        extents = one.extents()
        assert extents == other.extents()
        for extent in extents:
            span = slice(extent.start * PAGE_BYTES, extent.stop * PAGE_BYTES)
            left, right = (
                np.frombuffer(bench._region.buffer[span], np.int64) for bench in self.benches
            )
            different = np.nonzero(left != right)[0]
            assert not len(different), f"words {different[:10] + span.start // 8} differ"

    def advance(self, seconds: float) -> None:
        for bench in self.benches:
            bench.advance(seconds=seconds)


def outcome(bench: Bench, name: str, arguments: tuple[Any, ...]) -> Any:
    """A call's value, or what tells its error from others: its id is made up at random."""
    try:
        return bench.call(name, *arguments)
    except Rejected as no:
        return "rejected", no.code, no.details
    except ServerError as error:
        return error.code, error.message.replace(error.error_id, "")
    except DiptychError as error:
        return error.code, str(error)
