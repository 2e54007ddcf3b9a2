"""The command log as its writer uses it: tickets, marks, segments, lives, and what fails."""

from __future__ import annotations

import errno
import os
import select
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.disk import DIRECTORY, SimulatedFiles
from tests.unit.durable.logs import FACTS, HISTORY, Appended, Settings, begin, read

from diptych.durable import (
    CommandLog,
    DiskFull,
    Files,
    Kind,
    LogBroken,
    Mode,
    State,
    log_ahead,
    read_tail,
    segments,
)
from diptych.durable import log as logs
from diptych.durable.aio import Syncer, ThreadSyncer
from diptych.errors import CorruptionError

LARGE = bytes(range(256)) * 12
"""Two of them don't fit into a segment."""


def test_tickets_become_durable_in_order() -> None:
    files = SimulatedFiles()
    log = Appended(begin(files))
    assert (log.log.written, log.log.durable, log.log.durable_sequence) == (0, 0, 0)
    assert [log.batch(3, b"a"), log.aborts((1, 2)), log.batch(1, b"b")] == [1, 2, 3]
    assert (log.log.written, log.log.durable, log.log.durable_sequence) == (3, 0, 0)
    log.log.wait(2)
    assert (log.log.durable, log.log.durable_sequence) == (3, 4)
    log.log.wait(0)
    with pytest.raises(ValueError, match="ticket 4 of 3"):
        log.log.wait(4)


def test_a_sync_covers_what_was_written_before_it_began_and_the_next_one_the_rest() -> None:
    files = SimulatedFiles()
    log = Appended(begin(files))
    log.batch(1, b"a")
    log.log.start_sync()
    log.batch(1, b"b")
    log.log.start_sync()
    log.batch(1, b"c")
    log.log.wait(1)
    assert log.log.durable == 1
    while log.log.durable < 3:
        before = log.log.durable
        log.log.on_wakeup()
        assert log.log.durable in (before, 3)
    calls = files.calls
    log.log.start_sync()
    for _ in range(10):
        log.log.on_wakeup()
    assert files.calls == calls, "there was nothing to sync"


def test_an_idle_log_notes_that_all_is_safe_once() -> None:
    files = SimulatedFiles()
    log = Appended(begin(files))
    log.log.idle()
    log.batch(2, b"a")
    log.log.idle()
    assert [record.kind for record in read_tail(DIRECTORY, 0, HISTORY, files=files)] == [Kind.BATCH]
    log.log.wait(1)
    log.log.idle()
    log.log.idle()
    assert (log.log.written, log.log.durable) == (1, 1), "a mark has no ticket"
    *_, mark = read_tail(DIRECTORY, 0, HISTORY, files=files)
    assert (mark.kind, mark.first, mark.last, mark.durable_through) == (Kind.MARK, 3, 2, 2)
    assert mark.number == 2


def test_a_mark_that_does_not_fit_is_left_out() -> None:
    files = SimulatedFiles()
    log = Appended(begin(files))
    log.aborts(*((number, 1) for number in range(1, 448)))
    log.log.wait(1)
    log.log.idle()
    assert len(segments(DIRECTORY, files)) == 1
    assert read(files)[0] == log.records


def test_closing_makes_all_of_it_safe_and_says_so() -> None:
    files = SimulatedFiles()
    log = Appended(begin(files))
    log.batch(2, b"a")
    log.log.close()
    assert "log-next.partial" not in files.names_now
    assert files.descriptors == {}
    *_, mark = read_tail(DIRECTORY, 0, HISTORY, files=files)
    assert (mark.kind, mark.durable_through) == (Kind.MARK, 2)
    with pytest.raises(LogBroken, match="is closed"):
        log.batch(1, b"b")


def test_mode_os_does_not_wait_for_the_disk() -> None:
    files = SimulatedFiles()
    log = Appended(begin(files, settings=Settings("os", 1 << 16)))
    calls = files.calls
    log.batch(2, b"a")
    log.log.start_sync()
    log.log.on_wakeup()
    assert (log.log.durable, log.log.durable_sequence) == (1, 2)
    assert files.calls == calls + 1, "one write"
    log.log.idle()
    *_, last = read_tail(DIRECTORY, 0, HISTORY, files=files)
    assert last.kind is Kind.BATCH, "nothing is known to be on the disk"
    log.batch(1, b"b")
    *_, last = read_tail(DIRECTORY, 0, HISTORY, files=files)
    assert last.durable_through == 0
    (segment,) = segments(DIRECTORY, files)
    assert segment.header is not None
    assert segment.header.mode is Mode.OS


def test_payloads_of_any_length_and_kind() -> None:
    files = SimulatedFiles()
    log = Appended(begin(files))
    for length in (0, 1, 4000, 4033, 9000, 100_000, 5):
        log.batch(1, bytes(range(256)) * (length // 256) + bytes(length % 256))
    array = memoryview(b"12345678" * 9).cast("q")
    log.log.append_batch(array, log.sequence + 1, 2, 5, None)
    log.records.append((Kind.BATCH, log.sequence + 1, 2, 5, None, array.tobytes()))
    assert read(files)[0] == log.records
    sizes = [segment.file_bytes for segment in segments(DIRECTORY, files)]
    assert sizes == [8192, 12288, 12288, 16384, 106_496]


def test_segments_grow_up_to_the_configured_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "FIRST_BYTES", 8192)
    files = SimulatedFiles()
    log = Appended(begin(files, settings=Settings(segment_bytes=20_480)))
    for _ in range(12):
        log.batch(1, LARGE)
    sizes = [segment.file_bytes for segment in segments(DIRECTORY, files)]
    assert sizes == [8192, 16384, 20480, 20480]
    assert read(files)[0] == log.records


def test_the_next_segment_is_ready_before_it_is_needed() -> None:
    files = SimulatedFiles()
    log = Appended(begin(files))
    log.batch(1, b"small")
    assert "log-next.partial" in files.names_now, "with a header of half its size"
    calls = files.calls
    log.batch(10, LARGE)
    log.batch(10, LARGE)
    written = 4  # header, sync of it, name, sync of the directory
    prepared = 4  # of the one after it: create, reserve, zeros, sync
    assert files.calls <= calls + 2 + written + prepared + 1
    assert len(segments(DIRECTORY, files)) == 2


@pytest.mark.parametrize("durability", ["fsync", "os"])
def test_nothing_of_a_new_segment_counts_before_all_of_the_old_one(durability: str) -> None:
    files = SimulatedFiles()
    log = Appended(begin(files, settings=Settings(durability)))
    log.batch(1, LARGE)
    log.batch(1, LARGE)
    log.batch(1, LARGE)
    assert len(segments(DIRECTORY, files)) == 3
    (first, *_) = files.names_stored.values()
    if durability == "fsync":
        log.log.wait(1)
        assert log.log.durable == 1, "a sync of the first segment says no more"
        log.log.wait(3)
        assert all(inode.dirty == [] for inode in files.names_stored.values())
    else:
        while first.dirty:
            log.log.on_wakeup()
        assert log.log.durable == 3
    assert len(files.descriptors) <= 3


def test_a_life_goes_on_in_the_same_segment() -> None:
    files = SimulatedFiles()
    first = Appended(begin(files))
    first.batch(2, b"a")
    first.log.close()
    second = Appended(begin(files, after=1), 2, first.records)
    assert second.batch(1, b"b") == 1
    assert second.log.durable_sequence == 2
    assert read(files)[0] == second.records
    assert len(segments(DIRECTORY, files)) == 1


@pytest.mark.parametrize(
    "changed", [{"facts": "{}"}, {"new_history": 8}, {"settings": Settings("os")}]
)
def test_what_is_new_begins_a_segment_in_the_same_chain(changed: dict[str, object]) -> None:
    files = SimulatedFiles()
    first = Appended(begin(files))
    first.batch(2, b"a")
    first.log.close()
    second = Appended(begin(files, **changed), 2, first.records)  # type: ignore[arg-type]  # any
    second.batch(1, b"b")
    before, after = [segment.header for segment in segments(DIRECTORY, files)]
    assert before is not None
    assert after is not None
    assert (after.first, after.previous_history, after.durable_through) == (3, HISTORY, 2)
    assert after.history == changed.get("new_history", HISTORY)
    assert after.facts == changed.get("facts", FACTS)
    assert after.number == 3, "the batch, and the mark"
    assert read(files)[0] == second.records


def test_segments_that_begin_with_the_same_number() -> None:
    """Aborts have no sequence number: they may be all there is in a segment."""
    files = SimulatedFiles()
    first = Appended(begin(files))
    first.batch(2, bytes(3800))
    first.aborts(*[(2, 2)] * 20)
    second = Appended(begin(files, new_history=8), 2, first.records)
    second.aborts((2, 2))
    third = Appended(begin(files, new_history=9), 2, first.records)
    third.batch(1, b"c")
    assert [segment.path.name for segment in segments(DIRECTORY, files)] == [
        "log-00000000000000000001.diptych",
        "log-00000000000000000003.diptych",
        "log-00000000000000000003-1.diptych",
        "log-00000000000000000003-2.diptych",
    ]
    assert read(files)[0] == third.records
    assert read(files, 2, history=9)[0] == third.records[-1:]


def test_a_log_that_ends_before_the_checkpoint_begins_anew() -> None:
    """As after a time without a log."""
    files = SimulatedFiles()
    first = Appended(begin(files))
    first.batch(2, b"a")
    first.log.close()
    second = Appended(begin(files, after=10), 10)
    second.batch(1, b"b")
    assert read(files, 10)[0] == second.records
    found, tail = read(files)
    assert found == first.records
    assert tail.ending is not None
    assert tail.ending.state is State.MISSING
    header = segments(DIRECTORY, files)[-1].header
    assert header is not None
    assert (header.number, header.chain) == (1, 0)


def test_a_tail_that_was_not_executed_to_its_end() -> None:
    files = SimulatedFiles()
    Appended(begin(files)).batch(2, b"a")
    tail = read_tail(DIRECTORY, 0, HISTORY, files=files)
    with pytest.raises(CorruptionError, match="behind transaction 1: it ends after 2, clean"):
        CommandLog.open(
            DIRECTORY,
            Settings(),
            app="shop",
            facts="",
            history=HISTORY,
            sequence=1,
            tail=tail,
            files=files,
        )


def full(files: SimulatedFiles, call: int) -> None:
    files.fails_at, files.with_errno = files.calls + call, errno.ENOSPC


def test_a_full_disk_is_said_and_may_have_space_later() -> None:
    files = SimulatedFiles()
    log = Appended(begin(files))
    log.batch(1, bytes(10))
    assert "log-next.partial" in files.names_now
    log.batch(1, LARGE)
    full(files, 5 + 1)  # one segment is ready; then the one behind it can't be had
    log.batch(1, LARGE)
    assert files.failed == 1, "nobody was told yet"
    full(files, 1)
    with pytest.raises(DiskFull, match="/log: No space left"):
        log.batch(1, LARGE)
    log.log.wait(log.log.written)
    assert log.log.durable == 3
    log.batch(1, LARGE)
    log.log.close()
    assert read(files)[0] == log.records


def test_what_was_executed_is_told_to_the_end_on_a_full_disk() -> None:
    """Each of a batch's transactions aborted in a record of its own, and the mark."""
    for length in range(0, 4000, 56):
        files = SimulatedFiles()
        log = Appended(begin(files))
        log.batch(1, bytes(length))
        log.batch(20, bytes(100))
        before = len(segments(DIRECTORY, files))
        for sequence in range(2, 22):
            log.aborts((sequence, 1))
        log.log.wait(log.log.written)
        log.log.idle()
        assert len(segments(DIRECTORY, files)) == before
        *_, last = read_tail(DIRECTORY, 0, HISTORY, files=files)
        assert last.kind is Kind.MARK


def test_a_name_for_which_there_is_no_space() -> None:
    files = SimulatedFiles()
    log = Appended(begin(files))
    log.batch(1, LARGE)
    full(files, 3)
    with pytest.raises(DiskFull):
        log.batch(1, LARGE)
    log.batch(1, LARGE)
    assert read(files)[0] == log.records


def test_a_failed_write_or_sync_ends_it_for_ever() -> None:
    uses: list[Callable[[Appended], object]] = [
        lambda log: log.batch(1, b"b"),
        lambda log: log.log.wait(1),
        lambda log: log.log.close(),
    ]
    for use in uses:
        files = SimulatedFiles()
        log = Appended(begin(files))
        log.batch(1, b"a")
        files.fails_at = files.calls + 1
        with pytest.raises(LogBroken, match=r"failed to (write|sync): Input/output error"):
            use(log)
        assert files.failed == 1
        with pytest.raises(LogBroken):
            log.log.wait(0)
        assert log.log.durable == 0
        log.log.close()
        assert files.descriptors == {}


def test_figures() -> None:
    files = SimulatedFiles()
    log = Appended(begin(files))
    log.batch(1, LARGE)
    log.batch(1, LARGE)
    figures = log.log.figures()
    assert (figures["segments"], figures["bytes"]) == (2, 16384)
    assert (figures["written"], figures["durable"], figures["mode"]) == (2, 0, "fsync")
    log.log.wait(2)
    figures = log.log.figures()
    assert 0 <= int(figures["sync_p50_us"]) <= int(figures["sync_p99_us"])
    assert figures["durable"] == 2
    assert log.log.bytes_written == 2 * (64 + len(LARGE))


class WithThread(Files):
    def syncer(self) -> Syncer:
        return ThreadSyncer(self.sync_data)


@pytest.mark.parametrize("files", [Files(), WithThread()], ids=["kernel", "thread"])
@pytest.mark.parametrize("durability", ["fsync", "os"])
def test_on_a_real_disk(tmp_path: Path, files: Files, durability: str) -> None:
    settings = Settings(durability, 1 << 16)
    log = Appended(begin(files, path=tmp_path, settings=settings))
    for number in range(200):
        log.batch(3, bytes([number]) * 1000)
        log.log.start_sync()
        while log.log.durable < log.log.written - 1:
            assert select.select([log.log.wakeup_fd], [], [], 10)[0]
            log.log.on_wakeup()
    log.log.wait(log.log.written)
    assert log.log.figures()["segments"] == len(segments(tmp_path)) > 3
    assert read(path=tmp_path)[0] == log.records
    log.log.close()
    assert read_tail(tmp_path, 0, HISTORY, from_disk=True).finish().state is State.CLEAN
    second = Appended(begin(files, path=tmp_path, settings=settings), 600, log.records)
    second.batch(1, b"more")
    second.log.close()
    assert read(path=tmp_path)[0] == second.records
    assert "log-next.partial" not in os.listdir(tmp_path)


@pytest.mark.parametrize("files", [Files(), WithThread()], ids=["kernel", "thread"])
def test_waiting_briefly_ends_with_the_sync(tmp_path: Path, files: Files) -> None:
    log = Appended(begin(files, path=tmp_path))
    log.log.wait_briefly(10)  # nothing is under way
    for _ in range(20):
        log.batch(1, b"a")
        log.log.start_sync()
        log.log.wait_briefly(10)
        assert log.log.durable == log.log.written
    log.log.close()


class Stuck(Files):
    """Of a disk whose syncs end when they are let."""

    def __init__(self) -> None:
        self.lets = threading.Event()
        self.lets.set()

    def syncer(self) -> Syncer:
        return ThreadSyncer(self.sync_data)

    def sync_data(self, fd: int) -> None:
        assert self.lets.wait(10)
        super().sync_data(fd)


def test_waiting_briefly_ends_without_the_sync(tmp_path: Path) -> None:
    files = Stuck()
    log = Appended(begin(files, path=tmp_path))
    files.lets.clear()
    log.batch(1, b"a")
    log.log.start_sync()
    log.log.wait_briefly(0.001)
    assert (log.log.durable, log.log.written) == (0, 1)
    files.lets.set()
    log.log.wait_briefly(10)
    assert log.log.durable == 1
    log.log.close()


class Slow(Files):
    """Of a disk that takes a while, so that closing finds it at work."""

    def __init__(self) -> None:
        self.syncs = 0

    def sync_data(self, fd: int) -> None:
        self.syncs += 1
        super().sync_data(fd)


def test_closing_does_not_wait_for_a_segment_that_nobody_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_ahead, "AHEAD_BYTES_S", 1 << 10)
    files = Slow()
    ahead = log_ahead.NextSegment(tmp_path, files)
    ahead.prepare(64 << 20)
    ahead.prepare(64 << 20)
    ahead.close()
    assert os.listdir(tmp_path) == []
    assert files.syncs < 3


def test_a_segment_that_is_wanted_now_is_filled_without_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_ahead, "AHEAD_BYTES_S", 1 << 10)
    ahead = log_ahead.NextSegment(tmp_path, Files())
    ahead.prepare(1 << 20)
    fd, size_bytes = ahead.take(1 << 16, 1 << 16)
    assert size_bytes == 1 << 20, "the one that was begun"
    assert os.pread(fd, 2 << 20, 0) == bytes(1 << 20)
    os.close(fd)
    os.remove(ahead.path)
