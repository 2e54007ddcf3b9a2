"""What every system is given: the exchange's flow, and trades that were made before.

`Flow` of the example is the mix. `answers` of a system to `checked_calls`, its tape and its
holdings afterwards are what must be equal everywhere before anything is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from diptych.loadtest.mix import Call, ResultOf
from exchange.flow import Flow

SYMBOL = "AAPL"
"""The symbol that preloaded trades are in, and that the analytic query is about."""

CANCEL_MARGIN = 100  # events

Tape = list[tuple[str, int, int]]
Holdings = list[tuple[int, int, int, list[tuple[str, int, int]]]]


class State(NamedTuple):
    """What a flow left behind: see `Exchange.tape` and `Exchange.holdings` of the asyncio peer."""

    tape: Tape
    holdings: Holdings


class Watched(Flow):
    """The flow, and beside it clients who ask for the average price of every trade."""

    def queries(self, connection: int) -> Iterator[Call]:
        while True:
            yield "vwap", (SYMBOL,)


def flow(in_flight: int = 32) -> Flow:
    """The mix for connections with so many calls in flight.

    Orders are cancelled soon: until the first cancels there are only new orders, and a slow system
    should not be measured on those.
    """
    return Watched(cancel_after=in_flight + CANCEL_MARGIN)


def plain(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments without enums, which become ints."""
    return tuple(int(each) if isinstance(each, int) else each for each in arguments)


def played(call: Callable[..., Any], count: int) -> list[Any]:
    """Make the first `count` calls of the flow one after another. Each answer, plain.

    `call(name, *arguments)` returns a value, or the text of a code when it was refused.
    """
    answers: list[Any] = []
    for name, given in islice(flow().calls(0), count):
        arguments = [
            _first(answers[each.call]) if isinstance(each, ResultOf) else each
            for each in plain(given)
        ]
        value = call(name, *arguments)
        answers.append(list(value) if isinstance(value, list | tuple) else value)
    return answers


def _first(answer: Any) -> int:
    """What the load test makes of a `ResultOf`: the first int, 0 without one."""
    value = answer[0] if isinstance(answer, list) else answer
    return value if isinstance(value, int) else 0


class Trades(NamedTuple):
    price: npt.NDArray[np.int64]
    quantity: npt.NDArray[np.int64]
    buyer: npt.NDArray[np.int64]
    seller: npt.NDArray[np.int64]

    def rows(self) -> Iterator[tuple[int, int, int, int]]:
        return zip(*(column.tolist() for column in self), strict=True)


def trades(count: int) -> Trades:
    """Trades in SYMBOL from before the measured time; the same ones for every system."""
    chance = np.random.default_rng(3)
    return Trades(
        chance.integers(3_000, 3_200, count) * 5,
        chance.integers(1, 30, count) * 10,
        chance.integers(1, 401, count),
        chance.integers(1, 401, count),
    )
