"""The kernel's tracking: every way in, every user, and the ways it can be lost."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from diptych.memory import (
    Extent,
    KernelTracker,
    MemoryFailure,
    Region,
    TrackingLost,
    TrackingUnavailable,
    check_kernel_tracking,
    choose_tracker,
    userfault,
)

DEVICE = "/dev/userfaultfd"

# Runs as another user: no capabilities, and nothing of root's can be opened any more.
AS_ORDINARY_USER = """
import ctypes, os, sys
from diptych.memory import Extent, KernelTracker, Region, check_kernel_tracking, warm
warm()
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
    if sys.argv[1] == "dumpable":
        ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
assert os.getuid() != 0
check_kernel_tracking("system call")
region = Region.create(16 * 4096)
tracker = KernelTracker(region)
tracker.track(Extent(1, 16))
tracker.start()
region.words[5 * 512] = 1
reading, writing = os.pipe()
os.write(writing, b"12345678")
assert os.readv(reading, [region.buffer[9 * 4096:9 * 4096 + 8]]) == 8
print(tracker.opened_by, tracker.take().tolist())
"""

CACHED = """
from diptych.memory import CompareTracker, Extent, KernelTracker, Region, kernels
with Region.create(8 * 4096) as region:
    for kind in (KernelTracker, CompareTracker):
        tracker = kind(region)
        tracker.track(Extent(1, 8))
        tracker.start()
        region.words[3 * 512] += 1
        assert tracker.take().tolist() == [3]
for kernel in (kernels.scan_written, kernels.compare_written):
    print(sum(kernel.stats.cache_hits.values()), sum(kernel.stats.cache_misses.values()))
"""

# In a process of its own, since this one may have threads.
FORKED = """
import os
from diptych.memory import Extent, KernelTracker, Region, TrackingLost
region = Region.create(8 * 4096)
tracker = KernelTracker(region)
tracker.track(Extent(1, 8))
tracker.start()
region.words[512] = 1
if os.fork() == 0:
    try:
        tracker.take()
    except TrackingLost as lost:
        print("child:", str(lost).split(":")[0], flush=True)
    os._exit(0)
os.wait()
print("parent:", tracker.take().tolist())
"""


@pytest.fixture
def tracker(region: Region) -> Iterator[KernelTracker]:
    tracker = KernelTracker(region)
    tracker.track(Extent(1, 32))
    tracker.start()
    yield tracker
    tracker.stop()


def run(program: str, *arguments: str, **environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_an_ordinary_user_can_track_and_system_calls_are_seen() -> None:
    assert run(AS_ORDINARY_USER, "dumpable") == ["system call [5, 9]"]


def test_a_changed_user_without_exec_is_told_why() -> None:
    if os.getuid() == 0:
        with pytest.raises(AssertionError, match="must execute its program anew"):
            run(AS_ORDINARY_USER, "not dumpable")
    else:  # nothing to change
        assert run(AS_ORDINARY_USER, "not dumpable") == ["system call [5, 9]"]


def test_the_device_works_where_it_can_be_opened() -> None:
    if os.access(DEVICE, os.R_OK | os.W_OK):
        check_kernel_tracking(DEVICE)
    else:
        with pytest.raises(TrackingUnavailable, match="by /dev/userfaultfd"):
            check_kernel_tracking(DEVICE)


def refuse(error: int) -> int:
    raise OSError(error, os.strerror(error))


@pytest.mark.parametrize("error", [1, 22, 38])
def test_any_refusal_of_the_system_call_leads_to_the_device(
    error: int, region: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = userfault.OPENINGS["system call"]
    monkeypatch.setitem(userfault.OPENINGS, "system call", lambda: refuse(error))
    monkeypatch.setitem(userfault.OPENINGS, DEVICE, opened)
    tracker = KernelTracker(region)
    tracker.start()
    assert tracker.opened_by == DEVICE
    tracker.stop()


def test_without_any_way_comparing_is_chosen_and_the_log_says_why(
    region: Region, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in list(userfault.OPENINGS):
        monkeypatch.setitem(userfault.OPENINGS, name, lambda: refuse(1))
    with caplog.at_level(logging.INFO, "diptych.memory"):
        tracker = choose_tracker(region)
    assert tracker.name == "compare"
    assert "userfaultfd by system call: Operation not permitted" in caplog.text
    assert "userfaultfd by /dev/userfaultfd: Operation not permitted" in caplog.text
    with pytest.raises(TrackingUnavailable, match="Operation not permitted"):
        choose_tracker(region, "kernel")


def test_an_old_kernel_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(userfault, "enable", lambda fd: refuse(22))
    with pytest.raises(TrackingUnavailable, match=r"Linux 6\.7"):
        check_kernel_tracking()


def test_a_kernel_that_reports_wrong_pages_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    # Some kernels accept the calls and track nothing.
    monkeypatch.setattr(userfault, "protect", lambda fd, address, size: None)
    with pytest.raises(MemoryFailure, match="the kernel reported"):
        check_kernel_tracking()


def test_the_log_says_which_way_was_taken(region: Region, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "diptych.memory"):
        tracker = choose_tracker(region)
    assert tracker.name == "kernel"
    assert "tracked by the kernel" in caplog.text
    tracker.stop()


def test_lost_tracking_is_noticed(region: Region, tracker: KernelTracker) -> None:
    region.words[512] = 1
    os.close(tracker._fault_fd)
    tracker._fault_fd = os.open("/dev/null", os.O_RDONLY)
    for call in (tracker.take, tracker.written, tracker.clear):
        with pytest.raises(TrackingLost):
            call()
    tracker.start()
    region.words[2 * 512] = 1
    assert tracker.take().tolist() == [2]


def test_pages_taken_before_the_failure_are_handed_over(region: Region) -> None:
    tracker = KernelTracker(region)
    tracker.track(Extent(1, 10))
    tracker.track(Extent(20, 30))
    tracker.start()
    for page in (3, 4, 25):
        region.words[page * 512] = 1
    # The second extent's mapping is replaced, as by an mmap over it: it is not tracked any more.
    from diptych.memory import libc

    libc.map_shared(region.address + 20 * 4096, 4096, region.fd, writable=True)
    with pytest.raises(TrackingLost, match="Operation not permitted") as lost:
        tracker.take()
    assert lost.value.pages.tolist() == [3, 4]
    tracker.stop()


def test_a_forked_child_has_no_tracking() -> None:
    assert run(FORKED) == ["child: tracking does not survive a fork", "parent: [1]"]


def test_neighbouring_extents_become_one(region: Region) -> None:
    tracker = KernelTracker(region)
    for start in (9, 3, 1, 5, 7, 20):
        tracker.track(Extent(start, start + 2))
    assert tracker._tracked.extents == [Extent(1, 11), Extent(20, 22)]


def test_a_second_process_loads_the_kernels_from_the_cache(tmp_path: Path) -> None:
    compiling = {"NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_DISABLE_JIT": "0"}
    first, second = run(CACHED, **compiling), run(CACHED, **compiling)
    assert first == ["0 1", "0 1"]
    assert second == ["1 0", "1 0"]
