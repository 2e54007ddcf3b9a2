"""An application whose log says everything, and data directories of it, made in this process.

Beside decent transactions it has those that a replay does otherwise: by chance, by the order of a
set, by what the process remembers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgpack
import numpy as np

from diptych import App, Db, Rejected, key, ordered, text
from diptych.durable import CommandLog, DataDirectory, read_tail
from diptych.engine.engine import Engine, layout_bytes
from diptych.engine.facts import facts_of, to_text
from diptych.engine.framing import starts_of
from diptych.engine.opening import save
from diptych.engine.system import SESSION_OPEN
from diptych.memory import Region
from diptych.store.database import SCRATCH_BYTES
from diptych_client.protocol import HEADER_BYTES, Header, Kind, encode_frame

app = App("logged")
ACCOUNTS = 10
CASH = 100
HISTORY = 77
BEGAN_NS = 1_700_000_000_000_000_000
STEP_NS = 1_000_000_000
"""Between one record and the next."""
TARGET = "tests.support.logged:app"
counted = 0


@app.table(capacity=5000)
class Account:
    id: int = key()
    cash: int = 0
    rate: float = 0.0
    owner: Annotated[str, text(24)] = ""
    note: str = ""
    by_cash = ordered("cash", "id")


@app.setup
def setup(db: Db) -> None:
    for number in range(1, ACCOUNTS + 1):
        db.account.insert(id=number, cash=CASH, owner=f"owner {number}")


@app.transaction
def pay(db: Db, source: int, target: int, amount: int) -> int:
    payer, payee = db.account[source], db.account[target]
    payer.cash -= amount
    payee.cash += amount
    if payer.cash < 0:
        raise Rejected("insufficient_funds")
    return int(payer.cash)


@app.transaction
def annotate(db: Db, account: int, note: str) -> None:
    db.account[account].note = note


@app.transaction
def open_many(db: Db, first: int, count: int) -> None:
    for number in range(first, first + count):
        db.account.insert(id=number, note=f"note {number}" * 5)


@app.transaction
def fail(db: Db) -> None:
    db.account[1].cash = 0
    raise ZeroDivisionError("a bug in a handler")


@app.transaction
def descend(db: Db) -> None:
    descend(db)


@app.transaction
def sink(db: Db, calls: int) -> int:
    return calls and 1 + sink(db, calls - 1)


@app.transaction
def draw(db: Db, account: int) -> None:
    db.account[account].rate = random.random()


@app.transaction
def drawn(db: Db, account: int) -> float:
    db.account[account].rate = random.random()
    return float(db.account[account].rate)


@app.transaction
def first_of_set(db: Db, account: int) -> None:
    names = {f"name {number}" for number in range(100)}
    db.account[account].owner = next(iter(names))


@app.transaction
def count(db: Db, account: int) -> None:
    global counted
    counted += 1
    db.account[account].cash = CASH + counted


@app.query
def cash(db: Db, account: int) -> int:
    return int(db.account[account].cash)


NUMBERS = {operation.name: operation.number for operation in app.operations}
Call = tuple[Any, ...]


@dataclass(frozen=True)
class Settings:
    durability: str = "fsync"
    segment_bytes: int = 1 << 16


@dataclass
class Logged:
    """A server's writer without the server: what it runs is in the log before."""

    path: Path
    engine: Engine
    directory: DataDirectory
    log: CommandLog
    time_ns: int = BEGAN_NS
    outcome: int | None = None
    session: int = 0
    request: int = 0

    @property
    def sequence(self) -> int:
        return self.engine.sequence

    def run(self, *calls: Call, session: bool = False, after: int = 0) -> list[tuple[int, Any]]:
        """Run calls, each (name, argument...), as one record: kinds and payloads of the replies.

        `after`: so many of them a checkpoint is written; 0: none.
        """
        frames = b""
        for name, *arguments in calls:
            self.request += 1
            frames += encode_frame(
                Kind.TRANSACTION,
                msgpack.packb(arguments),
                operation=NUMBERS[name],
                request=self.request,
                sequence=self.session if session else 0,
                context=9,
            )
        return self.send(frames, len(calls), after)

    def open_session(self, caller: str = "till") -> int:
        frame = encode_frame(
            Kind.TRANSACTION, msgpack.packb([bytes(16), caller]), operation=SESSION_OPEN, request=1
        )
        ((_, self.session),) = self.send(frame, 1)
        return self.session

    def keyed(self, text: str, name: str, *arguments: Any) -> list[tuple[int, Any]]:
        payload = bytes([len(text)]) + text.encode() + msgpack.packb(arguments)
        return self.send(encode_frame(Kind.KEYED, payload, operation=NUMBERS[name], request=5), 1)

    def send(self, frames: bytes, count: int, after: int = 0) -> list[tuple[int, Any]]:
        self.time_ns += STEP_NS
        self.log.append_batch(frames, self.sequence + 1, count, self.time_ns, self.outcome)
        self.engine.begin(self.time_ns)
        data = np.frombuffer(frames, np.uint8)
        starts = starts_of(data, count)
        if after:
            self.engine.run(data, starts, 0, after, 1 << 62)
            self.checkpoint()
        self.engine.run(data, starts, after, count, 1 << 62)
        self.outcome = self.engine.outcome
        aborts = self.engine.take_aborts()
        if aborts:
            self.log.append_aborts([(each.sequence, int(each.cause)) for each in aborts])
        self.log.wait(self.log.written)
        answers = list(_answers(bytes(self.engine.replies)))
        self.engine.replies.clear()
        return answers

    def checkpoint(self) -> None:
        save(app.name, self.directory, self.engine.region, self.engine.layout, FACTS)

    def cash_of(self, account: int) -> int:
        return int(self.engine.db.account[account].cash)


FACTS = to_text(facts_of(app, "interpreted"))


@contextmanager
def logged(
    path: Path,
    *,
    facts: str = "",
    settings: Settings = Settings(),
    capacities: Mapping[str, int] | None = None,
) -> Iterator[Logged]:
    """Data with the setup's transaction and its checkpoint, and an empty log. What is in `path`
    afterwards is what a stop in order leaves, without a checkpoint of its own.
    """
    facts = facts or to_text(facts_of(app, "interpreted", capacities))
    with (
        Region.create(layout_bytes(app, capacities), scratch_bytes=SCRATCH_BYTES) as region,
        DataDirectory.open(path, app.name) as directory,
    ):
        engine = Engine.create(
            app,
            region,
            grow=region.allocate,
            history=HISTORY,
            capacities=capacities,
            seed=5,
            now_ns=lambda: BEGAN_NS,
        )
        save(app.name, directory, region, engine.layout, facts)
        directory.begin(settings.durability)
        tail = read_tail(path, engine.sequence, HISTORY)
        tail.finish()
        log = CommandLog.open(
            path,
            settings,
            app=app.name,
            facts=facts,
            history=HISTORY,
            sequence=engine.sequence,
            tail=tail,
        )
        made = Logged(path, engine, directory, log)
        try:
            yield made
            log.close()
            directory.end_in_order()
        finally:
            made.engine.region.close()


@contextmanager
def usual(path: Path) -> Iterator[Logged]:
    """A directory with a little of everything: two checkpoints, and log behind the newer one."""
    with logged(path) as made:
        made.open_session()
        made.run(("pay", 1, 2, 30), ("pay", 1, 2, 500), ("annotate", 3, "hello"), session=True)
        made.run(("open_many", 100, 800), ("fail",), ("descend",))
        made.keyed("invoice 7", "pay", 2, 3, 5)
        made.checkpoint()
        made.run(("pay", 3, 4, 7), ("annotate", 3, "x" * 3000), session=True)
        made.run(("open_many", 2000, 600))
        made.checkpoint()
        made.run(("pay", 5, 6, 1), ("pay", 5, 6, 2), session=True)
        made.run(("pay", 5, 6, 4))
        yield made


def _answers(replies: bytes) -> Iterator[tuple[int, Any]]:
    at = 0
    while at < len(replies):
        header = Header.read(replies, at)
        at += HEADER_BYTES
        yield header.kind, msgpack.unpackb(replies[at : at + header.length])
        at += header.length
