"""An engine whose callers ask twice: small rings, frames by hand, and the bytes that came of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import msgpack
import numpy as np

from diptych import App, Db, Rejected, key
from diptych.engine.engine import Engine, layout_bytes
from diptych.engine.system import OUTCOME, OUTCOME_OF_KEY, SESSION_OPEN, SESSIONS_TOUCH
from diptych.memory import PAGE_BYTES, Region
from diptych.store import layout as layouts
from diptych.store.database import SCRATCH_BYTES
from diptych_client.protocol import HEADER_BYTES, Header, Kind, encode_frame

FAR_AWAY_NS = 1 << 62
SMALL = {"SESSIONS_MAX": 4, "ANSWERS_BYTES": 4096, "KEYS_MAX": 8, "KEY_BUCKETS": 4}

app = App("tally")


@app.table(capacity=4_000, heap_bytes=1 << 20)
class Entry:
    id: int = key(auto=True)
    what: str = ""


@app.transaction
def put(db: Db, what: str) -> int:
    """Each run leaves a row."""
    return db.entry.insert(what=what).id


@app.transaction
def refuse(db: Db, why: str) -> None:
    db.entry.insert(what=why)
    raise Rejected("refused", why=why)


@app.transaction
def fail(db: Db) -> None:
    db.entry.insert(what="fail")
    raise ZeroDivisionError("a bug")


@app.transaction
def leave(db: Db) -> None:
    db.entry.insert(what="leave")
    sys.exit(5)


@app.transaction
def repeat(db: Db, text: str, times: int) -> str:
    db.entry.insert(what=text)
    return text * times


@app.transaction
def drop(db: Db, number: int) -> None:
    db.entry.delete(db.entry[number])


@app.transaction
def put_and_end(db: Db, what: str) -> None:
    """Ends for a reason of the machine, once its value has found a place."""
    db.entry.insert(what=what)
    raise MemoryError


@app.transaction
def who(db: Db) -> str:
    return db.caller


@app.transaction
def exhaust(db: Db, kind: str, rows: int) -> int:
    """Ends for a reason of the machine, with memory given on the way."""
    for number in range(rows):
        db.entry.insert(what=f"{number}")
    if kind == "memory":
        raise MemoryError
    if kind == "recursion":
        return exhaust(db, kind, 0)
    if kind == "hidden":
        try:
            raise MemoryError
        except MemoryError:
            raise Rejected("hidden") from None
    return rows


NUMBERS = {operation.name: operation.number for operation in app.operations} | {
    "session_open": SESSION_OPEN,
    "sessions_touch": SESSIONS_TOUCH,
    "outcome": OUTCOME,
    "outcome_of_key": OUTCOME_OF_KEY,
}


def frame(name: str, *arguments: Any, session: int = 0, request: int = 1) -> bytes:
    payload = msgpack.packb(arguments)
    return raw(payload, name=name, session=session, request=request)


def keyed(name: str, of: str, *arguments: Any, session: int = 0, request: int = 1) -> bytes:
    """The same with a key of the caller's own."""
    name_bytes = of.encode()
    payload = bytes([len(name_bytes)]) + name_bytes + msgpack.packb(arguments)
    return raw(payload, kind=Kind.KEYED, name=name, session=session, request=request)


def raw(
    payload: bytes,
    *,
    name: str,
    session: int = 0,
    request: int = 1,
    kind: Kind = Kind.TRANSACTION,
) -> bytes:
    return encode_frame(
        kind, payload, operation=NUMBERS[name], request=request, sequence=session, context=7
    )


@contextmanager
def sizes(**chosen: int) -> Iterator[None]:
    """Ranges of other lengths than a server's, while a region is laid out."""
    with ExitStack() as stack:
        for name, value in chosen.items():
            stack.enter_context(mock.patch.object(layouts, name, value))
        yield


class Rig:
    """One engine. `log`: what it ran, as a log would have it: times and frames."""

    def __init__(self, **chosen: int) -> None:
        self._sizes = chosen
        self.log: list[tuple[int, list[bytes]]] = []
        with sizes(**chosen):
            self.region = Region.create(layout_bytes(app), scratch_bytes=SCRATCH_BYTES)
            self.engine = Engine.create(
                app,
                self.region,
                grow=self.region.allocate,
                history=1,
                seed=5,
                now_ns=lambda: 0,
            )

    def copy(self) -> Rig:
        """Another engine on the same bytes."""
        other = Rig.__new__(Rig)
        other._sizes, other.log = self._sizes, []
        with sizes(**self._sizes):
            size_bytes = layout_bytes(app)
            other.region = Region.create(size_bytes, scratch_bytes=SCRATCH_BYTES)
            for extent in self.engine.extents():
                other.region.allocate(extent)
                span = slice(extent.start * PAGE_BYTES, extent.stop * PAGE_BYTES)
                other.region.buffer[span] = self.region.buffer[span]
            other.engine = Engine.recover(
                app, other.region, grow=other.region.allocate, history=1, now_ns=lambda: 0
            )
        return other

    def run(self, *frames: bytes, time_ns: int = 0) -> list[tuple[Header, Any]]:
        """Replies, their payloads unpacked."""
        self.log.append((time_ns, list(frames)))
        data = np.frombuffer(b"".join(frames), np.uint8)
        starts = np.cumsum([0, *map(len, frames)])
        self.engine.begin(time_ns)
        assert self.engine.run(data, starts, 0, len(frames), FAR_AWAY_NS) == len(frames)
        found, at, replies = [], 0, bytes(self.engine.replies)
        self.engine.replies.clear()
        while at < len(replies):
            header = Header.read(replies, at)
            stop = at + HEADER_BYTES + header.length
            found.append((header, msgpack.unpackb(replies[at + HEADER_BYTES : stop])))
            at = stop
        assert len(found) == len(frames)
        return found

    def call(self, one: bytes, time_ns: int = 0) -> Any:
        """The value of one frame, or the kind of failure and its code."""
        ((header, value),) = self.run(one, time_ns=time_ns)
        return told(header, value)

    def open(self, identity: int = 1, caller: str = "", time_ns: int = 0) -> Any:
        who = identity.to_bytes(16, "little")
        return self.call(frame("session_open", who, caller), time_ns)

    def rows(self) -> list[str]:
        """One for each transaction that ran to its end."""
        return [row.what for row in self.engine.db.entry]

    def memory(self, *, data_alone: bool = False) -> bytes:
        """All bytes there are, and where they are; or those of the application."""
        words = self.region.words
        layout = self.engine.layout
        extents = layout.data_extents(words) if data_alone else layout.extents(words)
        first = 2 if data_alone else 1
        spans = [(max(first, e.start) * PAGE_BYTES, e.stop * PAGE_BYTES) for e in extents]
        return repr(spans).encode() + b"".join(
            bytes(self.region.buffer[start:stop]) for start, stop in spans
        )

    def close(self) -> None:
        self.engine.verify()
        self.region.close()


def told(header: Header, value: Any) -> Any:
    if header.kind == Kind.RESULT:
        return value
    if header.kind == Kind.REJECTED:
        return "REJECTED", value[0]
    return "ERROR", value["code"]


def replayed(rig: Rig, log: Sequence[tuple[int, list[bytes]]]) -> Rig:
    """`rig` after it has run what another one has."""
    for time_ns, frames in log:
        rig.run(*frames, time_ns=time_ns)
    return rig
