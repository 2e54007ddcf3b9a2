"""Applications in tests, scripts and notebooks: the engine in this process, or a real server.

`app.open(...)` gives a `Bench`: the real engine on a region of its own, without sockets or
processes. Its operations are called as a client calls them, through the same frames, so that
arguments are checked and results rebuilt in the same way. `running(app)` starts a real server with
all its processes.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from diptych.app import App, Db
from diptych.engine.engine import Engine, layout_bytes
from diptych.engine.queries import Queries, ViewKept
from diptych.memory import PAGE_BYTES, Extent, Region, Stamp, write_stamp
from diptych.memory.stamp import State
from diptych.serving.local import Server, running
from diptych.store.database import SCRATCH_BYTES, Database
from diptych_client.errors import Rejected, error_from
from diptych_client.operations import Operation, read_operations, unknown_operation, unpack
from diptych_client.protocol import HEADER_BYTES, Header, Kind, encode_frame
from diptych_client.surface import name_of

if TYPE_CHECKING:
    from diptych.engine.query_lane import QueryLane

__all__ = ["Bench", "Server", "running"]

LANES = ("interpreted", "compiled")
SECOND_NS = 1_000_000_000
EPOCH = 1


class Bench:
    """An application open in this process. A context manager; see `App.open`.

    Operations are attributes: `bench.transfer(1, 2, 5)` returns what a client would get, or raises
    it; `call` also reaches those that have the name of a method. `db` reads what is there now;
    `transaction()` writes beside the application's own handlers.
    """

    def __init__(
        self,
        app: App,
        *,
        lane: str = "interpreted",
        now: int | None = None,
        seed: int = 0,
        check: bool = False,
        setup: bool = False,
    ) -> None:
        if lane not in LANES:
            raise ValueError(f"a lane is one of {LANES}, not {lane!r}")
        app.check_names()
        self.app = app
        self.lane = lane
        self._now = now
        self._seed = seed
        self._check = check
        self._setup = setup
        self._closed = True
        self._operations = read_operations(app.describe())

    def __enter__(self) -> Bench:
        size_bytes = layout_bytes(self.app)
        self._region = Region.create(size_bytes, scratch_bytes=SCRATCH_BYTES, name="bench")
        compiled = None
        self._query_lane: QueryLane | None = None
        if self.lane == "compiled":
            from diptych.store.compiled.handlers import compiled_operations  # seconds to import

            # In an application that compiles nothing by itself, its lane was chosen from outside.
            compiled = compiled_operations(self.app, every=not self.app.compiled)
        self._engine = Engine.create(
            self.app,
            self._region,
            grow=self._region.allocate,
            history=1,
            seed=self._seed,
            now_ns=self._clock,
            compiled=compiled,
            setup=self._setup,
        )
        # Queries read the region itself here: with one thread there is nobody to hold up.
        reading = Region.attach(
            self._region.fd, size_bytes, scratch_bytes=SCRATCH_BYTES, writable=False
        )
        write_stamp(self._region, Stamp(State.COMPLETE, EPOCH, 0, 1, time.monotonic_ns()))
        self._queries = Queries(self.app, [reading])
        if compiled is not None:
            from diptych.engine.query_lane import QueryLane  # has a kernel of its own

            self._query_lane = QueryLane(compiled, reading)
        # Another one than queries get: what a test keeps of it is not a view that a query kept.
        self.db: Db = Database(self._engine.layout, reading, writable=False)
        self._refresh()
        self._closed = False
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed = True
        self._region.close()
        self._queries.images[0].close()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        operation = self._operation(name)

        def call(*arguments: Any, **named: Any) -> Any:
            return self._call(operation, arguments, named)

        return call

    def call(self, operation: str | Callable[..., Any], /, *arguments: Any, **named: Any) -> Any:
        """Run an operation, by name or function, as a client would, with a client's errors."""
        return self._call(self._operation(name_of(operation)), arguments, named)

    def _call(self, operation: Operation, arguments: Any, named: Any) -> Any:
        if self._closed:
            raise RuntimeError("this bench is not open; call it inside `with app.open() as ...`")
        payload = operation.encode(arguments, named)
        frame = encode_frame(operation.kind, payload, operation=operation.number, request=1)
        if operation.kind is Kind.TRANSACTION:
            reply = self._transact(frame)
        else:
            reply = self._query(frame, operation.number, payload)
        header, answer = Header.read(reply), reply[HEADER_BYTES:]
        if header.kind == Kind.REJECTED:
            code, details = unpack(answer)
            raise Rejected(code, **details)
        if header.kind == Kind.ERROR:
            raise error_from(unpack(answer))
        return operation.decode(answer)

    @contextmanager
    def transaction(self) -> Iterator[Db]:
        """A transaction of one's own: fixtures, scripts. An exception inside undoes it."""
        try:
            with self._engine.transaction() as db:
                yield db
        finally:
            self._after()

    def advance(self, *, seconds: float) -> None:
        """Move `db.now` on. Only where the bench was opened with a `now`."""
        if self._now is None:
            raise ValueError("open the app with now=... to move its time")
        self._now += int(seconds * SECOND_NS)

    def fingerprint(self) -> bytes:
        """A hash of all of the application's memory: equal before and after what was undone."""
        digest = hashlib.sha256()
        for extent in self._engine.layout.data_extents(self._region.words):
            # Page 1 holds the sequence number and the time, which go on whatever happens.
            start = max(extent.start, 2) * PAGE_BYTES
            digest.update(self._region.buffer[start : extent.stop * PAGE_BYTES])
        return digest.digest()

    def verify(self) -> None:
        """Check all structures and invariants. Errors: CorruptionError, AssertionError."""
        self._engine.verify()

    def extents(self) -> list[Extent]:
        """What of the region has memory, in pages."""
        return self._engine.extents()

    def _clock(self) -> int:
        return time.time_ns() if self._now is None else self._now

    def _transact(self, frame: bytes) -> bytes:
        starts = np.array([0, len(frame)], np.int64)
        self._engine.begin(self._clock())
        self._engine.run(np.frombuffer(frame, np.uint8), starts, 0, 1, time.monotonic_ns())
        reply = bytes(self._engine.replies)
        self._engine.replies.clear()
        self._after()
        return reply

    def _query(self, frame: bytes, number: int, payload: bytes) -> bytes:
        if self._query_lane is not None:
            told = self._query_lane.run(frame, self._engine.sequence)
            if told is not None:
                return told
        try:
            return self._queries.run(
                0, EPOCH, self._engine.sequence, time.monotonic_ns(), number, 1, payload
            )
        except ViewKept as kept:
            return kept.reply

    def _operation(self, name: str) -> Operation:
        if name not in self._operations:
            raise unknown_operation(name, self._operations)
        return self._operations[name]

    def _after(self) -> None:
        self._refresh()
        if self._check:
            self._engine.verify()

    def _refresh(self) -> None:
        self.db.sequence, self.db.now = self._engine.sequence, self._engine.db.now
