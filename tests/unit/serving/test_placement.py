"""Where processes run: what is possible here, what is said when it is not, and that it is done."""

from __future__ import annotations

import logging
import os
import resource
from collections.abc import Callable

import pytest

from diptych.config import Processes
from diptych.errors import ConfigurationError
from diptych.serving import placement
from diptych.serving.placement import Place, Processors, cpus_as_text, problems
from diptych.serving.spawn import exit_with

FOUR = Processors(4, (0, 1))
NOBODY = 65534


def code_of_child(main: Callable[[], int]) -> int:
    """Run it in a fork of this process, which has a place of its own."""
    pid = os.fork()
    if pid == 0:
        exit_with(main)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def without_rights() -> None:
    """Like a user who may not take from others."""
    resource.setrlimit(resource.RLIMIT_NICE, (0, 0))
    if os.getuid() == 0:
        os.setresuid(NOBODY, NOBODY, NOBODY)


def test_nothing_is_wrong_with_the_usual_places() -> None:
    assert problems(Processes(), FOUR) == []
    assert placement.configured(Processes()) == []
    placement.check(Processes())


def test_a_processor_that_the_machine_does_not_have() -> None:
    (problem,) = problems(Processes(writer_cpus=(1, 4, 5)), FOUR)
    assert problem.startswith("processes.writer_cpus: there is no processor 4-5")
    assert "0 to 3" in problem


def test_a_processor_that_this_process_may_not_use() -> None:
    (problem,) = problems(Processes(reader_cpus=(1, 2)), FOUR)
    assert problem.startswith("processes.reader_cpus: processor 2 can't be used here, only 0-1")
    assert "taskset" in problem


def test_what_may_be_used_is_asked_of_the_kernel() -> None:
    def main() -> int:
        one = min(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {one})
        others = set(range(Processors().count)) - {one}
        found = problems(Processes(gateway_cpus=(one,), writer_cpus=tuple(others)))
        return 7 if Processors().usable == (one,) and len(found) == bool(others) else 8

    assert code_of_child(main) == 7


def test_a_nice_value_below_that_of_the_server_needs_a_right() -> None:
    def main() -> int:
        without_rights()
        (problem,) = problems(Processes(writer_nice=-5, reader_nice=0), FOUR)
        said = all(
            part in problem for part in ("processes.writer_nice", "LimitNICE=-5", "SYS_NICE")
        )
        return 7 if said and os.getpriority(os.PRIO_PROCESS, 0) == before else 8

    before = os.getpriority(os.PRIO_PROCESS, 0)
    assert code_of_child(main) == 7


def test_all_that_is_wrong_is_said_at_once() -> None:
    settings = Processes(writer_cpus=(8191,), checkpointer_cpus=(8190,))
    with pytest.raises(ConfigurationError, match=r"writer_cpus: .*checkpointer_cpus: "):
        placement.check(settings)


def test_a_place_is_taken() -> None:
    def main() -> int:
        one = max(os.sched_getaffinity(0))
        before = os.getpriority(os.PRIO_PROCESS, 0)
        Place((one,), 3).take()
        nice = os.getpriority(os.PRIO_PROCESS, 0)
        return 7 if os.sched_getaffinity(0) == {one} and nice == min(19, before + 3) else 8

    assert code_of_child(main) == 7


def test_a_place_that_is_gone_is_said_and_the_process_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR, logger="diptych.serving"):
        Place((8191,), 0).take()
    assert "can't run on processors 8191 at nice +0, so elsewhere: " in caplog.text


def test_places_in_words_and_as_figures() -> None:
    settings = Processes(writer_cpus=(0,), reader_cpus=(2, 3, 5), reader_nice=5)
    assert placement.configured(settings) == [
        "writer on processors 0 at nice +0",
        "reader on processors 2-3, 5 at nice +5",
    ]
    assert placement.as_figures(settings)["reader"] == {"cpus": [2, 3, 5], "nice": 5}
    assert placement.as_figures(settings)["checkpointer"] == {"cpus": [], "nice": 19}
    assert cpus_as_text(()) == ""
