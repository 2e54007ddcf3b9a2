"""One writer a directory, two complete checkpoints in it, and nothing lost by what goes wrong."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from tests.unit.durable.checkpoints import save

from diptych.durable import DataDirectory, Files, Progress, checkpoints_in, verify_pages
from diptych.errors import ConfigurationError

CALLS = (
    *("create", "reserve", "write", "sync_data", "sync", "close"),
    *("rename", "sync_directory", "remove"),
)


class Counting(Files):
    """Says which calls there were; call number `failing` raises, in half a write too."""

    def __init__(self, failing: int = -1, error: int = errno.ENOSPC) -> None:
        self.calls: list[str] = []
        self._failing, self._error = failing, error

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in CALLS:
            return found

        def call(*arguments: Any) -> Any:
            number = len(self.calls)
            self.calls.append(name)
            if number == self._failing:
                if name == "write":
                    fd, data, offset = arguments
                    found(fd, data[: len(data) // 2], offset)
                if name == "close":
                    found(*arguments)
                raise OSError(self._error, os.strerror(self._error))
            return found(*arguments)

        return call


def names(path: Path) -> list[str]:
    return sorted(os.listdir(path))


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    for sequence in (5, 9, 9, 20):
        save(tmp_path, 1, sequence)
    kept = checkpoints_in(tmp_path)
    assert [(c.sequence, c.epoch) for c in kept] == [(9, 3), (20, 4)]
    assert names(tmp_path) == [kept[0].path.name, kept[1].path.name, "lock"]


def test_the_directory_is_made(tmp_path: Path) -> None:
    with DataDirectory.open(tmp_path / "a" / "b", "shop") as directory:
        assert directory.newest() is None
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    with (
        DataDirectory.open(tmp_path, "shop"),
        pytest.raises(ConfigurationError, match=f"in use .*{os.getpid()} shop"),
    ):
        DataDirectory.open(tmp_path, "shop")
    DataDirectory.open(tmp_path, "shop").close()


def test_a_directory_that_can_not_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"data: .*file"):
        DataDirectory.open(tmp_path / "file", "shop")
    with pytest.raises(ConfigurationError, match=r"data: .*below"):
        DataDirectory.open(tmp_path / "file" / "below", "shop")


def test_what_a_killed_writer_left_is_cleared_away(tmp_path: Path) -> None:
    kept = save(tmp_path, 1, 5).path
    left = tmp_path / "checkpoint-00000000000000000009-0000000002.diptych.partial"
    left.write_bytes(b"half")
    (tmp_path / "notes.partial").write_text("not ours")
    with DataDirectory.open(tmp_path, "shop") as directory:
        newest = directory.newest()
        assert newest is not None
        assert newest.path == kept
    assert not left.exists()
    assert (tmp_path / "notes.partial").exists()


def test_files_that_are_not_checkpoints_are_not_touched(tmp_path: Path) -> None:
    aside = tmp_path / "damaged-checkpoint-00000000000000000009-0000000002.diptych"
    aside.write_bytes(b"moved aside by somebody")
    for sequence in (1, 2, 3):
        save(tmp_path, 1, sequence)
    assert aside.exists()


def count_calls(path: Path) -> list[str]:
    save(path, 1, 5)
    save(path, 2, 6)
    files = Counting()
    save(path, 3, 7, files)
    return files.calls


def test_any_call_may_fail(tmp_path: Path) -> None:
    """The disk is full at each point in turn: an error, and both older checkpoints are whole."""
    calls = count_calls(tmp_path / "count")
    assert {"create", "reserve", "write", "sync", "rename", "remove"} <= set(calls)
    for number, name in enumerate(calls):
        path = tmp_path / f"fail-{number}"
        save(path, 1, 5)
        save(path, 2, 6)
        files = Counting(failing=number)
        if name == "remove":  # of the oldest, at the end: costs space alone
            save(path, 3, 7, files)
        else:
            with pytest.raises(OSError, match="No space left"):
                save(path, 3, 7, files)
        assert len(files.calls) > number, "the fault never came"
        found = checkpoints_in(path)
        assert [c.sequence for c in found][:2] == [5, 6]
        assert not list(path.glob("*.partial"))
        for checkpoint in found:
            verify_pages(checkpoint.path, lambda _: None)


def test_progress_is_told_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    log, now = logging.getLogger("diptych.durable"), [0.0]
    with caplog.at_level(logging.INFO, log.name):
        progress = Progress(log, "saving", 1000, shown=str, unit="rows", clock_s=lambda: now[0])
        for _ in range(10):
            now[0] += 0.6
            progress.add(100)
        slow = Progress(log, "slow", 1000, shown=str, unit="rows", clock_s=lambda: now[0])
        now[0] += 10
        slow.add(1)
    assert caplog.messages == [
        "saving: 200 of 1000 rows, 20 %, about 5 s left",
        "saving: 600 of 1000 rows, 60 %, about 2 s left",
        "slow: 1 of 1000 rows, 0 %",
    ]
    assert progress.elapsed_s == pytest.approx(16.0)
