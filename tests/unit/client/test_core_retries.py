"""Exactly once, the client's part: identity, numbers, sending again, asking what became of it."""

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
    with_key,
)
from tests.unit.client.fakes import OPERATIONS

from diptych_client.calls import Call
from diptych_client.core import Core, State
from diptych_client.errors import (
    BadArguments,
    DiptychError,
    Disconnected,
    Forbidden,
    NotExecuted,
    OutcomeUnknown,
    ProtocolError,
    Rejected,
    TimedOut,
)
from diptych_client.protocol import REQUEST_WINDOW, SESSION_MIN, Kind, encode_frame
from diptych_client.requests import OUTCOME, OUTCOME_OF_KEY, check_key, keyed, question

SESSION = 5 << 20 | 3
OTHER = 9 << 20 | 3


@pytest.fixture
def core() -> Core:
    core = Core("here:1")
    connect(core, session=SESSION)
    return core


def requests(core: Core) -> list[int]:
    return [frame[2] for frame in sent(core)]


def unknown(call: Call) -> OutcomeUnknown:
    assert isinstance(call.error, OutcomeUnknown)
    return call.error


def ask(core: Core, request: str, deadline: float = inf) -> Call:
    number, arguments = question(request)
    payload = msgpack.packb(arguments)
    return core.submit(Kind.TRANSACTION, None, payload, deadline, number=number, named=request)


# --- identity and numbers


def test_a_core_is_the_same_client_on_each_connection() -> None:
    core = Core("here:1")
    identity = connect(core)["identity"]
    core.lost()
    assert connect(core)["identity"] == identity == core.identity
    assert len(identity) == 16
    assert Core("here:1").identity != identity


def test_transactions_are_numbered_apart(core: Core) -> None:
    transaction(core), query(core), with_key(core, "k"), query(core)
    core.submit(Kind.PING, None, b"", inf)
    transaction(core)
    assert requests(core) == [1, 2, 3, 2**63, 2**63 + 1, 2**63 + 2]


def test_numbers_of_transactions_have_no_gaps(core: Core) -> None:
    """The server remembers a window of them: what is never sent must not move it."""
    late, gone = transaction(core, deadline=1.0), transaction(core)
    core.expire(2.0)
    core.abandon(gone)
    assert isinstance(late.error, TimedOut)
    transaction(core)
    assert requests(core) == [1]


def test_no_more_are_in_flight_than_are_remembered() -> None:
    core = Core("here:1")
    connect(core, session=SESSION, transactions_in_flight=5000)
    for _ in range(REQUEST_WINDOW + 1):
        transaction(core)
    assert len(sent(core)) == REQUEST_WINDOW


# --- sent again


def test_unanswered_transactions_go_again_first_and_byte_for_byte(core: Core) -> None:
    calls = [start(core, "echo", each) for each in range(3)]
    named = with_key(core, "web-8f3a", "x")
    before = sent(core)
    reply(core, calls[1], 1, sequence=8)
    unsent = start(core, "echo", 3)
    core.lost(ConnectionResetError("reset"))
    assert core.take_finished() == []
    connect(core, session=SESSION)
    after = sent(core)
    assert after[:3] == [before[0], before[2], before[3]]
    assert [frame[2] for frame in after] == [1, 3, 4, 5]
    assert {frame[4] for frame in after} == {SESSION}
    for call in (calls[0], calls[2], named, unsent):
        reply(core, call, "done", sequence=9)
        assert (call.value, call.sequence, call.error) == ("done", 9, None)


def test_the_old_order_holds_however_often_connections_are_lost(core: Core) -> None:
    for _ in range(6):
        transaction(core)
    assert requests(core) == [1, 2, 3, 4, 5, 6]
    for _ in range(3):
        core.lost()
        connect(core, session=SESSION, transactions_in_flight=2)
        transaction(core)
        assert requests(core) == [1, 2]
    core.lost()
    connect(core, session=SESSION)
    assert requests(core) == [1, 2, 3, 4, 5, 6, 7, 8, 9]


def test_a_deadline_ends_it_between_connections_too(core: Core) -> None:
    wrote = transaction(core, deadline=10.0)
    patient = transaction(core)
    sent(core)
    core.lost(ConnectionRefusedError("refused"))
    unsent = transaction(core, deadline=10.0)
    core.expire(9.0)
    assert (wrote.done, core.next_check) == (False, 10.0)
    core.expire(10.0)
    assert unknown(wrote).request == f"{SESSION}/1"
    assert "no answer in time: refused" in str(wrote.error)
    assert isinstance(unsent.error, TimedOut)
    connect(core, session=SESSION)
    assert requests(core) == [patient.request] == [2]


def test_what_nobody_waits_for_is_not_sent_again(core: Core) -> None:
    late, gone, also = transaction(core, deadline=1.0), transaction(core), transaction(core)
    last = transaction(core)
    sent(core)
    core.expire(2.0)
    core.abandon(gone)
    core.lost()
    core.abandon(also)
    connect(core, session=SESSION)
    assert requests(core) == [last.request] == [4]
    assert unknown(late).request == f"{SESSION}/1"


@pytest.mark.parametrize("session", [OTHER, 0, 7])
def test_another_session_ends_what_was_sent_on_the_old_one(core: Core, session: int) -> None:
    wrote, named, asked = transaction(core), with_key(core, "k"), ask(core, "7340035/2")
    before = sent(core)
    unsent = transaction(core)
    core.lost()
    connect(core, session=session)
    assert unknown(wrote).request == f"{SESSION}/1"
    assert "lost its session" in str(wrote.error)
    assert (named.done, asked.done, core.session) == (False, False, session)
    after = sent(core)
    assert [frame[2] for frame in after] == [2, 3, 4]
    assert [frame[-1] for frame in after[:2]] == [frame[-1] for frame in before[1:]]
    assert {frame[4] for frame in after} == {session}
    reply(core, unsent, 1)
    assert unsent.error is None


def test_without_a_session_a_lost_connection_leaves_the_outcome_open() -> None:
    """Servers that remember nothing give 0, or the connection's number."""
    for session in (0, 9, SESSION_MIN - 1):
        core = Core("here:1")
        connect(core, session=session)
        wrote, named = transaction(core), with_key(core, "k")
        sent(core)
        core.lost(ConnectionResetError("reset"))
        assert unknown(wrote).request == f"{session}/1"
        assert isinstance(unknown(wrote).__cause__, ConnectionResetError)
        connect(core, session=session)
        assert requests(core) == [named.request] == [2]


def test_an_application_that_changed_is_not_sent_old_calls(core: Core) -> None:
    """Its operations may have other numbers now."""
    wrote, named = transaction(core), with_key(core, "k")
    sent(core)
    unsent = transaction(core)
    core.lost()
    connect(core, session=SESSION, fingerprint=b"two", operations=OPERATIONS)
    assert [unknown(call).request for call in (wrote, named)] == [f"{SESSION}/1", "k"]
    assert isinstance(unsent.error, Disconnected)
    assert sent(core) == []


def test_closing_and_refusals_leave_the_outcome_open(core: Core) -> None:
    wrote = transaction(core)
    sent(core)
    core.lost()
    core.fail_waiting(Forbidden("token withdrawn"))
    assert isinstance(unknown(wrote).__cause__, Forbidden)
    connect(core, session=SESSION)
    named, unsent = with_key(core, "k"), transaction(core)
    sent(core)
    core.lost()
    other = transaction(core)
    core.close()
    assert unknown(named).request == "k"
    assert unknown(unsent).request == f"{SESSION}/3"
    assert isinstance(other.error, Disconnected)


# --- what the server says of a second copy


@pytest.mark.parametrize("code", ["busy", "disconnected", "log_failed", "forbidden", "unavailable"])
def test_a_refused_second_copy_says_nothing_of_the_first(core: Core, code: str) -> None:
    first = transaction(core)
    sent(core)
    error(core, first.request, code)
    assert first.error is not None
    assert first.error.code == code
    again = transaction(core)
    sent(core)
    core.lost()
    connect(core, session=SESSION)
    sent(core)
    error(core, again.request, code)
    assert unknown(again).request == f"{SESSION}/2"
    cause = again.error.__cause__ if again.error else None
    assert isinstance(cause, DiptychError)
    assert cause.code == code


@pytest.mark.parametrize(
    "code",
    ["not_executed", "outcome_forgotten", "session_expired", "identity_conflict", "bad_arguments"],
)
def test_what_tells_of_the_first_copy_is_passed_on(core: Core, code: str) -> None:
    again = transaction(core)
    sent(core)
    core.lost()
    connect(core, session=SESSION)
    sent(core)
    error(core, again.request, code)
    assert again.error is not None
    assert again.error.code == code


def test_an_answer_with_a_number_is_the_transactions_own(core: Core) -> None:
    again = transaction(core)
    sent(core)
    core.lost()
    connect(core, session=SESSION)
    sent(core)
    payload = msgpack.packb({"code": "timed_out", "message": "by the handler"})
    feed(core, encode_frame(Kind.ERROR, payload, request=again.request, sequence=40))
    assert isinstance(again.error, TimedOut)


def test_a_server_that_is_ending_leaves_second_copies_to_the_next(core: Core) -> None:
    calls = [transaction(core) for _ in range(3)]
    sent(core)
    core.lost()
    connect(core, session=SESSION)
    sent(core)
    error(core, calls[0].request, "shutting_down")
    error(core, calls[1].request, "shutting_down")
    assert core.state is State.DRAINING
    late = transaction(core)
    assert sent(core) == []
    core.lost()
    connect(core, session=SESSION)
    assert requests(core) == [1, 2, 3, late.request]
    assert not any(call.done for call in calls)


def test_an_answer_without_meaning_ends_its_own_call_alone(core: Core) -> None:
    first, second = start(core, "place_order", 1, "A", 1), transaction(core)
    sent(core)
    with pytest.raises(ProtocolError) as problem:
        reply(core, first, "no record")
    core.lost(problem.value)
    assert isinstance(unknown(first).__cause__, ProtocolError)
    assert not second.done
    connect(core, session=SESSION)
    assert requests(core) == [second.request]


def test_bytes_without_meaning_are_not_asked_for_for_ever(core: Core) -> None:
    wrote, named = transaction(core), with_key(core, "k")
    for _ in range(2):
        sent(core)
        core.lost(ProtocolError("a frame of kind 99"))
        connect(core, session=SESSION)
    for call in (wrote, named):
        assert isinstance(unknown(call).__cause__, ProtocolError)
    assert sent(core) == []


# --- keys and questions


def test_a_keyed_frame(core: Core) -> None:
    with_key(core, "Grüße", 5)
    ((kind, operation, request, sequence, context, payload),) = sent(core)
    assert (kind, operation, request, sequence, context) == (Kind.KEYED, 3, 1, 0, SESSION)
    assert payload == b"\x07Gr\xc3\xbc\xc3\x9fe" + msgpack.packb([5])


@pytest.mark.parametrize("key", ["", "x" * 65, "ü" * 33, "6291459/17", "0/0", "\ud800", 5, None])
def test_what_is_no_key(key: str) -> None:
    with pytest.raises(BadArguments) as bad:
        check_key(key)
    assert bad.value.parameter == "request"


@pytest.mark.parametrize(
    "key", ["x", "x" * 64, "ü" * 32, "1/2/3", "a/1", "1/", " 1/2", "1/²", "١/١"]
)
def test_what_is_a_key(key: str) -> None:
    assert check_key(key) == key
    assert question(key) == (OUTCOME_OF_KEY, [key])
    assert keyed(key, b"\x90") == bytes([len(key.encode())]) + key.encode() + b"\x90"


def test_what_is_asked(core: Core) -> None:
    assert question("6291459/17") == (OUTCOME, [6291459, 17])
    for bad in ("", "1/" + "9" * 19, "x" * 65):
        with pytest.raises(BadArguments):
            question(bad)
    ask(core, "6291459/17")
    ((kind, operation, _, _, context, payload),) = sent(core)
    assert (kind, operation, context) == (Kind.TRANSACTION, OUTCOME, SESSION)
    assert msgpack.unpackb(payload) == [6291459, 17]


def answer(core: Core, call: Call, operation: int, value: object, sequence: int = 0) -> None:
    payload = msgpack.packb(value)
    feed(
        core,
        encode_frame(
            Kind.RESULT, payload, operation=operation, request=call.request, sequence=sequence
        ),
    )


def test_an_outcome_is_what_the_first_answer_was(core: Core) -> None:
    calls = [ask(core, "6291459/17") for _ in range(5)]
    sent(core)
    answer(core, calls[0], 0, [7, 100], sequence=31)
    placed = calls[0].value
    assert (placed.order, placed.filled, calls[0].sequence) == (7, 100, 31)
    answer(core, calls[1], 65_002, 5)  # of a system operation, which WELCOME does not describe
    assert calls[1].value == 5
    answer(core, calls[2], 0, "from an older application")
    assert calls[2].value == "from an older application"
    no = msgpack.packb(["insufficient_funds", {"needed": 5}])
    feed(core, encode_frame(Kind.REJECTED, no, request=calls[3].request, sequence=9))
    assert calls[3].error == Rejected("insufficient_funds", needed=5)
    error(core, calls[4].request, "not_executed")
    assert isinstance(calls[4].error, NotExecuted)


def test_a_question_without_an_answer_can_be_asked_again(core: Core) -> None:
    asked = ask(core, "6291459/17", deadline=5.0)
    sent(core)
    core.lost()
    core.expire(6.0)
    assert unknown(asked).request == "6291459/17"
    asked = ask(core, "k", deadline=5.0)
    core.expire(6.0)
    assert isinstance(asked.error, TimedOut)
