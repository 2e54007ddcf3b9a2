"""A scripted server on loopback, and the application it pretends to serve.

The server answers with whatever its `script` says: a coroutine that gets a connection and reads and
writes frames. It runs on an event loop of the test, or on one in a thread for the blocking client.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, NamedTuple

import msgpack

from diptych_client.protocol import HEADER, HEADER_BYTES, PREAMBLE, Frame, Kind, encode_frame

SIDE = {"enum": ["Side", {"BUY": 1, "SELL": -1}]}
PLACED = {"record": ["Placed", [["order", "int"], ["filled", "int"]]]}
LEVEL = {"record": ["Level", [["price", "int"], ["side", SIDE]]]}

OPERATIONS: list[dict[str, Any]] = [
    {
        "name": "place_order",
        "number": 0,
        "kind": "transaction",
        "parameters": [
            {"name": "account", "type": "int"},
            {"name": "symbol", "type": "str"},
            {"name": "side", "type": SIDE},
            {"name": "price", "type": "int", "default": 100},
            {"name": "until", "type": "int", "default": 0},
        ],
        "result": PLACED,
        "codes": ["insufficient_funds"],
        "doc": "Place an order.",
    },
    {
        "name": "depth",
        "number": 1,
        "kind": "query",
        "parameters": [{"name": "symbol", "type": "str"}],
        "result": {"list": LEVEL},
        "codes": [],
        "doc": "",
    },
    {
        "name": "best",
        "number": 2,
        "kind": "query",
        "parameters": [{"name": "symbol", "type": "str"}],
        "result": {"tuple": [{"optional": "int"}, {"optional": "int"}]},
        "codes": [],
        "doc": "",
    },
    {
        "name": "echo",
        "number": 3,
        "kind": "transaction",
        "parameters": [{"name": "value", "type": "any"}],
        "result": "any",
        "codes": [],
        "doc": "",
    },
]
LIMITS = {
    "frame_bytes": 1 << 20,
    "transactions_in_flight": 32,
    "queries_in_flight": 4,
    "query_ms": 1000,
    "result_bytes": 16 << 20,
}


def welcome(**changes: Any) -> dict[str, Any]:
    """A WELCOME's content; keywords replace parts of it, those of limits too."""
    content: dict[str, Any] = {
        "app": "exchange",
        "server": "diptych 0.1.0",
        "session": 9,
        "history": 77,
        "sequence": 0,
        "fingerprint": b"one",
        "operations": OPERATIONS,
    }
    limits = LIMITS | {name: changes.pop(name) for name in LIMITS if name in changes}
    return content | {"limits": limits} | changes


class Request(NamedTuple):
    """One frame from the client, its payload decoded; that of a KEYED frame as it is."""

    kind: int
    operation: int
    request: int
    sequence: int
    context: int
    content: Any


class Connection:
    """The server's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def read(self) -> Request:
        kind, operation, request, sequence, context, payload = await self.read_frame()
        if kind != Kind.KEYED and payload:
            content = msgpack.unpackb(payload, strict_map_key=False)
        else:
            content = payload or None
        return Request(kind, operation, request, sequence, context, content)

    async def read_frame(self) -> Frame:
        header = HEADER.unpack(await self.reader.readexactly(HEADER_BYTES))
        length, kind, _, operation, request, sequence, context = header
        payload = await self.reader.readexactly(length)
        return kind, operation, request, sequence, context, payload

    async def hello(self) -> dict[str, Any]:
        assert await self.reader.readexactly(len(PREAMBLE)) == PREAMBLE
        self.writer.write(PREAMBLE)
        request = await self.read()
        assert request.kind == Kind.HELLO
        assert isinstance(request.content, dict)
        return request.content

    def send(self, kind: Kind, content: Any = None, **header: int) -> None:
        payload = b"" if kind in (Kind.PONG, Kind.CLOSING) else msgpack.packb(content)
        self.writer.write(encode_frame(kind, payload, **header))

    def answer(self, request: Request, value: Any, *, sequence: int = 0, age_us: int = 0) -> None:
        self.send(Kind.RESULT, value, request=request.request, sequence=sequence, context=age_us)

    async def greet(self, **changes: Any) -> dict[str, Any]:
        """The whole handshake; returns what HELLO said."""
        said = await self.hello()
        self.send(Kind.WELCOME, welcome(**changes))
        return said

    async def echo(self) -> None:
        """Answer every request with its arguments until the client goes; PING with PONG."""
        sequence = 0
        with suppress(asyncio.IncompleteReadError):
            while True:
                request = await self.read()
                sequence += 1
                if request.kind == Kind.PING:
                    self.send(Kind.PONG, request=request.request)
                else:
                    value = request.content[0] if request.operation == 3 else request.content
                    self.answer(request, value, sequence=sequence)

    async def until_gone(self) -> None:
        """Until the client has closed; what it sends meanwhile is dropped."""
        with suppress(ConnectionError):
            while await self.reader.read(1 << 16):
                pass


Script = Callable[[Connection], Awaitable[None]]


class Server:
    """Plays one script after the other, one for each connection; the last one again and again."""

    def __init__(self, *scripts: Script) -> None:
        self._scripts = list(scripts)
        self.connections = 0
        self.ended = 0
        self.address = ""
        self.failures: list[BaseException] = []

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script = self._scripts[min(self.connections, len(self._scripts) - 1)]
        self.connections += 1
        try:
            await script(Connection(reader, writer))
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            # The test is over. Streams of Python 3.11 report a cancelled handler as an error.
            pass
        except Exception as failure:
            self.failures.append(failure)
        finally:
            writer.close()
            with suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()
            self.ended += 1

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Server]:
        handlers: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.get_running_loop().create_task(self.handle(reader, writer))
            handlers.add(task)
            task.add_done_callback(handlers.discard)

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        self.address = f"{host}:{port}"
        try:
            yield self
        finally:
            server.close()
            for task in list(handlers):
                task.cancel()
            await asyncio.gather(*handlers, return_exceptions=True)
            await server.wait_closed()
        if self.failures:
            raise self.failures[0]


def serving(*scripts: Script) -> Any:
    """`async with serving(script) as server:` on the test's own loop."""
    return Server(*scripts).listening()


@contextmanager
def serving_in_thread(*scripts: Script) -> Iterator[Server]:
    """The same on a loop in a thread, for clients that block."""
    loop = asyncio.new_event_loop()
    server = Server(*scripts)
    ready = threading.Event()
    ending = asyncio.Event()
    failures: list[BaseException] = []

    async def run() -> None:
        async with server.listening():
            ready.set()
            await ending.wait()

    def main() -> None:
        try:
            loop.run_until_complete(run())
        except BaseException as failure:
            failures.append(failure)
        finally:
            ready.set()
            loop.close()

    thread = threading.Thread(target=main)
    thread.start()
    ready.wait()
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(ending.set)
        thread.join(timeout=10)
    if failures:
        raise failures[0]


async def greet_and_echo(connection: Connection) -> None:
    await connection.greet()
    await connection.echo()
