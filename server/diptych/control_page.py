"""One page that supervisor, writer and checkpointer share: what a process that died had begun.

Words of 64 bits, each written by one process and read by others; nobody waits for anybody. The
supervisor makes it and keeps it, so it outlives writers.
"""

from __future__ import annotations

import mmap
import os
from enum import IntEnum

PAGE_BYTES = 4096


class Word(IntEnum):
    """Positions. Written by the writer but for DOOMED, which is the supervisor's."""

    EXECUTING = 0  # sequence number of the transaction whose handler runs; 0: none
    BEGAN_NS = 1  # CLOCK_MONOTONIC when it began, written first; 0: it may run for ever
    DOOMED = 2  # sequence number of a transaction that has used up its time
    LOG_BYTES = 3  # appended to the log since the server started
    DURABLE = 4  # sequence number of the last transaction that is safe
    SEQUENCE = 5  # of the last transaction that ran
    REPLAYED = 6  # transactions of the log that were replayed so far,
    REPLAY_TOTAL = 7  # of so many
    SYNC_US = 8  # how long a sync of the log takes at the 99th percentile, of the last few hundred


class ControlPage:
    """`words` is a memoryview of int64."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._map = mmap.mmap(fd, PAGE_BYTES)
        self.words = memoryview(self._map).cast("q")

    @classmethod
    def create(cls) -> ControlPage:
        fd = os.memfd_create("diptych-control", os.MFD_CLOEXEC)
        os.ftruncate(fd, PAGE_BYTES)
        return cls(fd)

    def close(self) -> None:
        self.words.release()
        self._map.close()
        os.close(self.fd)
