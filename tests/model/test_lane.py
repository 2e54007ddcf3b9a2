"""Batches in both lanes: whatever comes, in whatever order, answers and memory are the same bytes.

Frames are compiled and interpreted ones in turn, of sessions and of nobody, new and repeated, with
keys, wrong, rejected, failing, and such that need memory.
"""

from __future__ import annotations

import random
from enum import IntEnum
from typing import Annotated, NamedTuple

import msgpack
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as some

from diptych import App, Db, Rejected, between, bits, items, key, ordered, text
from diptych.engine.engine import Engine, layout_bytes
from diptych.engine.system import SESSION_OPEN
from diptych.memory import PAGE_BYTES, Region
from diptych.store.compiled.handlers import compiled_operations
from diptych.store.database import SCRATCH_BYTES
from diptych_client.protocol import HEADER_BYTES, Header, Kind, encode_frame

FAR_AWAY_NS = 1 << 62
app = App("lane", compiled=True)


class Mood(IntEnum):
    GOOD = 1
    BAD = 5


class Moved(NamedTuple):
    left: int
    share: float
    mood: Mood


@app.table(capacity=100)
class Account:
    id: int = key()
    cash: int = 100
    name: Annotated[str, text(3)] = ""
    level: Annotated[int, bits(8)] = 0
    rate: float | None = None
    by_cash = ordered("cash")


@app.table(capacity=4_000)
class Entry:
    id: int = key(auto=True)
    what: int
    by_what = ordered("what")


@app.table(capacity=1_000)
class Note:
    id: int = key(auto=True)
    what: str = ""


@app.transaction
def open_account(db: Db, id: int, name: Annotated[str, text(3)] = "new") -> Account:
    return db.account.insert(id=id, name=name)


@app.transaction
def move(
    db: Db,
    source: int,
    target: int,
    amount: Annotated[int, between(1, 1000)],
    mood: Mood = Mood.BAD,
) -> Moved:
    payer, payee = db.account[source], db.account[target]
    payer.cash -= amount
    payee.cash += amount
    payer.level += 1
    if payer.cash < 0:
        raise Rejected("poor", source=source, left=payer.cash, name=payer.name)
    return Moved(payer.cash, payer.cash / amount, mood)


@app.transaction
def divide(db: Db, id: int, by: int) -> int:
    row = db.account[id]
    row.cash += 1
    return row.cash // by


@app.transaction
def add(db: Db, id: int, amount: int, rate: float | None = None) -> int:
    row = db.account[id]
    row.rate = rate
    row.cash += amount
    return row.cash


@app.transaction
def enter(
    db: Db, what: Annotated[list[int], items(0, 12)], times: Annotated[int, between(0, 90)]
) -> int:
    for _ in range(times):
        for each in what:
            db.entry.insert(what=each)
    return len(db.entry)


@app.transaction
def chance(db: Db) -> int:
    return db.random.integers(0, 1_000_000)


@app.transaction(compiled=False)
def write(db: Db, what: str) -> int:
    return db.note.insert(what=what).id


@app.query
def count(db: Db) -> int:
    return len(db.account)


NUMBERS = {operation.name: operation.number for operation in app.operations}


class Side:
    """One engine, compiled or not."""

    def __init__(self, *, compiled: bool) -> None:
        self.region = Region.create(layout_bytes(app), scratch_bytes=SCRATCH_BYTES)
        self.engine = Engine.create(
            app,
            self.region,
            grow=self.region.allocate,
            history=1,
            seed=3,
            now_ns=lambda: 0,
            compiled=compiled_operations(app) if compiled else None,
        )

    def run(self, frames: list[bytes], time_ns: int) -> bytes:
        starts = np.cumsum([0, *map(len, frames)])
        self.engine.begin(time_ns)
        data = np.frombuffer(b"".join(frames), np.uint8)
        assert self.engine.run(data, starts, 0, len(frames), FAR_AWAY_NS) == len(frames)
        replies = bytes(self.engine.replies)
        self.engine.replies.clear()
        return replies

    def memory(self) -> bytes:
        extents = self.engine.layout.extents(self.region.words)
        spans = [(max(1, e.start) * PAGE_BYTES, e.stop * PAGE_BYTES) for e in extents]
        return b"".join(bytes(self.region.buffer[start:stop]) for start, stop in spans)

    def close(self) -> None:
        self.engine.verify()
        self.region.close()


class Callers:
    """Makes up frames. Sessions' numbers are told when they are opened."""

    def __init__(self, chance: random.Random) -> None:
        self.chance, self.sessions = chance, [0]
        self.next = {0: 1}
        self.sent: list[tuple[int, int, int, bytes]] = []

    def opening(self) -> list[bytes]:
        who = [msgpack.packb([bytes([n] * 16), "me"]) for n in range(3)]
        return [encode_frame(Kind.TRANSACTION, each, operation=SESSION_OPEN) for each in who]

    def opened(self, replies: bytes) -> None:
        for payload in payloads(replies):
            self.sessions.append(msgpack.unpackb(payload))
            self.next[self.sessions[-1]] = 1

    def frame(self) -> bytes:
        chance = self.chance
        if self.sent and chance.random() < 0.15:
            session, request, number, payload = chance.choice(self.sent[-30:])
            if chance.random() < 0.3:
                payload = self.payload("add")
            return encode_frame(
                Kind.TRANSACTION, payload, operation=number, request=request, sequence=session
            )
        session = chance.choice(self.sessions) if chance.random() < 0.98 else 999
        request = self.next.get(session, 1)
        self.next[session] = request + 1
        if chance.random() < 0.03:
            request = max(0, request + chance.choice([-2_000, 2, 400]))
        name = chance.choice([*NUMBERS, *["move"] * 6])
        payload, number = self.payload(name), NUMBERS[name]
        if chance.random() < 0.05:
            payload = chance.choice([b"", b"\xc1", payload[:-1], payload + b"\0", b"\x81\x01\x01"])
        if chance.random() < 0.02:
            number = 4_000
        if chance.random() < 0.1:
            own = b"key%d" % chance.randrange(20)
            payload = bytes([len(own)]) + own + payload
            return encode_frame(
                Kind.KEYED, payload, operation=number, request=request, sequence=session
            )
        self.sent.append((session, request, number, payload))
        return encode_frame(
            Kind.TRANSACTION,
            payload,
            operation=number,
            request=request,
            sequence=session,
            context=5,
        )

    def payload(self, name: str) -> bytes:
        chance = self.chance
        id = chance.choice([chance.randrange(8), chance.randrange(8), chance.choice([9, 120, "x"])])
        arguments = {
            "open_account": [id, chance.choice(["", "abc", "é", "long", "a\0"])][
                : chance.randint(1, 2)
            ],
            "move": [
                id,
                chance.randrange(8),
                chance.choice([1, 5, 20, 1001]),
                chance.choice([1, 5, 2]),
            ],
            "divide": [id, chance.choice([0, 1, -3, 2**63 - 1])],
            "add": [
                id,
                chance.choice([0, 5, -5, 2**63 - 1, -(2**63)]),
                chance.choice([None, 1, 0.5]),
            ],
            "enter": [
                [chance.randrange(-9, 9)] * chance.choice([0, 1, 12, 13]),
                chance.choice([0, 1, 1, 9, 60]),
            ],
            "write": ["note" * chance.choice([0, 1, 500])],
        }.get(name, [])
        if name == "move":
            arguments = arguments[: chance.choice([2, 3, 3, 4, 4])]
        return msgpack.packb(arguments)


def payloads(replies: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(replies):
        stop = at + HEADER_BYTES + Header.read(replies, at).length
        found.append(replies[at + HEADER_BYTES : stop])
        at = stop
    return found


@given(some.integers(0, 2**32))
@settings(max_examples=12, phases=[Phase.explicit, Phase.generate])
def test_batches(seed: int) -> None:
    chance = random.Random(seed)
    callers, sides = Callers(chance), [Side(compiled=False), Side(compiled=True)]
    log = []

    def run(frames: list[bytes]) -> bytes:
        log.extend((len(log), each) for each in frames)
        one, other = (side.run(frames, len(log)) for side in sides)
        assert payloads(one) == payloads(other)
        assert one == other
        return one

    callers.opened(run(callers.opening()))
    run([encode_frame(1 * Kind.TRANSACTION, msgpack.packb([n]), operation=0) for n in range(8)])
    for _ in range(12):
        run([callers.frame() for _ in range(chance.choice([1, 2, 10, 100, 200]))])
        assert sides[0].memory() == sides[1].memory()
    assert sides[0].engine.outcome == sides[1].engine.outcome
    assert sides[1].engine.compiled > len(log) / 10
    assert sides[0].engine.compiled == 0
    figures = [(e.committed, e.rejected, e.failed) for e in (side.engine for side in sides)]
    assert figures[0] == figures[1]
    for side in sides:
        side.close()


def test_a_retry_within_its_batch_gets_the_first_answer() -> None:
    side = Side(compiled=True)
    callers = Callers(random.Random(1))
    callers.opened(side.run(callers.opening(), 0))
    session = callers.sessions[1]
    ones = [
        encode_frame(
            Kind.TRANSACTION,
            msgpack.packb(arguments),
            operation=NUMBERS[name],
            request=request,
            sequence=session,
        )
        for request, name, arguments in [
            *((1, "open_account", [1]), (1, "open_account", [1]), (2, "add", [1, 5])),
            *((2, "add", [1, 5]), (2, "add", [1, 6]), (3, "add", [1, 1])),
        ]
    ]
    replies = side.run(ones, 1)
    told = [msgpack.unpackb(payload) for payload in payloads(replies)]
    assert told[0] == told[1] == [1, 100, "new", 0, None]
    assert told[2:4] == [105, 105]
    assert told[4]["code"] == "identity_conflict"
    assert told[5] == 106
    assert side.engine.compiled == 2  # the first of all waits for memory for its answer
    side.close()


def test_a_log_is_the_same_in_other_batches() -> None:
    chance = random.Random(7)
    callers = Callers(chance)
    sides = [Side(compiled=True) for _ in range(2)]
    opening = callers.opening()
    callers.opened(sides[0].run(opening, 9))
    frames = [callers.frame() for _ in range(600)]
    replies = sides[0].run(frames, 9)
    sides[1].run(opening, 9)
    begin, pieces = 0, b""
    while begin < len(frames):
        stop = begin + chance.randint(1, 40)
        pieces += sides[1].run(frames[begin:stop], 9)
        begin = stop
    assert pieces == replies
    assert sides[0].engine.outcome != 0
    assert sides[0].memory() == sides[1].memory()
    for side in sides:
        side.close()


@pytest.mark.parametrize("compiled", [False, True])
def test_what_has_used_up_its_time_is_undone(compiled: bool) -> None:
    side = Side(compiled=compiled)
    add_one = encode_frame(Kind.TRANSACTION, msgpack.packb([[1], 5]), operation=NUMBERS["enter"])
    side.run([add_one], 0)
    side.engine.db.space.control[2] = side.engine.sequence + 2  # DOOMED
    replies = side.run([add_one] * 3, 0)
    told = [msgpack.unpackb(payload) for payload in payloads(replies)]
    assert told[0] == 10
    assert told[1]["code"] == "over_budget"
    assert told[2] == 15
    side.close()
