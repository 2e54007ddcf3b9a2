"""A load on servers that answer in the order of the calls: windows, time tables and percentiles as
those of `diptych.loadtest`, with calls and replies as a `Protocol` has them.

A plain loop, a wakeup a connection: it keeps up with each of the servers it is for, which one core
runs, while `diptych.loadtest` has to keep up with a server on two.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from itertools import islice

import numpy as np
from bench.suite.loads import kernels
from bench.suite.loads.connection import Connection, Tallies
from bench.suite.loads.protocol import HOLE, Protocol
from bench.suite.workload import plain

from diptych.loadtest import LoadFailed, LoadSettings, Mix, OperationReport, Report
from diptych.loadtest.cycle import Cycle
from diptych.loadtest.latency import summary_us
from diptych.loadtest.mix import Call, ResultOf
from diptych_client.connecting import tune


def cycle_of(protocol: Protocol, calls: Iterable[Call], count: int, table: list[str]) -> Cycle:
    """The first `count` calls as bytes; see `diptych.loadtest.cycle`."""
    frames = bytearray()
    starts, operation, hole_at, hole_from = [0], [], [], []
    watched = np.zeros(count, np.int64)
    for name, arguments in islice(calls, count):
        if name not in table:
            table.append(name)
        needed = [each.call for each in arguments if isinstance(each, ResultOf)]
        given = tuple(HOLE if isinstance(each, ResultOf) else each for each in plain(arguments))
        data, hole = protocol.encode(name, given)
        watched[needed] = 1
        hole_at.append(len(frames) + hole if needed else -1)
        hole_from.append(needed[0] if needed else 0)
        operation.append(table.index(name))
        frames += data
        starts.append(len(frames))
    return Cycle(
        np.frombuffer(bytes(frames), np.uint8),
        np.array(starts, np.int64),
        np.array(operation, np.int64),
        np.array(hole_at, np.int64),
        np.array(hole_from, np.int64),
        watched[: len(operation)],
    )


DRAIN_S = 10.0
TICK_S = 0.000_25  # how late a call of the timetable may be sent when the load has time for it


class Load:
    """The connections and their loop. Use as a context manager: leaving it closes them."""

    def __init__(self, protocol: Protocol, mix: Mix, settings: LoadSettings) -> None:
        self._protocol = protocol
        self.settings = settings
        self._stack = ExitStack()
        self._epoll = select.epoll()
        self._stack.callback(self._epoll.close)
        self._watched: dict[int, int] = {}  # descriptor -> events asked for
        self.measured_s = 0.0
        gap_ns = 0
        if settings.rate is not None:
            gap_ns = max(1, round(settings.connections * 1e9 / settings.rate))
        try:
            self.transactions, self.calls_of = self._connect(
                settings.connections, settings.in_flight, mix.calls, gap_ns
            )
            self.queries, self.queries_of = self._connect(
                settings.query_connections, settings.query_in_flight, mix.queries, 0
            )
        except BaseException:
            self._stack.close()
            raise
        if not self.transactions and not self.queries:
            raise LoadFailed("nothing to send: no connections, or a mix without calls")

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _connect(
        self,
        count: int,
        in_flight: int,
        calls: Callable[[int], Iterable[Call]],
        gap_ns: int,
    ) -> tuple[dict[int, Connection], Tallies]:
        """Encode each connection's calls and connect, before the clock starts."""
        table: list[str] = []
        cycles = [
            cycle_of(self._protocol, calls(number), self.settings.cycle_calls, table)
            for number in range(count)
        ]
        tallies = Tallies(table)
        connections: dict[int, Connection] = {}
        for cycle in cycles:
            sock = self._protocol.connect()
            connection = Connection(self._protocol, sock, cycle, in_flight, tallies, gap_ns)
            self._stack.callback(connection.close)
            descriptor = sock.fileno()
            self._epoll.register(descriptor, select.EPOLLIN)
            self._watched[descriptor] = select.EPOLLIN
            connections[descriptor] = connection
        return connections, tallies

    def run(self) -> None:
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
        while (now_ns := time.monotonic_ns()) < until_ns:
            if self.settings.rate is not None:
                self._send_due(now_ns, until_ns)
            self._wait_and_serve(min(0.1, (until_ns - now_ns) / 1e9), until_ns)
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

    def report(self) -> Report:
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
            setup={},
            server_before={},
            server_after={},
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

    def _watch(self, connection: Connection) -> None:
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


def run_ordered(protocol: Protocol, mix: Mix, settings: LoadSettings) -> Report:
    """Put load on a server that speaks `protocol`, and report."""
    with Load(protocol, mix, settings) as load:
        load.run()
        return load.report()


def opened(address: tuple[str, int] | str) -> socket.socket:
    """A tuned connection to a TCP port, or to a socket's path."""
    if isinstance(address, str):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(30.0)
        sock.connect(address)
        return sock
    sock = socket.create_connection(address, 30.0)
    tune(sock)
    return sock
