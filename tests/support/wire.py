"""A client that is nothing but a socket, for tests that send what a proper client never would."""

from __future__ import annotations

import socket
import time
from types import TracebackType
from typing import Any

import msgpack

from diptych_client.protocol import HEADER, HEADER_BYTES, PREAMBLE, Header, Kind, encode_frame


class Wire:
    """A connection to `address`; reads give up after `timeout_s`."""

    def __init__(self, address: str, timeout_s: float = 5.0) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout_s)
        self.received = b""

    def __enter__(self) -> Wire:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def greet(self) -> dict[str, Any]:
        """The handshake, as it should be. Returns what WELCOME says."""
        self.send(PREAMBLE + encode_frame(Kind.HELLO, msgpack.packb({"client": "wire"})))
        assert self.read(len(PREAMBLE)) == PREAMBLE
        header, welcome = self.frame()
        assert header.kind == Kind.WELCOME
        return dict(welcome)

    def read(self, count: int) -> bytes:
        """So many bytes. Errors: EOFError, TimeoutError."""
        while len(self.received) < count:
            data = self.socket.recv(1 << 16)
            if not data:
                raise EOFError(f"closed after {len(self.received)} bytes")
            self.received += data
        taken, self.received = self.received[:count], self.received[count:]
        return taken

    def raw_frame(self) -> tuple[Header, bytes]:
        """The next frame: header and payload, as it came."""
        header = Header._make(HEADER.unpack(self.read(HEADER_BYTES)))
        return header, self.read(header.length)

    def frame(self) -> tuple[Header, Any]:
        """The next frame: header and payload."""
        header, payload = self.raw_frame()
        return header, msgpack.unpackb(payload) if payload else None

    def error(self) -> dict[str, Any]:
        """The next frame, which must be an ERROR: its payload."""
        header, payload = self.frame()
        assert header.kind == Kind.ERROR, header
        return dict(payload)

    def closed(self) -> bool:
        """Whether the server closes the connection without another word."""
        try:
            self.read(1)
        except (EOFError, ConnectionError):
            return True
        return False

    def call(self, kind: Kind, operation: int, arguments: Any, request: int = 1) -> None:
        payload = msgpack.packb(arguments)
        self.send(encode_frame(kind, payload, operation=operation, request=request))

    def flood(self, data: bytes, times: int, pause_s: float = 0) -> None:
        """Send the same again and again. Errors: OSError once the server has had enough."""
        for _ in range(times):
            self.send(data)
            time.sleep(pause_s)


def numbers(welcome: dict[str, Any]) -> dict[str, int]:
    """The operations' numbers by name."""
    return {operation["name"]: operation["number"] for operation in welcome["operations"]}


def wait_until(condition: Any, timeout_s: float = 5.0) -> None:
    """Wait until `condition()` is true. Errors: AssertionError when that takes too long."""
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.005)


def alive(pid: int) -> bool:
    """Whether there is such a process, other than as a zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
