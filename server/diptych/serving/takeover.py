"""How a writer gets its memory: from nothing, or from what the writer before it left behind.

The supervisor keeps the memory; the writer before is reaped, never presumed dead. With no whole
image there was nothing yet that anyone could have been answered from: memory is emptied, laid out
and set up again. Else the newest whole image, published or not, is copied over the region, whose
own content is never trusted. All images but that one then count as lacking everything, and as held,
until each holder has said anew what it holds.

With a data directory the writer is the one that has it locked. A server's first writer begins with
the newest checkpoint there, and without one with the application's setup, of which a checkpoint is
made at once; those after it go on from images, which are newer than any file. Then what the log has
beyond that is run again, so that nothing that was answered is missing, and history goes on. What
is done when is decided by `engine.recovery`.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from dataclasses import dataclass
from typing import cast

from diptych.app import App
from diptych.config import Settings
from diptych.control_page import ControlPage
from diptych.durable import DataDirectory
from diptych.durable.no_log import NoLog
from diptych.engine.engine import Engine
from diptych.engine.growth_ahead import GrowthAhead
from diptych.engine.lane import compiled_for
from diptych.engine.opening import migrate, save
from diptych.engine.recovery import Action, Images
from diptych.engine.starting import (
    AnyLog,
    Base,
    decide_on,
    find_base,
    look_at_log,
    open_log,
    run_log,
)
from diptych.engine.sync import Syncer, SyncSettings
from diptych.errors import ConfigurationError, CorruptionError
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
from diptych.store import words as at
from diptych.store.database import SCRATCH_BYTES

log = logging.getLogger("diptych.serving")


@dataclass(frozen=True)
class Memory:
    """Descriptors that the supervisor keeps: of the region, and of each image."""

    region_fd: int
    image_fds: tuple[int, ...]
    size_bytes: int


@dataclass(frozen=True)
class Request:
    """What a new writer is told by the supervisor.

    `holders`: who may be looking at images. `control_fd`: the control page. `facts`: of this
    server, see `engine.facts`. `set_aside`: transactions that must not run again.
    """

    holders: tuple[int, ...] = ()
    control_fd: int = -1
    facts: str = ""
    set_aside: tuple[int, ...] = ()


@dataclass(frozen=True)
class Taken:
    """A writer's engine and syncer. `recovered`: whether it goes on from an image.

    `outcome`: of the last record of the log, if it was replayed; see `Engine.outcome`.
    """

    engine: Engine
    syncer: Syncer
    ahead: GrowthAhead
    recovered: bool
    tracker: str
    log: AnyLog
    directory: DataDirectory | None = None
    outcome: int | None = None


def take_memory(app: App, settings: Settings, memory: Memory, request: Request) -> Taken:
    """Open the memory as its one writer.

    Errors: whatever the application's setup or migration raises; CorruptionError; MemoryFailure;
    ConfigurationError and OSError, of the data directory; LogBroken and DiskFull, of the log.
    """
    if settings.data is None:
        return _Takeover(app, settings, memory, request, None).take()
    directory = DataDirectory.open(settings.data, app.name)
    try:
        return _Takeover(app, settings, memory, request, directory).take()
    except BaseException:
        directory.close()
        raise


class _Takeover:
    """The steps, in the order of `take`."""

    def __init__(
        self,
        app: App,
        settings: Settings,
        memory: Memory,
        request: Request,
        directory: DataDirectory | None,
    ) -> None:
        self.app, self.settings, self.memory = app, settings, memory
        self.request, self.directory = request, directory
        self.images = [_attach(fd, memory) for fd in memory.image_fds]
        self.newest = newest_complete(self.images)
        if self.newest is None:
            for fd in (memory.region_fd, *memory.image_fds):
                _empty(fd, memory.size_bytes)
        self.region = Region.attach(
            memory.region_fd, memory.size_bytes, scratch_bytes=SCRATCH_BYTES, writable=True
        )

    def take(self) -> Taken:
        if self.directory is None:
            base = self._base_in_memory()
            mirror = self._mirror()
            engine = self._create(mirror) if base is None else self._recover(mirror, _new_history())
            return self._taken(engine, mirror, NoLog())
        return self._take_with(self.directory)

    def _take_with(self, directory: DataDirectory) -> Taken:
        app, settings, facts = self.app, self.settings, self.request.facts
        base = self._base_in_memory() or find_base(
            app, directory, self.region, settings.capacities, self._empty_region
        )
        found = look_at_log(directory, base)
        decision = decide_on(base, found, directory, facts, settings.app)
        if decision.action is Action.REFUSE:
            raise ConfigurationError("\n".join([*base.damage, decision.message]))
        log.info("%s", decision.why)
        whole = decision.action is Action.CREATE or base.migrates
        if base.migrates:
            self._migrate(base)
        mirror = self._mirror()
        if decision.action is Action.CREATE:
            engine = self._create(mirror)
        else:
            history = int(self.region.words[at.HISTORY]) if base.migrates else base.history
            engine = self._recover(mirror, history)
        if whole:
            # A log can only be run upon a checkpoint.
            save(app.name, directory, self.region, engine.layout, facts)
        history = engine.history
        if decision.new_history:
            history = _new_history()
        elif not whole:
            # Another one may have begun in the log, behind the checkpoint.
            history = found.tail.history or history
        command_log = open_log(
            app,
            directory.path,
            settings.log,
            facts_now=facts,
            history=history,
            sequence=engine.sequence if whole else found.last,
            tail=None if whole else found.tail,
        )
        directory.begin(settings.log.durability)
        if whole:
            _set_damaged_aside(directory, base)
            return self._taken(engine, mirror, command_log)
        self._control(engine)
        set_aside = self.request.set_aside
        done = run_log(engine, directory, base, found, command_log, set_aside, settings.app)
        if decision.new_history:
            log.warning("what was answered last may be missing: a new history begins")
        engine.region.words[at.HISTORY] = history
        _set_damaged_aside(directory, base)
        if done.transactions and settings.log.durability == "none":
            save(app.name, directory, self.region, engine.layout, facts)
        return self._taken(engine, mirror, command_log, done.outcome)

    def _base_in_memory(self) -> Base | None:
        """Fill the region from the newest whole image, if there is one."""
        if self.newest is None:
            return None
        began = time.monotonic()
        image = self.images[self.newest]
        restore(self.region, image)
        told = "region restored from image %d in %.3f s"
        log.info(told, self.newest, time.monotonic() - began)
        stamp = read_stamp(image)
        assert stamp is not None
        return Base(stamp.sequence, stamp.history, images=Images.WHOLE)

    def _empty_region(self) -> None:
        empty_beyond(self.region, [])

    def _migrate(self, base: Base) -> None:
        assert base.checkpoint is not None
        assert base.examined is not None
        migrate(
            self.app,
            base.checkpoint,
            base.examined,
            self.region,
            history=_new_history(),
            capacities=self.settings.capacities,
        )

    def _mirror(self) -> Mirror:
        # The configuration takes nothing but these words.
        preference = cast(Preference, self.settings.sync.tracker)
        tracker = choose_tracker(self.region, preference, leave_hot=True)
        current = NONE if self.newest is None else self.newest
        return Mirror(self.region, tracker, self.images, current=current)

    def _create(self, mirror: Mirror) -> Engine:
        return Engine.create(
            self.app,
            self.region,
            grow=mirror.add_extent,
            history=_new_history(),
            capacities=self.settings.capacities,
            seed=secrets.randbits(62),
            compiled=compiled_for(self.app),
        )

    def _recover(self, mirror: Mirror, history: int) -> Engine:
        engine = Engine.recover(
            self.app,
            self.region,
            grow=mirror.add_extent,
            history=history,
            capacities=self.settings.capacities,
            compiled=compiled_for(self.app),
        )
        if mirror.current != NONE:
            stamp = read_stamp(mirror.images[mirror.current])
            if stamp is None or engine.sequence != stamp.sequence:
                told = f"the image is stamped {stamp}, its content says {engine.sequence}"
                raise CorruptionError(told)
        # Beyond what it has in use, the image may have bytes of an earlier life, copied to it
        # ahead of a sync that never came. The store takes memory that it is given for zero.
        empty_beyond(self.region, engine.extents())
        for extent in engine.extents():
            mirror.add_extent(extent)
        return engine

    def _control(self, engine: Engine) -> None:
        if self.request.control_fd >= 0:
            engine.control = ControlPage(self.request.control_fd).words

    def _taken(
        self,
        engine: Engine,
        mirror: Mirror,
        command_log: AnyLog,
        outcome: int | None = None,
    ) -> Taken:
        self._control(engine)
        recovered = self.newest is not None
        holders = self.request.holders if recovered else ()
        settings = sync_settings(self.settings)
        syncer = Syncer(mirror, settings, unknown=holders, history=engine.history)
        tracker = mirror.tracker.name
        ahead = GrowthAhead(engine.growth, mirror.warm)
        return Taken(
            engine, syncer, ahead, recovered, tracker, command_log, self.directory, outcome
        )


def sync_settings(settings: Settings) -> SyncSettings:
    sync = settings.sync
    return SyncSettings(
        interval_ms=sync.interval_ms,
        max_duty=sync.max_duty,
        max_pause_ms=sync.max_pause_ms,
        max_pin_ms=sync.max_pin_ms,
        images=sync.images,
    )


def _set_damaged_aside(directory: DataDirectory, base: Base) -> None:
    """What is newer than the checkpoint that was used is damaged, and must not count any more."""
    if base.checkpoint is None or base.newest is None:
        return
    for checkpoint in directory.checkpoints():
        if base.checkpoint.epoch < checkpoint.epoch <= base.newest.epoch:
            told = f"{checkpoint.path.name} is damaged; all that it has is here without it"
            directory.store.set_aside(checkpoint, told)


def _new_history() -> int:
    """Positive, and never 0, which means none."""
    return 1 + secrets.randbits(62)


def _attach(fd: int, memory: Memory) -> Region:
    return Region.attach(fd, memory.size_bytes, writable=True)


def _empty(fd: int, size_bytes: int) -> None:
    """Give all of its memory back, and be as long as before. No page of it is in use."""
    os.ftruncate(fd, 0)
    os.ftruncate(fd, size_bytes)
