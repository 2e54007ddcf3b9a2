"""PostgreSQL with the exchange in PL/pgSQL, of the `postgres` on the PATH or in a wheel (pgserver).

`none` is fsync=off, synchronous_commit=off and unlogged tables; `fsync` is what everybody runs. It
refuses to run as root, so then it runs as another user.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bench.suite.loads.ordered import run_ordered
from bench.suite.loads.postgres import Postgres, PostgresCalls, PostgresError
from bench.suite.peers.base import Peer, Served
from bench.suite.peers.redis_peer import START_S, free_port
from bench.suite.workload import SYMBOL, Holdings, Tape, trades

from diptych.loadtest import LoadSettings, Mix, Report
from diptych.loadtest.mix import Call

SCHEMA = Path(__file__).with_name("postgres.sql")
SETTINGS = {
    "shared_buffers": "512MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "30min",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "jit": "off",
    "log_min_messages": "panic",
    "unix_socket_directories": "",
    "listen_addresses": "127.0.0.1",
}
UNSAFE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


def binaries() -> Path | None:
    """The directory of initdb and postgres."""
    if found := shutil.which("postgres"):
        directory = Path(found).resolve().parent
        if (directory / "initdb").exists():
            return directory
    wheel = importlib.util.find_spec("pgserver")
    if wheel is not None and wheel.origin:
        directory = Path(wheel.origin).parent / "pginstall" / "bin"
        if (directory / "initdb").exists():
            return directory
    return None


def account() -> str | None:
    """Whom to run as: None for whoever this is, another than root in its place."""
    if os.getuid() != 0:
        return None
    names = {each.pw_name for each in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


class PostgresServed(Served):
    def __init__(self, process: subprocess.Popen[bytes], port: int, *, logged: bool) -> None:
        self.process = process
        asker = connected(port, process)
        asker.run(SCHEMA.read_text().replace("$TABLE", "TABLE" if logged else "UNLOGGED TABLE"))
        asker.close()
        self._asker = Postgres(port)
        self._protocol = PostgresCalls(port)

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
        if binaries() is None:
            return "there is no postgres with its initdb, on the PATH or in an installed pgserver"
        return None

    def version(self) -> str:
        said = subprocess.run([self._program("postgres"), "--version"], capture_output=True)
        return said.stdout.decode().split(") ", 1)[1].strip()

    @contextmanager
    def open(self, directory: Path, durability: str = "none") -> Iterator[Served]:
        data, user, port = directory / "cluster", account(), free_port()
        data.mkdir()
        if user is not None:
            shutil.chown(data, user)
            for each in (directory, directory.parent):
                each.chmod(each.stat().st_mode | 0o011)  # so that it can get there
        subprocess.run(
            [
                *(self._program("initdb"), "-D", str(data), "-U", "postgres", "-A", "trust"),
                *("--no-sync", "-E", "UTF8", "--locale=C"),
            ],
            user=user,
            cwd=data,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        settings = SETTINGS | {"port": str(port)} | ({} if durability == "fsync" else UNSAFE)
        process = subprocess.Popen(
            [
                *(self._program("postgres"), "-D", str(data)),
                *(word for name, value in settings.items() for word in ("-c", f"{name}={value}")),
            ],
            user=user,
            cwd=data,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            served = PostgresServed(process, port, logged=durability == "fsync")
            try:
                yield served
            finally:
                served.close()
        finally:
            process.send_signal(signal.SIGINT)  # its "fast" end: rolls back and disconnects
            process.wait()

    def _program(self, name: str) -> str:
        directory = binaries()
        assert directory is not None
        return str(directory / name)


def connected(port: int, process: subprocess.Popen[bytes]) -> Postgres:
    """The first connection, once it accepts one. Errors: RuntimeError."""
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        with suppress(OSError, PostgresError):
            return Postgres(port, prepare=False)
        time.sleep(0.05)
    raise RuntimeError(f"{process.args!r} did not start")
