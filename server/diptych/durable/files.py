"""Every call to the file system that this package makes to change it: one seam to the world.

A test hands in a `Files` whose n-th call fails, or ends the process, and so sees what is left
behind at each point. All calls are synchronous; errors are the system's `OSError`s.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

_NO_SUCH_CALL = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class Files:
    """The real file system."""

    def create(self, path: Path) -> int:
        """A new, empty file for reading and writing; what was there of that name is emptied."""
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        return os.open(path, flags, 0o600)

    def open(self, path: Path) -> int:
        """A file that is there, for reading and writing."""
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def reserve(self, fd: int, size_bytes: int, offset: int = 0) -> None:
        """Get disk space now, so that a full disk is known before the work is done."""
        try:
            os.posix_fallocate(fd, offset, size_bytes)
        except OSError as failure:
            if failure.errno not in _NO_SUCH_CALL:
                raise

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        """Write all of `data` at `offset`."""
        rest = memoryview(data)
        while rest:
            written = os.pwrite(fd, rest, offset)
            rest, offset = rest[written:], offset + written

    def sync_data(self, fd: int) -> None:
        os.fdatasync(fd)

    def sync(self, fd: int) -> None:
        os.fsync(fd)

    def close(self, fd: int) -> None:
        os.close(fd)

    def rename(self, source: Path, target: Path) -> None:
        os.rename(source, target)

    def sync_directory(self, path: Path) -> None:
        """Make names that were made, changed or removed in a directory outlive the host."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def remove(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
