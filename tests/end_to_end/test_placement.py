"""A server whose processes have places: each runs where it is told, and so does its successor."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from tests.support.trouble import app
from tests.support.wire import wait_until

from diptych.serving.local import Server, running

USABLE = sorted(os.sched_getaffinity(0))
FIRST, LAST = USABLE[0], USABLE[-1]
PLACES = {
    "writer": ({FIRST}, 1),
    "gateway": ({LAST}, 2),
    "reader": ({FIRST, LAST}, 7),
    "checkpointer": (set(USABLE), 9),
}


def nice_of(pid: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, pid) - os.getpriority(os.PRIO_PROCESS, 0)


def assert_in_place(server: Server) -> None:
    pids = server.pids
    assert set(pids) == {"supervisor", *PLACES}
    for role, (cpus, nice) in PLACES.items():
        for pid in pids[role]:
            # It is listed from the fork on, a moment before it takes its place: first the
            # processors, then the nice value.
            with suppress(AssertionError):  # the next lines say which
                wait_until(lambda pid=pid, nice=nice: nice_of(pid) == nice)
            assert os.sched_getaffinity(pid) == cpus, role
            assert nice_of(pid) == nice, role
    (supervisor,) = pids["supervisor"]
    assert os.sched_getaffinity(supervisor) == set(USABLE)
    assert nice_of(supervisor) == 0


def test_each_process_and_its_successor_run_where_configured(tmp_path: Path) -> None:
    with running(
        app,
        data=tmp_path / "data",
        writer_cpus=[FIRST],
        gateway_cpus=str(LAST),
        reader_cpus=[FIRST, LAST],
        writer_nice=1,
        gateway_nice=2,
        reader_nice=7,
        checkpointer_nice=9,
    ) as server:
        with server.client() as bank:
            bank.transfer(1, 2, 5)
            bank.total()
            assert bank.info()["places"]["writer"] == {"cpus": [FIRST], "nice": 1}
        assert f"places: writer on processors {FIRST} at nice +1; " in server.log()
        assert_in_place(server)
        (reader, _), (writer,) = server.pids["reader"], server.pids["writer"]
        os.kill(reader, signal.SIGKILL)
        os.kill(writer, signal.SIGKILL)
        with server.client() as bank:
            bank.transfer(1, 2, 5)
        wait_until(
            lambda: len(server.pids.get("reader", [])) == 2 and "checkpointer" in server.pids
        )
        assert {reader, writer}.isdisjoint(server.pids["reader"] + server.pids["writer"])
        assert_in_place(server)


def test_a_place_that_there_is_not_is_refused_at_the_start() -> None:
    with (
        pytest.raises(RuntimeError, match=r"processes\.writer_cpus: there is no processor 8191"),
        running(app, writer_cpus=[8191]),
    ):
        pass
