"""A plain blocking connection, for what a load test does before and after the load.

It greets the server, asks for its statistics and runs a mix's setup; the load itself takes the
socket over afterwards. One call at a time or a window of them; no reconnects and no deadlines
other than the socket's own.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Any

import msgpack

from diptych_client.connecting import Address, tune
from diptych_client.errors import DiptychError, error_from
from diptych_client.protocol import (
    PREAMBLE,
    READ_BYTES,
    WELCOME_BYTES_MAX,
    Frame,
    FrameSplitter,
    Kind,
    encode_frame,
)

TIMEOUT_S = 30.0


class Wire:
    """One greeted connection. `welcome` is what the server said of itself.

    Errors: OSError, DiptychError, and ValueError for what is no address.
    """

    def __init__(self, address: str, *, token: str | None = None) -> None:
        self.socket = socket.create_connection(Address.parse(address), TIMEOUT_S)
        tune(self.socket)
        self._splitter = FrameSplitter(WELCOME_BYTES_MAX)
        self._waiting: list[Frame] = []
        hello = {"client": "loadtest", "token": token, "fingerprint": None}
        try:
            self.socket.sendall(PREAMBLE + encode_frame(Kind.HELLO, msgpack.packb(hello)))
            self.welcome: dict[str, Any] = self._value(self.receive())
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def receive(self) -> Frame:
        """The next frame. Errors: ConnectionError, TimeoutError, ProtocolError."""
        while not self._waiting:
            count = self.socket.recv_into(self._splitter.buffer(), READ_BYTES)
            if count == 0:
                raise ConnectionError("the server closed the connection")
            self._waiting = self._splitter.received(count)[::-1]
        return self._waiting.pop()

    def info(self) -> dict[str, Any]:
        """The server's statistics. Errors: DiptychError, OSError."""
        self.socket.sendall(encode_frame(Kind.INFO, request=1))
        statistics: dict[str, Any] = self._value(self.receive())
        return statistics

    def run(self, calls: Iterable[bytes], window: int) -> dict[str, int]:
        """Send encoded frames, `window` in flight; count replies by code, "ok" for results."""
        outcomes: dict[str, int] = {}
        in_flight = 0
        batch: list[bytes] = []
        for frame in calls:
            batch.append(frame)
            if len(batch) < window // 2:
                continue
            self.socket.sendall(b"".join(batch))
            in_flight += len(batch)
            batch.clear()
            while in_flight > window // 2:
                self._count(outcomes)
                in_flight -= 1
        self.socket.sendall(b"".join(batch))
        for _ in range(in_flight + len(batch)):
            self._count(outcomes)
        return outcomes

    def _count(self, outcomes: dict[str, int]) -> None:
        kind, _, _, _, _, payload = self.receive()
        code = "ok" if kind == Kind.RESULT else refusal_code(kind, payload)
        outcomes[code] = outcomes.get(code, 0) + 1

    def _value(self, frame: Frame) -> Any:
        kind, _, _, _, _, payload = frame
        value: Any = msgpack.unpackb(payload, strict_map_key=False) if payload else {}
        if kind in (Kind.RESULT, Kind.WELCOME):
            return value
        if kind == Kind.ERROR:
            raise error_from(value)
        raise DiptychError(f"the server answered with a frame of kind {kind}")


def refusal_code(kind: int, payload: bytes) -> str:
    """The code of a REJECTED or ERROR frame."""
    if kind == Kind.CLOSING:
        return "shutting_down"
    try:
        said = msgpack.unpackb(payload, strict_map_key=False)
        return str(said[0] if kind == Kind.REJECTED else said["code"])
    except (ValueError, LookupError, TypeError):
        return f"kind {kind}"
