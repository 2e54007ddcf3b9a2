"""Exactly once: what was answered before is answered again, and nothing runs twice."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from tests.support.once import (
    NUMBERS,
    SMALL,
    Rig,
    app,
    frame,
    keyed,
    raw,
    replayed,
    told,
)
from tests.support.versions import opened, region_for

from diptych import App, Db, key
from diptych.durable import DataDirectory
from diptych.engine.causes import Abort, Cause
from diptych.engine.engine import Engine
from diptych.engine.opening import save
from diptych.engine.system import DESCRIBED, OUTCOME, SESSION_OPEN, SESSIONS_TOUCH
from diptych.errors import CorruptionError
from diptych.memory import AllocationFailed, Extent
from diptych.serving.welcome import operation_kinds
from diptych.store import calls
from diptych.store import words as at
from diptych.store.fill import request_figures
from diptych.store.verify_requests import EXPLANATIONS
from diptych_client.protocol import HEADER_BYTES, Header, Kind, encode_frame

DAY_NS = 24 * 3600 * 1_000_000_000
FORGOTTEN = ("ERROR", "outcome_forgotten")
EXPIRED = ("ERROR", "session_expired")
CONFLICT = ("ERROR", "identity_conflict")
NOT_EXECUTED = ("ERROR", "not_executed")
BAD = ("ERROR", "bad_arguments")
BUSY = ("ERROR", "busy")


@pytest.fixture(name="rig")
def _rig() -> Iterator[Rig]:
    rig = Rig(**SMALL)
    yield rig
    rig.close()


# Numbers ------------------------------------------------------------------------------------------


def test_a_retry_gets_the_first_answer(rig: Rig) -> None:
    session = rig.open()
    first = frame("put", "a", session=session)
    ((header, value),) = rig.run(first)
    again, later = rig.run(first, frame("put", "b", session=session, request=2))
    assert again == (header, value)
    assert (header.sequence, later[0].sequence) == (2, 4)
    assert rig.rows() == ["a", "b"]
    assert rig.engine.sequence == 4, "a retry takes a number, too"
    assert rig.engine.repeated == 1


def test_a_retry_in_the_same_read_does_not_run(rig: Rig) -> None:
    session = rig.open()
    replies = rig.run(*[frame("put", "a", session=session)] * 3)
    assert [(header.sequence, value) for header, value in replies] == [(2, 1)] * 3
    assert rig.rows() == ["a"]


@pytest.mark.parametrize(
    ("one", "answer"),
    [
        (("refuse", "no"), ("REJECTED", "refused")),
        (("fail",), ("ERROR", "server_error")),
        (("leave",), ("ERROR", "server_error")),
        (("put", 5), BAD),
        (("repeat", "x", 985), ("ERROR", "result_too_large")),
        (("refuse", "x" * 985), ("ERROR", "result_too_large")),
    ],
)
def test_what_failed_is_remembered_too(rig: Rig, one: Any, answer: Any) -> None:
    session = rig.open()
    before = rig.memory(data_alone=True)
    ((header, value),) = rig.run(frame(*one, session=session))
    assert told(header, value) == answer
    assert rig.run(frame(*one, session=session)) == [(header, value)]
    assert rig.memory(data_alone=True) == before
    assert (rig.engine.repeated, rig.engine.sequence) == (1, 3)


def test_garbage_takes_its_number(rig: Rig) -> None:
    session = rig.open()
    garbage = raw(b"\xc1", name="put", session=session)
    unknown = encode_frame(
        Kind.TRANSACTION, b"\x90", operation=999, request=2, sequence=session, context=7
    )
    first = rig.run(garbage, unknown)
    assert [told(*each) for each in first] == [BAD, ("ERROR", "unknown_operation")]
    assert rig.run(garbage, unknown) == first
    assert rig.call(frame("put", "a", session=session, request=1)) == CONFLICT


def test_the_same_number_for_another_call_is_a_conflict(rig: Rig) -> None:
    session = rig.open()
    assert rig.call(frame("put", "a", session=session)) == 1
    assert rig.call(frame("put", "b", session=session)) == CONFLICT
    assert rig.call(frame("refuse", "a", session=session)) == CONFLICT
    assert rig.call(frame("put", "a", session=session)) == 1
    assert rig.rows() == ["a"]


@pytest.mark.parametrize("request_number", [0, (1 << 62) + 1, 1 << 63, (1 << 64) - 1])
def test_numbers_that_no_transaction_has(rig: Rig, request_number: int) -> None:
    session = rig.open()
    assert rig.call(frame("put", "a", session=session, request=request_number)) == BAD
    assert rig.rows() == []


@pytest.mark.parametrize("session", [1, (99 << 20), (1 << 20) + 1, (1 << 63) + 5, (1 << 64) - 1])
def test_an_unknown_session_never_runs(rig: Rig, session: int) -> None:
    rig.open()
    assert rig.call(frame("put", "a", session=session)) == EXPIRED
    assert rig.call(keyed("put", "k", "a", session=session)) == EXPIRED
    assert rig.rows() == []


def test_without_a_session_nothing_is_remembered(rig: Rig) -> None:
    assert [rig.call(frame("put", "a")) for _ in range(2)] == [1, 2]
    assert request_figures(rig.region.words)["answers_bytes"] == 0
    assert rig.call(frame("repeat", "x", 985)) == "x" * 985


def test_the_window_takes_numbers_in_any_order_once(rig: Rig) -> None:
    session = rig.open()

    def put(number: int) -> Any:
        return rig.call(frame("put", "", session=session, request=number))

    assert put(5_000) == 1
    assert put(5_000 - at.WINDOW + 1) == 2
    assert put(5_000 - at.WINDOW) == FORGOTTEN
    assert put(4_999) == 3
    assert [put(number) for number in (4_999, 5_000, 5_000 - at.WINDOW + 1)] == [3, 1, 2]
    # Their bits are those of numbers before the window moved on.
    assert put(5_000 + 3) == 4
    assert put(5_000 + 1) == 5
    assert put(5_000 - at.WINDOW + 1) == FORGOTTEN
    assert put(5_000 + at.WINDOW) == 6
    assert put(5_002) == 7
    assert put(5_000) == FORGOTTEN
    assert len(rig.rows()) == 7


def test_an_answer_that_was_written_over_is_forgotten_and_never_run(rig: Rig) -> None:
    session = rig.open()
    frames = [frame("put", f"{i}", session=session, request=i) for i in range(1, 120)]
    rig.run(*frames)
    again = [told(*each) for each in rig.run(*frames)]
    kept = SMALL["ANSWERS_BYTES"] // 48
    assert again[-kept:] == list(range(119 - kept + 1, 120))
    assert again[:-kept] == [FORGOTTEN] * (119 - kept)
    assert len(rig.rows()) == 119


def test_the_caller_is_the_sessions(rig: Rig) -> None:
    ann, bob = rig.open(1, "ann"), rig.open(2, "b" * 32)
    asked = [frame("who", session=each, request=9) for each in (ann, bob, 0, ann)]
    assert [value for _, value in rig.run(*asked)] == ["ann", "b" * 32, "", "ann"]
    assert rig.call(keyed("who", "k", session=bob)) == "b" * 32
    with rig.engine.transaction() as db:
        assert db.caller == ""


# Sessions -----------------------------------------------------------------------------------------


def test_the_same_identity_is_the_same_session(rig: Rig) -> None:
    session = rig.open(1, "ann")
    assert session == 1 << 20
    assert rig.open(1, "ann") == session
    assert rig.open(1, "bob") == 3 << 20 | 1
    assert rig.open(2, "ann") == 4 << 20 | 2


def test_who_opens_a_session_is_checked(rig: Rig) -> None:
    assert rig.call(frame("session_open", b"short", "")) == BAD
    assert rig.call(frame("session_open", bytes(16), "b" * 33)) == BAD
    assert request_figures(rig.region.words)["sessions"] == 0


def test_a_session_in_use_is_never_given_up(rig: Rig) -> None:
    sessions = [rig.open(number) for number in range(4)]
    assert rig.open(9) == BUSY
    assert rig.open(9, time_ns=DAY_NS) == BUSY
    # All but one were used since: by a call, by opening it again, by its gateway.
    assert rig.call(frame("put", "a", session=sessions[0]), DAY_NS) == 1
    assert rig.open(1, time_ns=DAY_NS) == sessions[1]
    assert rig.call(frame("sessions_touch", [sessions[2], 77, -1]), DAY_NS) is None
    opened = rig.open(9, time_ns=DAY_NS + 1)
    assert opened == rig.engine.sequence << 20 | 3
    assert rig.open(10, time_ns=DAY_NS + 1) == BUSY
    assert rig.call(frame("put", "b", session=sessions[3])) == EXPIRED
    assert rig.call(frame("put", "b", session=opened)) == 2
    assert rig.call(frame("put", "a", session=sessions[0])) == 1


def test_a_session_that_takes_anothers_slot_knows_nothing_of_its_requests(rig: Rig) -> None:
    old = rig.open(0)
    rig.run(*[frame("put", "old", session=old, request=i) for i in range(1, 9)])
    for number in (1, 2, 3):
        rig.open(number)
    new = rig.open(9, "ann", time_ns=DAY_NS + 1)
    assert new & 0xFFFFF == old & 0xFFFFF
    assert rig.call(frame("put", "new", session=new, request=3)) == 9
    assert rig.call(frame("outcome", old, 3, session=new)) == EXPIRED
    assert rig.call(frame("who", session=new, request=8)) == "ann"


def test_gateways_calls_are_not_for_clients() -> None:
    kinds = operation_kinds(app)
    assert kinds[OUTCOME] == Kind.TRANSACTION
    assert (kinds[SESSION_OPEN], kinds[SESSIONS_TOUCH]) == (0, 0)
    assert {SESSION_OPEN, SESSIONS_TOUCH}.isdisjoint(each.number for each in DESCRIBED)


# Keys ---------------------------------------------------------------------------------------------


def test_a_key_runs_once_whoever_connects(rig: Rig) -> None:
    first, second = rig.open(1), rig.open(2)
    one = rig.run(keyed("put", "order-1", "a", session=first, request=1))
    two = rig.run(keyed("put", "order-1", "a", session=second, request=40))
    assert (one[0][1], one[0][0].sequence) == (two[0][1], two[0][0].sequence) == (1, 3)
    assert rig.call(keyed("put", "order-1", "b", session=first)) == CONFLICT
    assert rig.call(keyed("put", "order-1", "a")) == 1, "also without a session, as the same caller"
    assert rig.rows() == ["a"]


def test_keys_are_each_callers_own(rig: Rig) -> None:
    ann, bob = rig.open(1, "ann"), rig.open(2, "bob")
    assert rig.call(keyed("put", "k", "a", session=ann)) == 1
    assert rig.call(keyed("put", "k", "a", session=bob)) == 2
    assert rig.call(frame("outcome_of_key", "k", session=ann)) == 1
    assert rig.call(frame("outcome_of_key", "k", session=bob)) == 2
    assert rig.call(frame("outcome_of_key", "k")) == NOT_EXECUTED


def test_keys_of_all_lengths_are_told_apart(rig: Rig) -> None:
    names = ["k", "k\0", "k" * 64, "é" * 32]
    assert [rig.call(keyed("put", name, "a")) for name in names] == [1, 2, 3, 4]
    assert [rig.call(frame("outcome_of_key", name)) for name in names] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "payload", [b"", b"\0\x91\xa1a", b"\x41" + b"k" * 66, b"\x01k", b"\x02k", b"\x01\xff\x90"]
)
def test_a_key_has_1_to_64_bytes_of_text(rig: Rig, payload: bytes) -> None:
    assert rig.call(raw(payload, name="put", kind=Kind.KEYED)) == BAD
    assert rig.rows() == []
    for name in ("", "k" * 65):
        assert rig.call(frame("outcome_of_key", name)) == BAD


def test_a_short_answer_is_kept_as_long_as_its_key(rig: Rig) -> None:
    short, long = keyed("repeat", "s", "x", 80), keyed("repeat", "l", "x", 90)
    assert rig.call(short) == "x" * 80
    assert rig.call(long) == "x" * 90
    assert rig.call(long) == "x" * 90
    session = rig.open()
    rig.run(*[frame("put", "", session=session, request=i) for i in range(1, 120)])
    assert rig.call(short) == "x" * 80
    assert rig.call(long) == FORGOTTEN
    assert rig.call(frame("outcome_of_key", "l")) == FORGOTTEN


def test_keys_expire_by_the_transactions_clock(rig: Rig) -> None:
    one = keyed("put", "k", "a")
    assert rig.call(one, 5) == 1
    assert rig.call(one, DAY_NS + 5) == 1
    assert rig.call(one, DAY_NS + 6) == 2
    assert rig.call(one, 0) == 2, "time does not go back"


def test_no_key_is_forgotten_for_another_before_its_time(rig: Rig) -> None:
    ones = [keyed("put", f"k{number}", "a") for number in range(20)]
    assert [rig.call(one) for one in ones[:9]] == [*range(1, 9), BUSY]
    assert rig.call(frame("outcome_of_key", "k9")) == BUSY
    assert [rig.call(one) for one in ones[:8]] == list(range(1, 9))
    later = [rig.call(one, DAY_NS + 1) for one in ones[8:17]]
    assert later == [*range(9, 17), BUSY]
    assert [rig.call(one) for one in ones[8:16]] == list(range(9, 17))


# Questions ----------------------------------------------------------------------------------------


def test_the_outcome_is_the_first_answer_as_it_was(rig: Rig) -> None:
    session = rig.open()
    rig.run(frame("put", "a", session=session), frame("refuse", "x", session=session, request=2))
    for request, name, sequence in [(1, "put", 2), (2, "refuse", 3)]:
        asked = frame("outcome", session, request, session=session, request=10 + request)
        ((header, value),) = rig.run(asked)
        assert (header.operation, header.sequence) == (NUMBERS[name], sequence)
        assert header.request == 10 + request
    assert (header.kind, value) == (Kind.REJECTED, ["refused", {"why": "x"}])
    assert rig.call(keyed("put", "k", "b")) == 2
    ((header, value),) = rig.run(frame("outcome_of_key", "k"))
    assert (header.operation, header.sequence, value) == (NUMBERS["put"], 6, 2)


def test_asking_about_what_has_not_run_keeps_it_from_running(rig: Rig) -> None:
    session = rig.open()
    asked = frame("outcome", session, 5, session=session, request=9)
    first = rig.run(asked)
    assert told(*first[0]) == NOT_EXECUTED
    late = frame("put", "late", session=session, request=5)
    assert rig.call(late) == NOT_EXECUTED
    assert rig.run(asked) == first
    assert rig.call(frame("outcome_of_key", "k")) == NOT_EXECUTED
    assert rig.call(keyed("put", "k", "late")) == NOT_EXECUTED
    assert rig.call(frame("outcome_of_key", "k")) == NOT_EXECUTED
    assert rig.rows() == []
    # The numbers around it are as new as they were.
    assert rig.call(frame("put", "a", session=session, request=4)) == 1
    assert rig.call(frame("put", "a", session=session, request=9)) == 2


def test_questions_that_have_no_answer(rig: Rig) -> None:
    ann, bob = rig.open(1, "ann"), rig.open(2, "bob")
    rig.run(frame("put", "a", session=ann, request=3_000))

    def ask(of: int, request: int, session: int = ann) -> Any:
        return rig.call(frame("outcome", of, request, session=session))

    assert ask(ann, 3_000 - at.WINDOW) == FORGOTTEN
    assert ask(99 << 20, 1) == EXPIRED
    assert ask(ann, 0) == BAD
    assert ask(-1, 1) == EXPIRED
    assert rig.call(frame("outcome", ann, 1 << 63, session=ann)) == BAD
    assert rig.call(raw(b"\x91\xc3", name="outcome", session=ann)) == BAD
    # Another caller's requests are neither told nor burnt.
    assert ask(ann, 3_000, session=bob) == ("ERROR", "forbidden")
    assert ask(ann, 3_001, session=bob) == ("ERROR", "forbidden")
    assert rig.call(frame("put", "b", session=ann, request=3_001)) == 2


# What the machine refuses -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "cause", "code"),
    [
        ("memory", Cause.OUT_OF_MEMORY, "unavailable"),
        ("recursion", Cause.RECURSION, "server_error"),
        ("hidden", Cause.OUT_OF_MEMORY, "unavailable"),
    ],
)
def test_what_depends_on_the_machine_is_noted_and_replayed_from_there(
    rig: Rig, kind: str, cause: Cause, code: str
) -> None:
    session = rig.open()
    rig.call(keyed("who", "a key, so that keys have memory"))
    start, done = rig.copy(), len(rig.log)
    one = frame("exhaust", kind, 1_500, session=session)
    rig.run(frame("put", "a", session=session, request=2), one, keyed("exhaust", "k", kind, 600))
    assert rig.engine.take_aborts() == [Abort(4, cause), Abort(5, cause)]
    assert rig.engine.aborts == []
    assert rig.call(one) == ("ERROR", code)
    assert rig.call(keyed("exhaust", "k", kind, 600)) == ("ERROR", code)
    assert rig.engine.aborts == [], "that was a retry"
    start.engine.skip = {4: cause, 5: cause}
    replayed(start, rig.log[done:])
    assert start.engine.aborts == []
    assert start.memory() == rig.memory()
    # What was given then and taken back is given again.
    last = frame("exhaust", "", 1_500, session=session, request=7)
    assert rig.call(last) == start.call(last) == 1_500
    outcome = rig.engine.outcome
    assert start.memory() == rig.memory()
    assert start.engine.outcome == outcome
    start.close()


def test_a_heap_that_was_compacted_for_what_is_undone_is_compacted_in_a_replay() -> None:
    live, again = Rig(), Rig()
    frames = [frame("put", "x" * 30_000)] * 40
    frames += [frame("drop", number) for number in range(1, 35, 2)]
    one = frame("put_and_end", "x" * 100_000)
    for rig in (live, again):
        rig.run(*frames)
    assert live.call(one) == ("ERROR", "unavailable")
    assert live.engine.aborts == [Abort(58, Cause.OUT_OF_MEMORY_COMPACTED)]
    again.engine.skip = dict(live.engine.aborts)
    assert again.call(one) == ("ERROR", "unavailable")
    assert again.memory() == live.memory()
    assert again.engine.outcome == live.engine.outcome
    for rig in (live, again):
        rig.close()


def test_without_memory_for_answers_a_request_is_refused_for_good(rig: Rig) -> None:
    session = rig.open()
    start, done = rig.copy(), len(rig.log)
    grow = rig.engine.growth.grow

    def refuse(extent: Extent) -> None:
        raise AllocationFailed("no memory")

    rig.engine.growth.grow = refuse
    refused = [
        frame("put", "a", session=session),
        keyed("put", "k", "a"),
        frame("outcome_of_key", "q"),
    ]
    assert [rig.call(one) for one in refused] == [("ERROR", "unavailable")] * 3
    assert [sequence for sequence, _ in rig.engine.aborts] == [2, 3, 4]
    rig.engine.growth.grow = grow
    assert rig.call(frame("put", "a", session=session)) == FORGOTTEN
    assert rig.call(frame("put", "b", session=session, request=2)) == 1
    assert rig.call(frame("put", "b", session=session, request=2)) == 1
    # A key takes memory to be refused for good: it may be used again.
    assert rig.call(keyed("put", "k", "a")) == 2
    start.engine.skip = dict(rig.engine.aborts)
    assert replayed(start, rig.log[done:]).memory() == rig.memory()
    start.close()


def test_an_error_nobody_foresaw_is_the_same_error_again(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    other = rig.copy()
    caplog.set_level(logging.CRITICAL, "diptych.engine")
    assert rig.run(frame("fail")) == other.run(frame("fail"))
    assert rig.engine.outcome == other.engine.outcome != 0
    assert rig.run(frame("fail"))[0][1]["error_id"] == "2"
    other.close()


def test_the_control_page_tells_what_runs(rig: Rig) -> None:
    seen: list[tuple[int, int]] = []
    control = rig.engine.control
    name, _, bind = rig.engine._operations[NUMBERS["who"]]

    def look(db: Any) -> str:
        seen.append((control[0], control[1]))
        return ""

    rig.engine._operations[NUMBERS["who"]] = (name, look, bind)
    rig.run(frame("who"), frame("who"))
    assert [sequence for sequence, _ in seen] == [1, 2]
    assert 0 < seen[0][1] < seen[1][1]
    assert (control[0], control[5]) == (0, 2)


# Bytes --------------------------------------------------------------------------------------------


def test_memory_of_requests_is_given_as_it_is_needed() -> None:
    rig = Rig()
    assert request_figures(rig.region.words)["memory_bytes"] == 0
    session = rig.open()
    rig.run(frame("put", "a", session=session), keyed("put", "k", "a"))
    figures = request_figures(rig.region.words)
    assert (figures["sessions"], figures["keys"]) == (1, 1)
    assert figures["answers_bytes"] == 48
    assert figures["memory_bytes"] <= 4 << 20
    assert figures["sessions_max"] == 16_384
    rig.close()


def test_the_hash_of_a_frame_is_for_ever() -> None:
    """As docs/formats.md has it: it is in data, and logs are replayed with it."""
    payloads = [b"\x91\xa1a", b"", *(b"\0" * count for count in (1, 7, 8, 9)), bytes(range(99))]
    frames = [raw(each, name=name) for each in payloads for name in ("put", "refuse")]
    starts = np.cumsum([0, *map(len, frames)])
    hashes = np.zeros(len(frames), np.int64)
    calls.hash_frames(np.frombuffer(b"".join(frames), np.uint8), starts, 0, len(frames), hashes)
    assert len(set(hashes.tolist())) == len(frames)
    naive = [naive_hash(NUMBERS[n], each) for each in payloads for n in ("put", "refuse")]
    assert hashes.view(np.uint64).tolist() == naive
    assert naive[0] == 0x83A694F0DB9575FE


def naive_hash(operation: int, payload: bytes) -> int:
    mixed = naive_mix(operation | len(payload) << 16)
    for start in range(0, len(payload), 8):
        mixed = naive_mix(mixed ^ int.from_bytes(payload[start : start + 8], "little"))
    return mixed


def naive_mix(value: int) -> int:
    for low_factor, high_factor, shift in (
        (0x6A09E667, 0xBB67AE85, 29),
        (0x3C6EF373, 0xA54FF53B, 32),
    ):
        high = (value >> 32) * high_factor
        value = (value & 0xFFFFFFFF) * low_factor ^ (high << 32) % (1 << 64) ^ high >> 32
        value ^= value >> shift
    return value


@pytest.mark.parametrize(
    ("word", "change", "code"),
    [
        ("SESSIONS_HIGH", 9, 1),
        ("row", at.R_NUMBER, 2),
        ("row", at.R_BITS, 3),
        ("row", at.R_LAST, 4),
        ("entry", at.A_REQUEST, 5),
        ("entry", at.A_LENGTHS, 4),
        ("entry", at.A_SEQUENCE, 5),
        ("KEYS_HEAD", 1, 9),
        ("KEYS_TAIL", 2, 8),
        ("ANSWERS_HEAD", -8, 7),
        ("SESSIONS_HIGH", -1, 7),
        ("key", at.K_TIME, 9),
        ("key", at.K_NEXT, 10),
        ("key", at.K_NAME, 10),
    ],
)
def test_damage_is_found(word: str, change: int, code: int) -> None:
    rig = Rig(**SMALL)
    session = rig.open()
    rig.run(frame("put", "a", session=session), keyed("put", "k", "a"))
    rig.engine.verify()
    words = rig.region.words
    row = int(words[at.SESSIONS])
    places = {
        "row": row,
        "entry": int(words[at.ANSWERS]) + int(words[row + at.R_LAST]) // 8,
        "key": int(words[at.KEYS]) + int(words[at.KEY_BUCKETS]),
    }
    if word in places:
        words[places[word] + change] ^= 1 << 40
    else:
        words[getattr(at, word)] += change
    with pytest.raises(CorruptionError, match="requests: ") as found:
        rig.engine.verify()
    assert str(found.value) == f"requests: {EXPLANATIONS[code]}"
    rig.region.close()


def tally(version: int, **columns: Any) -> App:
    """An application whose table changes from one version to the next."""
    made = App("tally", version=version)
    annotations = {"id": int, "what": str} | dict.fromkeys(columns, int)
    made.table(capacity=100)(
        type("Entry", (), {"__annotations__": annotations, "id": key(auto=True), **columns})
    )

    @made.transaction
    def put(db: Db, what: str) -> int:
        return db.entry.insert(what=what).id

    return made


def ask(engine: Engine, *frames: bytes) -> list[Any]:
    starts = np.cumsum([0, *map(len, frames)])
    engine.begin(time.time_ns())  # as the migration does
    engine.run(np.frombuffer(b"".join(frames), np.uint8), starts, 0, len(frames), 1 << 62)
    replies, found = bytes(engine.replies), []
    engine.replies.clear()
    while replies:
        header = Header.read(replies)
        stop = HEADER_BYTES + header.length
        found.append(told(header, msgpack.unpackb(replies[HEADER_BYTES:stop])))
        replies = replies[stop:]
    return found


def test_a_migration_keeps_what_was_answered(tmp_path: Path) -> None:
    asked = [
        frame("put", "a", session=1 << 20, request=7),
        keyed("put", "k", "b", session=1 << 20),
        keyed("put", "l" * 64, "c"),
    ]
    with region_for(tally(1)) as region, DataDirectory.open(tmp_path, "tally") as directory:
        engine = Engine.create(tally(1), region, grow=region.allocate, history=1)
        assert ask(engine, frame("session_open", bytes(16), "ann"), *asked) == [1 << 20, 1, 2, 3]
        save("tally", directory, region, engine.layout)
    with opened(tally(2, more=3), tmp_path) as engine:
        assert ask(engine, *asked) == [1, 2, 3]
        assert ask(engine, frame("session_open", bytes(16), "ann")) == [1 << 20]
        assert ask(engine, frame("put", "d", session=1 << 20, request=8)) == [4]
        assert [row.more for row in engine.db.entry] == [3, 3, 3, 3]
        engine.verify()
