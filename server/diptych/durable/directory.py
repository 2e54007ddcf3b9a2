"""The data directory: who may use it. What it holds is told by `store` and `checkpoint`.

`lock` is held (flock) by the one process that writes, for as long as it lives; the kernel lets go
of it with the process. What it says tells the next one how this one ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import TracebackType

from diptych.durable.checkpoint import Checkpoint
from diptych.durable.files import Files
from diptych.durable.store import CheckpointStore
from diptych.errors import ConfigurationError
from diptych.memory import Extent, Region

LOCK = "lock"
LOCK_WAIT_S = 2.0
"""A server that was killed has its directory locked until the system has taken its memory back."""
_LOCKS = Path("/proc/locks")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Ended(Enum):
    """How the last one that had a directory locked ended."""

    CLEAN = "in order"
    SAME_BOOT = "killed, and the host has run since: what it wrote to files is there"
    OTHER_BOOT = "killed, perhaps with the host: what was not synced may be gone"


@dataclass(frozen=True)
class Lock:
    """What a directory's lock says, as seen by somebody who does not take it.

    `held`: whether its process has it now, None where the system does not tell. `ended` and `mode`
    are those of the last one that had it, if nobody has.
    """

    process: int
    app: str
    held: bool | None
    ended: Ended
    mode: str


def look_at_lock(path: Path) -> Lock | None:
    """The lock of a directory, which is neither taken nor changed; None: nobody ever had it.

    Trying to take it would, for a moment, refuse it to a server that starts. Errors: OSError.
    """
    try:
        fd = os.open(path / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        said = os.pread(fd, 1000, 0).decode(errors="replace")
        status = os.fstat(fd)
    finally:
        os.close(fd)
    process, _, app = said.partition("\n")[0].partition(" ")
    number = int(process) if process.isdecimal() else 0
    return Lock(number, app, _is_held(status, number), *_read(said))


class DataDirectory:
    """A directory that this process has locked. Make it with `open`; a context manager."""

    def __init__(self, path: Path, lock_fd: int, files: Files, app: str, said: str) -> None:
        self.path = path
        self.files = files
        self.ended, self.mode_before = _read(said)
        """How the one before ended, and with which durability; "" if there was none."""
        self._app, self._mode = app, self.mode_before
        self._lock_fd = lock_fd
        self.store = CheckpointStore(path, files)

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
            _lock(lock_fd)
            said = os.pread(lock_fd, 1000, 0).decode(errors="replace")
            # Until `begin` the next one needs to know how that one ended, and not how we did.
            _say(lock_fd, app, _state(said) or f"running none {_boot_id()}")
            CheckpointStore(path, files).clear()
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
        return cls(path, lock_fd, files, app, said)

    def checkpoints(self) -> list[Checkpoint]:
        """The complete ones, the newest last. Errors: OSError."""
        return self.store.checkpoints()

    def newest(self) -> Checkpoint | None:
        return self.store.newest()

    def save(
        self,
        region: Region,
        extents: Iterable[Extent],
        *,
        app: str,
        schema: bytes,
        history: int,
        sequence: int,
        facts: str = "",
    ) -> Checkpoint:
        """Write a checkpoint of `region`, all of it and as fast as the disk takes it.

        Errors: as `CheckpointStore.save`.
        """
        saved = self.store.save(
            region,
            extents,
            app=app,
            schema=schema,
            history=history,
            sequence=sequence,
            facts=facts,
        )
        return saved.checkpoint

    def begin(self, mode: str) -> None:
        """Note with which durability answers leave from now on."""
        self._mode = mode
        _say(self._lock_fd, self._app, f"running {mode} {_boot_id()}")

    def end_in_order(self) -> None:
        """Note that nothing is missing here, for the next one to see."""
        _say(self._lock_fd, self._app, f"ended {self._mode}")

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


def _lock(fd: int) -> None:
    """Errors: BlockingIOError, when somebody else keeps it locked."""
    until = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise
            time.sleep(0.02)
        else:
            return


def _say(fd: int, app: str, state: str) -> None:
    said = f"{os.getpid()} {app}\n{state}\n".encode()
    os.pwrite(fd, said, 0)
    os.ftruncate(fd, len(said))
    os.fsync(fd)  # or a host that fails would leave what it said before


def _state(said: str) -> str:
    return said.partition("\n")[2].strip()


def _read(said: str) -> tuple[Ended, str]:
    """From what the lock says; a directory that nobody has used yet is in order."""
    if not said:
        return Ended.CLEAN, ""
    state, mode, boot_id = [*_state(said).split(), "", "", ""][:3]
    if state == "ended":
        return Ended.CLEAN, mode
    return (Ended.SAME_BOOT if boot_id and boot_id == _boot_id() else Ended.OTHER_BOOT), mode


def _is_held(status: os.stat_result, process: int) -> bool | None:
    """By the system's list of locks. Not every file system has the same device number there."""
    try:
        listed = [line.split() for line in _LOCKS.read_text().splitlines()]
    except OSError:
        return None
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    for words in listed:
        if len(words) >= 6 and words[1] == "FLOCK":
            where, _, inode = words[5].rpartition(":")
            if inode == str(status.st_ino) and (where == device or words[4] == str(process)):
                return True
    return False


def _boot_id() -> str:
    with contextlib.suppress(OSError):
        return _BOOT_ID.read_text().strip()
    return ""
