"""TPC-C's five operations in SQLite, in this process: what `bench/tpcc.py` compares with.

As favourable to SQLite as is reasonable: no server and no network, one connection, prepared
statements, tables that are their primary keys, WAL without syncs (the server beside it has no data
directory either), all of the data in its cache. The rows are the example's own population, the
calls are its terminals', drawn before the clock starts.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import tpcc_sql

from diptych import Rejected
from tpcc import Scale
from tpcc.app import (
    BAD_CREDIT,
    DATA_CHARACTERS_SHOWN,
    ORIGINAL,
    RECENT_ORDERS,
    RESTOCK_BELOW,
    RESTOCK_QUANTITY,
)
from tpcc.schema import DATA_BYTES, DISTRICTS
from tpcc.terminals import Terminals

CALLS = 20_000
TERMINALS = 10
SETTINGS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=OFF",
    "PRAGMA locking_mode=EXCLUSIVE",
    "PRAGMA temp_store=MEMORY",
    "PRAGMA cache_size=-2000000",
    "PRAGMA wal_autocheckpoint=20000",
)
TYPES = {"int": "INTEGER", "bool": "INTEGER", "text": "TEXT"}
BY_NAME = """SELECT id FROM customer WHERE warehouse = ? AND district = ? AND last = ?
    ORDER BY first, id"""
OF_LINES = """SELECT l.item FROM "order" o JOIN order_line l
    ON l.warehouse = o.warehouse AND l.district = o.district AND l."order" = o.id
    WHERE o.warehouse = ? AND o.district = ? AND o.id BETWEEN ? AND ?"""
SCARCE = f"""SELECT count(*) FROM stock WHERE warehouse = ? AND quantity < ?
    AND item IN ({OF_LINES})"""
TAKE_STOCK = """UPDATE stock SET
    quantity = quantity - ? + CASE WHEN quantity - ? < {below} THEN {more} ELSE 0 END,
    year_to_date = year_to_date + ?, order_count = order_count + 1,
    remote_count = remote_count + ?
    WHERE warehouse = ? AND item = ? RETURNING quantity, dist_{district:02}, data"""


class Store:
    """One database, with the operations as methods; what they take and do is `tpcc.app`'s."""

    def __init__(self, directory: Path) -> None:
        self.connection = sqlite3.connect(
            directory / "tpcc.db", isolation_level=None, cached_statements=256
        )
        self.run = self.connection.execute
        for setting in SETTINGS:
            self.run(setting)
        self._take_stock = [
            TAKE_STOCK.format(below=RESTOCK_BELOW, more=RESTOCK_QUANTITY, district=district)
            for district in range(DISTRICTS + 1)
        ]

    def load(self, scale: Scale) -> None:
        """Take the example's own population over, row by row."""
        self.run("BEGIN")
        for spec, rows in tpcc_sql.tables(scale):
            kinds = [f'"{each.name}" {TYPES[each.kind]}' for each in spec.columns]
            keys = ", ".join(f'"{column.name}"' for column in spec.keys)
            rowid = "" if len(spec.keys) == 1 else " WITHOUT ROWID"
            columns = f"{', '.join(kinds)}, PRIMARY KEY ({keys})"
            self.run(f'CREATE TABLE "{spec.name}" ({columns}){rowid}')
            marks = ", ".join("?" * len(kinds))
            self.connection.executemany(f'INSERT INTO "{spec.name}" VALUES ({marks})', rows)
        self.run("CREATE INDEX by_name ON customer (warehouse, district, last, first)")
        self.run('CREATE INDEX by_customer ON "order" (warehouse, district, customer, id)')
        self.run("COMMIT")
        self.run("ANALYZE")

    def one(self, statement: str, *values: Any) -> Any:
        found = self.run(statement, values).fetchone()
        if found is None:
            raise Rejected("not_found")
        return found

    def call(self, operation: str, arguments: tuple[Any, ...]) -> Any:
        """A whole transaction. Errors: Rejected, and nothing is changed."""
        self.run("BEGIN")
        try:
            result = getattr(self, operation)(*arguments)
        except Rejected:
            self.run("ROLLBACK")
            raise
        self.run("COMMIT")
        return result

    def broken(self) -> list[str]:
        """The consistency conditions that do not hold."""
        return [name for name, statement in tpcc_sql.BROKEN.items() if self.one(statement)[0]]

    # The operations -----------------------------------------------------------------------------

    def new_order(self, warehouse: int, district: int, customer: int, lines: Any) -> Any:
        now = time.time_ns()
        (home_tax,) = self.one("SELECT tax FROM warehouse WHERE id = ?", warehouse)
        order, place_tax = self.one(
            "UPDATE district SET next_order = next_order + 1 "
            "WHERE warehouse = ? AND id = ? RETURNING next_order - 1, tax",
            *(warehouse, district),
        )
        discount, last, credit = self.one(
            "SELECT discount, last, credit FROM customer "
            "WHERE warehouse = ? AND district = ? AND id = ?",
            *(warehouse, district, customer),
        )
        local = all(line[1] == warehouse for line in lines)
        self.run(
            'INSERT INTO "order" VALUES (?, ?, ?, ?, ?, NULL, ?, ?)',
            (warehouse, district, order, customer, now, len(lines), local),
        )
        self.run("INSERT INTO new_order VALUES (?, ?, ?)", (warehouse, district, order))
        total, told, rows = 0, [], []
        for number, (item, supplier, quantity) in enumerate(lines, 1):
            found = self.run("SELECT name, price, data FROM item WHERE id = ?", (item,)).fetchone()
            if found is None:
                raise Rejected("item_not_found", item=item)
            name, price, data = found
            left, info, stocked = self.one(
                self._take_stock[district],
                *(quantity, quantity, quantity, supplier != warehouse, supplier, item),
            )
            amount = quantity * price
            total += amount
            key = (warehouse, district, order, number)
            rows.append((*key, item, supplier, None, quantity, amount, info))
            brand = "B" if ORIGINAL in data and ORIGINAL in stocked else "G"
            told.append((name, left, brand, price, amount))
        self.connection.executemany(
            "INSERT INTO order_line VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows
        )
        total = total * (10_000 - discount) * (10_000 + home_tax + place_tax) // 10**8
        return order, now, last, credit, discount, home_tax, place_tax, total, told

    def payment(
        self,
        warehouse: int,
        district: int,
        customer_warehouse: int,
        customer_district: int,
        amount: int,
        customer: int | None,
        last: str | None,
    ) -> Any:
        now = time.time_ns()
        where = (customer_warehouse, customer_district)
        key = (*where, self._customer(*where, customer, last))
        home = self.one(
            "UPDATE warehouse SET year_to_date = year_to_date + ? WHERE id = ? "
            "RETURNING name, street_1, street_2, city, state, zip",
            *(amount, warehouse),
        )
        place = self.one(
            "UPDATE district SET year_to_date = year_to_date + ? WHERE warehouse = ? AND id = ? "
            "RETURNING name, street_1, street_2, city, state, zip",
            *(amount, warehouse, district),
        )
        payer = self.one(
            "UPDATE customer SET balance = balance - ?, year_to_date = year_to_date + ?, "
            "payment_count = payment_count + 1 WHERE warehouse = ? AND district = ? AND id = ? "
            "RETURNING first, middle, last, street_1, street_2, city, state, zip, phone, since, "
            "credit, credit_limit, discount, balance",
            *(amount, amount, *key),
        )
        shown = ""
        if payer[10] == BAD_CREDIT:
            entry = (
                f"{key[2]} {customer_district} {customer_warehouse} {district} {warehouse} "
                f"{amount // 100}.{amount % 100:02} "
            )
            (data,) = self.one(
                f"UPDATE customer SET data = substr(? || data, 1, {DATA_BYTES}) "
                "WHERE warehouse = ? AND district = ? AND id = ? RETURNING data",
                *(entry, *key),
            )
            shown = data[:DATA_CHARACTERS_SHOWN]
        self.run(
            "INSERT INTO history VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(key[2], customer_district, customer_warehouse, district, warehouse),
                *(now, amount, f"{home[0]}    {place[0]}"),
            ),
        )
        return now, home, place, key, payer, shown

    def order_status(
        self, warehouse: int, district: int, customer: int | None, last: str | None
    ) -> Any:
        key = (warehouse, district, self._customer(warehouse, district, customer, last))
        buyer = self.one(
            "SELECT first, middle, last, balance FROM customer "
            "WHERE warehouse = ? AND district = ? AND id = ?",
            *key,
        )
        order = self.run(
            'SELECT id, entered, carrier FROM "order" WHERE warehouse = ? AND district = ? '
            "AND customer = ? ORDER BY id DESC LIMIT 1",
            key,
        ).fetchone()
        lines = self.run(
            "SELECT item, supplier, quantity, amount, delivered FROM order_line "
            'WHERE warehouse = ? AND district = ? AND "order" = ?',
            (warehouse, district, order[0] if order else 0),
        ).fetchall()
        return key, buyer, order, lines

    def delivery(self, warehouse: int, carrier: int) -> Any:
        now, delivered = time.time_ns(), []
        for district in range(1, DISTRICTS + 1):
            where = (warehouse, district)
            (order,) = self.one(
                'SELECT min("order") FROM new_order WHERE warehouse = ? AND district = ?', *where
            )
            delivered.append(order or 0)
            if order is None:
                continue
            self.run(
                'DELETE FROM new_order WHERE warehouse = ? AND district = ? AND "order" = ?',
                (*where, order),
            )
            (customer,) = self.one(
                'UPDATE "order" SET carrier = ? WHERE warehouse = ? AND district = ? AND id = ? '
                "RETURNING customer",
                *(carrier, *where, order),
            )
            (total,) = self.one(
                "SELECT sum(amount) FROM order_line "
                'WHERE warehouse = ? AND district = ? AND "order" = ?',
                *(*where, order),
            )
            self.run(
                "UPDATE order_line SET delivered = ? "
                'WHERE warehouse = ? AND district = ? AND "order" = ?',
                (now, *where, order),
            )
            self.run(
                "UPDATE customer SET balance = balance + ?, delivery_count = delivery_count + 1 "
                "WHERE warehouse = ? AND district = ? AND id = ?",
                (total, *where, customer),
            )
        return delivered

    def stock_level(self, warehouse: int, district: int, threshold: int) -> int:
        (next_order,) = self.one(
            "SELECT next_order FROM district WHERE warehouse = ? AND id = ?", warehouse, district
        )
        recent = (max(1, next_order - RECENT_ORDERS), next_order - 1)
        found: int = self.one(SCARCE, warehouse, threshold, warehouse, district, *recent)[0]
        return found

    def _customer(
        self, warehouse: int, district: int, customer: int | None, last: str | None
    ) -> int:
        if customer is not None:
            return customer
        found = self.run(BY_NAME, (warehouse, district, last)).fetchall()
        if not found:
            raise Rejected("customer_not_found", last=last)
        middle: int = found[(len(found) - 1) // 2][0]
        return middle


def keyed(scale: Scale, seed: int = 7) -> list[tuple[str, tuple[Any, ...]]]:
    """Calls of several terminals in turn, drawn beforehand."""
    streams = [Terminals(scale, seed).calls(number) for number in range(TERMINALS)]

    def in_turn() -> Iterator[Any]:
        while True:
            for stream in streams:
                yield next(stream)

    return list(islice(in_turn(), CALLS))


def measured(scale: Scale, seconds: float) -> dict[str, Any]:
    """The mix for some seconds: what it did a second, and the conditions broken at the end."""
    calls = keyed(scale)
    with tempfile.TemporaryDirectory() as directory:
        store = Store(Path(directory))
        store.load(scale)
        done: Counter[str] = Counter()
        latencies_us: dict[str, list[float]] = {}
        began = last = time.perf_counter()
        for operation, arguments in cycle(calls):
            try:
                store.call(operation, arguments)
                done[operation] += 1
            except Rejected as no:
                done[no.code] += 1
            now = time.perf_counter()
            latencies_us.setdefault(operation, []).append((now - last) * 1e6)
            last = now
            if now - began >= seconds:
                break
        took_s = last - began
        broken = store.broken()
        store.connection.close()
    figures: dict[str, Any] = {
        "transactions_per_s": sum(done.values()) / took_s,
        "tpmc": 60 * done["new_order"] / took_s,
        "broken": broken,
    }
    for operation, times in latencies_us.items():
        times.sort()
        figures[f"{operation}_p50_ms"] = times[len(times) // 2] / 1000
        figures[f"{operation}_p99_ms"] = times[len(times) * 99 // 100] / 1000
    return figures
