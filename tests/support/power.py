"""A disk that may lose power at any moment, made from what a program did to its files.

`RecordedFiles` is the seam of `durable.files`: it does what it is told in a real directory and
keeps a journal. `after_power_loss` makes from the journal's beginning a state that a disk may then
be in: what was synced is there; of what was not each write may be there, be missing, or be there in
some of its sectors, whatever came before or after it, and names that were made, changed or removed
are those of now or of before. `put` makes a directory of such a state, to be started from.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from diptych.durable.files import Files

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Where to work: the disk is a model, what it is made of need not be one."""
SECTOR_BYTES = 512
PAGE_BYTES = 4096
LATE_SHARE = 0.5
"""Of the times that somebody looks, a sync has not ended yet."""


class Write(NamedTuple):
    file: int
    offset: int
    data: bytes


class Resize(NamedTuple):
    """To at least, or at most, so many bytes."""

    file: int
    least: int
    most: int


class Named(NamedTuple):
    """`name`, a path within the directory, leads to a file now."""

    name: str
    file: int
    before: str = ""
    """The name that it had."""


class Removed(NamedTuple):
    name: str
    file: int


class Synced(NamedTuple):
    """All that was done to the file before this place of the journal is on the disk."""

    file: int
    upto: int


class NamesSynced(NamedTuple):
    folder: str
    upto: int


class Told(NamedTuple):
    """Something the outside world knows from here on."""

    what: Any


Step = Write | Resize | Named | Removed | Synced | NamesSynced | Told


@dataclass
class Content:
    """A file's bytes: pages that were ever written, by number."""

    size_bytes: int = 0
    pages: dict[int, bytearray] = field(default_factory=dict)

    def write(self, offset: int, data: bytes) -> None:
        self.size_bytes = max(self.size_bytes, offset + len(data))
        at = 0
        while at < len(data):
            page, within = divmod(offset + at, PAGE_BYTES)
            piece = data[at : at + PAGE_BYTES - within]
            self.pages.setdefault(page, bytearray(PAGE_BYTES))[within : within + len(piece)] = piece
            at += len(piece)

    def resize(self, least: int, most: int) -> None:
        if self.size_bytes > most:
            kept, self.pages = self.pages, {}
            for page, data in kept.items():
                self.write(page * PAGE_BYTES, bytes(data[: max(0, most - page * PAGE_BYTES)]))
            self.size_bytes = most
        self.size_bytes = max(self.size_bytes, least)

    def copy(self) -> Content:
        return Content(self.size_bytes, {at: bytearray(data) for at, data in self.pages.items()})

    def __bytes__(self) -> bytes:
        whole = bytearray(self.size_bytes)
        for page, data in self.pages.items():
            start = page * PAGE_BYTES
            whole[start : start + PAGE_BYTES] = data[: max(0, self.size_bytes - start)]
        return bytes(whole)


State = dict[str, Content]
"""Files by their names."""


class RecordedFiles(Files):
    """The real file system, with a journal. `before`: what is on the disk at the beginning.

    Syncs that nobody waits for end when somebody looks, or a few looks later.
    """

    def __init__(self, root: Path, chance: Random) -> None:
        self.root = root
        self.journal: list[Step] = []
        self.chance = chance
        self.before = read_state(root)
        self._names = {name: number for number, name in enumerate(self.before, 1)}
        self._by_fd: dict[int, int] = {}
        self._count = len(self._names)

    def tell(self, what: Any) -> None:
        """From here on the outside world knows this."""
        self.journal.append(Told(what))

    # The seam.

    def create(self, path: Path) -> int:
        fd = super().create(path)
        name = self._name(path)
        if name in self._names:
            self.journal.append(Resize(self._names[name], 0, 0))
        self._by_fd[fd] = self.number_of(name)
        return fd

    def open(self, path: Path, **how: Any) -> int:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._by_fd[fd] = self._names[self._name(path)]
        return fd

    def reserve(self, fd: int, size_bytes: int, offset: int = 0) -> None:
        os.posix_fallocate(fd, offset, size_bytes)
        self.journal.append(Resize(self._by_fd[fd], offset + size_bytes, 1 << 62))

    def truncate(self, fd: int, size_bytes: int) -> None:
        os.ftruncate(fd, size_bytes)
        self.journal.append(Resize(self._by_fd[fd], size_bytes, size_bytes))

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        super().write(fd, data, offset)
        self.journal.append(Write(self._by_fd[fd], offset, bytes(data)))

    def write_parts(
        self, fd: int, parts: Sequence[bytes | bytearray | memoryview], offset: int
    ) -> None:
        self.write(fd, b"".join(parts), offset)

    def sync_data(self, fd: int) -> None:
        self.sync_from(self._by_fd[fd], len(self.journal))

    def sync(self, fd: int) -> None:
        self.sync_data(fd)

    def sync_from(self, file: int, upto: int) -> None:
        """A sync of a file has ended that began at this place of the journal."""
        self.journal.append(Synced(file, upto))

    def sync_directory(self, path: Path) -> None:
        self.journal.append(NamesSynced(self._name(path), len(self.journal)))

    def syncer(self) -> RecordedSyncer:
        return RecordedSyncer(self)

    def beside(self, work: Callable[[], None], name: str) -> Callable[[], None]:
        """At once: there is nothing beside it."""
        work()
        return lambda: None

    def close(self, fd: int) -> None:
        super().close(fd)
        self._by_fd.pop(fd, None)

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        old, new = self._name(source), self._name(target)
        self._names[new] = self._names.pop(old)
        self.journal.append(Named(new, self._names[new], old))

    def remove(self, path: Path) -> None:
        super().remove(path)
        name = self._name(path)
        if name in self._names:
            self.journal.append(Removed(name, self._names.pop(name)))

    def file_of(self, fd: int) -> int:
        return self._by_fd[fd]

    def number_of(self, name: str) -> int:
        """Of a file that was made, perhaps just now, by somebody else."""
        if name not in self._names:
            self._count += 1
            self._names[name] = self._count
            self.journal.append(Named(name, self._count))
        return self._names[name]

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self.root))


class FailingFiles(RecordedFiles):
    """Call number `fails_at` of those that change something fails, a write after its half.

    What a sync that failed should have put on the disk never gets there by a later one: the system
    has forgotten that it was not there. `failed` tells which call it was.
    """

    def __init__(self, root: Path, chance: Random, fails_at: int) -> None:
        super().__init__(root, chance)
        self.calls: list[str] = []
        self.fails_at = fails_at
        self.failed = ""
        self._lost: dict[int, int] = {}

    def step(self, what: str) -> None:
        """Errors: OSError, once."""
        self.calls.append(what)
        if len(self.calls) == self.fails_at:
            self.failed = what
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def create(self, path: Path) -> int:
        self.step("create")
        return super().create(path)

    def reserve(self, fd: int, size_bytes: int, offset: int = 0) -> None:
        self.step("reserve")
        super().reserve(fd, size_bytes, offset)

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        try:
            self.step("write")
        except OSError:
            super().write(fd, data[: len(data) // 2], offset)
            raise
        super().write(fd, data, offset)

    def sync_data(self, fd: int) -> None:
        self.sync_from(self.file_of(fd), len(self.journal))

    def sync_from(self, file: int, upto: int) -> None:
        try:
            self.step("sync")
        except OSError:
            self._lost[file] = upto
            raise
        # One that follows a failed one says that all is well, and is wrong.
        if file not in self._lost:
            self.journal.append(Synced(file, upto))

    def sync_directory(self, path: Path) -> None:
        self.step("sync_directory")
        super().sync_directory(path)

    def rename(self, source: Path, target: Path) -> None:
        self.step("rename")
        super().rename(source, target)

    def remove(self, path: Path) -> None:
        if path.exists():
            self.step("remove")
        super().remove(path)


class RecordedSyncer:
    """What `Files.syncer` gives; see there."""

    def __init__(self, files: RecordedFiles) -> None:
        self._files = files
        self._begun: Synced | None = None
        self.wakeup_fd = os.eventfd(1, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def begin(self, fd: int) -> None:
        assert self._begun is None, "one sync at a time"
        self._begun = Synced(self._files.file_of(fd), len(self._files.journal))

    def ended(self) -> bool:
        if self._begun is None or self._files.chance.random() < LATE_SHARE:
            return False
        self.wait()
        return True

    def wait(self) -> None:
        assert self._begun is not None, "no sync was begun"
        begun, self._begun = self._begun, None
        self._files.sync_from(begun.file, begun.upto)

    def close(self) -> None:
        os.close(self.wakeup_fd)


def after_power_loss(files: RecordedFiles, position: int, chance: Random) -> State:
    """A state that the disk may be in when the power fails after `position` steps."""
    steps = files.journal[:position]
    safe: dict[int, int] = {}
    safe_names: dict[str, int] = {}
    for step in steps:
        if isinstance(step, Synced):
            safe[step.file] = max(safe.get(step.file, 0), step.upto)
        elif isinstance(step, NamesSynced):
            safe_names[step.folder] = step.upto
    fate, names_fate = _fate(chance), _fate(chance)
    contents = {at: each.copy() for at, each in enumerate(files.before.values(), 1)}
    names = {name: at for at, name in enumerate(files.before, 1)}
    for at, step in enumerate(steps):
        if isinstance(step, Write | Resize):
            content = contents.setdefault(step.file, Content())
            if at < safe.get(step.file, 0):
                _apply(content, step)
            else:
                for part in fate(step):
                    _apply(content, part)
        elif isinstance(step, Named | Removed):
            folder = str(Path(step.name).parent)
            if at < safe_names.get(folder, 0) or any(names_fate(step)):
                _rename(names, step)
    return {name: contents.get(file, Content()) for name, file in names.items()}


def everything(files: RecordedFiles) -> State:
    """What the directory looks like at the end, by the journal: as when nothing is ever lost."""
    contents = {at: each.copy() for at, each in enumerate(files.before.values(), 1)}
    names = {name: at for at, name in enumerate(files.before, 1)}
    for step in files.journal:
        if isinstance(step, Write | Resize):
            _apply(contents.setdefault(step.file, Content()), step)
        elif isinstance(step, Named | Removed):
            _rename(names, step)
    return {name: contents.get(file, Content()) for name, file in names.items()}


Part = Write | Resize
Fate = Callable[[Any], Iterator[Any]]


def _fate(chance: Random) -> Fate:
    """What becomes of what was not synced, step by step: it comes out whole, in parts, or not."""

    def lost(step: Any) -> Iterator[Any]:
        return iter(())

    def kept(step: Any) -> Iterator[Any]:
        yield step

    def some(step: Any) -> Iterator[Any]:
        if chance.random() < share:
            yield step
        elif isinstance(step, Write) and chance.random() < 0.5:
            yield from torn(step)

    def torn(step: Any) -> Iterator[Any]:
        """Each sector by itself."""
        if not isinstance(step, Write):
            yield step
            return
        for start, stop in _sectors(step):
            if chance.random() < share:
                yield Write(step.file, step.offset + start, step.data[start:stop])

    def until(step: Any) -> Iterator[Any]:
        """In order, up to some moment."""
        nonlocal left
        left -= 1
        if left > 0:
            yield step
        elif left == 0 and isinstance(step, Write):
            sectors = list(_sectors(step))
            stop = sectors[chance.randrange(len(sectors))][1]
            yield Write(step.file, step.offset, step.data[:stop])

    share, left = chance.random(), chance.randint(1, 12)
    return chance.choice((lost, kept, some, some, torn, until))


def _sectors(step: Write) -> Iterator[tuple[int, int]]:
    """Where a write begins and ends in each sector, from its own beginning."""
    start = 0
    while start < len(step.data):
        stop = min(len(step.data), start + SECTOR_BYTES - (step.offset + start) % SECTOR_BYTES)
        yield start, stop
        start = stop


def _apply(content: Content, step: Part) -> None:
    if isinstance(step, Write):
        content.write(step.offset, step.data)
    else:
        content.resize(step.least, step.most)


def _rename(names: dict[str, int], step: Named | Removed) -> None:
    if isinstance(step, Named):
        if names.get(step.before) == step.file:
            del names[step.before]
        names[step.name] = step.file
    elif names.get(step.name) == step.file:
        del names[step.name]


def put(state: State, root: Path) -> None:
    """Make a directory that is in this state."""
    root.mkdir(parents=True)
    for name, content in state.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            for page, data in content.pages.items():
                os.pwrite(fd, data, page * PAGE_BYTES)
            os.ftruncate(fd, content.size_bytes)
        finally:
            os.close(fd)


def read_state(root: Path) -> State:
    """What a directory holds; holes stay holes."""
    state: State = {}
    for path in sorted(root.rglob("*")):
        if path.is_file():
            content = Content(path.stat().st_size)
            with path.open("rb", buffering=0) as file:
                for offset in _data_pages(file.fileno(), content.size_bytes):
                    content.write(offset, os.pread(file.fileno(), PAGE_BYTES, offset))
            state[str(path.relative_to(root))] = content
    return state


def _data_pages(fd: int, size_bytes: int) -> Iterator[int]:
    """Offsets of pages that are no holes."""
    offset = 0
    while offset < size_bytes:
        try:
            start = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError:  # nothing but a hole from here on
            return
        stop = os.lseek(fd, start, os.SEEK_HOLE)
        first = start // PAGE_BYTES * PAGE_BYTES
        yield from range(first, stop, PAGE_BYTES)
        offset = max(stop, first + PAGE_BYTES)
