"""A reader process: runs queries on the images, which it maps read-only, one after another.

It takes a RUN (which image, at which epoch) and the queries that follow it, and answers each as
soon as it is done. It usually runs at lower priority than gateway and writer, and is the first to
go when memory is short. It ends when the gateway or the supervisor does, and by itself whenever its
view of an image can't be trusted any more: the gateway then gives the query to another reader.
"""

from __future__ import annotations

import logging
import select
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from diptych.app import App
from diptych.config import Settings
from diptych.engine.exports import Exports
from diptych.engine.lane import compiled_for
from diptych.engine.queries import ImageChanged, Queries, ViewKept
from diptych.serving import channel
from diptych.serving.answering import Bundles
from diptych.serving.bundles import MARK_BITS
from diptych.serving.channel import Internal, Run
from diptych.serving.control import Control
from diptych.serving.frames import FrameBuffer, Words
from diptych.serving.images import Images
from diptych.serving.spawn import EXIT_FAILED, EXIT_PARENT_GONE
from diptych.store.lane import Compiled
from diptych_client.protocol import HEADER, HEADER_BYTES

log = logging.getLogger("diptych.serving")

READ_BYTES = 64 << 10
OOM_SCORE_ADJUSTMENT = "500"


@dataclass(frozen=True)
class ReaderPlan:
    """What the supervisor gives a new reader."""

    app: App
    settings: Settings
    control: Control
    gateway: socket.socket
    images: Images
    exports: Path
    progress: Words
    """Where to write what runs: an array of one."""


def main(plan: ReaderPlan) -> int:
    """The reader's process: returns its exit code."""
    _go_first()
    limits = plan.settings.limits
    exports = Exports(plan.exports, limits.export_bytes, limits.export_idle_s)
    queries = Queries(plan.app, plan.images.open(), plan.settings.capacities, exports)
    reader = Reader(plan, queries, compiled_for(plan.app))
    plan.control.send({"tell": "ready"})
    try:
        return reader.run()
    except (ConnectionResetError, BrokenPipeError):
        return 0  # the gateway is gone, and with it everybody who would be answered


class Reader:
    """The loop: wait, read, run, answer."""

    def __init__(self, plan: ReaderPlan, queries: Queries, compiled: Compiled | None) -> None:
        self._queries = queries
        self._progress = plan.progress
        self._bundles: Bundles | None = None
        if compiled is not None:
            send = plan.gateway.sendall
            self._bundles = Bundles(compiled, queries, plan.progress, send)
        self._control = plan.control
        self._gateway = plan.gateway
        self._gateway.setblocking(True)
        self._buffer = FrameBuffer(READ_BYTES, 1 << 31)
        self._run: Run | None = None

    def run(self) -> int:
        """Work until the gateway or the supervisor is gone. Returns the exit code."""
        poll = select.poll()
        poll.register(self._control.fileno(), select.POLLIN)
        poll.register(self._gateway.fileno(), select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if self._control.fileno() in ready:
                messages, alive = self._control.receive()
                if not alive:
                    return EXIT_PARENT_GONE
                if any(message["do"] == "stop" for message in messages):
                    return 0
            if self._gateway.fileno() in ready:
                received = self._gateway.recv_into(self._buffer.space())
                if not received:
                    return 0
                self._buffer.added(received)
                if not self._work():
                    return EXIT_FAILED

    def _work(self) -> bool:
        """Take what has come; False when this process must not go on."""
        count = self._buffer.split()
        position = 0
        while position < count:
            frame = self._buffer.frame(position)
            if frame[4] == Internal.RUN:
                self._run = Run.read(frame)
                position += 1
            elif frame[4] == Internal.BUNDLE:
                position = self._answer_bundles(position, count)
                if position < 0:
                    return False
            elif self._query(frame):
                position += 1
            else:
                return False
        self._buffer.consume()
        return True

    def _answer_bundles(self, first: int, count: int) -> int:
        """Answer the bundles that frame `first` begins with; the frame behind them, or -1."""
        assert self._run is not None
        assert self._bundles is not None
        try:
            return self._bundles.answer(self._run, self._buffer, first, count)
        except ImageChanged as error:
            log.critical("answers were thrown away: %s", error)
        except ViewKept as error:
            log.error("%s; this reader ends", error)
        return -1

    def _query(self, frame: memoryview) -> bool:
        run = self._run
        assert run is not None
        _, _, _, number, token, _, _ = HEADER.unpack_from(frame)
        self._progress[0] = token << MARK_BITS
        began_ns = time.monotonic_ns()
        kept = False
        try:
            reply = self._queries.run(
                run.image,
                run.epoch,
                run.sequence,
                run.time_ns,
                number,
                token,
                frame[HEADER_BYTES:],
            )
        except ImageChanged as error:
            log.critical("a query's answer was thrown away: %s", error)
            return False
        except ViewKept as error:
            log.error("operation %d: %s; this reader ends", number, error)
            reply, kept = error.reply, True
        run_us = (time.monotonic_ns() - began_ns) // 1000
        self._gateway.sendall(channel.with_run_time(reply, run_us, last=kept))
        return not kept


def _go_first() -> None:
    """Be killed before gateway and writer when memory is short."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write(OOM_SCORE_ADJUSTMENT)
    except OSError as error:
        log.info("oom_score_adj can't be set here: %s", error.strerror)
