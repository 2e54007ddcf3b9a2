"""A server for load tests to load: speaks the protocol in one thread and does next to nothing.

`take` returns the number of the call, as the first element of a list; `refuse` rejects, `fail`
ends with an error, `slow` answers after 50 ms, `read` is a query and returns what it was sent.
Everything received is kept in `calls`, as (operation, arguments).
"""

from __future__ import annotations

import socket
import threading
import time
from typing import Any, Self

import msgpack

from diptych_client.protocol import PREAMBLE, FrameSplitter, Kind, encode_frame

OPERATIONS = ["take", "refuse", "fail", "slow", "read"]
HISTORY = 77


class FakeServer:
    def __init__(self, *, in_flight_max: int = 1_000, close_after: int | None = None) -> None:
        self.calls: list[tuple[str, list[Any]]] = []
        self._in_flight_max = in_flight_max
        self._close_after = close_after
        self._lock = threading.Lock()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._accepting.join(10)
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        splitter = FrameSplitter(1 << 20)
        with connection:
            connection.sendall(PREAMBLE)
            while True:
                try:
                    count = connection.recv_into(splitter.buffer())
                except ConnectionError:
                    return
                if count == 0:
                    return
                frames = splitter.received(count)
                replies = b"".join(self._reply(*frame) for frame in frames)
                if self._close_after is not None and len(self.calls) > self._close_after:
                    return
                try:
                    connection.sendall(replies)
                except ConnectionError:
                    return

    def _reply(
        self, kind: int, operation: int, request: int, sequence: int, context: int, payload: bytes
    ) -> bytes:
        if kind == Kind.HELLO:
            described = [
                {
                    "name": name,
                    "number": number,
                    "kind": "query" if name == "read" else "transaction",
                    "parameters": [],
                }
                for number, name in enumerate(OPERATIONS)
            ]
            limits = {"transactions_in_flight": self._in_flight_max}
            welcome = {"operations": described, "limits": limits, "history": HISTORY}
            return encode_frame(Kind.WELCOME, msgpack.packb(welcome))
        if kind == Kind.INFO:
            figures = {"transactions": len(self.calls), "sync": {"p50": 1.5}}
            return encode_frame(Kind.RESULT, msgpack.packb(figures), request=request)
        name = OPERATIONS[operation]
        with self._lock:
            self.calls.append((name, msgpack.unpackb(payload)))
            number = len(self.calls)
        if name == "slow":
            time.sleep(0.05)
        if name == "refuse":
            answer, value = Kind.REJECTED, ["not_now", {"number": number}]
        elif name == "fail":
            answer, value = Kind.ERROR, {"code": "busy", "message": "too many"}
        elif name == "read":
            answer, value = Kind.RESULT, [sequence, context]
            self.calls[-1] = (name, [sequence, context])
        else:
            answer, value = Kind.RESULT, [number + 1_000, 0]
        return encode_frame(answer, msgpack.packb(value), request=request, sequence=number)
