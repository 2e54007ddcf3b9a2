"""One loaded connection: its cycle, its window, its buffers, in plain calls of its own.

Closed loop: as many calls as fit in the window, each due when it is sent. Fixed rate: calls are due
on a timetable whether or not the window has room, and stay due from then. Never blocks: what a
socket does not take now goes out when it is writable again.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from bench.suite.loads import kernels
from bench.suite.loads.protocol import Protocol

from diptych.loadtest.cycle import Cycle
from diptych.loadtest.latency import BINS, Counters

SEND_BYTES = 256 << 10
READ_BYTES = 256 << 10
REPLY_BYTES_LEAST = 4
STATE_WORDS = 4
COUNTS = 4
REFUSALS_MAX = READ_BYTES // REPLY_BYTES_LEAST


@dataclass
class Tallies:
    """Counts that all connections of one kind share. `table`: the operation of each row."""

    table: list[str]
    count_from_ns: int = 0
    count_until_ns: int = 0
    refused: dict[tuple[int, str], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = max(1, len(self.table))
        self.counts: Counters = np.zeros((rows, COUNTS), np.int64)
        self.latencies: Counters = np.zeros((rows, BINS), np.int64)
        self.refusals: npt.NDArray[np.int64] = np.zeros((REFUSALS_MAX, 2), np.int64)


class Connection:
    """Owns its socket. `lost`: the server closed it; what was in flight stays unanswered."""

    def __init__(
        self,
        protocol: Protocol,
        sock: socket.socket,
        cycle: Cycle,
        window: int,
        tallies: Tallies,
        gap_ns: int = 0,
    ) -> None:
        self._protocol = protocol
        sock.setblocking(False)
        self.socket = sock
        self.cycle = cycle
        # A slot's due time is kept until its answer: no more in flight than a round has calls.
        self.window = min(window, cycle.count)
        self.tallies = tallies
        self.gap_ns = gap_ns
        self.first_due_ns = 0
        self.state: Counters = np.zeros(STATE_WORDS, np.int64)
        self.sent = 0
        self.answered = 0
        self.lost = False
        self._due_ns: Counters = np.zeros(cycle.count, np.int64)
        self._results: Counters = np.zeros(cycle.count, np.int64)
        largest = int(np.diff(cycle.starts).max())
        self._out: npt.NDArray[np.uint8] = np.zeros(max(SEND_BYTES, largest), np.uint8)
        self._out_view = self._out.data
        self._unsent = self._out_view[:0]
        self._in: npt.NDArray[np.uint8] = np.zeros(READ_BYTES, np.uint8)
        self._in_view = self._in.data
        self._have = 0

    @property
    def unanswered(self) -> int:
        return self.sent - self.answered

    @property
    def wants_to_write(self) -> bool:
        return len(self._unsent) > 0

    def due(self, now_ns: int) -> int:
        """How many calls of the timetable are due by now; without one, any number."""
        if self.gap_ns == 0:
            return self.sent + self.window
        return max(0, (now_ns - self.first_due_ns) // self.gap_ns + 1)

    def send(self, now_ns: int, until_ns: int) -> None:
        """Send what is due and fits in the window, and nothing from `until_ns` on."""
        if self.lost or self._unsent or now_ns >= until_ns:
            return
        count = min(self.window - self.unanswered, self.due(now_ns) - self.sent)
        if count <= 0:
            return
        size = self._write_calls(count, now_ns)
        self.sent = int(self.state[kernels.SENT])
        self._unsent = self._out_view[:size]
        self.flush()

    def flush(self) -> None:
        """Send on what the socket did not take before."""
        try:
            while self._unsent:
                self._unsent = self._unsent[self.socket.send(self._unsent) :]
        except BlockingIOError:
            pass
        except ConnectionError:
            self._lose()

    def receive(self, now_ns: int) -> None:
        """Read once and count every whole reply; `now_ns` is when they arrived."""
        try:
            count = self.socket.recv_into(self._in_view[self._have :])
        except BlockingIOError:
            return
        except ConnectionError:
            count = 0
        if count == 0:
            self._lose()
            return
        self._have += count
        used = self._take_replies(now_ns)
        self.answered = int(self.state[kernels.ANSWERED])
        if self.state[kernels.REFUSED]:
            self._count_refusals()
        rest = self._have - used
        if rest and used:
            self._in[:rest] = self._in[used : self._have]
        self._have = rest
        if self.state[kernels.NEEDED_BYTES] > len(self._in):
            self._grow_input(int(self.state[kernels.NEEDED_BYTES]))

    def close(self) -> None:
        self.socket.close()

    def compile_kernels(self) -> None:
        """Have the kernels compiled, by giving them nothing to do, before the clock starts."""
        self._write_calls(0, 0)
        self._take_replies(0)

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

    def _grow_input(self, size_bytes: int) -> None:
        larger: npt.NDArray[np.uint8] = np.zeros(size_bytes, np.uint8)
        larger[: self._have] = self._in[: self._have]
        self._in, self._in_view = larger, larger.data
        # Room in the list of refusals for a buffer full of bare headers.
        if size_bytes // REPLY_BYTES_LEAST > len(self.tallies.refusals):
            self.tallies.refusals = np.zeros((size_bytes // REPLY_BYTES_LEAST, 2), np.int64)

    def _lose(self) -> None:
        self.lost = True
        self._unsent = self._out_view[:0]
