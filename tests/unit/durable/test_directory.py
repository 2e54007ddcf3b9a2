"""One writer a directory, and nothing lost by what goes wrong with a save."""

from __future__ import annotations

import errno
import logging
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.unit.durable.checkpoints import load, save, words_of

from diptych.durable import DataDirectory, Files, Progress, checkpoints_in, read_manifest
from diptych.errors import ConfigurationError

CALLS = (
    *("create", "open", "reserve", "write", "sync_data", "sync", "close"),
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

        def call(*arguments: Any, **named: Any) -> Any:
            number = len(self.calls)
            self.calls.append(name)
            if number == self._failing:
                if name == "write":
                    fd, data, offset = arguments
                    found(fd, data[: len(data) // 2], offset)
                if name == "close":
                    found(*arguments)
                raise OSError(self._error, os.strerror(self._error))
            return found(*arguments, **named)

        return call


def names(path: Path) -> list[str]:
    return sorted(os.listdir(path))


def test_three_are_kept_in_three_files(tmp_path: Path) -> None:
    for sequence in (5, 9, 9, 20):
        save(tmp_path, 1, sequence)
    kept = checkpoints_in(tmp_path)
    assert [(c.sequence, c.epoch) for c in kept] == [(9, 2), (9, 3), (20, 4)]
    pages = [f"pages-{slot}.diptych" for slot in (1, 2, 3)]
    assert names(tmp_path) == [*(c.path.name for c in kept), "lock", *pages]
    assert [read_manifest(c.path).slot for c in kept] == [2, 3, 1]


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
    for sequence in (4, 5, 6):
        save(path, sequence, sequence)
    files = Counting()
    save(path, 7, 7, files)
    return files.calls


def test_any_call_may_fail(tmp_path: Path) -> None:
    """The disk is full at each point in turn: an error, and the newest two are whole."""
    calls = count_calls(tmp_path / "count")
    assert {"open", "create", "reserve", "write", "sync", "rename", "remove"} <= set(calls)
    for number in range(len(calls)):
        path = tmp_path / f"fail-{number}"
        for sequence in (4, 5, 6):
            save(path, sequence, sequence)
        files = Counting(failing=number)
        with pytest.raises(OSError, match="No space left"):
            save(path, 7, 7, files)
        assert len(files.calls) > number, "the fault never came"
        found = checkpoints_in(path)
        assert {5, 6} <= {c.sequence for c in found}
        assert not list(path.glob("*.partial"))
        for checkpoint in found:
            assert load(checkpoint) == words_of(checkpoint.sequence)
        save(path, 8, 8)
        assert load(checkpoints_in(path)[-1]) == words_of(8)


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


def test_a_directory_that_is_let_go_of_soon_is_waited_for(tmp_path: Path) -> None:
    """As when a server starts right after another one was killed."""
    first = DataDirectory.open(tmp_path, "shop")
    timer = threading.Timer(0.1, first.close)
    timer.start()
    DataDirectory.open(tmp_path, "shop").close()
    timer.join()
