"""Rule by rule: whose fault the death of a writer is, and what becomes of the transaction."""

from __future__ import annotations

import errno
import itertools
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from diptych.durable import Files
from diptych.engine.attempts import (
    COUNTS_MAX,
    FILE,
    SET_ASIDE_MAX,
    WINDOW_S,
    Attempts,
    Ending,
    Verdict,
)

FATAL, BUDGET, KILLED, OTHER = Ending
GO_ON, SET_ASIDE, STOP = Verdict
CALLS = ("create", "write", "sync", "close", "rename", "sync_directory")


class Failing(Files):
    """Call number `failing` raises, after half of what it does where that can be."""

    def __init__(self, failing: int) -> None:
        self.calls = 0
        self._failing = failing

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in CALLS:
            return found

        def call(*arguments: Any) -> Any:
            self.calls += 1
            if self.calls == self._failing:
                if name == "write":
                    fd, data, offset = arguments
                    found(fd, data[: len(data) // 2], offset)
                if name == "close":
                    found(*arguments)
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return found(*arguments)

        return call


def die(attempts: Attempts, *deaths: tuple[int, Ending], executed: int = 0) -> list[Verdict]:
    """Deaths one after another, at one moment."""
    return [attempts.ended(sequence, how, executed=executed, now_s=0.0) for sequence, how in deaths]


@pytest.mark.parametrize(("first", "second"), [*itertools.product([FATAL, BUDGET], repeat=2)])
def test_the_second_death_at_a_transaction_sets_it_aside(first: Ending, second: Ending) -> None:
    attempts = Attempts()
    assert die(attempts, (50, first)) == [GO_ON]
    assert attempts.due(49) == ()
    assert die(attempts, (50, second)) == [SET_ASIDE]
    assert attempts.due(49) == (50,)
    attempts.settled()
    assert attempts.due(49) == ()


def test_deaths_at_different_transactions_are_counted_apart() -> None:
    attempts = Attempts()
    assert die(attempts, *((s, FATAL) for s in range(1, 20))) == [GO_ON] * 19
    assert die(attempts, (7, BUDGET)) == [SET_ASIDE]
    assert attempts.due(0) == (7,)


@pytest.mark.parametrize("how", Ending)
def test_a_death_between_transactions_is_nobodys(how: Ending) -> None:
    attempts = Attempts()
    assert die(attempts, *[(0, how)] * 10) == [GO_ON] * 10
    assert attempts.due(-1) == ()


def test_an_exit_is_nobodys() -> None:
    attempts = Attempts()
    assert die(attempts, *[(50, OTHER)] * 10) == [GO_ON] * 10
    assert attempts.count(50) == 0


def test_a_kill_by_somebody_else_counts_from_the_third_in_a_row() -> None:
    attempts = Attempts()
    counts = []
    for _ in range(3):
        assert die(attempts, (50, KILLED)) == [GO_ON]
        counts.append(attempts.count(50))
    assert counts == [0, 0, 1]
    assert die(attempts, (50, KILLED)) == [SET_ASIDE]


@pytest.mark.parametrize(
    "between", [(51, KILLED), (0, KILLED), (50, OTHER), (51, FATAL), (0, FATAL)]
)
def test_another_death_between_ends_the_row(between: tuple[int, Ending]) -> None:
    attempts = Attempts()
    kills = [(50, KILLED)] * 2
    assert die(attempts, *kills, between, *kills) == [GO_ON] * 5
    assert attempts.count(50) == 0


def test_kills_at_random_moments_hit_nobody() -> None:
    """As in a soak with hundreds of kills: each at a transaction of its own, some hit twice."""
    attempts = Attempts()
    for sequence in range(100, 600):
        assert die(attempts, *[(sequence, KILLED)] * (1 + sequence % 2)) == [GO_ON] * (
            1 + sequence % 2
        )
        attempts.settled()
    assert attempts.due(0) == ()


def test_two_kinds_of_death_add_up() -> None:
    attempts = Attempts()
    assert die(attempts, (50, FATAL), (50, KILLED), (50, KILLED)) == [GO_ON] * 3
    assert die(attempts, (50, KILLED)) == [SET_ASIDE]


def test_what_a_writer_got_past_is_forgotten() -> None:
    attempts = Attempts()
    die(attempts, (50, FATAL), (60, KILLED), (60, KILLED))
    attempts.settled()
    assert attempts.count(50) == 0
    assert die(attempts, (50, FATAL), (60, KILLED)) == [GO_ON] * 2
    assert attempts.count(60) == 0, "the row began anew"


def test_a_number_that_the_log_lost_is_another_transaction_when_it_is_given_again() -> None:
    attempts = Attempts()
    assert die(attempts, (70, FATAL), (70, FATAL)) == [GO_ON, SET_ASIDE]
    attempts.settled()  # with a log that ends before 70, since the host failed
    assert attempts.due(0) == ()
    assert die(attempts, (70, FATAL)) == [GO_ON]


def test_too_many_set_aside_within_a_minute_stop_the_server() -> None:
    attempts = Attempts()

    def twice(sequence: int, now_s: float) -> Verdict:
        attempts.ended(sequence, FATAL, executed=0, now_s=now_s)
        return attempts.ended(sequence, FATAL, executed=0, now_s=now_s)

    assert [twice(s, 10.0 * s) for s in (1, 2, 3)] == [SET_ASIDE] * SET_ASIDE_MAX
    assert twice(4, 69.9) is STOP
    assert attempts.due(0) == (1, 2, 3), "the fourth is tried again by whoever starts it again"
    assert attempts.count(4) == 1
    assert twice(5, 10.0 + WINDOW_S) is SET_ASIDE, "the first is a minute ago"
    assert twice(6, 10.0 + WINDOW_S) is STOP


def test_what_may_have_been_answered_is_not_set_aside(caplog: pytest.LogCaptureFixture) -> None:
    attempts = Attempts()
    assert die(attempts, (50, FATAL), (50, FATAL), executed=50) == [GO_ON, STOP]
    assert "transaction 50" in caplog.text
    assert attempts.due(0) == ()
    assert die(attempts, (50, FATAL), executed=49) == [SET_ASIDE]
    assert attempts.due(49) == (50,)
    assert attempts.due(50) == (), "known by now to have been executed"


def test_counts_outlive_the_server(tmp_path: Path) -> None:
    assert die(Attempts(tmp_path), (50, FATAL)) == [GO_ON]
    assert die(Attempts(tmp_path), (60, KILLED)) == [GO_ON]
    assert die(Attempts(tmp_path), (60, KILLED)) == [GO_ON]
    again = Attempts(tmp_path)
    assert die(again, (60, KILLED), (50, BUDGET)) == [GO_ON, SET_ASIDE]
    assert Attempts(tmp_path).due(0) == (50,), "the server ended before it was on the record"
    again.settled()
    last = Attempts(tmp_path)
    assert (last.due(0), last.count(50), last.count(60)) == ((), 0, 0)
    assert os.listdir(tmp_path) == [FILE]


def test_nothing_to_say_writes_nothing(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path)
    attempts.settled()
    die(attempts, (0, KILLED), (5, OTHER))
    assert os.listdir(tmp_path) == []


def test_without_a_directory_there_is_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert die(Attempts(), (50, FATAL), (50, FATAL)) == [GO_ON, SET_ASIDE]
    assert os.listdir(tmp_path) == []


def test_a_damaged_file_begins_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Any bit of it: a count that is lost costs a death, one for the wrong number an innocent."""
    die(Attempts(tmp_path), (50, FATAL), (50, FATAL))
    path = tmp_path / FILE
    whole = path.read_bytes()
    assert json.loads(whole)["format"] == 1
    with caplog.at_level(logging.CRITICAL):
        for bit in range(len(whole) * 8):
            wrong = bytearray(whole)
            wrong[bit // 8] ^= 1 << bit % 8
            path.write_bytes(wrong)
            assert Attempts(tmp_path).due(0) in ((), (50,)), bit
    for wrong_text in (b"", whole[:-3], b"[]", b"{}", b'{"checksum": 1, "format": 2}'):
        path.write_bytes(wrong_text)
        caplog.clear()
        damaged = Attempts(tmp_path)
        assert damaged.count(50) == 0
        assert FILE in caplog.text
        assert die(damaged, (50, FATAL)) == [GO_ON]
        assert Attempts(tmp_path).count(50) == 1


@pytest.mark.parametrize("call", range(1, len(CALLS) + 1))
def test_a_write_that_fails_leaves_the_old_or_the_new(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, call: int
) -> None:
    die(Attempts(tmp_path), (50, FATAL))
    files = Failing(call)
    attempts = Attempts(tmp_path, files)
    assert die(attempts, (50, FATAL)) == [SET_ASIDE], "memory has it all the same"
    assert files.calls >= call
    assert "was not written" in caplog.text
    assert Attempts(tmp_path).count(50) in (COUNTS_MAX - 1, COUNTS_MAX)
    attempts.ended(0, OTHER, executed=0, now_s=0)
    assert Attempts(tmp_path).count(50) == COUNTS_MAX, "written again with the next news"
