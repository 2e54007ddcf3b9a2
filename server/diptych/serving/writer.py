"""The writer process: runs every transaction, one after another, and syncs between batches.

A plain loop over epoll: read from the gateway, split, run what came in pieces of about a
millisecond, send the replies, give the syncer its turn. Nothing here ever waits for a gateway:
replies that it does not take are kept up to a bound, reading from it stops meanwhile, and a gateway
that takes nothing for too long is given up (the supervisor replaces it). Nor does it wait for the
checkpointer, to which it lends an image. Ends by the supervisor's word, or with it.
"""

from __future__ import annotations

import logging
import os
import select
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from diptych.app import App
from diptych.config import Settings
from diptych.control_page import Word
from diptych.durable import DiskFull, LogBroken
from diptych.durable.patience import Patience
from diptych.engine.sync import Pinned, Published
from diptych.errors import ConfigurationError, CorruptionError, OutOfMemory
from diptych.memory import NONE, MemoryFailure
from diptych.serving import channel, control, frames
from diptych.serving.channel import Hold, Image, Internal
from diptych.serving.checkpoint_peer import CheckpointPeer
from diptych.serving.control import Control, Message
from diptych.serving.peers import STUCK_NS, GatewayPeer
from diptych.serving.spawn import (
    EXIT_LOG_FAILED,
    EXIT_NEVER_RESTART,
    EXIT_PARENT_GONE,
    EXIT_USAGE,
)
from diptych.serving.takeover import Memory, Request, Taken, take_memory
from diptych.store import calls
from diptych.store.fill import request_figures, table_figures
from diptych_client.errors import DiptychError, Unavailable, payload_of
from diptych_client.protocol import HEADER, Kind, encode_frame

log = logging.getLogger("diptych.serving")

PIECE_NS = 1_000_000
"""After so long the replies leave, and the syncer gets its turn."""
BATCH_NS = 4_000_000
"""What the transactions of one record should take together."""
BATCH_MIN, BATCH_MAX = 64, 4096
"""Transactions of a record, whatever they take."""
SYNCS_TOLD = 64
"""After so many syncs of the log it is noted anew how long they take."""
IDLE_NS = 20_000_000
"""After so long without work the log is told, so that its end says that it is whole."""
PAGE_BYTES = 4096


@dataclass(frozen=True)
class WriterPlan:
    """What the supervisor gives a new writer."""

    app: App
    settings: Settings
    control: Control
    memory: Memory
    request: Request


def main(plan: WriterPlan) -> int:
    """The writer's process: returns its exit code."""
    try:
        taken = take_memory(plan.app, plan.settings, plan.memory, plan.request)
        # From here on, not before: what was done by a replayed transaction stays done.
        taken.engine.db.space.share_control(plan.request.control_fd)
    except ConfigurationError as error:
        log.error("%s", error)
        return EXIT_USAGE
    except (LogBroken, DiskFull) as error:
        log.critical("the writer can't start: %s", error)
        return EXIT_NEVER_RESTART
    except (CorruptionError, OutOfMemory, MemoryFailure, OSError) as error:
        log.error("the writer can't start: %s", error)
        return EXIT_NEVER_RESTART
    except Exception:
        log.exception("the application's setup, or its migration, failed")
        return EXIT_NEVER_RESTART
    return Writer(plan, taken).run()


class Writer:
    """The loop. Its parts: `engine` runs transactions, `syncer` publishes images."""

    def __init__(self, plan: WriterPlan, taken: Taken) -> None:
        self.engine, self.syncer = taken.engine, taken.syncer
        self._ahead = taken.ahead
        self._tracker, self._recovered = taken.tracker, taken.recovered
        self._directory = taken.directory
        self._log = taken.log
        self._control_words = taken.engine.control
        self._outcome = taken.outcome
        self._patience = Patience()
        self._syncs = 0
        self._transaction_ns = 20_000.0  # what one takes, on the average; a guess at first
        self._control = plan.control
        self._epoll = select.epoll()
        self._ready: dict[int, Callable[[int], None]] = {}
        self._gateways: list[GatewayPeer] = []
        self._checkpoints: CheckpointPeer | None = None
        self._ending = False
        self._code = 0
        self._told_ready = self._saved = False
        self._busy_ns = 0
        self._began_ns = time.monotonic_ns()
        self._watch(self._control.fileno(), self._on_control)
        # Nothing to be read there by us: that it is readable is why `step` is called.
        self._watch(self.syncer.wakeup_fd, lambda _: None)
        if self._log.wakeup_fd >= 0:
            self._watch(self._log.wakeup_fd, self._on_log)

    def run(self) -> int:
        """Work until told to end. Returns the exit code."""
        if self.syncer.published is not None:
            self._tell_ready()
        try:
            while not self._ending:
                self._turn()
            if self._code == 0:
                self._end_log()
        except LogBroken as broken:
            log.critical(
                "the log can't be written, no transaction is taken any more: %s; what was not "
                "answered may be on the disk or not",
                broken,
            )
            return EXIT_LOG_FAILED
        if self._saved and self._directory is not None:
            self._directory.end_in_order()
        return self._code

    def _turn(self) -> None:
        ready = self._epoll.poll(self._timeout_s())
        for fd, events in ready:
            if fd in self._ready:
                self._ready[fd](events)
        if not ready and self._log.durable == self._log.written:
            self._log.idle()
        self._sync()
        self._look_after_gateways()

    def _watch(self, fd: int, on_ready: Callable[[int], None]) -> None:
        self._ready[fd] = on_ready
        self._epoll.register(fd, select.EPOLLIN)

    def _timeout_s(self) -> float:
        """How long to wait for news. Rounded up to milliseconds by epoll."""
        wait_ns = self.syncer.wait_ns(self.engine.sequence)
        if any(gateway.unsent for gateway in self._gateways):
            wait_ns = STUCK_NS if wait_ns is None else min(wait_ns, STUCK_NS)
        if self._log.needs_idle:
            wait_ns = IDLE_NS if wait_ns is None else min(wait_ns, IDLE_NS)
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
                gateway = GatewayPeer(control.adopt(message["descriptor"]), message["holder"])
                self._gateways.append(gateway)
                self._watch(gateway.socket.fileno(), lambda e: self._on_gateway(gateway, e))
            case "checkpointer":
                self._adopt_checkpointer(message)
            case "left":
                if self._checkpoints and self._checkpoints.holder == message["holder"]:
                    if self._checkpoints.is_open:  # else its descriptor may be another's by now
                        self._ready.pop(self._checkpoints.fd, None)
                    self._checkpoints.left()
                    self._checkpoints = None
                self.syncer.left(message["holder"])
                # What it said last may still be unread: it must not come back by that.
                for gone in [g for g in self._gateways if g.holder == message["holder"]]:
                    self._drop(gone)
            case "stop":
                # All of it is in the log, or in the last checkpoint.
                self._saved = self._log.wakeup_fd >= 0 or message["saved"]
                self._end(0)

    def _adopt_checkpointer(self, message: Message) -> None:
        sock = control.adopt(message["descriptor"])
        peer = CheckpointPeer(sock, message["holder"], self.syncer, self._epoll)

        def on_ready(events: int) -> None:
            if not peer.on_ready(events):
                del self._ready[peer.fd]

        self._checkpoints, self._ready[peer.fd] = peer, on_ready

    def _end(self, code: int) -> None:
        self._ending, self._code = True, code

    def _tell_ready(self) -> None:
        self._told_ready = True
        self._control_words[Word.SEQUENCE] = self.engine.sequence
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

    def _on_gateway(self, gateway: GatewayPeer, events: int) -> None:
        takes = events & select.EPOLLOUT and gateway.unsent
        if takes and not gateway.send_rest(time.monotonic_ns()):
            self._drop(gateway)
            return
        if gateway.next < gateway.count:
            self._work(gateway)
        elif events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
            self._read(gateway)

    def _read(self, gateway: GatewayPeer) -> None:
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

    def _work(self, gateway: GatewayPeer) -> None:
        """Run what a gateway sent, in its order, for as long as it takes its replies."""
        buffer = gateway.buffer
        began_ns = time.monotonic_ns()
        while gateway.next < gateway.count:
            if gateway.full:
                break
            first = gateway.next
            run = frames.transactions_from(buffer.array, buffer.starts, first, gateway.count)
            if run:
                fitting = round(BATCH_NS / self._transaction_ns)
                run = min(run, max(BATCH_MIN, min(fitting, BATCH_MAX)))
                self._transact(gateway, first, first + run)
                gateway.next += run
            else:
                self._listen(gateway, buffer.frame(first))
                gateway.next += 1
        if gateway.next == gateway.count:
            buffer.consume()
            gateway.next = gateway.count = 0
        self._busy_ns += time.monotonic_ns() - began_ns

    def _transact(self, gateway: GatewayPeer, first: int, stop: int) -> None:
        """Log these transactions, run them, and answer those whose record is safe."""
        buffer, engine, command_log = gateway.buffer, self.engine, self._log
        count, time_ns = stop - first, time.time_ns()
        data = buffer.view[buffer.starts[first] : buffer.starts[stop]]
        try:
            ticket = command_log.append_batch(
                data, engine.sequence + 1, count, time_ns, self._outcome
            )
        except DiskFull as full:
            self._refuse(gateway, first, stop, full)
            return
        command_log.start_sync()
        self._wait_for_sync(count)
        engine.begin(time_ns)
        began_ns = time.monotonic_ns()
        while first < stop:
            deadline_ns = time.monotonic_ns() + PIECE_NS
            first += engine.run(buffer.array, buffer.starts, first, stop, deadline_ns)
            if engine.aborts:
                ticket = self._log_aborts()
            gateway.hold(ticket, engine.replies)
            engine.replies.clear()
            if command_log.durable < command_log.written:
                self._look_at_log()  # a sync may end long before these transactions do
            self._release(gateway)
            self._sync()
            self._ahead.step()
        self._note_log()
        self._outcome = engine.outcome
        took_ns = (time.monotonic_ns() - began_ns) / count
        self._transaction_ns += 0.1 * (took_ns - self._transaction_ns)

    def _wait_for_sync(self, count: int) -> None:
        """Let the log's sync end first where that is quicker; else it goes on while these run."""
        limit_ns = self._patience.limit_ns(count)
        if limit_ns and self._log.durable < self._log.written:
            began_ns, before = time.monotonic_ns(), self._log.durable
            self._log.wait_briefly(limit_ns / 1e9)
            self._patience.waited(time.monotonic_ns() - began_ns)
            self._count_sync(before)

    def _log_aborts(self) -> int:
        """Note what a replay could not find out again: the ticket that answers wait for."""
        aborts = self.engine.take_aborts()
        try:
            ticket = self._log.append_aborts(aborts)
        except DiskFull as full:
            # They ran, so there is no way back.
            raise LogBroken(str(full)) from None
        self._log.start_sync()
        return ticket

    def _refuse(self, gateway: GatewayPeer, first: int, stop: int, full: DiskFull) -> None:
        """Answer transactions that could not be logged: nothing of them happened, but for those
        that came before already. The gateway sends again what the last writer had.
        """
        buffer = gateway.buffer
        no_room = Unavailable(f"the server's log has no room on its disk: {full}")
        hashes = np.zeros(stop - first, np.int64)
        calls.hash_frames(buffer.array, buffer.starts, first, stop - first, hashes)
        replies = bytearray()
        for position, check in zip(range(first, stop), hashes.tolist(), strict=True):
            frame = buffer.frame(position)
            _, _, _, operation, request, _, context = HEADER.unpack_from(frame)
            error: DiptychError = no_room
            try:
                found = self.engine.requests.answered(frame, check)
            except DiptychError as known:
                found, error = None, known
            if found is None:
                replies += channel.error_frame(
                    payload_of(error), operation=operation, request=request, context=context
                )
            else:
                replies += encode_frame(
                    Kind(found.kind),
                    found.payload,
                    operation=found.operation,
                    request=request,
                    sequence=found.sequence,
                    context=context,
                )
        gateway.hold(self._log.written, replies)
        self._release(gateway)

    def _release(self, gateway: GatewayPeer) -> None:
        """Send the replies that are safe to be sent."""
        replies = gateway.release(self._log.durable)
        if replies:
            self._send(gateway, replies)

    def _on_log(self, events: int) -> None:
        """A sync of the log has ended."""
        self._look_at_log()
        for gateway in self._gateways:
            if gateway.next < gateway.count and not gateway.full:
                # It was full of replies that were held, and no event of its own may come.
                self._work(gateway)

    def _look_at_log(self) -> None:
        """Find out whether a sync has ended, and send what waited for it."""
        before = self._log.durable
        self._log.on_wakeup()
        for gateway in self._gateways:
            self._release(gateway)
        self._count_sync(before)

    def _count_sync(self, before: int) -> None:
        """Tell now and then how long syncs take; `before` was durable before this one ended."""
        if self._log.durable != before:
            self._syncs += 1
            if self._syncs % SYNCS_TOLD == 0:
                self._control_words[Word.SYNC_US] = self._log.sync_us(99)

    def _note_log(self) -> None:
        self._control_words[Word.LOG_BYTES] = self._log.bytes_written
        self._control_words[Word.DURABLE] = self._log.durable_sequence

    def _end_log(self) -> None:
        """Every answer that is held leaves before the end."""
        self._log.wait(self._log.written)
        for gateway in self._gateways:
            self._release(gateway)
        self._log.idle()
        self._log.close()

    def _listen(self, gateway: GatewayPeer, frame: memoryview) -> None:
        """One frame of a gateway's own."""
        kind = frame[4]
        if kind == Internal.WANTED:
            self.syncer.wanted(HEADER.unpack_from(frame)[5])
        elif kind == Internal.RELEASED:
            self.syncer.released(gateway.holder, *Hold.read(frame))
        elif kind == Internal.HOLDS:
            published = self.syncer.joined(gateway.holder, channel.read_holds(frame))
            gateway.joined = True
            if published is not None:
                self._meet(gateway)
                self._send(gateway, _image(published).frame())
        elif kind == Internal.STATS:
            self._send(gateway, channel.figures(self._figures()))

    def _meet(self, gateway: GatewayPeer) -> None:
        """Say where this writer stands, and so ask for what is to be run.

        Not before there is an image: those who wait for it come first.
        """
        gateway.met = True
        self._send(gateway, channel.Writer(self.engine.sequence, self.engine.history).frame())

    def _send(self, gateway: GatewayPeer, data: bytes | bytearray) -> None:
        if not gateway.given_up and not gateway.send(data, time.monotonic_ns()):
            # Its end of the stream will be read, too, and end it there.
            gateway.given_up = True
            gateway.unsent.clear()

    def _drop(self, gateway: GatewayPeer) -> None:
        """Its socket has ended. What it held stays held until the supervisor has reaped it."""
        if gateway in self._gateways:
            self._gateways.remove(gateway)
            self._epoll.unregister(gateway.socket)
            del self._ready[gateway.socket.fileno()]
            gateway.socket.close()

    def _look_after_gateways(self) -> None:
        for gateway in list(self._gateways):
            if not gateway.unsent and not gateway.full and gateway.interest == select.EPOLLIN:
                continue
            if not gateway.given_up and gateway.stuck(time.monotonic_ns()):
                log.error("the gateway does not read: %d bytes wait", len(gateway.unsent))
                self._give_up(gateway.holder)
                self._drop(gateway)
                continue
            full = gateway.full or gateway.next < gateway.count
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
        engine, command_log = self.engine, self._log
        for event in self.syncer.step(
            engine.sequence, engine.history, command_log.written, command_log.durable
        ):
            if isinstance(event, Published):
                engine.fill.look_at_times(event.time_ns)
                self._tell_image(_image(event).frame())
                if not self._told_ready:
                    self._tell_ready()
            else:
                self._pinned(event)
        if self._checkpoints is not None:
            self._checkpoints.look()

    def _pinned(self, event: Pinned) -> None:
        if event.image == NONE:
            log.error("gateways %s never said what they hold", event.holders)
            for holder in event.holders:
                self._give_up(int(holder))
            return
        log.warning("image %d of epoch %d is held for too long", event.image, event.epoch)
        self._tell_gateways(Hold(event.image, event.epoch).frame(Internal.PINNED))

    def _tell_image(self, frame: bytes) -> None:
        for gateway in self._gateways:
            if gateway.joined:
                if not gateway.met:
                    self._meet(gateway)
                self._send(gateway, frame)

    def _tell_gateways(self, frame: bytes) -> None:
        for gateway in self._gateways:
            if gateway.met:
                self._send(gateway, frame)

    def _figures(self) -> dict[str, Any]:
        engine = self.engine
        lived_ns = time.monotonic_ns() - self._began_ns
        return {
            "pid": os.getpid(),
            "sequence": engine.sequence,
            "history": engine.history,
            "transactions": engine.committed,
            "compiled": engine.compiled,
            "rejected": engine.rejected,
            "errors": engine.failed,
            "busy_share": round(self._busy_ns / max(1, lived_ns), 4),
            "data_bytes": self._data_bytes(),
            "recovered": self._recovered,
            "tables": table_figures(engine.region.words, engine.layout),
            "requests": request_figures(engine.region.words),
            "sync": self.syncer.statistics(),
            "log": self._log.figures(),
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
