"""A server with a data directory: stopped and started again, migrated, refused, killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from tests.support.trouble import ACCOUNTS, CASH, app
from tests.support.wire import wait_until
from tests.unit.durable.checkpoints import flip, pages_file

from diptych import App, Db, key, ordered
from diptych.cli import main
from diptych.durable import checkpoints_in, verify_pages
from diptych.serving import supervisor
from diptych.serving.local import running
from diptych.serving.reader import ReaderPlan
from diptych.serving.reader import main as read

TOTAL = ACCOUNTS * CASH


def bank(version: int = 1, *, more: bool = False, changed: bool = False) -> App:
    """An application, or what becomes of it: with a column, an index and a table more."""
    app = App("bank", version=version)
    namespace: dict[str, object] = {
        "__annotations__": {"id": int, "cash": float if changed else int},
        "id": key(),
        "cash": 0,
    }
    if more:
        namespace["__annotations__"]["limit"] = int  # type: ignore[index]  # a dict, typed as object
        namespace |= {"limit": 50, "by_cash": ordered("cash", "id")}
    app.table(type("Account", (), namespace))
    if more:
        app.table(type("Branch", (), {"__annotations__": {"id": int}, "id": key()}))

        @app.query
        def richest(db: Db) -> tuple[int, int, int]:
            row = db.account.by_cash.last()
            return row.id, row.limit, len(db.branch)

    @app.setup
    def setup(db: Db) -> None:
        for number in range(1, 11):
            db.account.insert(id=number, cash=100)

    @app.transaction
    def pay(db: Db, account: int, amount: int) -> int:
        db.account[account].cash += amount
        return int(db.account[account].cash)

    @app.query
    def total(db: Db) -> float:
        return float(db.account.columns().cash.sum())

    return app


def test_what_was_there_is_there_again(tmp_path: Path) -> None:
    data = tmp_path / "made" / "here"
    with running(app, readers=1, data=data) as server, server.client() as client:
        assert f"leaves when its transaction is on the disk, in {data}" in server.log()
        for number in range(1, 11):
            last = client.reply("transfer", number, number + 1, number).sequence
        balances = [client.balance(number) for number in range(1, ACCOUNTS + 1)]
        client.close()
        assert server.stop() == 0
        assert "ended in order" in server.log()
    assert [checkpoint.sequence for checkpoint in checkpoints_in(data)] == [1, last]
    with running(app, readers=1, data=data) as server, server.client() as client:
        assert [client.balance(number) for number in range(1, ACCOUNTS + 1)] == balances
        assert client.reply("transfer", 1, 2, 1).sequence > last
        assert client.total() == TOTAL


def test_nothing_new_is_not_saved_again(tmp_path: Path) -> None:
    for _ in range(3):
        with running(app, readers=1, data=tmp_path) as server:
            assert server.stop() == 0
            log = server.log()
        assert "nothing to save" in log
    assert len(checkpoints_in(tmp_path)) == 1


def test_a_start_after_a_clean_stop_goes_on_with_the_history(tmp_path: Path) -> None:
    address = "127.0.0.1:0"
    with running(app, readers=1, data=tmp_path, listen=[address]) as server:
        client = server.client()
        client.transfer(1, 2, 5)
        address = server.address
        assert server.stop() == 0
    with running(app, readers=1, data=tmp_path, listen=[address]):
        assert client.balance(1) == CASH - 5
        client.close()


def test_a_damaged_checkpoint_is_passed_over_when_the_log_has_it(tmp_path: Path) -> None:
    with running(app, readers=1, data=tmp_path) as server:
        with server.client() as client:
            client.transfer(1, 2, 5)
        assert server.stop() == 0
    older, newest = checkpoints_in(tmp_path)
    flip(pages_file(newest), 4096)
    with running(app, readers=1, data=tmp_path) as server:
        with server.client() as client:
            assert client.balance(1) == CASH - 5
        assert older in checkpoints_in(tmp_path)
        assert newest not in checkpoints_in(tmp_path), "it would be taken for what is saved"
        assert server.stop() == 0
    assert newest.path.with_name(newest.path.name + ".damaged").exists()
    for checkpoint in checkpoints_in(tmp_path):
        verify_pages(checkpoint, lambda _: None)
    assert checkpoints_in(tmp_path)[-1].sequence >= newest.sequence


def test_a_second_server_is_refused(tmp_path: Path) -> None:
    with running(app, readers=1, data=tmp_path) as server:
        with (
            pytest.raises(RuntimeError, match=r"in use by another server .*trouble"),
            running(app, readers=1, data=tmp_path),
        ):
            pass
        with server.client() as client:
            assert client.total() == TOTAL


def test_data_of_another_application_is_refused(tmp_path: Path) -> None:
    with running(app, readers=1, data=tmp_path) as server:
        server.stop()
    with (
        pytest.raises(RuntimeError, match="'trouble', not of 'bank'"),
        running(bank(), readers=1, data=tmp_path),
    ):
        pass


def test_a_writer_that_is_replaced_goes_on_and_saves(tmp_path: Path) -> None:
    """It must not go back to the checkpoint, nor leave the directory locked."""
    with running(app, readers=1, data=tmp_path) as server, server.client() as client:
        client.transfer(1, 2, 5)
        assert client.balance(1) == CASH - 5  # so an image has it
        os.kill(server.pids["writer"][0], signal.SIGKILL)
        client.transfer(1, 2, 5)
        assert client.balance(1) == CASH - 10
        assert server.stop() == 0
    with running(app, readers=1, data=tmp_path) as server, server.client() as client:
        assert client.balance(1) == CASH - 10


def test_a_writer_killed_at_the_stop_is_replaced_to_save(tmp_path: Path) -> None:
    with running(app, readers=1, data=tmp_path, drain_ms=2000) as server:
        with server.client() as client:
            client.transfer(1, 2, 5)
            assert client.balance(1) == CASH - 5
            (writer,) = server.pids["writer"]
            os.kill(writer, signal.SIGSTOP)
            server.signal(signal.SIGTERM)
            wait_until(lambda: "draining" in server.log())
            os.kill(writer, signal.SIGKILL)
        assert server.wait() == 1
        assert "region restored from image" in server.log()
    with running(app, readers=1, data=tmp_path) as server, server.client() as client:
        assert client.balance(1) == CASH - 5


def test_a_server_that_gives_up_saves_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers that can't live any more end the server; what transactions did is kept."""
    broken = tmp_path / "broken"

    def read_or_not(plan: ReaderPlan) -> int:
        return 1 if broken.exists() else read(plan)

    monkeypatch.setattr(supervisor.reader, "main", read_or_not)
    data = tmp_path / "data"
    with running(app, readers=1, data=data) as server:
        with server.client() as client:
            client.transfer(1, 2, 5)
        broken.touch()
        os.kill(server.pids["reader"][0], signal.SIGKILL)
        assert server.wait(timeout_s=60) == 1
        assert "giving up" in server.log()
    broken.unlink()
    with running(app, readers=1, data=data) as server, server.client() as client:
        assert client.balance(1) == CASH - 5


def test_added_columns_indexes_and_tables_are_migrated(tmp_path: Path) -> None:
    with running(bank(), readers=1, data=tmp_path) as server, server.client() as client:
        client.pay(7, 5)
    with running(bank(more=True), readers=1, data=tmp_path) as server, server.client() as client:
        assert list(client.richest()) == [7, 50, 0]
        assert client.total() == 1005
        client.pay(3, 50)
        assert client.richest()[0] == 3
        log = server.log()
    assert "table account, column limit: new, int, filled with 50" in log
    assert "table account, index by_cash: new, ordered(cash, id)" in log
    assert "table branch: new" in log
    with running(bank(more=True), readers=1, data=tmp_path) as server, server.client() as client:
        assert client.richest()[0] == 3
        assert "migrating" not in server.log()


def test_other_differences_are_refused_exactly_and_migrated_on_demand(tmp_path: Path) -> None:
    with running(bank(), readers=1, data=tmp_path) as server, server.client() as client:
        client.pay(7, 5)
    with (
        pytest.raises(RuntimeError, match="table account, column cash: int -> float"),
        running(bank(changed=True), readers=1, data=tmp_path),
    ):
        pass
    newer = bank(version=2, changed=True)

    @newer.migration(from_version=1)
    def halves(old: Db, new: Db) -> None:
        for row in old.account:
            new.account.insert(id=row.id, cash=row.cash / 2)

    with running(newer, readers=1, data=tmp_path) as server, server.client() as client:
        assert client.total() == 502.5
        assert "the application's migration halves" in server.log()
    with (
        pytest.raises(RuntimeError, match="version 2 of bank, and this is version 1"),
        running(bank(), readers=1, data=tmp_path),
    ):
        pass


def test_serve_says_what_is_wrong_and_ends_with_2(tmp_path: Path) -> None:
    """As a person runs it: damage, or a schema that does not fit; nothing is changed."""
    source = """
        from diptych import App, Db, key
        app = App("bank")
        @app.table
        class Account:
            id: int = key()
            cash: {kind} = 0
        @app.setup
        def setup(db: Db) -> None:
            db.account.insert(id=1)
    """
    module, data = tmp_path / "bank.py", tmp_path / "data"

    def serve() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "diptych.cli", "serve", "bank:app", "--readers", "1"),
                *("--listen", "127.0.0.1:0", "--data", str(data)),
            ],
            cwd=tmp_path,
            env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )

    module.write_text(textwrap.dedent(source.format(kind="int")))
    served = serve()
    assert served.stderr is not None
    for line in served.stderr:
        if "durability" in line:
            break
    served.send_signal(signal.SIGTERM)
    assert served.wait(timeout=30) == 0
    served.stderr.close()
    (checkpoint,) = checkpoints_in(data)
    module.write_text(textwrap.dedent(source.format(kind="float")))
    refused = serve()
    _, said = refused.communicate(timeout=60)
    assert refused.returncode == 2, said
    assert "table account, column cash: int -> float" in said
    module.write_text(textwrap.dedent(source.format(kind="int")))
    flip(pages_file(checkpoint), 4096)
    damaged_bytes = pages_file(checkpoint).read_bytes()
    damaged = serve()
    _, said = damaged.communicate(timeout=60)
    assert damaged.returncode == 2, said
    assert f"{checkpoint.path} is damaged: pages-1.diptych: page 1" in said
    assert pages_file(checkpoint).read_bytes() == damaged_bytes


def test_commands_bring_a_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DIPTYCH_TOKEN", raising=False)
    with running(app, readers=1, data=tmp_path, tokens={"desk": "a secret"}) as server:
        assert main(["call", server.address]) == 2
        assert "the token is missing" in capsys.readouterr().err
        assert main(["call", server.address, "--token", "another"]) == 2
        assert "the token is not known" in capsys.readouterr().err
        assert main(["checkpoint", server.address]) == 1
        monkeypatch.setenv("DIPTYCH_TOKEN", "a secret")
        assert main(["call", server.address]) == 0
        assert main(["checkpoint", server.address]) == 0
