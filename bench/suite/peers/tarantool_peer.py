"""Tarantool with the exchange as stored procedures, of the `tarantool` on the PATH.

Its tables are memtx; durable means its write-ahead log with wal_mode=fsync.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.suite.loads.iproto import Iproto, Tarantool
from bench.suite.loads.ordered import run_ordered
from bench.suite.peers.base import Peer, Served
from bench.suite.peers.redis_peer import START_S, free_port, wait_for
from bench.suite.workload import SYMBOL, Holdings, Tape, trades

from diptych.loadtest import LoadSettings, Mix, Report

SCRIPT = Path(__file__).with_name("tarantool.lua")
WAL_MODES = {"none": "none", "fsync": "fsync"}
ROWS = 1_000  # of trades preloaded in one call


class TarantoolServed(Served):
    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self._asker = Tarantool(port)
        self._protocol = Iproto(port)
        # It listens before its functions are there.
        until = time.monotonic() + START_S
        while True:
            try:
                self._asker.ask("holdings")
            except RuntimeError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.02)
            else:
                return

    def close(self) -> None:
        self._asker.close()

    def call(self, name: str, *arguments: Any) -> Any:
        values = self._asker.ask(name, *arguments)
        if values and values[0] is None:
            return values[1]
        return values if name in ("place_order", "vwap") else next(iter(values), None)

    def load(self, mix: Mix, settings: LoadSettings) -> Report:
        return run_ordered(self._protocol, mix, settings)

    def preload(self, count: int) -> None:
        rows = list(trades(count).rows())
        for at in range(0, count, ROWS):
            self._asker.ask("preload", SYMBOL, rows[at : at + ROWS])

    def tape(self) -> Tape:
        return sorted(
            ((symbol, price, quantity) for symbol, price, quantity in self.call("tape")),
            key=lambda trade: trade[0],
        )

    def holdings(self) -> Holdings:
        return [
            (number, cash, reserved, [(name, have, open_) for _, name, have, open_ in shares])
            for number, cash, reserved, shares in self.call("holdings")
        ]

    def pids(self) -> list[int]:
        return [self.process.pid]


class TarantoolLua(Peer):
    """Tarantool, functions called by the binary protocol."""

    name = "Tarantool"
    durabilities = ("none", "fsync")

    def missing(self) -> str | None:
        return None if shutil.which("tarantool") else "there is no tarantool on the PATH"

    def version(self) -> str:
        said = subprocess.run(["tarantool", "--version"], capture_output=True, text=True)
        return said.stdout.split()[1]

    @contextmanager
    def open(self, directory: Path, durability: str = "none") -> Iterator[Served]:
        port = free_port()
        process = subprocess.Popen(
            ["tarantool", str(SCRIPT), str(port), WAL_MODES[durability], str(directory)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        try:
            wait_for(port, process)
            served = TarantoolServed(process, port)
            try:
                yield served
            finally:
                served.close()
        finally:
            process.terminate()
            process.wait()
