"""Runs a load: connects, offers calls for a while, waits for the last answers, reports.

A single thread around one epoll: each wakeup takes a connection's replies and sends its next calls,
both in one go. At a fixed rate calls come due on a timetable that does not wait for the server
(open loop), and latencies count from there; without a rate each answer makes room for the next
call (closed loop), which measures the most that the server can do, and latency at that point.
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

from diptych.loadtest import kernels
from diptych.loadtest.connection import LoadConnection, Tallies
from diptych.loadtest.cycle import Cycle, OperationInfo, encode_cycle, operations_of
from diptych.loadtest.latency import summary_us
from diptych.loadtest.mix import Call, Mix, MixError
from diptych.loadtest.report import OperationReport, Report
from diptych.loadtest.wire import Wire
from diptych_client.protocol import encode_frame

SETUP_CALLS_MAX = 10_000_000
SETUP_WINDOW = 512
DRAIN_S = 10.0
TICK_S = 0.000_25  # how late a call of the timetable may be sent when the load has time for it


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
        self._watched: dict[int, int] = {}  # descriptor -> events asked for
        self._history = 0
        self.measured_s = 0.0
        gap_ns = 0
        if settings.rate is not None:
            gap_ns = max(1, round(settings.connections * 1e9 / settings.rate))
        try:
            self.transactions, self.calls_of = self._connect(
                address, settings.connections, settings.in_flight, mix.calls, known, gap_ns
            )
            self.queries, self.queries_of = self._connect(
                address, settings.query_connections, settings.query_in_flight, mix.queries, known, 0
            )
        except BaseException:
            self._stack.close()
            raise
        for tallies in (self.calls_of, self.queries_of):
            tallies.fresh = settings.fresh
            # One array for both, so that fresh queries see what the transactions were told.
            tallies.shared = self.calls_of.shared
            tallies.shared[kernels.HISTORY] = self._history
        if not self.transactions and not self.queries:
            raise LoadFailed("nothing to send: no connections, or a mix without calls")

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
    ) -> tuple[dict[int, LoadConnection], Tallies]:
        """Encode each connection's calls and connect, before the clock starts."""
        table: list[str] = []
        cycles: list[Cycle] = [
            encode_cycle(calls(number), self.settings.cycle_calls, known, table)
            for number in range(count)
        ]
        tallies = Tallies(table)
        connections: dict[int, LoadConnection] = {}
        for cycle in cycles:
            wire = Wire(address, token=self.settings.token)
            self._history = int(wire.welcome.get("history", 0))
            connection = LoadConnection(wire.socket, cycle, in_flight, tallies, gap_ns)
            self._stack.callback(connection.close)
            descriptor = connection.socket.fileno()
            self._epoll.register(descriptor, select.EPOLLIN)
            self._watched[descriptor] = select.EPOLLIN
            connections[descriptor] = connection
        return connections, tallies

    def run(self, on_second: Callable[[Progress], None] | None = None) -> None:
        """Offer the load for warm-up and duration, then wait for the answers still owed."""
        everyone = [*self.transactions.values(), *self.queries.values()]
        everyone[0].compile_kernels()
        start_ns = time.monotonic_ns()
        from_ns = start_ns + round(self.settings.warmup_s * 1e9)
        until_ns = from_ns + round(self.settings.duration_s * 1e9)
        for tallies in (self.calls_of, self.queries_of):
            tallies.count_from_ns, tallies.count_until_ns = from_ns, until_ns
        for number, connection in enumerate(everyone):
            share = connection.gap_ns // max(1, len(self.transactions))
            connection.first_due_ns = start_ns + number * share
            connection.send(time.monotonic_ns(), until_ns)
            self._watch(connection)
        second = _Second(start_ns, list(self.transactions.values()), list(self.queries.values()))
        if on_second is not None:
            on_second(second.take(time.monotonic_ns()))
        while (now_ns := time.monotonic_ns()) < until_ns:
            if self.settings.rate is not None:
                self._send_due(now_ns, until_ns)
            self._wait_and_serve(min(0.1, (until_ns - now_ns) / 1e9), until_ns)
            if on_second is not None and second.over(now_ns):
                on_second(second.take(now_ns))
            if all(connection.lost for connection in everyone):
                break
        if self.settings.rate is not None:
            # What came due since the last look is still sent, where the window has room.
            self._send_due(until_ns - 1, until_ns)
        self.measured_s = max(0, min(time.monotonic_ns(), until_ns) - from_ns) / 1e9
        give_up_ns = until_ns + round(DRAIN_S * 1e9)
        while time.monotonic_ns() < give_up_ns and any(
            connection.unanswered and not connection.lost for connection in everyone
        ):
            self._wait_and_serve(0.1, until_ns)

    def report(
        self, setup: dict[str, int], before: dict[str, object], after: dict[str, object]
    ) -> Report:
        """What was counted, once `run` is over."""
        calls = self._operations(self.calls_of, "transaction")
        queries = self._operations(self.queries_of, "query")
        everyone = [*self.transactions.values(), *self.queries.values()]
        late = sum(
            max(0, connection.due(self.calls_of.count_until_ns - 1) - connection.sent)
            for connection in self.transactions.values()
            if connection.gap_ns
        )
        return Report(
            seconds=self.measured_s,
            connections=len(self.transactions),
            in_flight=self.settings.in_flight,
            rate=self.settings.rate,
            operations=calls + queries,
            transactions_rate=sum(operation.rate for operation in calls),
            queries_rate=sum(operation.rate for operation in queries),
            transactions_latency_us=summary_us(self.calls_of.latencies.sum(axis=0)),
            queries_latency_us=summary_us(self.queries_of.latencies.sum(axis=0)),
            unanswered=sum(connection.unanswered for connection in everyone),
            late_calls=late,
            lost_connections=sum(connection.lost for connection in everyone),
            setup=setup,
            server_before=before,
            server_after=after,
        )

    def _operations(self, tallies: Tallies, kind: str) -> list[OperationReport]:
        reports = []
        for row, name in enumerate(tallies.table):
            calls, results = tallies.counts[row, [kernels.CALLS, kernels.RESULTS]].tolist()
            refused = {
                code: count for (of, code), count in tallies.refused.items() if of == row and count
            }
            rate = calls / self.measured_s if self.measured_s else 0.0
            latency_us = summary_us(tallies.latencies[row])
            reports.append(OperationReport(name, kind, calls, results, refused, rate, latency_us))
        return reports

    def _send_due(self, now_ns: int, until_ns: int) -> None:
        for connection in self.transactions.values():
            if connection.due(now_ns) > connection.sent:
                connection.send(now_ns, until_ns)
                self._watch(connection)

    def _wait_and_serve(self, timeout_s: float, until_ns: int) -> None:
        events = self._epoll.poll(0)
        if not events:
            if self.settings.rate is not None:
                # epoll counts in milliseconds; select on its descriptor in microseconds.
                select.select([self._epoll.fileno()], [], [], min(timeout_s, TICK_S))
                events = self._epoll.poll(0)
            else:
                events = self._epoll.poll(timeout_s)
        for descriptor, event in events:
            connection = self.transactions.get(descriptor) or self.queries[descriptor]
            if event & select.EPOLLOUT:
                connection.flush()
            if event & ~select.EPOLLOUT:
                connection.receive(time.monotonic_ns())
            connection.send(time.monotonic_ns(), until_ns)
            self._watch(connection)

    def _watch(self, connection: LoadConnection) -> None:
        """Ask for what the connection waits for: always replies, room to write only when needed."""
        descriptor = connection.socket.fileno()
        if connection.lost:
            if self._watched.pop(descriptor, 0):
                self._epoll.unregister(descriptor)
            return
        events = select.EPOLLIN | (select.EPOLLOUT if connection.wants_to_write else 0)
        if events != self._watched[descriptor]:
            self._watched[descriptor] = events
            self._epoll.modify(descriptor, events)


class _Second:
    """Counts for progress, once a second."""

    def __init__(
        self, start_ns: int, transactions: list[LoadConnection], queries: list[LoadConnection]
    ) -> None:
        self._start_ns = self._last_ns = start_ns
        self._of = (transactions, queries)
        self._before = (0, 0)

    def over(self, now_ns: int) -> bool:
        return now_ns - self._last_ns >= 1_000_000_000

    def take(self, now_ns: int) -> Progress:
        seconds = max(1, now_ns - self._last_ns) / 1e9
        transactions, queries = (
            sum(connection.answered for connection in connections) for connections in self._of
        )
        before = self._before
        self._last_ns, self._before = now_ns, (transactions, queries)
        return Progress(
            (now_ns - self._start_ns) / 1e9,
            transactions,
            queries,
            (transactions - before[0]) / seconds,
            (queries - before[1]) / seconds,
        )
