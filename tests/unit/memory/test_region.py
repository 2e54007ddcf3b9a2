"""Regions: two parts in one array, descriptors for other processes, nothing left behind."""

from __future__ import annotations

import errno
import gc
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from diptych.memory import AllocationFailed, Extent, Region

SIZE = 16 * 4096

# Maps descriptor 3 read-only as a reader does, and writes to it in one of several ways.
READER = """
import ctypes, mmap, os, sys
from diptych.memory import Region
fd, size, way = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
image = Region.attach(fd, size)
assert image.words[512] == 7
if way == "pointer":
    ctypes.c_int64.from_address(image.address + 4096).value = 8
elif way == "words":
    image.words[512] = 8
elif way == "buffer":
    image.buffer[4096] = 8
elif way == "pwrite":
    os.pwrite(fd, b"8", 4096)
elif way == "map":
    Region.attach(fd, size, writable=True)
elif way == "truncate":
    os.ftruncate(fd, 0)
"""


def mappings(name: str) -> int:
    return sum(name in line for line in Path("/proc/self/maps").read_text().splitlines())


def test_one_array_covers_the_region_and_the_scratch_after_it(region: Region) -> None:
    assert region.words.size * 8 == region.size_bytes + region.scratch_bytes
    region.words[region.size_bytes // 8] = 1
    assert region.scratch[0] == 1
    region.words[5] = 0x0102
    assert bytes(region.buffer[40:42]) == b"\x02\x01"
    assert len(region.buffer) == region.size_bytes
    assert len(region.scratch) == region.scratch_bytes
    assert region.words.ctypes.data == region.address


def test_scratch_is_private_and_the_rest_is_shared(region: Region) -> None:
    with Region.attach(region.fd, region.size_bytes, scratch_bytes=8192, writable=True) as other:
        region.buffer[100] = 1
        region.scratch[100] = 1
        assert other.buffer[100] == 1
        assert other.scratch[100] == 0
        assert other.fd != region.fd


def test_a_page_of_the_scratch_can_be_shared_with_others(region: Region) -> None:
    fd = os.memfd_create("page")
    os.ftruncate(fd, 4096)
    region.scratch[:] = b"x" * len(region.scratch)
    region.share_scratch_page(fd, 4096)
    assert bytes(region.scratch[4096:]) == bytes(4096)
    os.pwrite(fd, b"told", 8)
    assert bytes(region.scratch[4104:4108]) == b"told"
    region.scratch[4104] = 0
    assert os.pread(fd, 4, 8) == b"\0old"
    assert bytes(region.scratch[:4096]) == b"x" * 4096
    os.close(fd)
    for start_bytes in (-4096, 100, 8192):
        with pytest.raises(ValueError, match="no page"):
            region.share_scratch_page(0, start_bytes)


@pytest.mark.parametrize("size", [0, -4096, 100])
def test_sizes_are_whole_pages(size: int) -> None:
    with pytest.raises((ValueError, OSError)):
        Region.create(size)


def test_a_descriptor_that_is_too_small_is_refused(region: Region) -> None:
    with pytest.raises(ValueError, match="smaller"):
        Region.attach(region.fd, 2 * region.size_bytes)


def test_a_read_only_descriptor_cannot_be_mapped_writable(region: Region) -> None:
    fd = region.read_only_fd()
    try:
        with pytest.raises(PermissionError):
            Region.attach(fd, region.size_bytes, writable=True)
        with Region.attach(fd, region.size_bytes) as image:
            assert image.buffer.readonly
            with pytest.raises(TypeError):
                image.buffer[0] = 1  # type: ignore[index]  # that is the point
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.pwrite(fd, b"1", 0)
    finally:
        os.close(fd)
    # The owner goes on writing.
    region.buffer[0] = 1


@pytest.mark.parametrize("in_directory", [False, True])
@pytest.mark.parametrize("way", ["pointer", "words", "buffer", "pwrite", "map", "truncate"])
def test_a_reader_process_cannot_change_an_image(
    way: str, in_directory: bool, tmp_path: Path
) -> None:
    with Region.create(SIZE, directory=tmp_path if in_directory else None) as image:
        image.words[512] = 7
        before = bytes(image.buffer)
        fd = image.read_only_fd()
        reader = subprocess.run(
            [sys.executable, "-c", READER, str(fd), str(SIZE), way],
            pass_fds=[fd],
            capture_output=True,
            text=True,
            timeout=60,
        )
        os.close(fd)
        if way in ("pointer", "words"):
            assert reader.returncode == -11, "a write through the mapping ends the process"
        else:
            assert reader.returncode == 1
            assert "Error" in reader.stderr
        assert bytes(image.buffer) == before


def test_a_file_in_a_directory_leaves_nothing_behind(tmp_path: Path) -> None:
    with Region.create(SIZE, directory=tmp_path) as image:
        image.allocate(Extent(0, 16))
        image.populate(Extent(0, 16))
        image.words[512] = 7
        assert list(tmp_path.iterdir()) == []
        with Region.attach(image.fd, SIZE) as other:
            assert other.words[512] == 7
    assert list(tmp_path.iterdir()) == []


def test_a_directory_without_nameless_files_serves_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_open = os.open

    def without_nameless_files(path: object, flags: int, *rest: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "not here")
        return real_open(path, flags, *rest)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(os, "open", without_nameless_files)
    with Region.create(SIZE, directory=tmp_path) as image:
        image.words[512] = 7
        assert list(tmp_path.iterdir()) == []


def test_memory_is_sparse_until_allocated() -> None:
    with Region.create(1 << 36) as region:
        region.allocate(Extent(5, 9))
        region.populate(Extent(5, 9))
        assert os.fstat(region.fd).st_blocks * 512 == 4 * 4096


def test_no_memory_is_a_typed_error(region: Region, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(AllocationFailed, match="no memory for 3 pages"):
        region.allocate(Extent(1, 4))


def test_extents_are_inside_the_region(region: Region) -> None:
    for extent in (Extent(0, region.page_count + 1), Extent(3, 3), Extent(-1, 2)):
        with pytest.raises(ValueError, match="not inside"):
            region.allocate(extent)


def test_views_keep_the_mapping_and_the_last_one_ends_it() -> None:
    region = Region.create(SIZE, name="views")
    words, part = region.words, region.buffer[4096:8192]
    words[512] = 7
    region.close()
    region.close()
    assert mappings("diptych-views") == 1
    assert words[512] == 7
    del words
    gc.collect()
    assert np.frombuffer(part, dtype=np.int64)[0] == 7
    del part
    gc.collect()
    assert mappings("diptych-views") == 0
