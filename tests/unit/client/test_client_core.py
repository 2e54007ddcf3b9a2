"""The connection's state without I/O: limits, deadlines, freshness, and how each call ends."""

from __future__ import annotations

from math import inf

import msgpack
import pytest
from tests.unit.client.driving import (
    connect,
    error,
    feed,
    query,
    reply,
    sent,
    start,
    transaction,
)
from tests.unit.client.fakes import OPERATIONS, welcome

from diptych_client.core import Core, State
from diptych_client.errors import (
    BadArguments,
    Busy,
    Disconnected,
    Forbidden,
    HistoryChanged,
    OutcomeUnknown,
    ProtocolError,
    Rejected,
    ShuttingDown,
    TimedOut,
    UnknownOperation,
)
from diptych_client.protocol import PREAMBLE, Kind, encode_frame


@pytest.fixture
def core() -> Core:
    core = Core("here:1", token="t")
    connect(core)
    return core


def test_hello_and_welcome(core: Core) -> None:
    assert (core.state, core.app, core.server_version) == (
        State.READY,
        "exchange",
        "diptych 0.1.0",
    )
    assert (core.session, core.history, core.sequence) == (9, 77, 0)
    assert core.operations is not None
    assert list(core.operations) == [each["name"] for each in OPERATIONS]


def test_calls_of_one_moment_leave_as_one_piece_and_are_matched_by_request(core: Core) -> None:
    first, second = transaction(core), transaction(core)
    assert [(frame[0], frame[2], frame[4]) for frame in sent(core)] == [
        (Kind.TRANSACTION, first.request, 9),
        (Kind.TRANSACTION, second.request, 9),
    ]
    assert sent(core) == []
    reply(core, second, "b", sequence=2)
    assert (first.done, second.done, second.value) == (False, True, "b")
    reply(core, first, "a", sequence=1)
    assert (first.value, first.sequence) == ("a", 1)
    assert core.pending_count == 0


def test_only_calls_with_a_waiter_are_reported(core: Core) -> None:
    waited, other = transaction(core, waiter="somebody"), transaction(core)
    sent(core)
    reply(core, other)
    reply(core, waited)
    assert core.take_finished() == [waited]
    assert core.take_finished() == []


def test_each_lane_keeps_to_its_own_limit() -> None:
    core = Core("here:1")
    connect(core, transactions_in_flight=2, queries_in_flight=1)
    transactions = [transaction(core) for _ in range(3)]
    queries = [query(core) for _ in range(2)]
    assert [frame[2] for frame in sent(core)] == [1, 2, queries[0].request]
    assert core.waiting_count == 2
    reply(core, queries[0], [])
    assert [frame[2] for frame in sent(core)] == [queries[1].request]
    reply(core, transactions[1])
    assert [frame[2] for frame in sent(core)] == [3]
    assert core.describe() == (
        "exchange at here:1: ready; in flight: transactions 2, queries 1; waiting: 0"
    )


def test_waiting_calls_are_bounded_for_each_lane() -> None:
    core = Core("here:1", waiting_max=2)
    connect(core)
    transaction(core)
    abandoned = transaction(core)
    with pytest.raises(Busy, match="2 calls to here:1 wait"):
        transaction(core)
    query(core)
    core.abandon(abandoned)
    transaction(core)
    assert len(sent(core)) == 3


def test_an_abandoned_call_is_not_sent_or_its_answer_is_dropped(core: Core) -> None:
    gone, flying = transaction(core), query(core)
    core.abandon(gone)
    assert [frame[2] for frame in sent(core)] == [flying.request]
    core.abandon(flying)
    assert core.queries.in_flight == 1  # as the server sees it
    reply(core, flying, "not even a list", sequence=5)
    assert (flying.value, core.queries.in_flight, core.sequence) == (None, 0, 5)


def test_large_arguments_are_refused_before_they_are_sent() -> None:
    core = Core("here:1")
    connect(core, frame_bytes=100)
    with pytest.raises(BadArguments, match="103 bytes; here:1 takes 100"):
        start(core, "echo", "x" * 100)
    assert sent(core) == []


def test_unknown_operations_are_refused_here(core: Core) -> None:
    with pytest.raises(UnknownOperation, match="did you mean 'depth'"):
        core.operation("dept")


# --- replies


def test_rejection_and_errors_reach_their_call(core: Core) -> None:
    calls = [transaction(core) for _ in range(3)]
    sent(core)
    payload = msgpack.packb(["unknown_order", {"order": 4711}])
    feed(core, encode_frame(Kind.REJECTED, payload, request=1, sequence=30))
    error(core, 2, "bad_arguments", parameter="price")
    error(core, 3, "outcome_unknown")
    assert calls[0].error == Rejected("unknown_order", order=4711)
    assert core.sequence == 30
    bad = calls[1].error
    assert isinstance(bad, BadArguments)
    assert bad.parameter == "price"
    unknown = calls[2].error
    assert isinstance(unknown, OutcomeUnknown)
    assert unknown.request == "9/3"


def test_info_and_ping_go_beside_queries(core: Core) -> None:
    info = core.submit(Kind.INFO, None, b"", inf)
    ping = core.submit(Kind.PING, None, b"", inf)
    assert [frame[:2] for frame in sent(core)] == [(Kind.INFO, 0), (Kind.PING, 0)]
    feed(core, encode_frame(Kind.PONG, request=ping.request))
    reply(core, info, {"readers": 2})
    assert ping.done
    assert info.value == {"readers": 2}


@pytest.mark.parametrize(
    "data",
    [
        encode_frame(Kind.RESULT, b"\xc0", request=5),
        encode_frame(Kind.RESULT, b"\xc1", request=1),
        encode_frame(Kind.REJECTED, b"\xc0", request=1),
        encode_frame(Kind.REJECTED, msgpack.packb(["a", {1: 2}]), request=1),
        encode_frame(Kind.ERROR, b"\xc0", request=1),
        encode_frame(Kind.WELCOME, b"\x80"),
        encode_frame(Kind.QUERY, b"\x90", request=1),
        encode_frame(99, request=1),
        (1 << 31).to_bytes(4, "little") + bytes(28),
        b"\0\0\0\0\x11\x80" + bytes(26),
    ],
)
def test_bytes_without_meaning_end_everything_in_flight(core: Core, data: bytes) -> None:
    wrote, read = transaction(core), query(core)
    sent(core)
    later = query(core)
    with pytest.raises(ProtocolError) as problem:
        feed(core, data)
    core.lost(problem.value)
    assert isinstance(wrote.error, OutcomeUnknown)
    assert wrote.error.__cause__ is problem.value
    assert isinstance(read.error, ProtocolError)
    assert not later.done
    assert core.describe().startswith("exchange at here:1: disconnected; in flight: transactions 0")


def test_an_error_about_the_connection_is_raised(core: Core) -> None:
    with pytest.raises(ShuttingDown, match="why"):
        error(core, 0, "shutting_down")


# --- the handshake


@pytest.mark.parametrize(
    "data",
    [
        encode_frame(Kind.RESULT, b"\xc0"),
        encode_frame(Kind.WELCOME, b"\xc0"),
        encode_frame(Kind.WELCOME, b""),
        encode_frame(Kind.WELCOME, msgpack.packb(welcome(operations=None))),
        encode_frame(Kind.WELCOME, msgpack.packb(welcome(operations=7))),
        encode_frame(Kind.WELCOME, msgpack.packb(welcome(limits={}))),
        encode_frame(Kind.WELCOME, msgpack.packb(welcome(limits=None))),
        encode_frame(Kind.WELCOME, msgpack.packb(welcome(transactions_in_flight=0))),
        encode_frame(Kind.WELCOME, msgpack.packb(welcome(session="x"))),
    ],
)
def test_a_greeting_without_meaning(data: bytes) -> None:
    core = Core("here:1")
    core.open()
    with pytest.raises(ProtocolError):
        feed(core, PREAMBLE + data)


def test_a_refusal_instead_of_welcome() -> None:
    core = Core("here:1")
    core.open()
    feed(core, PREAMBLE)
    with pytest.raises(Forbidden, match="why"):
        error(core, 0, "forbidden")


def test_operations_are_kept_while_the_fingerprint_is_the_same() -> None:
    core = Core("here:1", token="t", client="me")
    assert connect(core) == {
        "client": "me",
        "token": "t",
        "fingerprint": None,
        "identity": core.identity,
    }
    before = core.operations
    waiting = transaction(core)
    core.lost()
    assert connect(core, operations=None, session=10)["fingerprint"] == b"one"
    assert core.operations is before
    assert [frame[4] for frame in sent(core)] == [10]
    assert not waiting.done


def test_another_fingerprint_ends_calls_that_were_encoded_for_the_old_one(core: Core) -> None:
    core.lost()
    waiting = transaction(core)
    ping = core.submit(Kind.PING, None, b"", inf)
    assert connect(core, fingerprint=b"two", operations=OPERATIONS[:2])["fingerprint"] == b"one"
    assert isinstance(waiting.error, Disconnected)
    assert "application changed" in str(waiting.error)
    assert not ping.done
    with pytest.raises(UnknownOperation):
        core.operation("echo")


# --- freshness


def asked(core: Core) -> list[tuple[int, int]]:
    """The at-least sequence and the history of what is sent now."""
    return [(frame[3], frame[4]) for frame in sent(core)]


def test_queries_ask_for_what_was_seen_before(core: Core) -> None:
    first = query(core)
    assert asked(core) == [(0, 0)]
    write = transaction(core)
    sent(core)
    reply(core, write, sequence=40)
    second, third = query(core), query(core, fresh=False)
    assert asked(core) == [(40, 77), (0, 0)]
    reply(core, second, [], sequence=55, age=1500)
    reply(core, third, [], sequence=41)
    reply(core, first, [], sequence=3)
    assert (second.sequence, second.age_us) == (55, 1500)
    query(core)
    assert asked(core) == [(55, 77)]


def test_history_changed_is_raised_once_and_taken_over(core: Core) -> None:
    write = transaction(core)
    sent(core)
    reply(core, write, sequence=40)
    one, two = query(core), query(core)
    sent(core)
    error(core, one.request, "history_changed", history=78, sequence=12)
    assert isinstance(one.error, HistoryChanged)
    later = query(core)
    assert asked(core) == [(12, 78)]
    reply(core, later, [], sequence=15)
    error(core, two.request, "history_changed", history=78, sequence=12)
    query(core)
    assert asked(core) == [(15, 78)]  # not back to 12


def test_history_changed_without_the_new_one_asks_for_nothing(core: Core) -> None:
    write = transaction(core)
    sent(core)
    reply(core, write, sequence=40)
    old = query(core)
    sent(core)
    error(core, old.request, "history_changed")
    write = transaction(core)
    sent(core)
    reply(core, write, sequence=13)
    query(core)
    assert asked(core) == [(0, 0)]


def test_a_welcome_of_another_history_does_not_hide_the_change(core: Core) -> None:
    write = transaction(core)
    sent(core)
    reply(core, write, sequence=40)
    core.lost()
    connect(core, history=78, sequence=12)
    write = transaction(core)
    sent(core)
    reply(core, write, sequence=13)
    one = query(core)
    assert asked(core) == [(40, 77)]
    error(core, one.request, "history_changed", history=78, sequence=13)
    assert isinstance(one.error, HistoryChanged)
    query(core)
    assert asked(core) == [(13, 78)]


def test_a_client_that_saw_nothing_takes_over_another_history(core: Core) -> None:
    core.lost()
    connect(core, history=78, sequence=12)
    write = transaction(core)
    sent(core)
    reply(core, write, sequence=13)
    query(core)
    assert asked(core) == [(13, 78)]


# --- lost connections


def test_what_becomes_of_calls_when_the_connection_is_lost(core: Core) -> None:
    wrote, read, ping = transaction(core), query(core), core.submit(Kind.PING, None, b"", inf)
    sent(core)
    unsent = transaction(core)
    core.lost(ConnectionResetError("reset"))
    unknown = wrote.error
    assert isinstance(unknown, OutcomeUnknown)
    assert unknown.request == "9/1"
    assert "echo was sent to here:1: the connection was lost" in str(unknown)
    assert core.data_to_send() == b""

    connect(core)
    frames = sent(core)
    assert [frame[2] for frame in frames] == [unsent.request, read.request, ping.request]
    core.lost()
    for call in (read, ping):
        assert isinstance(call.error, Disconnected)
        assert "lost again" in str(call.error)
    assert isinstance(unsent.error, OutcomeUnknown)
    assert core.pending_count == 0


def test_repeated_queries_go_first_and_in_order(core: Core) -> None:
    flying = [query(core) for _ in range(4)]
    sent(core)
    core.lost()
    query(core)
    connect(core)
    assert [frame[2] for frame in sent(core)] == [call.request for call in flying]


def test_closing_sends_nothing_more_and_answers_still_come(core: Core) -> None:
    wrote = transaction(core)
    sent(core)
    feed(core, encode_frame(Kind.CLOSING))
    assert core.state is State.DRAINING
    unsent = transaction(core)
    assert sent(core) == []
    reply(core, wrote, "done")
    assert wrote.value == "done"
    assert core.pending_count == 0
    core.lost()
    assert core.trouble == "the server is shutting down"
    connect(core)
    assert [frame[2] for frame in sent(core)] == [unsent.request]


def test_closed_by_the_user(core: Core) -> None:
    wrote, read = transaction(core), query(core)
    sent(core)
    waiting = transaction(core)
    core.close()
    assert isinstance(wrote.error, OutcomeUnknown)
    for call in (read, waiting):
        assert isinstance(call.error, Disconnected)
        assert str(call.error) == "this client was closed"
    with pytest.raises(Disconnected, match="closed"):
        transaction(core)
    core.lost()
    assert core.state is State.CLOSED


def test_failing_what_waits_gives_each_call_its_own_error(core: Core) -> None:
    core.lost()
    calls = [transaction(core), query(core)]
    core.fail_waiting(Forbidden("no such token"))
    assert [str(call.error) for call in calls] == ["no such token", "no such token"]
    assert calls[0].error is not calls[1].error


# --- deadlines


def test_deadlines(core: Core) -> None:
    assert core.next_check == inf
    wrote, read = transaction(core, deadline=10.0), query(core, deadline=11.0)
    patient = query(core)
    sent(core)
    assert core.next_check == 10.0
    core.expire(9.0)
    assert (wrote.done, core.next_check) == (False, 10.0)
    core.expire(10.0)
    assert isinstance(wrote.error, OutcomeUnknown)
    assert "no answer in time" in str(wrote.error)
    assert (read.done, core.next_check) == (False, 11.0)
    core.expire(12.0)
    assert isinstance(read.error, TimedOut)
    assert (patient.done, core.next_check) == (False, inf)


def test_late_answers_free_their_places_and_change_nothing(core: Core) -> None:
    late = transaction(core, deadline=1.0)
    sent(core)
    core.expire(2.0)
    assert core.transactions.in_flight == 1
    reply(core, late, "late", sequence=8)
    assert isinstance(late.error, OutcomeUnknown)
    assert (late.value, core.transactions.in_flight, core.sequence) == (None, 0, 8)


def test_unsent_calls_time_out_with_the_reason() -> None:
    core = Core("here:1")
    connect(core, transactions_in_flight=1)
    transaction(core)
    crowded = transaction(core, deadline=1.0)
    sent(core)
    core.expire(1.0)
    assert isinstance(crowded.error, TimedOut)
    assert str(crowded.error) == "not sent in time to here:1: too many calls in flight"
    core.lost(ConnectionRefusedError("refused"))
    waiting = transaction(core, deadline=2.0)
    core.expire(2.0)
    assert str(waiting.error) == "not sent in time to here:1: refused"
    assert core.waiting_count == 0
