"""When calls of a timetable leave: those that came due in a round together, none before its end."""

from __future__ import annotations

import select
import socket

import numpy as np
import pytest

from diptych.loadtest import kernels
from diptych.loadtest.connection import Connections
from diptych.loadtest.cycle import OperationInfo, encode_cycle
from diptych_client.protocol import HEADER_BYTES, Kind

GAP_NS = 100
ROUND_NS = 1_000
START_NS = 5_000
KNOWN = {"take": OperationInfo("take", 0, Kind.TRANSACTION)}


@pytest.mark.parametrize(
    ("now_ns", "calls"),
    [(START_NS, 1), (START_NS + 999, 1), (START_NS + 1_000, 11), (START_NS + 2_999, 21)],
)
def test_calls_of_one_round_leave_together(now_ns: int, calls: int) -> None:
    ours, theirs = socket.socketpair()
    table: list[str] = []
    cycle = encode_cycle([("take", ())] * 50, 50, KNOWN, table)
    shared = np.zeros(kernels.SHARED_WORDS, np.int64)
    shared[kernels.ROUND_NS] = ROUND_NS
    shared[kernels.COUNT_UNTIL_NS] = 1 << 62
    with ours, theirs, select.epoll() as epoll:
        connections = Connections([ours], [cycle], table, 40, GAP_NS, shared)
        connections.begin(START_NS)
        connections.offer(now_ns, epoll)
        got = theirs.recv(1 << 16)
    frame_bytes = HEADER_BYTES + 1  # no arguments
    assert len(got) == calls * frame_bytes
    assert connections.unanswered == calls
