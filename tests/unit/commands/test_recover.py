"""`diptych recover`: the data as it was at a point, from whatever is whole, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support import logged as support
from tests.support.logged import BEGAN_NS, CASH, HISTORY, STEP_NS, TARGET, app, logged
from tests.unit.commands.conftest import Command
from tests.unit.commands.test_inspect import files_of
from tests.unit.commands.test_verify import changed_facts
from tests.unit.durable.checkpoints import flip

from diptych import App, Db, key
from diptych.commands.recover import time_of
from diptych.durable import DataDirectory, Ended, checkpoints_in, read_tail
from diptych.engine import recovering
from diptych.engine.copies import copy_of
from diptych.engine.engine import Engine
from diptych.errors import ConfigurationError


@contextmanager
def data_of(path: Path) -> Iterator[Engine]:
    """What a directory with one checkpoint has, checked."""
    (checkpoint,) = checkpoints_in(path)
    with copy_of(app, checkpoint) as copy:
        copy.engine.verify()
        yield copy.engine


def cash(engine: Engine) -> list[int]:
    return [int(engine.db.account[number].cash) for number in range(1, 7)]


def recovered(command: Command, path: Path, new: Path, *words: object) -> dict[str, Any]:
    code, said = command("recover", TARGET, path, "--to", new, *words, "--json")
    assert code == 0, said
    told: dict[str, Any] = json.loads(said[said.index("{") :])
    return told


def test_all_there_is_with_a_new_history(command: Command, usual: Path, tmp_path: Path) -> None:
    before = files_of(usual)
    told = recovered(command, usual, tmp_path / "new")
    assert (told["base"], told["sequence"], told["transactions"]) == (12, 15, 3)
    assert (told["left_out"], told["damage"], told["changed"]) == ([], [], [])
    with data_of(tmp_path / "new") as engine:
        assert engine.sequence == 15
        assert engine.history == told["history"] != HISTORY
        assert cash(engine) == [70, 125, 98, 107, 93, 107]
        assert len(engine.db.account) == 1410
        assert engine.requests.caller_of(2 << 20) == "till"
    assert files_of(usual) == before


@pytest.mark.parametrize(
    ("until", "base", "expected"),
    [
        (15, 12, [70, 125, 98, 107, 93, 107]),
        (14, 12, [70, 125, 98, 107, 97, 103]),
        (12, 12, [70, 125, 98, 107, 100, 100]),
        (10, 9, [70, 125, 98, 107, 100, 100]),
        (8, 1, [70, 130, 100, 100, 100, 100]),
        (4, 1, [70, 130, 100, 100, 100, 100]),
        (2, 1, [CASH] * 6),
        (1, 1, [CASH] * 6),
    ],
)
def test_up_to_a_transaction(
    command: Command, usual: Path, tmp_path: Path, until: int, base: int, expected: list[int]
) -> None:
    told = recovered(command, usual, tmp_path / "new", "--until", until)
    assert (told["base"], told["sequence"], told["last"]) == (base, until, 15)
    with data_of(tmp_path / "new") as engine:
        assert engine.sequence == until
        assert cash(engine) == expected
    if until < 15:
        assert told["left_out"] == [f"transactions {until + 1} to 15 of the log, as was asked for"]


def test_up_to_a_time(command: Command, usual: Path, tmp_path: Path) -> None:
    for number, (records, last) in enumerate([(1, 2), (2, 5), (3, 8), (4, 9), (5, 11)]):
        for after_ns in (0, STEP_NS - 1):
            new = tmp_path / f"{number}-{after_ns}"
            time_ns = BEGAN_NS + records * STEP_NS + after_ns
            told = recovered(command, usual, new, "--until-time", f"@{time_ns}")
            assert (told["sequence"], told["now_ns"]) == (last, BEGAN_NS + records * STEP_NS)
    told = recovered(command, usual, tmp_path / "iso", "--until-time", "2023-11-14T22:13:22.5Z")
    assert told["sequence"] == 5
    code, said = command(
        "recover", TARGET, usual, "--to", tmp_path / "x", "--until-time", "2023-11-14"
    )
    assert (code, (tmp_path / "x").exists()) == (1, False)
    assert "is that old: the oldest ends with transaction 1." in said


def test_times() -> None:
    assert time_of("2026-03-01T12:00:00.000001Z") == 1_772_366_400_000_001_000
    assert time_of("2026-03-01T12:00:00") == 1_772_366_400_000_000_000
    assert time_of("2026-03-01T13:00:00+01:00") == 1_772_366_400_000_000_000
    assert time_of("@17") == 17
    for wrong in ("yesterday", "@", "@1.5", ""):
        with pytest.raises(ConfigurationError, match="neither ISO 8601"):
            time_of(wrong)


def damage_log(path: Path, at: int) -> None:
    (log,) = path.glob("log-*")
    flip(log, at)


def test_a_damaged_log_gives_what_is_before_the_damage(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "data"
    with logged(path) as made:
        for _ in range(3):
            made.run(("pay", 1, 2, 10))
        (log,) = path.glob("log-*")
        before_bytes = 4096 + 2 * 104
    flip(log, before_bytes + 70)  # in the third of them
    told = recovered(command, path, tmp_path / "new")
    assert (told["sequence"], told["transactions"]) == (3, 2)
    (left_out,) = told["left_out"]
    assert "what the log had behind 3: it is damaged: log-" in left_out
    with data_of(tmp_path / "new") as engine:
        assert cash(engine)[:2] == [80, 120]
    told = recovered(command, path, tmp_path / "more", "--until", 4)
    assert told["sequence"] == 3
    assert "transactions 4 to 4: they were asked for, and neither" in told["left_out"][1]


def test_a_damaged_checkpoint_gives_the_one_before(
    command: Command, own: Path, tmp_path: Path
) -> None:
    flip(own / "pages-3.diptych", 3 * 4096)
    told = recovered(command, own, tmp_path / "new")
    assert (told["base"], told["sequence"]) == (9, 15)
    assert "page 3: its checksum differs" in told["damage"][0]
    damage_log(own, next(iter(read_tail(own, 9, None))).offset + 70)
    told = recovered(command, own, tmp_path / "old")
    assert (told["base"], told["sequence"]) == (9, 9)
    assert told["left_out"][-1] == (
        "what the damaged checkpoint of transaction 12 had, and the log has not"
    )
    for number in (1, 2):
        flip(own / f"pages-{number}.diptych", 2 * 4096)
    code, said = command("recover", TARGET, own, "--to", tmp_path / "none")
    assert code == 1
    assert said.count("its checksum differs") == 3
    assert "no checkpoint that would do is whole" in said


def test_a_replay_that_differs_stops_and_says_where(command: Command, tmp_path: Path) -> None:
    path, new = tmp_path / "data", tmp_path / "new"
    with logged(path) as made:
        made.run(("pay", 1, 2, 5))
        made.run(("drawn", 3))
        made.run(("pay", 1, 2, 5))
    code, said = command("recover", TARGET, path, "--to", new)
    assert code == 1
    assert "transactions 3 to 3 (drawn) end differently" in said
    assert "--until 2 makes a directory of what came before" in said
    assert not new.exists()
    assert recovered(command, path, new, "--until", 2)["sequence"] == 2


def test_other_code_is_refused_unless_it_is_meant(command: Command, tmp_path: Path) -> None:
    path, new = tmp_path / "data", tmp_path / "new"
    with logged(path, facts=changed_facts(code="other")) as made:
        made.run(("pay", 1, 2, 5))
        made.run(("pay", 1, 2, 5))
    code, said = command("recover", TARGET, path, "--to", new)
    assert code == 1
    assert "was written by something else: handlers' code. Use what wrote it" in said
    assert recovered(command, path, tmp_path / "base", "--until", 1)["changed"] == []
    told = recovered(command, path, new, "--with-changes")
    assert (told["sequence"], told["changed"]) == (3, ["handlers' code"])


def test_with_changes_an_answer_that_differs_stops_it(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "data"
    with logged(path, facts=changed_facts(code="other")) as made:
        made.run(("drawn", 1))
        made.run(("pay", 1, 2, 5))
    code, said = command("recover", TARGET, path, "--to", tmp_path / "new", "--with-changes")
    assert code == 1
    assert "(drawn) end differently" in said


def other_tables() -> App:
    other = App("logged", version=2)

    @other.table
    class Account:
        id: int = key()
        more: int = 0

    @other.transaction
    def pay(db: Db) -> None: ...

    return other


def test_data_of_other_tables_is_copied_but_its_log_not_run(
    command: Command, usual: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(support, "later", other_tables(), raising=False)
    target = "tests.support.logged:later"
    code, said = command("recover", target, usual, "--to", tmp_path / "new")
    assert code == 1
    assert "is of other tables than this code's" in said
    assert "--until 12" in said
    code, said = command("recover", target, usual, "--to", tmp_path / "new", "--until", 12)
    assert code == 0, said
    with data_of(tmp_path / "new") as engine:
        assert engine.sequence == 12
        assert engine.history != HISTORY


def test_capacities_are_those_of_the_data(command: Command, tmp_path: Path) -> None:
    path, capacities = tmp_path / "data", {"account": 300, "account.heap_bytes": 1 << 20}
    with logged(path, capacities=capacities) as made:
        made.run(("open_many", 100, 50))
        made.run(("open_many", 200, 500))  # more than there may be
        made.run(("pay", 1, 2, 3))
    told = recovered(command, path, tmp_path / "new")
    assert told["sequence"] == 4
    with data_of(tmp_path / "new") as engine:
        assert len(engine.db.account) == 60
        assert engine.layout.tables[0].capacity == 300


def test_what_a_server_there_does_now_is_not_in_it(
    command: Command, own: Path, tmp_path: Path
) -> None:
    with DataDirectory.open(own, app.name):
        told = recovered(command, own, tmp_path / "new")
    assert "what the server that runs there (process " in told["left_out"][0]


def test_the_new_directory_ended_in_order(command: Command, usual: Path, tmp_path: Path) -> None:
    recovered(command, usual, tmp_path / "new")
    with DataDirectory.open(tmp_path / "new", app.name) as directory:
        assert directory.ended is Ended.CLEAN


def test_where_it_may_go(command: Command, usual: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "empty").mkdir()
    for new, told in (
        (tmp_path / "full", "is not empty"),
        (tmp_path / "full" / "file", "no directory"),
        (usual / "inside", "is inside of"),
    ):
        code, said = command("recover", TARGET, usual, "--to", new)
        assert code == 2
        assert told in said
    code, said = command("recover", TARGET, usual, "--to", tmp_path / "empty", "--until", 0)
    assert (code, "numbered from 1" in said) == (2, True)
    recovered(command, usual, tmp_path / "empty", "--until", 3)
    code, said = command("recover", TARGET, tmp_path / "full", "--to", tmp_path / "x")
    assert (code, "there is no checkpoint in" in said) == (1, True)
    assert command("recover", TARGET, tmp_path / "nowhere", "--to", tmp_path / "x")[0] == 2


def test_a_full_disk_leaves_nothing_behind(
    command: Command, usual: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recovering, "save", full)
    (tmp_path / "there").mkdir()
    for new in (tmp_path / "new", tmp_path / "there"):
        code, said = command("recover", TARGET, usual, "--to", new)
        assert code == 1
        assert "No space left on device" in said
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "there").exists(), "it is not ours"


def test_a_checkpoint_that_is_replaced_meanwhile_is_looked_for_again(
    command: Command, usual: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load: Callable[..., Any] = recovering.load
    calls = 0

    def replaced_once(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise recovering.CheckpointReplaced("it is gone")
        return load(*arguments)

    monkeypatch.setattr(recovering, "load", replaced_once)
    assert recovered(command, usual, tmp_path / "new")["sequence"] == 15
    assert calls == 2
