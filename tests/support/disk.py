"""A disk that is only a model: what is written is in the system's memory until it is synced.

`SimulatedFiles` is a `Files` of it. At any call a power failure can be had (`after_power_loss`):
synced bytes stay, of the others any part, in sectors, as chance has it; of names that were changed
and not synced, those up to some point. Calls can be made to fail by number.
"""

from __future__ import annotations

import copy
import errno
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from diptych.durable import Files

SECTOR_BYTES = 512
DIRECTORY = Path("/log")


@dataclass
class Inode:
    """`cached` is what is read. `dirty`: writes, in order, that the disk need not have yet."""

    cached: bytearray = field(default_factory=bytearray)
    stored: bytearray = field(default_factory=bytearray)
    dirty: list[tuple[int, bytes]] = field(default_factory=list)

    def write(self, data: bytes, offset: int) -> None:
        put(self.cached, data, offset)
        self.dirty.append((offset, data))

    def sync(self, count: int) -> None:
        """The first `count` writes reach the disk."""
        for offset, data in self.dirty[:count]:
            put(self.stored, data, offset)
        del self.dirty[:count]


def put(target: bytearray, data: bytes, offset: int) -> None:
    if len(target) < offset + len(data):
        target.extend(bytes(offset + len(data) - len(target)))
    target[offset : offset + len(data)] = data


class SimulatedFiles(Files):
    """One directory. `calls` counts those that change something; call number `fails_at` and, if
    `for_ever`, all later ones raise an OSError of number `with_errno`."""

    def __init__(self) -> None:
        self.names_now: dict[str, Inode] = {}
        self.names_stored: dict[str, Inode] = {}
        self.names_changed: list[tuple[str, Inode | None]] = []
        self.descriptors: dict[int, Inode] = {}
        self.next_fd = 3
        self.calls = 0
        self.fails_at, self.with_errno = -1, errno.EIO
        self.failed = 0
        self.syncs_lie = False
        self.told: Callable[[], None] = lambda: None
        self.chance = random.Random(0)

    # What a test does to it.

    def after_power_loss(self, chance: random.Random, keep: float) -> SimulatedFiles:
        """The disk as the next start finds it. `keep`: the share of unsynced sectors it has."""
        inodes = {id(inode): inode for inode in self.names_now.values()}
        inodes |= {id(inode): inode for inode in self.names_stored.values()}
        inodes |= {id(inode): inode for _, inode in self.names_changed if inode is not None}
        after = {key: self._after_power_loss(inode, chance, keep) for key, inode in inodes.items()}
        names = dict(self.names_stored)
        stays = chance.randint(0, len(self.names_changed))
        for name, inode in self.names_changed[:stays]:
            change(names, name, inode)
        found = SimulatedFiles()
        found.names_now = {name: after[id(inode)] for name, inode in names.items()}
        found.names_stored = dict(found.names_now)
        return found

    @staticmethod
    def _after_power_loss(inode: Inode, chance: random.Random, keep: float) -> Inode:
        stored = bytearray(inode.stored)
        for offset, data in inode.dirty:
            begin = offset
            while begin < offset + len(data):
                end = min(offset + len(data), begin - begin % SECTOR_BYTES + SECTOR_BYTES)
                if chance.random() < keep:
                    put(stored, data[begin - offset : end - offset], begin)
                begin = end
        return Inode(bytearray(stored), stored)

    def after_kill(self) -> SimulatedFiles:
        """As another process finds it: the system goes on, and has all that was written."""
        found = SimulatedFiles()
        state = (self.names_now, self.names_stored, self.names_changed)
        found.names_now, found.names_stored, found.names_changed = copy.deepcopy(state)
        return found

    def content(self, name: str) -> bytearray:
        """Of a file, to look at or to spoil."""
        return self.names_now[name].cached

    # Files.

    def _step(self) -> None:
        self.calls += 1
        if self.calls == self.fails_at:
            self.failed += 1
            raise OSError(self.with_errno, os.strerror(self.with_errno))

    def _open(self, inode: Inode) -> int:
        self.next_fd += 1
        self.descriptors[self.next_fd] = inode
        return self.next_fd

    def create(self, path: Path) -> int:
        self._step()
        inode = Inode()
        self._change(path.name, inode)
        self.told()
        return self._open(inode)

    def open(self, path: Path, *, writable: bool = False) -> int:
        if path.name not in self.names_now:
            raise FileNotFoundError(errno.ENOENT, "No such file", str(path))
        return self._open(self.names_now[path.name])

    def names(self, path: Path) -> list[str]:
        return list(self.names_now)

    def size(self, fd: int) -> int:
        return len(self.descriptors[fd].cached)

    def read(self, fd: int, length_bytes: int, offset: int) -> bytes:
        return bytes(self.descriptors[fd].cached[offset : offset + length_bytes])

    def forget_cached(self, fd: int) -> None:
        inode = self.descriptors[fd]
        inode.cached = bytearray(inode.stored)
        for offset, data in inode.dirty:
            put(inode.cached, data, offset)

    def reserve(self, fd: int, size_bytes: int) -> None:
        self._step()
        inode = self.descriptors[fd]
        inode.write(bytes(size_bytes - len(inode.cached)), len(inode.cached))
        self.told()

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        self._step()
        self.descriptors[fd].write(bytes(data), offset)
        self.told()

    def write_parts(
        self, fd: int, parts: Sequence[bytes | bytearray | memoryview], offset: int
    ) -> None:
        self.write(fd, b"".join(parts), offset)

    def syncer(self) -> SimulatedSyncer:
        return SimulatedSyncer(self)

    def beside(self, work: Callable[[], None], name: str) -> Callable[[], None]:
        work()
        return lambda: None

    def sync_data(self, fd: int) -> None:
        self.finish_sync(fd, len(self.descriptors[fd].dirty))

    def sync(self, fd: int) -> None:
        self.sync_data(fd)

    def finish_sync(self, fd: int, count: int) -> None:
        """A failed one forgets what it should have written, as systems do."""
        inode = self.descriptors[fd]
        try:
            self._step()
        except OSError:
            del inode.dirty[:count]
            raise
        if not self.syncs_lie:
            inode.sync(count)
        self.told()

    def close(self, fd: int) -> None:
        del self.descriptors[fd]

    def rename(self, source: Path, target: Path) -> None:
        self._step()
        inode = self.names_now[source.name]
        # One change: at no time both names, or none.
        self.names_changed.append((f"{source.name}\0{target.name}", inode))
        change(self.names_now, *self.names_changed[-1])
        self.told()

    def sync_directory(self, path: Path) -> None:
        self._step()
        self.names_stored = dict(self.names_now)
        self.names_changed = []
        self.told()

    def remove(self, path: Path) -> None:
        if path.name in self.names_now:
            self._step()
            self._change(path.name, None)
            self.told()

    def _change(self, name: str, inode: Inode | None) -> None:
        self.names_changed.append((name, inode))
        change(self.names_now, name, inode)


def change(names: dict[str, Inode], name: str, inode: Inode | None) -> None:
    """`name` may be two, of a rename."""
    source, _, target = name.rpartition("\0")
    if source:
        names.pop(source, None)
    if inode is None:
        names.pop(target, None)
    else:
        names[target] = inode


class SimulatedSyncer:
    """A sync ends when somebody waits for it, or by chance when somebody looks."""

    def __init__(self, files: SimulatedFiles) -> None:
        self._files = files
        self._fd, self._count = -1, 0
        self.wakeup_fd = -1

    def begin(self, fd: int) -> None:
        assert self._fd < 0, "one at a time"
        self._fd, self._count = fd, len(self._files.descriptors[fd].dirty)

    def ended(self) -> bool:
        if self._fd < 0 or self._files.chance.random() < 0.5:
            return False
        self.wait()
        return True

    def wait(self) -> None:
        assert self._fd >= 0, "none is under way"
        fd, self._fd = self._fd, -1
        self._files.finish_sync(fd, self._count)

    def close(self) -> None:
        pass
