"""What both trackers promise: the origin's calls, every kind of write, nothing lost."""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import struct
import tempfile
import threading
from collections.abc import Callable

import numba
import numpy as np
import pytest

from diptych.memory import (
    CompareTracker,
    Extent,
    KernelTracker,
    PageTracker,
    Region,
    TrackingLost,
)
from diptych.memory.kernels import copy_pages


@numba.njit(nogil=True)
def write_compiled(words: np.ndarray, at: int) -> None:
    words[at] += 1


def write_struct(region: Region, at: int) -> None:
    struct.pack_into("<q", region.buffer, at, 77)


def write_memoryview_item(region: Region, at: int) -> None:
    region.buffer.cast("q")[at // 8] = 77


def write_memoryview_slice(region: Region, at: int) -> None:
    region.buffer[at : at + 8] = b"12345678"


def write_ctypes(region: Region, at: int) -> None:
    ctypes.c_int64.from_address(region.address + at).value = 77


def write_ctypes_memset(region: Region, at: int) -> None:
    ctypes.memset(region.address + at, 77, 8)


def write_numpy_scalar(region: Region, at: int) -> None:
    region.words[at // 8] = 77


def write_numpy_slice(region: Region, at: int) -> None:
    region.words[at // 8 : at // 8 + 4] = 77


def write_numpy_out(region: Region, at: int) -> None:
    part = region.words[at // 8 : at // 8 + 4]
    np.add(part, 77, out=part)


def write_numpy_fancy(region: Region, at: int) -> None:
    region.words[np.array([at // 8, at // 8 + 3])] = 77


def write_numpy_structured(region: Region, at: int) -> None:
    rows = np.frombuffer(region.buffer, dtype=[("cash", "<i8"), ("shares", "<f8")])
    rows["cash"][at // 16] = 77


def write_compiled_code(region: Region, at: int) -> None:
    write_compiled(region.words, at // 8)


def write_kernel(region: Region, at: int) -> None:
    source = np.full_like(region.words, 77)
    copy_pages(source, region.words, np.array([at // 4096]))


def write_by_readinto(region: Region, at: int) -> None:
    with tempfile.TemporaryFile(buffering=0) as file:
        file.write(b"12345678")
        file.seek(0)
        assert file.readinto(region.buffer[at : at + 8]) == 8


def write_by_pipe(region: Region, at: int) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"12345678")
    assert os.readv(reading, [region.buffer[at : at + 8]]) == 8
    os.close(reading)
    os.close(writing)


def write_by_socket(region: Region, at: int) -> None:
    left, right = socket.socketpair()
    with left, right:
        left.send(b"12345678")
        assert right.recv_into(region.buffer[at : at + 8]) == 8


WRITES = [value for name, value in sorted(globals().items()) if name.startswith("write_")]
WRITES.remove(write_compiled)


def taken(tracker: PageTracker) -> list[int]:
    pages: list[int] = tracker.take().tolist()
    return pages


@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
def test_every_kind_of_write_is_seen(
    region: Region, tracker: PageTracker, write: Callable[[Region, int], None]
) -> None:
    write(region, 7 * 4096 + 64)
    assert taken(tracker) == [7]
    write(region, 63 * 4096 + 4096 - 32)
    write(region, 4096)
    assert taken(tracker) == [1, 63]
    assert taken(tracker) == []


def test_the_three_calls(region: Region, tracker: PageTracker) -> None:
    for page in (3, 9, 30, 31):
        region.words[page * 512] = 1
    assert tracker.written().tolist() == [3, 9, 30, 31]
    assert tracker.written().tolist() == [3, 9, 30, 31], "asking changes nothing"
    assert tracker.written(limit=2).tolist() == [3, 9]
    assert tracker.written(limit=0).tolist() == []
    assert tracker.written(limit=100).tolist() == [3, 9, 30, 31]
    tracker.clear()
    assert tracker.written().tolist() == []
    tracker.stop()
    region.words[5 * 512] = 1
    assert tracker.written().tolist() == []
    tracker.start()
    assert tracker.written().tolist() == [], "what was written while off stays unknown"
    region.words[6 * 512] = 1
    assert tracker.written().tolist() == [6]


def test_taking_while_off_is_an_error_and_never_silence(tracker: PageTracker) -> None:
    tracker.stop()
    with pytest.raises(TrackingLost, match="off"):
        tracker.take()


def test_reading_is_not_writing(region: Region, tracker: PageTracker) -> None:
    assert int(region.words.sum()) == 0
    assert taken(tracker) == []


def test_only_tracked_extents_are_reported(region: Region, tracker: PageTracker) -> None:
    region.buffer[0] = 1  # the stamp's page
    assert taken(tracker) == []
    for extent in (Extent(0, 3), Extent(60, 65), Extent(1, 2), Extent(5, 5)):
        with pytest.raises(ValueError, match="tracked"):
            tracker.track(extent)


def test_a_new_extent_begins_with_nothing_written(region: Region) -> None:
    for kind in (KernelTracker, CompareTracker):
        tracker: PageTracker = kind(region)
        tracker.track(Extent(10, 20))
        tracker.start()
        region.words[30 * 512] += 1
        region.words[12 * 512] += 1
        tracker.track(Extent(30, 40))
        tracker.track(Extent(20, 25))
        assert taken(tracker) == [12], "an older extent keeps what was written in it"
        for page in (9, 10, 24, 25, 29, 30, 39, 40):
            region.words[page * 512] += 1
        assert taken(tracker) == [10, 24, 30, 39]
        tracker.stop()


def test_many_scattered_pages_are_all_reported() -> None:
    # More runs than the kernel returns in one call: the scan has to go on where it stopped.
    with Region.create(20_000 * 4096) as region:
        for kind in (KernelTracker, CompareTracker):
            tracker: PageTracker = kind(region)
            tracker.track(Extent(1, 20_000))
            tracker.start()
            region.words[512::1024] += 1
            expected = list(range(1, 20_000, 2))
            assert tracker.written(limit=1500).tolist() == expected[:1500]
            assert tracker.written().tolist() == expected
            assert tracker.written(limit=5000).tolist() == expected[:5000]
            assert taken(tracker) == expected
            assert taken(tracker) == []
            tracker.stop()


def test_nothing_is_lost_between_get_and_clear(region: Region, tracker: PageTracker) -> None:
    """Another thread writes all the time; a copy kept by takes alone ends up equal."""
    copy = mmap.mmap(-1, region.size_bytes)
    shadow = np.frombuffer(copy, dtype=np.int64)
    stop = threading.Event()

    def write() -> None:
        random = np.random.default_rng(7)
        while not stop.is_set():
            for page in random.integers(1, 64, 32).tolist():
                write_compiled(region.words, page * 512 + page)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(400):
            copy_pages(tracker.source, shadow, tracker.take())
    finally:
        stop.set()
        writer.join()
    copy_pages(tracker.source, shadow, tracker.take())
    assert (shadow[512:] == region.words[512 : 64 * 512]).all()
    assert int(shadow.sum()) > 0
