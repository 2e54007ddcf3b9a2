"""The toy order in SQLite and in Redis, each as durable as it gets.

An order is one transaction: read the account, refuse it when there is not enough, reserve, insert.
SQLite is a library, so nothing is sent anywhere: one thread, WAL, synchronous=FULL, a commit for
each order or for as many as a server has in flight. Redis gets each order as a call of a script
over TCP, pipelined like the load on Diptych, with appendfsync always. Errors: RuntimeError.
"""

from __future__ import annotations

import random
import selectors
import shutil
import socket
import sqlite3
import subprocess
import time
from pathlib import Path

ACCOUNTS, CASH = 1_000, 10**15
START_S = 10.0
CYCLE = 2_000
READ_BYTES = 1 << 18

SCRIPT = """
local account = KEYS[1]
local needed = ARGV[1] * ARGV[2]
local reserved = tonumber(redis.call('HGET', account, 'reserved'))
if tonumber(redis.call('HGET', account, 'cash')) - reserved < needed then
  return redis.error_reply('insufficient_funds')
end
redis.call('HSET', account, 'reserved', reserved + needed)
local id = redis.call('INCR', 'last')
redis.call('HSET', 'order:' .. id, 'account', account, 'price', ARGV[1], 'quantity', ARGV[2])
return id
"""


def sqlite_orders_per_s(directory: Path, seconds: float, batch: int) -> float:
    """Orders a second with one commit for each `batch`."""
    chance = random.Random(1)
    path = directory / f"orders-{batch}.sqlite"
    connection = sqlite3.connect(path, isolation_level=None)
    run = connection.execute
    run("PRAGMA journal_mode=WAL")
    run("PRAGMA synchronous=FULL")
    run("CREATE TABLE account (id INTEGER PRIMARY KEY, cash INTEGER, reserved INTEGER)")
    run("CREATE TABLE orders (id INTEGER PRIMARY KEY, account INTEGER, price INTEGER, qty INTEGER)")
    connection.executemany(
        "INSERT INTO account VALUES (?, ?, 0)", [(each, CASH) for each in range(1, ACCOUNTS + 1)]
    )
    done = 0
    began = time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        run("BEGIN IMMEDIATE")
        for _ in range(batch):
            account, price, quantity = chance.randint(1, ACCOUNTS), 100, 5
            cash, reserved = run(
                "SELECT cash, reserved FROM account WHERE id = ?", (account,)
            ).fetchone()
            if cash - reserved < price * quantity:
                continue
            run(
                "UPDATE account SET reserved = ? WHERE id = ?",
                (reserved + price * quantity, account),
            )
            run(
                "INSERT INTO orders (account, price, qty) VALUES (?, ?, ?)",
                (account, price, quantity),
            )
        run("COMMIT")
        done += batch
    connection.close()
    return done / took


def redis_orders_per_s(
    directory: Path, seconds: float, connections: int, in_flight: int
) -> float | None:
    """Orders a second, or None where there is no redis-server on the PATH."""
    program = shutil.which("redis-server")
    if program is None:
        return None
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [
            *(program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)),
            *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
        ],
        stdout=subprocess.DEVNULL,
    )
    try:
        with _connected(port) as control:
            sha = _ask(control, "SCRIPT", "LOAD", SCRIPT)
            for account in range(1, ACCOUNTS + 1):
                _ask(control, "HSET", f"account:{account}", "cash", str(CASH), "reserved", "0")
        return _load(port, sha, seconds, connections, in_flight)
    finally:
        server.terminate()
        server.wait()


def _load(port: int, sha: str, seconds: float, connections: int, in_flight: int) -> float:
    """A closed loop: as many new calls on a connection as it had answers."""
    chance = random.Random(1)
    calls = [
        _command("EVALSHA", sha, "1", f"account:{chance.randint(1, ACCOUNTS)}", "100", "5")
        for _ in range(CYCLE)
    ]
    selector = selectors.DefaultSelector()
    position, answered = 0, 0

    def send(target: socket.socket, count: int) -> None:
        nonlocal position
        chosen = [calls[(position + each) % CYCLE] for each in range(count)]
        position += count
        target.sendall(b"".join(chosen))

    began = time.perf_counter()
    for _ in range(connections):
        each = _connected(port)
        selector.register(each, selectors.EVENT_READ)
        send(each, in_flight)
    while (took := time.perf_counter() - began) < seconds:
        for key, _ in selector.select(0.1):
            each = key.fileobj
            assert isinstance(each, socket.socket)
            data = each.recv(READ_BYTES)
            if b"-" in data or not data:
                raise RuntimeError(f"redis: {data[:200]!r}")
            # Answers are `:number` and end of line; one cut in two counts with its second half.
            count = data.count(b"\n")
            answered += count
            send(each, count)
    for key in list(selector.get_map().values()):
        assert isinstance(key.fileobj, socket.socket)
        key.fileobj.close()
    selector.close()
    return answered / took


def _command(*words: str) -> bytes:
    parts = [f"*{len(words)}\r\n".encode()]
    for word in words:
        raw = word.encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(raw), raw))
    return b"".join(parts)


def _ask(connection: socket.socket, *words: str) -> str:
    """One command and its answer, which is a line or a short text."""
    connection.sendall(_command(*words))
    answer = b""
    while answer.count(b"\r\n") < (2 if answer.startswith(b"$") else 1):
        answer += connection.recv(READ_BYTES)
    if answer.startswith(b"-"):
        raise RuntimeError(f"redis: {answer.decode()}")
    return answer.decode().split("\r\n")[1 if answer.startswith(b"$") else 0]


def _connected(port: int) -> socket.socket:
    until = time.monotonic() + START_S
    while True:
        try:
            connection = socket.create_connection(("127.0.0.1", port), START_S)
        except ConnectionRefusedError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)
        else:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection
