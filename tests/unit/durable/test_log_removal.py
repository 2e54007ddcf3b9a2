"""Old segments go, elsewhere or for good; those that anybody may need don't."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.unit.durable.logs import HISTORY, Appended, begin, read

from diptych.durable import Files, State, read_tail, remove_covered, segments

LARGE = bytes(range(256)) * 12


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Four segments of ten transactions each."""
    path = tmp_path / "data"
    path.mkdir()
    log = Appended(begin(path=path))
    for _ in range(4):
        log.batch(10, LARGE)
    log.log.close()
    return path


def names(path: Path) -> list[int]:
    return [segment.first for segment in segments(path)]


@pytest.mark.parametrize(
    ("through", "left"),
    [
        (0, [1, 11, 21, 31]),
        (9, [1, 11, 21, 31]),
        (10, [11, 21, 31]),
        (29, [21, 31]),
        (30, [31]),
        (10**9, [31]),
    ],
)
def test_what_holds_nothing_beyond_goes(directory: Path, through: int, left: list[int]) -> None:
    removed = remove_covered(directory, through)
    assert names(directory) == left
    assert (len(removed.names), removed.problem) == (4 - len(left), "")
    assert removed.size_bytes == 8192 * len(removed.names)
    if through <= 40:
        ending = read_tail(directory, through, HISTORY).finish()
        assert ending.state is State.CLEAN


def test_it_is_kept_elsewhere_first(directory: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    before = {s.path.name: s.path.read_bytes() for s in segments(directory)}
    removed = remove_covered(directory, 30, archive=archive)
    assert len(removed.names) == 3
    assert {name: (archive / name).read_bytes() for name in os.listdir(archive)} == {
        name: before[name] for name in removed.names
    }
    for name in removed.names:
        (archive / name).rename(directory / name)
    assert len(read(path=directory)[0]) == 4


def test_a_copy_that_was_interrupted_is_made_again(directory: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    first, second = segments(directory)[:2]
    (archive / (first.path.name + ".partial")).write_bytes(b"half")
    (archive / second.path.name).write_bytes(second.path.read_bytes())
    assert len(remove_covered(directory, 20, archive=archive).names) == 2
    assert sorted(os.listdir(archive)) == [first.path.name, second.path.name]


def test_nothing_in_the_archive_is_overwritten(directory: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    first, second = segments(directory)[:2]
    (archive / second.path.name).write_bytes(first.path.read_bytes())
    removed = remove_covered(directory, 30, archive=archive)
    assert removed.names == (first.path.name,)
    assert "is there, and is of another log" in removed.problem
    assert names(directory) == [11, 21, 31]


def test_a_directory_that_is_gone(directory: Path, tmp_path: Path) -> None:
    removed = remove_covered(directory, 30, archive=tmp_path / "none")
    assert removed.names == ()
    assert removed.problem == (
        f"{segments(directory)[0].path.name} is not archived and stays: "
        f"{tmp_path / 'none'}: No such file or directory"
    )
    assert names(directory) == [1, 11, 21, 31]


def test_a_command_is_given_each_file(directory: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept by command"
    kept.mkdir()
    removed = remove_covered(directory, 30, archive_command=f"cp -t '{kept}'")
    assert sorted(os.listdir(kept)) == list(removed.names)
    assert names(directory) == [31]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("sh -c 'echo no space >&2; exit 3'", "exit code 3: no space"),
        ("false", "false: exit code 1"),
        ("no-such-command-anywhere", "No such file"),
        ("cp 'unfinished", "No closing quotation"),
    ],
)
def test_a_command_that_fails(directory: Path, command: str, message: str) -> None:
    removed = remove_covered(directory, 30, archive_command=command)
    assert message in removed.problem
    assert names(directory) == [1, 11, 21, 31]


class OneSync(Files):
    def sync(self, fd: int) -> None:
        raise OSError(5, "Input/output error")


def test_a_copy_that_did_not_reach_the_disk(directory: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    removed = remove_covered(directory, 30, archive=archive, files=OneSync())
    assert "Input/output error" in removed.problem
    assert names(directory) == [1, 11, 21, 31]


def test_a_damaged_segment_stays(directory: Path) -> None:
    path = segments(directory)[1].path
    path.write_bytes(b"\0" + path.read_bytes()[1:])
    remove_covered(directory, 40)
    assert names(directory) == [11, 31]


def test_the_current_one_stays_also_beside_a_past_life(directory: Path) -> None:
    """The other history goes to 40, ours is at 7 and will pass all of its numbers."""
    log = Appended(begin(path=directory, history=9, after=4), 4)
    log.batch(3, b"ours")
    log.log.close()
    remove_covered(directory, 100)
    assert names(directory) == [5, 31]
    assert read(path=directory, after=4, history=9)[0] == log.records
