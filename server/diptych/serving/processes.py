"""Child processes of one that has a single thread: forked, listened to, reaped; and its event loop.

What their messages and their deaths mean is the business of who inherits this: `_listen`, `_died`,
and `stop` for signals. Nothing here waits but the loop's own selector.
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
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from diptych.serving.children import Child
from diptych.serving.control import Control, Message
from diptych.serving.placement import Place
from diptych.serving.spawn import fork_child

log = logging.getLogger("diptych.serving")


class Processes(ABC):
    """`log_format`: of the children's logs; `places`: where children run, by role."""

    def __init__(self, log_format: str, places: Mapping[str, Place]) -> None:
        self._log_format = log_format
        self._places = places
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count(1)
        self._children: dict[int, Child] = {}  # by pid: all that are not reaped

    @abstractmethod
    def _listen(self, child: Child, message: Message) -> None:
        """A child says something."""

    @abstractmethod
    def _died(self, child: Child, status: int) -> None:
        """A child was reaped, and its last words were heard."""

    @abstractmethod
    def stop(self, why: str) -> None:
        """A signal came that asks for the end."""

    def pids(self) -> dict[str, list[int]]:
        """The processes there are, by role."""
        by_role: dict[str, list[int]] = {"supervisor": [os.getpid()]}
        for child in self._children.values():
            by_role.setdefault(child.role, []).append(child.spawned.pid)
        return by_role

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

    # Children.

    def _fork(
        self, role: str, make: Callable[[Control], Callable[[], int]], keep: list[int], holder: int
    ) -> Child:
        """Fork a child; `make` turns its end of the control socket into what it runs."""
        ours, theirs = Control.pair()
        try:
            spawned = fork_child(
                role,
                make(theirs),
                [theirs.fileno(), *keep],
                log_format=self._log_format,
                place=self._places[role],
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

    def _on_control(self, child: Child) -> None:
        if child.control.fileno() < 0:
            return  # it was reaped in this same turn, and its last words were heard
        messages, alive = child.control.receive()
        for message in messages:
            self._listen(child, message)
        if not alive:
            # It has ended, or is about to: its pidfd tells when.
            self._selector.unregister(child.control)

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

    def _kill(self, child: Child) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(child.spawned.pidfd, signal.SIGKILL)

    def _kill_after(self, delay_s: float, role: str) -> None:
        def kill() -> None:
            for child in self._children.values():
                if child.role == role:
                    log.warning("%s takes too long to end: killed", child.name)
                    self._kill(child)

        self._after(delay_s, kill)

    def _kill_all(self) -> None:
        """Leave nobody behind, however we end."""
        for child in self._children.values():
            self._kill(child)
        for pid in list(self._children):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
