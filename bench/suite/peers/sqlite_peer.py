"""SQLite in this process: WAL, prepared statements, a commit for each order or for many.

Nothing is sent anywhere and one thread does all, so what other systems spend on sockets is not in
its figures; the query beside it runs in another thread, on a connection of its own. `none` is
synchronous=OFF, `fsync` FULL.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from bench.suite.peers.base import Peer, Served
from bench.suite.peers.sqlite_exchange import SCHEMA, Exchange, Refused, average
from bench.suite.workload import SYMBOL, Holdings, Tape, plain, trades

from diptych.loadtest import LoadSettings, Mix, OperationReport, Report
from diptych.loadtest.latency import BINS, Counters, bin_of, summary_us
from diptych.loadtest.mix import Call, ResultOf

SYNCHRONOUS = {"none": "OFF", "fsync": "FULL"}


class Stream:
    """One connection's calls, round and round, with what earlier ones of the round returned."""

    def __init__(self, calls: Iterator[Call], count: int) -> None:
        self._calls = [(name, plain(arguments)) for name, arguments in islice(calls, count)]
        self._results: list[int] = [0] * len(self._calls)
        self._next = 0

    def run(self, exchange: Exchange) -> bool:
        """Make the next call. Whether it had a result, and no refusal."""
        at = self._next
        self._next = (at + 1) % len(self._calls)
        name, arguments = self._calls[at]
        results = self._results
        given = [results[each.call] if isinstance(each, ResultOf) else each for each in arguments]
        try:
            value: Any = getattr(exchange, name)(*given)
        except Refused:
            results[at] = 0
            return False
        results[at] = value[0] if isinstance(value, tuple) else value
        return True


class SqliteServed(Served):
    def __init__(self, path: Path, synchronous: str, batch: int) -> None:
        self._path, self._batch = path, batch
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._run = self._connection.execute
        self._run("PRAGMA journal_mode=WAL")
        self._run(f"PRAGMA synchronous={synchronous}")
        self._run("PRAGMA cache_size=-262144")
        self._connection.executescript(SCHEMA)
        self._exchange = Exchange(self._connection)

    def close(self) -> None:
        self._connection.close()

    def call(self, name: str, *arguments: Any) -> Any:
        if name == "vwap":
            return average(self._connection, *arguments)
        self._run("BEGIN IMMEDIATE")
        try:
            return getattr(self._exchange, name)(*arguments)
        except Refused as no:
            return no.code
        finally:
            self._run("COMMIT")

    def setup(self, calls: Any) -> None:
        self._run("BEGIN IMMEDIATE")
        for name, arguments in calls:
            getattr(self._exchange, name)(*arguments)
        self._run("COMMIT")

    def load(self, mix: Mix, settings: LoadSettings) -> Report:
        streams = [
            Stream(iter(mix.calls(number)), settings.cycle_calls)
            for number in range(settings.connections)
        ]
        over = threading.Event()
        asked = Asked(self._path, settings.warmup_s)
        asking = threading.Thread(target=asked.run, args=(over,))
        if settings.query_connections:
            asking.start()
        try:
            counted = self._loaded(streams, settings)
        finally:
            over.set()
            if settings.query_connections:
                asking.join()
        return counted.report(settings, asked)

    def _loaded(self, streams: list[Stream], settings: LoadSettings) -> Counted:
        counted = Counted()
        start_ns = time.monotonic_ns()
        from_ns = start_ns + round(settings.warmup_s * 1e9)
        until_ns = from_ns + round(settings.duration_s * 1e9)
        gap_ns = 0 if settings.rate is None else round(1e9 / settings.rate)
        done, run = 0, self._run
        while (now_ns := time.monotonic_ns()) < until_ns:
            count = self._batch
            if gap_ns or not streams:
                due = (now_ns - start_ns) // gap_ns + 1 if gap_ns else 0
                count = min(count, due - done)
                if count <= 0:
                    time.sleep(0.0001)
                    continue
            run("BEGIN IMMEDIATE")
            refused = 0
            for number in range(done, done + count):
                refused += not streams[number % len(streams)].run(self._exchange)
            run("COMMIT")
            ended_ns = time.monotonic_ns()
            if now_ns >= from_ns:
                counted.add(done, count, refused, now_ns, ended_ns, start_ns, gap_ns)
            done += count
        due = (until_ns - start_ns) // gap_ns if gap_ns else done
        counted.late = max(0, due - done)
        return counted

    def preload(self, count: int) -> None:
        self._run("BEGIN IMMEDIATE")
        self._connection.executemany(
            "INSERT INTO trade (symbol, price, quantity, buyer, seller, time)"
            f" VALUES ('{SYMBOL}', ?, ?, ?, ?, 0)",
            trades(count).rows(),
        )
        self._run("COMMIT")

    def tape(self) -> Tape:
        found = self._run("SELECT symbol, price, quantity FROM trade ORDER BY symbol, id")
        return list(found.fetchall())

    def holdings(self) -> Holdings:
        shares: dict[int, list[tuple[str, int, int]]] = {}
        for account, *rest in self._run("SELECT * FROM holding ORDER BY account, symbol"):
            shares.setdefault(account, []).append((rest[0], rest[1], rest[2]))
        return [
            (number, cash, reserved, shares.get(number, []))
            for number, cash, reserved in self._run("SELECT * FROM account ORDER BY id")
        ]

    def pids(self) -> list[int]:
        return []


class Counted:
    """What a load counted after its warm-up."""

    def __init__(self) -> None:
        self.calls = self.refused = self.late = 0
        self.latencies: Counters = np.zeros(BINS, np.int64)

    def add(
        self,
        first: int,
        count: int,
        refused: int,
        began_ns: int,
        ended_ns: int,
        start_ns: int,
        gap_ns: int,
    ) -> None:
        """A transaction of `count` calls, each due by the timetable, or when it began."""
        self.calls += count
        self.refused += refused
        if gap_ns == 0:
            self.latencies[bin_of(ended_ns - began_ns)] += count
            return
        for number in range(first, first + count):
            self.latencies[bin_of(ended_ns - start_ns - number * gap_ns)] += 1

    def report(self, settings: LoadSettings, asked: Asked) -> Report:
        seconds = settings.duration_s
        latency_us = summary_us(self.latencies)
        codes = {"refused": self.refused} if self.refused else {}
        orders = OperationReport(
            *("orders", "transaction", self.calls, self.calls - self.refused, codes),
            *(self.calls / seconds, latency_us),
        )
        return Report(
            seconds=seconds,
            connections=settings.connections,
            in_flight=1,
            rate=settings.rate,
            operations=[orders],
            transactions_rate=orders.rate,
            queries_rate=asked.count / seconds,
            transactions_latency_us=latency_us,
            queries_latency_us=summary_us(asked.latencies),
            unanswered=0,
            late_calls=self.late,
            lost_connections=0,
        )


class Asked:
    """The analytic query, again and again on a connection of its own."""

    def __init__(self, path: Path, warmup_s: float) -> None:
        self.count = 0
        self.latencies: Counters = np.zeros(BINS, np.int64)
        self._path, self._warmup_s = path, warmup_s

    def run(self, over: threading.Event) -> None:
        counted_from = time.monotonic() + self._warmup_s
        with closing(sqlite3.connect(self._path)) as connection:
            while not over.is_set():
                began_ns = time.monotonic_ns()
                average(connection, SYMBOL)
                if began_ns / 1e9 >= counted_from:
                    self.count += 1
                    self.latencies[bin_of(time.monotonic_ns() - began_ns)] += 1


class Sqlite(Peer):
    """`batch`: orders a commit."""

    durabilities = ("none", "fsync")
    warmup_factor = 2.0

    def __init__(self, batch: int = 1) -> None:
        self.name = f"SQLite, {batch:,} a commit"
        self._batch = batch

    def version(self) -> str:
        return f"{sqlite3.sqlite_version}, in this process"

    @contextmanager
    def open(self, directory: Path, durability: str = "none") -> Iterator[Served]:
        served = SqliteServed(directory / "exchange.db", SYNCHRONOUS[durability], self._batch)
        try:
            yield served
        finally:
            served.close()
