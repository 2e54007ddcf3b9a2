"""Redis's protocol: commands as bytes, a small blocking client, and what a load needs."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Any

from bench.suite.loads import kernels
from bench.suite.loads.ordered import opened
from bench.suite.loads.protocol import HOLE, Protocol

READ_BYTES = 1 << 18


class RespError(Exception):
    """An error reply."""


def command(*words: str | bytes | int) -> bytes:
    """A command as an array of texts."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        raw = word if isinstance(word, bytes) else str(word).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(raw), raw))
    return b"".join(parts)


class Redis:
    """A blocking connection."""

    def __init__(self, port: int) -> None:
        self._socket = opened(("127.0.0.1", port))
        self._socket.settimeout(120.0)
        self._file = self._socket.makefile("rb")

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def ask(self, *words: str | bytes | int) -> Any:
        """One command and its answer. Errors: RespError."""
        self._socket.sendall(command(*words))
        return self._answer()

    def ask_all(self, commands: Iterable[bytes], window: int = 200) -> list[Any]:
        """Many commands, so many sent at a time. Their answers."""
        answers: list[Any] = []
        batch: list[bytes] = []
        for each in commands:
            batch.append(each)
            if len(batch) == window:
                answers += self._sent(batch)
                batch = []
        return answers + self._sent(batch)

    def _sent(self, batch: list[bytes]) -> list[Any]:
        self._socket.sendall(b"".join(batch))
        return [self._answer() for _ in batch]

    def _answer(self) -> Any:
        line = self._file.readline()
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise RespError(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            size = int(rest)
            return None if size < 0 else self._file.read(size + 2)[:-2]
        if kind == b"*":
            return [self._answer() for _ in range(int(rest))]
        if not line:
            raise ConnectionError("the server closed the connection")
        return rest.decode()


class Resp(Protocol):
    """Calls of scripts, by their hash; `scripts` by operation."""

    digits = True
    take = kernels.take_resp

    def __init__(self, port: int, scripts: dict[str, str]) -> None:
        self._port = port
        self._scripts = scripts

    def connect(self) -> socket.socket:
        return opened(("127.0.0.1", self._port))

    def encode(self, name: str, arguments: tuple[Any, ...]) -> tuple[bytes, int]:
        words = [b"0" * kernels.HOLE_DIGITS if each == HOLE else each for each in arguments]
        data = command("EVALSHA", self._scripts[name], 0, *words)
        # Where there is a hole it is the last argument.
        hole = len(data) - kernels.HOLE_DIGITS - 2 if HOLE in arguments else -1
        return data, hole

    def code(self, reply: bytes) -> str:
        return reply[1:].split(b"\r", 1)[0].decode().removeprefix("ERR ")
