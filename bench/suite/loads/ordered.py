"""A load on servers that answer in the order of the calls: what differs from Diptych's own load.

A `Protocol` encodes calls, opens connections and finds replies; everything else (windows, time
tables, percentiles) is that of `diptych.loadtest`, so systems differ in nothing else.
"""

from __future__ import annotations

import select
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import numpy as np

from bench.suite.loads import kernels
from bench.suite.workload import plain
from diptych.loadtest import LoadSettings, Mix, Report
from diptych.loadtest.connection import LoadConnection, Tallies
from diptych.loadtest.cycle import Cycle
from diptych.loadtest.load import Load
from diptych.loadtest.mix import Call, ResultOf
from diptych_client.connecting import tune

HOLE = ResultOf(-1)
"""Stands for an earlier result in what `Protocol.encode` gets."""


class Protocol(ABC):
    """How a system's calls and replies look. `digits`: holes are text, else eight bytes."""

    digits = False
    take: Callable[..., int]
    """The kernel that finds replies."""

    @abstractmethod
    def connect(self) -> socket.socket:
        """A connection that is ready for calls."""

    @abstractmethod
    def encode(self, name: str, arguments: tuple[Any, ...]) -> tuple[bytes, int]:
        """A call's bytes, and where its hole begins, -1 without one."""

    @abstractmethod
    def code(self, reply: bytes) -> str:
        """What a refusal that begins here is called."""


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


class OrderedConnection(LoadConnection):
    """One loaded connection that speaks `protocol`."""

    def __init__(self, protocol: Protocol, *others: Any) -> None:
        self._protocol = protocol
        super().__init__(*others)

    def _write_calls(self, count: int, now_ns: int) -> int:
        cycle = self.cycle
        return kernels.write_calls(
            cycle.frames,
            cycle.starts,
            cycle.hole_at,
            cycle.hole_from,
            self._results,
            self._due_ns,
            self.state,
            self._out,
            count,
            self.first_due_ns if self.gap_ns else now_ns,
            self.gap_ns,
            self._protocol.digits,
        )

    def _take_replies(self, now_ns: int) -> int:
        cycle, tallies = self.cycle, self.tallies
        return type(self._protocol).take(
            self._in,
            self._have,
            cycle.operation,
            cycle.watched,
            self._results,
            self._due_ns,
            self.state,
            tallies.counts,
            tallies.latencies,
            tallies.refusals,
            now_ns,
            tallies.count_from_ns,
            tallies.count_until_ns,
        )

    def _count_refusals(self) -> None:
        refused = self.tallies.refused
        for position, row in self.tallies.refusals[: int(self.state[kernels.REFUSED])].tolist():
            key = (row, self._protocol.code(bytes(self._in_view[position : position + 512])))
            refused[key] = refused.get(key, 0) + 1


class OrderedLoad(Load):
    """`diptych.loadtest.load.Load` with connections of another protocol."""

    def __init__(self, protocol: Protocol, mix: Mix, settings: LoadSettings) -> None:
        self._protocol = protocol
        super().__init__("", mix, settings, {})

    def _connect(
        self,
        address: str,
        count: int,
        in_flight: int,
        calls: Callable[[int], Iterable[Call]],
        known: Any,
        gap_ns: int,
    ) -> tuple[dict[int, LoadConnection], Tallies]:
        table: list[str] = []
        cycles = [
            cycle_of(self._protocol, calls(number), self.settings.cycle_calls, table)
            for number in range(count)
        ]
        tallies = Tallies(table)
        connections: dict[int, LoadConnection] = {}
        for cycle in cycles:
            sock = self._protocol.connect()
            connection = OrderedConnection(
                self._protocol, sock, cycle, in_flight, tallies, gap_ns
            )
            self._stack.callback(connection.close)
            descriptor = sock.fileno()
            self._epoll.register(descriptor, select.EPOLLIN)
            self._watched[descriptor] = select.EPOLLIN
            connections[descriptor] = connection
        return connections, tallies


def run_ordered(protocol: Protocol, mix: Mix, settings: LoadSettings) -> Report:
    """Put load on a server that speaks `protocol`, and report."""
    with OrderedLoad(protocol, mix, settings) as load:
        load.run()
        return load.report({}, {}, {})


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
