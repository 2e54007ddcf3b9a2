"""Redis with the exchange in Lua scripts: a call of a script is an order.

The server is the `redis-server` on the PATH. Durable means an append-only file.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack
from bench.suite.loads import kernels
from bench.suite.loads.ordered import run_ordered
from bench.suite.loads.resp import Redis, Resp, RespError, command
from bench.suite.peers.base import Peer, Served
from bench.suite.workload import SYMBOL, Holdings, Tape, trades

from diptych.loadtest import LoadSettings, Mix, Report
from diptych.loadtest.mix import Call
from exchange.flow import SYMBOLS

SCRIPTS = {"place_order": "redis_place", "cancel_order": "redis_cancel", "vwap": "redis_vwap"}
FSYNC = {"everysec": "everysec", "fsync": "always"}
START_S = 10.0


class RedisServed(Served):
    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.redis = Redis(port)
        self._scripts = {
            name: self.redis.ask(
                "SCRIPT", "LOAD", Path(__file__).with_name(f"{file}.lua").read_text()
            )
            for name, file in SCRIPTS.items()
        }
        self._scripts = {name: sha.decode() for name, sha in self._scripts.items()}
        self._protocol = Resp(port, self._scripts)

    def close(self) -> None:
        self.redis.close()

    def call(self, name: str, *arguments: Any) -> Any:
        words = list(arguments)
        if name == "cancel_order":
            words[1] = f"{words[1]:0{kernels.HOLE_DIGITS}}"
        try:
            value = self.redis.ask("EVALSHA", self._scripts[name], 0, *words)
        except RespError as error:
            return str(error).removeprefix("ERR ")
        if name == "vwap":
            return (value[0], value[1], float(value[2]))
        return value

    def setup(self, calls: Iterable[Call]) -> None:
        def commands() -> Iterator[bytes]:
            for name, given in calls:
                if name == "list_symbol":
                    symbol, tick, lot = given
                    yield command("HSET", f"m:{symbol}", "tick", tick, "lot", lot)
                elif name == "open_account":
                    yield command("HSET", f"a:{given[0]}", "c", given[1], "r", 0)
                else:
                    account, symbol, shares = given
                    yield command("HSET", f"h:{account}:{symbol}", "s", shares, "r", 0)

        self.redis.ask_all(commands())

    def load(self, mix: Mix, settings: LoadSettings) -> Report:
        return run_ordered(self._protocol, mix, settings)

    def preload(self, count: int) -> None:
        pack = msgpack.Packer().pack
        rows = [
            b"".join((pack(price), pack(quantity), pack(str(buyer)), pack(str(seller)), pack(0)))
            for price, quantity, buyer, seller in trades(count).rows()
        ]
        self.redis.ask_all(
            command("RPUSH", f"t:{SYMBOL}", *rows[at : at + 500]) for at in range(0, count, 500)
        )

    def tape(self) -> Tape:
        found: Tape = []
        for symbol in sorted(SYMBOLS):
            for packed in self.redis.ask("LRANGE", f"t:{symbol}", 0, -1):
                unpacker = msgpack.Unpacker()
                unpacker.feed(packed)
                found.append((symbol, unpacker.unpack(), unpacker.unpack()))
        return found

    def holdings(self) -> Holdings:
        found: Holdings = []
        for number in sorted(int(key[2:]) for key in self.redis.ask("KEYS", "a:*")):
            cash, reserved = map(int, self.redis.ask("HMGET", f"a:{number}", "c", "r"))
            rows = self.redis.ask_all(
                command("HMGET", f"h:{number}:{symbol}", "s", "r") for symbol in sorted(SYMBOLS)
            )
            shares = [
                (symbol, int(row[0]), int(row[1]))
                for symbol, row in zip(sorted(SYMBOLS), rows, strict=True)
                if row[0] is not None
            ]
            found.append((number, cash, reserved, shares))
        return found

    def pids(self) -> list[int]:
        return [self.process.pid]


class RedisLua(Peer):
    """Redis, scripts called with EVALSHA."""

    name = "Redis Lua"
    durabilities = ("none", "everysec", "fsync")

    def missing(self) -> str | None:
        return None if shutil.which("redis-server") else "there is no redis-server on the PATH"

    def version(self) -> str:
        said = subprocess.run(["redis-server", "--version"], capture_output=True, text=True)
        return said.stdout.split("v=")[1].split()[0]

    @contextmanager
    def open(self, directory: Path, durability: str = "none") -> Iterator[Served]:
        port = free_port()
        flags = ["--appendonly", "no"]
        if durability != "none":
            flags = ["--appendonly", "yes", "--appendfsync", FSYNC[durability]]
            flags += ["--auto-aof-rewrite-percentage", "0"]
        process = subprocess.Popen(
            [
                *("redis-server", "--port", str(port), "--bind", "127.0.0.1"),
                *("--dir", str(directory), "--save", "", *flags),
            ],
            stdout=subprocess.DEVNULL,
        )
        try:
            wait_for(port, process)
            served = RedisServed(process, port)
            try:
                yield served
            finally:
                served.close()
        finally:
            process.terminate()
            process.wait()


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def wait_for(port: int, process: subprocess.Popen[Any]) -> None:
    """Until somebody listens. Errors: RuntimeError when that takes too long."""
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError(f"{process.args!r} did not start")
