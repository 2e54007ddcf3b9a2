"""Runs a load: connects, offers calls for a while, waits for the last answers, reports.

A single thread around one epoll: each wakeup takes the replies of all connections that have any and
sends their next calls, in one kernel. At a fixed rate calls come due on a timetable that does not
wait for the server (open loop), and latencies count from there; without a rate each answer makes
room for the next call (closed loop), which measures the most that the server can do, and latency at
that point.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import msgpack
import numpy as np

from diptych.kernel import bound
from diptych.loadtest import kernels
from diptych.loadtest.connection import Connections
from diptych.loadtest.cycle import Cycle, OperationInfo, encode_cycle, operations_of
from diptych.loadtest.latency import Counters, summary_us
from diptych.loadtest.mix import Call, Mix, MixError
from diptych.loadtest.report import OperationReport, Report
from diptych.loadtest.wire import Wire
from diptych.serving.system_calls import events_for, ready
from diptych_client.protocol import encode_frame

SETUP_CALLS_MAX = 10_000_000
SETUP_WINDOW = 512
DRAIN_S = 10.0
ROUND_NS = 250_000  # how late a call of the timetable may be sent when the load has time for it
LONG_ROUND_NS = 1_000_000
LONG_ROUND_CALLS = 2
"""With so many calls on each connection in a long round, rounds are long: a system call for
each would take a processor, here and in the server, that is wanted for what is measured."""


class LoadFailed(Exception):
    """The load could not run at all."""


@dataclass(frozen=True)
class LoadSettings:
    """`rate`: calls/s of all connections together, None for a closed loop. Queries are closed loops
    of their own. `cycle_calls`: how many calls of each connection are encoded, then sent again."""

    connections: int = 50
    in_flight: int = 32
    rate: float | None = None
    duration_s: float = 10.0
    warmup_s: float = 1.0
    query_connections: int = 0
    query_in_flight: int = 1
    fresh: bool = False
    cycle_calls: int = 4_000
    setup: bool = True
    token: str | None = None


class Progress(NamedTuple):
    """At the start and once a second: how far, and the rates since the last time."""

    elapsed_s: float
    transactions: int
    queries: int
    transactions_rate: float
    queries_rate: float


def run_load(
    address: str,
    mix: Mix,
    settings: LoadSettings,
    on_second: Callable[[Progress], None] | None = None,
) -> Report:
    """Put load on a server and report. Errors: LoadFailed, MixError, DiptychError."""
    try:
        with Wire(address, token=settings.token) as control:
            known = operations_of(control.welcome)
            limit = control.welcome.get("limits", {}).get("transactions_in_flight")
            if limit is not None and settings.in_flight > limit:
                raise LoadFailed(f"a connection may have {limit} calls in flight here")
            outcomes = _set_up(control, mix, known) if settings.setup else {}
            before = control.info()
            with Load(address, mix, settings, known) as load:
                load.run(on_second)
                return load.report(outcomes, before, control.info())
    except (OSError, ValueError) as error:
        raise LoadFailed(f"{address}: {error}") from error


def _set_up(control: Wire, mix: Mix, known: dict[str, OperationInfo]) -> dict[str, int]:
    """Run the mix's setup. Refusals are counted: a second run finds everything there already."""

    def frames() -> Iterable[bytes]:
        for name, arguments in islice(mix.setup(), SETUP_CALLS_MAX):
            info = known.get(name)
            if info is None:
                raise MixError(f"setup: the server has no operation {name!r}")
            payload = msgpack.packb(list(arguments))
            yield encode_frame(info.kind, payload, operation=info.number, request=1)

    return control.run(frames(), SETUP_WINDOW)


class Load:
    """The connections and their loop. Use as a context manager: leaving it closes them."""

    def __init__(
        self, address: str, mix: Mix, settings: LoadSettings, known: dict[str, OperationInfo]
    ) -> None:
        self.settings = settings
        self._stack = ExitStack()
        self._epoll = select.epoll()
        self._stack.callback(self._epoll.close)
        # One array for both kinds, so that fresh queries see what the transactions were told.
        self._shared: Counters = np.zeros(kernels.SHARED_WORDS, np.int64)
        self._shared[kernels.FRESH] = settings.fresh
        self.measured_s = 0.0
        gap_ns = 0
        self._round_ns = ROUND_NS
        if settings.rate is not None:
            gap_ns = max(1, round(settings.connections * 1e9 / settings.rate))
            if LONG_ROUND_CALLS * gap_ns <= LONG_ROUND_NS:
                self._round_ns = LONG_ROUND_NS
        self._shared[kernels.ROUND_NS] = self._round_ns
        try:
            self.transactions = self._connect(
                address, settings.connections, settings.in_flight, mix.calls, known, gap_ns
            )
            self.queries = self._connect(
                address, settings.query_connections, settings.query_in_flight, mix.queries, known, 0
            )
            if not len(self.transactions) and not len(self.queries):
                raise LoadFailed("nothing to send: no connections, or a mix without calls")
        except BaseException:
            self._stack.close()
            raise
        everyone = len(self.transactions) + len(self.queries)
        self._events = events_for(everyone)
        self._found: Counters = np.zeros((everyone, 2), np.int64)
        self._ready = bound(ready, self._epoll.fileno(), self._events, self._found)

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _connect(
        self,
        address: str,
        count: int,
        in_flight: int,
        calls: Callable[[int], Iterable[Call]],
        known: dict[str, OperationInfo],
        gap_ns: int,
    ) -> Connections:
        """Encode each connection's calls and connect, before the clock starts."""
        table: list[str] = []
        cycles: list[Cycle] = [
            encode_cycle(calls(number), self.settings.cycle_calls, known, table)
            for number in range(count)
        ]
        sockets = []
        for _ in cycles:
            wire = Wire(address, token=self.settings.token)
            self._stack.callback(wire.socket.close)
            self._shared[kernels.HISTORY] = int(wire.welcome.get("history", 0))
            self._epoll.register(wire.socket, select.EPOLLIN)
            sockets.append(wire.socket)
        return Connections(sockets, cycles, table, in_flight, gap_ns, self._shared)

    def run(self, on_second: Callable[[Progress], None] | None = None) -> None:
        """Offer the load for warm-up and duration, then wait for the answers still owed."""
        both, shared = (self.transactions, self.queries), self._shared
        start_ns = time.monotonic_ns()
        from_ns = start_ns + round(self.settings.warmup_s * 1e9)
        until_ns = from_ns + round(self.settings.duration_s * 1e9)
        shared[kernels.COUNT_FROM_NS], shared[kernels.COUNT_UNTIL_NS] = from_ns, until_ns
        for connections in both:
            connections.begin(start_ns)
            connections.offer(time.monotonic_ns(), self._epoll)
        second = _Second(start_ns, both)
        if on_second is not None:
            on_second(second.take(time.monotonic_ns()))
        everyone = sum(map(len, both))
        wake_ns, step_ns = start_ns, 100_000_000
        if self.settings.rate is not None:
            step_ns = self._round_ns
        while (now_ns := time.monotonic_ns()) < until_ns:
            if now_ns >= wake_ns:
                wake_ns = now_ns - now_ns % step_ns + step_ns
                if self.settings.rate is not None:
                    self.transactions.offer(now_ns, self._epoll)
            self._wait_and_serve((min(wake_ns, until_ns) - now_ns) / 1e9)
            if on_second is not None and second.over(now_ns):
                on_second(second.take(now_ns))
            if sum(connections.lost for connections in both) == everyone:
                break
        if on_second is not None and second.over(now_ns := time.monotonic_ns()):
            on_second(second.take(now_ns))
        if self.settings.rate is not None:
            # What came due since the last look is still sent, where the window has room.
            shared[kernels.ROUND_NS] = 1
            self.transactions.offer(until_ns - 1, self._epoll)
        self.measured_s = max(0, min(time.monotonic_ns(), until_ns) - from_ns) / 1e9
        give_up_ns = until_ns + round(DRAIN_S * 1e9)
        while time.monotonic_ns() < give_up_ns and any(connections.owed for connections in both):
            self._wait_and_serve(0.1)

    def report(
        self, setup: dict[str, int], before: dict[str, object], after: dict[str, object]
    ) -> Report:
        """What was counted, once `run` is over."""
        calls = self._operations(self.transactions, "transaction")
        queries = self._operations(self.queries, "query")
        both = (self.transactions, self.queries)
        return Report(
            seconds=self.measured_s,
            connections=len(self.transactions),
            in_flight=self.settings.in_flight,
            rate=self.settings.rate,
            operations=calls + queries,
            transactions_rate=sum(operation.rate for operation in calls),
            queries_rate=sum(operation.rate for operation in queries),
            transactions_latency_us=summary_us(self.transactions.latencies.sum(axis=0)),
            queries_latency_us=summary_us(self.queries.latencies.sum(axis=0)),
            unanswered=sum(connections.unanswered for connections in both),
            late_calls=self.transactions.late(int(self._shared[kernels.COUNT_UNTIL_NS])),
            lost_connections=sum(connections.lost for connections in both),
            setup=setup,
            server_before=before,
            server_after=after,
        )

    def _operations(self, of: Connections, kind: str) -> list[OperationReport]:
        reports = []
        for row, name in enumerate(of.table):
            calls, results = of.counts[row, [kernels.ASKED, kernels.RESULTS]].tolist()
            refused = {code: count for (at, code), count in of.refused.items() if at == row}
            rate = calls / self.measured_s if self.measured_s else 0.0
            latency_us = summary_us(of.latencies[row])
            reports.append(OperationReport(name, kind, calls, results, refused, rate, latency_us))
        return reports

    def _wait_and_serve(self, timeout_s: float) -> None:
        count = self._look()
        if not count and timeout_s > 0:
            # epoll counts in milliseconds; select on its descriptor in microseconds.
            if self.settings.rate is not None:
                select.select([self._epoll.fileno()], [], [], timeout_s)
            else:
                self._epoll.poll(timeout_s, 1)
            count = self._look()
        if count:
            for connections in (self.transactions, self.queries):
                connections.serve(self._found, count, self._epoll)

    def _look(self) -> int:
        """How many sockets are ready now; they are in `_found`."""
        return self._ready(self._epoll.fileno(), self._events, self._found)


class _Second:
    """Counts for progress, once a second."""

    def __init__(self, start_ns: int, both: tuple[Connections, Connections]) -> None:
        self._start_ns = self._last_ns = start_ns
        self._both = both
        self._before = (0, 0)

    def over(self, now_ns: int) -> bool:
        return now_ns - self._last_ns >= 1_000_000_000

    def take(self, now_ns: int) -> Progress:
        seconds = max(1, now_ns - self._last_ns) / 1e9
        transactions, queries = (connections.answered for connections in self._both)
        before = self._before
        self._last_ns, self._before = now_ns, (transactions, queries)
        return Progress(
            (now_ns - self._start_ns) / 1e9,
            transactions,
            queries,
            (transactions - before[0]) / seconds,
            (queries - before[1]) / seconds,
        )
