"""Syncs beside the interpreter: both ways to have one behave alike."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from diptych.durable import aio
from diptych.durable.aio import KernelSyncer, Syncer, ThreadSyncer, best_syncer

MAKERS: list[Callable[[], Syncer]] = [KernelSyncer, lambda: ThreadSyncer(os.fdatasync)]


@pytest.fixture(params=MAKERS, ids=["kernel", "thread"])
def syncer(request: pytest.FixtureRequest) -> Iterator[Syncer]:
    made: Syncer = request.param()
    yield made
    made.close()


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"x" * 10_000)
    yield fd
    os.close(fd)


def readable(syncer: Syncer, seconds: float) -> bool:
    return bool(select.select([syncer.wakeup_fd], [], [], seconds)[0])


def test_the_end_is_told_by_the_descriptor(syncer: Syncer, fd: int) -> None:
    for _ in range(3):
        assert not syncer.ended()
        syncer.begin(fd)
        # A thread may tell a moment before or after its result can be had.
        while not syncer.ended():
            assert readable(syncer, 10)
        syncer.begin(fd)
        syncer.wait()


def test_nothing_is_left_to_be_read(syncer: Syncer, fd: int) -> None:
    for _ in range(20):
        syncer.begin(fd)
        syncer.wait()
        while readable(syncer, 0.001):  # it may tell a moment later
            assert not syncer.ended()


def begin_and_wait(syncer: Syncer, fd: int) -> None:
    syncer.begin(fd)
    syncer.wait()


def begin_and_look(syncer: Syncer, fd: int) -> None:
    syncer.begin(fd)
    while not syncer.ended():
        assert readable(syncer, 10)


@pytest.mark.parametrize("sync", [begin_and_wait, begin_and_look])
def test_a_sync_that_fails(syncer: Syncer, sync: Callable[[Syncer, int], None]) -> None:
    """A pipe can't be synced. This may be said at once, or afterwards."""
    ours, theirs = os.pipe()
    try:
        with pytest.raises(OSError) as noticed:
            sync(syncer, theirs)
        assert noticed.value.errno == errno.EINVAL
    finally:
        os.close(ours)
        os.close(theirs)


def test_where_the_kernel_does_not_know_the_call(monkeypatch: pytest.MonkeyPatch, fd: int) -> None:
    synced: list[int] = []
    monkeypatch.setitem(aio._CALLS, aio.platform.machine(), (9999, 9999, 9999, 9999))
    with pytest.raises(OSError) as noticed:
        KernelSyncer()
    assert noticed.value.errno == errno.ENOSYS
    syncer = best_syncer(synced.append)
    assert isinstance(syncer, ThreadSyncer)
    syncer.begin(fd)
    syncer.wait()
    syncer.close()
    assert synced == [fd]


def test_where_the_kernel_does_not_know_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """An opcode that there is none of: io_submit says EINVAL."""
    monkeypatch.setattr(aio, "_FDSYNC", 77)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError) as noticed:
        KernelSyncer()
    assert noticed.value.errno == errno.EINVAL
    assert set(os.listdir("/proc/self/fd")) == before


def test_where_the_processor_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio, "_CALLS", {})
    with pytest.raises(OSError, match="not known on"):
        KernelSyncer()


def test_the_kernel_is_asked_first() -> None:
    syncer = best_syncer(os.fdatasync)
    assert isinstance(syncer, KernelSyncer)
    syncer.close()
