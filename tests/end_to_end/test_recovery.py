"""What a server leaves when everything is killed, and the commands that make something of it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.logged import ACCOUNTS, CASH, TARGET, app
from tests.unit.durable.checkpoints import flip

from diptych.durable import checkpoints_in, read_manifest, read_tail
from diptych.engine.survey import survey
from diptych.serving.local import running
from diptych_client import Client

ROOT = Path(__file__).parents[2]
WHERE = {"PYTHONPATH": os.pathsep.join(str(ROOT / each) for each in ("client", "server", "."))}
DIPTYCH = [sys.executable, "-m", "diptych.cli"]


def diptych(*words: object, place: Path) -> subprocess.CompletedProcess[str]:
    """Run a command as a user does, in this directory."""
    command = [*DIPTYCH, *map(str, words)]
    return subprocess.run(
        command, cwd=place, env=os.environ | WHERE, capture_output=True, text=True, timeout=60
    )


def paid(client: Client, times: int) -> int:
    """Pay so often from account 1 to 2; the number of the last transaction."""
    sequence = 0
    for _ in range(times):
        sequence = client.reply("pay", 1, 2, 1).sequence
    return sequence


def killed_after_payments(data: Path) -> int:
    """A server's directory after 30 payments and the end of all its processes: the last number."""
    with running(app, readers=1, data=data) as server, server.client() as client:
        last = paid(client, 30)
        client.close()
        server.signal(signal.SIGKILL)
        server.wait()
    return last


def test_back_to_a_point_after_everything_was_killed(tmp_path: Path) -> None:
    data, new = tmp_path / "data", tmp_path / "new"
    last = killed_after_payments(data)
    done = diptych(
        "recover", TARGET, data, "--to", new, "--until", last - 10, "--json", place=tmp_path
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["sequence"] == last - 10
    assert told["left_out"] == [f"transactions {last - 9} to {last} of the log, as was asked for"]
    histories = []
    for path, count in ((new, 20), (data, 30)):
        with running(app, readers=1, data=path) as server, server.client() as client:
            assert [client.cash(number) for number in (1, 2)] == [CASH - count, CASH + count]
            assert sum(client.cash(number) for number in range(1, ACCOUNTS + 1)) == ACCOUNTS * CASH
            paid(client, 1)
            client.close()
            assert server.stop() == 0
        histories.append(read_manifest(checkpoints_in(path)[-1].path).history)
    assert histories[0] == told["history"] != histories[1]
    verified = diptych("verify", TARGET, data, place=tmp_path)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "pages as in" in verified.stdout


def test_while_a_server_runs_there(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running(app, readers=1, data=data) as server, server.client() as client:
        last = paid(client, 5)
        found = survey(data)
        assert found.lock is not None
        assert found.lock.held
        assert found.damage == []
        done = diptych("recover", TARGET, data, "--to", "NEW", "--json", place=tmp_path)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told["sequence"] == last
        assert "what the server that runs there" in told["left_out"][0]
        listed = diptych("inspect", data, "--records", "--app", TARGET, place=tmp_path)
        assert listed.returncode == 0
        assert listed.stdout.count("pay(source=1, target=2, amount=1)") == 5
        assert paid(client, 1) == last + 1, "nothing of this is in its way"


def test_handlers_that_a_recovery_would_run_otherwise_are_named(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running(app, readers=1, data=data) as server, server.client() as client:
        client.count(4)
        assert diptych("checkpoint", server.address, place=tmp_path).returncode == 0
        for number in range(5, 8):
            client.first_of_set(number)
        client.draw(3)
        client.count(4)
        client.close()
        assert server.stop() == 0
    done = diptych("verify", TARGET, data, "--json", place=tmp_path)
    assert done.returncode == 1
    stretches = json.loads(done.stdout)["stretches"]
    named = {(d["table"], d["column"], d["key"]) for s in stretches for d in s["differences"]}
    assert {("account", "rate", "3"), ("account", "cash", "4")} <= named
    assert any(column == "owner" for _, column, _ in named)


def test_a_damaged_log_refuses_to_start_and_what_it_advises_works(tmp_path: Path) -> None:
    data = tmp_path / "data's"  # for a shell to be careful with
    last = killed_after_payments(data)
    base = checkpoints_in(data)[-1].sequence
    record = next(each for each in read_tail(data, base, None) if each.first > base + 10)
    flip(record.segment.path, record.offset + 80)
    settings = ["--listen", "127.0.0.1:0", "--readers", "1"]
    refused = diptych("serve", TARGET, "--data", data, *settings, place=tmp_path)
    assert refused.returncode == 2
    assert "the log is damaged, in what was durable: log-" in refused.stderr
    advised = re.search(r"`diptych (recover [^`]*)`", refused.stderr)
    assert advised is not None
    ran = subprocess.run(
        ["sh", "-c", f"exec {' '.join(DIPTYCH)} {advised[1]}"],
        cwd=tmp_path,
        env=os.environ | WHERE,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    count = record.first - 1 - (last - 30)
    with running(app, readers=1, data=tmp_path / "NEW") as server, server.client() as client:
        assert client.cash(1) == CASH - count
    again = diptych("inspect", data, place=tmp_path)
    assert again.returncode == 1
    assert "DAMAGED: the log is damaged" in again.stdout


@pytest.mark.parametrize("command", ["inspect", "verify", "recover", "debug"])
def test_help_helps(command: str, tmp_path: Path) -> None:
    done = diptych(command, "--help", place=tmp_path)
    assert done.returncode == 0
    assert "Exit codes:" in done.stdout
