"""The host's clock jumps back: the transactions' time does not, nor after a restart."""

from __future__ import annotations

import mmap
import os
import signal
import time
from pathlib import Path

import pytest
from tests.support.history import check
from tests.support.ledger import app, table_of
from tests.support.ledger_load import Script
from tests.support.wire import alive, wait_until

from diptych.serving.local import running

HOUR_NS = 3600 * 1_000_000_000


def test_time_never_goes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("q")  # by all processes
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + shared[0])
    data, script = tmp_path / "data", Script(1, seed=6)
    with running(app, data=data, readers=1) as server:
        address = server.address
        with server.client() as client:
            for _ in range(20):
                script.step(client)
            jumped = len(table_of(client)[0])
            shared[0] = -HOUR_NS
            for _ in range(20):
                script.step(client)
            # What the log has of these is an earlier time, and a later writer runs it again.
            os.kill(server.pids["writer"][0], signal.SIGKILL)
            for _ in range(20):
                script.step(client)
            pids = [pid for role in server.pids.values() for pid in role]
            os.kill(server.pid, signal.SIGKILL)
            assert server.wait() == -signal.SIGKILL
            wait_until(lambda: not any(alive(pid) for pid in pids))
            with running(app, data=data, readers=1, listen=[address]):
                for _ in range(20):
                    script.step(client)
                entries, balances = table_of(client)
                verdict = check(script.seen.transfers, script.seen.looks, entries, balances)
    assert verdict.well, "\n".join(verdict.lines())
    assert len({entry.time_ns for entry in entries[:jumped]}) > 1
    assert len({entry.time_ns for entry in entries[jumped:]}) == 1, "the clock did not jump"
    shared.release()
