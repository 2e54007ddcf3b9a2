"""The asyncio server of `asyncio_server`, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from bench.suite.peers.base import Peer, Served
from bench.suite.peers.wire import WireServed
from bench.suite.workload import Holdings, Tape

ROOT = Path(__file__).resolve().parents[3]


class AsyncioServed(WireServed):
    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        super().__init__(address)
        self.process = process

    def preload(self, count: int) -> None:
        self.call("preload", count)

    def tape(self) -> Tape:
        return [(symbol, price, quantity) for symbol, price, quantity in self.call("tape")]

    def holdings(self) -> Holdings:
        return [
            (number, cash, reserved, [(name, have, open_) for name, have, open_ in shares])
            for number, cash, reserved, shares in self.call("holdings")
        ]

    def pids(self) -> list[int]:
        return [self.process.pid]


class Asyncio(Peer):
    """One process, uvloop, msgpack, dicts, sortedcontainers."""

    name = "asyncio"

    def version(self) -> str:
        parts = ", ".join(
            f"{name} {version(name)}" for name in ("uvloop", "msgpack", "sortedcontainers")
        )
        return f"Python {sys.version.split()[0]}, {parts}"

    @contextmanager
    def open(self, directory: Path, durability: str = "none") -> Iterator[Served]:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.suite.peers.asyncio_server"],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            served = AsyncioServed(process, f"127.0.0.1:{int(process.stdout.readline())}")
            yield served
            served.close()
        finally:
            process.stdin.close()
            process.terminate()
            process.wait()
            process.stdout.close()


def environment() -> dict[str, str]:
    """This process's, with its import path, so that the server finds the same modules."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), *sys.path]))}
