"""Client against a scripted server, which runs on a loop in a thread."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from tests.unit.client.fakes import Connection, greet_and_echo, serving_in_thread

from diptych_client import (
    BadArguments,
    Client,
    Disconnected,
    Forbidden,
    OutcomeUnknown,
    ProtocolError,
    Rejected,
    Reply,
    TimedOut,
    UnknownOperation,
)
from diptych_client.protocol import Kind


def echo(db: object, value: int) -> int:
    """As the application declares it; only its name and types matter here."""
    raise NotImplementedError


async def sink(connection: Connection) -> None:
    await connection.greet()
    await connection.until_gone()


def test_calls_in_all_forms() -> None:
    async def script(connection: Connection) -> None:
        await connection.greet()
        connection.answer(await connection.read(), [1, 4], sequence=40)
        request = await connection.read()
        assert (request.sequence, request.context) == (40, 77)
        connection.answer(request, [None, 5], sequence=41, age_us=2500)
        request = await connection.read()
        assert (request.sequence, request.context) == (0, 0)
        connection.answer(request, [])
        request = await connection.read()
        connection.send(Kind.REJECTED, ["unknown_order", {"order": 1}], request=request.request)
        request = await connection.read()
        connection.answer(request, {"readers": 2})
        await connection.echo()

    with serving_in_thread(script) as server, Client(server.address) as exchange:
        placed = exchange.place_order(7, "AAPL", side=1)
        assert (placed.order, placed.filled) == (1, 4)
        assert exchange.reply("best", "AAPL") == Reply((None, 5), 41, 2.5)
        assert exchange.using(fresh=False).depth("AAPL") == []
        with pytest.raises(Rejected) as no:
            exchange.place_order(7, "AAPL", 1)
        assert no.value.details == {"order": 1}
        assert exchange.info() == {"readers": 2}
        assert 0 < exchange.ping() < 5000
        typed: int = exchange.call(echo, 5)
        assert typed == exchange.call("echo", 5) == 5
        with pytest.raises(UnknownOperation, match="did you mean 'echo'"):
            exchange.ecco(1)
        with pytest.raises(BadArguments):
            exchange.echo()
        assert (exchange.app, exchange.server_version) == ("exchange", "diptych 0.1.0")
        assert "best" in exchange.operations
        assert {"echo", "ping"} <= set(dir(exchange))
        assert repr(exchange).startswith(f"<Client exchange at {server.address}: ready;")
    with pytest.raises(Disconnected, match="closed"):
        exchange.echo(1)


def test_call_many() -> None:
    async def script(connection: Connection) -> None:
        await connection.greet(transactions_in_flight=2)
        while True:
            request = await connection.read()
            if request.content == ["bad"]:
                connection.send(Kind.REJECTED, ["bad", {}], request=request.request)
            else:
                connection.answer(request, request.content[0])

    with serving_in_thread(script) as server, Client(server.address) as exchange:
        arguments: list[tuple[Any, ...]] = [(each,) for each in range(50)]
        arguments[7] = ("bad",)
        arguments[20] = (2**64,)
        results = exchange.call_many("echo", arguments)
        assert results[7] == Rejected("bad")
        assert isinstance(results[20], BadArguments)
        del results[20], results[7]
        assert results == [each for each in range(50) if each not in (7, 20)]
        with pytest.raises(UnknownOperation):
            exchange.call_many("ecco", [(1,)])


def test_large_pipelines_do_not_lock_up() -> None:
    """The server reads nothing while its own answers are unread; so the client must read too."""

    async def script(connection: Connection) -> None:
        await connection.greet()
        while True:
            request = await connection.read()
            connection.answer(request, request.content[0])
            await connection.writer.drain()

    payload = b"x" * 500_000
    with serving_in_thread(script) as server, Client(server.address) as exchange:
        results = exchange.call_many("echo", [(payload,)] * 40)
        assert all(result == payload for result in results)


def test_a_request_larger_than_the_socket_takes_at_once() -> None:
    async def script(connection: Connection) -> None:
        await connection.greet(frame_bytes=1 << 26)
        await asyncio.sleep(0.02)
        request = await connection.read()
        connection.answer(request, len(request.content[0]))
        await connection.until_gone()

    with serving_in_thread(script) as server, Client(server.address) as exchange:
        assert exchange.echo(b"x" * 24_000_000) == 24_000_000


def test_deadlines() -> None:
    with (
        serving_in_thread(sink) as server,
        Client(server.address, timeout=0.05) as exchange,
    ):
        started = time.monotonic()
        with pytest.raises(OutcomeUnknown, match="no answer in time"):
            exchange.echo(1)
        with pytest.raises(TimedOut):
            exchange.depth("AAPL")
        assert 0.09 < time.monotonic() - started < 2
        assert "transactions 1, queries 1" in repr(exchange)


def test_a_late_answer_is_not_taken_for_the_next_one() -> None:
    async def script(connection: Connection) -> None:
        await connection.greet()
        late = await connection.read()
        request = await connection.read()
        connection.answer(late, "late")
        connection.answer(request, "right")
        await connection.until_gone()

    with serving_in_thread(script) as server, Client(server.address) as exchange:
        with pytest.raises(OutcomeUnknown):
            exchange.using(timeout=0.05).echo(1)
        assert exchange.echo(2) == "right"


def test_threads_take_turns() -> None:
    failures: list[BaseException] = []

    def work(exchange: Client, number: int) -> None:
        try:
            for each in range(50):
                assert exchange.echo([number, each]) == [number, each]
        except BaseException as failure:
            failures.append(failure)

    with serving_in_thread(greet_and_echo) as server, Client(server.address) as exchange:
        threads = [threading.Thread(target=work, args=(exchange, each)) for each in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert server.connections == 1
    assert failures == []


def test_waiting_for_ones_turn_counts_toward_the_deadline() -> None:
    with serving_in_thread(sink) as server, Client(server.address, timeout=0.4) as exchange:

        def slow() -> None:
            with pytest.raises(OutcomeUnknown):
                exchange.echo(1)

        thread = threading.Thread(target=slow)
        thread.start()
        while "transactions 1" not in repr(exchange):
            time.sleep(0.001)
        with pytest.raises(TimedOut, match="other threads"):
            exchange.using(timeout=0.05).echo(2)
        thread.join()


# --- connections


def test_nobody_there() -> None:
    with serving_in_thread(sink) as server:
        pass
    exchange = Client(server.address)
    for _ in range(2):
        with pytest.raises(Disconnected, match=f"cannot connect to {server.address}"):
            exchange.echo(1)
    with pytest.raises(Disconnected):
        exchange.connect()
    exchange.close()


def test_an_end_while_nobody_called_costs_nothing() -> None:
    """The connection ended between two calls: the second is not sent into it."""

    async def once(connection: Connection) -> None:
        await connection.greet()
        connection.answer(await connection.read(), "first")

    with serving_in_thread(once, greet_and_echo) as server, Client(server.address) as exchange:
        assert exchange.echo(1) == "first"
        while server.ended < 1:
            time.sleep(0.001)
        assert exchange.echo(2) == 2
        assert server.connections == 2


def test_a_lost_connection() -> None:
    async def drop(connection: Connection) -> None:
        await connection.greet()
        await connection.read()

    async def answer(connection: Connection) -> None:
        assert (await connection.greet(operations=None))["fingerprint"] == b"one"
        connection.answer(await connection.read(), [[5, 1]])
        await connection.read()

    with serving_in_thread(drop, answer, greet_and_echo) as server:
        with Client(server.address) as exchange:
            assert exchange.depth("AAPL")[0].price == 5  # asked again on the second connection
            with pytest.raises(OutcomeUnknown) as unknown:
                exchange.echo(1)
            assert unknown.value.request == "9/1"
            assert exchange.echo(2) == 2
        assert server.connections == 3


def test_calls_wait_for_the_reconnection_up_to_their_deadline() -> None:
    async def once(connection: Connection) -> None:
        await connection.greet()

    with serving_in_thread(once) as server:
        exchange = Client(server.address, timeout=0.3)
        exchange.connect()
    started = time.monotonic()
    with pytest.raises(TimedOut, match="cannot connect"):
        exchange.echo(1)
    assert 0.25 < time.monotonic() - started < 2
    exchange.close()


def test_a_silent_server_is_given_up_at_the_deadline() -> None:
    async def silent(connection: Connection) -> None:
        await connection.until_gone()

    with serving_in_thread(silent) as server:
        exchange = Client(server.address, timeout=0.05)
        with pytest.raises(Disconnected, match="no answer"):
            exchange.connect()
        exchange.close()


def test_refusals() -> None:
    async def refuse(connection: Connection) -> None:
        await connection.hello()
        connection.send(Kind.ERROR, {"code": "forbidden", "message": "no such token"})

    async def once(connection: Connection) -> None:
        await connection.greet()

    with serving_in_thread(refuse, once, refuse) as server:
        exchange = Client(server.address, token="t")
        with pytest.raises(Forbidden, match="no such token"):
            exchange.connect()
        exchange.connect()
        while server.ended < 2:
            time.sleep(0.001)
        with pytest.raises(Forbidden, match="no such token"):
            exchange.echo(1)
        exchange.close()


def test_bad_bytes() -> None:
    async def garbage(connection: Connection) -> None:
        await connection.greet()
        await connection.read()
        connection.writer.write(b"\xff" * 64)
        assert await connection.reader.read() == b""

    with (
        serving_in_thread(garbage, garbage, greet_and_echo) as server,
        Client(server.address) as exchange,
    ):
        with pytest.raises(ProtocolError):
            exchange.depth("AAPL")
        with pytest.raises(OutcomeUnknown):
            exchange.echo(1)
        assert exchange.echo(2) == 2


def test_a_draining_server_is_left_after_its_last_answer() -> None:
    async def draining(connection: Connection) -> None:
        await connection.greet()
        request = await connection.read()
        connection.send(Kind.CLOSING)
        connection.answer(request, "the last")
        assert await connection.reader.read() == b""

    with (
        serving_in_thread(draining, greet_and_echo) as server,
        Client(server.address) as exchange,
    ):
        assert exchange.echo(1) == "the last"
        assert exchange.echo(2) == 2
        assert server.connections == 2


def test_an_interrupted_call_drops_the_connection() -> None:
    async def script(connection: Connection) -> None:
        await connection.greet()
        await connection.read()
        await connection.until_gone()

    with serving_in_thread(script, greet_and_echo) as server:
        with Client(server.address) as exchange:
            link = exchange._link
            exchanged = link._exchange

            def interrupted(timeout_s: float, *, only_read: bool = False) -> bool:
                exchanged(0, only_read=only_read)
                if not only_read:
                    raise KeyboardInterrupt
                return False

            link._exchange = interrupted  # type: ignore[method-assign]  # Ctrl-C, at this very place
            with pytest.raises(KeyboardInterrupt):
                exchange.echo(1)
            link._exchange = exchanged  # type: ignore[method-assign]  # as it was
            assert exchange.echo(2) == 2
        assert server.connections == 2


async def test_it_is_usable_from_a_thread_of_an_asyncio_program() -> None:
    def work(address: str) -> Any:
        with Client(address) as exchange:
            return exchange.call_many("echo", [(1,), (2,)])

    with serving_in_thread(greet_and_echo) as server:
        assert await asyncio.to_thread(work, server.address) == [1, 2]


# --- exactly once

SESSION = 5 << 20 | 3


def test_a_transaction_is_sent_again_to_the_server_that_knows_its_session() -> None:
    frames = []

    async def first(connection: Connection) -> None:
        await connection.greet(session=SESSION)
        frames.append(await connection.read_frame())

    async def second(connection: Connection) -> None:
        await connection.greet(session=SESSION)
        frames.append(frame := await connection.read_frame())
        connection.send(Kind.RESULT, "once", request=frame[2], sequence=7)
        await connection.until_gone()

    with serving_in_thread(first, second) as server:
        with Client(server.address, timeout=None) as exchange:
            assert exchange.echo("x") == "once"
        assert server.connections == 2
    assert frames[0] == frames[1]


def test_the_deadline_holds_through_reconnections() -> None:
    async def drop(connection: Connection) -> None:
        await connection.greet(session=SESSION)
        await connection.read()

    with serving_in_thread(drop) as server, Client(server.address, timeout=0.2) as exchange:
        started = time.monotonic()
        with pytest.raises(OutcomeUnknown, match="no answer in time") as unknown:
            exchange.echo(1)
        assert 0.19 < time.monotonic() - started < 2
        assert unknown.value.request == f"{SESSION}/1"
        assert server.connections > 1


def test_own_keys_and_outcomes() -> None:
    async def script(connection: Connection) -> None:
        await connection.greet(session=SESSION)
        request = await connection.read()
        assert (request.kind, request.content) == (Kind.KEYED, b"\x08web-8f3a\x91\x05")
        connection.answer(request, 5)
        for asked in ([SESSION, 1], ["web-8f3a"]):
            request = await connection.read()
            assert (request.kind, request.content) == (Kind.TRANSACTION, asked)
            connection.send(Kind.RESULT, 5, operation=3, request=request.request)
        await connection.read()
        await connection.until_gone()

    with serving_in_thread(script) as server, Client(server.address) as exchange:
        once = exchange.using(request="web-8f3a")
        assert once.echo(5) == 5
        assert [exchange.outcome(each) for each in (f"{SESSION}/1", "web-8f3a")] == [5, 5]
        with pytest.raises(BadArguments, match="names one call"):
            once.call_many("echo", [(1,)])
        with pytest.raises(BadArguments, match="no key"):
            exchange.using(request="1/2")
        with pytest.raises(OutcomeUnknown) as unknown:
            exchange.outcome("web-8f3a", timeout=0.05)
        assert unknown.value.request == "web-8f3a"


def test_tools_ask_the_server_itself() -> None:
    async def script(connection: Connection) -> None:
        await connection.greet()
        for answer in ({"sequence": 41}, 41):
            request = await connection.read()
            assert (request.kind, request.content) == (Kind.ADMIN, {"do": "checkpoint"})
            assert request.request >= 1 << 63
            connection.answer(request, answer)
        await connection.until_gone()

    with serving_in_thread(script) as server, Client(server.address) as exchange:
        assert exchange.admin({"do": "checkpoint"}) == {"sequence": 41}
        with pytest.raises(ProtocolError, match="without a map"):
            exchange.admin({"do": "checkpoint"})
