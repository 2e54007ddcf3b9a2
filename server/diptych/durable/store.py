"""Checkpoints of one directory: how a new one gets there, and what becomes of a damaged one.

`checkpoint-<sequence>-<epoch>.diptych` is a manifest: `epoch` counts the checkpoints of the
directory, so the highest is the newest. The pages lie in one of three files that are changed in
place. A manifest is gone, for the disk too, before its pages file is touched, and gets its name
after everything else is on the disk; so what has a manifest is complete. `*.partial` is one being
written, or what a process that was killed left of one; nothing reads it.

One process at a time saves here: the one that has the directory locked, or its helper.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from crc32c import crc32c

from diptych.durable import manifest as manifests
from diptych.durable import pages, slots
from diptych.durable.checkpoint import Checkpoint, checkpoints_in, read_manifest, read_table
from diptych.durable.files import Files
from diptych.durable.manifest import Manifest
from diptych.durable.pacing import Pacer
from diptych.durable.pages import BadPages, Before, PagesHeader, Written
from diptych.durable.progress import Progress, in_mebibytes
from diptych.errors import CorruptionError
from diptych.memory import PAGE_BYTES, Extent, Region
from diptych.memory.layout import Pages

PARTIAL = ".partial"
DAMAGED = ".damaged"
_ANY_NAME = re.compile(r"checkpoint-\d{20}-(\d{10})\.diptych(\.damaged)?")

log = logging.getLogger("diptych.durable")


@dataclass(frozen=True)
class Saved:
    """What one save did: `pages` of so many that the checkpoint has were written."""

    checkpoint: Checkpoint
    slot: int
    pages: int
    page_count: int
    seconds: float


class CheckpointStore:
    """Saves to a directory that somebody has locked for us."""

    def __init__(self, path: Path, files: Files | None = None) -> None:
        self.path = path
        self._files = files or Files()

    def checkpoints(self) -> list[Checkpoint]:
        """The complete ones, the newest last. Errors: OSError."""
        return checkpoints_in(self.path)

    def newest(self) -> Checkpoint | None:
        found = self.checkpoints()
        return found[-1] if found else None

    def by_slot(self) -> Mapping[int, Checkpoint]:
        """The complete checkpoint of each slot that has one. Manifests that can't be read are set
        aside. Errors: ConfigurationError (of another format), OSError.
        """
        found: dict[int, Checkpoint] = {}
        for checkpoint in self.checkpoints():
            try:
                found[read_manifest(checkpoint.path).slot] = checkpoint
            except CorruptionError as damage:
                self.set_aside(checkpoint, str(damage))
        return found

    def next_slot(self) -> int:
        """Where the next checkpoint goes. Errors: as `by_slot`."""
        return self._free_slots()[0]

    def set_aside(self, checkpoint: Checkpoint, why: str) -> None:
        """A damaged checkpoint counts no more: its manifest gets another name. Errors: OSError."""
        log.error("%s; set aside as %s", why, checkpoint.path.name + DAMAGED)
        self._files.rename(checkpoint.path, _with(checkpoint.path, DAMAGED))
        self._files.sync_directory(self.path)

    def clear(self) -> None:
        """Remove what a process that was killed left. Errors: OSError."""
        for left in self.path.glob(f"checkpoint-*{PARTIAL}"):
            log.warning("removing %s: whoever wrote it did not finish", left.name)
            self._files.remove(left)

    def save(
        self,
        region: Region,
        extents: Iterable[Extent],
        *,
        app: str,
        schema: bytes,
        history: int,
        sequence: int,
        facts: str = "",
        slot: int | None = None,
        changed: Pages | None = None,
        pacer: Pacer | None = None,
        confirm: Callable[[], None] = lambda: None,
    ) -> Saved:
        """Write a checkpoint of `region`, which nobody changes meanwhile.

        `slot`: what `next_slot` said. `changed`: the pages that may differ from the checkpoint that
        is in that slot now, in any order; None: any. `confirm` is called before the checkpoint
        becomes complete, and may raise to give it up. Returns when it would outlive the host.
        Errors: ConfigurationError; OSError (a full disk); the newest two that were there before are
        there still.
        """
        free = self._free_slots()
        slot = free[0] if slot is None else slot
        if slot not in free:
            raise ValueError(f"slot {slot} holds one of the newest two checkpoints")
        manifest = Manifest(
            app=app,
            schema=schema,
            history=history,
            sequence=sequence,
            epoch=1 + self._last_epoch(),
            time_ns=time.time_ns(),
            region_bytes=region.size_bytes,
            extents=tuple(extents),
            slot=slot,
            pages_id=0,
            facts=facts,
        )
        what = f"saving to {self.path}"
        progress = Progress(log, what, manifest.data_bytes, shown=in_mebibytes, unit="MiB")
        held = self._begin(slot)
        fd, header = self._open(slot, region.size_bytes)
        try:
            for extent in manifest.extents:
                size_bytes = extent.page_count * PAGE_BYTES
                self._files.reserve(fd, size_bytes, extent.start * PAGE_BYTES)
            written = pages.write(
                self._files,
                fd,
                region,
                manifest.extents,
                before=held.get(header.identity),
                changed=changed,
                pacer=pacer,
                advance=progress.add,
            )
        finally:
            self._files.close(fd)
        confirm()
        checkpoint = self._complete(replace(manifest, pages_id=header.identity), written)
        saved = Saved(checkpoint, slot, written.pages, manifest.page_count, progress.elapsed_s)
        _tell(saved, written)
        return saved

    def _free_slots(self) -> list[int]:
        return slots.free_slots({slot: each.epoch for slot, each in self.by_slot().items()})

    def _last_epoch(self) -> int:
        found = (_ANY_NAME.fullmatch(name) for name in os.listdir(self.path))
        return max((int(match[1]) for match in found if match), default=0)

    def _begin(self, slot: int) -> Mapping[int, Before]:
        """Remove the manifest of a slot, so that its file may be touched.

        Returns what the file holds by it, under the identity of that file.
        """
        held: dict[int, Before] = {}
        gone = False
        for checkpoint in self.checkpoints():
            if read_manifest(checkpoint.path).slot != slot:
                continue
            with contextlib.suppress(CorruptionError):  # then all is written anew
                manifest, table = read_table(checkpoint.path)
                held = {manifest.pages_id: Before(manifest.extents, table)}
            self._files.remove(checkpoint.path)
            gone = True
        if gone:
            self._files.sync_directory(self.path)
        return held

    def _open(self, slot: int, region_bytes: int) -> tuple[int, PagesHeader]:
        """The file of a slot for regions of this size: the one that is there, or a new one."""
        path = self.path / pages.file_name(slot)
        fd = -1
        with contextlib.suppress(FileNotFoundError):
            fd = self._files.open(path, writable=True)
        if fd >= 0:
            with contextlib.suppress(BadPages):
                header = pages.read_header(fd)
                if (header.slot, header.region_bytes) == (slot, region_bytes):
                    return fd, header
            self._files.close(fd)
        header = PagesHeader(slot, region_bytes, secrets.randbits(64))
        fd = self._files.create(path)
        try:
            self._files.write(fd, header.pack(), 0)
            self._files.sync_directory(self.path)
        except BaseException:
            self._files.close(fd)
            raise
        return fd, header

    def _complete(self, manifest: Manifest, written: Written) -> Checkpoint:
        """The pages are on the disk: put their manifest there, too."""
        packed = manifests.pack_table(manifest, written.table)
        manifest = replace(manifest, table_checksum=crc32c(packed))
        path = self.path / manifest.file_name
        partial = _with(path, PARTIAL)
        try:
            fd = self._files.create(partial)
            try:
                self._files.write(fd, manifest.pack() + packed, 0)
                self._files.sync(fd)
            finally:
                self._files.close(fd)
            self._files.rename(partial, path)
        except BaseException:
            with contextlib.suppress(OSError):
                self._files.remove(partial)
            raise
        self._files.sync_directory(self.path)
        return Checkpoint(path, manifest.sequence, manifest.epoch)


def _tell(saved: Saved, written: Written) -> None:
    if written.surprises:
        log.error("%d pages had changed unnoticed: please report this", written.surprises)
    log.info(
        "saved %s: %s of %s MiB, %d of %d pages, in %.1f s",
        saved.checkpoint.path.name,
        in_mebibytes(saved.pages * PAGE_BYTES),
        in_mebibytes(saved.page_count * PAGE_BYTES),
        saved.pages,
        saved.page_count,
        saved.seconds,
    )


def _with(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
