"""The writer process: runs every transaction, one after another, and syncs between batches.

A plain loop over epoll: read from the gateway, split, run what came in pieces of about a
millisecond, send the replies, give the syncer its turn. Nothing here ever waits for a gateway:
replies that it does not take are kept up to a bound, reading from it stops meanwhile, and a gateway
that takes nothing for too long is given up (the supervisor replaces it). Ends by the supervisor's
word, or with it. With a data directory it saves the data before it ends by that word.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from diptych.app import App
from diptych.config import Settings
from diptych.durable import DataDirectory
from diptych.engine.opening import save
from diptych.engine.sync import Pinned, Published
from diptych.errors import ConfigurationError, CorruptionError, OutOfMemory
from diptych.memory import NONE, MemoryFailure
from diptych.serving import channel, control, frames
from diptych.serving.channel import Hold, Image, Internal
from diptych.serving.control import Control, Message
from diptych.serving.frames import FrameBuffer
from diptych.serving.spawn import (
    EXIT_FAILED,
    EXIT_NEVER_RESTART,
    EXIT_PARENT_GONE,
    EXIT_USAGE,
)
from diptych.serving.takeover import Memory, Taken, take_memory
from diptych.store.fill import table_figures
from diptych_client.protocol import HEADER

log = logging.getLogger("diptych.serving")

READ_BYTES = 1 << 20
BATCH_NS = 1_000_000
"""After so long a batch is cut: its replies leave, and the syncer gets its turn."""
UNSENT_SOFT_BYTES = 4 << 20
"""From here on nothing more is read from a gateway, until it has taken its replies."""
UNSENT_HARD_BYTES = 64 << 20
STUCK_NS = 5_000_000_000
"""A gateway that takes nothing for so long is given up."""
PAGE_BYTES = 4096


@dataclass(frozen=True)
class WriterPlan:
    """What the supervisor gives a new writer. `holders`: gateways that were there before it.

    `control_page_fd`: a page that outlives writers, see `diptych.control_page`.
    """

    app: App
    settings: Settings
    control: Control
    memory: Memory
    holders: tuple[int, ...]
    control_page_fd: int


def main(plan: WriterPlan) -> int:
    """The writer's process: returns its exit code."""
    try:
        taken = take_memory(plan.app, plan.settings, plan.memory, plan.holders)
        # From here on, not before: what was done by a replayed transaction stays done.
        taken.engine.db.space.share_control(plan.control_page_fd)
    except ConfigurationError as error:
        log.error("%s", error)
        return EXIT_USAGE
    except (CorruptionError, OutOfMemory, MemoryFailure, OSError) as error:
        log.error("the writer can't start: %s", error)
        return EXIT_NEVER_RESTART
    except Exception:
        log.exception("the application's setup, or its migration, failed")
        return EXIT_NEVER_RESTART
    return Writer(plan, taken).run()


class _Gateway:
    """The writer's end of its socket to one gateway. `holder` names it towards the syncer."""

    def __init__(self, sock: socket.socket, holder: int) -> None:
        self.socket = sock
        self.holder = holder
        self.buffer = FrameBuffer(READ_BYTES, 1 << 31)
        self.unsent = bytearray()
        self.progress_ns = 0
        self.interest = select.EPOLLIN
        self.next = self.count = 0  # frames in the buffer: the next to be run, and all
        self.joined = False
        self.given_up = False

    def send(self, data: bytes | bytearray, now_ns: int) -> bool:
        """Send, or keep for later. False when the gateway is gone."""
        if self.unsent:
            self.unsent += data
            return True
        self.progress_ns = now_ns
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return False
        if sent < len(data):
            self.unsent += memoryview(data)[sent:]
        return True

    def send_rest(self, now_ns: int) -> bool:
        try:
            sent = self.socket.send(self.unsent)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.progress_ns = now_ns
        del self.unsent[:sent]
        return True

    def stuck(self, now_ns: int) -> bool:
        if not self.unsent:
            return False
        waited_ns = now_ns - self.progress_ns
        return len(self.unsent) > UNSENT_HARD_BYTES or waited_ns > STUCK_NS


class Writer:
    """The loop. Its parts: `engine` runs transactions, `syncer` publishes images."""

    def __init__(self, plan: WriterPlan, taken: Taken) -> None:
        self.engine, self.syncer = taken.engine, taken.syncer
        self._tracker, self._recovered = taken.tracker, taken.recovered
        self._app, self._directory = plan.app, taken.directory
        self._control = plan.control
        self._epoll = select.epoll()
        self._ready: dict[int, Callable[[int], None]] = {}
        self._gateways: list[_Gateway] = []
        self._ending = False
        self._code = 0
        self._told_ready = False
        self._busy_ns = 0
        self._began_ns = time.monotonic_ns()
        self._watch(self._control.fileno(), self._on_control)
        # Nothing to be read there by us: that it is readable is why `step` is called.
        self._watch(self.syncer.wakeup_fd, lambda _: None)

    def run(self) -> int:
        """Work until told to end. Returns the exit code."""
        while not self._ending:
            for fd, events in self._epoll.poll(self._timeout_s()):
                if fd in self._ready:
                    self._ready[fd](events)
            self._sync()
            self._look_after_gateways()
        if self._code == 0 and self._directory is not None:
            self._code = self._save(self._directory)
        return self._code

    def _save(self, directory: DataDirectory) -> int:
        """Write what there is to the data directory; the exit code."""
        engine = self.engine
        newest = None
        try:
            newest = directory.newest()
            if newest is not None and newest.sequence == engine.sequence:
                # A directory's checkpoints are of one line: the same number is the same data.
                log.info("nothing to save: %s has it all", newest.path.name)
                return 0
            save(self._app.name, directory, engine.region, engine.layout)
        except (OSError, MemoryError) as error:
            has = f"it has {newest.path.name}" if newest else "nothing is there"
            log.error(
                "the data was not saved to %s: %s; %s, and what came after it is lost",
                directory.path,
                error,
                has,
            )
            return EXIT_FAILED
        return 0

    def _watch(self, fd: int, on_ready: Callable[[int], None]) -> None:
        self._ready[fd] = on_ready
        self._epoll.register(fd, select.EPOLLIN)

    def _timeout_s(self) -> float:
        """How long to wait for news. Rounded up to milliseconds by epoll."""
        wait_ns = self.syncer.wait_ns(self.engine.sequence)
        if any(gateway.unsent for gateway in self._gateways):
            wait_ns = STUCK_NS if wait_ns is None else min(wait_ns, STUCK_NS)
        return -1 if wait_ns is None else wait_ns / 1e9

    # The supervisor.

    def _on_control(self, events: int) -> None:
        messages, alive = self._control.receive()
        for message in messages:
            self._obey(message)
        if not alive:
            self._end(EXIT_PARENT_GONE)

    def _obey(self, message: Message) -> None:
        match message["do"]:
            case "gateway":
                gateway = _Gateway(control.adopt(message["descriptor"]), message["holder"])
                self._gateways.append(gateway)
                self._watch(gateway.socket.fileno(), lambda e: self._on_gateway(gateway, e))
            case "left":
                self.syncer.left(message["holder"])
                # What it said last may still be unread: it must not come back by that.
                for gone in [g for g in self._gateways if g.holder == message["holder"]]:
                    self._drop(gone)
            case "stop":
                self._end(0)

    def _end(self, code: int) -> None:
        self._ending, self._code = True, code

    def _tell_ready(self) -> None:
        self._told_ready = True
        self._control.send(
            {
                "tell": "ready",
                "sequence": self.engine.sequence,
                "history": self.engine.history,
                "tracker": self._tracker,
                "recovered": self._recovered,
                "data_bytes": self._data_bytes(),
            }
        )

    def _data_bytes(self) -> int:
        return sum(e.page_count for e in self.engine.extents()) * PAGE_BYTES

    # Gateways.

    def _on_gateway(self, gateway: _Gateway, events: int) -> None:
        takes = events & select.EPOLLOUT and gateway.unsent
        if takes and not gateway.send_rest(time.monotonic_ns()):
            self._drop(gateway)
            return
        if gateway.next < gateway.count:
            self._work(gateway)
        elif events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
            self._read(gateway)

    def _read(self, gateway: _Gateway) -> None:
        try:
            received = gateway.socket.recv_into(gateway.buffer.space())
        except BlockingIOError:
            return
        except OSError:
            received = 0
        if not received:
            self._drop(gateway)
            return
        gateway.buffer.added(received)
        gateway.count = gateway.buffer.split()
        self._work(gateway)

    def _work(self, gateway: _Gateway) -> None:
        """Run what a gateway sent, in its order, for as long as it takes its replies."""
        buffer = gateway.buffer
        began_ns = time.monotonic_ns()
        while gateway.next < gateway.count:
            if len(gateway.unsent) > UNSENT_SOFT_BYTES:
                break
            first = gateway.next
            run = frames.transactions_from(buffer.array, buffer.starts, first, gateway.count)
            if run:
                gateway.next += self._transact(gateway, first, first + run)
            else:
                self._listen(gateway, buffer.frame(first))
                gateway.next += 1
        if gateway.next == gateway.count:
            buffer.consume()
            gateway.next = gateway.count = 0
        self._busy_ns += time.monotonic_ns() - began_ns

    def _transact(self, gateway: _Gateway, first: int, stop: int) -> int:
        """Run transactions for about a batch's time; returns how many."""
        buffer, engine = gateway.buffer, self.engine
        deadline_ns = time.monotonic_ns() + BATCH_NS
        ran = engine.run(buffer.array, buffer.starts, first, stop, deadline_ns)
        self._send(gateway, engine.replies)
        engine.replies.clear()
        self._sync()
        return ran

    def _listen(self, gateway: _Gateway, frame: memoryview) -> None:
        """One frame of a gateway's own."""
        kind = frame[4]
        if kind == Internal.WANTED:
            self.syncer.wanted(HEADER.unpack_from(frame)[5])
        elif kind == Internal.RELEASED:
            self.syncer.released(gateway.holder, *Hold.read(frame))
        elif kind == Internal.HOLDS:
            self._send(gateway, channel.Writer(self.engine.sequence, self.engine.history).frame())
            published = self.syncer.joined(gateway.holder, channel.read_holds(frame))
            gateway.joined = True
            if published is not None:
                self._send(gateway, _image(published).frame())
        elif kind == Internal.STATS:
            self._send(gateway, channel.figures(self._figures()))

    def _send(self, gateway: _Gateway, data: bytes | bytearray) -> None:
        if not gateway.given_up and not gateway.send(data, time.monotonic_ns()):
            # Its end of the stream will be read, too, and end it there.
            gateway.given_up = True
            gateway.unsent.clear()

    def _drop(self, gateway: _Gateway) -> None:
        """Its socket has ended. What it held stays held until the supervisor has reaped it."""
        if gateway in self._gateways:
            self._gateways.remove(gateway)
            self._epoll.unregister(gateway.socket)
            del self._ready[gateway.socket.fileno()]
            gateway.socket.close()

    def _look_after_gateways(self) -> None:
        for gateway in list(self._gateways):
            if not gateway.unsent and gateway.interest == select.EPOLLIN:
                continue
            if not gateway.given_up and gateway.stuck(time.monotonic_ns()):
                log.error("the gateway does not read: %d bytes wait", len(gateway.unsent))
                self._give_up(gateway.holder)
                self._drop(gateway)
                continue
            full = len(gateway.unsent) > UNSENT_SOFT_BYTES or gateway.next < gateway.count
            interest = 0 if full else select.EPOLLIN
            if gateway.unsent:
                interest |= select.EPOLLOUT
            if interest != gateway.interest:
                gateway.interest = interest
                self._epoll.modify(gateway.socket, interest)

    def _give_up(self, holder: int) -> None:
        self._control.send({"ask": "replace_gateway", "holder": holder})

    # Images.

    def _sync(self) -> None:
        """The syncer's turn: never longer than a pause."""
        for event in self.syncer.step(self.engine.sequence, self.engine.history):
            if isinstance(event, Published):
                self.engine.fill.look_at_times(event.time_ns)
                self._tell_gateways(_image(event).frame())
                if not self._told_ready:
                    self._tell_ready()
            else:
                self._pinned(event)

    def _pinned(self, event: Pinned) -> None:
        if event.image == NONE:
            log.error("gateways %s never said what they hold", event.holders)
            for holder in event.holders:
                self._give_up(int(holder))
            return
        log.warning("image %d of epoch %d is held for too long", event.image, event.epoch)
        self._tell_gateways(Hold(event.image, event.epoch).frame(Internal.PINNED))

    def _tell_gateways(self, frame: bytes) -> None:
        for gateway in self._gateways:
            if gateway.joined:
                self._send(gateway, frame)

    def _figures(self) -> dict[str, Any]:
        engine = self.engine
        lived_ns = time.monotonic_ns() - self._began_ns
        return {
            "pid": os.getpid(),
            "sequence": engine.sequence,
            "history": engine.history,
            "transactions": engine.committed,
            "rejected": engine.rejected,
            "errors": engine.failed,
            "busy_share": round(self._busy_ns / max(1, lived_ns), 4),
            "data_bytes": self._data_bytes(),
            "recovered": self._recovered,
            "tables": table_figures(engine.region.words, engine.layout),
            "sync": self.syncer.statistics(),
        }


def _image(published: Published) -> Image:
    return Image(
        published.image,
        published.epoch,
        published.sequence,
        published.time_ns,
        published.history,
        published.pages,
    )
