"""What `bench/store.py` compares: one small table in Diptych and in what else Python programs use.

Each system does the same operations on the same rows, one at a time, as a handler would. A row has
an id, a group, a price and a quantity, and is found by its id; two indexes order rows by price and
id, and by group and price. Every method takes a batch and does nothing but the operation in a loop,
so that the time per operation is that of the batch divided by its length.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import islice
from time import perf_counter
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt
from sortedcontainers import SortedDict

from diptych import App, Db, key, ordered
from diptych.engine.engine import Engine, layout_bytes
from diptych.kernel import kernel
from diptych.memory import Region
from diptych.store.btree import advance, open_cursor
from diptych.store.compiled.handlers import compiled_operations
from diptych.store.database import SCRATCH_BYTES
from diptych.store.fields import get_value
from diptych.store.hashing import find1
from diptych.store.rows import assign, delete, insert
from diptych.store.words import (
    S_ARGUMENT,
    S_UNDO_TOP,
    SCRATCH,
    SEQUENCE,
    T_BASE,
)
from diptych_client.protocol import HEADER_BYTES, Kind, encode_frame

Rows = npt.NDArray[np.int64]  # id, group, price, quantity
Words = npt.NDArray[np.int64]

FOR_EVER_NS = 1 << 62
COMMIT_ROWS = 10  # operations a transaction
CAPACITY = 1 << 24
PRICE, QUANTITY = 2, 3  # value words
BY_PRICE = "by_price"

app = App("store")


@app.table(capacity=CAPACITY)
class Item:
    id: int = key()
    group: int
    price: int
    quantity: int = 0
    by_price = ordered("price", "id")
    by_group = ordered("group", "price")


# In the compiled lane a loop is in the handler, so what it works on is made from numbers.


@app.transaction
def read_some(db: Db, first: int, stride: int, last: int, count: int) -> int:
    total = 0
    id = first
    for _ in range(count):
        total += db.item[id].price
        id += stride
        if id >= last:
            id -= last
    return total


@app.transaction
def update_some(db: Db, first: int, stride: int, last: int, count: int) -> None:
    row = db.item[first]
    for number in range(count):
        row.quantity = number


@app.transaction
def insert_some(db: Db, first: int, seed: int, ascending: bool, count: int) -> int:
    price = seed
    for id in range(first, first + count):
        price = id if ascending else price * 48_271 % 2_147_483_647
        db.item.insert(id=id, group=price % 1_000, price=price)
    return price


@app.transaction
def walk_some(db: Db, start: int, count: int) -> int:
    steps = 0
    for _row in db.item.by_price.range(start=start):
        steps += 1
        if steps == count:
            break
    return steps


@app.transaction
def delete_some(db: Db, first: int, count: int) -> None:
    for id in range(first, first + count):
        db.item.delete(db.item[id])


class System:
    """What all have in common. One that has no order has no `walk`.

    `update` tells the seconds that it took with the rows at hand; other methods are timed from
    outside.
    """

    name: str

    def given(self, ids: Words) -> Any:
        """Ids as this system's operations take them."""
        return ids.tolist()


class Diptych(System):
    """The engine in this process with Python handlers: no sockets, no page tracking."""

    name = "Diptych"
    compiled = False

    def __init__(self, same: Diptych | None = None) -> None:
        """`same`: the one whose rows these are, else there are none yet."""
        if same is None:
            self.region = Region.create(layout_bytes(app), scratch_bytes=SCRATCH_BYTES)
            grow = self.region.allocate
            self.engine = Engine.create(
                app,
                self.region,
                grow=grow,
                history=1,
                now_ns=lambda: 0,
                compiled=compiled_operations(app, every=True) if self.compiled else None,
            )
        else:
            self.region, self.engine = same.region, same.engine
        self.words = self.region.words
        (self.table,) = self.engine.layout.tables
        self.index = self.table.indexes[0].descriptor

    def close(self) -> None:
        self.region.close()

    def insert(self, rows: Rows) -> None:
        values = rows.tolist()
        for first in range(0, len(values), COMMIT_ROWS):
            self.engine.transact(_insert, values[first : first + COMMIT_ROWS])

    def read(self, ids: Sequence[int]) -> int:
        total: int = self.engine.transact(_read, ids)
        return total

    def update(self, ids: Sequence[int]) -> float:
        seconds: float = self.engine.transact(_update, ids)
        return seconds

    def walk(self, starts: Sequence[int], steps: int) -> int:
        walked: int = self.engine.transact(_walk, starts, steps)
        return walked

    def delete(self, ids: Sequence[int]) -> None:
        for first in range(0, len(ids), COMMIT_ROWS):
            self.engine.transact(_delete, ids[first : first + COMMIT_ROWS])


def _insert(db: Db, rows: list[list[int]]) -> None:
    for id, group, price, quantity in rows:
        db.item.insert(id=id, group=group, price=price, quantity=quantity)


def _read(db: Db, ids: Sequence[int]) -> int:
    total, item = 0, db.item
    for id in ids:
        total += item[id].price
    return total


def _update(db: Db, ids: Sequence[int]) -> float:
    rows = [db.item[id] for id in ids]
    began = perf_counter()
    for row in rows:
        row.quantity = 7
    return perf_counter() - began


def _walk(db: Db, starts: Sequence[int], steps: int) -> int:
    walked, index = 0, db.item.by_price
    for start in starts:
        for _ in islice(index.range(start=start), steps):
            walked += 1
    return walked


def _delete(db: Db, ids: Sequence[int]) -> None:
    item = db.item
    for id in ids:
        item.delete(item[id])


class Kernels(Diptych):
    """The same kernels, called from compiled loops: what the store itself takes."""

    name = "kernels"

    def insert(self, rows: Rows) -> None:
        done = 0
        with self.engine.transaction() as db:
            while done < len(rows):
                done, code = insert_rows(self.words, self.table.descriptor, rows, done)
                if code < 0 and not db.space.needs_memory(code):
                    raise AssertionError(f"an insert failed with {code}")

    def given(self, ids: Words) -> Any:
        return ids

    def read(self, ids: Any) -> int:
        total: int = read_rows(self.words, self.table.descriptor, PRICE, ids)
        return total

    def update(self, ids: Any) -> float:
        rows = np.array([find1(self.words, self.table.descriptor, id) for id in ids])
        began = perf_counter()
        update_rows(self.words, self.table.descriptor, QUANTITY, rows)
        return perf_counter() - began

    def walk(self, starts: Any, steps: int) -> int:
        walked: int = walk_rows(self.words, self.index, starts, steps)
        return walked

    def delete(self, ids: Any) -> None:
        if delete_rows(self.words, self.table.descriptor, ids) < 0:
            raise AssertionError("a delete failed")


@kernel
def commit(words: Words) -> int:
    words[words[SCRATCH] + S_UNDO_TOP] = 0
    words[SEQUENCE] += 1
    return 0


@kernel
def insert_rows(words: Words, t: int, rows: Rows, first: int) -> tuple[int, int]:
    """Insert rows from `first` on: how far it came, and the code that stopped it."""
    argument = words[SCRATCH] + S_ARGUMENT
    for i in range(first, len(rows)):
        for value in range(4):
            words[argument + value] = rows[i, value]
        row = insert(words, t)
        if row < 0:
            return i, row
        if i % COMMIT_ROWS == 0:
            commit(words)
    commit(words)
    return len(rows), 0


@kernel
def read_rows(words: Words, t: int, value: int, ids: Words) -> int:
    total = 0
    for id in ids:
        total += get_value(words, t, value, find1(words, t, id))
    return total


@kernel
def update_rows(words: Words, t: int, value: int, rows: Words) -> int:
    base = words[t + T_BASE + value]
    for i, row in enumerate(rows):
        assign(words, t, row, base + row, i)
        if i % COMMIT_ROWS == 0:
            commit(words)
    return commit(words)


@kernel
def walk_rows(words: Words, x: int, starts: Words, steps: int) -> int:
    walked = 0
    for start in starts:
        words[words[SCRATCH] + S_ARGUMENT] = start
        cursor = open_cursor(words, x, 1, 0, 0, 0)
        for _ in range(steps):
            if advance(words, cursor) < 0:
                break
            walked += 1
    return walked


@kernel
def delete_rows(words: Words, t: int, ids: Words) -> int:
    for i, id in enumerate(ids):
        if delete(words, t, find1(words, t, id)) < 0:
            return -1
        if i % COMMIT_ROWS == 0:
            commit(words)
    return commit(words)


class CompiledLane(Diptych):
    """Compiled handlers that loop. Rows come from numbers, so batches are given by those."""

    name = "compiled lane"

    compiled = True

    def run(self, name: str, *arguments: Any) -> Any:
        (number,) = [each.number for each in app.operations if each.name == name]
        frame = encode_frame(Kind.TRANSACTION, msgpack.packb(arguments), operation=number)
        starts = np.array([0, len(frame)], np.int64)
        self.engine.begin(0)
        self.engine.run(np.frombuffer(frame, np.uint8), starts, 0, 1, FOR_EVER_NS)
        value = msgpack.unpackb(self.engine.replies[HEADER_BYTES:])
        self.engine.replies.clear()
        return value


class Item_:
    """A row as plain Python keeps it."""

    __slots__ = ("group", "id", "price", "quantity")

    def __init__(self, id: int, group: int, price: int, quantity: int) -> None:
        self.id, self.group, self.price, self.quantity = id, group, price, quantity


class PlainDict(System):
    """Objects in a dict: no order, no undo, and no indexes on insert."""

    name = "dict"

    def __init__(self) -> None:
        self.items: dict[int, Item_] = {}

    def insert(self, rows: Rows) -> None:
        for id, group, price, quantity in rows.tolist():
            self.items[id] = Item_(id, group, price, quantity)

    def read(self, ids: Sequence[int]) -> int:
        total, items = 0, self.items
        for id in ids:
            total += items[id].price
        return total

    def update(self, ids: Sequence[int]) -> float:
        rows = [self.items[id] for id in ids]
        began = perf_counter()
        for row in rows:
            row.quantity = 7
        return perf_counter() - began

    def delete(self, ids: Sequence[int]) -> None:
        for id in ids:
            del self.items[id]


class Sorted(PlainDict):
    """The dict with two SortedDicts beside it as indexes; no undo."""

    name = "SortedDict"

    def __init__(self) -> None:
        super().__init__()
        self.by_price: Any = SortedDict()
        self.by_group: Any = SortedDict()

    def insert(self, rows: Rows) -> None:
        for id, group, price, quantity in rows.tolist():
            item = Item_(id, group, price, quantity)
            self.items[id] = item
            self.by_price[price, id] = item
            self.by_group[group, price, id] = item

    def walk(self, starts: Sequence[int], steps: int) -> int:
        walked, by_price = 0, self.by_price
        for start in starts:
            for entry in islice(by_price.irange((start,)), steps):
                by_price[entry]
                walked += 1
        return walked

    def delete(self, ids: Sequence[int]) -> None:
        for id in ids:
            item = self.items.pop(id)
            del self.by_price[item.price, id]
            del self.by_group[item.group, item.price, id]


class SQLite(System):
    """SQLite in memory: prepared statements, executed one by one, all in one transaction."""

    name = "SQLite"

    def __init__(self) -> None:
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        for statement in (
            "create table item (id integer primary key, grp integer, price integer, qty integer)",
            "create index by_price on item (price, id)",
            "create index by_grp on item (grp, price)",
            "begin",
        ):
            self.db.execute(statement)

    def insert(self, rows: Rows) -> None:
        execute = self.db.execute
        for row in rows.tolist():
            execute("insert into item values (?, ?, ?, ?)", row)

    def read(self, ids: Sequence[int]) -> int:
        total, execute = 0, self.db.execute
        for id in ids:
            total += execute("select price from item where id = ?", (id,)).fetchone()[0]
        return total

    def update(self, ids: Sequence[int]) -> float:
        execute = self.db.execute
        began = perf_counter()
        for id in ids:
            execute("update item set qty = 7 where id = ?", (id,))
        return perf_counter() - began

    def walk(self, starts: Sequence[int], steps: int) -> int:
        walked, execute = 0, self.db.execute
        query = "select price, id from item where price >= ? order by price, id limit ?"
        for start in starts:
            for _ in execute(query, (start, steps)):
                walked += 1
        return walked

    def delete(self, ids: Sequence[int]) -> None:
        execute = self.db.execute
        for id in ids:
            execute("delete from item where id = ?", (id,))
