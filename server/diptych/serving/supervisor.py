"""The supervisor: starts the server's processes, replaces those that die, ends them in order.

A plain process with one thread, which has imported the application and compiled the kernels: it
forks the others, so a replacement is ready in milliseconds. It keeps the memory and the listening
sockets, maps neither region nor image, and runs no event loop but its own selector.

What it must get right is order. A gateway's readers are killed and reaped before the writer is told
that this holder left. A writer is reaped before the next one starts. At the end the gateway goes
first, then readers, then the writer. When the supervisor itself is killed, the kernel kills the
rest.

With a data directory the checkpointer writes a last checkpoint before the writer ends, which takes
what it takes: nobody kills it meanwhile, but for a second signal. A writer that is killed then, or
was dead already, is replaced by one that goes on from the newest image, and that is written.
"""

from __future__ import annotations

import itertools
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from diptych.app import App
from diptych.config import Settings
from diptych.control_page import ControlPage, Word
from diptych.engine.attempts import Attempts, Ending, Verdict
from diptych.engine.facts import facts_of, to_text
from diptych.engine.lane import compiled_for, lane_of
from diptych.errors import DeclarationError
from diptych.serving import checkpointer, gateway, reader, resources, writer
from diptych.serving.banner import announce
from diptych.serving.bundles import Progress
from diptych.serving.children import Child, RestartPolicy, ending
from diptych.serving.compiling import compile_apart
from diptych.serving.control import Control, Message, stream_pair
from diptych.serving.images import Images
from diptych.serving.placement import ROLES, place_of
from diptych.serving.placement import check as check_places
from diptych.serving.processes import Processes
from diptych.serving.saving import Saving
from diptych.serving.spawn import (
    EXIT_FAILED,
    EXIT_LOG_FAILED,
    EXIT_NEVER_RESTART,
    EXIT_PARENT_GONE,
    EXIT_USAGE,
    become_subreaper,
    name_process,
)
from diptych.serving.takeover import Memory, Request
from diptych.serving.watchdog import LOOK_S, Watchdog

log = logging.getLogger("diptych.serving")

GATEWAY_GRACE_S = 2.0
"""Beyond drain_ms: what a gateway gets to end at shutdown before it is killed."""
STOP_GRACE_S = 2.0
"""What readers, and then the writer, get."""
RETRY_S = 0.5
"""After the machine refused a process: it has too many, or no memory for one more."""
SAVING_TOLD_S = 10.0
DESCRIPTORS = 256
"""What a process may have open beside clients' connections."""


class Supervisor(Processes):
    """`lifeline`: the control socket of whoever started us and must not outlive us; see `local`."""

    def __init__(self, app: App, settings: Settings, lifeline: Control | None = None) -> None:
        places = {role: place_of(role, settings.processes) for role in ROLES}
        super().__init__(settings.log_format, places)
        self.app = app
        self.settings = settings
        self._lifeline = lifeline
        self._policy = RestartPolicy()
        self._writer: Child | None = None
        self._gateway: Child | None = None
        self._stopped: Child | None = None  # the writer that was told to stop
        self._restarts = {"writer": 0, "gateway": 0, "reader": 0}
        if settings.data is not None:
            self._restarts["checkpointer"] = 0
        self._proven: set[str] = set()  # roles of which one was ready at some time
        self._facts: Message = {}  # what the writer last said of itself
        self._accepted = False
        self._draining = False
        self._saving = Saving(self._fork_checkpointer, self._kill, wanted=settings.data is not None)
        self._over = False
        self._code = 0
        self._memory: Memory
        self._control_page: ControlPage
        self._watchdog: Watchdog
        self._attempts: Attempts
        self._server_facts = ""
        self._executed = 0
        self._progress = Progress()
        self._slots = itertools.count()
        self._log_failed = False
        self._exports: Path
        self._listeners: tuple[socket.socket, ...] = ()

    def run(self) -> int:
        """Serve until told to end. Returns the exit code.

        Errors: DeclarationError, ConfigurationError, OSError.
        """
        check_places(self.settings.processes)
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
        self._server_facts = to_text(
            facts_of(self.app, lane_of(self.app), self.settings.capacities)
        )
        self._attempts = Attempts(self.settings.data)
        resources.warm_kernels()
        self._compile()
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

    def _compile(self) -> None:
        """Have the handlers' code in memory, for all processes to come: none of them compiles."""
        settings = self.settings
        refusals = compile_apart(self.app, settings.compile_s, settings.log_format)
        refused = [refusal for refusal in refusals.values() if refusal]
        if refused:
            raise DeclarationError("\n".join(refused))
        compiled_for(self.app)

    def _look_at_transaction(self) -> None:
        if self._writer is not None and self._watchdog.must_end(self._writer, time.monotonic_ns()):
            self._kill(self._writer)
        self._after(LOOK_S, self._look_at_transaction)

    def _on_lifeline(self) -> None:
        assert self._lifeline is not None
        messages, alive = self._lifeline.receive()
        for message in messages:
            if message["ask"] == "pids":
                self._lifeline.send({"tell": "pids", "pids": self.pids()})
        if not alive:
            log.error("whoever started this server is gone")
            self._end(EXIT_FAILED)

    # Starting.

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

        images = self._images_for_gateway()

        def make(control: Control) -> Callable[[], int]:
            plan = gateway.GatewayPlan(
                self.app, self.settings, control, self._listeners, self._progress, images
            )
            return lambda: gateway.main(plan)

        keep = [listener.fileno() for listener in self._listeners]
        try:
            keep += images.fds if images else ()
            self._gateway = self._fork("gateway", make, keep, 0)
        finally:
            if images:
                images.close()
        self._gateway.holder = self._gateway.number
        self._tell_restarts()
        if self._log_failed:
            self._gateway.control.send({"do": "log_failed"})
        if self._writer is not None:
            self._connect()
        current = self._gateway
        for _ in range(self.settings.readers):
            self._try(lambda: self._start_reader(current))

    def _images_for_gateway(self) -> Images | None:
        """If it shall answer queries itself."""
        compiled = compiled_for(self.app)
        if self.settings.prompt_queries == "readers" or not compiled or not compiled.prompt:
            return None
        return resources.read_only_images(self._memory)

    def _start_reader(self, for_gateway: Child) -> None:
        if self._draining or for_gateway is not self._gateway:
            return
        gateway_end, reader_end = stream_pair()
        images = resources.read_only_images(self._memory)
        slot = next(self._slots)

        def make(control: Control) -> Callable[[], int]:
            plan = reader.ReaderPlan(
                self.app,
                self.settings,
                control,
                reader_end,
                images,
                self._exports,
                self._progress.slot(slot),
            )
            return lambda: reader.main(plan)

        try:
            child = self._fork(
                "reader", make, [reader_end.fileno(), *images.fds], for_gateway.holder
            )
            message = {"do": "reader", "reader": child.number, "slot": slot}
            for_gateway.control.send(message, gateway_end.fileno())
        finally:
            gateway_end.close()
            reader_end.close()
            images.close()

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

    def _fork_checkpointer(self) -> Child:
        """One for the writer there is, with a socket between them."""
        assert self._writer is not None
        writer_end, checkpointer_end = stream_pair()
        images = resources.read_only_images(self._memory)

        def make(control: Control) -> Callable[[], int]:
            plan = checkpointer.CheckpointerPlan(
                self.app,
                self.settings,
                control,
                checkpointer_end,
                images.fds,
                images.size_bytes,
                self._control_page,
                self._facts["history"],
                self._server_facts,
            )
            return lambda: checkpointer.main(plan)

        try:
            keep = [checkpointer_end.fileno(), *images.fds, self._control_page.fd]
            child = self._fork("checkpointer", make, keep, 0)
            child.holder = child.number
            message = {"do": "checkpointer", "holder": child.holder}
            self._writer.control.send(message, writer_end.fileno())
        finally:
            writer_end.close()
            checkpointer_end.close()
            images.close()
        return child

    def _start_checkpointer(self) -> None:
        if self._draining:
            self._finish()
        elif self._writer is not None and self._writer.ready:
            self._saving.writer_is_ready()

    # What children say.

    def _listen(self, child: Child, message: Message) -> None:
        match message.get("tell", message.get("ask")):
            case "ready" if child.role in ("reader", "checkpointer"):
                self._now_ready(child)
            case "ready":
                self._now_ready(child)
                self._facts = message
                self._try(self._start_checkpointer)
                self._attempts.settled()
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
            case "checkpoint":
                self._saving.ask(child, message["ticket"])
            case "checkpointed":
                self._saving.told(message)
            case "replace_gateway":
                if self._gateway is not None and self._gateway.holder == message["holder"]:
                    self._kill(self._gateway)

    def _now_ready(self, child: Child) -> None:
        child.ready = True
        self._proven.add(child.role)

    def _announce(self) -> None:
        addresses = [resources.address_of(listener) for listener in self._listeners]
        announce(self.app.name, self.settings, self._facts, addresses, self.pids())
        if self._lifeline is not None:
            self._lifeline.send({"tell": "ready", "addresses": addresses, "pids": self.pids()})

    # Dying.

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
            self._saving.writer_died()
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
        if child.role == "checkpointer":
            self._checkpointer_died(child, code)
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
            # Between transactions, where any other exit would be, it is nobody's.
            told_to = code in (0, EXIT_PARENT_GONE)
            how = Ending.OTHER if told_to else Ending.FATAL_SIGNAL
        sequence = words[Word.EXECUTING]
        words[Word.EXECUTING] = 0
        if sequence:
            log.warning("the writer was at work on transaction %d", sequence)
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

    def _checkpointer_died(self, child: Child, code: int) -> None:
        self._saving.died(code)
        self._let_go(child.holder)
        pause_s = 0.0
        if not child.stopped_because:
            self._restarts["checkpointer"] += 1
            self._tell_restarts()
            pause_s = self._policy.spare_pause_s("checkpointer", time.monotonic())
        self._after(pause_s, lambda: self._try(self._start_checkpointer))

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
        self._after(SAVING_TOLD_S, self._tell_saving)
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
        if self._saving.over or self._writer is None or not self._writer.ready:
            self._end(code)
            return
        self._draining, self._code = True, code
        for child in self._children.values():
            if child is not self._writer and child is not self._saving.child:
                self._kill(child)
        self._finish()

    def _died_in_drain(self, child: Child, code: int) -> None:
        if child is self._gateway:
            self._gateway = None
            self._stop_readers()
        elif child is self._saving.child:
            if code != 0 and not child.stopped_because:
                log.warning("%s, pid %d, ended: %s", child.name, child.spawned.pid, ending(code))
            self._saving.died(code)
            self._let_go(child.holder)
        elif child is self._writer:
            self._writer = None
            self._writer_ended(child, code)
        self._finish()

    def _writer_ended(self, child: Child, code: int) -> None:
        """In the drain. Only one that was killed is worth another try: the others said why."""
        self._saving.writer_died()
        if self._saving.over:
            return
        if code >= 0 or not child.ready:
            self._saving.give_up()
        if code != 0:
            log.warning("%s, pid %d, ended: %s", child.name, child.spawned.pid, ending(code))
            self._code = EXIT_FAILED

    def _stop_readers(self) -> None:
        for child in self._children.values():
            if child.role == "reader":
                child.control.send({"do": "stop"})
        self._kill_after(STOP_GRACE_S, "reader")
        self._finish()

    def _finish(self) -> None:
        """The last steps, each when the one before is done: called whenever something has ended."""
        others = ("gateway", "reader")
        if self._over or any(child.role in others for child in self._children.values()):
            return
        try:
            if not self._saving.over:
                self._write_last()
        except OSError as error:
            log.error("can't start a process, trying again in %g s: %s", RETRY_S, error)
            self._after(RETRY_S, self._finish)
            return
        if not self._saving.over:
            return
        if self._saving.failed:
            self._code = EXIT_FAILED
        if self._writer is None:
            if self._code == 0:
                log.info("ended in order")
            self._end(self._code)
        elif self._writer is not self._stopped:
            self._stopped = self._writer
            self._writer.control.send({"do": "stop", "saved": not self._saving.failed})
            self._kill_after(STOP_GRACE_S, "writer")

    def _write_last(self) -> None:
        """The last checkpoint. Errors: OSError."""
        if self._writer is None and "writer" not in self._proven:
            self._saving.give_up()
        elif self._writer is None:
            if self._saving.child is None:
                self._fork_writer()  # what the one before had is in the images still
        elif self._writer.ready:
            self._saving.write_last()

    def _tell_saving(self) -> None:
        if self._saving.writing_last:
            log.info("the data is being saved; a second signal would end it at once")
        self._after(SAVING_TOLD_S, self._tell_saving)

    def _end(self, code: int) -> None:
        self._over, self._code = True, code
