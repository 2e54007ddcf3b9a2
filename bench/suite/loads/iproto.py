"""Tarantool's binary protocol: calls of functions as bytes, and a small blocking client."""

from __future__ import annotations

import socket
from struct import Struct
from typing import Any

import msgpack
from bench.suite.loads import kernels
from bench.suite.loads.ordered import opened
from bench.suite.loads.protocol import HOLE, Protocol

GREETING_BYTES = 128
CALL, TYPE, SYNC, TUPLE, FUNCTION, DATA, ERROR = 0x0A, 0x00, 0x01, 0x21, 0x22, 0x30, 0x31
SIZE = Struct(">BI")  # 0xce: a msgpack uint of four bytes


def call_of(name: str, arguments: tuple[Any, ...]) -> tuple[bytes, int]:
    """A call, and where the hole in its arguments begins, -1 without one."""
    pack = msgpack.Packer().pack
    parts = [
        pack({TYPE: CALL, SYNC: 1}),
        b"\x82",
        pack(FUNCTION),
        pack(name),
        pack(TUPLE),
        pack([0] * len(arguments))[:1],
    ]
    hole = -1
    for each in arguments:
        if each == HOLE:
            hole = SIZE.size + sum(map(len, parts)) + 1
            parts.append(b"\xcf" + bytes(kernels.HOLE_BYTES))
        else:
            parts.append(pack(each))
    body = b"".join(parts)
    return SIZE.pack(0xCE, len(body)) + body, hole


class Tarantool:
    """A blocking connection."""

    def __init__(self, port: int) -> None:
        self._socket = connected(port)
        self._socket.settimeout(120.0)
        self._file = self._socket.makefile("rb")

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def ask(self, name: str, *arguments: Any) -> list[Any]:
        """What a function returns. Errors: RuntimeError."""
        self._socket.sendall(call_of(name, arguments)[0])
        size = SIZE.unpack(self._file.read(SIZE.size))[1]
        unpacker = msgpack.Unpacker(strict_map_key=False)
        unpacker.feed(self._file.read(size))
        header, body = unpacker.unpack(), unpacker.unpack()
        if header[TYPE]:
            raise RuntimeError(f"tarantool: {body[ERROR]}")
        values: list[Any] = body[DATA]
        return values


def connected(port: int) -> socket.socket:
    """A connection whose greeting was read."""
    sock = opened(("127.0.0.1", port))
    left = GREETING_BYTES
    while left:
        left -= len(sock.recv(left))
    return sock


class Iproto(Protocol):
    take = kernels.take_iproto

    def __init__(self, port: int) -> None:
        self._port = port

    def connect(self) -> socket.socket:
        return connected(self._port)

    def encode(self, name: str, arguments: tuple[Any, ...]) -> tuple[bytes, int]:
        return call_of(name, arguments)

    def code(self, reply: bytes) -> str:
        at = kernels.COUNT_AT + 6  # behind the array's header and a nil
        if reply[at - 1] == kernels.NIL:
            unpacker = msgpack.Unpacker()
            unpacker.feed(reply[at:])
            return str(unpacker.unpack())
        return "error"
