"""`diptych verify`: equal bytes are found equal, and each way to differ is found and named."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support import logged as support
from tests.support.logged import TARGET, Call, app, logged
from tests.unit.commands.conftest import Command
from tests.unit.durable.checkpoints import flip

from diptych.durable import checkpoints_in
from diptych.engine import comparing, facts
from diptych.engine.comparing import Compared, compare
from diptych.engine.copies import copy_of
from diptych.engine.stretches import Stretch, Verified, plan, run_stretch
from diptych.memory.layout import Words
from diptych.store import words as at


def verified(path: Path) -> list[Verified]:
    """All stretches of a directory, run in this process."""
    found = plan(path)
    assert not found.damage
    assert not found.skipped
    return [run_stretch(app, path, stretch) for stretch in found.stretches]


@pytest.fixture
def fresh() -> Iterator[None]:
    """What the module remembers is forgotten, as in another process."""
    support.counted = 0
    yield
    support.counted = 0


def made(path: Path, *calls: Call) -> Path:
    """Data with these calls between two checkpoints."""
    with logged(path) as data:
        data.run(*calls)
        data.checkpoint()
    support.counted = 0
    return path


def test_what_is_right_is_the_same(usual: Path) -> None:
    results = verified(usual)
    assert [(each.stretch.first, each.stretch.last) for each in results] == [
        (2, 9),
        (10, 12),
        (13, 15),
    ]
    assert all(each.same and not each.refusal for each in results)
    assert [each.transactions for each in results] == [8, 3, 3]
    assert results[0].pages > 25, "every page of the checkpoint was compared"
    assert results[2].pages == 0


def test_another_process_with_another_seed_says_the_same(command: Command, usual: Path) -> None:
    code, said = command("verify", TARGET, usual)
    assert code == 0, said
    assert said.endswith("all is the same\n")


@pytest.mark.parametrize(
    ("call", "column", "key"),
    [(("draw", 3), "rate", "3"), (("count", 4), "cash", "4")],
    ids=["chance", "a module's memory"],
)
def test_a_handler_that_remembers_or_draws_is_named(
    tmp_path: Path, fresh: None, call: Call, column: str, key: str
) -> None:
    with logged(tmp_path) as data:
        data.run(call)
        data.checkpoint()
        data.run(call)
        data.checkpoint()
    # Of the second stretch alone: at a process's beginning what it remembers is the same.
    support.counted = 0
    result = run_stretch(app, tmp_path, plan(tmp_path).stretches[1])
    assert not result.same
    first = result.differences[0]
    assert (first["table"], first["column"], first["key"]) == ("account", column, key)
    assert first["row"] == int(key) - 1
    assert first["stored"] != first["again"]


def test_the_order_of_a_set_shows_in_another_process(command: Command, tmp_path: Path) -> None:
    made(tmp_path / "data", *[("first_of_set", number) for number in range(1, 11)])
    code, said = command("verify", TARGET, tmp_path / "data", "--json")
    assert code == 1
    told = json.loads(said)
    assert not told["same"]
    (stretch,) = told["stretches"]
    assert {each["column"] for each in stretch["differences"]} == {"owner"}
    assert stretch["answers"] == []


def test_an_answer_that_differs_is_told_and_what_it_wrote_as_well(
    command: Command, tmp_path: Path
) -> None:
    with logged(tmp_path / "data") as data:
        data.run(("drawn", 7))
        data.run(("pay", 1, 2, 3))
        data.checkpoint()
        data.run(("drawn", 8))
        data.run(("pay", 1, 2, 3))
    code, said = command("verify", TARGET, tmp_path / "data")
    assert code == 1
    assert "transactions 2 to 2 (drawn) end differently" in said
    assert "transactions 4 to 4 (drawn) end differently" in said, "behind the newest checkpoint"
    assert "table account, column rate, row 6, key 7: 0." in said
    assert said.endswith("not all is the same\n")


def changed(path: Path, change: Any) -> Compared:
    """What is found when a copy of the newest checkpoint differs from it by `change`."""
    newest = checkpoints_in(path)[-1]
    with copy_of(app, newest) as copy:
        change(copy.engine, copy.region.words)
        return compare(copy.region, copy.engine.layout, newest, lambda _: None)


def test_every_kind_of_place_has_a_name(usual: Path) -> None:
    def table(engine: Any) -> Any:
        return engine.layout.tables[0]

    names = []
    changes = [
        lambda e, w: w.__setitem__(at.SEED, 1),
        lambda e, w: w.__setitem__(at.STAGING_TOKEN, 1),
        lambda e, w: w.__setitem__(table(e).state + at.ROW_COUNT, 1),
        lambda e, w: w.__setitem__(table(e).descriptor + at.T_ALLOCATED, 1),
        lambda e, w: w.__setitem__(table(e).live + 3, 0),
        lambda e, w: w.__setitem__(table(e).buckets, 77),
        lambda e, w: w.__setitem__(table(e).indexes[0].nodes + 2 * at.NODE_WORDS, 77),
        lambda e, w: w.__setitem__(table(e).indexes[0].state + at.VERSION, 77),
        lambda e, w: w.__setitem__(table(e).heap_state + at.H_USED, 77),
        lambda e, w: w.__setitem__(int(w[at.SESSIONS]) + at.R_MAX, 77),
        lambda e, w: w.__setitem__(int(w[at.ANSWERS]) + 20, 77),
        lambda e, w: w.__setitem__(int(w[at.KEYS]) + 20, 77),
    ]
    for change in changes:
        found = changed(usual, change)
        assert found.words == 1
        assert list(found.unlike.values()) == [1]
        names += [each.where for each in found.differences]
    assert names == [
        "system header: SEED",
        "system header: STAGING_TOKEN",
        "counters of account, word 0",
        "description of account, word 2",
        "which rows of account there are, word 3",
        "hash of account, word 0",
        "index account.by_cash, node 2",
        "counters of index account.by_cash, word 5",
        "counters of the heap of account, word 1",
        "clients' sessions, number 0 of them",
        "answers that are remembered, word 20",
        "callers' keys that are remembered, word 20",
    ]


def test_a_value_in_the_heap_has_its_row_s_name(usual: Path) -> None:
    def change(engine: Any, words: Words) -> None:
        table = engine.layout.tables[0]
        reference = int(words[table.bases[table.spec.heap_columns[0].first_word] + 2])
        words[table.heap + (reference >> at.REFERENCE_BITS)] ^= 1

    (difference,) = changed(usual, change).differences
    assert difference.where == "table account, column note, row 2, key 3"
    assert (difference.stored[:4], difference.again[:4]) == ("'xxx", "'yxx")


def test_all_that_differs_is_counted_and_a_few_of_it_told(usual: Path) -> None:
    def change(engine: Any, words: Words) -> None:
        table = engine.layout.tables[0]
        cash = table.bases[1]
        words[cash : cash + 700] += 1

    found = changed(usual, change)
    assert found.unlike == {"account.cash": 700}
    assert len(found.differences) == comparing.TOLD_MAX


def test_floats_of_another_machine_may_be_a_little_apart(
    usual: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = checkpoints_in(usual)[-1]

    def compared(apart: int, value: float, *, exact: bool) -> Compared:
        with copy_of(app, newest) as copy:
            rate = copy.engine.layout.tables[0].bases[2]
            bits = struct.unpack("<q", struct.pack("<d", value))[0]
            # Zero is stored: so many floats above or below it.
            copy.region.words[rate] = bits + apart
            return compare(copy.region, copy.engine.layout, newest, lambda _: None, exact=exact)

    for value in (0.0, -0.0):
        assert compared(comparing.ULPS, value, exact=False).words == 0
        assert compared(comparing.ULPS + 1, value, exact=False).words == 1
        assert compared(1, value, exact=True).words == 1
    assert compared(0, -1.0, exact=False).words == 1


def test_what_holds_floats_or_answers_is_then_not_compared_and_that_is_said(usual: Path) -> None:
    newest = checkpoints_in(usual)[-1]
    with copy_of(app, newest) as copy:
        words = copy.region.words
        words[int(words[at.ANSWERS]) + 20] += 1
        words[at.SEED] += 1
        found = compare(copy.region, copy.engine.layout, newest, lambda _: None, exact=False)
    assert found.not_compared == ["answers that are remembered"]
    assert list(found.unlike) == ["system header"]


def changed_facts(**others: Any) -> str:
    return facts.to_text(facts.from_text(support.FACTS) | others)


def test_a_log_of_other_code_is_not_run(command: Command, tmp_path: Path) -> None:
    with logged(tmp_path / "data", facts=changed_facts(code="other")) as data:
        data.run(("pay", 1, 2, 3))
    code, said = command("verify", TARGET, tmp_path / "data")
    assert code == 1, "nothing could be verified"
    assert "not run: it can't be run again, since this changed: handlers' code" in said


def test_a_log_of_another_machine_is_run_and_that_is_said(tmp_path: Path) -> None:
    with logged(tmp_path, facts=changed_facts(libc="glibc 1.0")) as data:
        data.run(("drawn", 3))
        data.run(("pay", 1, 2, 3))
        data.checkpoint()
    (result,) = verified(tmp_path)
    assert result.answers == []
    assert "floats may differ, since this changed: C library glibc 1.0 ->" in result.remarks[0]
    assert list(result.unlike) == ["account.rate"], "further apart than machines are"


def test_damage_is_said(command: Command, own: Path) -> None:
    flip(own / "pages-3.diptych", 2 * 4096 + 5)
    code, said = command("verify", TARGET, own)
    assert code == 1
    assert said.count("DAMAGED: ") == 2, "it was a stretch's end, and another one's beginning"
    assert "page 2: its checksum differs" in said


def test_a_damaged_manifest_leaves_a_longer_stretch(own: Path) -> None:
    flip(sorted(own.glob("checkpoint-*"))[1], 40)
    found = plan(own)
    assert len(found.damage) == 1
    assert [(each.first, each.last) for each in found.stretches] == [(2, 12), (13, 15)]


def test_a_log_that_lacks_a_part_is_said(own: Path) -> None:
    (log,) = own.glob("log-*")
    log.unlink()
    found = plan(own)
    assert found.stretches == []
    assert len(found.skipped) == 2


def test_a_checkpoint_that_is_replaced_meanwhile_is_looked_for_again(own: Path) -> None:
    stretch = plan(own).stretches[0]
    (own / stretch.base).unlink()
    assert run_stretch(app, own, stretch).replaced
    left = plan(own).stretches[0]
    assert run_stretch(app, own, Stretch(left.base, stretch.base, 1, 1)).replaced
    (log,) = own.glob("log-*")
    log.unlink()
    assert run_stretch(app, own, left).replaced, "so is a log that is gone"


def test_usage(command: Command, tmp_path: Path) -> None:
    code, said = command("verify", TARGET, tmp_path / "nowhere")
    assert (code, said.splitlines()[-1]) == (
        2,
        f"diptych verify: {tmp_path / 'nowhere'} is not a directory",
    )
    assert command("verify", "tests.support.logged:nothing", tmp_path)[0] == 2
    code, said = command("verify", TARGET, tmp_path)
    assert (code, said) == (0, "the log has nothing to run again\nall is the same\n")


def test_numbers_in_order() -> None:
    floats = np.array([-1.5, -0.0, 0.0, 5e-324, 1.0, np.inf])
    found = comparing._in_order(floats.view(np.int64), 64)
    assert (np.diff(found) >= 0).all()
    assert found[1] == found[2]


def test_a_checkpoint_in_the_middle_of_a_record(tmp_path: Path) -> None:
    with logged(tmp_path) as data:
        data.run(("pay", 1, 2, 1), ("pay", 1, 2, 500), ("open_many", 50, 700), after=2)
        data.run(("pay", 1, 2, 1))
        data.checkpoint()
    results = verified(tmp_path)
    assert [(each.stretch.first, each.stretch.last) for each in results] == [(2, 3), (4, 5)]
    assert all(each.same for each in results)
