"""A start's steps on directories made in this process; a refusal says what can be done."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.logged import HISTORY, app, logged, usual

from diptych.durable import DataDirectory
from diptych.durable.no_log import NoLog
from diptych.engine.engine import Engine, layout_bytes
from diptych.engine.replay import Replayed
from diptych.engine.starting import find_base, look_at_log, run_log
from diptych.errors import CorruptionError
from diptych.memory import Region
from diptych.store.database import SCRATCH_BYTES


def replayed(path: Path) -> tuple[Replayed, int]:
    """What a start runs again, and the transaction that it ends with."""

    def never() -> None:
        raise AssertionError("the newest checkpoint is whole")

    with (
        Region.create(layout_bytes(app), scratch_bytes=SCRATCH_BYTES) as region,
        DataDirectory.open(path, app.name) as directory,
    ):
        base = find_base(app, directory, region, None, never)
        engine = Engine.recover(app, region, grow=region.allocate, history=HISTORY)
        found = look_at_log(directory, base)
        done = run_log(engine, directory, base, found, NoLog(), (), "bank:app")
        engine.verify()
        return done, engine.sequence


def test_what_is_behind_the_newest_checkpoint_is_run(tmp_path: Path) -> None:
    with usual(tmp_path):
        pass
    done, sequence = replayed(tmp_path)
    assert (done.records, done.transactions, sequence) == (2, 3, 15)


def test_a_record_that_the_checkpoint_has_in_part_counts_in_part(tmp_path: Path) -> None:
    with logged(tmp_path) as made:
        made.run(("pay", 1, 2, 1), ("pay", 1, 2, 1), ("pay", 1, 2, 1), after=2)
    done, sequence = replayed(tmp_path)
    assert (done.records, done.transactions, sequence) == (1, 1, 4)


def test_a_replay_that_differs_names_the_command_that_helps(tmp_path: Path) -> None:
    path = tmp_path / "data's"
    with logged(path) as made:
        made.run(("pay", 1, 2, 1))
        made.run(("drawn", 1))
        made.run(("pay", 1, 2, 1))
    with pytest.raises(CorruptionError) as refused:
        replayed(path)
    told = str(refused.value)
    assert "transactions 3 to 3 (drawn) end differently" in told
    quoted = f"'{tmp_path}/data'\"'\"'s'"
    assert f"`diptych recover bank:app {quoted} --until 2 --to NEW`" in told
