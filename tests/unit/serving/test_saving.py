"""What becomes of the checkpointer when processes die, and who is told what."""

from __future__ import annotations

from typing import Any, cast

import pytest

from diptych.serving.children import Child
from diptych.serving.saving import Saving
from diptych.serving.spawn import EXIT_FAILED, EXIT_PARENT_GONE

KILLED = -9


class Ends:
    """A control socket that notes what is sent."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def send(self, message: dict[str, Any]) -> bool:
        self.sent.append(message)
        return True


class Process:
    def __init__(self) -> None:
        self.control = Ends()
        self.stopped_because = ""


class Stage:
    """A server as far as its checkpointers go. `started`: all there were."""

    def __init__(self, *, wanted: bool = True) -> None:
        self.started: list[Process] = []
        self.killed: list[Process] = []
        self.saving = Saving(self.start, self.kill, wanted=wanted)

    def start(self) -> Child:
        self.started.append(Process())
        return cast(Child, self.started[-1])

    def kill(self, child: Child) -> None:
        self.killed.append(cast(Process, child))

    def heard(self) -> list[dict[str, Any]]:
        """What the newest was told."""
        return self.started[-1].control.sent


def test_one_lives_with_each_writer() -> None:
    stage = Stage()
    stage.saving.writer_is_ready()
    stage.saving.writer_is_ready()
    assert len(stage.started) == 1
    stage.saving.writer_died()
    assert stage.killed == stage.started
    stage.saving.writer_is_ready()
    assert len(stage.started) == 1, "the one before is not reaped yet"
    stage.saving.died(KILLED)
    stage.saving.writer_is_ready()
    assert len(stage.started) == 2


def test_without_a_directory_there_is_none() -> None:
    stage = Stage(wanted=False)
    stage.saving.writer_is_ready()
    stage.saving.write_last()
    assert (stage.started, stage.saving.over, stage.saving.failed) == ([], True, False)


def test_who_asks_is_told_under_its_own_ticket_whoever_writes_it() -> None:
    stage, gateways = Stage(), [Process(), Process()]
    stage.saving.ask(cast(Child, gateways[0]), 7)
    stage.saving.writer_is_ready()
    stage.saving.ask(cast(Child, gateways[1]), 7)
    assert [message["do"] for message in stage.heard()] == ["checkpoint", "checkpoint"]
    stage.saving.died(KILLED)
    stage.saving.writer_is_ready()
    tickets = [message["ticket"] for message in stage.heard()]
    stage.saving.told({"tell": "checkpointed", "ticket": tickets[1], "pages": 3})
    stage.saving.told({"tell": "checkpointed", "ticket": tickets[0], "error": "no"})
    assert gateways[0].control.sent == [{"do": "checkpointed", "ticket": 7, "error": "no"}]
    assert gateways[1].control.sent == [{"do": "checkpointed", "ticket": 7, "pages": 3}]


@pytest.mark.parametrize(("code", "failed"), [(0, False), (EXIT_FAILED, True)])
def test_the_last_one_ends_it(code: int, failed: bool) -> None:
    stage = Stage()
    stage.saving.writer_is_ready()
    assert not stage.saving.over
    stage.saving.write_last()
    stage.saving.write_last()
    assert stage.heard() == [{"do": "final"}]
    assert stage.saving.writing_last
    stage.saving.died(code)
    assert (stage.saving.over, stage.saving.failed) == (True, failed)


@pytest.mark.parametrize("code", [KILLED, EXIT_PARENT_GONE])
def test_killed_over_the_last_one_it_is_tried_once_more(code: int) -> None:
    stage = Stage()
    for _ in range(2):
        assert not stage.saving.over
        stage.saving.write_last()
        assert stage.heard() == [{"do": "final"}]
        stage.saving.died(code)
    assert (stage.saving.over, stage.saving.failed) == (True, True)
    assert len(stage.started) == 2


def test_the_one_of_the_writer_before_does_not_write_the_last() -> None:
    stage = Stage()
    stage.saving.writer_is_ready()
    stage.saving.writer_died()
    stage.saving.write_last()
    assert stage.heard() == []
    stage.saving.died(KILLED)
    stage.saving.write_last()
    assert (len(stage.started), stage.heard()) == (2, [{"do": "final"}])


def test_given_up_it_has_failed() -> None:
    stage = Stage()
    stage.saving.give_up()
    assert (stage.saving.over, stage.saving.failed) == (True, True)
