"""The files of a command log: which there are, what their headers say, and reading pieces of one.

Knows where records are to be looked for, not which of them count: that is `log_reader`'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from diptych.durable import log_format
from diptych.durable.files import Files
from diptych.durable.log_format import BadSegment, SegmentHeader

NAME = re.compile(r"log-(\d{20})(?:-(\d+))?\.diptych")
PIECE_BYTES = 1 << 20
"""Read at a time."""
_ZEROS = bytes(PIECE_BYTES)


def segment_name(first: int, again: int = 0) -> str:
    """`again`: how many segments of the log have begun with `first` before."""
    return f"log-{first:020d}-{again}.diptych" if again else f"log-{first:020d}.diptych"


@dataclass(frozen=True)
class Segment:
    """A file of a log. `first` is its first sequence number, by its name.

    `header` is None when it is damaged; then `problem` says how, else it is "".
    """

    path: Path
    first: int
    file_bytes: int
    header: SegmentHeader | None
    problem: str


def is_zero(piece: bytes) -> bool:
    """Whether there are only zeros in at most PIECE_BYTES."""
    return piece == _ZEROS[: len(piece)]


class Pieces:
    """Reads a file, a piece at a time; what it gave stays as it was."""

    def __init__(self, files: Files, fd: int) -> None:
        self._files, self._fd = files, fd
        self._piece, self._at = memoryview(b""), 0

    def read(self, offset: int, length_bytes: int) -> memoryview:
        """So many bytes, or fewer where the file ends. Errors: OSError."""
        begin = offset - self._at
        if begin < 0 or begin + length_bytes > len(self._piece):
            wanted_bytes = max(length_bytes, PIECE_BYTES)
            self._piece = memoryview(self._files.read(self._fd, wanted_bytes, offset))
            self._at, begin = offset, 0
        return self._piece[begin : begin + length_bytes]

    def another(self) -> Pieces:
        """One of the same file that reads elsewhere."""
        return Pieces(self._files, self._fd)


@contextmanager
def opened(
    files: Files, path: Path, *, writable: bool = False, from_disk: bool = False
) -> Iterator[int]:
    """Its descriptor. `from_disk`: what the system has of it in memory is not trusted."""
    fd = files.open(path, writable=writable)
    try:
        if from_disk:
            files.forget_cached(fd)
        yield fd
    finally:
        files.close(fd)


def segments(path: Path, files: Files | None = None, *, from_disk: bool = False) -> list[Segment]:
    """The files of the log in a directory, by their names, ascending. None if there is no such
    directory. Errors: OSError.
    """
    files = files or Files()
    try:
        found = [match for name in files.names(path) if (match := NAME.fullmatch(name))]
    except FileNotFoundError:
        return []
    found.sort(key=lambda match: (int(match[1]), int(match[2] or 0)))
    read = (_segment(files, path / match[0], int(match[1]), from_disk) for match in found)
    return [segment for segment in read if segment is not None]


def _segment(files: Files, path: Path, first: int, from_disk: bool) -> Segment | None:
    """None when it was let go of meanwhile."""
    file_bytes = 0
    try:
        with opened(files, path, from_disk=from_disk) as fd:
            file_bytes = files.size(fd)
            fixed = files.read(fd, log_format.FIXED_BYTES, 0)
            header_bytes = log_format.segment_header_bytes(fixed)
            header = log_format.unpack_segment(files.read(fd, header_bytes, 0))
        if header.first != first:
            raise BadSegment(f"its header says that transaction {header.first} is its first")
    except FileNotFoundError:
        return None
    except BadSegment as bad:
        return Segment(path, first, file_bytes, None, str(bad))
    except OSError as error:
        return Segment(path, first, file_bytes, None, f"it can't be read: {error.strerror}")
    return Segment(path, first, file_bytes, header, "")
