"""Reading a command log: its records beyond a checkpoint, in order, and how the log ends.

A record counts when its checksum is right, it names the checksum of the one before it, and its
numbers go on from there. The first that doesn't ends the log. Was it ever reported to be safe, then
the log is damaged; else the host died while it was written, and it is a torn tail, which nobody
was told of. Which of the two, a sound record behind it says: each tells what was known to be safe
when it was written. Damage to what is not needed is passed over.

Bytes of any kind give an `Ending`; only a directory that can't be listed raises (OSError). Records
are read as they are asked for. What an ending means for a start is decided elsewhere.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from diptych.durable import log_format
from diptych.durable.files import Files
from diptych.durable.log_format import RECORD_BYTES, RECORD_MAGIC, Flag, Kind, SegmentHeader
from diptych.durable.log_segments import PIECE_BYTES, Pieces, Segment, is_zero, opened, segments

_KINDS = frozenset(Kind)

log = logging.getLogger("diptych.durable")


class State(Enum):
    """How a log ends."""

    CLEAN = "clean"
    """After a whole record."""
    TORN = "torn"
    """In what was being written when the host died. Nobody was told of it; `repair` cuts it off."""
    DAMAGED = "damaged"
    """In what was safe once, and is not as it was written."""
    MISSING = "missing"
    """Where a file of the log should be that is not there."""


@dataclass(frozen=True)
class Ending:
    """`where` says it in words, with the file. `at` is the offset in it, in bytes."""

    state: State
    where: str
    at: int


@dataclass(frozen=True, slots=True)
class Record:
    """`first`, `count`: of a batch its sequence numbers, of others the next one, and 0 (of MARKs)
    or the number of aborts. `outcome` is None where the writer knew none. `offset` is in bytes.
    """

    kind: Kind
    number: int
    first: int
    count: int
    time_ns: int
    history: int
    durable_through: int
    outcome: int | None
    payload: memoryview
    segment: Segment
    offset: int

    @property
    def last(self) -> int:
        """The last sequence number up to and with this record."""
        return self.first + self.count - 1 if self.kind is Kind.BATCH else self.first - 1

    @property
    def size_bytes(self) -> int:
        """In the file."""
        return RECORD_BYTES + log_format.padded(len(self.payload))

    @property
    def aborts(self) -> list[tuple[int, int]]:
        """(sequence number, cause) of an ABORTS record; [] of others."""
        return log_format.unpack_aborts(self.payload) if self.kind is Kind.ABORTS else []


@dataclass(frozen=True)
class Place:
    """Behind a record, or at the beginning of a segment: where the next one would be."""

    segment: Segment
    header: SegmentHeader
    offset: int
    chain: int
    number: int
    last: int

    def __str__(self) -> str:
        return f"{self.segment.path.name} at byte {self.offset}"


class Tail:
    """The records of a log beyond sequence number `after`. Iterate it once; `ending` then tells.

    `history`: what the records up to `after` belong to; None: whatever is there. `facts`: of the
    segment that it begins in, "" without one. `total_bytes`: of the files from there on. `last`:
    the last sequence number that was read so far; below `after` where the log ends before that.
    `place` is behind the last record; None without a segment to begin in.
    """

    def __init__(
        self, path: Path, after: int, history: int | None, files: Files, from_disk: bool
    ) -> None:
        self.path, self.after, self.asked_history = path, after, history
        self._files, self._from_disk = files, from_disk
        self._segments = segments(path, files, from_disk=from_disk)
        self.read: list[Segment] = []
        """Segments that records were read from, so far."""
        self.ending: Ending | None = None
        self.cut: list[Segment] = []
        """Segments behind a torn tail, that must go with it."""
        self.place: Place | None = None
        self.facts, self.total_bytes = "", 0
        self._begin()
        self._records = self._walk()

    def __iter__(self) -> Iterator[Record]:
        return self._records

    @property
    def last(self) -> int:
        return self.place.last if self.place else self.after

    @property
    def history(self) -> int | None:
        """Of the last record that was read, or of what it began with."""
        return self.place.header.history if self.place else self.asked_history

    @property
    def has_log(self) -> bool:
        """Whether there is any file of a log at all."""
        return bool(self._segments)

    def finish(self) -> Ending:
        """Read what is left of it. Nothing is kept."""
        for _ in self._records:
            pass
        assert self.ending is not None
        return self.ending

    def again(self) -> bool:
        """Go on behind the last record, to those that were written since. Whether there may be any;
        then it can be iterated anew. It was read to its end. Errors: OSError.
        """
        known = self._segments
        self._segments = segments(self.path, self._files)
        if self.place is None:
            self.ending = None
            self._begin()
            self._records = self._walk()
            return self.ending is None
        if self.place.segment not in self._segments:  # removed meanwhile, which reading it tells
            self._segments.insert(0, self.place.segment)
        if self._segments == known and not self._is_written(self.place):
            return False
        self.ending, self.cut = None, []
        self._records = self._walk()
        return True

    def _is_written(self, place: Place) -> bool:
        """Whether there is anything behind the last record, by its first bytes."""
        with opened(self._files, place.segment.path) as fd:
            return not is_zero(self._files.read(fd, RECORD_BYTES, place.offset))

    def _begin(self) -> None:
        """Find the segment that holds the record after `after`, if any does."""
        wanted = self.after + 1
        begin = None
        for segment in self._segments:
            if segment.first <= wanted and self._is_ours(segment, self.asked_history):
                begin = segment
        if begin is None:
            self._end_without_segment(wanted)
        elif begin.header is None:
            self._end(State.DAMAGED, f"{begin.path.name}: {begin.problem}")
        else:
            self.place = _beginning(begin, begin.header)
            self.facts = begin.header.facts
            at = self._segments.index(begin)
            self.total_bytes = sum(segment.file_bytes for segment in self._segments[at:])

    def _is_ours(self, segment: Segment, history: int | None) -> bool:
        """Whether a segment may hold what follows a transaction of `history`, by its header.

        A damaged header may be anybody's.
        """
        header = segment.header
        if header is None or history is None or header.history == history:
            return True
        begins = self.after + 1 if self.place is None else self.place.last + 1
        return header.previous_history == history and segment.first >= begins

    def _end_without_segment(self, wanted: int) -> None:
        ours = [s for s in self._segments if self._is_ours(s, self.asked_history)]
        if ours:
            self._end(
                State.MISSING,
                f"the log begins with transaction {ours[0].first} ({ours[0].path.name}), and "
                f"{wanted} is needed",
            )
        elif self._segments:
            self._end(State.CLEAN, "the log is all of another history")
        else:
            self._end(State.MISSING, f"there is no log in {self.path}")

    def _end(self, state: State, where: str) -> None:
        self.ending = Ending(state, where, self.place.offset if self.place else 0)

    def _walk(self) -> Iterator[Record]:
        while self.ending is None:
            assert self.place is not None
            segment = self.place.segment
            self.read.append(segment)
            try:
                with opened(self._files, segment.path, from_disk=self._from_disk) as fd:
                    pieces = Pieces(self._files, fd)
                    yield from self._records_of(pieces)
                    self._go_on(pieces)
            except OSError as error:
                self._end(State.DAMAGED, f"{self.place}: it can't be read: {error.strerror}")

    def _records_of(self, pieces: Pieces) -> Iterator[Record]:
        """Those that follow one another, from `place` on, which is kept behind the last."""
        assert self.place is not None
        segment, header, seed = self.place.segment, self.place.header, self.place.header.seed
        while True:
            place = self.place
            read = _read_record(pieces, place.offset, header.size_bytes, seed)
            if read is None or not _follows(read[0], place):
                return
            found, payload = read
            self.place = Place(
                segment,
                header,
                place.offset + found.end_bytes,
                found.checksum,
                found.number,
                found.last,
            )
            record = _record(found, payload, place)
            beyond = found.last if found.kind == Kind.BATCH else found.first
            if found.kind == Kind.ABORTS:
                beyond = max((sequence for sequence, _ in record.aborts), default=0)
            if beyond > self.after:
                yield record

    def _go_on(self, pieces: Pieces) -> None:
        """Where no record follows: to the next segment, or to the ending."""
        place = self.place
        assert place is not None
        later = self._segments[self._segments.index(place.segment) + 1 :]
        later = [segment for segment in later if self._is_ours(segment, place.header.history)]
        for segment in later:
            if segment.header is not None and _begins_behind(segment.header, place):
                self.place = _beginning(segment, segment.header)
                return
        problem = _garbage(pieces, place)
        if problem and self._resumes(pieces, place):
            return
        if place.segment.file_bytes != place.header.size_bytes:
            self._end(
                State.DAMAGED,
                f"{place}: the file has {place.segment.file_bytes} bytes, and should have "
                f"{place.header.size_bytes}",
            )
        elif problem and _known_durable(pieces, place.header, place, place.offset, True):
            self._end(State.DAMAGED, f"{place}: {problem}, and records behind it were safe")
        elif later:
            self._end_before(later, problem)
        elif problem:
            self._end(State.TORN, f"{place}: {problem}, and nothing behind it was safe yet")
        else:
            self._end(State.CLEAN, f"{place}")

    def _resumes(self, pieces: Pieces, place: Place) -> bool:
        """Whether the log can be read on behind damage, since nothing is needed of what it hit."""
        header = place.header
        for offset in _possible_records(pieces.another(), place.offset, header.size_bytes):
            read = _read_record(pieces, offset, header.size_bytes, header.seed)
            if read is None or read[0].number <= place.number:
                continue
            found = read[0]
            if found.first > self.after + 1:
                return False
            log.error("%s: damaged; what is needed begins behind it, at byte %d", place, offset)
            self.place = Place(
                place.segment, header, offset, found.previous, found.number - 1, found.first - 1
            )
            return True
        return False

    def _end_before(self, later: list[Segment], problem: str) -> None:
        """Of our history there are segments behind, and they don't follow."""
        place = self.place
        assert place is not None
        for segment in later:
            if segment.header is None:
                self._end(State.DAMAGED, f"{segment.path.name}: {segment.problem}")
                return
            if segment.first <= place.last:
                self._end(
                    State.DAMAGED,
                    f"{segment.path.name} begins before the end of {place.segment.path.name}",
                )
                return
        same_chain = True
        for segment in later:
            assert segment.header is not None
            same_chain = same_chain and segment.header.number != log_format.FRESH
            if self._was_safe(segment, segment.header, place, same_chain):
                self._end(
                    State.DAMAGED if problem else State.MISSING,
                    f"{place}: {problem or f'nothing follows transaction {place.last}'}, and "
                    f"{segment.path.name} says that what followed was safe",
                )
                return
        self.cut = later
        what = problem or f"nothing follows transaction {place.last}"
        self._end(State.TORN, f"{place}: {what}, and nothing behind it was safe yet")

    def _was_safe(
        self, segment: Segment, header: SegmentHeader, place: Place, same_chain: bool
    ) -> bool:
        if header.durable_through > place.last:
            return True
        with opened(self._files, segment.path, from_disk=self._from_disk) as fd:
            pieces = Pieces(self._files, fd)
            return _known_durable(pieces, header, place, header.header_bytes, same_chain)


def read_tail(
    path: Path,
    after: int,
    history: int | None,
    *,
    from_disk: bool = False,
    files: Files | None = None,
) -> Tail:
    """The log's records beyond `after`, the last transaction of a checkpoint of `history`.

    `from_disk`: distrust what the system has in memory, as after a failed sync. Errors: OSError
    when the directory can't be listed.
    """
    return Tail(path, after, history, files or Files(), from_disk)


def repair(tail: Tail, files: Files | None = None) -> None:
    """Cut a torn tail off, for good: what was in it can never be read again. Errors: OSError.

    `tail` was read to its end. Interrupted, it can be done again.
    """
    files = files or Files()
    assert tail.ending is not None
    if tail.ending.state is not State.TORN:
        return
    assert tail.place is not None
    log.warning("cutting off the end of the log: %s", tail.ending.where)
    for segment in tail.cut:
        log.warning("removing %s, which nothing leads to", segment.path.name)
        files.remove(segment.path)
    files.sync_directory(tail.path)
    with opened(files, tail.place.segment.path, writable=True) as fd:
        end = tail.place.header.size_bytes
        for offset in range(tail.place.offset, end, PIECE_BYTES):
            piece = files.read(fd, min(PIECE_BYTES, end - offset), offset)
            if not is_zero(piece):
                files.write(fd, bytes(len(piece)), offset)
        files.sync(fd)
    tail.cut = []
    tail.ending = Ending(State.CLEAN, f"{tail.place}, where it was cut off", tail.ending.at)


def _beginning(segment: Segment, header: SegmentHeader) -> Place:
    return Place(
        segment, header, header.header_bytes, header.chain, header.number - 1, header.first - 1
    )


def _begins_behind(header: SegmentHeader, place: Place) -> bool:
    return (header.chain, header.number, header.first) == (
        place.chain,
        place.number + 1,
        place.last + 1,
    )


def _follows(found: log_format.RecordHeader, place: Place) -> bool:
    return (found.previous, found.number, found.first) == (
        place.chain,
        place.number + 1,
        place.last + 1,
    )


def _read_record(
    pieces: Pieces, offset: int, end: int, seed: int
) -> tuple[log_format.RecordHeader, memoryview] | None:
    """A sound record, if there is one at `offset`. Errors: OSError."""
    raw = pieces.read(offset, RECORD_BYTES)
    if len(raw) < RECORD_BYTES or offset + RECORD_BYTES > end or raw[:4] != RECORD_MAGIC:
        return None
    found = log_format.unpack_record(raw)
    if offset + found.end_bytes > end or found.kind not in _KINDS:
        return None
    whole = pieces.read(offset, found.end_bytes)
    if not log_format.is_sound(whole[:RECORD_BYTES], whole[RECORD_BYTES:], seed):
        return None
    return found, whole[RECORD_BYTES : RECORD_BYTES + found.length_bytes]


def _record(found: log_format.RecordHeader, payload: memoryview, place: Place) -> Record:
    return Record(
        Kind(found.kind),
        found.number,
        found.first,
        found.count,
        found.time_ns,
        place.header.history,
        found.durable_through,
        found.outcome if found.flags & Flag.OUTCOME else None,
        payload,
        place.segment,
        place.offset,
    )


def _garbage(pieces: Pieces, place: Place) -> str:
    """What is wrong at `place`, where no record follows; "" when there are only zeros."""
    end = place.header.size_bytes
    for offset in range(place.offset, end, PIECE_BYTES):
        piece = bytes(pieces.read(offset, min(PIECE_BYTES, end - offset)))
        if is_zero(piece):
            continue
        read = _read_record(pieces, place.offset, end, place.header.seed)
        return (
            "the record there is not whole" if read is None else "the record there is no next one"
        )
    return ""


def _known_durable(
    pieces: Pieces, header: SegmentHeader, place: Place, offset: int, same_chain: bool
) -> bool:
    """Whether a sound record from `offset` on says that what belongs at `place` was safe.

    `same_chain`: its records are numbered on from those before `place`. Errors: OSError.
    """
    end = header.size_bytes
    for candidate in _possible_records(pieces.another(), offset, end):
        if candidate < offset:
            continue
        read = _read_record(pieces, candidate, end, header.seed)
        if read is None:
            continue
        found, _ = read
        if found.durable_through > place.last:
            return True
        if same_chain and found.durable_number > place.number:
            return True
        offset = candidate + found.end_bytes
    return False


def _possible_records(pieces: Pieces, offset: int, end: int) -> Iterator[int]:
    """Where a record may begin, by its first bytes. `offset` is a multiple of 8."""
    for begin in range(offset, end, PIECE_BYTES):
        piece = bytes(pieces.read(begin, min(PIECE_BYTES, end - begin)))
        at = piece.find(RECORD_MAGIC)
        while at >= 0:
            if at % 8 == 0:
                yield begin + at
            at = piece.find(RECORD_MAGIC, at + 1)
