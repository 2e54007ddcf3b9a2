"""The log can't be written: nobody is told anything that is not so, and queries go on."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.history import Verdict, check
from tests.support.ledger import app, table_of
from tests.support.ledger_load import Script
from tests.support.wire import wait_until

from diptych.durable import Files
from diptych.durable.aio import Syncer, ThreadSyncer
from diptych.serving.local import Server, running
from diptych_client import Client, DiptychError, OutcomeUnknown, Unavailable
from diptych_client.errors import LogFailed

SMALL = {"readers": 1, "segment_bytes": 1 << 16}


class Fault:
    """Something that goes wrong in a server while it is `on`; `fired` once it has."""

    def __init__(self, path: Path, number: int) -> None:
        self._on, self._fired, self._number = path / "on", path / "fired", number

    def on(self) -> None:
        self._on.touch()

    def off(self) -> None:
        self._on.unlink()

    @property
    def fired(self) -> bool:
        return self._fired.exists()

    def strike(self) -> None:
        """Called in the server's processes. Errors: OSError while it is on."""
        if self._on.exists():
            self._fired.touch()
            raise OSError(self._number, os.strerror(self._number))


def steps(script: Script, client: Client, count: int) -> None:
    for _ in range(count):
        assert script.step(client) is None or script.seen.transfers[-1].code in (
            "insufficient_funds",
            "server_error",
        )


def verdict_of(server: Server, *scripts: Script) -> Verdict:
    with server.client() as client:
        entries, balances = table_of(client)
    transfers = [each for script in scripts for each in script.seen.transfers]
    looks = [each for script in scripts for each in script.seen.looks]
    return check(transfers, looks, entries, balances)


def failing_sync(fault: Fault) -> Callable[[Files], Syncer]:
    def syncer(files: Files) -> Syncer:
        def sync(fd: int) -> None:
            fault.strike()
            files.sync_data(fd)

        return ThreadSyncer(sync)

    return syncer


def failing_write(fault: Fault) -> Callable[..., None]:
    really_write = Files.write_parts

    def write_parts(files: Files, *given: Any) -> None:
        fault.strike()
        really_write(files, *given)

    return write_parts


@pytest.mark.parametrize("what", ["sync", "write"])
def test_a_failure_is_the_end_of_transactions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    fault, data = Fault(tmp_path, errno.EIO), tmp_path / "data"
    script, later = Script(1, seed=1), Script(2, seed=1)
    with monkeypatch.context() as patch:
        if what == "sync":
            patch.setattr(Files, "syncer", failing_sync(fault))
        else:
            patch.setattr(Files, "write_parts", failing_write(fault))
        with running(app, data=data, **SMALL) as server, server.client() as client:
            steps(script, client, 30)
            (writer,) = server.pids["writer"]
            fault.on()
            while not fault.fired:
                script.step(client)
            wait_until(lambda: "writer" not in server.pids)
            with pytest.raises(LogFailed):
                client.transfer(3, 1, 1, 2, 1)
            # Queries go on, with what was durable.
            fresh = server.client()
            assert fresh.glance().money == client.using(fresh=False).glance().money
            fresh.close()
            assert script.seen.transfers[-1].ended.name in ("UNKNOWN", "UNDONE", "DONE")
            assert f"writer, pid {writer}, ended: exit code 5" in server.log()
            assert "the log can't be written" in server.log()
            assert server.stop() == 1
    with running(app, data=data, **SMALL) as server:
        with server.client() as client:
            steps(later, client, 30)
        verdict = verdict_of(server, script, later)
    assert verdict.well, "\n".join(verdict.lines())


def test_a_full_disk_is_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No next file of the log can be had: nothing happens, and it is said so, until there is."""
    fault, data = Fault(tmp_path, errno.ENOSPC), tmp_path / "data"
    really_reserve = Files.reserve

    def reserve(files: Files, fd: int, *given: Any) -> None:
        if "log-next" in os.readlink(f"/proc/self/fd/{fd}"):
            fault.strike()
        really_reserve(files, fd, *given)

    monkeypatch.setattr(Files, "reserve", reserve)
    script = Script(1, seed=1)
    with running(app, data=data, **SMALL) as server, server.client() as client:
        steps(script, client, 20)
        (writer,) = server.pids["writer"]
        fault.on()
        refused: DiptychError | None = None
        while refused is None:
            error = script.step(client)
            refused = error if isinstance(error, Unavailable) else None
        assert fault.fired
        assert "no room" in str(refused)
        assert client.glance().count > 0
        fault.off()
        steps(script, client, 50)
        assert server.pids["writer"] == [writer]
        verdict = verdict_of(server, script)
        assert verdict.well, "\n".join(verdict.lines())
        assert server.stop() == 0
    with running(app, data=data, **SMALL) as server:
        verdict = verdict_of(server, script)
    assert verdict.well, "\n".join(verdict.lines())


def test_an_unknown_outcome_is_told_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault, data = Fault(tmp_path, errno.EIO), tmp_path / "data"
    with monkeypatch.context() as patch:
        patch.setattr(Files, "syncer", failing_sync(fault))
        with running(app, data=data, **SMALL) as server, server.client() as client:
            address = server.address
            assert client.transfer(1, 1, 1, 2, 5).balance == 995
            fault.on()
            with pytest.raises(OutcomeUnknown) as unknown:
                client.transfer(1, 2, 1, 2, 5)
            assert fault.fired
            assert server.stop() == 1
    with (
        running(app, data=data, listen=[address], **SMALL) as server,
        server.client() as client,
    ):
        there = [entry for entry in table_of(client)[0] if entry.number == 2]
        try:
            sequence, balance = client.outcome(unknown.value.request)
        except Unavailable:  # NotExecuted
            assert not there
        else:
            assert [entry.sequence for entry in there] == [sequence]
            assert balance == 990
