"""PostgreSQL with the exchange in PL/pgSQL, on a server of its own (`postgres_server`)."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bench.suite.loads.ordered import run_ordered
from bench.suite.loads.postgres import INT4, INT8, TEXT, Postgres, PostgresCalls, PostgresError
from bench.suite.peers import postgres_server
from bench.suite.peers.base import Peer, Served
from bench.suite.peers.postgres_server import Cluster
from bench.suite.workload import SYMBOL, Holdings, Tape, trades

from diptych.loadtest import LoadSettings, Mix, Report
from diptych.loadtest.mix import Call

SCHEMA = Path(__file__).with_name("postgres.sql")
FUNCTIONS = {
    "place_order": (INT8, TEXT, INT4, INT8, INT8, INT4),
    "cancel_order": (INT8, INT8),
    "vwap": (TEXT,),
}


class PostgresServed(Served):
    def __init__(self, cluster: Cluster) -> None:
        self.process = cluster.process
        cluster.define(SCHEMA)
        self._asker = Postgres(cluster.port, FUNCTIONS)
        self._protocol = PostgresCalls(cluster.port, FUNCTIONS)

    def close(self) -> None:
        self._asker.close()

    def call(self, name: str, *arguments: Any) -> Any:
        try:
            row = self._asker.call(name, *arguments)
        except PostgresError as error:
            return str(error)
        if name == "vwap":
            count, volume = (int.from_bytes(each, "big") for each in row[:2])
            return count, volume, struct.unpack("!d", row[2])[0]
        values = [int.from_bytes(each, "big", signed=True) for each in row]
        return values if len(values) > 1 else values[0]

    def setup(self, calls: Iterable[Call]) -> None:
        statements = {
            "list_symbol": "INSERT INTO market VALUES ('{}', {}, {});",
            "open_account": "INSERT INTO account VALUES ({}, {}, 0);",
            "issue_shares": "INSERT INTO holding VALUES ({}, '{}', {}, 0);",
        }
        self._asker.run("".join(statements[name].format(*given) for name, given in calls))
        self._asker.run("ANALYZE")

    def load(self, mix: Mix, settings: LoadSettings) -> Report:
        return run_ordered(self._protocol, mix, settings)

    def preload(self, count: int) -> None:
        rows = list(trades(count).rows())
        for at in range(0, count, 10_000):
            values = ",".join(
                f"(nextval('trade_number'),'{SYMBOL}',{price},{quantity},{buyer},{seller},'epoch')"
                for price, quantity, buyer, seller in rows[at : at + 10_000]
            )
            self._asker.run(f"INSERT INTO trade VALUES {values}")
        self._asker.run("VACUUM ANALYZE trade")

    def tape(self) -> Tape:
        rows = self._asker.run("SELECT symbol, price, quantity FROM trade ORDER BY symbol, id")
        return [(symbol.decode(), int(price), int(quantity)) for symbol, price, quantity in rows]

    def holdings(self) -> Holdings:
        shares: dict[int, list[tuple[str, int, int]]] = {}
        for number, symbol, *rest in self._asker.run(
            "SELECT * FROM holding ORDER BY account, symbol"
        ):
            shares.setdefault(int(number), []).append((symbol.decode(), int(rest[0]), int(rest[1])))
        return [
            (int(number), int(cash), int(reserved), shares.get(int(number), []))
            for number, cash, reserved in self._asker.run("SELECT * FROM account ORDER BY id")
        ]

    def pids(self) -> list[int]:
        found = [self.process.pid]
        for path in Path("/proc").glob("[0-9]*/status"):
            with suppress(OSError):
                if f"\nPPid:\t{self.process.pid}\n" in path.read_text():
                    found.append(int(path.parent.name))
        return found


class PostgreSql(Peer):
    """PostgreSQL, functions called by prepared statements, one order a transaction."""

    name = "PostgreSQL"
    durabilities = ("none", "fsync")
    warmup_factor = 4.0

    def missing(self) -> str | None:
        return postgres_server.missing()

    def version(self) -> str:
        return postgres_server.version()

    @contextmanager
    def open(self, directory: Path, durability: str = "none") -> Iterator[Served]:
        with postgres_server.started(directory, durability) as cluster:
            served = PostgresServed(cluster)
            try:
                yield served
            finally:
                served.close()
