"""A real server for an application of this process: for tests, scripts and notebooks.

`running(app)` forks a supervisor, which starts all the processes on a free port of the loopback.
The application need not be importable: the fork has it. The server ends with the `with` block, and
when this process ends in any way. Its log is kept in memory and shown when it fails to start.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from diptych.app import App
from diptych.config import Settings, load
from diptych.errors import ConfigurationError, DeclarationError
from diptych.serving.control import Control, Message
from diptych.serving.logs import configure
from diptych.serving.spawn import (
    EXIT_USAGE,
    blank_all_but,
    exit_with,
    forbid_library_threads,
    fork_quietly,
)
from diptych_client import AsyncClient, Client

START_TIMEOUT_S = 180.0
"""The first start compiles kernels, which takes long where other work goes on."""
STOP_TIMEOUT_S = 15.0
SAVE_TIMEOUT_S = 3600.0
"""What a server with a data directory gets to stop: saving may take long."""

log = logging.getLogger("diptych.serving")


class Server:
    """A running server. `address` is host:port."""

    def __init__(
        self, pid: int, lifeline: Control, log_fd: int, stop_timeout_s: float = STOP_TIMEOUT_S
    ) -> None:
        self.pid = pid
        self.address = ""
        self.exit_code: int | None = None
        self._lifeline = lifeline
        self._log_fd = log_fd
        self._pidfd = os.pidfd_open(pid)
        self._stop_timeout_s = stop_timeout_s

    def client(self, **options: Any) -> Client:
        """A blocking client; see `diptych_client.Client`."""
        return Client(self.address, **options)

    def async_client(self, **options: Any) -> AsyncClient:
        return AsyncClient(self.address, **options)

    @property
    def pids(self) -> dict[str, list[int]]:
        """The server's processes now, by role: supervisor, writer, gateway, reader."""
        self._lifeline.send({"ask": "pids"})
        pids: dict[str, list[int]] = self._hear("pids", 5.0)["pids"]
        return pids

    def log(self) -> str:
        """What the server has logged so far."""
        return os.pread(self._log_fd, os.fstat(self._log_fd).st_size, 0).decode(errors="replace")

    def signal(self, number: int) -> None:
        """Send a signal to the supervisor."""
        signal.pidfd_send_signal(self._pidfd, number)

    def wait(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Wait for the end. The exit code, negative for a signal. Errors: TimeoutError."""
        if self.exit_code is None:
            if not select.select([self._pidfd], [], [], timeout_s)[0]:
                raise TimeoutError(f"the server did not end within {timeout_s:g} s")
            _, status = os.waitpid(self.pid, 0)
            self.exit_code = os.waitstatus_to_exitcode(status)
        return self.exit_code

    def stop(self) -> int:
        """End in order, by force if that takes too long. The exit code."""
        if self.exit_code is None:
            self.signal(signal.SIGTERM)
            try:
                self.wait(self._stop_timeout_s)
            except TimeoutError:
                self.signal(signal.SIGKILL)
                self.wait()
        assert self.exit_code is not None
        return self.exit_code

    def close(self) -> None:
        """Stop, and let go of everything."""
        if self._pidfd < 0:
            return
        self.stop()
        self._lifeline.close()
        os.close(self._pidfd)
        os.close(self._log_fd)
        self._pidfd = -1

    def _start(self) -> None:
        try:
            self.address = self._hear("ready", START_TIMEOUT_S)["addresses"][0]
        except (TimeoutError, ConnectionError) as error:
            self.signal(signal.SIGKILL)
            self.wait()
            raise RuntimeError(f"the server did not start: {error}\n{self.log()}") from None

    def _hear(self, what: str, timeout_s: float) -> Message:
        """Wait for the supervisor's message of this kind."""
        until = time.monotonic() + timeout_s
        while (left_s := until - time.monotonic()) > 0:
            select.select([self._lifeline.fileno()], [], [], left_s)
            messages, alive = self._lifeline.receive()
            for message in messages:
                if message["tell"] == what:
                    return message
            if not alive:
                raise ConnectionError("its supervisor ended")
        raise TimeoutError(f"nothing heard within {timeout_s:g} s")


@contextmanager
def running(app: App, **settings: Any) -> Iterator[Server]:
    """Serve `app` in processes of its own while the block runs.

    `settings`: those of `diptych serve`, by name without section (`readers=1`,
    `interval_ms=2`), `capacities={table: rows}` and `tokens={name: secret}`. Errors:
    ConfigurationError; RuntimeError with the log when the server does not start.

    The server has the libraries that this process has loaded. If numpy is among them, its linear
    algebra runs on several threads in queries, as it does not under `diptych serve`; where that
    matters set OPENBLAS_NUM_THREADS=1 for this process.
    """
    server = start(app, **settings)
    try:
        yield server
    finally:
        server.close()


def start(app: App, **settings: Any) -> Server:
    """Like `running`, for callers who close the server themselves."""
    capacities, tokens = settings.pop("capacities", None), settings.pop("tokens", None)
    settings.setdefault("listen", ["127.0.0.1:0"])
    chosen = load(environment={}, flags=settings, capacities=capacities, tokens=tokens)
    ours, theirs = Control.pair()
    log_fd = os.memfd_create("diptych-log", os.MFD_CLOEXEC)
    pid = fork_quietly()
    if pid == 0:
        _supervise(app, chosen, theirs, log_fd)
    theirs.close()
    server = Server(pid, ours, log_fd, SAVE_TIMEOUT_S if chosen.data else STOP_TIMEOUT_S)
    try:
        server._start()
    except BaseException:
        server.close()
        raise
    return server


def _supervise(app: App, settings: Settings, lifeline: Control, log_fd: int) -> NoReturn:
    """The forked process becomes the supervisor, and never returns."""

    def run() -> int:
        # Appending: every process writes to this one file.
        _append_to(log_fd)
        blank_all_but([lifeline.fileno()])
        configure("supervisor", settings.log_format)
        forbid_library_threads()
        # A test runner that turns warnings into errors means its own process.
        warnings.resetwarnings()
        from diptych.serving.supervisor import Supervisor

        try:
            return Supervisor(app, settings, lifeline).run()
        except (DeclarationError, ConfigurationError, OSError) as error:
            log.error("%s", error)
            return EXIT_USAGE

    exit_with(run)


def _append_to(log_fd: int) -> None:
    """Descriptors 1 and 2 become the log, opened to append; 0 reads nothing."""
    appending = os.open(f"/proc/self/fd/{log_fd}", os.O_RDWR | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    for number in (1, 2):
        with contextlib.suppress(OSError):
            os.dup2(appending, number)
