"""The gateway between a writer, a reader and clients that the tests play, events in any order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgpack
import pytest
from tests.support.stage import (
    HISTORY,
    TRANSFER,
    Actor,
    FakeWriter,
    call,
    keyed,
    query,
    staged,
)

from diptych.config import Settings, load
from diptych.engine.system import SESSION_OPEN, SESSIONS_TOUCH
from diptych.serving import sessions, transactions, unanswered
from diptych.serving.channel import Image, Internal, error_frame
from diptych.serving.connection import READ_BYTES
from diptych_client.errors import Busy, payload_of
from diptych_client.protocol import HELLO_BYTES_MAX, PREAMBLE, Header, Kind, encode_frame

WHO = bytes(range(16))
SESSION = 5 << 20


async def answers(client: Actor, count: int) -> list[int]:
    """Request numbers of so many results, in their order."""
    numbers = []
    for _ in range(count):
        header, payload = await client.frame()
        assert header.kind == Kind.RESULT, payload
        numbers.append(header.request)
    return numbers


# The handshake.


async def test_a_client_without_identity_has_session_zero_at_once() -> None:
    async with staged() as stage:
        writer, _ = await stage.writer(), await stage.reader()
        client = await stage.client()
        header, welcome = await client.frame()
        assert (header.kind, header.request, welcome["session"]) == (Kind.WELCOME, 9, 0)
        client.send(call(1))
        (sent,) = await writer.calls(1)
        assert (sent.operation, sent.request, sent.sequence) == (TRANSFER, 1, 0)


async def test_a_client_with_identity_is_welcomed_when_its_session_is_open() -> None:
    async with staged() as stage:
        writer, _ = await stage.writer(), await stage.reader()
        client = await stage.client({"identity": WHO})
        opening, arguments = await writer.call()
        assert (opening.kind, opening.operation) == (Kind.TRANSACTION, SESSION_OPEN)
        assert (opening.sequence, arguments) == (0, [WHO, ""])
        assert await client.says_nothing()
        writer.answer(opening, value=SESSION)
        header, welcome = await client.frame()
        assert (header.kind, header.request) == (Kind.WELCOME, 9)
        assert (welcome["session"], welcome["sequence"]) == (SESSION, 1)
        client.send(call(1))
        (sent,) = await writer.calls(1)
        assert (sent.request, sent.sequence, sent.context) == (1, SESSION, opening.context)


@pytest.mark.parametrize("size", [100, 40_000])
async def test_what_comes_behind_hello_waits_for_the_session(size: int) -> None:
    """Also far more than the buffer holds: the rest stays with the client until then."""
    async with staged() as stage:
        writer, _ = await stage.writer(), await stage.reader()
        client = await stage.connect()
        frames = [call(number, arguments="x" * size) for number in range(1, 20)]
        hello = encode_frame(Kind.HELLO, msgpack.packb({"identity": WHO}))
        client.send(PREAMBLE, hello, encode_frame(Kind.PING, request=1 << 63), *frames)
        opening, _ = await writer.call()
        assert await writer.says_nothing()
        (connection,) = stage.gateway._connections.values()
        assert len(connection.buffer.view) <= max(READ_BYTES, HELLO_BYTES_MAX)
        writer.answer(opening, value=SESSION)
        assert await client.reader.readexactly(len(PREAMBLE)) == PREAMBLE
        assert (await client.frame())[0].kind == Kind.WELCOME
        assert (await client.frame())[0].kind == Kind.PONG
        sent = await writer.calls(len(frames))
        assert [header.request for header in sent] == list(range(1, 20))
        assert {header.sequence for header in sent} == {SESSION}
        writer.answer(*sent)
        assert await answers(client, len(frames)) == list(range(1, 20))


async def test_a_session_that_is_refused() -> None:
    async with staged() as stage:
        writer, _ = await stage.writer(), await stage.reader()
        client = await stage.client({"identity": WHO})
        opening, _ = await writer.call()
        error = error_frame(payload_of(Busy("no more sessions")), request=opening.request)
        head = Header.read(error)._replace(context=opening.context)
        writer.send(head.encoded() + error[32:])
        assert (await client.error())["message"] == "no more sessions"
        assert await client.is_over()


async def test_a_session_is_opened_by_the_next_writer() -> None:
    """Whether HELLO came before the last one died, or after."""
    async with staged() as stage:
        first, _ = await stage.writer(), await stage.reader()
        early = await stage.client({"identity": WHO})
        opening, _ = await first.call()
        first.leave()
        await stage.until(lambda: stage.gateway.transactions.link is None)
        late = await stage.client({"identity": WHO[::-1]})
        assert await late.says_nothing()
        second = await stage.writer()
        again, arguments = await second.call()
        assert (again, arguments) == (opening, [WHO, ""])
        other, arguments = await second.call()
        assert arguments == [WHO[::-1], ""]
        assert await second.says_nothing()
        second.answer(again, value=SESSION)
        second.answer(other, value=SESSION + 1)
        for client, session in ((early, SESSION), (late, SESSION + 1)):
            header, welcome = await client.frame()
            assert (header.kind, welcome["session"]) == (Kind.WELCOME, session)


async def test_a_client_that_leaves_before_its_session_is_open() -> None:
    async with staged() as stage:
        writer, _ = await stage.writer(), await stage.reader()
        client = await stage.client({"identity": WHO})
        opening, _ = await writer.call()
        client.leave()
        await stage.until(lambda: not stage.gateway._connections)
        writer.answer(opening, value=SESSION)
        await stage.guest(writer)
        assert len(stage.gateway.transactions) == 0


async def test_no_writer_in_time_for_a_session() -> None:
    async with staged(transaction_wait_ms=20) as stage:
        writer, _ = await stage.writer(), await stage.reader()
        await stage.guest(writer)
        writer.leave()
        await stage.until(lambda: stage.gateway.transactions.link is None)
        client = await stage.client({"identity": WHO})
        assert (await client.error())["code"] == "busy"
        assert await client.is_over()


async def test_a_drain_ends_those_who_wait_for_a_session() -> None:
    async with staged() as stage:
        writer, _ = await stage.writer(), await stage.reader()
        client = await stage.client({"identity": WHO})
        await writer.call()
        stage.tell({"do": "drain"})
        assert (await client.error())["code"] == "shutting_down"
        assert await client.is_over()


# Tokens.


async def test_a_token_says_who_calls() -> None:
    digest = "sha256:5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8"
    known = load(environment={}, tokens={"ops": "secret", "bank": digest})
    async with staged(known) as stage:
        writer, _ = await stage.writer(), await stage.reader()
        for token in (None, "", "ops", digest, "Secret"):
            client = await stage.client({"token": token, "identity": WHO})
            assert (await client.error())["code"] == "forbidden"
            assert await client.is_over()
        for token, caller in (("secret", "ops"), ("password", "bank")):
            client = await stage.client({"token": token, "identity": WHO})
            opening, arguments = await writer.call()
            assert arguments == [WHO, caller]
            writer.answer(opening, value=SESSION)
            assert (await client.frame())[0].kind == Kind.WELCOME
        client = await stage.client({"token": "secret"})
        assert (await client.frame())[1]["session"] == 0
        assert stage.gateway.counts.refused == 5


# When the writer dies.


async def test_the_next_writer_gets_what_was_unanswered_once_and_in_order() -> None:
    async with staged() as stage:
        first, _ = await stage.writer(), await stage.reader()
        one, two = await stage.guest(first, SESSION), await stage.guest(first, SESSION + 1)
        one.send(call(1), call(2), call(3))
        sent = await first.calls(3)
        two.send(keyed(1, b"k"), call(2))
        sent += await first.calls(2)
        first.answer(*sent[:2])
        assert await answers(one, 2) == [1, 2]
        first.leave()
        await stage.until(lambda: stage.gateway.transactions.link is None)
        one.send(call(4))
        await stage.until(lambda: len(stage.gateway.transactions) == 4)
        second = await stage.writer(first.sequence)
        again = await second.calls(4)
        assert again[:3] == sent[2:]
        assert (again[3].request, again[3].sequence) == (4, SESSION)
        assert await second.says_nothing()
        assert stage.gateway.counts.resent == 3
        one.send(call(5))
        again += await second.calls(1)
        second.answer(*again)
        assert await answers(one, 3) == [3, 4, 5]
        assert await answers(two, 2) == [1, 2]
        assert await one.says_nothing()
        assert await two.says_nothing()
        assert len(stage.gateway.transactions) == 0
        assert stage.gateway.counts.unknown == 0


async def test_what_is_sent_again_is_the_same_byte_for_byte() -> None:
    async with staged() as stage:
        first, _ = await stage.writer(), await stage.reader()
        client = await stage.guest(first, SESSION)
        client.send(keyed(7, b"order-7"), call(8, arguments=["\x00" * 50_000]))
        size = len(keyed(7, b"order-7") + call(8, arguments=["\x00" * 50_000]))
        await stage.until(lambda: len(stage.gateway.transactions) == 2)
        sent = await first.reader.readexactly(size)
        first.leave()
        second = await stage.writer()
        assert await second.reader.readexactly(size) == sent


async def test_without_a_session_only_keyed_transactions_are_sent_again() -> None:
    async with staged() as stage:
        first, _ = await stage.writer(), await stage.reader()
        client = await stage.guest(first)
        client.send(call(1), call(2), keyed(3, b"k"), call(4))
        sent = await first.calls(4)
        first.answer(sent[0])
        assert await answers(client, 1) == [1]
        first.leave()
        for request in (2, 4):
            error = await client.error()
            assert (error["code"], error["request"]) == ("outcome_unknown", str(request))
        second = await stage.writer(1)
        assert await second.calls(1) == [sent[2]]
        assert await second.says_nothing()
        second.answer(sent[2])
        assert await answers(client, 1) == [3]
        assert stage.gateway.counts.unknown == 2
        (connection,) = stage.gateway._connections.values()
        assert connection.transactions == 0


async def test_clients_that_have_gone() -> None:
    """What was sent for them is sent again, since they may come back and ask; no more than that."""
    async with staged() as stage:
        first, _ = await stage.writer(), await stage.reader()
        gone, waits = await stage.guest(first, SESSION), await stage.guest(first, SESSION + 1)
        gone.send(call(1))
        sent = await first.calls(1)
        first.leave()
        await stage.until(lambda: stage.gateway.transactions.link is None)
        gone.send(call(2))
        waits.send(call(1))
        await stage.until(lambda: len(stage.gateway.transactions) == 3)
        gone.leave()
        await stage.until(lambda: len(stage.gateway._connections) == 1)
        second = await stage.writer()
        again = await second.calls(2)
        assert again[0] == sent[0]
        assert (again[1].sequence, again[1].request) == (SESSION + 1, 1)
        second.answer(*again)
        assert await answers(waits, 1) == [1]
        assert len(stage.gateway.transactions) == 0


async def test_when_no_writer_comes_in_time() -> None:
    """What was sent may have run; what was not has not."""
    async with staged(transaction_wait_ms=30) as stage:
        first, _ = await stage.writer(), await stage.reader()
        client = await stage.guest(first, SESSION)
        client.send(call(1))
        await first.calls(1)
        first.leave()
        await stage.until(lambda: stage.gateway.transactions.link is None)
        client.send(call(2))
        assert (await client.error())["code"] == "outcome_unknown"
        assert (await client.error())["code"] == "timed_out"
        second = await stage.writer()
        assert await second.says_nothing()
        client.send(call(3))
        assert await second.requests(1) == [3]


async def test_a_writer_that_dies_before_it_has_met_the_gateway_was_sent_nothing() -> None:
    async with staged() as stage:
        first, _ = await stage.writer(), await stage.reader()
        client = await stage.guest(first, SESSION)
        client.send(call(1))
        sent = await first.calls(1)
        first.leave()
        for _ in range(unanswered.SENDS_MAX):
            stillborn: FakeWriter = await stage.actor("writer", FakeWriter)
            assert (await stillborn.frame())[0].kind == Internal.HOLDS
            assert await stillborn.says_nothing()
            stillborn.leave()
        second = await stage.writer()
        assert await second.calls(1) == sent
        second.answer(*sent)
        assert await answers(client, 1) == [1]


async def test_what_ends_one_writer_after_another_is_given_up() -> None:
    async with staged() as stage:
        await stage.reader()
        writer = await stage.writer()
        client = await stage.guest(writer, SESSION)
        client.send(call(1))
        for _ in range(unanswered.SENDS_MAX - 1):
            assert await writer.requests(1) == [1]
            writer.leave()
            writer = await stage.writer(writer.sequence)
        assert await writer.requests(1) == [1]
        writer.leave()
        assert (await client.error())["code"] == "outcome_unknown"
        writer = await stage.writer(writer.sequence)
        assert await writer.says_nothing()


async def test_a_writer_that_replaces_one_whose_end_was_not_seen() -> None:
    async with staged() as stage:
        first, _ = await stage.writer(), await stage.reader()
        client = await stage.guest(first, SESSION)
        client.send(call(1))
        sent = await first.calls(1)
        second = await stage.writer()
        assert await second.calls(1) == sent
        second.answer(*sent)
        assert await answers(client, 1) == [1]
        assert await first.is_over()


@pytest.mark.parametrize("alive", [True, False])
async def test_unanswered_bytes_are_bounded(monkeypatch: pytest.MonkeyPatch, alive: bool) -> None:
    """Sent and waiting ones together; past the bound it is busy, and behind answers it is not."""
    monkeypatch.setattr(transactions, "BYTES_MAX", 10_000)
    async with staged() as stage:
        writer, _ = await stage.writer(), await stage.reader()
        client = await stage.guest(writer, SESSION)
        for request in (1, 2, 3):
            client.send(call(request, arguments="x" * 4000))
            await writer.calls(1)
        if not alive:
            writer.leave()
            await stage.until(lambda: stage.gateway.transactions.link is None)
        client.send(call(4))
        assert "too many transactions" in (await client.error())["message"]
        if not alive:
            writer = await stage.writer(writer.sequence)
            assert await writer.requests(3) == [1, 2, 3]
        client.send(call(5))
        assert (await client.error())["code"] == "busy"
        (connection,) = stage.gateway._connections.values()
        writer.answer(Header(0, 2, 0, TRANSFER, 1, SESSION, connection.number))
        assert await answers(client, 1) == [1]
        client.send(call(6))
        assert await writer.requests(1) == [6]


async def test_unanswered_transactions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "COUNT_MAX", 3)
    async with staged() as stage:
        writer, _ = await stage.writer(), await stage.reader()
        client = await stage.guest(writer, SESSION)
        client.send(*[call(request) for request in range(1, 6)])
        sent = await writer.calls(3)
        assert [(await client.error())["code"] for _ in range(2)] == ["busy", "busy"]
        other = await stage.client({"identity": WHO})
        assert (await other.error())["code"] == "busy"
        assert await other.is_over()
        writer.answer(*sent)
        assert await answers(client, 3) == [1, 2, 3]


# When the log can't be written.


async def run_query(reader: Actor) -> None:
    """Answer the query that the gateway sends next."""
    header, _ = await reader.frame()
    assert header.kind == Internal.RUN
    asked, _ = await reader.frame()
    reader.send(
        encode_frame(
            Kind.RESULT, msgpack.packb(0), operation=asked.operation, request=asked.request
        )
    )


async def test_when_the_log_has_failed() -> None:
    async with staged() as stage:
        writer, reader = await stage.writer(), await stage.reader()
        client, opening = await stage.guest(writer, SESSION), await stage.client({"identity": WHO})
        await writer.calls(1)
        client.send(call(1), call(2))
        sent = await writer.calls(2)
        stage.tell({"do": "log_failed"})
        await stage.until(lambda: stage.gateway.transactions.log_failed)
        writer.answer(*[Header(0, 2, 0, SESSION_OPEN, 2, 0, sent[0].context + 1)], value=SESSION)
        writer.answer(sent[0])
        client.send(call(3))
        # What it had answered counts; what it took and did not answer has an unknown outcome.
        replies = [await client.frame() for _ in range(2)]
        assert {header.kind for header, _ in replies} == {Kind.RESULT, Kind.ERROR}
        assert [p["code"] for h, p in replies if h.kind == Kind.ERROR] == ["log_failed"]
        writer.leave()
        assert (await client.error())["code"] == "outcome_unknown"
        assert (await opening.frame())[1]["session"] == SESSION
        for request in (4, 5):
            client.send(call(request))
            assert (await client.error())["code"] == "log_failed"
        client.send(query(6), encode_frame(Kind.INFO, request=7))
        header, figures = await client.frame()
        assert (header.request, figures["log_failed"], figures["writer"]) == (7, True, None)
        await run_query(reader)
        assert await answers(client, 1) == [6]
        # Who comes now can ask, but has no session.
        late = await stage.client({"identity": WHO})
        assert (await late.frame())[1]["session"] == 0
        late.send(query(1))
        await run_query(reader)
        assert await answers(late, 1) == [1]


async def test_the_log_failed_and_nobody_knew_why_the_writer_died() -> None:
    async with staged() as stage:
        writer, _ = await stage.writer(), await stage.reader()
        client = await stage.guest(writer, SESSION)
        client.send(call(1))
        await writer.calls(1)
        opening = await stage.client({"identity": WHO})
        await writer.calls(1)
        writer.leave()
        await stage.until(lambda: stage.gateway.transactions.link is None)
        client.send(call(2))
        await stage.until(lambda: len(stage.gateway.transactions) == 3)
        stage.tell({"do": "log_failed"})
        assert (await client.error())["code"] == "outcome_unknown"
        assert (await client.error())["code"] == "log_failed"
        assert (await opening.frame())[1]["session"] == 0


# Histories.


async def test_another_writer_of_the_same_history_is_not_noticed_by_queries() -> None:
    async with staged() as stage:
        first, reader = await stage.writer(10), await stage.reader()
        client = await stage.guest(first, SESSION)
        client.send(call(1))
        first.answer(*await first.calls(1))  # 12
        assert (await client.frame())[0].sequence == 12
        client.send(query(2, at_least=12))
        await stage.until(lambda: stage.gateway.queries.waiting)
        first.leave()
        await stage.until(lambda: stage.gateway.transactions.link is None)
        second = await stage.writer(11)  # of this image; it has not said 12 yet
        assert stage.gateway.queries.waiting == 1
        assert stage.gateway.newest == 12
        header, _ = await second.frame()
        assert (header.kind, header.sequence) == (Internal.WANTED, 12)
        client.send(query(3, at_least=12))
        second.send(Image(1, 2, 12, 0, HISTORY, 1).frame())
        await run_query(reader)
        await run_query(reader)
        assert await answers(client, 2) == [2, 3]


async def test_an_image_may_show_more_than_this_gateway_was_answered() -> None:
    """The last answers went to the gateway before: who saw the image has seen no other past."""
    async with staged() as stage:
        writer, reader = await stage.writer(10), await stage.reader()
        client = await stage.guest(writer)
        writer.send(Image(1, 2, 15, 0, HISTORY, 1).frame())
        client.send(query(1))
        await run_query(reader)
        assert (await client.frame())[0].request == 1
        client.send(query(2, at_least=15))
        await run_query(reader)
        assert await answers(client, 1) == [2]


async def test_another_history_is_told_to_queries() -> None:
    async with staged() as stage:
        first, _ = await stage.writer(10), await stage.reader()
        client = await stage.guest(first, SESSION)
        client.send(query(2, at_least=11))
        await stage.until(lambda: stage.gateway.queries.waiting)
        first.leave()
        await stage.until(lambda: stage.gateway.transactions.link is None)
        await stage.writer(5, HISTORY + 1)
        error = await client.error()
        assert (error["code"], error["sequence"]) == ("history_changed", 5)
        assert error["history"] == HISTORY + 1


async def test_another_history_may_have_given_a_session_to_somebody_else() -> None:
    """So nothing that came on one is sent again, and those who have one connect again."""
    async with staged() as stage:
        first, _ = await stage.writer(10), await stage.reader()
        one, gone = await stage.guest(first, SESSION), await stage.guest(first, SESSION + 1)
        plain = await stage.guest(first)
        for client in (one, gone):
            client.send(call(1), keyed(2, b"k"))
            await first.calls(2)
        plain.send(keyed(1, b"k"))
        sent = await first.calls(1)
        gone.leave()
        await stage.until(lambda: len(stage.gateway._connections) == 2)
        first.leave()
        await stage.until(lambda: stage.gateway.transactions.link is None)
        one.send(call(3))
        opening = await stage.client({"identity": WHO})
        await stage.until(lambda: len(stage.gateway.transactions) == 7)
        second = await stage.writer(5, HISTORY + 1)
        assert await one.is_over()
        assert await second.calls(1) == sent
        asked, _ = await second.call()
        assert asked.operation == SESSION_OPEN
        assert await second.says_nothing()
        second.answer(*sent)
        second.answer(asked, value=SESSION)
        assert await answers(plain, 1) == [1]
        assert (await opening.frame())[1]["session"] == SESSION
        assert len(stage.gateway.transactions) == 0


async def test_what_ends_one_history_after_another_is_given_up() -> None:
    """Without a log each writer's death is another history, and clients send again themselves."""
    async with staged() as stage:
        await stage.reader()
        writer = await stage.writer(10)
        for death in range(1, unanswered.SENDS_MAX + 1):
            client = await stage.guest(writer, SESSION)
            client.send(call(1))
            assert await writer.requests(1) == [1]
            writer.leave()
            await stage.until(lambda: stage.gateway.transactions.link is None)
            writer = await stage.writer(10, HISTORY + death)
            if death < unanswered.SENDS_MAX:
                assert await client.is_over()
        error = await client.error()
        assert (error["code"], error["request"]) == ("outcome_unknown", "1")
        assert await client.is_over()


# Sessions in use, and what is asked about the server.


async def test_sessions_of_connected_clients_are_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "TOUCH_S", 0.02)
    async with staged() as stage:
        writer, _ = await stage.writer(), await stage.reader()
        client = await stage.guest(writer, SESSION)
        await stage.guest(writer)
        touch, arguments = await writer.call()
        assert (touch.operation, touch.sequence, arguments) == (SESSIONS_TOUCH, 0, [[SESSION]])
        writer.answer(touch)
        client.send(encode_frame(Kind.INFO, request=1))
        while (asked := (await writer.frame())[0]).kind != Internal.STATS:
            writer.answer(asked)
        writer.send(encode_frame(Internal.FIGURES, msgpack.packb({})))
        _, figures = await client.frame()
        assert (figures["sessions"], figures["connections"]) == (1, 2)
        client.leave()
        await stage.until(lambda: len(stage.gateway._connections) == 1)


def admin(request: int, asked: Any) -> bytes:
    return encode_frame(Kind.ADMIN, msgpack.packb(asked), request=request)


async def test_a_checkpoint_is_asked_for(tmp_path: Path) -> None:
    async with staged(Settings(data=tmp_path)) as stage:
        writer, _ = await stage.writer(), await stage.reader()
        one, two = await stage.guest(writer), await stage.guest(writer)
        one.send(admin(1, {"do": "checkpoint"}))
        assert await stage.asked() == {"ask": "checkpoint", "ticket": 1}
        two.send(admin(1, {"do": "checkpoint"}))
        assert await stage.asked() == {"ask": "checkpoint", "ticket": 2}
        one.send(admin(2, {"do": "checkpoint"}))
        assert await stage.asked() == {"ask": "checkpoint", "ticket": 3}
        stage.tell({"do": "checkpointed", "ticket": 3, "error": "the disk is full"})
        stage.tell({"do": "checkpointed", "ticket": 2, "sequence": 12, "bytes": 4096})
        assert (await one.error())["message"] == "the disk is full"
        header, facts = await two.frame()
        assert (header.kind, header.request) == (Kind.RESULT, 1)
        assert facts == {"sequence": 12, "bytes": 4096}
        one.leave()
        await stage.until(lambda: len(stage.gateway._connections) == 1)
        stage.tell({"do": "checkpointed", "ticket": 1, "sequence": 12})
        two.send(admin(3, {"do": "checkpoint"}))
        assert await stage.asked() == {"ask": "checkpoint", "ticket": 4}


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (msgpack.packb({"do": "checkpoint"}), "call_error"),
        (msgpack.packb({"do": "dance"}), "bad_arguments"),
        (msgpack.packb({"do": 1}), "bad_arguments"),
        (msgpack.packb(["checkpoint"]), "bad_arguments"),
        (b"", "bad_arguments"),
        (b"\xc1", "bad_arguments"),
    ],
)
async def test_what_cannot_be_asked_for(payload: bytes, code: str) -> None:
    async with staged() as stage:
        writer, _ = await stage.writer(), await stage.reader()
        client = await stage.guest(writer)
        client.send(encode_frame(Kind.ADMIN, payload, request=4))
        header, error = await client.frame()
        assert (header.kind, header.request, error["code"]) == (Kind.ERROR, 4, code)


async def test_a_supervisor_that_does_not_listen_is_busy(tmp_path: Path) -> None:
    async with staged(Settings(data=tmp_path)) as stage:
        writer, _ = await stage.writer(), await stage.reader()
        client = await stage.guest(writer)
        control = stage.gateway._control
        while control.send({"tell": "nothing"}):
            pass
        client.send(admin(1, {"do": "checkpoint"}))
        assert (await client.error())["code"] == "busy"
        stage.control.receive()
