"""The loaded connections of one kind: their cycles, windows and buffers, in arrays for kernels.

Closed loop: as many calls as fit in the window, each due when it is sent. Fixed rate: calls are due
on a timetable whether or not the window has room, and stay due from then. Never blocks: what a
socket does not take now goes out when it is writable again.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.kernel import bound
from diptych.loadtest import kernels
from diptych.loadtest.cycle import Cycle
from diptych.loadtest.kernels import (
    ANSWERED,
    CALLS,
    FD,
    FIRST,
    FIRST_DUE_NS,
    GAP_NS,
    HAVE,
    LOST,
    NEEDED_BYTES,
    SENT,
    UNSENT,
    UNSENT_STOP,
    WINDOW,
)
from diptych.loadtest.latency import BINS, Counters
from diptych.loadtest.wire import refusal_code
from diptych_client.protocol import HEADER_BYTES

SEND_BYTES = 256 << 10
READ_BYTES = 256 << 10

Bytes = npt.NDArray[np.uint8]


class Connections:
    """Owns its sockets. `table`: the operation of each row of counts."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        cycles: Sequence[Cycle],
        table: list[str],
        window: int,
        gap_ns: int,
        shared: Counters,
    ) -> None:
        self.sockets, self.table, self.shared = sockets, table, shared
        operations = max(1, len(table))
        self.counts: Counters = np.zeros((operations, kernels.COUNTS), np.int64)
        self.latencies: Counters = np.zeros((operations, BINS), np.int64)
        self.refused: dict[tuple[int, str], int] = {}
        self.rows: Counters = np.zeros((len(sockets), kernels.ROW_WORDS), np.int64)
        self._asked_events = [select.EPOLLIN] * len(sockets)
        descriptors = [sock.fileno() for sock in sockets]
        self._row_of: Counters = np.full(max(descriptors, default=0) + 1, -1, np.int64)
        self._row_of[descriptors] = np.arange(len(sockets))
        self._lay_out(cycles)
        for row, sock, cycle in zip(self.rows, sockets, cycles, strict=True):
            sock.setblocking(False)
            # A call's due time is kept until its answer: no more in flight than a round has calls.
            row[[FD, CALLS, WINDOW]] = sock.fileno(), cycle.count, min(window, cycle.count)
            row[GAP_NS] = gap_ns
        self._clock: Counters = np.zeros(2, np.int64)
        self._compile()

    def _lay_out(self, cycles: Sequence[Cycle]) -> None:
        """All cycles one after the other."""
        frames, starts, holes, watched = [], [], [], []
        first = position = 0
        for row, cycle in zip(self.rows, cycles, strict=True):
            row[FIRST] = first
            frames.append(cycle.frames)
            starts.append(cycle.starts[:-1] + position)
            hole_at = np.where(cycle.hole_at >= 0, cycle.hole_at + position, -1)
            holes.append(np.stack([hole_at, cycle.hole_from + first], axis=1))
            watched.append(np.stack([cycle.operation, cycle.watched], axis=1))
            first, position = first + cycle.count, position + len(cycle.frames)
        none = np.zeros((0, 2), np.int64)
        self._frames: Bytes = np.concatenate([np.zeros(0, np.uint8), *frames])
        self._starts: Counters = np.concatenate([*starts, np.array([position])])
        self._holes: Counters = np.concatenate([none, *holes])
        self._watched: Counters = np.concatenate([none, *watched])
        self._due_ns: Counters = np.zeros(first, np.int64)
        self._results: Counters = np.zeros(first, np.int64)
        largest = int(np.diff(self._starts).max(initial=0))
        self._outputs: Bytes = np.zeros((len(cycles), max(SEND_BYTES, largest)), np.uint8)
        self._make_inputs(READ_BYTES)

    def _make_inputs(self, size_bytes: int) -> None:
        self._inputs: Bytes = np.zeros((len(self.rows), size_bytes), np.uint8)
        # Room for a read of nothing but refusals, and as much again before they are looked at.
        count = 2 * size_bytes // HEADER_BYTES
        self._refusals: Counters = np.zeros((count, kernels.REFUSAL_COLUMNS), np.int64)
        self._refused: Bytes = np.zeros(2 * size_bytes, np.uint8)

    def _compile(self) -> None:
        """Before the clock starts."""
        found = np.zeros((1, 2), np.int64)
        self._serve = bound(kernels.serve, found, 0, 0, *self._served())
        self._offer_all = bound(kernels.offer_all, *self._offered(0))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def answered(self) -> int:
        return int(self.rows[:, ANSWERED].sum())

    @property
    def lost(self) -> int:
        """Connections that the server closed."""
        return int(self.rows[:, LOST].sum())

    @property
    def unanswered(self) -> int:
        return int((self.rows[:, SENT] - self.rows[:, ANSWERED]).sum())

    @property
    def owed(self) -> bool:
        """Whether answers may come yet."""
        rows = self.rows[self.rows[:, LOST] == 0]
        return bool((rows[:, SENT] > rows[:, ANSWERED]).any())

    def late(self, until_ns: int) -> int:
        """Calls of the timetable that were due before, and were not sent."""
        rows = self.rows[self.rows[:, GAP_NS] > 0]
        due = (until_ns - 1 - rows[:, FIRST_DUE_NS]) // np.maximum(1, rows[:, GAP_NS]) + 1
        return int(np.maximum(0, np.maximum(0, due) - rows[:, SENT]).sum())

    def begin(self, start_ns: int) -> None:
        """Timetables begin, each connection's a little after the one before."""
        numbers = np.arange(len(self.rows))
        self.rows[:, FIRST_DUE_NS] = start_ns + numbers * (
            self.rows[:, GAP_NS] // max(1, len(self.rows))
        )

    def offer(self, now_ns: int, epoll: select.epoll) -> None:
        """Send what is due and fits in the windows."""
        self._offer_all(*self._offered(now_ns))
        self._look(epoll)

    def serve(self, found: Counters, count: int, epoll: select.epoll) -> None:
        """Take the replies of connections that are ready, and send their next calls."""
        done = 0
        while done < count:
            done = self._serve(found, done, count, *self._served())
            if self.shared[kernels.REFUSALS]:
                self._count_refusals()
        self._look(epoll)

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()

    def _offered(self, now_ns: int) -> tuple[Any, ...]:
        return (
            self.rows,
            self._outputs,
            self.shared,
            self._frames,
            self._starts,
            self._holes,
            self._results,
            self._due_ns,
            now_ns,
        )

    def _served(self) -> tuple[Any, ...]:
        return (
            self._row_of,
            self.rows,
            self._inputs,
            self._outputs,
            self.shared,
            self._frames,
            self._starts,
            self._holes,
            self._watched,
            self._results,
            self._due_ns,
            self.counts,
            self.latencies,
            self._refusals,
            self._refused,
            self._clock,
        )

    def _count_refusals(self) -> None:
        listed = self._refusals[: int(self.shared[kernels.REFUSALS])]
        view = self._refused.data
        for operation, kind, start, stop in listed.tolist():
            key = (operation, refusal_code(kind, bytes(view[start:stop])))
            self.refused[key] = self.refused.get(key, 0) + 1
        self.shared[kernels.REFUSALS] = self.shared[kernels.REFUSED_BYTES] = 0

    def _look(self, epoll: select.epoll) -> None:
        """Ask for what connections wait for: always replies, room to write only when needed."""
        if not self.shared[kernels.ATTENTION]:
            return
        self.shared[kernels.ATTENTION] = 0
        needed_bytes = int(self.rows[:, NEEDED_BYTES].max(initial=0))
        if needed_bytes > self._inputs.shape[1]:
            have, before = int(self.rows[:, HAVE].max()), self._inputs
            self._make_inputs(needed_bytes)
            self._inputs[:, :have] = before[:, :have]
        for number, row in enumerate(self.rows.tolist()):
            events = select.EPOLLIN
            if row[LOST]:
                events = 0
            elif row[UNSENT] < row[UNSENT_STOP]:
                events |= select.EPOLLOUT
            if events != self._asked_events[number]:
                self._asked_events[number] = events
                if events:
                    epoll.modify(row[FD], events)
                else:
                    epoll.unregister(row[FD])
