"""A save that is cut off at any point: what was complete before is complete afterwards.

Each point is a call to the file system; the process that saves ends right before it, after half of
it, or after it, by chance of a seeded kind also in the middle of anything. What it leaves is opened
as the next start would.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.support.trouble import ACCOUNTS, CASH, app
from tests.support.wire import wait_until
from tests.unit.durable.checkpoints import REGION_PAGES, region_of, save

from diptych.durable import DataDirectory, Files, checkpoints_in, read_pages
from diptych.memory import PAGE_BYTES, Region
from diptych.serving import writer
from diptych.serving.local import running
from diptych.serving.spawn import fork_quietly

KILLS, KILLS_MAX = 25, 500
DEAD = 77


class Ending(Files):
    """Ends the process at call number `last`: before it, or after half of what it writes."""

    def __init__(self, last: int, tell: Callable[[int], None] | None = None) -> None:
        self._last, self._count, self._tell = last, 0, tell

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name.startswith("_"):
            return found

        def call(*arguments: Any) -> Any:
            if self._count == self._last:
                if name == "write":
                    fd, data, offset = arguments
                    found(fd, data[: len(data) // 2], offset)
                os._exit(DEAD)
            self._count += 1
            if self._tell is not None:
                self._tell(self._count)
            return found(*arguments)

        return call


def in_a_process(work: Callable[[], object]) -> int:
    """Run `work` in a fork: the pid."""
    pid = fork_quietly()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def newest_value(path: Path) -> tuple[int, int]:
    """What the next start finds: the sequence number, and what `region_of` was made with."""
    with DataDirectory.open(path, "shop") as directory:
        assert not list(path.glob("*.partial"))
        for checkpoint in directory.checkpoints()[-2:]:
            with Region.create(REGION_PAGES * PAGE_BYTES) as region:
                read_pages(checkpoint.path, region, lambda _: None)
                value = int(region.words[512]) - 512
                with region_of(value) as same:
                    assert (region.words == same.words).all()
        return checkpoint.sequence, value


def test_the_process_ends_at_each_call(tmp_path: Path) -> None:
    counts: list[int] = []
    for number in (1, 2):
        save(tmp_path / "count", number, number)
    save(tmp_path / "count", 3, 3, Ending(-1, counts.append))
    calls = counts[-1]
    for last in range(calls):
        path = tmp_path / str(last)
        save(path, 1, 1)
        save(path, 2, 2)
        cut_off = partial(save, path, 3, 3, Ending(last))
        assert ended(in_a_process(cut_off)) == DEAD, "the fault never came"
        sequence, value = newest_value(path)
        assert sequence == value
        assert sequence in (2, 3)
        assert len(checkpoints_in(path)) >= 2


class Slow(Files):
    """A disk that takes its time, so that most moments are in the middle of a save."""

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        time.sleep(0.002)
        super().write(fd, data, offset)


def test_kill_9_at_random_moments(tmp_path: Path) -> None:
    """One directory, many lives: each saves until it is killed. Nothing ever goes back."""
    chance = random.Random(11)

    def live() -> None:
        with DataDirectory.open(tmp_path, "shop") as directory:
            newest = directory.newest()
        number = newest.sequence if newest else 0
        while True:
            number += 1
            save(tmp_path, number, number, Slow())

    seen, cut_off, kills = 0, 0, 0
    # On until some saves were finished and some were not, however slow the machine is.
    while kills < KILLS or (kills < KILLS_MAX and not (seen and cut_off)):
        kills += 1
        pid = in_a_process(live)
        wait_until(lambda: os.path.exists(tmp_path / "lock"))
        time.sleep(chance.uniform(0.002, 0.04))
        os.kill(pid, signal.SIGKILL)
        assert ended(pid) == -signal.SIGKILL
        cut_off += bool(list(tmp_path.glob("*.partial")))
        if checkpoints_in(tmp_path):
            sequence, value = newest_value(tmp_path)
            assert sequence == value
            assert sequence >= seen
            seen = sequence
    assert seen > 0, "nothing was ever saved"
    assert cut_off > 0, "no kill ever came in the middle of a save"


class Full(Files):
    def reserve(self, fd: int, size_bytes: int) -> None:
        raise OSError(28, "No space left on device")


def test_a_full_disk_at_the_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end is an error that says so, and the older data is there."""
    with running(app, readers=1, data=tmp_path) as server:
        server.stop()
    (before,) = checkpoints_in(tmp_path)
    really_open = DataDirectory.open.__func__  # type: ignore[attr-defined]  # of a class method

    def open_full(path: Path, name: str) -> DataDirectory:
        directory: DataDirectory = really_open(DataDirectory, path, name, Full())
        return directory

    with monkeypatch.context() as patch:
        patch.setattr(DataDirectory, "open", open_full)
        with running(app, readers=1, data=tmp_path) as server:
            with server.client() as client:
                client.transfer(1, 2, 5)
            assert server.stop() == 1
            log = server.log()
    assert f"not saved to {tmp_path}: [Errno 28] No space left" in log
    assert f"it has {before.path.name}, and what came after it is lost" in log
    assert checkpoints_in(tmp_path) == [before]
    with running(app, readers=1, data=tmp_path) as server, server.client() as client:
        assert client.balance(1) == CASH


def test_the_server_is_killed_while_it_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(app, readers=1, data=tmp_path / "data") as server:
        server.stop()
    saving = tmp_path / "saving"

    def save_for_ever(*given: Any) -> None:
        saving.touch()
        signal.pause()

    with monkeypatch.context() as patch:
        patch.setattr(writer, "save", save_for_ever)
        with running(app, readers=1, data=tmp_path / "data") as server:
            with server.client() as client:
                client.transfer(1, 2, 5)
            server.signal(signal.SIGTERM)
            wait_until(saving.exists)
            time.sleep(0.1)
            assert server.exit_code is None
            server.signal(signal.SIGTERM)
            assert server.wait() == 1
            assert "what is not saved is lost" in server.log()
    with running(app, readers=1, data=tmp_path / "data") as server, server.client() as client:
        assert client.total() == ACCOUNTS * CASH
        assert client.balance(1) == CASH
