"""Reaching a server: addresses, socket options, and how long to wait before trying again.

Knows nothing of frames or calls; both clients use it.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from typing import NamedTuple

from diptych_client.protocol import DEFAULT_PORT

CONNECT_TIMEOUT_S = 10.0
"""One attempt, from the first packet to WELCOME."""
SILENT_PEER_MS = 15_000
"""A peer whose machine acknowledges nothing for this long counts as gone."""
RETRY_FIRST_S = 0.05
RETRY_LAST_S = 2.0


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """From "host:port", "host", "[::1]:port" or "[::1]". Raises ValueError."""
        if text.startswith("["):
            host, bracket, rest = text[1:].partition("]")
            if not bracket or (rest and not rest.startswith(":")):
                raise ValueError(f"an address like '[::1]:{DEFAULT_PORT}', not {text!r}")
            port = rest[1:]
        else:
            host, _, port = text.partition(":")
        if not host or (port and not (port.isascii() and port.isdigit() and int(port) < 65536)):
            raise ValueError(f"an address like 'localhost:{DEFAULT_PORT}', not {text!r}")
        return cls(host, int(port) if port else DEFAULT_PORT)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Backoff:
    """Delays between attempts: doubling, bounded, and spread so that clients don't come at once."""

    def __init__(self, draw: Callable[[], float] = random.random) -> None:
        self._draw = draw
        self._delay_s = RETRY_FIRST_S

    def next_s(self) -> float:
        """Seconds to wait now: between half of the current delay and all of it."""
        delay_s = self._delay_s
        self._delay_s = min(2 * delay_s, RETRY_LAST_S)
        return delay_s * (0.5 + 0.5 * self._draw())

    def reset(self) -> None:
        """The server answers again."""
        self._delay_s = RETRY_FIRST_S


def tune(sock: socket.socket) -> None:
    """No delayed small writes, and a peer that vanished is noticed in seconds, not in minutes."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", SILENT_PEER_MS // 1000),
        ("TCP_KEEPINTVL", 5),
        ("TCP_USER_TIMEOUT", SILENT_PEER_MS),
    ):
        option = getattr(socket, name, None)  # not every platform has each
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
