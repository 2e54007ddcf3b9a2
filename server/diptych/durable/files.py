"""Every call to the file system that this package makes to change it: one seam to the world.

A test hands in a `Files` whose n-th call fails, or ends the process, and so sees what is left
behind at each point. All calls are synchronous, but for what `syncer` gives; errors are the
system's `OSError`s.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from diptych.durable.aio import Syncer, best_syncer

_NO_SUCH_CALL = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class Files:
    """The real file system."""

    def create(self, path: Path) -> int:
        """A new, empty file for reading and writing; what was there of that name is emptied."""
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        return os.open(path, flags, 0o600)

    def open(self, path: Path, *, writable: bool = False) -> int:
        """A file that exists."""
        return os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)

    def names(self, path: Path) -> list[str]:
        """What a directory holds."""
        return os.listdir(path)

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def read(self, fd: int, length_bytes: int, offset: int) -> bytes:
        """So many bytes, or fewer where the file ends."""
        data = os.pread(fd, length_bytes, offset)
        while len(data) < length_bytes:
            more = os.pread(fd, length_bytes - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def forget_cached(self, fd: int) -> None:
        """Read it from the disk the next time, not from the system's memory."""
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

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

    def write_parts(
        self, fd: int, parts: Sequence[bytes | bytearray | memoryview], offset: int
    ) -> None:
        """Write one after the other, in one call if the system can."""
        written = os.pwritev(fd, parts, offset)
        for part in parts:
            length_bytes = memoryview(part).nbytes
            if written < length_bytes:
                self.write(
                    fd, memoryview(part).cast("B")[max(0, written) :], offset + max(0, written)
                )
            written -= length_bytes
            offset += length_bytes

    def syncer(self) -> Syncer:
        """What syncs without waiting; see `aio`."""
        return best_syncer(self.sync_data)

    def beside(self, work: Callable[[], None], name: str) -> Callable[[], None]:
        """Begin `work` in a thread. What is returned waits for it."""
        thread = threading.Thread(target=work, name=name, daemon=True)
        thread.start()
        return thread.join

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
