"""Whether a transaction has run for too long, by the words of the control page."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from diptych.control_page import ControlPage, Word
from diptych.serving.children import Child
from diptych.serving.control import Control
from diptych.serving.spawn import Spawned
from diptych.serving.watchdog import Verdict, Watchdog

MS = 1_000_000
BEGAN_NS = 5_000 * MS
LIMIT_MS = 100.0
KILLED_MS = 2 * LIMIT_MS + 1_000
NOTHING, DOOM, KILL = Verdict.NOTHING, Verdict.DOOM, Verdict.KILL


@pytest.fixture
def page() -> Iterator[ControlPage]:
    made = ControlPage.create()
    yield made
    made.close()


@pytest.fixture
def dog(page: ControlPage) -> Watchdog:
    made = Watchdog(page, LIMIT_MS)
    page.words[Word.EXECUTING], page.words[Word.BEGAN_NS] = 7, BEGAN_NS
    assert look(made, 0) is NOTHING
    return made


def look(
    dog: Watchdog, after_ms: float, *, since_ms: float = 1, replaying: bool = False
) -> Verdict:
    now_ns = BEGAN_NS + int(after_ms * MS)
    return dog.look(now_ns, since_ns=int(since_ms * MS), replaying=replaying)


def test_what_has_used_up_its_time_is_doomed_once(dog: Watchdog, page: ControlPage) -> None:
    assert look(dog, LIMIT_MS) is NOTHING
    assert look(dog, LIMIT_MS + 1) is DOOM
    page.words[Word.DOOMED] = 7
    assert look(dog, LIMIT_MS + 51) is NOTHING


def test_what_does_not_end_then_ends_with_its_writer(dog: Watchdog, page: ControlPage) -> None:
    page.words[Word.DOOMED] = 7
    assert look(dog, KILLED_MS) is NOTHING
    assert look(dog, KILLED_MS + 1) is KILL


def test_the_next_transaction_begins_anew(dog: Watchdog, page: ControlPage) -> None:
    page.words[Word.EXECUTING] = 8  # and its beginning is not written yet, or not seen
    assert look(dog, 400) is NOTHING
    page.words[Word.BEGAN_NS] = BEGAN_NS + 500 * MS
    assert look(dog, 500 + LIMIT_MS) is NOTHING
    assert look(dog, 501 + LIMIT_MS) is DOOM


def test_one_of_many_that_began_together_has_time_of_its_own(
    dog: Watchdog, page: ControlPage
) -> None:
    page.words[Word.EXECUTING] = 9  # the word of its beginning is that of transaction 7
    assert look(dog, 10 * KILLED_MS) is NOTHING
    assert look(dog, 10 * KILLED_MS + LIMIT_MS) is NOTHING
    assert look(dog, 10 * KILLED_MS + LIMIT_MS + 1) is DOOM


def test_a_pause_between_two_transactions_is_no_transaction(
    dog: Watchdog, page: ControlPage
) -> None:
    page.words[Word.EXECUTING] = 0
    assert look(dog, 10 * KILLED_MS) is NOTHING
    assert look(dog, 10 * KILLED_MS) is NOTHING


def test_a_replay_is_never_doomed_and_has_longer(dog: Watchdog) -> None:
    assert look(dog, KILLED_MS + 1, replaying=True) is NOTHING
    assert look(dog, 4 * KILLED_MS, replaying=True) is NOTHING
    assert look(dog, 4 * KILLED_MS + 1, replaying=True) is KILL


def test_what_another_writer_left_on_the_page_is_not_judged(dog: Watchdog) -> None:
    assert look(dog, 100 * KILLED_MS, since_ms=5_001) is NOTHING
    assert look(dog, 100 * KILLED_MS, since_ms=5_000) is KILL


def test_without_a_beginning_or_a_limit_it_may_run_for_ever(page: ControlPage) -> None:
    for limit_ms, began_ns in ((0.0, BEGAN_NS), (LIMIT_MS, 0)):
        dog = Watchdog(page, limit_ms)
        page.words[Word.EXECUTING], page.words[Word.BEGAN_NS] = 7, began_ns
        assert look(dog, 0) is NOTHING
        assert look(dog, 100 * KILLED_MS) is NOTHING


def test_what_is_done_about_it(dog: Watchdog, page: ControlPage) -> None:
    one, other = socket.socketpair()
    writer = Child("writer", 1, Spawned(0, -1), Control(one), ready=True, started_ns=1)
    now_ns = BEGAN_NS + int(LIMIT_MS) * MS
    assert not dog.must_end(writer, now_ns)
    assert page.words[Word.DOOMED] == 0
    assert not dog.must_end(writer, now_ns + 1)
    assert page.words[Word.DOOMED] == 7
    assert writer.over_budget == 0
    assert dog.must_end(writer, BEGAN_NS + int(KILLED_MS) * MS + 1)
    assert writer.over_budget == 7
    assert writer.stopped_because == "transaction 7 did not end"
    assert not dog.must_end(writer, BEGAN_NS + 10 * int(KILLED_MS) * MS)  # it was told to end
    writer.control.close()
    other.close()
