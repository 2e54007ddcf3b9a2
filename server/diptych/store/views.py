"""A region's memory as the views that rows, tables and indexes read and write through.

Item access on a memoryview is the fastest way from Python to a word, so every column gets views of
its own, made once when the region is opened. Knows positions; knows nothing of handlers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from diptych.memory import Region
from diptych.store import words as at
from diptych.store.faults import MemoryNeeded, RangeLost

GROWTH = (at.GROW_TABLE, at.GROW_INDEX, at.GROW_HEAP)


class Asked(NamedTuple):
    """What needs memory, by its descriptor; `compact`: its free pieces put together instead."""

    descriptor: int
    compact: bool


@dataclass
class Space:
    """One mapped region and its scratch. `writable`: this process may change the region."""

    region: Region
    writable: bool

    def __post_init__(self) -> None:
        self.words: npt.NDArray[np.int64] = self.region.words
        self.bytes = self.region.buffer
        self.ints = self.bytes.cast("q")
        self.scratch_bytes = self.region.scratch
        self.scratch = self.scratch_bytes.cast("q")
        self.arguments = self.scratch[at.S_ARGUMENT : at.S_ARGUMENT + at.VALUES_MAX]
        self.blob = self.scratch_bytes[at.S_BLOB * 8 : at.S_UNDO * 8]
        self.undo = self.scratch[at.S_UNDO :]
        self.control = self.scratch[at.S_CONTROL : at.S_BLOB]
        self.scratch[at.S_UNDO_LIMIT] = len(self.undo)
        self._free_cursors = list(range(at.CURSORS))
        # Ranges and iterations that have begun and not ended, and those that a transaction's end
        # left behind, whose era is over. Each holds a reference to its rows' class.
        self.open_walks = self.lost_walks = self.era = 0
        # Set while a transaction runs that can't run again, or had better not: gives memory on the
        # spot.
        self.give_memory: Callable[[int], None] | None = None
        self.runs_again = True
        # What a transaction can't go on without; it has to be undone and run again.
        self.memory_needed: Asked | None = None
        self._root: npt.NDArray[np.uint8] | None = None
        self.has_root = False

    def needs_memory(self, code: int) -> bool:
        """Whether a kernel's negative `code` asks for memory, and has been given it."""
        if self.give_memory is None or code not in GROWTH:
            return False
        self.give_memory(self.scratch[at.S_FAULT])
        return True

    def ask_memory(self, descriptor: int, *, compact: bool = False) -> MemoryNeeded:
        """Note what the transaction needs before it runs again; returns what to raise."""
        self.memory_needed = Asked(descriptor, compact)
        return MemoryNeeded()

    def share_control(self, fd: int) -> None:
        """Have `fd` as the control page from now on; it stays the caller's. Errors: OSError."""
        self.region.share_scratch_page(fd, at.S_CONTROL * 8)

    def is_over_budget(self) -> bool:
        """Whether the transaction that runs has used up its time."""
        doomed = self.control[at.DOOMED]
        return doomed != 0 and doomed == self.ints[at.SEQUENCE]

    def take_cursor(self) -> int:
        """Reserve a cursor for the next `open_cursor`; returns its block. Errors: RangeLost.

        Kernels take blocks in turn and would overwrite that of an outer loop sooner or later.
        """
        if not self._free_cursors:
            raise RangeLost(f"more than {at.CURSORS} ranges are open at once")
        block = self._free_cursors.pop()
        serial = self.scratch[at.S_CURSOR_SERIAL]
        self.scratch[at.S_CURSOR_SERIAL] = serial + (block - serial - 1) % at.CURSORS
        return block

    def free_cursor(self, block: int, era: int) -> None:
        """Give back a cursor taken in that era; one of an era that is over is free already."""
        if era == self.era:
            self._free_cursors.append(block)

    def begin_walk(self) -> int:
        """Count a walk that begins; returns its era."""
        self.open_walks += 1
        return self.era

    def end_walk(self, era: int) -> None:
        if era == self.era:
            self.open_walks -= 1
        else:
            self.lost_walks -= 1

    def end_walks(self) -> None:
        """Whatever walks are open: their next step is refused."""
        if self.open_walks == 0:
            return
        self.lost_walks += self.open_walks
        self.open_walks = 0
        self.era += 1
        self._free_cursors = list(range(at.CURSORS))
        for block in self._free_cursors:
            self.scratch[at.S_CURSORS + block * at.CURSOR_WORDS + at.C_SERIAL] = 0

    @property
    def root(self) -> npt.NDArray[np.uint8]:
        """The one array that all numpy views of this query derive from, read-only."""
        if self._root is None:
            self._root = np.frombuffer(self.bytes.toreadonly(), np.uint8)
            self.has_root = True
        return self._root

    def take_root(self) -> npt.NDArray[np.uint8] | None:
        """Hand over the root of the query that ends; the next query gets a new one."""
        root, self._root, self.has_root = self._root, None, False
        return root

    def word_view(self, start: int, count: int) -> memoryview[int]:
        return self.ints[start : start + count]

    def byte_view(self, start: int, size_bytes: int) -> memoryview[int]:
        """Bytes from word `start` on."""
        return self.bytes[start * 8 : start * 8 + size_bytes]

    def bytes_array(self, start: int, size_bytes: int) -> npt.NDArray[np.uint8]:
        """Bytes from word `start` on, as an array that derives from `root`."""
        return self.root[start * 8 : start * 8 + size_bytes]
