"""AsyncClient against a scripted server on loopback."""

from __future__ import annotations

import asyncio
from typing import Any

import msgpack
import pytest
from tests.unit.client.fakes import (
    Connection,
    greet_and_echo,
    serving,
    welcome,
)

from diptych_client import (
    RESERVED_NAMES,
    AsyncClient,
    BadArguments,
    Busy,
    Client,
    Disconnected,
    Forbidden,
    HistoryChanged,
    OutcomeUnknown,
    ProtocolError,
    Rejected,
    Reply,
    ShuttingDown,
    TimedOut,
    UnknownOperation,
)
from diptych_client.connecting import RETRY_FIRST_S
from diptych_client.protocol import PREAMBLE, Kind, encode_frame


def place_order(db: object, account: int, symbol: str, side: int) -> tuple[int, int]:
    """As the application declares it; only its name and types matter here."""
    raise NotImplementedError


async def sink(connection: Connection) -> None:
    """Greets, then reads and never answers."""
    await connection.greet()
    await connection.until_gone()


async def test_calls_in_all_forms() -> None:
    async def script(connection: Connection) -> None:
        await connection.greet()
        for sequence in range(1, 5):
            request = await connection.read()
            assert request.content == [7, "AAPL", 1]
            connection.answer(request, [sequence, 4], sequence=sequence)
        request = await connection.read()
        connection.answer(request, [None, 5], sequence=4, age_us=2500)
        request = await connection.read()
        connection.send(Kind.REJECTED, ["unknown_order", {"order": 1}], request=request.request)
        request = await connection.read()
        assert request.kind == Kind.INFO
        connection.answer(request, {"readers": 2})
        await connection.echo()

    async with serving(script) as server, AsyncClient(server.address, token="t") as exchange:
        placed = await exchange.place_order(7, "AAPL", side=1)
        assert (placed.order, placed.filled) == (1, 4)
        assert await exchange.call("place_order", 7, "AAPL", 1) == (2, 4)
        typed: tuple[int, int] = await exchange.call(place_order, 7, "AAPL", side=1)
        assert typed == (3, 4)
        assert (await exchange.reply(place_order, 7, "AAPL", 1)).sequence == 4
        assert await exchange.reply("best", "AAPL") == Reply((None, 5), 4, 2.5)
        with pytest.raises(Rejected) as no:
            await exchange.place_order(7, "AAPL", 1)
        assert no.value == Rejected("unknown_order", order=1)
        assert await exchange.info() == {"readers": 2}
        assert 0 < await exchange.ping() < 5000
        assert (exchange.app, exchange.server_version) == ("exchange", "diptych 0.1.0")
        assert str(exchange.operations["best"]).startswith("best(symbol: str)")
        assert {"place_order", "call_many", "using"} <= set(dir(exchange))
        assert repr(exchange) == (
            f"<AsyncClient exchange at {server.address}: ready;"
            " in flight: transactions 0, queries 0; waiting: 0>"
        )
    assert "closed" in repr(exchange)


async def test_mistakes_are_found_before_anything_is_sent() -> None:
    async with serving(greet_and_echo) as server, AsyncClient(server.address) as exchange:
        with pytest.raises(UnknownOperation, match="did you mean 'place_order'"):
            await exchange.place_oder(1)
        with pytest.raises(BadArguments) as bad:
            await exchange.place_order(1, "AAPL")
        assert bad.value.parameter == "side"
        with pytest.raises(BadArguments):
            await exchange.echo(2**70)
        with pytest.raises(TypeError, match="name or function"):
            await exchange.call(5)  # type: ignore[call-overload]  # the mistake is the test
        with pytest.raises(AttributeError, match="_repr_html_"):
            exchange._repr_html_  # noqa: B018 - looking it up is the test
        assert await exchange.echo("still here") == "still here"


async def test_calls_of_one_moment_leave_together_and_answers_may_come_in_any_order() -> None:
    reads: list[int] = []

    async def script(connection: Connection) -> None:
        await connection.greet()
        data = b""
        while len(data) < 20 * (32 + 2):
            data += await connection.reader.read(1 << 16)
            reads.append(len(data))
        for request in range(20, 0, -1):
            connection.send(Kind.RESULT, request, request=request)
        await connection.until_gone()

    async with serving(script) as server, AsyncClient(server.address) as exchange:
        values = await asyncio.gather(*(exchange.echo(each) for each in range(20)))
        assert values == list(range(1, 21))
    assert reads == [20 * (32 + 2)]


async def test_limits_hold_and_nothing_is_lost() -> None:
    most = 0

    async def script(connection: Connection) -> None:
        nonlocal most
        await connection.greet(transactions_in_flight=3)
        for _ in range(100):
            batch = [await connection.read()]
            await asyncio.sleep(0)
            while len(connection.reader._buffer) >= 32:  # type: ignore[attr-defined]  # what came too
                batch.append(await connection.read())
            most = max(most, len(batch))
            for request in batch:
                connection.answer(request, request.content[0])

    async with serving(script) as server, AsyncClient(server.address) as exchange:
        values = await asyncio.gather(*(exchange.echo(each) for each in range(60)))
        assert values == list(range(60))
    assert 1 <= most <= 3


async def test_call_many_keeps_the_order_and_puts_errors_in_their_places() -> None:
    async def script(connection: Connection) -> None:
        await connection.greet(transactions_in_flight=2)
        while True:
            request = await connection.read()
            if request.content == ["bad"]:
                connection.send(Kind.REJECTED, ["bad", {}], request=request.request)
            else:
                connection.answer(request, request.content[0])

    async with serving(script) as server, AsyncClient(server.address) as exchange:
        arguments: list[tuple[Any, ...]] = [(each,) for each in range(50)]
        arguments[7] = ("bad",)
        arguments[20] = (2**64,)
        results = await exchange.call_many("echo", arguments)
        assert results[7] == Rejected("bad")
        assert isinstance(results[20], BadArguments)
        del results[20], results[7]
        assert results == [each for each in range(50) if each not in (7, 20)]
        assert await exchange.call_many("echo", []) == []
        with pytest.raises(UnknownOperation):
            await exchange.call_many("ecco", [(1,)])


async def test_own_writes_are_read_unless_told_otherwise() -> None:
    async def script(connection: Connection) -> None:
        await connection.greet()
        connection.answer(await connection.read(), 1, sequence=40)
        for expected in [(40, 77), (0, 0), (41, 77)]:
            request = await connection.read()
            assert (request.sequence, request.context) == expected
            connection.answer(request, [], sequence=41)
        request = await connection.read()
        connection.send(
            Kind.ERROR,
            {"code": "history_changed", "message": "restored", "history": 78, "sequence": 3},
            request=request.request,
        )
        request = await connection.read()
        assert (request.sequence, request.context) == (3, 78)
        connection.answer(request, [])

    async with serving(script) as server, AsyncClient(server.address) as exchange:
        await exchange.echo(1)
        await exchange.depth("AAPL")
        await exchange.using(fresh=False).depth("AAPL")
        await exchange.depth("AAPL")
        with pytest.raises(HistoryChanged):
            await exchange.depth("AAPL")
        await exchange.depth("AAPL")


async def test_deadlines() -> None:
    async with serving(sink) as server, AsyncClient(server.address) as exchange:
        loop = asyncio.get_running_loop()
        hurried = exchange.using(timeout=0.05)
        started = loop.time()
        outcomes = await asyncio.gather(
            hurried.echo(1),
            hurried.depth("AAPL"),
            exchange.using(timeout=0.1).depth("AAPL"),
            return_exceptions=True,
        )
        assert 0.09 < loop.time() - started < 2
        assert [type(outcome) for outcome in outcomes] == [OutcomeUnknown, TimedOut, TimedOut]
        assert outcomes[0].request.startswith("9/")  # type: ignore[union-attr]  # its type is known
        assert exchange._timeout_s == 10.0


async def test_no_timeout_waits() -> None:
    async with serving(sink) as server, AsyncClient(server.address, timeout=None) as exchange:
        waiting = asyncio.ensure_future(exchange.echo(1))
        await asyncio.sleep(0.02)
        assert exchange._link._timer is None
        waiting.cancel()


async def test_a_cancelled_call_is_forgotten() -> None:
    """Not sent yet, it is not sent; sent, its answer is dropped."""

    async def script(connection: Connection) -> None:
        await connection.greet(transactions_in_flight=1)
        first = await connection.read()
        assert first.content == ["sent"]
        await cancelled.wait()
        connection.answer(first, "dropped")
        last = await connection.read()
        assert last.content == ["last"]
        connection.answer(last, "right")

    cancelled = asyncio.Event()
    async with serving(script) as server, AsyncClient(server.address) as exchange:
        tasks = [asyncio.ensure_future(exchange.echo(each)) for each in ("sent", "unsent")]
        while "transactions 1, queries 0; waiting: 1" not in repr(exchange):
            await asyncio.sleep(0.001)
        last = asyncio.ensure_future(exchange.echo("last"))
        for task in tasks:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        cancelled.set()
        assert await last == "right"
        assert repr(exchange).endswith("transactions 0, queries 0; waiting: 0>")


# --- connections


async def test_nobody_there() -> None:
    async with serving(sink) as server:
        pass
    with pytest.raises(Disconnected, match=f"cannot connect to {server.address}"):
        async with AsyncClient(server.address):
            raise AssertionError("not connected")
    exchange = AsyncClient(server.address)
    for _ in range(2):
        with pytest.raises(Disconnected):
            await exchange.echo(1)
    await exchange.close()
    with pytest.raises(Disconnected, match="closed"):
        await exchange.echo(1)


async def test_the_first_call_connects() -> None:
    async with serving(greet_and_echo) as server:
        exchange = AsyncClient(server.address)
        assert exchange.operations == {}
        assert await asyncio.gather(exchange.echo(1), exchange.echo(2)) == [1, 2]
        assert server.connections == 1
        await exchange.close()
        await exchange.close()


async def test_connecting_has_a_deadline_too() -> None:
    async def silent(connection: Connection) -> None:
        await connection.until_gone()

    async with serving(silent) as server:
        exchange = AsyncClient(server.address, timeout=0.05)
        with pytest.raises(TimedOut, match="not connected in time"):
            await exchange.echo(1)
        await exchange.close()


@pytest.mark.parametrize("code", ["forbidden", "shutting_down"])
async def test_a_refused_handshake(code: str) -> None:
    async def script(connection: Connection) -> None:
        said = await connection.hello()
        assert said["token"] == "wrong"
        connection.send(Kind.ERROR, {"code": code, "message": "no"})

    async with serving(script) as server:
        with pytest.raises((Forbidden, ShuttingDown), match="no") as error:
            await AsyncClient(server.address, token="wrong").connect()
        assert error.value.code == code


async def test_after_a_refusal_the_next_call_tries_again() -> None:
    async def refuse(connection: Connection) -> None:
        await connection.hello()
        connection.send(Kind.ERROR, {"code": "busy", "message": "full"})

    async with serving(refuse, greet_and_echo) as server:
        exchange = AsyncClient(server.address)
        with pytest.raises(Busy, match="full"):
            await exchange.echo(1)
        assert await exchange.echo(2) == 2
        await exchange.close()


async def test_pauses_grow_until_the_server_answers_again() -> None:
    async def drop(connection: Connection) -> None:
        await connection.greet()

    async def answer(connection: Connection) -> None:
        await connection.greet()
        request = await connection.read()
        connection.answer(request, 5)

    async with serving(drop, drop, answer, greet_and_echo) as server:
        exchange = AsyncClient(server.address)
        await exchange.connect()
        while server.connections < 3:
            await asyncio.sleep(0.001)
        assert exchange._link._backoff._delay_s == 4 * RETRY_FIRST_S
        assert await exchange.echo(1) == 5
        while server.connections < 4:
            await asyncio.sleep(0.001)
        assert exchange._link._backoff._delay_s == 2 * RETRY_FIRST_S
        await exchange.close()


async def test_a_server_of_another_kind() -> None:
    async def script(connection: Connection) -> None:
        connection.writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with serving(script) as server:
        with pytest.raises(ProtocolError, match="not a Diptych stream"):
            await AsyncClient(server.address).connect()


async def test_a_lost_connection() -> None:
    """A sent transaction has an unknown outcome; a query is asked again; what waits is sent."""
    lost = asyncio.Event()

    async def first(connection: Connection) -> None:
        assert (await connection.greet())["fingerprint"] is None
        assert (await connection.read()).kind == Kind.TRANSACTION
        assert (await connection.read()).kind == Kind.QUERY
        connection.writer.close()
        lost.set()

    async def second(connection: Connection) -> None:
        assert (await connection.greet(operations=None))["fingerprint"] == b"one"
        for _ in range(2):
            request = await connection.read()
            connection.answer(request, [[5, 1]] if request.kind == Kind.QUERY else "later")
        await connection.until_gone()

    async with serving(first, second) as server, AsyncClient(server.address) as exchange:
        wrote = asyncio.ensure_future(exchange.echo("sent"))
        read = asyncio.ensure_future(exchange.depth("AAPL"))
        await lost.wait()
        with pytest.raises(OutcomeUnknown):
            await wrote
        assert "disconnected" in repr(exchange)
        later = asyncio.ensure_future(exchange.echo("unsent"))
        assert [level.price for level in await read] == [5]
        assert await later == "later"
        assert server.connections == 2


async def test_a_query_is_asked_again_only_once() -> None:
    async def drop(connection: Connection) -> None:
        await connection.greet()
        await connection.read()

    async with serving(drop) as server, AsyncClient(server.address) as exchange:
        with pytest.raises(Disconnected, match="lost again"):
            await exchange.depth("AAPL")
        assert server.connections == 2


async def test_calls_wait_for_the_reconnection_up_to_their_deadline() -> None:
    async def once(connection: Connection) -> None:
        await connection.greet()

    async with serving(once) as server:
        exchange = AsyncClient(server.address, timeout=0.3)
        await exchange.connect()
    # Nobody listens any more.
    while "ready" in repr(exchange):
        await asyncio.sleep(0.001)
    with pytest.raises(TimedOut, match="cannot connect"):
        await exchange.echo(1)
    await exchange.close()


async def test_a_refusal_after_a_reconnection_reaches_waiting_calls() -> None:
    async def refuse(connection: Connection) -> None:
        await connection.hello()
        connection.send(Kind.ERROR, {"code": "forbidden", "message": "token withdrawn"})

    async def once(connection: Connection) -> None:
        await connection.greet()

    async with serving(once, refuse) as server, AsyncClient(server.address) as exchange:
        while "ready" in repr(exchange):
            await asyncio.sleep(0.001)
        with pytest.raises(Forbidden, match="withdrawn"):
            await exchange.echo(1)


async def test_bad_bytes_close_the_connection_and_the_next_one_works() -> None:
    async def garbage(connection: Connection) -> None:
        await connection.greet()
        await connection.read()
        await connection.read()
        connection.writer.write(b"\xff" * 64)
        assert await connection.reader.read() == b""  # the client has closed

    async with (
        serving(garbage, greet_and_echo) as server,
        AsyncClient(server.address) as exchange,
    ):
        outcomes = await asyncio.gather(
            exchange.echo(1), exchange.depth("AAPL"), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [OutcomeUnknown, ProtocolError]
        assert isinstance(outcomes[0], OutcomeUnknown)
        assert isinstance(outcomes[0].__cause__, ProtocolError)
        assert await exchange.echo(2) == 2


async def test_a_draining_server_is_left_after_its_last_answer() -> None:
    async def draining(connection: Connection) -> None:
        await connection.greet()
        request = await connection.read()
        connection.send(Kind.CLOSING)
        await connection.writer.drain()
        await asyncio.sleep(0.03)
        connection.answer(request, "the last")
        assert await connection.reader.read() == b""  # nothing more was sent

    async with (
        serving(draining, greet_and_echo) as server,
        AsyncClient(server.address) as exchange,
    ):
        last = asyncio.ensure_future(exchange.echo("first"))
        while "shutting down" not in exchange._link.core.trouble:
            await asyncio.sleep(0.001)
        following = asyncio.ensure_future(exchange.echo("next"))
        assert await last == "the last"
        assert await following == "next"
        assert server.connections == 2


async def test_closing_ends_what_is_in_flight() -> None:
    async with serving(sink) as server:
        exchange = AsyncClient(server.address)
        await exchange.connect()
        wrote = asyncio.ensure_future(exchange.echo(1))
        read = asyncio.ensure_future(exchange.using(fresh=False).depth("AAPL"))
        await asyncio.sleep(0.01)
        await exchange.close()
        with pytest.raises(OutcomeUnknown, match="the connection was lost"):
            await wrote
        with pytest.raises(Disconnected, match="this client was closed"):
            await read


async def test_large_requests_wait_for_a_slow_server() -> None:
    """What the socket does not take stays unsent, and goes when the server reads again."""
    payload = b"x" * 400_000
    release = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.greet(transactions_in_flight=1000)
        await release.wait()
        requests = [await connection.read() for _ in range(60)]
        for request in requests:
            connection.answer(request, len(request.content[0]))
        await connection.until_gone()

    async with serving(script) as server, AsyncClient(server.address) as exchange:
        tasks = [asyncio.ensure_future(exchange.echo(payload)) for _ in range(50)]
        await asyncio.sleep(0.02)
        tasks += [asyncio.ensure_future(exchange.echo(payload)) for _ in range(10)]
        await asyncio.sleep(0.02)
        assert "transactions 50, queries 0; waiting: 10" in repr(exchange)
        release.set()
        assert await asyncio.gather(*tasks) == [400_000] * 60


async def test_large_welcome_in_pieces() -> None:
    async def script(connection: Connection) -> None:
        await connection.hello()
        content = welcome(app="x" * 300_000)
        data = encode_frame(Kind.WELCOME, msgpack.packb(content))
        for start in range(0, len(data), 100_000):
            connection.writer.write(data[start : start + 100_000])
            await connection.writer.drain()
            await asyncio.sleep(0.001)
        await connection.echo()

    async with serving(script) as server, AsyncClient(server.address) as exchange:
        assert len(exchange.app) == 300_000
        assert await exchange.echo(1) == 1


async def test_the_first_bytes() -> None:
    first = b""

    async def script(connection: Connection) -> None:
        nonlocal first
        first = await connection.reader.readexactly(len(PREAMBLE) + 32)

    async with serving(script) as server:
        with pytest.raises(Disconnected):
            await AsyncClient(server.address).connect()
    assert first[:8] == PREAMBLE
    assert first[12] == Kind.HELLO


def test_reserved_names_cover_both_clients() -> None:
    for cls in (AsyncClient, Client):
        public = {name for name in dir(cls) if not name.startswith("_")}
        assert public <= RESERVED_NAMES


# --- exactly once


SESSION = 5 << 20 | 3


async def test_a_transaction_is_sent_again_to_the_server_that_knows_its_session() -> None:
    frames = []
    identities = set()

    async def first(connection: Connection) -> None:
        identities.add((await connection.greet(session=SESSION))["identity"])
        frames.append(await connection.read_frame())

    async def refuse(connection: Connection) -> None:
        identities.add((await connection.hello())["identity"])
        connection.send(Kind.ERROR, {"code": "busy", "message": "full"})

    async def second(connection: Connection) -> None:
        identities.add((await connection.greet(session=SESSION))["identity"])
        frames.append(frame := await connection.read_frame())
        connection.send(Kind.RESULT, "once", request=frame[2], sequence=7)
        await connection.until_gone()

    async with serving(first, refuse, second) as server:
        async with AsyncClient(server.address, timeout=None) as exchange:
            assert await exchange.echo("x") == "once"
        assert server.connections == 3
    assert frames[0] == frames[1]
    assert len(identities) == 1


async def test_the_deadline_holds_through_reconnections() -> None:
    async def drop(connection: Connection) -> None:
        await connection.greet(session=SESSION)
        await connection.read()

    async with serving(drop) as server, AsyncClient(server.address) as exchange:
        loop = asyncio.get_running_loop()
        started = loop.time()
        with pytest.raises(OutcomeUnknown, match="no answer in time") as unknown:
            await exchange.using(timeout=0.2).echo(1)
        assert 0.19 < loop.time() - started < 2
        assert unknown.value.request == f"{SESSION}/1"
        assert server.connections > 1


async def test_closing_leaves_the_outcome_open_also_between_connections() -> None:
    async def drop(connection: Connection) -> None:
        await connection.greet(session=SESSION)
        await connection.read()

    async with serving(drop) as server:
        exchange = AsyncClient(server.address, timeout=None)
        wrote = asyncio.ensure_future(exchange.echo(1))
        while "disconnected" not in repr(exchange):
            await asyncio.sleep(0.001)
        await exchange.close()
        with pytest.raises(OutcomeUnknown, match="this client was closed"):
            await wrote


async def test_own_keys_and_outcomes() -> None:
    async def script(connection: Connection) -> None:
        await connection.greet(session=SESSION)
        request = await connection.read()
        assert (request.kind, request.operation) == (Kind.KEYED, 0)
        assert request.content == b"\x08web-8f3a" + msgpack.packb([7, "AAPL", 1])
        connection.answer(request, [1, 4])
        request = await connection.read()
        assert (request.kind, request.sequence) == (Kind.QUERY, 0)
        connection.answer(request, [])
        for asked in ([SESSION, 1], ["web-8f3a"]):
            request = await connection.read()
            assert (request.kind, request.content) == (Kind.TRANSACTION, asked)
            connection.send(Kind.RESULT, [1, 4], operation=0, request=request.request)
        await connection.until_gone()

    async with serving(script) as server, AsyncClient(server.address) as exchange:
        once = exchange.using(fresh=False, request="web-8f3a")
        assert (await once.place_order(7, "AAPL", side=1)).order == 1
        assert await once.depth("AAPL") == []
        for request in (f"{SESSION}/1", "web-8f3a"):
            assert (await exchange.outcome(request)).filled == 4
        with pytest.raises(BadArguments, match="names one call") as many:
            await once.call_many("echo", [(1,)])
        assert many.value.parameter == "request"
        assert once.using(timeout=1)._request == "web-8f3a"
        assert once.using(request=None)._request == ""
        with pytest.raises(BadArguments, match="64 bytes"):
            once.using(request="")


async def test_an_outcome_has_a_deadline_of_its_own() -> None:
    async with serving(sink) as server, AsyncClient(server.address) as exchange:
        with pytest.raises(OutcomeUnknown) as unknown:
            await exchange.outcome(f"{SESSION}/1", timeout=0.05)
        assert unknown.value.request == f"{SESSION}/1"


async def test_asking_connects() -> None:
    async def script(connection: Connection) -> None:
        await connection.greet(session=SESSION)
        connection.answer(await connection.read(), "then")
        await connection.until_gone()

    async with serving(script) as server:
        exchange = AsyncClient(server.address)
        assert await exchange.outcome("web-8f3a") == "then"
        await exchange.close()
