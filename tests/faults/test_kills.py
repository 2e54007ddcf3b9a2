"""Any process is killed with -9 under load: it is replaced, the others serve on, nothing remains.

The load is one client that transfers money and one that sums it up, each in a loop. What may happen
to a call is an error that says so; what may never happen is a wrong total, or silence.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.trouble import ACCOUNTS, CASH, app
from tests.support.wire import Wire, alive, numbers, wait_until

from diptych import App, Db, key
from diptych.serving import peers, processes, supervisor, writer
from diptych.serving.local import Server, running
from diptych_client import (
    AsyncClient,
    DiptychError,
    HistoryChanged,
    OutcomeUnknown,
    ServerError,
    TimedOut,
)
from diptych_client.protocol import Kind

TOTAL = ACCOUNTS * CASH
SILENCE_S = 3.0
"""How long the server may take to answer again."""

EVERYBODY = {"supervisor": 1, "writer": 1, "gateway": 1, "reader": 2}


class Load:
    """Two clients at work. `errors` counts what calls ended with."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.errors: Counter[str] = Counter()
        self.transfers = self.totals = 0
        self.ending = False

    async def transfer(self) -> None:
        async with AsyncClient(self.server.address, timeout=SILENCE_S) as bank:
            number = 0
            while not self.ending:
                number += 1
                try:
                    await bank.transfer(number % ACCOUNTS + 1, (number + 7) % ACCOUNTS + 1, 1)
                    self.transfers += 1
                except DiptychError as error:
                    self.errors[error.code] += 1
                await asyncio.sleep(0.0005)

    async def sum_up(self) -> None:
        async with AsyncClient(self.server.address, timeout=SILENCE_S) as bank:
            while not self.ending:
                try:
                    assert await bank.total() == TOTAL
                    self.totals += 1
                except DiptychError as error:
                    self.errors[error.code] += 1
                await asyncio.sleep(0.0005)

    async def around(self, action: Callable[[], None]) -> None:
        """Run both, do `action` in the middle, and see that both go on afterwards."""
        tasks = [asyncio.create_task(self.transfer()), asyncio.create_task(self.sum_up())]
        await asyncio.sleep(0.15)
        action()
        await self.progress()
        self.ending = True
        await asyncio.gather(*tasks)

    async def progress(self) -> None:
        """Wait for answers of both kinds."""
        transfers, totals = self.transfers, self.totals
        until = time.monotonic() + SILENCE_S
        while self.transfers < transfers + 20 or self.totals < totals + 20:
            assert time.monotonic() < until, f"no answers: {self.errors}\n{self.server.log()}"
            await asyncio.sleep(0.01)


def kill(pids: list[int]) -> Callable[[], None]:
    return lambda: [os.kill(pid, signal.SIGKILL) for pid in pids] and None


async def test_the_writer() -> None:
    with running(app, interval_ms=2) as server:
        before = server.pids
        load = Load(server)
        await load.around(kill(before["writer"]))
        after = server.pids
        assert after["writer"] != before["writer"]
        assert after["gateway"] == before["gateway"]
        assert sorted(after["reader"]) == sorted(before["reader"])
        # What was in flight ran or runs again; what was seen of a lost history says so.
        assert set(load.errors) <= {"history_changed"}
        with server.client() as bank:
            assert bank.total() == TOTAL
            assert bank.info()["restarts"] == {"writer": 1, "gateway": 0, "reader": 0}


async def test_the_gateway() -> None:
    with running(app, interval_ms=2) as server:
        before = server.pids
        load = Load(server)
        await load.around(kill(before["gateway"]))
        after = server.pids
        assert after["writer"] == before["writer"]
        assert after["gateway"] != before["gateway"]
        assert not set(after["reader"]) & set(before["reader"])
        assert not any(alive(pid) for pid in before["gateway"] + before["reader"])
        assert set(load.errors) <= {"outcome_unknown", "disconnected"}


async def test_every_reader() -> None:
    with running(app, interval_ms=2) as server:
        before = server.pids
        load = Load(server)
        await load.around(kill(before["reader"]))
        wait_until(lambda: len(server.pids["reader"]) == 2)
        after = server.pids
        assert not set(after["reader"]) & set(before["reader"])
        assert {role: after[role] for role in ("writer", "gateway")} == {
            role: before[role] for role in ("writer", "gateway")
        }
        # Each query is given to another reader once; with all of them killed that may not help.
        assert set(load.errors) <= {"server_error"}


async def test_one_reader_is_not_noticed() -> None:
    with running(app, interval_ms=2) as server:
        load = Load(server)
        await load.around(kill(server.pids["reader"][:1]))
        assert not load.errors


async def test_writer_and_gateway_together() -> None:
    with running(app, interval_ms=2) as server:
        pids = server.pids
        load = Load(server)
        await load.around(kill(pids["writer"] + pids["gateway"]))
        with server.client() as bank:
            assert bank.total() == TOTAL


async def test_the_writer_again_and_again() -> None:
    with running(app, interval_ms=2, readers=1) as server:
        load = Load(server)

        def kill_three_times() -> None:
            for _ in range(3):
                (pid,) = server.pids["writer"]
                os.kill(pid, signal.SIGKILL)
                wait_until(lambda pid=pid: server.pids.get("writer", [pid]) != [pid])

        await load.around(kill_three_times)
        with server.client() as bank:
            assert bank.total() == TOTAL


def test_the_supervisor_takes_everything_with_it() -> None:
    with running(app) as server:
        pids = [pid for role in server.pids.values() for pid in role]
        assert len(pids) == 5
        os.kill(server.pid, signal.SIGKILL)
        assert server.wait() == -signal.SIGKILL
        wait_until(lambda: not any(alive(pid) for pid in pids))


def test_a_transaction_that_kills_the_writer_has_an_unknown_outcome() -> None:
    with running(app, readers=1) as server, server.client() as bank:
        with pytest.raises(OutcomeUnknown):
            bank.kill_writer()
        assert bank.using(timeout=SILENCE_S).transfer(1, 2, 5) == CASH - 5
        # A new writer is a new history: what this client saw may be gone, and it is told so, once.
        with pytest.raises(HistoryChanged):
            bank.total()
        assert bank.total() == TOTAL


def test_a_query_that_kills_two_readers_is_given_up() -> None:
    with running(app) as server, server.client() as bank:
        with pytest.raises(ServerError, match="two readers died"):
            bank.kill_reader()
        assert bank.total() == TOTAL
        assert bank.info()["queries"]["retried"] == 1


def test_a_client_learns_that_the_history_changed() -> None:
    """With an interval this long, the writer dies before its last transactions reach an image."""
    with running(app, interval_ms=60_000, readers=1) as server, server.client() as bank:
        seen = bank.reply("total").sequence
        lost = bank.reply("transfer", 1, 2, 5).sequence
        assert lost > seen
        with pytest.raises(OutcomeUnknown):
            bank.kill_writer()
        wait_until(lambda: bank.info()["writer"] is not None)
        with pytest.raises(HistoryChanged):
            bank.total()
        assert bank.balance(1) == CASH  # the transfer is gone, and the client knows


async def test_transactions_wait_for_the_next_writer() -> None:
    with running(app, readers=1) as server:
        async with AsyncClient(server.address) as bank:
            (writer,) = server.pids["writer"]
            server.signal(signal.SIGSTOP)  # so that there is no other writer for a while
            os.kill(writer, signal.SIGKILL)
            try:
                while (await bank.info())["writer"] is not None:
                    await asyncio.sleep(0.005)
                calls = [asyncio.create_task(bank.transfer(1, 2, 5)) for _ in range(3)]
                await asyncio.sleep(0.05)
                assert await bank.using(fresh=False).total() == TOTAL  # queries go on
                assert not any(call.done() for call in calls)
            finally:
                server.signal(signal.SIGCONT)
            assert await asyncio.gather(*calls) == [CASH - 5, CASH - 10, CASH - 15]


def test_a_gateway_that_does_not_read_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer keeps the replies that it does not take, up to a bound, and does not wait."""
    for module in (peers, writer):
        monkeypatch.setattr(module, "STUCK_NS", 200_000_000)
    with running(app, readers=1) as server:
        (gateway,) = server.pids["gateway"]
        with Wire(server.address) as wire:
            number = numbers(wire.greet())
            wire.call(Kind.TRANSACTION, number["linger"], [300])
            for request in range(100):
                wire.call(Kind.TRANSACTION, number["give"], [200_000], request)
            time.sleep(0.1)
            os.kill(gateway, signal.SIGSTOP)
            wait_until(lambda: not alive(gateway))
        assert "the gateway does not read" in server.log()
        with server.client() as bank:
            assert bank.transfer(1, 2, 5) == CASH - 5
            assert bank.total() == TOTAL


def test_large_replies_wait_for_the_gateway() -> None:
    """Far more than sockets and bounds hold: the rest of a batch runs when there is room."""
    with running(app, readers=1) as server, server.client() as bank:
        replies = bank.call_many("give", [(500_000,)] * 100)
        assert [len(reply) for reply in replies] == [500_000] * 100


def test_a_writer_that_dies_in_setup_begins_anew(tmp_path: Path) -> None:
    unlucky = App("unlucky")

    @unlucky.table
    class Thing:
        id: int = key()

    @unlucky.setup
    def setup(db: Db) -> None:
        for number in range(2000):
            db.thing.insert(id=number)
        if not (tmp_path / "once").exists():
            (tmp_path / "once").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    @unlucky.query
    def count(db: Db) -> int:
        return len(db.thing)

    with running(unlucky, readers=1) as server, server.client() as client:
        assert client.count() == 2000


def test_a_writer_that_always_dies_in_setup_ends_the_server() -> None:
    hopeless = App("hopeless")

    @hopeless.setup
    def setup(db: Db) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)

    with pytest.raises(RuntimeError, match="giving up"), running(hopeless):
        pass


async def test_transactions_do_not_wait_for_ever() -> None:
    with running(app, readers=1, transaction_wait_ms=100) as server:
        async with AsyncClient(server.address) as bank:
            (writer,) = server.pids["writer"]
            server.signal(signal.SIGSTOP)
            os.kill(writer, signal.SIGKILL)
            try:
                while (await bank.info())["writer"] is not None:
                    await asyncio.sleep(0.005)
                with pytest.raises(TimedOut, match="nothing happened"):
                    await bank.transfer(1, 2, 5)
            finally:
                server.signal(signal.SIGCONT)
            while (await bank.info())["writer"] is None:
                await asyncio.sleep(0.005)
            assert await bank.transfer(1, 2, 5) == CASH - 5


def test_a_gateway_that_stands_still_is_replaced_when_killed() -> None:
    with running(app, readers=1) as server:
        (gateway,) = server.pids["gateway"]
        with server.client() as bank:
            assert bank.total() == TOTAL
        os.kill(gateway, signal.SIGSTOP)
        os.kill(gateway, signal.SIGKILL)
        with server.client() as bank:
            assert bank.total() == TOTAL


@pytest.mark.parametrize("role", ["writer", "gateway", "reader"])
def test_a_machine_that_refuses_a_process(monkeypatch: pytest.MonkeyPatch, role: str) -> None:
    """A replacement that can't be forked is tried again; the server goes on with what it has."""
    really_fork = processes.fork_child
    forks = Counter[str]()

    def fork_child(name: str, *given: Any, **named: Any) -> Any:
        forks[name] += 1
        # The first ones are the start; the next two of this role fail.
        first = 2 if name == "reader" else 1
        if name == role and first < forks[name] <= first + 2:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return really_fork(name, *given, **named)

    monkeypatch.setattr(processes, "fork_child", fork_child)
    monkeypatch.setattr(supervisor, "RETRY_S", 0.05)
    with running(app) as server:
        kill(server.pids[role][:1])()
        wait_until(lambda: server.log().count("can't start a process") == 2)
        with server.client() as bank:
            wait_until(lambda: {r: len(p) for r, p in server.pids.items()} == EVERYBODY)
            assert bank.total() == TOTAL
            assert bank.transfer(1, 2, 5) == CASH - 5
