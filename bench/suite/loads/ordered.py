"""A load on servers that answer in the order of the calls: `diptych.loadtest`'s own loop, kernels
and windows, with calls and replies as a `Protocol` has them.

So every system is loaded by a generator of the same make, with the same share of the machine.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import numpy as np
from bench.suite.loads import kernels
from bench.suite.loads.protocol import HOLE, Protocol
from bench.suite.workload import plain

from diptych.kernel import bound
from diptych.loadtest import LoadSettings, Mix, Report
from diptych.loadtest.connection import Connections
from diptych.loadtest.cycle import Cycle
from diptych.loadtest.kernels import REFUSALS, REFUSED_BYTES
from diptych.loadtest.load import Load
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


class OrderedConnections(Connections):
    """The loaded connections of one kind, which speak `protocol`."""

    def __init__(self, protocol: Protocol, *others: Any) -> None:
        self._protocol = protocol
        super().__init__(*others)

    def _compile(self) -> None:
        found = np.zeros((1, 2), np.int64)
        self._serve = bound(kernels.serve, found, 0, 0, *self._served())
        self._offer_all = bound(kernels.offer_all, *self._offered(0))

    def _count_refusals(self) -> None:
        view = self._refused.data
        for operation, _, start, stop in self._refusals[: int(self.shared[REFUSALS])].tolist():
            key = (operation, self._protocol.code(bytes(view[start:stop])))
            self.refused[key] = self.refused.get(key, 0) + 1
        self.shared[REFUSALS] = self.shared[REFUSED_BYTES] = 0


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
    ) -> Connections:
        if len(self._shared) < kernels.WORDS:
            more = kernels.WORDS - len(self._shared)
            self._shared = np.append(self._shared, np.zeros(more, np.int64))
            self._shared[kernels.PROTOCOL] = self._protocol.number
        table: list[str] = []
        cycles = [
            cycle_of(self._protocol, calls(number), self.settings.cycle_calls, table)
            for number in range(count)
        ]
        sockets = []
        for _ in cycles:
            sock = self._protocol.connect()
            self._stack.callback(sock.close)
            self._epoll.register(sock, select.EPOLLIN)
            sockets.append(sock)
        return OrderedConnections(
            self._protocol, sockets, cycles, table, in_flight, gap_ns, self._shared
        )


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
