"""How a writer gets its memory: from nothing, or from what the writer before it left behind.

The supervisor keeps the memory; the writer before is reaped, never presumed dead. With no whole
image there was nothing yet that anyone could have been answered from: memory is emptied, laid out
and set up again. Else the newest whole image, published or not, is copied over the region, whose
own content is never trusted, and a new history begins. All images but that one then count as
lacking everything, and as held, until each holder has said anew what it holds.

With a data directory the writer is the one that has it locked. A server's first writer begins with
the newest checkpoint there, and without one with the application's setup; those after it go on from
images, which are newer than any file.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from diptych.app import App
from diptych.config import Settings
from diptych.durable import DataDirectory
from diptych.engine.engine import Engine
from diptych.engine.opening import open_saved, save
from diptych.engine.sync import Syncer, SyncSettings
from diptych.errors import CorruptionError
from diptych.memory import (
    NONE,
    Mirror,
    Region,
    choose_tracker,
    empty_beyond,
    newest_complete,
    read_stamp,
    restore,
)
from diptych.memory.tracking import Preference
from diptych.store.database import SCRATCH_BYTES

log = logging.getLogger("diptych.serving")


@dataclass(frozen=True)
class Memory:
    """Descriptors that the supervisor keeps: of the region, and of each image."""

    region_fd: int
    image_fds: tuple[int, ...]
    size_bytes: int


@dataclass(frozen=True)
class Taken:
    """A writer's engine and syncer. `recovered`: whether it goes on from an image."""

    engine: Engine
    syncer: Syncer
    recovered: bool
    tracker: str
    directory: DataDirectory | None = None


def take_memory(app: App, settings: Settings, memory: Memory, holders: Iterable[int]) -> Taken:
    """Open the memory as its one writer. `holders`: who may be looking at images.

    Errors: whatever the application's setup or migration raises; CorruptionError; MemoryFailure;
    ConfigurationError and OSError, of the data directory.
    """
    directory = None if settings.data is None else DataDirectory.open(settings.data, app.name)
    try:
        return _take_memory(app, settings, memory, holders, directory)
    except BaseException:
        if directory is not None:
            directory.close()
        raise


def _take_memory(
    app: App,
    settings: Settings,
    memory: Memory,
    holders: Iterable[int],
    directory: DataDirectory | None,
) -> Taken:
    images = [_attach(fd, memory) for fd in memory.image_fds]
    newest = newest_complete(images)
    if newest is None:
        for fd in (memory.region_fd, *memory.image_fds):
            _empty(fd, memory.size_bytes)
    region = Region.attach(
        memory.region_fd, memory.size_bytes, scratch_bytes=SCRATCH_BYTES, writable=True
    )
    loaded = False
    if newest is not None:
        began = time.monotonic()
        restore(region, images[newest])
        log.info("region restored from image %d in %.3f s", newest, time.monotonic() - began)
    elif directory is not None:
        history, capacities = _new_history(), settings.capacities
        loaded = open_saved(app, directory, region, history=history, capacities=capacities)
    # The configuration takes nothing but these words.
    tracker = choose_tracker(region, cast(Preference, settings.sync.tracker))
    mirror = Mirror(region, tracker, images, current=-1 if newest is None else newest)
    if newest is None and not loaded:
        engine = _create(app, settings, region, mirror)
        if directory is not None:
            # Whatever comes after has something to begin with.
            save(app.name, directory, region, engine.layout)
    else:
        engine = _recover(app, settings, region, mirror)
    syncer = Syncer(mirror, sync_settings(settings), unknown=() if newest is None else holders)
    return Taken(engine, syncer, newest is not None, tracker.name, directory)


def sync_settings(settings: Settings) -> SyncSettings:
    sync = settings.sync
    return SyncSettings(
        interval_ms=sync.interval_ms,
        max_duty=sync.max_duty,
        max_pause_ms=sync.max_pause_ms,
        max_pin_ms=sync.max_pin_ms,
        images=sync.images,
    )


def _create(app: App, settings: Settings, region: Region, mirror: Mirror) -> Engine:
    return Engine.create(
        app,
        region,
        grow=mirror.add_extent,
        history=_new_history(),
        capacities=settings.capacities,
        seed=secrets.randbits(62),
    )


def _recover(app: App, settings: Settings, region: Region, mirror: Mirror) -> Engine:
    engine = Engine.recover(
        app,
        region,
        grow=mirror.add_extent,
        history=_new_history(),
        capacities=settings.capacities,
    )
    if mirror.current != NONE:
        stamp = read_stamp(mirror.images[mirror.current])
        if stamp is None or engine.sequence != stamp.sequence:
            told = f"the image is stamped {stamp}, its content says {engine.sequence}"
            raise CorruptionError(told)
    # Beyond what it has in use, the image may have bytes of an earlier life, copied to it ahead of
    # a sync that never came. The store takes memory that it is given for zero.
    empty_beyond(region, engine.extents())
    for extent in engine.extents():
        mirror.add_extent(extent)
    return engine


def _new_history() -> int:
    """Positive, and never 0, which means none."""
    return 1 + secrets.randbits(62)


def _attach(fd: int, memory: Memory) -> Region:
    return Region.attach(fd, memory.size_bytes, writable=True)


def _empty(fd: int, size_bytes: int) -> None:
    """Give all of its memory back, and be as long as before. No page of it is in use."""
    os.ftruncate(fd, 0)
    os.ftruncate(fd, size_bytes)
