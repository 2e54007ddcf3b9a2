"""A PostgreSQL of one's own: found, started in a directory, ended.

It is that of the `postgres` on the PATH or in a wheel (pgserver). It refuses to run as root, so
then it runs as another user. `none` is fsync=off and synchronous_commit=off, to be used with
unlogged tables; `fsync` is what everybody runs. Knows no tables.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from bench.suite.loads.postgres import Postgres, PostgresError
from bench.suite.peers.redis_peer import START_S, free_port

SETTINGS = {
    "shared_buffers": "512MB",
    "random_page_cost": "1.1",
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


def missing() -> str | None:
    """Why there is none here."""
    if binaries() is None:
        return "there is no postgres with its initdb, on the PATH or in an installed pgserver"
    return None


def version() -> str:
    said = subprocess.run([program("postgres"), "--version"], capture_output=True)
    return said.stdout.decode().split(") ", 1)[1].strip()


def program(name: str) -> str:
    directory = binaries()
    assert directory is not None
    return str(directory / name)


class Cluster(NamedTuple):
    """A running one. `logged`: what it promises needs tables that are in the log."""

    process: subprocess.Popen[bytes]
    port: int
    logged: bool

    def define(self, path: Path) -> None:
        """Run a file of definitions, in which $TABLE stands for a table of the kind it takes."""
        with closing(Postgres(self.port, {})) as asker:
            kind = "TABLE" if self.logged else "UNLOGGED TABLE"
            asker.run(path.read_text().replace("$TABLE", kind))


@contextmanager
def started(directory: Path, durability: str) -> Iterator[Cluster]:
    """An empty one, which takes connections. Errors: RuntimeError."""
    data, user, port = directory / "cluster", account(), free_port()
    data.mkdir()
    if user is not None:
        shutil.chown(data, user)
        for each in (directory, directory.parent):
            each.chmod(each.stat().st_mode | 0o011)  # so that it can get there
    subprocess.run(
        [
            *(program("initdb"), "-D", str(data), "-U", "postgres", "-A", "trust"),
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
            *(program("postgres"), "-D", str(data)),
            *(word for name, value in settings.items() for word in ("-c", f"{name}={value}")),
        ],
        user=user,
        cwd=data,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait(port, process)
        yield Cluster(process, port, durability == "fsync")
    finally:
        process.send_signal(signal.SIGINT)  # its "fast" end: rolls back and disconnects
        process.wait()


def wait(port: int, process: subprocess.Popen[bytes]) -> None:
    """Until it takes connections. Errors: RuntimeError."""
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        with suppress(OSError, PostgresError):
            return Postgres(port, {}).close()
        time.sleep(0.05)
    raise RuntimeError(f"{process.args!r} did not start")
