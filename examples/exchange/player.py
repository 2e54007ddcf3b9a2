"""Plays market events against a running exchange, and accounts for every one of them.

Events come from a tape or from the generator of `flow`. Orders have keys of their own there; the
player learns which number each got here, so a cancel waits for the answer to its order and for
nothing else, while hundreds of other calls are in flight on one connection, in the order of the
tape. `in_flight=1` plays strictly one event after another.

An event that needs no call is accounted for as well: what a tape says was filled is left to our own
matching, and an order that the tape never created is unknown here too.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterable, Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np

from diptych import AsyncClient, DiptychError, Rejected
from diptych.loadtest.latency import BINS, Counters, bin_of
from exchange.schema import Placed, Side, Until


class Place(NamedTuple):
    key: Hashable
    account: int
    symbol: str
    side: Side
    price: int
    quantity: int
    until: Until = Until.CANCELLED


class Cancel(NamedTuple):
    key: Hashable


class Fill(NamedTuple):
    """The tape says that this order was filled; `whole`: nothing of it is left there."""

    key: Hashable
    whole: bool


Event: TypeAlias = Place | Cancel | Fill

RESTING = "accepted: order rests"
MATCHED = "accepted: order matched at once"
DROPPED = "accepted: order dropped, not all of it matched at once"
CANCELLED = "accepted: order cancelled"
REJECTED = "rejected: "
FAILED = "failed: "
UNKNOWN = "unknown order: created before the tape began"
FILLED_THERE = "no call: filled on the tape, here by our own matching"
FILLED_HERE = "no call: to be cancelled, but all matched here at once"
NEVER_HERE = "no call: to be cancelled, but rejected here"


@dataclass
class Tally:
    """How each event read ended, and how long calls took. `check` insists that none is missing."""

    read: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    latencies: Counters = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def check(self) -> None:
        """Errors: AssertionError when an event is not accounted for, or counted twice."""
        assert self.outcomes.total() == self.read, f"{self.read} read, {self.outcomes}"

    def lines(self) -> list[str]:
        shown = [f"{count:>10,}  {outcome}" for outcome, count in sorted(self.outcomes.items())]
        return [*shown, f"{self.outcomes.total():>10,}  of {self.read:,} events read"]

    @property
    def failures(self) -> int:
        """Calls that ended in neither a result nor a rejection."""
        return sum(count for name, count in self.outcomes.items() if name.startswith(FAILED))


class Player:
    """Plays events through one client. `tally` can be read while it does."""

    def __init__(self, client: AsyncClient, *, in_flight: int = 512) -> None:
        self.tally = Tally()
        self._client = client
        self._room = asyncio.Semaphore(in_flight)
        self._orders: dict[Hashable, tuple[int, asyncio.Task[int | None]]] = {}

    async def play(
        self,
        events: Iterable[Event] | AsyncIterable[Event],
        going: Callable[[], bool] = lambda: True,
    ) -> Tally:
        """Play until the events end or `going()` is false, then wait for the last answers."""
        stream = events if isinstance(events, AsyncIterable) else _stream(events)
        async with asyncio.TaskGroup() as group:
            async for event in stream:
                if not going():
                    break
                self.tally.read += 1
                if isinstance(event, Place):
                    await self._room.acquire()
                    # Tasks begin in the order they are made, and a call is queued for sending
                    # before it first waits: so orders leave in the order of the tape.
                    task = group.create_task(self._place(event))
                    self._orders[event.key] = (event.account, task)
                elif event.key not in self._orders:
                    self.tally.outcomes[UNKNOWN] += 1
                elif isinstance(event, Cancel):
                    await self._room.acquire()
                    group.create_task(self._cancel(*self._orders.pop(event.key)))
                else:
                    self.tally.outcomes[FILLED_THERE] += 1
                    if event.whole:
                        del self._orders[event.key]
        self.tally.check()
        return self.tally

    async def _place(self, order: Place) -> int | None:
        """The number of the order that rests, 0 when none does, None when it was refused."""
        started = self._call()
        outcome = DROPPED
        number: int | None = None
        try:
            placed: Placed = await self._client.place_order(*order[1:])
            number = placed.order
            if number:
                outcome = RESTING
            elif placed.filled == order.quantity:
                outcome = MATCHED
        except Rejected as no:
            outcome = REJECTED + no.code
        except DiptychError as error:
            outcome = FAILED + error.code
        finally:
            self._room.release()
        self._answered(started)
        self.tally.outcomes[outcome] += 1
        return number

    async def _cancel(self, account: int, placing: asyncio.Task[int | None]) -> None:
        outcome, started = CANCELLED, 0
        try:
            number = placing.result() if placing.done() else await placing
            if number is None:
                outcome = NEVER_HERE
            elif number == 0:
                outcome = FILLED_HERE
            else:
                started = self._call()
                await self._client.cancel_order(account, number)
        except Rejected as no:
            outcome = REJECTED + no.code
        except DiptychError as error:
            outcome = FAILED + error.code
        finally:
            self._room.release()
        if started:
            self._answered(started)
        self.tally.outcomes[outcome] += 1

    def _call(self) -> int:
        self.tally.calls += 1
        return time.perf_counter_ns()

    def _answered(self, started_ns: int) -> None:
        self.tally.latencies[bin_of(time.perf_counter_ns() - started_ns)] += 1


async def _stream(events: Iterable[Event]) -> AsyncIterable[Event]:
    """Let the loop run now and then also where no event has to wait."""
    for number, event in enumerate(events):
        if number % 64 == 0:
            await asyncio.sleep(0)
        yield event
