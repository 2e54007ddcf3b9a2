"""Each kind of call to the file system fails, in turn; then the power does, too.

A checkpoint that fails is made again; a log that fails is the end of its writer. Whatever was
answered until then is there at the next start. The log's own calls are failed one by one in
tests/model/test_log_model.py.
"""

from __future__ import annotations

import gc
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from tests.support.crash_points import CrashPoints, Life, Truth
from tests.support.power import FailingFiles

from diptych.durable import DiskFull, LogBroken

STEPS = 25
EACH = 2
KINDS = ("create", "reserve", "write", "sync", "sync_directory", "rename", "remove")


class Ended(Exception):
    """A writer ended because of what failed."""


def live(root: Path, fails_at: int) -> tuple[FailingFiles, Truth]:
    """One life, in which that call fails. Errors: Ended when it could not begin."""
    chance, truth = Random(9), Truth()
    files = FailingFiles(root, chance, fails_at)
    try:
        life = Life(root, chance, "boot 1", truth, files=files)
    except (OSError, LogBroken, DiskFull) as failure:
        raise Ended from failure
    try:
        for step in range(STEPS):
            try:
                life.run(1)
                if step % 5 == 4:
                    life.checkpoint()
            except LogBroken:
                break
            except (OSError, DiskFull):  # a checkpoint, or a file of the log that can't be had yet
                continue
    finally:
        life.close()
        del life
        gc.collect()  # an engine is a cycle, with much memory that Python does not count
    return files, truth


def points_at(work: Path) -> Path:
    path = work / "points"
    path.mkdir()
    return path


def test_each_kind_of_call_fails(work: Path) -> None:
    (work / "whole").mkdir()
    files, _ = live(work / "whole", -1)
    chance = Random(10)
    failed: Counter[str] = Counter()
    report = CrashPoints(points_at(work), points=1, seed=1)
    for kind in KINDS:
        numbers = [number for number, call in enumerate(files.calls, 1) if call == kind]
        for fails_at in chance.sample(numbers, min(EACH, len(numbers))):
            root = work / str(fails_at)
            root.mkdir()
            try:
                failing, truth = live(root, fails_at)
            except Ended:
                continue
            assert failing.failed == kind, "the fault never fired"
            failed[kind] += 1
            report.point(failing, len(failing.journal), truth, chance, 1)
    assert report.report.well, "\n".join(report.report.violations)
    assert set(failed) == set(KINDS), failed


def test_a_sync_that_failed_is_not_made_good_by_the_next(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model notices a writer that goes on after a failure, as it must not."""
    (work / "whole").mkdir()
    report = CrashPoints(points_at(work), points=1, seed=1)
    chance = Random(11)
    really_sync = FailingFiles.sync_from

    def sync_from(files: FailingFiles, file: int, upto: int) -> None:
        try:
            really_sync(files, file, upto)
        except OSError:
            return  # and nobody is told

    monkeypatch.setattr(FailingFiles, "sync_from", sync_from)
    files, truth = live(work / "whole", 60)
    for number in range(20):
        if files.failed == "sync":
            break
        root = work / str(number)
        root.mkdir()
        files, truth = live(root, 61 + number)
    assert files.failed == "sync"
    for _ in range(10):
        report.point(files, len(files.journal), truth, chance, 1)
    assert not report.report.well
