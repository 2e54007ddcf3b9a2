"""A gateway on a stage: its supervisor, writer, reader and clients are played by the test."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgpack
from tests.support.trouble import app

from diptych.config import Limits, Settings
from diptych.engine.system import SESSION_OPEN
from diptych.serving.bundles import Progress
from diptych.serving.channel import Image, Internal, Writer
from diptych.serving.control import Control, Message, stream_pair
from diptych.serving.gateway import Gateway, GatewayPlan
from diptych_client.protocol import HEADER, PREAMBLE, Header, Kind, encode_frame

TRANSFER = app.operation("transfer").number
TOTAL = app.operation("total").number
HISTORY = 77
PATIENCE_S = 5.0


class Actor:
    """One end of a stream of frames."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, *frames: bytes) -> None:
        self.writer.write(b"".join(frames))

    async def frame(self) -> tuple[Header, Any]:
        """The next frame: header and payload. Errors: IncompleteReadError at the end."""
        async with asyncio.timeout(PATIENCE_S):
            header = Header._make(HEADER.unpack(await self.reader.readexactly(HEADER.size)))
            payload = await self.reader.readexactly(header.length)
        if header.kind == Kind.KEYED:
            payload = payload[1 + payload[0] :]
        return header, msgpack.unpackb(payload) if payload else None

    async def error(self) -> dict[str, Any]:
        """The next frame, which must be an ERROR: its payload."""
        header, payload = await self.frame()
        assert header.kind == Kind.ERROR, (header, payload)
        return dict(payload)

    async def is_over(self) -> bool:
        """Whether the stream ends now, without another word."""
        async with asyncio.timeout(PATIENCE_S):
            return not await self.reader.read(1)

    async def says_nothing(self) -> bool:
        """Whether nothing comes, once the gateway has had a few turns."""
        try:
            async with asyncio.timeout(0.03):
                await self.reader.readexactly(1)
        except TimeoutError:
            return True
        return False

    def leave(self) -> None:
        self.writer.close()


class FakeWriter(Actor):
    """The writer's end. Hands out sequence numbers as it answers."""

    sequence = 0

    async def call(self) -> tuple[Header, Any]:
        """The next transaction, without what else a gateway tells."""
        while True:
            header, payload = await self.frame()
            if header.context:
                return header, payload

    async def calls(self, count: int) -> list[Header]:
        return [(await self.call())[0] for _ in range(count)]

    async def requests(self, count: int) -> list[int]:
        return [header.request for header in await self.calls(count)]

    def answer(self, *calls: Header, value: Any = None) -> None:
        """RESULT to each: `value`, or its request number."""
        for call in calls:
            self.sequence += 1
            payload = msgpack.packb(call.request if value is None else value)
            self.send(
                encode_frame(
                    Kind.RESULT,
                    payload,
                    operation=call.operation,
                    request=call.request,
                    sequence=self.sequence,
                    context=call.context,
                )
            )


class Stage:
    """`settings` are those of the server; `gateway` is the one under test, in this same loop."""

    def __init__(self, settings: Settings) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.control, theirs = Control.pair()
        self.progress = Progress()
        plan = GatewayPlan(app, settings, theirs, (self.listener,), self.progress, None)
        self.gateway = Gateway(plan)
        self._theirs = theirs
        self._task = asyncio.get_running_loop().create_task(self.gateway.run())
        self._actors: list[Actor] = []
        self._readers = 0

    async def actor(self, what: str, kind: type[Actor] = Actor, **message: Any) -> Any:
        """Somebody at the other end of a socket that the gateway is given."""
        ours, theirs = stream_pair()
        self.tell({"do": what} | message, theirs.fileno())
        theirs.close()
        return self._cast(kind(*await asyncio.open_unix_connection(sock=ours)))

    def _cast(self, actor: Actor) -> Actor:
        self._actors.append(actor)
        return actor

    async def writer(self, sequence: int = 0, history: int = HISTORY) -> FakeWriter:
        """A writer that has met the gateway."""
        writer: FakeWriter = await self.actor("writer", FakeWriter)
        header, _ = await writer.frame()
        assert header.kind == Internal.HOLDS
        writer.sequence = sequence
        writer.send(Writer(sequence, history).frame())
        writer.send(Image(0, 1, sequence, 0, history, 1).frame())
        return writer

    async def reader(self) -> Actor:
        self._readers += 1
        reader: Actor = await self.actor("reader", reader=self._readers, slot=self._readers)
        return reader

    def tell(self, message: Message, descriptor: int | None = None) -> None:
        assert self.control.send(message, descriptor)

    async def asked(self) -> Message:
        """What the gateway next tells its supervisor, but that it accepts."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                messages, _ = self.control.receive()
                for message in messages:
                    if message != {"tell": "accepting"}:
                        return message
                await asyncio.sleep(0.001)

    async def connect(self) -> Actor:
        """A client that has said nothing yet."""
        address = self.listener.getsockname()[:2]
        return self._cast(Actor(*await asyncio.open_connection(*address)))

    async def client(self, hello: dict[str, Any] | None = None) -> Actor:
        """A client that has sent HELLO, and read the server's preamble."""
        client = await self.connect()
        client.send(PREAMBLE, encode_frame(Kind.HELLO, msgpack.packb(hello or {}), request=9))
        async with asyncio.timeout(PATIENCE_S):
            assert await client.reader.readexactly(len(PREAMBLE)) == PREAMBLE
        return client

    async def guest(self, writer: FakeWriter, session: int = 0) -> Actor:
        """A client that was let in, with a session if it has a number."""
        client = await self.client({"identity": session.to_bytes(16)} if session else None)
        if session:
            (opening,) = await writer.calls(1)
            assert opening.operation == SESSION_OPEN
            writer.answer(opening, value=session)
        header, welcome = await client.frame()
        assert (header.kind, welcome["session"]) == (Kind.WELCOME, session)
        return client

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await asyncio.sleep(0.001)

    async def end(self) -> None:
        self.tell({"do": "drain"})
        async with asyncio.timeout(PATIENCE_S):
            assert await self._task == 0
        asyncio.get_running_loop().remove_reader(self._theirs.fileno())
        for actor in self._actors:
            actor.leave()
        for actor in self._actors:
            with contextlib.suppress(OSError):
                await actor.writer.wait_closed()
        for sock in (self.control, self._theirs, self.listener):
            sock.close()


@asynccontextmanager
async def staged(settings: Settings | None = None, **limits: Any) -> AsyncIterator[Stage]:
    """A stage while the block runs. `limits`: as in Limits; a drain takes no time."""
    stage = Stage(settings or Settings(limits=Limits(**{"drain_ms": 0} | limits)))
    try:
        yield stage
    finally:
        await stage.end()


def call(request: int, kind: Kind = Kind.TRANSACTION, arguments: Any = (1, 2, 3)) -> bytes:
    return encode_frame(kind, msgpack.packb(arguments), operation=TRANSFER, request=request)


def keyed(request: int, key: bytes) -> bytes:
    payload = bytes([len(key)]) + key + msgpack.packb((1, 2, 3))
    return encode_frame(Kind.KEYED, payload, operation=TRANSFER, request=request)


def query(request: int, at_least: int = 0, history: int = HISTORY) -> bytes:
    return encode_frame(
        Kind.QUERY,
        msgpack.packb([]),
        operation=TOTAL,
        request=request,
        sequence=at_least,
        context=history if at_least else 0,
    )
