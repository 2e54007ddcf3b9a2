"""PostgreSQL's protocol: calls of prepared functions as bytes, and a small blocking client.

Each call is a Bind, an Execute and a Sync, so a transaction of its own; many may be on their way.
Arguments go in binary form: ints, texts, arrays of rows of ints, and None. Which functions there
are, whoever loads says.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice
from struct import Struct, pack
from typing import Any, TypeAlias

from bench.suite.loads import kernels
from bench.suite.loads.ordered import opened
from bench.suite.loads.protocol import HOLE, Protocol

LENGTH = Struct("!I")
VERSION = 196608  # 3.0
# PostgreSQL's OIDs of the types that parameters may have: int8, text, int4, int4[].
INT8, TEXT, INT4, INT4_ROWS = 20, 25, 23, 1007
Functions: TypeAlias = Mapping[str, tuple[int, ...]]
"""For each function its parameters' types."""
SYNC = b"S" + LENGTH.pack(4)
NULL = LENGTH.pack(2**32 - 1)
COPIED_ROWS = 2_000  # that go in one message


class PostgresError(Exception):
    """An error reply: its message."""


def message(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return kind + LENGTH.pack(4 + len(body)) + body


def prepared(name: str, types: tuple[int, ...]) -> bytes:
    """The statement that calls a function, under the function's name."""
    words = ", ".join(f"${at + 1}" for at in range(len(types)))
    return message(
        b"P",
        name.encode() + b"\0",
        f"SELECT * FROM {name}({words})".encode() + b"\0",
        len(types).to_bytes(2, "big"),
        *(LENGTH.pack(each) for each in types),
    )


def call_of(name: str, types: tuple[int, ...], arguments: tuple[Any, ...]) -> tuple[bytes, int]:
    """A call, and where the hole in its arguments begins, -1 without one."""
    head = b"\0" + name.encode() + b"\0" + b"\0\1\0\1" + len(arguments).to_bytes(2, "big")
    parts, hole = [head], -1
    for each, type_ in zip(arguments, types, strict=True):
        if each is None:
            parts.append(NULL)
            continue
        if each == HOLE:
            raw, hole = bytes(kernels.HOLE_BYTES), 5 + sum(map(len, parts)) + 4
        else:
            raw = value_of(each, type_)
        parts.append(LENGTH.pack(len(raw)) + raw)
    bind = message(b"B", *parts, b"\0\1\0\1")
    return bind + message(b"E", b"\0", LENGTH.pack(0)) + SYNC, hole


def value_of(value: Any, type_: int) -> bytes:
    """A value in binary form."""
    if type_ == TEXT:
        raw: bytes = value.encode()
        return raw
    if type_ == INT4_ROWS:
        return array_of(value)
    return int(value).to_bytes(4 if type_ == INT4 else 8, "big", signed=True)


def array_of(rows: Sequence[Sequence[int]]) -> bytes:
    """An int4[] of two dimensions. All rows are equally long, and there is one at least."""
    width = len(rows[0])
    # Dimensions, whether any is NULL, the items' type; of each dimension size and first number.
    head = pack("!7I", 2, 0, INT4, len(rows), 1, width, 1)
    words = chain.from_iterable((4, each) for row in rows for each in row)
    return head + pack(f"!{2 * len(rows) * width}i", *words)


class Postgres:
    """A blocking connection over TCP, as `postgres`. `functions`: those to prepare calls of."""

    def __init__(self, port: int, functions: Functions) -> None:
        self._functions = functions
        self.socket = opened(("127.0.0.1", port))
        self.socket.settimeout(300.0)
        self._file = self.socket.makefile("rb")
        try:
            self._begin()
        except BaseException:
            self.close()  # it may be starting still, and refuse
            raise

    def _begin(self) -> None:
        said = b"user\0postgres\0database\0postgres\0\0"
        self.socket.sendall(LENGTH.pack(8 + len(said)) + LENGTH.pack(VERSION) + said)
        self._replies()
        statements = (prepared(name, types) for name, types in self._functions.items())
        self.socket.sendall(b"".join(statements) + SYNC)
        self._replies()

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def call(self, name: str, *arguments: Any) -> list[bytes]:
        """The raw columns of a function's one row. Errors: PostgresError."""
        self.socket.sendall(call_of(name, self._functions[name], arguments)[0])
        (row,) = self._replies()
        return row

    def run(self, text: str) -> list[list[bytes]]:
        """Run statements as text; the rows, columns as text. Errors: PostgresError."""
        self.socket.sendall(message(b"Q", text.encode() + b"\0"))
        return self._replies()

    def copy(self, table: str, rows: Iterable[Sequence[Any]]) -> None:
        """Insert many rows, of texts that need no escapes. Errors: PostgresError."""
        self.socket.sendall(message(b"Q", f'COPY "{table}" FROM STDIN'.encode() + b"\0"))
        remaining = iter(rows)
        while piece := list(islice(remaining, COPIED_ROWS)):
            lines = (
                "\t".join("\\N" if each is None else str(each) for each in row) + "\n"
                for row in piece
            )
            self.socket.sendall(message(b"d", "".join(lines).encode()))
        self.socket.sendall(message(b"c"))
        self._replies()

    def _replies(self) -> list[list[bytes]]:
        """Rows up to ReadyForQuery."""
        rows: list[list[bytes]] = []
        error = None
        while True:
            head = self._file.read(5)
            if len(head) < 5:
                raise ConnectionError("the server closed the connection")
            body = self._file.read(LENGTH.unpack_from(head, 1)[0] - 4)
            if head[0] == kernels.ROW:
                rows.append(columns_of(body))
            elif head[0] == kernels.FAILED:
                error = message_of(body)
            elif head[0] == kernels.DONE:
                if error is not None:
                    raise PostgresError(error)
                return rows


def columns_of(row: bytes) -> list[bytes]:
    found, at = [], 2
    for _ in range(int.from_bytes(row[:2], "big")):
        size = int.from_bytes(row[at : at + 4], "big", signed=True)
        at += 4
        found.append(row[at : at + max(0, size)])
        at += max(0, size)
    return found


def message_of(body: bytes) -> str:
    """The M field of an error."""
    for part in body.split(b"\0"):
        if part[:1] == b"M":
            return part[1:].decode(errors="replace")
    return "error"


class PostgresCalls(Protocol):
    number = kernels.POSTGRES

    def __init__(self, port: int, functions: Functions) -> None:
        self._port, self._functions = port, functions

    def connect(self) -> socket.socket:
        connection = Postgres(self._port, self._functions)
        # What the file object has read ahead is nothing: all replies are in.
        sock = connection.socket.dup()
        connection.close()
        return sock

    def encode(self, name: str, arguments: tuple[Any, ...]) -> tuple[bytes, int]:
        return call_of(name, self._functions[name], arguments)

    def code(self, reply: bytes) -> str:
        return message_of(reply[5 : 1 + LENGTH.unpack_from(reply, 1)[0]])
