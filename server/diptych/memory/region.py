"""A region: shared memory of one descriptor, with private scratch at the very next addresses.

One array of words covers both parts, so a kernel reaches the data and its own working space
through a single argument. The shared part is what other processes map, what is tracked and copied;
the scratch belongs to this process and is never seen by anyone else.

A region has a size (address space; costs nothing) and allocated extents (memory). Reading a page
that was never allocated allocates it, silently and past any limit, so callers stay inside what
they allocated. Whoever maps a region writable is the only one to write it: that is not enforced
here.

Views (`buffer`, `words`) keep the mapping alive: `close` gives up the region's own, and the memory
goes away when the last view does.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import tempfile
import weakref
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from diptych.memory import libc
from diptych.memory.errors import AllocationFailed
from diptych.memory.layout import PAGE_BYTES, Extent, Words


class Region:
    """`size_bytes` of shared memory, then `scratch_bytes` of private memory, both whole pages."""

    def __init__(self, fd: int, size_bytes: int, scratch_bytes: int, *, writable: bool) -> None:
        """Map `fd` and own it from here on; use `create` or `attach`."""
        if size_bytes <= 0 or size_bytes % PAGE_BYTES or scratch_bytes % PAGE_BYTES:
            raise ValueError(f"sizes must be whole pages of {PAGE_BYTES} bytes")
        self.fd = fd
        self.size_bytes = size_bytes
        self.scratch_bytes = scratch_bytes
        self.writable = writable
        total_bytes = size_bytes + scratch_bytes
        self.address = libc.reserve(total_bytes)
        try:
            libc.map_shared(self.address, size_bytes, fd, writable=writable)
            if scratch_bytes:
                libc.map_private(self.address + size_bytes, scratch_bytes)
        except OSError:
            libc.unmap(self.address, total_bytes)
            raise
        if writable:
            # Pages are tracked one by one: a huge page would be split at its first write anyway. A
            # kernel without huge pages refuses the advice, which is as good.
            with contextlib.suppress(OSError):
                libc.advise(self.address, size_bytes, libc.MADV_NOHUGEPAGE)
        mapping = _mapping(self.address, total_bytes)
        whole = memoryview(mapping).cast("B")
        shared = whole[:size_bytes]
        self.buffer = shared if writable else shared.toreadonly()
        self.scratch = whole[size_bytes:]
        self.words: Words = np.frombuffer(whole, dtype=np.int64)

    @classmethod
    def create(
        cls,
        size_bytes: int,
        *,
        scratch_bytes: int = 0,
        name: str = "region",
        directory: Path | None = None,
    ) -> Region:
        """New memory, all zero and sparse, mapped writable.

        With a `directory`, a file there instead of a memfd; it has no name (or loses it at once),
        so nothing is left behind however this process ends.
        """
        fd = _memory_file(name) if directory is None else _nameless_file(directory)
        try:
            os.ftruncate(fd, size_bytes)
            return cls(fd, size_bytes, scratch_bytes, writable=True)
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def attach(
        cls, fd: int, size_bytes: int, *, scratch_bytes: int = 0, writable: bool = False
    ) -> Region:
        """Map memory that another process created; `fd` stays the caller's."""
        own_fd = os.dup(fd)
        try:
            if os.fstat(own_fd).st_size < size_bytes:
                raise ValueError("the descriptor's memory is smaller than the region")
            return cls(own_fd, size_bytes, scratch_bytes, writable=writable)
        except BaseException:
            os.close(own_fd)
            raise

    @property
    def page_count(self) -> int:
        return self.size_bytes // PAGE_BYTES

    def allocate(self, extent: Extent) -> None:
        """Get memory for `extent` (pages that have some keep it), so that no later write can fail.

        Raises AllocationFailed when there is none.
        """
        self._check(extent)
        try:
            os.posix_fallocate(self.fd, extent.start * PAGE_BYTES, extent.page_count * PAGE_BYTES)
        except OSError as failure:
            if failure.errno not in (errno.ENOSPC, errno.ENOMEM, errno.EDQUOT, errno.EFBIG):
                raise
            raise AllocationFailed(
                f"no memory for {extent.page_count} pages: {failure.strerror}",
                hint="lower the capacities, use fewer images, or raise the memory limit",
            ) from failure

    def populate(self, extent: Extent) -> None:
        """Map the pages of `extent` for writing now: their first touch costs nothing later."""
        self._check(extent)
        address = self.address + extent.start * PAGE_BYTES
        size_bytes = extent.page_count * PAGE_BYTES
        try:
            libc.advise(address, size_bytes, libc.MADV_POPULATE_WRITE)
        except OSError as failure:
            if failure.errno in (errno.ENOMEM, errno.EFAULT):
                raise AllocationFailed(f"no memory for {extent.page_count} pages") from failure
            if failure.errno != errno.EINVAL:
                raise
            # Linux before 5.14 lacks the advice: pages are then mapped by whoever touches them
            # first.

    def share_scratch_page(self, fd: int, start_bytes: int) -> None:
        """Map `fd`, a page of shared memory, over the page of the scratch that begins at
        `start_bytes`; the descriptor stays the caller's.

        What other processes write there is then seen by kernels, too. Errors: OSError.
        """
        if start_bytes % PAGE_BYTES or not 0 <= start_bytes < self.scratch_bytes:
            raise ValueError(f"the scratch has no page at {start_bytes}")
        address = self.address + self.size_bytes + start_bytes
        libc.map_shared(address, PAGE_BYTES, fd, writable=True)

    def read_only_fd(self) -> int:
        """A new descriptor of the same memory that cannot be mapped writable; the caller closes it.

        The file's mode is lowered first, so that a process of another user cannot reopen it for
        writing. That guards against accident, not against the owner or root.
        """
        os.fchmod(self.fd, 0o400)
        return os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Give up the descriptor and the views; the mapping ends with the last view elsewhere."""
        if self.fd < 0:
            return
        os.close(self.fd)
        self.fd = -1
        nothing = memoryview(b"")
        self.buffer = nothing
        self.scratch = nothing
        self.words = np.zeros(0, dtype=np.int64)

    def __del__(self) -> None:
        if getattr(self, "fd", -1) >= 0:
            with contextlib.suppress(OSError):
                os.close(self.fd)

    def __enter__(self) -> Region:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        access = "writable" if self.writable else "read-only"
        return f"<Region {self.size_bytes} bytes + {self.scratch_bytes} scratch, {access}>"

    def _check(self, extent: Extent) -> None:
        if not 0 <= extent.start < extent.stop <= self.page_count:
            raise ValueError(f"{extent} is not inside a region of {self.page_count} pages")


def _mapping(address: int, size_bytes: int) -> ctypes.Array[ctypes.c_ubyte]:
    """The object that all views of a mapping keep alive, and whose end unmaps it."""
    # A class of its own, since ctypes' array types cannot be weakly referenced.
    kind: Any = type("Mapping", (ctypes.c_ubyte * size_bytes,), {})
    mapping: ctypes.Array[ctypes.c_ubyte] = kind.from_address(address)
    # Not at exit: views may outlive us there, and the process's end unmaps everything.
    weakref.finalize(mapping, libc.unmap, address, size_bytes).atexit = False
    return mapping


def _memory_file(name: str) -> int:
    return os.memfd_create(f"diptych-{name}", os.MFD_CLOEXEC)


def _nameless_file(directory: Path) -> int:
    try:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as failure:
        if failure.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise
    # The file system (overlayfs before 6.x, NFS) has no nameless files: unlink at once instead.
    fd, path = tempfile.mkstemp(prefix="diptych-", dir=directory)
    os.unlink(path)
    return fd
