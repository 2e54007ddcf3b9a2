"""The writer's end of its socket to one gateway: what came and is to be run, what is to be sent.

Replies are held until the log is safe up to their ticket; what the socket does not take is kept up
to a bound. Nothing here ever waits. Knows sockets and tickets, not what frames mean.
"""

from __future__ import annotations

import select
import socket
from collections import deque

from diptych.serving.frames import FrameBuffer

READ_BYTES = 1 << 20
UNSENT_SOFT_BYTES = 4 << 20
"""From here on nothing more is read from a gateway, until it has taken its replies."""
UNSENT_HARD_BYTES = 64 << 20
STUCK_NS = 5_000_000_000
"""A gateway that takes nothing for so long is given up."""


class GatewayPeer:
    """`holder` names it towards the syncer. Times are CLOCK_MONOTONIC."""

    def __init__(self, sock: socket.socket, holder: int) -> None:
        self.socket = sock
        self.holder = holder
        self.buffer = FrameBuffer(READ_BYTES, 1 << 31)
        self.unsent = bytearray()
        self.interest = select.EPOLLIN
        self.next = self.count = 0  # frames in the buffer: the next to be run, and all
        self.joined = False  # it has said what it holds
        self.met = False  # it was told where this writer stands
        self.given_up = False
        self._progress_ns = 0
        self._held: deque[tuple[int, bytes]] = deque()
        self._held_bytes = 0

    @property
    def full(self) -> bool:
        """Whether it should take its replies before it is asked for more."""
        return len(self.unsent) + self._held_bytes > UNSENT_SOFT_BYTES

    @property
    def holding(self) -> bool:
        return bool(self._held)

    def hold(self, ticket: int, replies: bytearray) -> None:
        """Keep replies until `release` is told that `ticket` is durable."""
        self._held.append((ticket, bytes(replies)))
        self._held_bytes += len(replies)

    def release(self, durable: int) -> bytes:
        """The replies that may leave now, in order."""
        held = self._held
        if not held or held[0][0] > durable:
            return b""
        parts = []
        while held and held[0][0] <= durable:
            parts.append(held.popleft()[1])
        released = parts[0] if len(parts) == 1 else b"".join(parts)
        self._held_bytes -= len(released)
        return released

    def send(self, data: bytes | bytearray, now_ns: int) -> bool:
        """Send, or keep for later. False when the gateway is gone."""
        if self.unsent:
            self.unsent += data
            return True
        self._progress_ns = now_ns
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return False
        if sent < len(data):
            self.unsent += memoryview(data)[sent:]
        return True

    def send_rest(self, now_ns: int) -> bool:
        try:
            sent = self.socket.send(self.unsent)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._progress_ns = now_ns
        del self.unsent[:sent]
        return True

    def stuck(self, now_ns: int) -> bool:
        if not self.unsent:
            return False
        waited_ns = now_ns - self._progress_ns
        return len(self.unsent) > UNSENT_HARD_BYTES or waited_ns > STUCK_NS
