"""Compiled applications on disk, so that a second start compiles nothing.

One file an application and key (`dependencies`): a checksum, then MessagePack, so what is torn or
damaged is found before any of it runs, and is compiled anew. The directory lies in that of the
kernels, whose code this code calls. It belongs to this user, or to root, and nobody else may write
to it: what is in there is run. Files used last are kept, so many of them.

Files appear complete or not at all, so processes may write at once. What can't be kept is said
once, and costs the next start its time. Knows nothing of Numba.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import stat
import tempfile
from dataclasses import astuple, dataclass
from pathlib import Path

import msgpack

from diptych import kernel
from diptych.store.compiled.machine import Code

MAGIC = b"diptych code 1\n"
FILES_KEPT = 24
DIGEST_BYTES = 32

log = logging.getLogger("diptych.compiled")


@dataclass(frozen=True)
class StoredOperation:
    """One operation: its code, and the programs of its arguments and of its answer."""

    name: str
    code: Code
    arguments: list[int]
    answer: list[int]


@dataclass(frozen=True)
class Stored:
    """A compiled application. `rejections`: the program of each, by number."""

    operations: list[StoredOperation]
    rejections: list[list[int]]


def directory() -> Path | None:
    """Where compiled applications are kept, made if need be; None where that is not safe."""
    if kernel.CACHE_DIRECTORY is None:
        _say_not_kept("no directory of kernels can be written; NUMBA_CACHE_DIR chooses one")
        return None
    found = kernel.CACHE_DIRECTORY / "handlers"
    try:
        found.mkdir(mode=0o700, exist_ok=True)
        if not stat.S_ISDIR(found.lstat().st_mode) or not _is_safe(found.lstat()):
            raise PermissionError(f"{found} could be written by others; remove it")
    except OSError as error:
        _say_not_kept(str(error))
        return None
    return found


def is_usable() -> bool:
    """Whether code can be kept, as far as can be told before there is any; if not, that is said."""
    place = directory()
    if place is not None and not os.access(place, os.W_OK):
        _say_not_kept(f"{place} can't be written to")
        return False
    return place is not None


def read(app_name: str, key: str) -> Stored | None:
    """What is kept under this key; None: nothing, or nothing whole."""
    place = directory()
    if place is None:
        return None
    path = _path(place, app_name, key)
    try:
        with open(path, "rb") as file:
            if not _is_safe(os.fstat(file.fileno())):
                return None
            content = file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("compiled handlers can't be read: %s", error)
        return None
    found = _decode(content, key)
    if found is None:
        log.warning("%s is damaged; its handlers are compiled again", path)
    with contextlib.suppress(OSError):
        os.utime(path)
    return found


def write(app_name: str, key: str, stored: Stored) -> None:
    """Keep it, if that is possible, and forget what was not used for longest."""
    place = directory()
    if place is None:
        return
    try:
        handle, temporary = tempfile.mkstemp(dir=place)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_encode(stored, key))
            os.replace(temporary, _path(place, app_name, key))
        except BaseException:
            os.unlink(temporary)
            raise
        _forget_old(place)
    except OSError as error:
        _say_not_kept(str(error))


def _path(place: Path, app_name: str, key: str) -> Path:
    return place / f"{app_name}-{key}.code"


def _is_safe(status: os.stat_result) -> bool:
    """Whether nobody but this user and root can have put it there."""
    others = stat.S_IWGRP | stat.S_IWOTH
    return status.st_uid in (os.geteuid(), 0) and not status.st_mode & others


def _encode(stored: Stored, key: str) -> bytes:
    operations = [astuple(operation) for operation in stored.operations]
    body: bytes = msgpack.packb([key, operations, stored.rejections])
    return MAGIC + hashlib.sha256(body).digest() + body


def _decode(content: bytes, key: str) -> Stored | None:
    head = len(MAGIC) + DIGEST_BYTES
    body = content[head:]
    if content[:head] != MAGIC + hashlib.sha256(body).digest():
        return None
    found, operations, rejections = msgpack.unpackb(body)
    if found != key:
        return None
    return Stored(
        [
            StoredOperation(name, Code(entry, tuple(objects), tuple(needs)), arguments, answer)
            for name, (entry, objects, needs), arguments, answer in operations
        ],
        rejections,
    )


def _forget_old(place: Path) -> None:
    """Keep the files used last; those that a writer left in part go as well, in their turn."""
    with contextlib.suppress(OSError):
        files = sorted(place.iterdir(), key=lambda path: path.stat().st_mtime)
        for path in files[:-FILES_KEPT]:
            path.unlink(missing_ok=True)


@functools.cache
def _say_not_kept(why: str) -> None:
    log.warning("compiled handlers are not kept, so each start compiles them: %s", why)
