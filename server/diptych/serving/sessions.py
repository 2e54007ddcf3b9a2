"""Sessions of clients: opened before WELCOME by a transaction, kept alive by another.

A client that names its identity gets the session of it: the same one after it has reconnected, or
after the server has recovered, since the region keeps sessions and opening one is the same done
twice. With another history sessions may be gone, and their numbers be those of others: all clients
that have one connect again. While the log can't be written no session can be opened; such clients
get none, and so queries alone. Which transactions ran on a session is the engine's business.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from diptych.engine.system import SESSION_OPEN, SESSIONS_TOUCH
from diptych.serving import channel
from diptych.serving.connection import Connection, State
from diptych.serving.frames import FrameBuffer
from diptych_client.errors import Busy, DiptychError, error_from
from diptych_client.protocol import Kind

if TYPE_CHECKING:
    from diptych.serving.gateway import Gateway

log = logging.getLogger("diptych.serving")

TOUCH_S = 6 * 3600.0
"""How often sessions of connected clients are marked as in use: unused ones make room in a day."""
RETRY_S = 1.0


class Sessions:
    """Those of one gateway's connections."""

    def __init__(self, gateway: Gateway, connections: dict[int, Connection]) -> None:
        self.gateway = gateway
        self._connections = connections

    def live(self) -> set[int]:
        """Sessions of clients that are connected."""
        return {c.session for c in self._connections.values() if c.session}

    def open(self, connection: Connection, identity: bytes | None, caller: str) -> None:
        """A client has said who it is: it is let in now, or when its session is open."""
        transactions = self.gateway.transactions
        if identity is None or transactions.log_failed:
            connection.open(0)
        elif not transactions.call(SESSION_OPEN, [identity, caller], connection.number):
            connection.end(Busy("the server has too many transactions in flight"))

    def opened(self, connection: Connection, frame: bytes) -> None:
        """The answer to SESSION_OPEN, for a client that still waits for it."""
        answer = channel.unpack_payload(frame)
        if frame[4] == Kind.RESULT:
            connection.open(answer)
        else:
            connection.end(error_from(answer))

    def not_opened(self, connection: Connection, error: DiptychError) -> None:
        """SESSION_OPEN got no answer, because of `error`."""
        if connection.state is not State.OPENING:
            return
        if self.gateway.transactions.log_failed:
            connection.open(0)
        else:
            connection.end(Busy(f"no session could be opened: {error}"))

    def end(self) -> None:
        """The writer may not have them any more: their clients connect again, to the same session
        or a new one, and know by that what they may send again.
        """
        self.gateway.transactions.forget_sessions()
        for connection in list(self._connections.values()):
            if connection.session:
                connection.end()

    def touch_later(self) -> None:
        self.gateway.loop.call_later(TOUCH_S, self._touch)

    def _touch(self) -> None:
        """Mark sessions of connected clients as in use."""
        live = sorted(self.live())
        transactions = self.gateway.transactions
        if not live or transactions.log_failed or transactions.call(SESSIONS_TOUCH, [live]):
            self.touch_later()
        else:
            self.gateway.loop.call_later(RETRY_S, self._touch)

    def touched(self, data: bytes) -> None:
        """Answers that nobody else waits for: an error is worth a line."""
        buffer = FrameBuffer.holding(data)
        for frame in map(buffer.frame, range(buffer.count)):
            if frame[4] != Kind.RESULT:
                log.error("sessions were not marked as in use: %s", channel.unpack_payload(frame))
