"""What a start finds out about a log before it runs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.logged import FACTS, HISTORY, Logged, Settings, app, logged

from diptych.durable import DataDirectory, read_tail
from diptych.engine.engine import Engine, layout_bytes
from diptych.engine.replay import replay
from diptych.engine.starting import Base, LogFound, find_base, look_at_log, open_log, run_log
from diptych.errors import CorruptionError
from diptych.memory import Region
from diptych.store.database import SCRATCH_BYTES
from diptych_client.protocol import Kind

SPARE_DEPTH = 100
BASE = Base(1, HISTORY)


def found_in(made: Logged) -> LogFound:
    return look_at_log(made.directory, BASE)


def test_what_an_idle_writer_had_done_is_known_to_be_executed(tmp_path: Path) -> None:
    with logged(tmp_path) as made:
        made.run(("pay", 1, 2, 3), ("pay", 1, 2, 4))
        made.run(("pay", 1, 2, 5), ("pay", 1, 2, 6))
        assert found_in(made).unproven == 4, "the last record may not have been executed"
        made.log.idle()
        found = found_in(made)
        assert (found.last, found.unproven) == (5, 6)
    found = found_in(made)
    log = open_log(
        app, tmp_path, Settings(), facts_now=FACTS, history=HISTORY, sequence=5, tail=found.tail
    )
    with pytest.raises(CorruptionError, match=r"transaction 5 .* can't be set aside"):
        run_log(made.engine, made.directory, BASE, found, log, [5])
    log.close()
    assert not found_in(made).skip


def deeper(calls: int, function: Callable[[], Any]) -> Any:
    return deeper(calls - 1, function) if calls else function()


def test_what_was_not_too_deep_is_not_when_a_replay_is_called_more_deeply(tmp_path: Path) -> None:
    with logged(tmp_path) as made:
        size = 1
        while made.run(("sink", size))[0][0] == Kind.RESULT:
            size += 10
        assert size > 2 * SPARE_DEPTH, "it was the recursion that ended it"
        last = made.sequence
    with (
        Region.create(layout_bytes(app), scratch_bytes=SCRATCH_BYTES) as region,
        DataDirectory.open(tmp_path, app.name) as directory,
    ):
        base = find_base(app, directory, region, None, lambda: None)
        engine = Engine.recover(app, region, grow=region.allocate, history=HISTORY)
        found = look_at_log(directory, base)
        engine.skip = dict(found.skip)
        tail = read_tail(tmp_path, base.sequence, base.history)
        deeper(SPARE_DEPTH, lambda: replay(engine, tail))
        assert engine.sequence == last
