"""`bench/crash_points.py`, short: the power fails at many moments, and nothing answered is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.crash_points import CrashPoints
from tests.support.power import RecordedFiles, RecordedSyncer

POINTS = 40


def test_nothing_that_was_answered_is_lost(work: Path) -> None:
    report = CrashPoints(work, points=POINTS, seed=3, points_a_life=20).run()
    assert report.well, "\n".join(report.violations)
    assert report.points == POINTS
    assert report.checkpoints > 4
    assert report.acknowledged > 500
    assert report.lossy > POINTS // 10, "nothing was ever lost, so nothing was tested"
    assert report.second_lives > POINTS // 10


def test_a_disk_that_lies_about_the_log_is_found_out(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait(syncer: RecordedSyncer) -> None:
        syncer._begun = None

    monkeypatch.setattr(RecordedSyncer, "wait", wait)
    report = CrashPoints(work, points=20, seed=3, points_a_life=20).run()
    assert any("was answered, and" in each for each in report.violations)


def test_a_disk_that_lies_about_checkpoints_is_found_out(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RecordedFiles, "sync", lambda files, fd: None)
    monkeypatch.setattr(RecordedFiles, "sync_data", lambda files, fd: None)
    report = CrashPoints(work, points=20, seed=3, points_a_life=20).run()
    assert not report.well
