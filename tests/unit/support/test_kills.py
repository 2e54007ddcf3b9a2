"""The schedule of kills."""

from __future__ import annotations

from collections import Counter

from tests.support.kills import ROLES, Way, schedule


def test_the_schedule_follows_from_the_seed() -> None:
    assert list(schedule(20, 3)) == list(schedule(20, 3))
    assert list(schedule(20, 3)) != list(schedule(20, 4))


def test_the_schedule_has_so_many_kills_of_everybody() -> None:
    faults = list(schedule(500, 1))
    kills = Counter(fault.role for fault in faults if fault.way is Way.KILL)
    assert kills.total() == 500
    assert set(kills) == set(ROLES)
    assert all(count > 40 for count in kills.values())
    assert {fault.role for fault in faults if fault.way is Way.FREEZE} == set(ROLES)
