"""The next segment of a log, filled with zeros before it is needed, by a thread beside the writer.

Records are written over zeros that have reached the disk: so a sync of them changes no more than
their own bytes, and what is not a record is zero. It is done slowly, in small pieces that are
synced each, so that the log's own syncs don't wait behind it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from diptych.durable.files import Files

NAME = "log-next.partial"
PIECE_BYTES = 256 << 10
AHEAD_BYTES_S = 100 << 20
"""How fast it is filled while nobody waits for it."""

log = logging.getLogger("diptych.durable")


class NextSegment:
    """At most one file, `path`, of zeros."""

    def __init__(self, directory: Path, files: Files) -> None:
        self.path = directory / NAME
        self._files = files
        self._wait: Callable[[], None] | None = None
        """Set while one is being made, and until somebody has waited for that."""
        self._hurry = threading.Event()
        self._stop = False
        self._fd, self._size_bytes = -1, 0
        files.remove(self.path)

    def prepare(self, size_bytes: int) -> None:
        """Begin to fill one, unless there is one or it is begun."""
        if self._wait is None and self._fd < 0:
            self._wait = self._files.beside(
                lambda: self._fill_ahead(size_bytes), "diptych-log-next"
            )

    def take(self, size_bytes: int, least_bytes: int) -> tuple[int, int]:
        """Descriptor and size of a file of zeros that is on the disk: the one that was prepared if
        it has `least_bytes`, else one of `size_bytes`. Errors: OSError; then there is none.
        """
        self._join()
        if 0 <= self._size_bytes < least_bytes:
            self._drop()
        if self._fd < 0:
            self._fill(size_bytes, paced=False)
        taken = self._fd, self._size_bytes
        self._fd, self._size_bytes = -1, 0
        return taken

    def close(self) -> None:
        """Errors: OSError."""
        self._stop = True
        self._join()
        self._drop()

    def _join(self) -> None:
        if self._wait is not None:
            self._hurry.set()
            self._wait()
            self._wait = None
            self._hurry.clear()

    def _drop(self) -> None:
        if self._fd >= 0:
            self._files.close(self._fd)
            self._fd, self._size_bytes = -1, 0
            self._files.remove(self.path)

    def _fill_ahead(self, size_bytes: int) -> None:
        try:
            self._fill(size_bytes, paced=True)
        except OSError as error:
            log.warning("the next file of the log can't be had yet: %s", error.strerror)

    def _fill(self, size_bytes: int, *, paced: bool) -> None:
        files = self._files
        fd = files.create(self.path)
        try:
            files.reserve(fd, size_bytes)
            zeros = memoryview(bytes(PIECE_BYTES))
            began_s = time.monotonic()
            for offset in range(0, size_bytes, PIECE_BYTES):
                if self._stop:
                    break
                files.write(fd, zeros[: size_bytes - offset], offset)
                if paced and not self._hurry.is_set():
                    files.sync_data(fd)
                    due_s = began_s + offset / AHEAD_BYTES_S
                    self._hurry.wait(max(0.0, due_s - time.monotonic()))
            files.sync(fd)
        except BaseException:
            files.close(fd)
            with contextlib.suppress(OSError):
                files.remove(self.path)
            raise
        self._fd, self._size_bytes = fd, size_bytes
