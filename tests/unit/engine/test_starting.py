"""What a start finds out about a log before it runs it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.logged import FACTS, HISTORY, Logged, Settings, app, logged

from diptych.engine.starting import Base, LogFound, look_at_log, open_log, run_log
from diptych.errors import CorruptionError

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
