"""The data directory: who may use it, which checkpoints it holds, and how a new one gets there.

`lock` is held (flock) by the one process that writes, for as long as it lives; the kernel lets go
of it with the process. What it says tells the next one how this one ended. `checkpoint-<sequence>-<epoch>.diptych` is a complete checkpoint: `epoch`
counts those of the directory, so the highest is the newest. `*.partial` is one being written, or
what a process that was killed left of one; nothing reads it.

The newest two complete ones are kept: a new one gets its name before the oldest loses its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import time
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from types import TracebackType

from diptych.durable.checkpoint import Checkpoint, write_checkpoint
from diptych.durable.files import Files
from diptych.durable.header import Header
from diptych.durable.progress import Progress, in_mebibytes
from diptych.errors import ConfigurationError
from diptych.memory import PAGE_BYTES, Extent, Region

KEPT = 2
LOCK = "lock"
PARTIAL = ".partial"
_NAME = re.compile(r"checkpoint-(\d{20})-(\d{10})\.diptych")

log = logging.getLogger("diptych.durable")

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Ended(Enum):
    """How the last one that had a directory locked ended."""

    CLEAN = "in order"
    SAME_BOOT = "killed, and the host has run since: what it wrote to files is there"
    OTHER_BOOT = "killed, perhaps with the host: what was not synced may be gone"


def checkpoints_in(path: Path) -> list[Checkpoint]:
    """The complete checkpoints of a directory, the newest last. Errors: OSError."""
    found = []
    for name in os.listdir(path):
        match = _NAME.fullmatch(name)
        if match is not None:
            found.append(Checkpoint(path / name, int(match[1]), int(match[2])))
    return sorted(found, key=lambda checkpoint: (checkpoint.epoch, checkpoint.sequence))


class DataDirectory:
    """A directory that this process has locked. Make it with `open`; a context manager."""

    def __init__(self, path: Path, lock_fd: int, files: Files, app: str, ended: Ended) -> None:
        self.path = path
        self.ended = ended
        self._app = app
        self._lock_fd = lock_fd
        self._files = files

    @classmethod
    def open(cls, path: Path, app: str, files: Files | None = None) -> DataDirectory:
        """Make the directory if need be, lock it, and clear away what a killed writer left.

        Errors: ConfigurationError when it is in use, or can't be used.
        """
        files = files or Files()
        path = path.absolute()
        try:
            if not path.is_dir():
                path.mkdir(mode=0o700, parents=True)
                files.sync_directory(path.parent)
            lock_fd = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(f"data: {path}: {error.strerror or error}") from None
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ended = _ended(os.pread(lock_fd, 1000, 0).decode(errors="replace"))
            _say(lock_fd, app, "running")
            os.fsync(lock_fd)  # or a host that fails would leave what it said before
            for left in path.glob(f"checkpoint-*{PARTIAL}"):
                log.warning("removing %s: whoever wrote it did not finish", left.name)
                files.remove(left)
        except BlockingIOError:
            holder = os.pread(lock_fd, 200, 0).decode(errors="replace").partition("\n")[0]
            os.close(lock_fd)
            told = f" (process and application: {holder})" if holder else ""
            raise ConfigurationError(
                f"data: {path} is in use by another server{told}; one server a directory"
            ) from None
        except BaseException:
            os.close(lock_fd)
            raise
        return cls(path, lock_fd, files, app, ended)

    def checkpoints(self) -> list[Checkpoint]:
        """The complete ones, the newest last. Errors: OSError."""
        return checkpoints_in(self.path)

    def newest(self) -> Checkpoint | None:
        found = self.checkpoints()
        return found[-1] if found else None

    def save(
        self,
        region: Region,
        extents: Iterable[Extent],
        *,
        app: str,
        schema: bytes,
        history: int,
        sequence: int,
    ) -> Checkpoint:
        """Write a checkpoint of `region`, which nobody changes meanwhile.

        Returns when it would outlive the host. Errors: OSError (a full disk); what was there
        before is then still there.
        """
        newest = self.newest()
        header = Header(
            app=app,
            schema=schema,
            history=history,
            sequence=sequence,
            epoch=1 + (newest.epoch if newest else 0),
            time_ns=time.time_ns(),
            region_bytes=region.size_bytes,
            extents=tuple(extents),
        )
        path = self.path / header.file_name
        partial = path.with_name(path.name + PARTIAL)
        data_bytes = header.page_count * PAGE_BYTES
        progress = Progress(
            log, f"saving to {self.path}", data_bytes, shown=in_mebibytes, unit="MiB"
        )
        try:
            write_checkpoint(self._files, partial, region, header, progress.add)
            self._files.rename(partial, path)
        except BaseException:
            with contextlib.suppress(OSError):
                self._files.remove(partial)
            raise
        self._files.sync_directory(self.path)
        log.info(
            "saved %s, %s MiB, in %.1f s",
            path.name,
            in_mebibytes(header.file_bytes),
            progress.elapsed_s,
        )
        self._forget_old()
        return Checkpoint(path, sequence, header.epoch)

    def end_in_order(self) -> None:
        """Note that nothing is missing here, for the next one to see."""
        _say(self._lock_fd, self._app, "ended")

    def close(self) -> None:
        """Unlock it."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def __enter__(self) -> DataDirectory:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _forget_old(self) -> None:
        """Remove all but the newest. What can't be removed costs disk space alone."""
        try:
            for old in self.checkpoints()[:-KEPT]:
                self._files.remove(old.path)
        except OSError as error:
            log.warning("an old checkpoint stays: %s", error)


def _say(fd: int, app: str, state: str) -> None:
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()} {app}\n{state} {_boot_id()}\n".encode(), 0)


def _ended(said: str) -> Ended:
    """From what the lock says; a directory that nobody has used yet is in order."""
    lines = said.splitlines()
    state, _, boot_id = lines[1].partition(" ") if len(lines) > 1 else ("", "", "")
    if not lines or state == "ended":
        return Ended.CLEAN
    return Ended.SAME_BOOT if boot_id and boot_id == _boot_id() else Ended.OTHER_BOOT


def _boot_id() -> str:
    with contextlib.suppress(OSError):
        return _BOOT_ID.read_text().strip()
    return ""
