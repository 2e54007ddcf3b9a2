"""The model of a disk: what was synced stays, what was not may go, in every mixture."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random

import pytest
from tests.support.power import (
    SECTOR_BYTES,
    RecordedFiles,
    State,
    after_power_loss,
    everything,
    put,
    read_state,
)

TRIES = 300
ONE, TWO = b"1" * SECTOR_BYTES, b"2" * SECTOR_BYTES


@pytest.fixture
def files(tmp_path: Path) -> RecordedFiles:
    (tmp_path / "old").write_bytes(ONE * 4)
    return RecordedFiles(tmp_path, Random(1))


def states(files: RecordedFiles, position: int | None = None) -> list[State]:
    chance = Random(2)
    at = len(files.journal) if position is None else position
    return [after_power_loss(files, at, chance) for _ in range(TRIES)]


def contents(files: RecordedFiles, name: str) -> set[bytes]:
    return {bytes(state[name]) for state in states(files)}


def test_what_was_synced_stays(files: RecordedFiles) -> None:
    fd = files.open(files.root / "old")
    files.write(fd, TWO, SECTOR_BYTES)
    files.sync_data(fd)
    files.close(fd)
    assert contents(files, "old") == {ONE + TWO + ONE * 2}


def test_what_was_not_synced_may_go_in_part(files: RecordedFiles) -> None:
    fd = files.open(files.root / "old")
    files.write_parts(fd, [TWO, TWO], SECTOR_BYTES)
    files.close(fd)
    assert contents(files, "old") == {
        ONE * 4,
        ONE + TWO * 2 + ONE,
        ONE + TWO + ONE * 2,
        ONE * 2 + TWO + ONE,
    }


def test_later_writes_may_be_there_without_earlier_ones(files: RecordedFiles) -> None:
    fd = files.open(files.root / "old")
    files.write(fd, TWO, 0)
    files.write(fd, TWO, 2 * SECTOR_BYTES)
    files.close(fd)
    assert ONE * 2 + TWO + ONE in contents(files, "old")


def test_a_sync_covers_what_was_written_before_it_began(files: RecordedFiles) -> None:
    fd = files.open(files.root / "old")
    syncer = files.syncer()
    files.write(fd, TWO, 0)
    syncer.begin(fd)
    files.write(fd, TWO, SECTOR_BYTES)
    assert contents(files, "old") >= {ONE * 4, ONE + TWO + ONE * 2}
    while not syncer.ended():
        pass
    assert contents(files, "old") == {TWO + ONE * 3, TWO * 2 + ONE * 2}
    syncer.close()
    files.close(fd)


def test_a_new_name_is_there_once_its_directory_was_synced(files: RecordedFiles) -> None:
    fd = files.create(files.root / "new")
    files.write(fd, TWO, 0)
    files.sync(fd)
    files.close(fd)
    assert {"new" in state for state in states(files)} == {True, False}
    files.sync_directory(files.root)
    assert contents(files, "new") == {TWO}


def test_a_rename_may_come_before_the_data(files: RecordedFiles) -> None:
    fd = files.create(files.root / "partial")
    files.write(fd, TWO, 0)
    files.close(fd)
    files.rename(files.root / "partial", files.root / "old")
    files.sync_directory(files.root)
    assert contents(files, "old") == {TWO, b""}


def test_a_removed_name_may_be_back(files: RecordedFiles) -> None:
    files.remove(files.root / "old")
    assert {"old" in state for state in states(files)} == {True, False}
    files.sync_directory(files.root)
    assert {"old" in state for state in states(files)} == {False}


def test_a_file_made_again_is_empty_or_old(files: RecordedFiles) -> None:
    fd = files.create(files.root / "old")
    assert contents(files, "old") == {b"", ONE * 4}
    files.reserve(fd, SECTOR_BYTES)
    files.sync(fd)
    files.close(fd)
    assert contents(files, "old") == {bytes(SECTOR_BYTES)}


def test_only_the_beginning_counts(files: RecordedFiles) -> None:
    files.tell("first")
    fd = files.open(files.root / "old")
    files.write(fd, TWO, 0)
    files.sync(fd)
    files.close(fd)
    assert {bytes(state["old"]) for state in states(files, 1)} == {ONE * 4}


def test_states_become_directories_and_back(files: RecordedFiles, tmp_path: Path) -> None:
    fd = files.create(files.root / "sparse")
    files.write(fd, TWO, 1 << 20)
    files.truncate(fd, (1 << 20) + 100)
    files.reserve(fd, 1 << 21)
    files.close(fd)
    state = everything(files)
    assert {name: bytes(content) for name, content in state.items()} == {
        name: bytes(content) for name, content in read_state(files.root).items()
    }
    put(state, tmp_path / "again")
    again = read_state(tmp_path / "again")
    assert {name: bytes(content) for name, content in again.items()} == {
        name: bytes(content) for name, content in state.items()
    }
    assert len(again["sparse"].pages) == 1


def test_the_same_chance_makes_the_same_states(files: RecordedFiles) -> None:
    fd = files.open(files.root / "old")
    files.write(fd, TWO * 3, 0)
    files.close(fd)
    once, twice = states(files), states(files)
    assert [bytes(state["old"]) for state in once] == [bytes(state["old"]) for state in twice]
    assert len(Counter(bytes(state["old"]) for state in once)) == 8
