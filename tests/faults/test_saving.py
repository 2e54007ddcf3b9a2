"""A save that is cut off at any point: the newest two that were complete are complete afterwards.

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
from tests.unit.durable.checkpoints import load, save, words_of
from tests.unit.durable.test_directory import Counting

from diptych.durable import CheckpointStore, DataDirectory, Files, checkpoints_in, read_manifest
from diptych.errors import ConfigurationError
from diptych.serving import checkpointer
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

        def call(*arguments: Any, **named: Any) -> Any:
            if self._count == self._last:
                if name == "write":
                    fd, data, offset = arguments
                    found(fd, data[: len(data) // 2], offset)
                os._exit(DEAD)
            self._count += 1
            if self._tell is not None:
                self._tell(self._count)
            return found(*arguments, **named)

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


def complete(path: Path) -> list[int]:
    """What the next start finds, the newest last: each is, byte for byte, what it says."""
    with DataDirectory.open(path, "shop") as directory:
        assert not list(path.glob("*.partial"))
        checkpoints = directory.checkpoints()
    for checkpoint in checkpoints:
        assert load(checkpoint) == words_of(checkpoint.sequence)
    return [checkpoint.sequence for checkpoint in checkpoints]


def save_four(path: Path, files: Files) -> None:
    """Each saves `region_of` of its own number, the last into the file of the first."""
    for number in range(1, 5):
        save(path, number, number, files)


def test_the_process_ends_at_each_call(tmp_path: Path) -> None:
    counts: list[int] = []
    save_four(tmp_path / "count", Ending(-1, counts.append))
    calls, newest = counts[-1], 0
    for last in range(calls):
        path = tmp_path / str(last)
        assert ended(in_a_process(partial(save_four, path, Ending(last)))) == DEAD, "it never came"
        before, found = newest, complete(path)
        newest = found[-1] if found else 0
        assert newest in (before, before + 1)
        assert len(found) >= min(2, newest), "there were two complete ones"
        save(path, newest + 1, newest + 1)
        assert complete(path)[-1] == newest + 1
    assert newest == 4


def test_each_call_fails(tmp_path: Path) -> None:
    """The save ends with an error, and the ones after it are not the worse for it."""
    counting = Counting()
    save_four(tmp_path / "count", counting)
    for number in range(len(counting.calls)):
        path, failed = tmp_path / str(number), 0
        files = Counting(failing=number)
        found: list[int] = []
        for sequence in range(1, 5):
            try:
                save(path, sequence, sequence, files)
            except (OSError, ConfigurationError):
                failed += 1
            before, found = found, complete(path)
            assert set(before[-2:]) <= set(found), "the newest two were to stay"
        assert failed == 1, "the fault never came"
        assert len(found) >= 2


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
        held = {read_manifest(c.path).slot for c in checkpoints_in(tmp_path)}
        written = {int(file.stem[-1]) for file in tmp_path.glob("pages-*.diptych")}
        cut_off += bool(written - held)
        if checkpoints_in(tmp_path):
            sequence = complete(tmp_path)[-1]
            assert sequence >= seen
            seen = sequence
    assert seen > 0, "nothing was ever saved"
    assert cut_off > 0, "no kill ever came in the middle of a save"


class Full(Files):
    def reserve(self, fd: int, size_bytes: int, offset: int = 0) -> None:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize(("durability", "kept"), [("fsync", "in the log"), ("none", "lost")])
def test_a_full_disk_at_the_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: str, kept: str
) -> None:
    """The end is an error that says so, and the older data is there."""
    with running(app, readers=1, data=tmp_path) as server:
        server.stop()
    (before,) = checkpoints_in(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(checkpointer, "CheckpointStore", lambda path: CheckpointStore(path, Full()))
        with running(app, readers=1, data=tmp_path, durability=durability) as server:
            with server.client() as client:
                client.transfer(1, 2, 5)
            assert server.stop() == 1
            log = server.log()
    assert f"not saved to {tmp_path}: [Errno 28] No space left" in log
    assert f"it has {before.path.name}, and what came after it is {kept}" in log
    assert checkpoints_in(tmp_path) == [before]


def test_a_second_signal_while_it_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saving = tmp_path / "saving"

    def save_for_ever(*_: Any) -> None:
        saving.touch()
        signal.pause()

    with monkeypatch.context() as patch:
        patch.setattr(checkpointer.Checkpointer, "_checkpoint", save_for_ever)
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


def test_the_checkpointer_is_killed_over_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one writes it."""
    once = tmp_path / "once"
    really = checkpointer.Checkpointer._checkpoint

    def killed_once(this: checkpointer.Checkpointer) -> object:
        if not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return really(this)

    monkeypatch.setattr(checkpointer.Checkpointer, "_checkpoint", killed_once)
    with running(app, readers=1, data=tmp_path / "data") as server:
        with server.client() as client:
            client.transfer(1, 2, 5)
        assert server.stop() == 0
        assert "checkpointer" in server.log()
    assert once.exists(), "the fault never came"
    with running(app, readers=1, data=tmp_path / "data") as server, server.client() as client:
        assert client.balance(1) == CASH - 5
