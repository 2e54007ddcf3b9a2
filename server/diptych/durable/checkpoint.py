"""A complete checkpoint, as it is found in a directory: load it, or check every byte of it.

What is loaded is what was saved, or an error that names the file, the page and what is wrong. A
running server may change the pages of an older checkpoint while somebody else reads them; it has
removed the manifest before, which is how that is told from damage.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from diptych.durable import manifest as manifests
from diptych.durable import pages
from diptych.durable.manifest import BadManifest, Checksums, Manifest, OtherFormat
from diptych.durable.pacing import Pacer
from diptych.durable.pages import Advance, BadPages
from diptych.errors import ConfigurationError, CorruptionError
from diptych.memory import PAGE_BYTES, Extent, Region

_NAME = re.compile(r"checkpoint-(\d{20})-(\d{10})\.diptych")


class CheckpointReplaced(CorruptionError):
    """Its pages were changed for a newer checkpoint while they were read. Look for that one."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete one, by the name of its manifest alone: nothing of it has been read."""

    path: Path
    sequence: int
    epoch: int


def checkpoints_in(path: Path) -> list[Checkpoint]:
    """The complete checkpoints of a directory, the newest last. Errors: OSError."""
    found = []
    for name in os.listdir(path):
        match = _NAME.fullmatch(name)
        if match is not None:
            found.append(Checkpoint(path / name, int(match[1]), int(match[2])))
    return sorted(found, key=lambda checkpoint: (checkpoint.epoch, checkpoint.sequence))


def read_manifest(path: Path) -> Manifest:
    """What a checkpoint says of itself.

    Errors: CorruptionError; ConfigurationError for a format of another version; OSError.
    """
    with _opened(path) as (fd, file_bytes):
        return _read_manifest(fd, path, file_bytes)


def read_table(path: Path) -> tuple[Manifest, Checksums]:
    """A manifest with the checksums of all pages. Errors: as `read_manifest`."""
    with _opened(path) as (fd, file_bytes):
        manifest = _read_manifest(fd, path, file_bytes)
        if file_bytes != manifest.file_bytes:
            told = f"it has {file_bytes} bytes, and should have {manifest.file_bytes}"
            raise _corrupt(path, told)
        try:
            packed = os.pread(fd, manifest.table_bytes, manifest.header_bytes)
            return manifest, manifests.unpack_table(manifest, packed)
        except BadManifest as bad:
            raise _corrupt(path, str(bad)) from None


def read_pages(checkpoint: Checkpoint, region: Region, advance: Advance) -> Manifest:
    """Load a checkpoint into a region of zeros; every page is checked.

    Errors: CorruptionError, CheckpointReplaced, ConfigurationError, AllocationFailed, OSError.
    """
    manifest, table = read_table(checkpoint.path)
    if manifest.region_bytes != region.size_bytes:
        told = f"it is of a region of {manifest.region_bytes} bytes"
        raise _corrupt(checkpoint.path, told)
    with _pages_of(checkpoint.path, manifest) as fd:
        for extent in manifest.extents:
            region.allocate(extent)
            region.populate(extent)

        def place(piece: Extent) -> memoryview:
            return region.buffer[piece.start * PAGE_BYTES : piece.stop * PAGE_BYTES]

        pages.read(fd, manifest.extents, table, place, advance)
    return manifest


def verify_pages(
    checkpoint: Checkpoint,
    advance: Advance,
    *,
    pacer: Pacer | None = None,
    cached: bool = True,
    look: Callable[[Extent, memoryview], None] | None = None,
) -> Manifest:
    """Read a whole checkpoint, and check it without keeping it. Errors: as `read_pages`.

    Without `cached`, from the disk itself, as far as the system goes along. `look` gets each piece
    once it is checked; it must not keep it.
    """
    manifest, table = read_table(checkpoint.path)
    space = memoryview(bytearray(pages.READ_PAGES * PAGE_BYTES))
    current = Extent(0, 0)

    def place(piece: Extent) -> memoryview:
        nonlocal current
        current = piece
        return space[: piece.page_count * PAGE_BYTES]

    def done(size_bytes: int) -> None:
        if look is not None:
            look(current, space[:size_bytes].toreadonly())
        if pacer is not None:
            pacer.spent(size_bytes)
        advance(size_bytes)

    with _pages_of(checkpoint.path, manifest) as fd:
        if not cached:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        pages.read(fd, manifest.extents, table, place, done)
        if not cached:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    return manifest


def read_outline(checkpoint: Checkpoint) -> Manifest:
    """Check all of a checkpoint but its pages, which are not read. Errors: as `read_pages`."""
    manifest, _ = read_table(checkpoint.path)
    with _pages_of(checkpoint.path, manifest):
        return manifest


def _read_manifest(fd: int, path: Path, file_bytes: int) -> Manifest:
    try:
        fixed = os.pread(fd, manifests.FIXED_BYTES, 0)
        size_bytes = manifests.header_bytes(fixed, file_bytes)
        manifest = manifests.unpack(os.pread(fd, size_bytes, 0))
    except BadManifest as bad:
        raise _corrupt(path, str(bad)) from None
    except OtherFormat as other:
        raise ConfigurationError(
            f"data: {path} has format {other.args[0]}; this version of Diptych reads format "
            f"{manifests.FORMAT}"
        ) from None
    if path.name.startswith("checkpoint-") and path.name != manifest.file_name:
        raise _corrupt(path, f"its header is that of {manifest.file_name}")
    return manifest


@contextmanager
def _pages_of(path: Path, manifest: Manifest) -> Iterator[int]:
    """The pages file of a checkpoint, opened; what goes wrong with it meanwhile is told with it."""
    name = pages.file_name(manifest.slot)
    try:
        with _opened(path.with_name(name)) as (fd, _):
            header = pages.read_header(fd)
            expected = manifest.slot, manifest.region_bytes, manifest.pages_id
            if header != expected:
                raise BadPages("it is not the file that this checkpoint was written to")
            yield fd
    except (BadPages, FileNotFoundError) as wrong:
        if not path.exists():
            raise CheckpointReplaced(f"{path} is gone: newer ones were written") from None
        bad = isinstance(wrong, BadPages)
        raise _corrupt(path, f"{name}: {wrong if bad else 'there is no such file'}") from None


def _corrupt(path: Path, what: str) -> CorruptionError:
    return CorruptionError(f"{path} is damaged: {what}")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[int, int]]:
    """Its descriptor and its length in bytes."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd, os.fstat(fd).st_size
    finally:
        os.close(fd)
