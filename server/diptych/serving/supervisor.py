"""The supervisor: starts the server's processes, replaces those that die, ends them in order.

A plain process with one thread, which has imported the application and compiled the kernels: it
forks the others, so a replacement is ready in milliseconds. It keeps the memory and the listening
sockets, maps neither region nor image, and runs no event loop but its own selector.

What it must get right is order. A gateway's readers are killed and reaped before the writer is told
that this holder left. A writer is reaped before the next one starts. At the end the gateway goes
first, then readers, then the writer. When the supervisor itself is killed, the kernel kills the
rest.

With a data directory the writer saves the data before it ends, which takes what it takes: nobody
kills it meanwhile, but for a second signal. A writer that is killed then, or was dead already, is
replaced by one that goes on from the newest image and saves that.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diptych
from diptych.app import App
from diptych.config import Settings
from diptych.control_page import ControlPage, Word
from diptych.engine.attempts import Attempts, Ending, Verdict
from diptych.engine.facts import facts_of, to_text
from diptych.serving import gateway, reader, resources, writer
from diptych.serving.children import Child, RestartPolicy, ending
from diptych.serving.control import Control, Message, stream_pair
from diptych.serving.spawn import (
    EXIT_FAILED,
    EXIT_LOG_FAILED,
    EXIT_NEVER_RESTART,
    EXIT_USAGE,
    become_subreaper,
    fork_child,
    name_process,
)
from diptych.serving.takeover import Memory, Request
from diptych.serving.watchdog import LOOK_S, Watchdog

log = logging.getLogger("diptych.serving")

LANE = "interpreted"
"""Of served handlers."""
GATEWAY_GRACE_S = 2.0
"""Beyond drain_ms: what a gateway gets to end at shutdown before it is killed."""
STOP_GRACE_S = 2.0
"""What readers, and then a writer that has nothing to save, get."""
RETRY_S = 0.5
"""After the machine refused a process: it has too many, or no memory for one more."""
SAVING_TOLD_S = 10.0
SAVES_MAX = 2
"""Writers that are asked to save, should one be killed while it does."""
DESCRIPTORS = 256
"""What a process may have open beside clients' connections."""


class Supervisor:
    """`lifeline`: the control socket of whoever started us and must not outlive us; see `local`."""

    def __init__(self, app: App, settings: Settings, lifeline: Control | None = None) -> None:
        self.app = app
        self.settings = settings
        self._lifeline = lifeline
        self._selector = selectors.DefaultSelector()
        self._policy = RestartPolicy()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count(1)
        self._writer: Child | None = None
        self._gateway: Child | None = None
        self._stopped: Child | None = None  # the writer that was told to stop
        self._children: dict[int, Child] = {}  # by pid: all that are not reaped
        self._restarts = {"writer": 0, "gateway": 0, "reader": 0}
        self._proven: set[str] = set()  # roles of which one was ready at some time
        self._facts: Message = {}  # what the writer last said of itself
        self._accepted = False
        self._draining = False
        self._saves_left = 0 if settings.data is None else SAVES_MAX
        self._over = False
        self._code = 0
        self._memory: Memory
        self._control_page: ControlPage
        self._watchdog: Watchdog
        self._attempts: Attempts
        self._server_facts = ""
        self._executed = 0
        self._log_failed = False
        self._exports: Path
        self._listeners: tuple[socket.socket, ...] = ()

    def run(self) -> int:
        """Serve until told to end. Returns the exit code.

        Errors: DeclarationError, ConfigurationError, OSError.
        """
        self.app.check_names()
        for hazard in self.app.hazards():
            log.warning("%s", hazard)
        name_process("supervisor")
        become_subreaper()
        self._listeners = resources.listen(self.settings.listen)
        resources.allow_descriptors(self.settings.limits.connections + DESCRIPTORS)
        self._memory = resources.make_memory(self.app, self.settings)
        self._control_page = ControlPage.create()
        self._watchdog = Watchdog(self._control_page, self.settings.limits.transaction_ms)
        # Now, since files may be edited while the code that was read from them runs.
        self._server_facts = to_text(facts_of(self.app, LANE, self.settings.capacities))
        self._attempts = Attempts(self.settings.data)
        resources.warm_kernels()
        self._take_signals()
        if self._lifeline is not None:
            self._watch(self._lifeline, self._on_lifeline)
        with resources.exports_directory() as self._exports:
            try:
                self._start_writer()
                if self.settings.limits.transaction_ms:
                    self._look_at_transaction()
                while not self._over:
                    self._turn()
            finally:
                self._kill_all()
        return self._code

    # The loop.

    def _turn(self) -> None:
        timeout_s = None
        if self._timers:
            timeout_s = max(0.0, self._timers[0][0] - time.monotonic())
        for key, _ in self._selector.select(timeout_s):
            key.data()
        while self._timers and self._timers[0][0] <= time.monotonic():
            heapq.heappop(self._timers)[2]()

    def _after(self, delay_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (time.monotonic() + delay_s, next(self._numbers), action))

    def _look_at_transaction(self) -> None:
        if self._writer is not None and self._watchdog.must_end(self._writer, time.monotonic_ns()):
            self._kill(self._writer)
        self._after(LOOK_S, self._look_at_transaction)

    def _watch(self, source: Any, on_ready: Callable[[], None]) -> None:
        self._selector.register(source, selectors.EVENT_READ, on_ready)

    def _take_signals(self) -> None:
        read_end, write_end = socket.socketpair()
        read_end.setblocking(False)
        write_end.setblocking(False)
        self._wakeup = read_end, write_end  # kept open
        signal.set_wakeup_fd(write_end.fileno())
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._watch(read_end, lambda: self._on_signal(read_end))

    def _on_signal(self, read_end: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            for number in read_end.recv(64):
                self.stop(signal.Signals(number).name)

    def _on_lifeline(self) -> None:
        assert self._lifeline is not None
        messages, alive = self._lifeline.receive()
        for message in messages:
            if message["ask"] == "pids":
                self._lifeline.send({"tell": "pids", "pids": self.pids()})
        if not alive:
            log.error("whoever started this server is gone")
            self._end(EXIT_FAILED)

    def pids(self) -> dict[str, list[int]]:
        """The processes there are, by role."""
        by_role: dict[str, list[int]] = {"supervisor": [os.getpid()]}
        for child in self._children.values():
            by_role.setdefault(child.role, []).append(child.spawned.pid)
        return by_role

    # Starting.

    def _fork(
        self, role: str, make: Callable[[Control], Callable[[], int]], keep: list[int], holder: int
    ) -> Child:
        """Fork a child; `make` turns its end of the control socket into what it runs."""
        ours, theirs = Control.pair()
        try:
            spawned = fork_child(
                role, make(theirs), [theirs.fileno(), *keep], log_format=self.settings.log_format
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        child = Child(role, next(self._numbers), spawned, ours, holder)
        self._children[spawned.pid] = child
        self._watch(spawned.pidfd, self._reap)
        self._watch(ours, lambda: self._on_control(child))
        return child

    def _start_writer(self) -> None:
        if not self._draining and self._writer is None and not self._log_failed:
            self._fork_writer()

    def _fork_writer(self) -> None:
        # What the one before was told too late may have been done and answered.
        self._control_page.words[Word.DOOMED] = 0
        request = Request(
            holders=tuple({c.holder for c in self._children.values() if c.holder}),
            control_fd=self._control_page.fd,
            facts=self._server_facts,
            set_aside=self._attempts.due(0),
        )

        def make(control: Control) -> Callable[[], int]:
            plan = writer.WriterPlan(self.app, self.settings, control, self._memory, request)
            return lambda: writer.main(plan)

        keep = [self._memory.region_fd, *self._memory.image_fds, self._control_page.fd]
        self._writer = self._fork("writer", make, keep, 0)
        if self._gateway is not None:
            self._connect()

    def _start_gateway(self) -> None:
        if self._draining or self._gateway is not None:
            return

        def make(control: Control) -> Callable[[], int]:
            plan = gateway.GatewayPlan(self.app, self.settings, control, self._listeners)
            return lambda: gateway.main(plan)

        keep = [listener.fileno() for listener in self._listeners]
        self._gateway = self._fork("gateway", make, keep, 0)
        self._gateway.holder = self._gateway.number
        self._tell_restarts()
        if self._log_failed:
            self._gateway.control.send({"do": "log_failed"})
        if self._writer is not None:
            self._connect()
        current = self._gateway
        for _ in range(self.settings.readers):
            self._try(lambda: self._start_reader(current))

    def _start_reader(self, for_gateway: Child) -> None:
        if self._draining or for_gateway is not self._gateway:
            return
        gateway_end, reader_end = stream_pair()
        images = resources.read_only_images(self._memory)

        def make(control: Control) -> Callable[[], int]:
            size_bytes = self._memory.size_bytes
            plan = reader.ReaderPlan(
                self.app,
                self.settings,
                control,
                reader_end,
                images,
                size_bytes,
                self._exports,
            )
            return lambda: reader.main(plan)

        try:
            child = self._fork("reader", make, [reader_end.fileno(), *images], for_gateway.holder)
            for_gateway.control.send({"do": "reader", "reader": child.number}, gateway_end.fileno())
        finally:
            gateway_end.close()
            reader_end.close()
            for fd in images:
                os.close(fd)

    def _connect(self) -> None:
        """Give gateway and writer a socket to each other."""
        assert self._gateway is not None
        assert self._writer is not None
        gateway_end, writer_end = stream_pair()
        message = {"do": "gateway", "holder": self._gateway.holder}
        self._writer.control.send(message, writer_end.fileno())
        self._gateway.control.send({"do": "writer"}, gateway_end.fileno())
        gateway_end.close()
        writer_end.close()

    # What children say.

    def _on_control(self, child: Child) -> None:
        if child.control.fileno() < 0:
            return  # it was reaped in this same turn, and its last words were heard
        messages, alive = child.control.receive()
        for message in messages:
            self._listen(child, message)
        if not alive:
            # It has ended, or is about to: its pidfd tells when.
            self._selector.unregister(child.control)

    def _listen(self, child: Child, message: Message) -> None:
        match message.get("tell", message.get("ask")):
            case "ready" if child.role == "reader":
                self._now_ready(child)
            case "ready":
                self._now_ready(child)
                self._facts = message
                self._attempts.settled(message["sequence"])
                if message["recovered"]:
                    log.warning("a new writer goes on after transaction %d", message["sequence"])
                if self._gateway is None and not self._accepted:
                    self._start_gateway()
            case "accepting":
                self._now_ready(child)
                if not self._accepted:
                    self._accepted = True
                    self._announce()
            case "kill_reader":
                for other in self._children.values():
                    if other.role == "reader" and other.number == message["reader"]:
                        other.stopped_because = message["why"]
                        self._kill(other)
            case "replace_gateway":
                if self._gateway is not None and self._gateway.holder == message["holder"]:
                    self._kill(self._gateway)

    def _now_ready(self, child: Child) -> None:
        child.ready = True
        self._proven.add(child.role)

    def _announce(self) -> None:
        addresses = [resources.address_of(listener) for listener in self._listeners]
        pids = ", ".join(
            f"{role} {' '.join(map(str, numbers))}" for role, numbers in self.pids().items()
        )
        data_bytes, images = self._facts["data_bytes"], self.settings.sync.images
        log.info(
            "Diptych %s serves %s at %s", diptych.__version__, self.app.name, ", ".join(addresses)
        )
        log.info("processes: %s", pids)
        log.info("written pages are found by: %s", self._facts["tracker"])
        log.info(
            "memory: (1 + %d images) x %s of data = %s now",
            images,
            _size(data_bytes),
            _size(data_bytes * (1 + images)),
        )
        log.info("durability: none; there is no log yet: %s", _durability(self.settings))
        if self._lifeline is not None:
            self._lifeline.send({"tell": "ready", "addresses": addresses, "pids": self.pids()})

    # Dying.

    def _reap(self) -> None:
        """Take in every child that has ended; orphans of children, too, since we get those."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            child = self._children.pop(pid, None)
            if child is not None:
                self._selector.unregister(child.spawned.pidfd)
                os.close(child.spawned.pidfd)
                self._hear_last_words(child)
                self._died(child, status)

    def _hear_last_words(self, child: Child) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(child.control)
        for message in child.control.receive()[0]:
            self._listen(child, message)
        child.control.close()

    def _died(self, child: Child, status: int) -> None:
        code = os.waitstatus_to_exitcode(status)
        if self._draining:
            self._died_in_drain(child, code)
            return
        why = f" ({child.stopped_because})" if child.stopped_because else ""
        log.warning("%s, pid %d, ended: %s%s", child.name, child.spawned.pid, ending(code), why)
        if code == -signal.SIGKILL and child.role in self._proven:
            child.ready = True  # somebody did that: it says nothing about the next one
        if child.role == "writer":
            self._writer = None
            if code == EXIT_LOG_FAILED:
                self._go_on_without_writer()
                return
            if not self._note_attempt(child, code):
                self._give_up(EXIT_FAILED)
                return
        if code in (EXIT_NEVER_RESTART, EXIT_USAGE):
            log.error("%s can't be started: giving up", child.name)
            self._give_up(EXIT_USAGE if code == EXIT_USAGE else EXIT_FAILED)
            return
        if child.role == "reader":
            self._reader_died(child)
            return
        if child.role == "gateway":
            self._gateway = None
            for other in self._children.values():
                if other.holder == child.holder:
                    self._kill(other)
            self._let_go(child.holder)
        start = self._start_gateway if child.role == "gateway" else self._start_writer
        self._restart(child, start)

    def _note_attempt(self, child: Child, code: int) -> bool:
        """Count a writer's death for the transaction that it was executing; False: stop."""
        words = self._control_page.words
        self._executed = max(self._executed, words[Word.SEQUENCE])
        if child.over_budget:
            how = Ending.BUDGET_KILL
        elif code == -signal.SIGKILL:
            how = Ending.KILLED
        else:
            how = Ending.FATAL_SIGNAL if code < 0 else Ending.OTHER
        sequence = words[Word.EXECUTING]
        words[Word.EXECUTING] = 0
        if self.settings.data is None or self.settings.log.durability == "none":
            return True  # without a log, its number is given to another one
        now_s = time.monotonic()
        verdict = self._attempts.ended(sequence, how, executed=self._executed, now_s=now_s)
        return verdict is not Verdict.STOP

    def _go_on_without_writer(self) -> None:
        """The log can't be written: queries are answered on, from what was durable.

        Nor does a writer follow at the stop: what it would read and save may not be on the disk.
        """
        self._log_failed = True
        self._saves_left, self._code = 0, EXIT_FAILED
        log.critical("no transaction is taken until the server is started again; queries go on")
        if self._gateway is not None:
            self._gateway.control.send({"do": "log_failed"})

    def _reader_died(self, child: Child) -> None:
        if self._gateway is None or self._gateway.holder != child.holder:
            self._let_go(child.holder)
            return
        current = self._gateway
        current.control.send({"do": "reaped", "reader": child.number})
        if child.stopped_because:
            self._restarts["reader"] += 1
            self._tell_restarts()
            self._start_reader(current)
        else:
            self._restart(child, lambda: self._start_reader(current))

    def _let_go(self, holder: int) -> None:
        """Tell the writer that a holder left, once nobody is alive who looked at images for it."""
        left = any(child.holder == holder for child in self._children.values())
        if not left and self._writer is not None:
            self._writer.control.send({"do": "left", "holder": holder})

    def _restart(self, child: Child, start: Callable[[], None]) -> None:
        pause_s = self._policy.pause_s(child.role, ready=child.ready, now=time.monotonic())
        if pause_s is None:
            log.error("%s dies at its start, again and again: giving up", child.role)
            self._give_up(EXIT_FAILED)
            return
        self._restarts[child.role] += 1
        self._tell_restarts()
        if pause_s:
            self._after(pause_s, lambda: self._try(start))
        else:
            self._try(start)

    def _try(self, start: Callable[[], None]) -> None:
        """Start a process, now or as soon as the machine lets us; the others go on meanwhile."""
        try:
            start()
        except OSError as error:
            log.error("can't start a process, trying again in %g s: %s", RETRY_S, error)
            self._after(RETRY_S, lambda: self._try(start))

    def _tell_restarts(self) -> None:
        if self._gateway is not None:
            self._gateway.control.send({"do": "restarts", "restarts": self._restarts})

    def _kill(self, child: Child) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(child.spawned.pidfd, signal.SIGKILL)

    # Ending.

    def stop(self, why: str) -> None:
        """Begin to end in order; called again, end at once."""
        if self._draining:
            lost = "; what is not saved is lost" if self.settings.data else ""
            log.warning("%s again: ending at once%s", why, lost)
            self._end(EXIT_FAILED)
            return
        log.info("%s: draining", why)
        self._draining = True
        for listener in self._listeners:
            listener.close()
        if self._gateway is None:
            self._stop_readers()
            return
        self._gateway.control.send({"do": "drain"})
        drain_s = self.settings.limits.drain_ms / 1000 + GATEWAY_GRACE_S
        self._kill_after(drain_s, "gateway")

    def _give_up(self, code: int) -> None:
        """End because a process can't be had; what there is to save is saved first."""
        if not self._saves_left or self._writer is None or not self._writer.ready:
            self._end(code)
            return
        self._draining, self._code = True, code
        others = [child for child in self._children.values() if child is not self._writer]
        for child in others:
            self._kill(child)
        if not others:
            self._stop_writer()

    def _died_in_drain(self, child: Child, code: int) -> None:
        if child is self._gateway:
            self._gateway = None
            self._stop_readers()
        elif child is self._writer:
            self._writer = None
            self._writer_ended(child, code)
        if self._gateway is None and not any(c.role == "reader" for c in self._children.values()):
            self._stop_writer()

    def _writer_ended(self, child: Child, code: int) -> None:
        """In the drain. Only one that was killed is worth another try: the others said why."""
        if not self._saves_left:
            return
        if code >= 0 or not child.ready:
            self._saves_left = 0
        if code != 0:
            log.warning("%s, pid %d, ended: %s", child.name, child.spawned.pid, ending(code))
            self._code = EXIT_FAILED

    def _stop_readers(self) -> None:
        for child in self._children.values():
            if child.role == "reader":
                child.control.send({"do": "stop"})
        self._kill_after(STOP_GRACE_S, "reader")
        if not any(child.role == "reader" for child in self._children.values()):
            self._stop_writer()

    def _stop_writer(self) -> None:
        """The last step: called whenever all others have ended, also when the writer has."""
        if self._writer is None and self._saves_left and "writer" in self._proven:
            try:
                self._fork_writer()  # what the one before had is in the images still
            except OSError as error:
                log.error("can't start a process, trying again in %g s: %s", RETRY_S, error)
                self._after(RETRY_S, self._stop_writer)
                return
        if self._writer is None:
            if self._code == 0:
                log.info("ended in order")
            self._end(self._code)
        elif self._writer is not self._stopped:
            self._stopped = self._writer
            self._writer.control.send({"do": "stop"})
            if self._saves_left:
                self._saves_left -= 1
                self._tell_saving(self._writer)
            else:
                self._kill_after(STOP_GRACE_S, "writer")

    def _tell_saving(self, child: Child) -> None:
        def tell() -> None:
            if self._writer is child:
                log.info("the writer saves the data; a second signal would end it at once")
                self._tell_saving(child)

        self._after(SAVING_TOLD_S, tell)

    def _kill_after(self, delay_s: float, role: str) -> None:
        def kill() -> None:
            for child in self._children.values():
                if child.role == role:
                    log.warning("%s takes too long to end: killed", child.name)
                    self._kill(child)

        self._after(delay_s, kill)

    def _end(self, code: int) -> None:
        self._over, self._code = True, code

    def _kill_all(self) -> None:
        """Leave nobody behind, however we end."""
        for child in self._children.values():
            self._kill(child)
        for pid in list(self._children):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _durability(settings: Settings) -> str:
    if settings.data is None:
        return (
            "nothing is on disk, so nothing outlives this server "
            "(--data DIR saves at a clean stop); "
            "if the writer dies, work since the last sync may be lost"
        )
    return (
        f"saved to {settings.data} at a clean stop; what comes after may be lost if the writer, "
        "the server or the host dies"
    )


def _size(size_bytes: int) -> str:
    """For people: 36 KiB, 1.5 GiB."""
    size, units = size_bytes / 1024, iter(("KiB", "MiB", "GiB"))
    unit = next(units)
    while size >= 1024 and unit != "GiB":
        size, unit = size / 1024, next(units)
    return f"{size:.0f} {unit}" if size >= 10 else f"{size:.1f} {unit}"
