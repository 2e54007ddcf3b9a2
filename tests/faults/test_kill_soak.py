"""The kill soak of `bench/kills.py`, short: everybody is killed, and nobody was lied to."""

from __future__ import annotations

from pathlib import Path

from tests.support.kills import SERVER, Soak


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
