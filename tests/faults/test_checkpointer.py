"""Checkpoints of a server under load: killed, slow, damaged on the disk; transactions never wait.

Whatever is complete in the directory at any moment is whole, and the newest of it is used.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support.trouble import ACCOUNTS, CASH, app
from tests.support.wire import wait_until as wait_briefly
from tests.unit.durable.checkpoints import flip, pages_file

from diptych import cli
from diptych.durable import (
    Checkpoint,
    CheckpointReplaced,
    CheckpointStore,
    Files,
    checkpoints_in,
    read_manifest,
    segments,
    verify_pages,
)
from diptych.serving import checkpointer
from diptych.serving.local import Server, running
from diptych_client import ServerError

TOTAL = ACCOUNTS * CASH


def wait_until(condition: Callable[[], Any]) -> None:
    wait_briefly(condition, 30.0)


@contextmanager
def load(server: Server) -> Iterator[list[int]]:
    """Transfers all the time; the list has the number of each that was answered."""
    done: list[int] = []
    over = threading.Event()

    def work() -> None:
        with server.client() as client:
            while not over.is_set():
                reply = client.reply("transfer", 1 + len(done) % ACCOUNTS, 1, 1)
                done.append(reply.sequence)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield done
    finally:
        over.set()
        thread.join()


def whole(path: Path) -> list[Checkpoint]:
    """The complete checkpoints; each was read, but for what a newer one replaced meanwhile."""
    found = []
    for checkpoint in checkpoints_in(path):
        try:
            verify_pages(checkpoint, lambda _: None)
            found.append(checkpoint)
        except (CheckpointReplaced, FileNotFoundError):
            assert len(checkpoints_in(path)) >= 2
    return found


def ask(server: Server) -> dict[str, Any]:
    with server.client(timeout=30) as client:
        return client.admin({"do": "checkpoint"})


def test_killed_again_and_again(tmp_path: Path) -> None:
    """The server goes on without it, and it comes back."""
    with running(app, readers=1, data=tmp_path, checkpoint_after_bytes=1 << 16) as server:
        with load(server) as done:
            pids = [0]
            for _ in range(5):
                count = len(done)
                wait_until(lambda old=pids: server.pids.get("checkpointer", old) != old)
                pids = server.pids["checkpointer"]
                os.kill(pids[0], signal.SIGKILL)
                whole(tmp_path)
                wait_until(lambda before=count: len(done) > before + 20)
        facts = ask(server)
        newest = whole(tmp_path)[-1]
        assert (facts["checkpoint"], facts["sequence"]) == (newest.path.name, newest.sequence)
        with server.client() as client:
            assert client.total() == TOTAL
            assert client.info()["restarts"]["writer"] == 0
            assert client.info()["restarts"]["checkpointer"] == 5
        assert server.stop() == 0
    with running(app, readers=1, data=tmp_path) as server, server.client() as client:
        assert client.total() == TOTAL


def test_the_writer_is_killed_over_a_checkpoint(tmp_path: Path) -> None:
    """Its checkpointer goes with it, and the next one knows of no slot what changed since."""
    with running(app, readers=1, data=tmp_path) as server:
        with load(server) as done:
            for _ in range(3):
                before = server.pids
                count = len(done)
                os.kill(before["writer"][0], signal.SIGKILL)
                wait_until(lambda before=count: len(done) > before + 20)
                wait_until(lambda old=before: server.pids.get("checkpointer", [0]) != old)
                facts = ask(server)
                assert facts["pages"] == facts["of_pages"]
            for _ in range(4):
                facts = ask(server)
        assert 0 < facts["pages"] < facts["of_pages"]
        assert len(whole(tmp_path)) == 3


class Stuck(Files):
    """A disk that does nothing more while a file is there."""

    def __init__(self, while_there: Path) -> None:
        self._there = while_there

    def sync(self, fd: int) -> None:
        while self._there.exists():
            time.sleep(0.01)
        super().sync(fd)


def test_nobody_waits_for_a_disk_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its image is held all the while: the others are enough for queries to see what was done."""
    stuck, data = tmp_path / "stuck", tmp_path / "data"
    monkeypatch.setattr(
        checkpointer, "CheckpointStore", lambda path: CheckpointStore(path, Stuck(stuck))
    )
    with running(app, readers=1, data=data, max_pin_ms=50) as server:
        stuck.touch()
        answer: list[dict[str, Any]] = []
        with server.client() as client:
            client.transfer(1, 2, 5)
        asking = threading.Thread(target=lambda: answer.append(ask(server)))
        asking.start()
        with server.client() as client:
            for number in range(50):
                client.transfer(1, 2, 1)
                assert client.balance(1) == CASH - 6 - number
                time.sleep(0.005)
            assert client.info()["writer"]["sync"]["pinned"] == 0
        assert not answer
        stuck.unlink()
        asking.join(30)
        assert answer[0]["sequence"] == checkpoints_in(data)[-1].sequence
        assert answer[0]["sequence"] < 50, "it shows the moment at which it was asked for"


def test_written_by_log_and_by_time_when_something_was_done(tmp_path: Path) -> None:
    options = {"checkpoint_after_bytes": 1 << 16, "readers": 1}
    with running(app, data=tmp_path / "log", **options) as server, load(server):
        wait_until(lambda: len(checkpoints_in(tmp_path / "log")) == 3)
    with running(app, readers=1, data=tmp_path / "time", checkpoint_interval_s=1) as server:
        with server.client() as client:
            last = client.reply("transfer", 1, 2, 5).sequence
        wait_until(lambda: checkpoints_in(tmp_path / "time")[-1].sequence >= last)
        count = len(checkpoints_in(tmp_path / "time"))
        time.sleep(1.2)
        assert len(checkpoints_in(tmp_path / "time")) == count, "nothing was done since"


def test_a_flipped_bit_is_found_and_repaired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = tmp_path / "again"
    really = checkpointer.Checkpointer._to_read_back

    def once_more(this: checkpointer.Checkpointer) -> Checkpoint | None:
        if again.exists():
            again.unlink()
            this._scrubbed.clear()
        return really(this)

    monkeypatch.setattr(checkpointer.Checkpointer, "_to_read_back", once_more)
    data = tmp_path / "data"
    with running(app, readers=1, data=data) as server:
        with server.client() as client:
            for _ in range(3):
                client.transfer(1, 2, 5)
                ask(server)
        wait_until(lambda: server.log().count("read back") >= 3)
        damaged = checkpoints_in(data)[1]
        flip(pages_file(damaged), read_manifest(damaged.path).extents[0].start * 4096 + 99)
        again.touch()
        aside = damaged.path.with_name(damaged.path.name + ".damaged")
        wait_until(aside.exists)
        wait_until(lambda: len(checkpoints_in(data)) == 3)
        assert len(whole(data)) == 3
        assert f"{damaged.path} is damaged: pages-" in server.log()
        assert server.stop() == 0


def test_the_log_goes_when_two_that_were_read_back_cover_it(tmp_path: Path) -> None:
    data, archive = tmp_path / "data", tmp_path / "archive"
    archive.mkdir()
    options = {"segment_bytes": 1 << 16, "checkpoint_after_bytes": 1 << 16, "readers": 1}
    with running(app, data=data, archive=archive, **options) as server:
        with load(server):
            wait_until(lambda: len(list(archive.iterdir())) >= 2)
        newest = checkpoints_in(data)[-2:]
        first = segments(data)[0].first
        assert first <= newest[0].sequence + 1, "what is beyond the older one is there"
        assert server.stop() == 0
    with running(app, readers=1, data=data) as server, server.client() as client:
        assert client.total() == TOTAL


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(app, readers=1, data=tmp_path) as server:
        with server.client() as client:
            client.transfer(1, 2, 5)
        assert cli.main(["checkpoint", server.address]) == 0
        newest = checkpoints_in(tmp_path)[-1]
        said = capsys.readouterr().out
        assert f"{newest.path.name} has everything up to transaction {newest.sequence}" in said
        assert "pages" in said
        assert cli.main(["checkpoint", server.address, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["sequence"] >= newest.sequence
    assert cli.main(["checkpoint", server.address, "--timeout", "0.2"]) == 1
    with running(app, readers=1) as server:
        assert cli.main(["checkpoint", server.address]) == 1
        assert "no data directory" in capsys.readouterr().err


def test_one_that_fails_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To those who asked; and is tried again, and the server goes on."""
    full = tmp_path / "full"

    class Full(Files):
        def reserve(self, fd: int, size_bytes: int, offset: int = 0) -> None:
            if full.exists():
                raise OSError(28, "No space left on device")
            super().reserve(fd, size_bytes, offset)

    monkeypatch.setattr(checkpointer, "CheckpointStore", lambda path: CheckpointStore(path, Full()))
    with running(app, readers=1, data=tmp_path / "data") as server:
        with server.client() as client:
            client.transfer(1, 2, 5)
        full.touch()
        with pytest.raises(ServerError, match=r"no checkpoint: .*No space left"):
            ask(server)
        full.unlink()
        assert ask(server)["pages"] > 0
        assert len(whole(tmp_path / "data")) == 2
