"""Letting go of the files of a log that no checkpoint needs any more: kept elsewhere, or removed.

A segment goes when another that continues it begins at or before the transaction after the last
covered one: then nothing in it is beyond that. The one that is written to is continued by none, so
it stays. One that can't be archived stays as well, and all behind it, and that is said.

Knows nothing of checkpoints; may run in another process than the writer's.
"""

from __future__ import annotations

import logging
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from diptych.durable.files import Files
from diptych.durable.log_segments import PIECE_BYTES, Segment, opened, segments
from diptych.memory import PAGE_BYTES

COMMAND_S = 300
"""How long an archive command may take for a file."""

log = logging.getLogger("diptych.durable")


@dataclass(frozen=True)
class Removed:
    """`names` in their order; `problem` says why one that could go is still there, or ""."""

    names: tuple[str, ...]
    size_bytes: int
    problem: str


class _NotKept(Exception):
    """A file could not be archived. The message says why."""


def remove_covered(
    path: Path,
    through: int,
    *,
    archive: Path | None = None,
    archive_command: str = "",
    files: Files | None = None,
) -> Removed:
    """Remove the segments of the log in `path` that hold nothing beyond transaction `through`.

    First each is copied to the directory `archive`, and given to `archive_command` as its last
    argument, where they are set. Errors: OSError when `path` can't be listed or changed.
    """
    files = files or Files()
    found = segments(path, files)
    names: list[str] = []
    size_bytes, problem = 0, ""
    for at, segment in enumerate(found):
        if not _is_covered(segment, found[at + 1 :], through):
            continue
        try:
            if archive is not None:
                _copy(files, segment.path, archive)
            if archive_command:
                _run(archive_command, segment.path)
        except _NotKept as failure:
            problem = f"{segment.path.name} is not archived and stays: {failure}"
            log.warning("%s", problem)
            break
        files.remove(segment.path)
        names.append(segment.path.name)
        size_bytes += segment.file_bytes
    if names:
        files.sync_directory(path)
    return Removed(tuple(names), size_bytes, problem)


def _is_covered(segment: Segment, later: list[Segment], through: int) -> bool:
    """A damaged one never is: somebody may want to look at it."""
    if segment.header is None:
        return False
    history = segment.header.history
    return any(
        other.first <= through + 1
        and other.header is not None
        and history in (other.header.history, other.header.previous_history)
        for other in later
    )


def _copy(files: Files, source: Path, archive: Path) -> None:
    """Errors: _NotKept."""
    target = archive / source.name
    partial = target.with_name(target.name + ".partial")
    try:
        with opened(files, source) as fd:
            if target.name in files.names(archive):
                with opened(files, target) as other:
                    if files.read(other, PAGE_BYTES, 0) != files.read(fd, PAGE_BYTES, 0):
                        raise _NotKept(f"{target} is there, and is of another log")
            copy = files.create(partial)
            try:
                for offset in range(0, files.size(fd), PIECE_BYTES):
                    files.write(copy, files.read(fd, PIECE_BYTES, offset), offset)
                files.sync(copy)
            finally:
                files.close(copy)
        files.rename(partial, target)
        files.sync_directory(archive)
    except OSError as error:
        raise _NotKept(f"{archive}: {error.strerror or error}") from None


def _run(command: str, path: Path) -> None:
    """Errors: _NotKept."""
    try:
        done = subprocess.run(
            [*shlex.split(command), str(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=COMMAND_S,
            check=False,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise _NotKept(f"{command}: {error}") from None
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()[-500:]
        raise _NotKept(f"{command}: exit code {done.returncode}{': ' if said else ''}{said}")
