"""The kill soak of `bench/kills.py`, short: everybody is killed, and nobody was lied to."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.support.kills import ROLES, SERVER, Soak, Way, schedule

KILLS, SEED = 10, 7


def test_a_short_soak(tmp_path: Path) -> None:
    planned = Counter(fault.role for fault in schedule(KILLS, SEED) if fault.way is Way.KILL)
    assert set(planned) == set(ROLES), "another seed is needed"
    report = Soak(tmp_path / "data", kills=KILLS, seed=SEED, clients=8, check_every=8).run()
    assert report.well, "\n".join(report.lines())
    assert report.kills == KILLS
    assert report.counts["done"] > 500
    assert report.counts["looks"] > 50


def test_a_server_that_keeps_nothing_is_found_out(tmp_path: Path) -> None:
    report = Soak(
        tmp_path / "data",
        kills=1,
        seed=1,
        clients=4,
        roles={SERVER: 1},
        durability="none",
    ).run()
    assert report.kills == 1
    assert not report.well
    assert report.wrong["LOST"] > 0
