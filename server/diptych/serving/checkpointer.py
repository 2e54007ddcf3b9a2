"""The checkpointer process: writes images to the data directory, reads back what it wrote.

The writer lends it an image (`checkpoint_peer`), which it maps read-only, and hears no more of it
until that is on the disk: so the writer never waits, however long that takes. A checkpoint is due
some time after the last, after so many bytes of log, when somebody asks, and at the server's end;
not when nothing ran since. It is written no faster than is good for the log, but for the last one.

Each checkpoint is read back from the disk once it is written, and now and then later. One that is
damaged is set aside, and another written in its place; files of the log go only when two that were
found whole cover them.

Runs at the lowest priority, unless configured otherwise, holds no lock (the writer has it), and is
killed when the writer ends.
"""

from __future__ import annotations

import logging
import math
import select
import socket
import time
from dataclasses import dataclass

import numpy as np

from diptych.app import App
from diptych.config import Settings
from diptych.control_page import ControlPage, Word
from diptych.durable import (
    Checkpoint,
    CheckpointReplaced,
    CheckpointStore,
    Pacer,
    Saved,
    read_manifest,
    verify_pages,
)
from diptych.durable.log_removal import remove_covered
from diptych.errors import ConfigurationError, CorruptionError
from diptych.memory import PAGE_BYTES, Region, State, read_stamp
from diptych.serving.channel import CheckpointDone, CheckpointImage, CheckpointWanted, Internal
from diptych.serving.control import Control, Message
from diptych.serving.frames import FrameBuffer
from diptych.serving.spawn import EXIT_FAILED, EXIT_PARENT_GONE
from diptych.store import layout as layouts
from diptych.store import words as at

log = logging.getLogger("diptych.serving")

TICK_S = 0.5
"""How often it looks whether something is due."""
RETRY_S, RETRY_MAX_S = 5.0, 300.0
"""Pauses after a checkpoint that failed: each twice the one before."""
SCRUB_AGAIN_S = 86_400.0
SLOW_SYNC = 2
"""A sync of the log that takes so many times its usual time is reason to write more slowly."""
READ_BYTES = 1 << 20


@dataclass(frozen=True)
class CheckpointerPlan:
    """What the supervisor gives a new checkpointer. `image_fds` are read-only; `history`: the
    writer's; `facts`: JSON of who writes.
    """

    app: App
    settings: Settings
    control: Control
    writer: socket.socket
    image_fds: tuple[int, ...]
    size_bytes: int
    page: ControlPage
    history: int
    facts: str = ""


class _Ended(Exception):
    """Supervisor or writer are gone, and there is nothing left to do here."""


class _Failed(Exception):
    """A checkpoint could not be written. The message says why."""


def main(plan: CheckpointerPlan) -> int:
    """The checkpointer's process: returns its exit code."""
    checkpointer = Checkpointer(plan)
    plan.control.send({"tell": "ready"})
    try:
        return checkpointer.run()
    except _Ended:
        return EXIT_PARENT_GONE


class Checkpointer:
    """The loop: listen, and write or read back what is due."""

    def __init__(self, plan: CheckpointerPlan) -> None:
        assert plan.settings.data is not None
        self._settings = plan.settings.log
        self._store = CheckpointStore(plan.settings.data.absolute())
        self._app, self._history, self._facts = plan.app, plan.history, plan.facts
        self._layout = layouts.of_app(plan.app, plan.settings.capacities)
        self._images = [Region.attach(fd, plan.size_bytes) for fd in plan.image_fds]
        self._words = plan.page.words
        self._control, self._writer = plan.control, plan.writer
        self._writer.setblocking(True)
        self._buffer = FrameBuffer(READ_BYTES, 1 << 31)
        self._lent: CheckpointImage | None = None
        self._poll = select.poll()
        self._poll.register(self._control.fileno(), select.POLLIN)
        self._poll.register(self._writer.fileno(), select.POLLIN)
        self._tickets: list[int] = []
        self._final = False
        self._reading_back = False
        self._scrubbed: dict[str, float] = {}  # when, by name
        self._damaged = False
        self._quiet_us = 0
        self._log_bytes = self._words[Word.LOG_BYTES]
        self._not_before_s, self._retry_s = 0.0, RETRY_S
        self._began_s = time.monotonic() - self._age_s()

    def run(self) -> int:
        """Work until told to end. Returns the exit code."""
        while True:
            if self._final:
                return self._write_last()
            if self._tickets or self._due():
                self._write()
            elif (checkpoint := self._to_read_back()) is not None:
                self._read_back(checkpoint)
            else:
                self._listen(TICK_S)

    # What others say.

    def _listen(self, timeout_s: float) -> None:
        """Wait for news, at most so long. Errors: _Ended."""
        ready = {fd for fd, _ in self._poll.poll(math.ceil(timeout_s * 1000))}
        if self._control.fileno() in ready:
            messages, alive = self._control.receive()
            for message in messages:
                self._obey(message)
            if not alive:
                raise _Ended
        if self._writer.fileno() in ready:
            try:
                received = self._writer.recv_into(self._buffer.space())
            except ConnectionError:
                received = 0
            if not received:
                raise _Ended
            self._buffer.added(received)
            for position in range(self._buffer.split()):
                frame = self._buffer.frame(position)
                if frame[4] == Internal.CHECKPOINT_IMAGE:
                    self._lent = CheckpointImage.read(frame)
            self._buffer.consume()

    def _obey(self, message: Message) -> None:
        match message["do"]:
            case "checkpoint":
                self._tickets.append(message["ticket"])
            case "final":
                self._final = True

    def _pause(self, seconds: float) -> None:
        """What a pacer does while it waits. Errors: _Ended."""
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0 and not self._final:
            self._listen(left_s)
            if self._reading_back and self._tickets:
                self._reading_back = False
                self._write()
                self._reading_back = True

    # When.

    def _age_s(self) -> float:
        """How long ago the newest checkpoint was written, as far as that counts."""
        newest = self._store.newest()
        if newest is None:
            return self._settings.checkpoint_interval_s
        try:
            age_s = time.time() - read_manifest(newest.path).time_ns / 1e9
        except (CorruptionError, ConfigurationError):
            return self._settings.checkpoint_interval_s
        return min(max(0.0, age_s), self._settings.checkpoint_interval_s)

    def _covered(self) -> Checkpoint | None:
        """The newest checkpoint, if nothing ran since."""
        newest = self._store.newest()
        if newest is None or newest.sequence != self._words[Word.SEQUENCE]:
            return None
        return newest if read_manifest(newest.path).history == self._history else None

    def _due(self) -> bool:
        now_s = time.monotonic()
        if now_s < self._not_before_s:
            return False
        if self._damaged:
            return True
        grown_bytes = self._words[Word.LOG_BYTES] - self._log_bytes
        late = now_s - self._began_s >= self._settings.checkpoint_interval_s
        much = grown_bytes >= self._settings.checkpoint_after_bytes
        return (late or much) and self._covered() is None

    # Writing.

    def _write(self) -> None:
        """Write a checkpoint, and tell those who asked for one until now."""
        tickets, self._tickets = self._tickets, []
        answer: Message
        try:
            covered = None if self._damaged else self._covered()
            if covered is None:
                saved = self._checkpoint()
                answer = _facts(saved)
            else:
                answer = {"checkpoint": covered.path.name, "sequence": covered.sequence, "pages": 0}
        except (_Failed, OSError, ConfigurationError, CorruptionError) as failure:
            log.error("no checkpoint: %s; trying again in %.0f s", failure, self._retry_s)
            self._not_before_s = time.monotonic() + self._retry_s
            self._retry_s = min(2 * self._retry_s, RETRY_MAX_S)
            answer = {"error": f"no checkpoint: {failure}"}
        else:
            self._retry_s = RETRY_S
        for ticket in tickets:
            self._control.send({"tell": "checkpointed", "ticket": ticket, **answer})

    def _write_last(self) -> int:
        """The last checkpoint, before the server ends; the exit code."""
        try:
            covered = self._covered()
            if covered is not None:
                log.info("nothing to save: %s has it all", covered.path.name)
            else:
                self._checkpoint()
        except (_Failed, OSError, ConfigurationError, CorruptionError) as failure:
            newest = self._store.newest()
            has = f"it has {newest.path.name}" if newest else "nothing is there"
            kept = "lost" if self._settings.durability == "none" else "in the log"
            log.error(
                "the data was not saved to %s: %s; %s, and what came after it is %s",
                self._store.path,
                failure,
                has,
                kept,
            )
            return EXIT_FAILED
        return 0

    def _checkpoint(self) -> Saved:
        """Errors: _Failed, _Ended, OSError, ConfigurationError, CorruptionError."""
        self._began_s = time.monotonic()
        self._log_bytes = self._words[Word.LOG_BYTES]
        self._quiet_us = self._words[Word.SYNC_US]
        slot = self._store.next_slot()
        self._lent = None
        self._tell_writer(CheckpointWanted(slot, self._words[Word.SEQUENCE]).frame())
        while self._lent is None:
            self._listen(TICK_S)
        lent = self._lent
        ok = False
        try:
            saved = self._save(slot, lent)
            ok = True
        finally:
            self._tell_writer(CheckpointDone(slot, lent.epoch, ok).frame())
        self._damaged = False
        return saved

    def _tell_writer(self, frame: bytes) -> None:
        """Errors: _Ended."""
        try:
            self._writer.sendall(frame)
        except ConnectionError:
            raise _Ended from None

    def _save(self, slot: int, lent: CheckpointImage) -> Saved:
        image = self._images[lent.image]

        def still_there() -> None:
            stamp = read_stamp(image)
            if stamp is None or (stamp.state, stamp.epoch) != (State.COMPLETE, lent.epoch):
                raise _Failed(f"image {lent.image} is {stamp} and not of epoch {lent.epoch}")

        still_there()
        sequence = int(image.words[at.SEQUENCE])
        if sequence != lent.sequence:
            raise _Failed(f"the image shows transaction {sequence}, and not {lent.sequence}")
        return self._store.save(
            image,
            self._layout.extents(image.words),
            app=self._app.name,
            schema=self._layout.schema,
            history=lent.history,
            sequence=sequence,
            facts=self._facts,
            slot=slot,
            changed=None if lent.all else np.frombuffer(lent.pages, "<i8").astype(np.int64),
            pacer=Pacer(self._write_bytes_s, self._pause),
            confirm=still_there,
        )

    def _write_bytes_s(self) -> float:
        if self._final:
            return math.inf
        slow = 0 < SLOW_SYNC * self._quiet_us < self._words[Word.SYNC_US]
        return self._settings.checkpoint_bytes_s / (2 if slow else 1)

    # Reading back.

    def _to_read_back(self) -> Checkpoint | None:
        """The newest of those that were not read for long, or never."""
        checkpoints = self._store.checkpoints()
        names = {each.path.name for each in checkpoints}
        self._scrubbed = {name: s for name, s in self._scrubbed.items() if name in names}
        before_s = time.monotonic() - SCRUB_AGAIN_S
        for checkpoint in reversed(checkpoints):
            if self._scrubbed.get(checkpoint.path.name, -math.inf) <= before_s:
                return checkpoint
        return None

    def _read_back(self, checkpoint: Checkpoint) -> None:
        """Compare a checkpoint, as it is on the disk, with its checksums."""
        began_s = time.monotonic()
        pacer = Pacer(self._read_bytes_s, self._pause)
        self._reading_back = True
        try:
            manifest = verify_pages(checkpoint, self._stop_reading, pacer=pacer, cached=False)
        except (_Interrupted, CheckpointReplaced):
            return
        except (CorruptionError, ConfigurationError, OSError) as wrong:
            if checkpoint.path.exists():
                self._store.set_aside(checkpoint, str(wrong))
                self._damaged = True
            return
        finally:
            self._reading_back = False
        self._scrubbed[checkpoint.path.name] = time.monotonic()
        log.info(
            "read back %s: %d pages are right, in %.1f s",
            checkpoint.path.name,
            manifest.page_count,
            time.monotonic() - began_s,
        )
        self._let_log_go()

    def _let_log_go(self) -> None:
        """Files of the log go that the newest two checkpoints cover, if both were found whole.

        What another history's checkpoints cover may be needed to come back to that one.
        """
        newest = self._store.checkpoints()[-2:]
        whole = [each for each in newest if each.path.name in self._scrubbed]
        if len(whole) < 2:
            return
        settings = self._settings
        try:
            if any(read_manifest(each.path).history != self._history for each in whole):
                return
            removed = remove_covered(
                self._store.path,
                whole[0].sequence,
                archive=settings.archive,
                archive_command=settings.archive_command,
            )
        except (OSError, CorruptionError, ConfigurationError) as error:
            log.warning("files of the log stay that are not needed any more: %s", error)
            return
        if removed.names:
            told = "the log until transaction %d is not needed any more: removed %s"
            log.info(told, whole[0].sequence, ", ".join(removed.names))

    def _stop_reading(self, _: int) -> None:
        if self._final:
            raise _Interrupted

    def _read_bytes_s(self) -> float:
        """Faster while a checkpoint is due, which waits for the one before to be read."""
        settings = self._settings
        return max(settings.scrub_bytes_s, settings.checkpoint_bytes_s if self._due() else 0)


class _Interrupted(Exception):
    """There is something more urgent than to read on."""


def _facts(saved: Saved) -> Message:
    return {
        "checkpoint": saved.checkpoint.path.name,
        "sequence": saved.checkpoint.sequence,
        "pages": saved.pages,
        "of_pages": saved.page_count,
        "bytes": saved.pages * PAGE_BYTES,
        "seconds": round(saved.seconds, 3),
    }
