"""TPC-C's five operations in PostgreSQL: what `bench/tpcc.py` compares with, over TCP as well.

As favourable to PostgreSQL as is reasonable: an operation is one call of a prepared PL/pgSQL
function (`tpcc_postgres.sql`), all of the data is in its buffers, no checkpoint falls into the run,
and without durability tables are unlogged. The rows are the example's own population, the calls its
terminals', from the generator that loads the suite's other peers.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import tpcc_sql
from bench.suite.loads.ordered import run_ordered
from bench.suite.loads.postgres import (
    INT4,
    INT4_ROWS,
    INT8,
    TEXT,
    Postgres,
    PostgresCalls,
    PostgresError,
)
from bench.suite.peers.postgres_server import Cluster, started

from diptych import Rejected
from diptych.loadtest import LoadSettings
from tpcc import Scale
from tpcc.driver import CYCLE_CALLS, Audit, Run
from tpcc.terminals import Terminals

SCHEMA = Path(__file__).with_name("tpcc_postgres.sql")
FUNCTIONS = {
    "new_order": (INT4, INT4, INT4, INT4_ROWS),
    "payment": (INT4, INT4, INT4, INT4, INT8, INT4, TEXT),
    "order_status": (INT4, INT4, INT4, TEXT),
    "delivery": (INT4, INT4),
    "stock_level": (INT4, INT4, INT8),
}
SHAPES = {"none": (8, 8), "fsync": (32, 1)}
"""Connections and calls in flight on each: what did most on two cores, of 4 to 32 times 1 to 8."""
WARMUP_S = 2.0  # until every connection has its plans


class Store:
    """One database with the example's tables and operations. To be closed."""

    def __init__(self, cluster: Cluster) -> None:
        cluster.define(SCHEMA)
        self._asker = Postgres(cluster.port, FUNCTIONS)
        self.run = self._asker.run
        self.protocol = PostgresCalls(cluster.port, FUNCTIONS)

    def close(self) -> None:
        self._asker.close()

    def load(self, scale: Scale) -> None:
        for spec, rows in tpcc_sql.tables(scale):
            self._asker.copy(spec.name, rows)
        self.run("SELECT setval(pg_get_serial_sequence('history', 'id'), max(id)) FROM history")
        self.run("VACUUM ANALYZE")

    def call(self, operation: str, arguments: tuple[Any, ...]) -> list[bytes]:
        """A whole transaction: its columns. Errors: Rejected, and nothing is changed."""
        try:
            return self._asker.call(operation, *arguments)
        except PostgresError as error:
            raise Rejected(str(error)) from None

    def broken(self) -> list[str]:
        """The consistency conditions that do not hold."""
        return [
            name for name, statement in tpcc_sql.BROKEN.items() if int(self.run(statement)[0][0])
        ]


def measured(scale: Scale, seconds: float, durability: str) -> Run:
    """The mix for some seconds on a server of its own, and the conditions broken at the end."""
    connections, in_flight = SHAPES[durability]
    settings = LoadSettings(
        connections=connections,
        in_flight=in_flight,
        duration_s=seconds,
        warmup_s=WARMUP_S,
        cycle_calls=CYCLE_CALLS,
        setup=False,
    )
    with (
        tempfile.TemporaryDirectory() as directory,
        started(Path(directory), durability) as cluster,
    ):
        store = Store(cluster)
        try:
            store.load(scale)
            report = run_ordered(store.protocol, Terminals(scale), settings)
            return Run(scale, 0.0, report, Audit(broken=set(store.broken())))
        finally:
            store.close()
