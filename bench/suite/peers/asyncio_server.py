"""The server that a good Python team writes first: one process, uvloop, msgpack, dicts.

    python -m bench.suite.peers.asyncio_server

Prints its port and serves until its input ends. It speaks Diptych's protocol, so that the same load
generator drives it: a read's frames are answered with one write. Queries run between two reads,
since there is one thread. Nothing is kept on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import sys
from collections.abc import Callable
from typing import Any, cast

import msgpack
import uvloop
from bench.suite.peers.asyncio_exchange import Exchange, Refused
from bench.suite.workload import SYMBOL, trades

from diptych_client.protocol import HEADER, HEADER_BYTES, PREAMBLE, READ_BYTES, Kind, encode_frame

TRANSACTIONS = ("place_order", "cancel_order", "open_account", "list_symbol", "issue_shares")
QUERIES = ("vwap", "holdings", "tape")
LIMITS = {
    "frame_bytes": 1 << 20,
    "transactions_in_flight": 1024,
    "queries_in_flight": 256,
    "query_ms": 600_000,
    "result_bytes": 256 << 20,
}
RESULT, REJECTED = int(Kind.RESULT), int(Kind.REJECTED)
pack = msgpack.Packer().pack


class Service:
    """The exchange, and its operations by number."""

    def __init__(self) -> None:
        exchange = Exchange()
        self.sequence = 0

        def preload(count: int) -> None:
            exchange.preload(SYMBOL, trades(count).rows())
            gc.freeze()  # what stays for ever need not be looked at again

        operations = {name: getattr(exchange, name) for name in (*TRANSACTIONS, *QUERIES)}
        operations["preload"] = preload
        self.operations: list[Callable[..., Any]] = list(operations.values())
        self.described = [
            {
                "name": name,
                "number": number,
                "kind": "query" if name in QUERIES else "transaction",
                "parameters": [
                    {"name": f"argument{at}", "type": "any"} for at in range(arguments_of(each))
                ],
                "result": "any",
                "codes": [],
                "doc": "",
            }
            for number, (name, each) in enumerate(operations.items())
        ]

    def welcome(self) -> bytes:
        return PREAMBLE + encode_frame(
            Kind.WELCOME,
            msgpack.packb(
                {
                    "app": "exchange",
                    "server": "asyncio",
                    "fingerprint": b"asyncio",
                    "limits": LIMITS,
                    "session": 0,
                    "history": 1,
                    "sequence": self.sequence,
                    "operations": self.described,
                }
            ),
        )


def arguments_of(function: Callable[..., Any]) -> int:
    return len(inspect.signature(function).parameters)


class Connection(asyncio.BufferedProtocol):
    """One client. Greets it, then answers whatever a read brought at once."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._operations = service.operations
        self._buffer = bytearray(READ_BYTES)
        self._view = memoryview(self._buffer)
        self._have = 0
        self._greeted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view[self._have :]

    def buffer_updated(self, count: int) -> None:
        have = self._have + count
        position = 0
        if not self._greeted:
            position = len(PREAMBLE)
            self._greeted = True
        out: list[bytes] = []
        view, operations, service = self._view, self._operations, self._service
        header, write_header, unpack = HEADER.unpack_from, HEADER.pack, msgpack.unpackb
        sequence = service.sequence
        while have - position >= HEADER_BYTES:
            length, kind, _, number, request, _, _ = header(view, position)
            start = position + HEADER_BYTES
            if have - start < length:
                break
            position = start + length
            if kind != 2 and kind != 3:  # neither TRANSACTION nor QUERY
                service.sequence = sequence
                out.append(self._other(kind, request))
                continue
            try:
                answer, replied = operations[number](*unpack(view[start:position])), RESULT
            except Refused as no:
                answer, replied = (no.code, no.details), REJECTED
            payload = pack(answer)
            sequence += kind == 2
            out.append(write_header(len(payload), replied, 0, number, request, sequence, 0))
            out.append(payload)
        service.sequence = sequence
        rest = have - position
        if rest and position:
            self._buffer[:rest] = self._buffer[position:have]
        self._have = rest
        if out:
            self._transport.write(b"".join(out))

    def _other(self, kind: int, request: int) -> bytes:
        if kind == Kind.HELLO:
            return self._service.welcome()
        if kind == Kind.INFO:
            return encode_frame(Kind.RESULT, msgpack.packb({}), request=request)
        return encode_frame(Kind.PONG, request=request)


async def serve() -> None:
    """Listen on a free port and print it; return when standard input ends."""
    loop = asyncio.get_running_loop()
    service = Service()
    server = await loop.create_server(lambda: Connection(service), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    over = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), over.set)
    await over.wait()
    server.close()


if __name__ == "__main__":
    # Nothing here is a cycle: collections would only be pauses.
    gc.disable()
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve())
