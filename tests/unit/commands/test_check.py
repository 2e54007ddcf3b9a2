"""`diptych check`: what it says of applications and of data, and with which exit code."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support import logged
from tests.support.logged import TARGET
from tests.support.versions import store
from tests.unit.commands.conftest import Command
from tests.unit.durable.checkpoints import flip, pages_file

from diptych import App, Db, key, ordered, ref
from diptych.cli import main
from diptych.durable import checkpoints_in
from diptych.engine import facts

SOURCE = """
from diptych import App, Db, key, ordered, ref
app = App("shop", version={version})
@app.table(capacity=1000)
class Owner:
    id: int = key()
@app.table(capacity=1000)
class Item:
    id: int = key()
    price: {kind} = 0
    owner: int = {owner}
    {more}
@app.invariant
def nothing_is_dear(db: Db) -> bool:
    return bool((db.item.columns().price < {limit}).all())
"""


def shop() -> App:
    app = App("shop")

    @app.table(capacity=1000)
    class Owner:
        id: int = key()

    @app.table(capacity=1000)
    class Item:
        id: int = key()
        price: int = 0
        owner: int = 0
        by_price = ordered("price")

    return app


def fill(db: Db) -> None:
    db.owner.insert(id=1)
    for number in range(100):
        db.item.insert(id=number, price=number, owner=number % 3)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory to write applications in, with two checkpoints of `shop` in `data`."""
    for _ in range(2):
        store(shop(), tmp_path / "data", fill)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("checked_")]:
        del sys.modules[name]


def write(place: Path, name: str, **parts: Any) -> str:
    given = {
        "version": 1,
        "kind": "int",
        "owner": 0,
        "more": 'by_price = ordered("price")',
        "limit": 1000,
    }
    (place / f"checked_{name}.py").write_text(SOURCE.format(**(given | parts)))
    return f"checked_{name}:app"


def check(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = main(["check", *words])
    told = capsys.readouterr()
    return code, told.out + told.err


def test_an_application_alone(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = check(capsys, write(place, "alone"))
    assert code == 0
    assert "shop, version 1: 2 tables, 0 operations" in said
    assert said.endswith("all is well\n")


def test_what_is_wrong_is_told_as_json_too(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = check(capsys, "nowhere:app", "--json")
    assert code == 2
    told = json.loads(said)
    assert not told["sound"]
    assert "there is no module 'nowhere'" in told["error"]


def test_ctrl_c_ends_it_quietly_at_any_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(name: str) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("importlib.import_module", interrupted)
    assert main(["check", "shop:app"]) == 130
    assert capsys.readouterr().err == ""


def test_data_that_is_right(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = check(capsys, write(place, "right"), "--data", "data")
    assert code == 0, said
    assert said.count("all checksums right") == 2
    assert "table item: 100 of 1,000 rows (10.0 %); by_price" in said
    assert "structures: right (101 rows" in said
    assert "invariant nothing_is_dear: holds" in said
    assert "a start uses the newest checkpoint as it is" in said


def test_as_json(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = check(capsys, write(place, "json"), "--data", "data", "--json")
    told = json.loads(said)
    assert (code, told["sound"], told["data"]["start"]) == (0, True, "load")
    assert told["data"]["tables"][1]["rows"] == 100


def test_what_a_replay_may_do_otherwise_is_a_warning(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = write(place, "clock")
    with (place / "checked_clock.py").open("a") as file:
        file.write("import time\n@app.transaction\ndef go(db: Db) -> float:\n")
        file.write("    return time.time()\n")
    code, said = check(capsys, name)
    line = len((place / "checked_clock.py").read_text().splitlines())
    told = f"checked_clock.py:{line}: go: time.time: each run reads another time; use db.now\n"
    assert code == 0
    assert f"warning: {place}/{told}" in said
    code, said = check(capsys, name, "--json")
    (hazard,) = json.loads(said)["hazards"]
    assert (code, hazard["line"], hazard["operations"]) == (0, line, ["go"])
    assert hazard["cure"].endswith("use db.now")


def test_a_directory_without_data(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = write(place, "empty")
    (place / "nothing").mkdir()
    code, said = check(capsys, name, "--data", "nothing")
    assert code == 0
    assert "a start begins with nothing" in said
    code, said = check(capsys, name, "--data", "not_there")
    assert code == 2
    assert "is not a directory" in said
    assert not (place / "not_there").exists()


def test_what_would_be_migrated(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(os.listdir(place / "data"))
    name = write(place, "more", owner="ref(Owner)", more="stock: int = 5")
    code, said = check(capsys, name, "--data", "data")
    assert code == 0, said
    assert "a start migrates the newest checkpoint" in said
    assert "table item, column stock: new, int, filled with 5" in said
    assert "table item, index by_price: removed" in said
    assert "invariant nothing_is_dear: holds" in said
    assert sorted(os.listdir(place / "data")) == before


def test_what_would_be_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = check(capsys, write(place, "changed", kind="float"), "--data", "data")
    assert code == 1
    assert "a start REFUSES" in said
    assert "table item, column price: int -> float" in said
    assert said.endswith("not all is well\n")


def test_a_migration_that_would_fail(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = write(place, "failing", kind="float", version=2, more="")
    with (place / "checked_failing.py").open("a") as file:
        file.write("@app.migration(from_version=1)\ndef go(old: Db, new: Db) -> None:\n    1 / 0\n")
    code, said = check(capsys, name, "--data", "data")
    assert code == 1
    assert "the migration go fails: ZeroDivisionError" in said
    code, said = check(capsys, write(place, "dear", limit=50, more=""), "--data", "data")
    assert code == 1
    assert "after the migration, invariant nothing_is_dear does not hold" in said


def test_an_invariant_that_does_not_hold(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = check(capsys, write(place, "broken", limit=50), "--data", "data")
    assert code == 1
    assert "invariant nothing_is_dear: invariant nothing_is_dear does not hold" in said


def test_references_to_nothing_are_a_warning(
    tmp_path: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app = App("shop")

    @app.table
    class Owner:
        id: int = key()

    @app.table
    class Item:
        id: int = key()
        owner: int = ref(Owner)

    def fill(db: Db) -> None:
        for number in range(3):
            db.owner.insert(id=number)
        for number in range(30):
            db.item.insert(id=number, owner=number % 3)
        db.owner.delete(db.owner[2])

    store(app, tmp_path / "dangling", fill)
    (place / "checked_refs.py").write_text(
        "from diptych import App, key, ref\n"
        'app = App("shop")\n'
        "@app.table\nclass Owner:\n    id: int = key()\n"
        "@app.table\nclass Item:\n    id: int = key()\n    owner: int = ref(Owner)\n"
    )
    code, said = check(capsys, "checked_refs:app", "--data", "dangling")
    assert code == 0
    assert "warning: 10 values of owner belong to no row" in said


def test_the_log_behind_the_checkpoint(
    command: Command, usual: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, said = command("check", TARGET, "--data", usual)
    assert code == 0, said
    assert "a start runs the log: the log has what came after the checkpoint of" in said
    code, said = command("check", TARGET, "--data", usual, "--capacity", "account=6000")
    assert code == 1
    assert "a start REFUSES" in said
    assert "this changed: tables or their capacities" in said
    changed = {**facts.facts_of(logged.app, "interpreted"), "code": "another"}
    monkeypatch.setattr(facts, "facts_of", lambda *_: changed)
    code, said = command("check", TARGET, "--data", usual)
    assert code == 1
    assert "can't be run again, since this changed: handlers' code" in said
    assert f"`diptych recover {TARGET} {usual} --until 12 --to NEW`" in said


def test_an_older_checkpoint_and_the_log_are_all_that_a_start_needs(
    command: Command, own: Path
) -> None:
    flip(pages_file(checkpoints_in(own)[-1]), 4096)
    code, said = command("check", TARGET, "--data", own)
    assert code == 1
    assert "the log has what came after the one before it, transaction 9" in said
    assert "REFUSES" not in said


def test_damage(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    older, newer = checkpoints_in(place / "data")
    flip(pages_file(newer), 4096)
    name = write(place, "damaged")
    code, said = check(capsys, name, "--data", "data")
    assert code == 1
    assert f"{newer.path.name}: DAMAGED" in said
    assert f"{older.path.name}: transaction 1" in said
    assert f"a start REFUSES: {newer.path.name} is damaged, and there is no log" in said


def test_a_handler_that_can_not_be_compiled(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = write(place, "handlers", more="")
    with (place / "checked_handlers.py").open("a") as file:
        file.write(
            "@app.transaction(compiled=True)\n"
            "def fine(db: Db, id: int) -> int:\n"
            "    return db.item[id].price\n"
            "@app.transaction(compiled=True)\n"
            "def slow(db: Db) -> int:\n"
            "    return len(sorted([row.price for row in db.item]))\n"
        )
    code, said = check(capsys, name)
    assert code == 1
    assert "handler fine: compiles" in said
    refusal = next(line for line in said.splitlines() if line.startswith("handler slow"))
    assert "checked_handlers.py:" in refusal
    assert "can't be compiled" in refusal


def test_which_queries_are_prompt(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = write(place, "prompt")
    with (place / "checked_prompt.py").open("a") as file:
        file.write(
            "@app.query(compiled=True)\n"
            "def price(db: Db, id: int) -> int:\n"
            "    return db.item[id].price\n"
            "@app.query(compiled=True)\n"
            "def most(db: Db) -> int:\n"
            "    result = 0\n"
            "    for row in db.item:\n"
            "        result = max(result, row.price)\n"
            "    return result\n"
            "@app.query\n"
            "def plain(db: Db) -> int:\n"
            "    return len(db.item)\n"
            "@app.transaction(compiled=True)\n"
            "def raised(db: Db, id: int) -> None:\n"
            "    db.item[id].price += 1\n"
        )
    code, said = check(capsys, name)
    assert code == 0
    assert "handler price: compiles, prompt\n" in said
    assert "handler most: compiles, not prompt: it has a loop\n" in said
    assert "handler raised: compiles\n" in said
    code, said = check(capsys, name, "--json")
    told = json.loads(said)
    assert told["prompt"] == {"price": "", "most": "has a loop"}
    assert told["compiled"] == {"price": "", "most": "", "raised": ""}


def test_wrong_usage(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(capsys, "checked_none:app")[0] == 2
    code, said = check(capsys, write(place, "capacity"), "--capacity", "itm=5")
    assert code == 2
    assert "did you mean 'item'" in said
