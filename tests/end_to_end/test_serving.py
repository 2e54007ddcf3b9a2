"""A whole server over TCP: calls, own writes, slow queries, limits, and the end in order."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
from tests.support.trouble import ACCOUNTS, CASH, app
from tests.support.wire import Wire, alive, numbers, wait_until

from diptych import App, Db
from diptych.errors import ConfigurationError
from diptych.serving.local import Server, running
from diptych_client import (
    AsyncClient,
    BadArguments,
    Rejected,
    ResultTooLarge,
    ServerError,
    TimedOut,
    UnknownOperation,
)
from diptych_client.protocol import Kind, encode_frame

TOTAL = ACCOUNTS * CASH


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(app, interval_ms=2) as server:
        yield server


def test_transactions_and_queries(server: Server) -> None:
    with server.client() as bank:
        before = bank.balance(1)
        assert bank.transfer(1, 2, 5) == before - 5
        assert bank.balance(1) == before - 5  # one's own writes are seen
        assert bank.total() == TOTAL
        assert bank.transfer(source=2, target=1, amount=5) >= 0


def test_replies_say_what_they_saw(server: Server) -> None:
    with server.client() as bank:
        first = bank.reply("transfer", 3, 4, 1)
        seen = bank.reply("total")
        assert seen.sequence >= first.sequence > 0
        assert 0 <= seen.age_ms < 1000


def test_typed_errors(server: Server) -> None:
    with server.client() as bank:
        with pytest.raises(Rejected) as no:
            bank.transfer(1, 2, 10**9)
        assert no.value.code == "insufficient_funds"
        with pytest.raises(Rejected) as no:
            bank.transfer(1, 999, 1)
        assert no.value.code == "not_found"
        with pytest.raises(BadArguments):
            bank.transfer(1, 2, "three")
        with pytest.raises(UnknownOperation):
            bank.no_such_operation()
        assert bank.total() == TOTAL


@pytest.mark.parametrize("operation", ["broken", "broken_query"])
def test_a_bug_in_a_handler_has_an_id_that_the_log_knows(server: Server, operation: str) -> None:
    with server.client() as bank:
        with pytest.raises(ServerError) as failure:
            bank.call(operation)
        assert failure.value.error_id in server.log()
        assert "ZeroDivisionError" in server.log()
        assert bank.total() == TOTAL


def test_a_result_too_large_is_an_error(server: Server) -> None:
    with server.client() as bank:
        assert len(bank.large(1 << 20)) == 1 << 20
        with pytest.raises(ResultTooLarge):
            bank.large(17 << 20)


def test_info(server: Server) -> None:
    with server.client() as bank:
        bank.total()
        info = bank.info()
    assert info["durability"] == "none"
    assert info["connections"] >= 1
    assert info["queries"]["results"] >= 1
    assert len(info["readers"]) == 2
    assert info["writer"]["sync"]["syncs"] >= 1
    assert info["writer"]["sequence"] >= 1
    assert set(info["queries"]["staleness_us"]) == {"p50", "p90", "p99", "max"}


async def test_many_connections_at_once(server: Server) -> None:
    """Every call is answered, to the connection it came from; money is conserved meanwhile."""

    async def payer(number: int) -> int:
        async with AsyncClient(server.address) as bank:
            target = number % ACCOUNTS + 1
            calls = [bank.transfer(number, target, 1) for _ in range(50)]
            calls += [bank.total() for _ in range(5)]
            answers = await asyncio.gather(*calls)
            assert answers[50:] == [TOTAL] * 5
            assert await bank.echo(f"it is {number}") == f"it is {number}"
            return len(answers)

    answered = await asyncio.gather(*[payer(number) for number in range(1, 21)])
    assert answered == [55] * 20


async def test_a_slow_query_delays_nobody(server: Server) -> None:
    async with AsyncClient(server.address) as bank:
        slow = asyncio.create_task(bank.slow(600))
        await asyncio.sleep(0.05)
        slowest = 0.0
        while not slow.done():
            began = time.monotonic()
            await bank.transfer(5, 6, 1)
            await bank.balance(6)
            slowest = max(slowest, time.monotonic() - began)
            await asyncio.sleep(0.005)
            await bank.transfer(6, 5, 1)
        assert await slow == TOTAL
        assert slowest < 0.4


def test_a_query_that_keeps_a_view_costs_its_reader(server: Server) -> None:
    with server.client() as bank:
        before = set(server.pids["reader"])
        with pytest.raises(ServerError, match="view"):
            bank.keep_a_view()
        wait_until(lambda: len(set(server.pids["reader"]) - before) == 1)
        assert bank.total() == TOTAL


def test_a_query_past_its_limit_is_stopped() -> None:
    with running(app, query_ms=1000, readers=1) as server, server.client() as bank:
        (reader,) = server.pids["reader"]
        began = time.monotonic()
        with pytest.raises(TimedOut, match="query_ms"):
            bank.slow(60_000)
        assert time.monotonic() - began < 10
        assert bank.total() == TOTAL
        assert not alive(reader)
        assert bank.info()["queries"]["stopped"] == 1


async def test_a_query_that_pins_the_last_image_is_stopped() -> None:
    with running(app, images=2, max_pin_ms=150, readers=2) as server:
        async with AsyncClient(server.address) as bank:
            slow = asyncio.create_task(bank.slow(60_000))
            await asyncio.sleep(0.1)
            # Both of these need an image: the first sync takes the free one, then there is none.
            await bank.transfer(1, 2, 1)
            assert await bank.balance(2) == CASH + 1
            await bank.transfer(1, 2, 1)
            assert await bank.balance(2) == CASH + 2
            with pytest.raises(TimedOut, match="max_pin_ms"):
                await slow


def test_too_many_transactions_in_flight_are_refused(server: Server) -> None:
    with running(app, transactions_in_flight=4, readers=1) as server, Wire(server.address) as wire:
        number = numbers(wire.greet())
        payload = msgpack.packb([20])
        frames = [
            encode_frame(Kind.TRANSACTION, payload, operation=number["linger"], request=request)
            for request in range(1, 11)
        ]
        wire.send(b"".join(frames))
        kinds = dict.fromkeys(range(1, 11), 0)
        for _ in frames:
            header, _ = wire.frame()
            kinds[header.request] = header.kind
        assert kinds == {request: (17 if request <= 4 else 19) for request in range(1, 11)}
        wire.call(Kind.TRANSACTION, number["linger"], [0], request=99)
        assert wire.frame()[0].kind == Kind.RESULT


@pytest.mark.parametrize("tracker", ["auto", "compare"])
def test_images_in_files(tmp_path: Path, tracker: str) -> None:
    with (
        running(app, images_directory=tmp_path, tracker=tracker, readers=1) as server,
        server.client() as bank,
    ):
        assert not list(tmp_path.iterdir())
        bank.transfer(1, 2, 5)
        assert bank.balance(2) == CASH + 5
        if tracker == "compare":
            assert bank.info()["writer"]["sync"]["tracker"] == "compare"


def test_sigterm_answers_what_is_in_flight() -> None:
    with running(app, readers=1) as server:
        pids = [pid for role in server.pids.values() for pid in role]
        answers: list[int] = []
        with server.client() as bank, server.client() as other:
            threads = [
                threading.Thread(target=lambda: answers.append(bank.slow(400))),
                threading.Thread(target=lambda: answers.append(other.linger(300))),
            ]
            for thread in threads:
                thread.start()
            time.sleep(0.1)
            server.signal(signal.SIGTERM)
            for thread in threads:
                thread.join()
        assert len(answers) == 2
        assert server.wait() == 0
        assert not any(alive(pid) for pid in pids)


def test_a_second_signal_ends_at_once() -> None:
    with running(app, readers=1) as server:
        pids = [pid for role in server.pids.values() for pid in role]
        with Wire(server.address) as wire:
            number = numbers(wire.greet())
            wire.call(Kind.QUERY, number["slow"], [30_000])
            server.signal(signal.SIGTERM)
            assert wire.frame()[0].kind == Kind.CLOSING
            server.signal(signal.SIGTERM)
            assert server.wait(3) == 1
        assert not any(alive(pid) for pid in pids)


def test_nothing_is_left_behind() -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    with running(app, readers=1):
        pass
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_the_server_ends_with_the_process_that_started_it() -> None:
    read_end, write_end = os.pipe()
    starter = os.fork()
    if starter == 0:
        with running(app, readers=1) as server:
            pids = [pid for role in server.pids.values() for pid in role]
            os.write(write_end, ",".join(map(str, pids)).encode())
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(starter, 0)
    pids = [int(pid) for pid in os.read(read_end, 1000).split(b",")]
    os.close(read_end)
    os.close(write_end)
    assert len(pids) == 4
    wait_until(lambda: not any(alive(pid) for pid in pids))


def test_a_setup_that_fails_says_why() -> None:
    unlucky = App("unlucky")

    @unlucky.setup
    def setup(db: Db) -> None:
        raise LookupError("no data to begin with")

    with pytest.raises(RuntimeError, match="no data to begin with"), running(unlucky):
        pass


def test_settings_are_checked_before_anything_starts() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'readers'"), running(app, reader=1):
        pass
    with (
        pytest.raises(RuntimeError, match="capacity for a table 'acount'"),
        running(app, capacities={"acount": 5}),
    ):
        pass
