"""The command log as its writer sees it: records appended, and known to be safe a little later.

A record is written before what it holds is executed. Its ticket says when answers may leave: once
`durable` has reached it. In mode `fsync` that is when a sync that began after the write has ended;
one sync is under way at a time, and the next one covers all that was written meanwhile, so a disk
of any speed is used for as many transactions as arrive. In mode `os` it is at once.

A segment that is full is followed by the next, which was filled with zeros ahead. The old one's
last sync goes on meanwhile; what is in the new one counts only after it.

A write or a sync that fails ends it for ever (LogBroken): nobody knows what is on the disk then.
Used by one thread. Knows neither frames nor what is answered.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import select
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from diptych.durable import log_format
from diptych.durable.files import Files
from diptych.durable.log_ahead import NextSegment
from diptych.durable.log_format import RECORD_BYTES, Flag, Kind, Mode, SegmentHeader, padded
from diptych.durable.log_reader import Place, State, Tail, repair
from diptych.durable.log_segments import NAME, opened, segment_name
from diptych.errors import CorruptionError

FIRST_BYTES = 4 << 20
"""Size of the first segment that a process begins; each is twice as long as the one before it, up
to the configured size. So a start is quick, and a small application's directory small."""
SYNCS_KEPT = 512
"""Of so many syncs the duration is remembered."""
_PER_ABORT_BYTES = RECORD_BYTES + padded(log_format.ABORT_BYTES)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_MODES = {"fsync": Mode.FSYNC, "os": Mode.OS}


class LogBroken(Exception):
    """A write or a sync of the log failed: what was not durable by then may or may not be there
    after a restart. Raised by every later use as well."""


class DiskFull(Exception):
    """There is no space for the next segment. Nothing was written; it may work later."""


class LogSettings(Protocol):
    """What `[log]` says of the log itself."""

    @property
    def durability(self) -> str: ...

    @property
    def segment_bytes(self) -> int: ...


@dataclass
class _Current:
    """A segment that is written to, or that was and is still to be synced."""

    fd: int
    seed: int
    size_bytes: int
    at: int
    """Where the next record goes."""


@dataclass(frozen=True)
class _Covered:
    """How far something is: a record's number, a ticket, and a sequence number."""

    number: int
    ticket: int
    sequence: int


class CommandLog:
    """Make it with `open`. Tickets count from 1 in each life; `durable` and `written` are such."""

    def __init__(
        self, directory: Path, settings: LogSettings, files: Files, app: str, facts: str
    ) -> None:
        self._directory, self._files = directory, files
        self._app, self._facts = app, facts
        self._mode = _MODES[settings.durability]
        self._segment_bytes = settings.segment_bytes
        self._broken = ""
        self._syncer = files.syncer()
        self._next = NextSegment(directory, files)
        self._current: _Current | None = None
        self._retired: deque[tuple[_Current, _Covered]] = deque()
        """Segments that are full, and what is safe once they are synced."""
        self._under_way: _Covered | None = None
        self._wanted = False
        self._syncs_us: deque[int] = deque(maxlen=SYNCS_KEPT)
        self._sync_began_ns = 0
        self._chain = 0
        self._history = self._previous_history = 0
        self._safe = _Covered(0, 0, 0)
        """What is on the disk."""
        self._number, self._sequence = 0, 0
        self._marked = True
        self.written = 0
        self.durable = 0
        self.durable_sequence = 0
        self.bytes_written = 0

    @classmethod
    def open(
        cls,
        directory: Path,
        settings: LogSettings,
        *,
        app: str,
        facts: str,
        history: int,
        sequence: int,
        tail: Tail | None = None,
        files: Files | None = None,
    ) -> CommandLog:
        """Go on behind `tail`, which was read to its end and executed; `sequence` is the last
        transaction that was. A torn tail is cut off first.

        Another history, other facts or another mode begin a new segment. Without a tail, or when it
        ends before `sequence` (a checkpoint is newer), the log begins anew. Errors: LogBroken;
        DiskFull; CorruptionError when the tail is damaged or was not executed to its end.
        """
        opening = cls(directory, settings, files or Files(), app, facts)
        try:
            opening._open(history, sequence, tail)
        except BaseException:
            opening._abandon()
            raise
        return opening

    def append_batch(
        self,
        frames: bytes | memoryview,
        first: int,
        count: int,
        time_ns: int,
        outcome: int | None,
    ) -> int:
        """Write transactions `first` to `first + count - 1`: the ticket of the record.

        Where it is there is room for an abort of each of them, and for a mark: what was executed
        can be told to the end, also on a full disk. `outcome`: of the batch before it, None where
        there is none. Errors: LogBroken; DiskFull.
        """
        flags, value = (0, 0) if outcome is None else (Flag.OUTCOME, outcome)
        spare_bytes = RECORD_BYTES + count * _PER_ABORT_BYTES
        self._append(Kind.BATCH, frames, first, count, time_ns, flags, value, spare_bytes)
        self._sequence = first + count - 1
        return self._ticket()

    def append_aborts(self, aborts: Sequence[tuple[int, int]]) -> int:
        """Write sequence numbers and what ended them: the ticket of the record.

        Errors: LogBroken; DiskFull.
        """
        payload = log_format.pack_aborts(aborts)
        self._append(Kind.ABORTS, payload, self._sequence + 1, len(aborts), time.time_ns(), 0, 0)
        return self._ticket()

    def idle(self) -> None:
        """Nothing is to be done: note on the disk, some time, that all that was written is safe.

        Without it damage to the last record looks like a record that was never finished. Errors:
        LogBroken.
        """
        self._check()
        current = self._current
        if self._marked or self._safe.ticket < self.written or current is None:
            return
        if current.at + RECORD_BYTES <= current.size_bytes:
            self._append(Kind.MARK, b"", self._sequence + 1, 0, time.time_ns(), 0, 0)
        self._marked = True

    @property
    def needs_idle(self) -> bool:
        """Whether `idle` has something to do, once nothing else is."""
        return not self._marked and self._safe.ticket == self.written

    @property
    def wakeup_fd(self) -> int:
        """Readable when `on_wakeup` has something to do."""
        return self._syncer.wakeup_fd

    def start_sync(self) -> None:
        """Make what is written so far durable, soon. Errors: LogBroken."""
        self._check()
        safe_soon = self._under_way or self._safe
        if self._mode is not Mode.FSYNC or safe_soon.ticket == self.written:
            return
        self._wanted = True
        self._begin_sync()

    def on_wakeup(self) -> None:
        """Find out whether a sync has ended; `durable` then says so. Errors: LogBroken."""
        self._check()
        try:
            if not self._syncer.ended():
                return
        except OSError as error:
            raise self._break("sync", error) from None
        self._synced()

    def wait_briefly(self, seconds: float) -> None:
        """Until no sync is under way, but no longer than that. Errors: LogBroken."""
        until = time.monotonic() + seconds
        while self._under_way is not None and (left := until - time.monotonic()) > 0:
            # That it is readable may be of a sync before, which was waited for.
            select.select([self._syncer.wakeup_fd], [], [], left)
            self.on_wakeup()

    def wait(self, ticket: int) -> None:
        """Until `ticket` is durable. Errors: LogBroken; ValueError: there is no such ticket."""
        self._check()
        if ticket > self.written:
            raise ValueError(f"ticket {ticket} of {self.written}")
        while self.durable < ticket:
            self._wait_for_sync()

    def sync_us(self, percentile: int) -> int:
        """How long the last few hundred syncs took, in microseconds, from their beginning to being
        noticed; 0 before the first.
        """
        syncs = sorted(self._syncs_us) or [0]
        return syncs[len(syncs) * percentile // 100]

    def figures(self) -> dict[str, int | str]:
        """Segments and their bytes on the disk, tickets, and `sync_us`. Looks into the directory.
        Errors: OSError.
        """
        names = [name for name in self._files.names(self._directory) if NAME.fullmatch(name)]
        sizes = [self._size_of(self._directory / name) for name in names]
        return {
            "mode": self._mode.name.lower(),
            "segments": len(sizes),
            "bytes": sum(sizes),
            "written": self.written,
            "durable": self.durable,
            "sync_p50_us": self.sync_us(50),
            "sync_p99_us": self.sync_us(99),
        }

    def close(self) -> None:
        """Sync what was written, note that it is safe, and let go of the files. Errors:
        LogBroken; then they are let go as well.
        """
        try:
            if not self._broken:
                self._sync_all()
                self.idle()
                self._sync_all()
                self._next.close()
        except OSError as error:
            raise self._break("close", error) from None
        finally:
            self._abandon()

    def _ticket(self) -> int:
        self.written += 1
        self._marked = False
        if self._mode is Mode.OS:
            self.durable, self.durable_sequence = self.written, self._sequence
        return self.written

    def _append(
        self,
        kind: Kind,
        payload: bytes | memoryview,
        first: int,
        count: int,
        time_ns: int,
        flags: int,
        outcome: int,
        spare_bytes: int = 0,
    ) -> None:
        """`spare_bytes`: so much room must be left behind it."""
        self._check()
        length_bytes = payload.nbytes if isinstance(payload, memoryview) else len(payload)
        needed_bytes = RECORD_BYTES + padded(length_bytes)
        current = self._current
        if current is None or current.at + needed_bytes + spare_bytes > current.size_bytes:
            current = self._roll(needed_bytes + spare_bytes)
        number = self._number + 1
        header, checksum = log_format.pack_record(
            current.seed,
            payload,
            length_bytes,
            kind,
            flags,
            self._chain,
            outcome,
            number,
            first,
            count,
            min(self._number - self._safe.number, log_format.LAG_MAX),
            time_ns,
            self._safe.sequence,
        )
        try:
            self._files.write_parts(current.fd, (header, payload), current.at)
        except OSError as error:
            raise self._break("write", error) from None
        self._number, self._chain = number, checksum
        self.bytes_written += needed_bytes
        current.at += needed_bytes
        if current.at > current.size_bytes // 2:
            self._next.prepare(min(self._segment_bytes, 2 * current.size_bytes))

    def _roll(self, needed_bytes: int) -> _Current:
        """Begin the next segment, behind what was written."""
        while len(self._retired) > 1:
            self._wait_for_sync()
        old = self._current
        current = self._begin_segment(needed_bytes)
        if old is not None:
            self._retired.append((old, self._covered()))
            self._begin_sync()
        return current

    def _begin_segment(self, needed_bytes: int) -> _Current:
        """Make the next segment the current one. Errors: LogBroken, DiskFull."""
        header = SegmentHeader(
            app=self._app,
            facts=self._facts,
            mode=self._mode,
            history=self._history,
            previous_history=self._previous_history,
            first=self._sequence + 1,
            durable_through=self._safe.sequence,
            number=self._number + 1,
            salt=int.from_bytes(os.urandom(8), "little"),
            size_bytes=0,
            created_ns=time.time_ns(),
            chain=self._chain,
        )
        least_bytes = log_format.whole_pages(header.header_bytes + needed_bytes)
        usual_bytes = 2 * self._current.size_bytes if self._current else FIRST_BYTES
        wanted_bytes = max(min(self._segment_bytes, usual_bytes), least_bytes)
        fd = -1
        try:
            fd, size_bytes = self._next.take(wanted_bytes, least_bytes)
            header = replace(header, size_bytes=size_bytes)
            self._files.write(fd, header.pack(), 0)
            self._files.sync_data(fd)
            self._files.rename(self._next.path, self._free_path(header.first))
        except OSError as error:
            if fd >= 0:
                self._files.close(fd)
            if error.errno in _FULL:  # nothing of the log has changed yet
                raise DiskFull(f"{self._directory}: {error.strerror}") from None
            raise self._break("begin the next file", error) from None
        current = _Current(fd, header.seed, size_bytes, header.header_bytes)
        try:
            self._files.sync_directory(self._directory)
        except OSError as error:
            self._files.close(fd)
            raise self._break("begin the next file", error) from None
        self._previous_history = self._history
        self._current = current
        return current

    def _free_path(self, first: int) -> Path:
        """What was begun with the same number before stays: it may hold aborts."""
        names = self._files.names(self._directory)
        numbers = itertools.count()
        free = (name for again in numbers if (name := segment_name(first, again)) not in names)
        return self._directory / next(free)

    def _covered(self) -> _Covered:
        return _Covered(self._number, self.written, self._sequence)

    def _begin_sync(self) -> None:
        """Of the oldest segment that needs one, unless one is under way already."""
        if self._under_way is not None or self._current is None:
            return
        if self._retired:
            segment, covered = self._retired[0]
        elif self._wanted:
            segment, covered = self._current, self._covered()
            self._wanted = False
        else:
            return
        self._sync_began_ns = time.monotonic_ns()
        try:
            self._syncer.begin(segment.fd)
        except OSError as error:
            raise self._break("sync", error) from None
        self._under_way = covered

    def _synced(self) -> None:
        """What was under way has ended."""
        assert self._under_way is not None
        self._syncs_us.append((time.monotonic_ns() - self._sync_began_ns) // 1000)
        self._safe, self._under_way = self._under_way, None
        if self._mode is Mode.FSYNC:
            self.durable, self.durable_sequence = self._safe.ticket, self._safe.sequence
        while self._retired and self._retired[0][1].number <= self._safe.number:
            self._files.close(self._retired.popleft()[0].fd)
        self._begin_sync()

    def _wait_for_sync(self) -> None:
        if self._under_way is None:
            self._wanted = True
            self._begin_sync()
        try:
            self._syncer.wait()
        except OSError as error:
            raise self._break("sync", error) from None
        self._synced()

    def _sync_all(self) -> None:
        while self._safe.number < self._number or self._under_way is not None:
            self._wait_for_sync()

    def _check(self) -> None:
        if self._broken:
            raise LogBroken(self._broken)

    def _break(self, what: str, error: OSError) -> LogBroken:
        self._broken = f"the log in {self._directory} failed to {what}: {error.strerror or error}"
        return LogBroken(self._broken)

    def _size_of(self, path: Path) -> int:
        with contextlib.suppress(FileNotFoundError), opened(self._files, path) as fd:
            return self._files.size(fd)
        return 0

    def _abandon(self) -> None:
        """Let go of all files. What is not synced may be lost."""
        with contextlib.suppress(OSError):
            self._next.close()
        self._syncer.close()
        segments = [segment for segment, _ in self._retired]
        for segment in [*segments, *([self._current] if self._current else [])]:
            with contextlib.suppress(OSError):
                self._files.close(segment.fd)
        self._retired.clear()
        self._current = None
        self._broken = self._broken or f"the log in {self._directory} is closed"

    def _open(self, history: int, sequence: int, tail: Tail | None) -> None:
        self._history, self._sequence = history, sequence
        self._previous_history = history
        place = None
        if tail is not None:
            try:
                place = self._place_behind(tail, sequence)
            except OSError as error:
                raise self._break("open", error) from None
            before = tail.asked_history if place is None else place.header.history
            self._previous_history = history if before is None else before
        if place is not None:
            self._number, self._chain = place.number, place.chain
        self._safe = _Covered(self._number, 0, sequence)
        self.durable_sequence = sequence
        try:
            if place is not None and self._goes_on_in(place):
                self._continue(place)
                return
        except OSError as error:
            raise self._break("open", error) from None
        self._begin_segment(RECORD_BYTES)

    def _place_behind(self, tail: Tail, sequence: int) -> Place | None:
        """Where to go on; None if the log ends before `sequence`. All of it is then safe."""
        ending = tail.finish()
        bad = ending.state is State.DAMAGED or (ending.state is State.MISSING and tail.has_log)
        if bad or tail.last > sequence:
            raise CorruptionError(
                f"data: the log in {tail.path} can't go on behind transaction {sequence}: it ends "
                f"after {tail.last}, {ending.state.value}: {ending.where}"
            )
        repair(tail, self._files)
        # What the last writer wrote may be in the system's memory alone.
        for segment in tail.read:
            with opened(self._files, segment.path, writable=True) as fd:
                self._files.sync_data(fd)
        self._files.sync_directory(tail.path)
        return tail.place if tail.last == sequence else None

    def _goes_on_in(self, place: Place) -> bool:
        header = place.header
        return (header.app, header.facts, header.mode, header.history) == (
            self._app,
            self._facts,
            self._mode,
            self._history,
        )

    def _continue(self, place: Place) -> None:
        path, header = place.segment.path, place.header
        fd = self._files.open(path, writable=True)
        self._current = _Current(fd, header.seed, header.size_bytes, place.offset)
