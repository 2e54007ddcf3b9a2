"""Diptych itself, with all its processes, page tracking and syncs on.

`lane` says how handlers run. With durability `fsync` it has a data directory; `none` has neither
directory nor log.
"""

from __future__ import annotations

import platform
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from bench.suite.peers.base import Peer, Served
from bench.suite.peers.wire import WireServed
from bench.suite.workload import SYMBOL, Holdings, Tape, trades

from diptych.loadtest import LoadSettings, Mix, Report
from diptych.serving.local import Server
from diptych.store.arrow import library
from diptych.testing import running
from diptych_client import DiptychError
from exchange import app
from exchange.flow import SYMBOLS

ACCOUNTS = 400
PROBE_S = 0.02  # between two queries that ask only how old their image is
NO_CHECKPOINTS: dict[str, Any] = {"checkpoint_interval_s": 1e6, "checkpoint_after_bytes": 1 << 40}


class DiptychServed(WireServed):
    def __init__(self, server: Server) -> None:
        super().__init__(server.address)
        self.server = server

    def load(self, mix: Mix, settings: LoadSettings) -> Report:
        """Without queries in the mix, one connection asks now and then, so staleness is known."""
        over = threading.Event()

        def probe() -> None:
            with self.server.client() as client:
                while not over.wait(PROBE_S):
                    with suppress(DiptychError):
                        client.best(SYMBOL)

        thread = None
        if settings.query_connections == 0:
            thread = threading.Thread(target=probe, daemon=True)
            thread.start()
        try:
            return super().load(mix, settings)
        finally:
            over.set()
            if thread is not None:
                thread.join()

    def preload(self, count: int) -> None:
        from diptych.bulk.importing import find_table, open_sources, run_import
        from diptych.bulk.system_client import SystemClient

        with (
            tempfile.TemporaryDirectory() as directory,
            SystemClient(self.address) as client,
        ):
            path = Path(directory) / "trades.parquet"
            write_trades(path, count)
            spec = find_table(client, "trade")
            run_import(client, spec, open_sources(spec, [path], None, {}, []))
        self.call("cancel_order", 1, 0)  # refused, and queries of this client see the import now

    def tape(self) -> Tape:
        return [
            (symbol, trade.price, trade.quantity)
            for symbol in sorted(SYMBOLS)
            for trade in reversed(self.client.last_trades(symbol, 10_000))
        ]

    def holdings(self) -> Holdings:
        found: Holdings = []
        for number in range(1, ACCOUNTS + 1):
            told = self.client.account(number)
            shares = sorted((p.symbol, p.shares, p.reserved) for p in told.positions)
            found.append((number, told.cash, told.reserved, shares))
        return found

    def pids(self) -> list[int]:
        return [pid for pids in self.server.pids.values() for pid in pids]


class Diptych(Peer):
    """`settings` are a server's; see `diptych.testing.running`."""

    durabilities = ("none", "fsync")

    def __init__(self, name: str = "Diptych", **settings: Any) -> None:
        self.name = name
        self._settings = settings

    def version(self) -> str:
        parts = ", ".join(f"{name} {version(name)}" for name in ("numba", "numpy", "msgpack"))
        return f"{version('diptych')}, Python {platform.python_version()}, {parts}"

    @contextmanager
    def open(self, directory: Path, durability: str = "none") -> Iterator[Served]:
        settings = dict(self._settings)
        if durability != "none":
            settings |= NO_CHECKPOINTS | {"data": directory, "durability": durability}
        with running(app, **settings) as server:
            served = DiptychServed(server)
            try:
                yield served
            finally:
                served.close()


def write_trades(path: Path, count: int) -> None:
    """The preloaded trades as a file to import."""
    pa = library("pyarrow")
    made = trades(count)
    # Prices are in hundredths: 128-bit words, the upper half of each 0.
    hundredths = pa.py_buffer(np.stack([made.price, np.zeros_like(made.price)], axis=1).tobytes())
    columns = {
        "symbol": [SYMBOL] * count,
        "price": pa.Array.from_buffers(pa.decimal128(19, 2), count, [None, hundredths]),
        "quantity": made.quantity,
        "buyer": made.buyer,
        "seller": made.seller,
        "time": pa.array([0] * count, pa.timestamp("ns", tz="UTC")),
        "previous": list(range(count)),
    }
    library("pyarrow.parquet").write_table(pa.table(columns), path)
