"""`diptych debug`: one transaction again, as it was, driven through stdin as a pipe would."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import msgpack
import pytest
from tests.support.logged import NUMBERS, TARGET, logged
from tests.unit.commands.conftest import Command
from tests.unit.commands.test_inspect import files_of
from tests.unit.commands.test_verify import changed_facts
from tests.unit.durable.checkpoints import flip

from diptych_client.protocol import Kind, encode_frame

Debug = Callable[..., tuple[int, str]]


@pytest.fixture
def debug(command: Command, monkeypatch: pytest.MonkeyPatch) -> Debug:
    """Runs `diptych debug` of a transaction with these lines at pdb's prompt."""

    def run(path: Path, sequence: int, *lines: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        return command("debug", TARGET, path, "--at", sequence)

    return run


def test_it_stops_at_the_handler_with_everything_as_it_was(debug: Debug, usual: Path) -> None:
    before = files_of(usual)
    asked = (
        "p (source, target, amount)",
        "p db.account[5].cash, db.account[6].cash",
        "p db.caller",
    )
    code, said = debug(usual, 14, *asked, "p db.sequence", "n", "n", "p payer.cash", "c")
    assert code == 0, said
    assert "transaction 14: pay(source=5, target=6, amount=2)" in said
    assert "request 11, session 2097152 of till; db.now 1700000007000000000" in said
    assert "-> payer, payee = db.account[source], db.account[target]" in said
    for told in ("(5, 6, 2)", "(99, 101)", "'till'", "14", "97"):
        assert f"(Pdb) {told}\n" in said
    assert said.endswith("it answers 97\n")
    assert files_of(usual) == before


def test_a_transaction_from_before_the_newest_checkpoint(debug: Debug, usual: Path) -> None:
    code, said = debug(usual, 6, "p len(db.account)", "r", "p len(db.account)", "c")
    assert code == 0
    assert "(Pdb) 10\n" in said
    assert "(Pdb) 810\n" in said
    assert "it answers None" in said, "memory was given where it was needed"


def test_what_became_of_it_is_told(debug: Debug, usual: Path) -> None:
    _, said = debug(usual, 4, "c")
    assert "it is rejected, and undone: insufficient_funds {}" in said
    _, said = debug(usual, 7, "c")
    assert "ZeroDivisionError: a bug in a handler" in said, "with its traceback"
    assert "it fails, and is undone: {'code': 'server_error'" in said


def test_what_the_log_says_was_ended_runs_all_the_same(debug: Debug, usual: Path) -> None:
    code, said = debug(usual, 8, "p 'here'", "q")
    assert code == 0
    assert "the log says that it ended by RECURSION, and was undone; here it runs" in said
    assert "(Pdb) 'here'" in said
    assert "-> descend(db)" in said


def test_leaving_in_the_middle(debug: Debug, usual: Path) -> None:
    for lines in (("q",), ()):  # and at the end of what was piped
        code, said = debug(usual, 15, *lines)
        assert code == 0
        assert said.rstrip().endswith("left before its end; nothing was written")
        assert "it answers" not in said


def test_what_is_no_handler_s_is_said(debug: Debug, tmp_path: Path) -> None:
    path = tmp_path / "data"
    with logged(path) as made:
        made.open_session()
        made.run(("pay", 1, 2, 30), session=True)
        made.request -= 1
        made.run(("pay", 1, 2, 30), session=True)  # again
        garbage = [(NUMBERS["pay"], b"\xc1"), (999, msgpack.packb([])), (NUMBERS["cash"], b"\x90")]
        frames = [encode_frame(Kind.TRANSACTION, raw, operation=what) for what, raw in garbage]
        made.send(b"".join(frames), len(frames))
        made.keyed("a key", "pay", 1, 2, 3)
    code, said = debug(path, 2)
    assert code == 0
    assert "transaction 2: session_open(" in said
    assert "this is no transaction of the application's" in said
    assert "it answers 2097152" in said
    for sequence, told in (
        (4, "it answers 70"),
        (5, "the payload is not msgpack"),
    ):
        _, said = debug(path, sequence)
        assert "its handler does not run: the answer is given before" in said
        assert told in said
    for sequence, told in ((6, "has no operation number 999"), (7, "cash is a query")):
        _, said = debug(path, sequence)
        assert "this is no transaction of the application's" in said
        assert told in said
    _, said = debug(path, 8, "c")
    assert "key 'a key'" in said
    assert "it answers 67" in said


def test_changed_code_is_said(debug: Debug, tmp_path: Path) -> None:
    with logged(tmp_path / "data", facts=changed_facts(code="other")) as made:
        made.run(("pay", 1, 2, 30))
    code, said = debug(tmp_path / "data", 2, "c")
    assert code == 0
    assert "this changed since the log was written: handlers' code" in said


def test_what_is_not_there(debug: Debug, own: Path, tmp_path: Path) -> None:
    for sequence, told in (
        (1, "no checkpoint ends before transaction 1; the oldest ends with 1"),
        (16, "transaction 16 is not in the log; behind checkpoint-"),
    ):
        code, said = debug(own, sequence)
        assert code == 1
        assert f"diptych debug: {told}" in said
    assert debug(own, 0)[0] == 2
    assert debug(tmp_path / "nowhere", 2)[0] == 2
    (tmp_path / "empty").mkdir()
    code, said = debug(tmp_path / "empty", 2)
    assert (code, "there is no checkpoint in" in said) == (1, True)
    flip(sorted(own.glob("checkpoint-*"))[2], 40)
    code, said = debug(own, 14, "p db.account[5].cash", "c")
    assert code == 0, "the checkpoint before it will do"
    assert "(Pdb) 99" in said


def test_data_before_it_that_comes_out_otherwise_stops_it(debug: Debug, tmp_path: Path) -> None:
    with logged(tmp_path / "data") as made:
        made.run(("drawn", 1))
        made.run(("pay", 1, 2, 30))
        made.run(("pay", 1, 2, 30))
    code, said = debug(tmp_path / "data", 4, "c")
    assert code == 1
    assert "(drawn) end differently" in said
