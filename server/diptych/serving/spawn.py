"""Forking a process that is tied to this one: it holds only what it was given, and dies with us.

The supervisor has the application imported and its kernels compiled, so a fork is a ready process.
A child gets the signal KILL when its parent ends (and checks that the parent was there), keeps only
the descriptors on its list, ignores the signals that are the supervisor's business, and never
returns into the code that forked it. The parent must have a single thread: a lock that another
thread holds at the fork would be held for ever in the child.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NoReturn

from diptych.serving.logs import configure
from diptych.serving.placement import Place

log = logging.getLogger("diptych.serving")

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NEVER_RESTART = 3
"""A child's exit code: what went wrong would go wrong again."""
EXIT_PARENT_GONE = 4
EXIT_LOG_FAILED = 5
"""A writer's: what it could not write may be on the disk or not. No other writer may follow it."""

SINGLE_THREADED = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")

SUPERVISORS_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Children ignore these."""

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Spawned:
    """A child as its parent knows it. `pidfd` becomes readable when the child has ended."""

    pid: int
    pidfd: int


def forbid_library_threads() -> None:
    """Before numpy is imported: it must not start threads behind the back of who forks."""
    for variable in SINGLE_THREADED:
        os.environ[variable] = "1"


def thread_count() -> int:
    return len(os.listdir("/proc/self/task"))


def fork_child(
    role: str,
    main: Callable[[], int],
    keep: Iterable[int],
    *,
    log_format: str = "text",
    place: Place | None = None,
) -> Spawned:
    """Fork a process that runs `main` and exits with the code it returns.

    `keep`: descriptors beside 0, 1 and 2 that the child may hold. `place`: where it runs; left out,
    where we do. RuntimeError with more threads than one.
    """
    if thread_count() != 1:
        raise RuntimeError("a process with several threads can't be forked safely")
    parent = os.getpid()
    # Until the child ignores them: it would pass a signal on to us, who get it, too (Ctrl-C).
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SUPERVISORS_SIGNALS)
    try:
        pid = fork_quietly()
        if pid == 0:
            _become_child(role, main, frozenset(keep), parent, log_format, place or Place())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return Spawned(pid, os.pidfd_open(pid))


def fork_quietly() -> int:
    """os.fork, for callers who know what their other threads do; the objects of now are frozen.

    In the child, a socket object inherited from the parent must not be collected: its descriptor's
    number may be another socket by then.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()  # or the child would write it a second time
    gc.freeze()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
    except BaseException:
        gc.unfreeze()
        raise
    if pid != 0:
        gc.unfreeze()
    return pid


def become_subreaper() -> None:
    """Descendants that lose their parent become this process's children."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def name_process(role: str) -> None:
    """What `ps` and `top` show: at most 15 characters."""
    _libc.prctl(_PR_SET_NAME, f"diptych:{role}".encode()[:15], 0, 0, 0)


def close_all_but(keep: Iterable[int]) -> None:
    """Close every descriptor that is neither 0, 1, 2 nor in `keep`."""
    low = 3
    for fd in sorted({fd for fd in keep if fd >= 3}):
        os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX"))


def blank_all_but(keep: Iterable[int]) -> None:
    """The same, with descriptors that lead nowhere in place of closed ones.

    For a process that forks again: libraries that the parent had in use (Arrow is one) close
    descriptors of theirs in every child, and abort it when there are none.
    """
    kept = {0, 1, 2, *keep}
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd not in kept and fd != nothing:
            with contextlib.suppress(OSError):  # the listing's own is closed by now
                os.fstat(fd)
                os.dup2(nothing, fd, inheritable=False)
    os.close(nothing)


def exit_with(main: Callable[[], int]) -> NoReturn:
    """Run `main` and end the process with its code, whatever happens; no clean-up is run."""
    code = EXIT_FAILED
    try:
        code = main()
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else EXIT_FAILED
    except BaseException:
        log.exception("this process ends because of an error nobody expected")
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(code)


def _become_child(
    role: str,
    main: Callable[[], int],
    keep: frozenset[int],
    parent: int,
    log_format: str,
    place: Place,
) -> NoReturn:
    def run() -> int:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # The parent may have ended before that call: then nobody will ever send the signal.
        if os.getppid() != parent:
            return EXIT_PARENT_GONE
        signal.set_wakeup_fd(-1)
        for number in (*SUPERVISORS_SIGNALS, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SUPERVISORS_SIGNALS)
        close_all_but(keep)
        name_process(role)
        configure(role, log_format)
        place.take()
        return main()

    exit_with(run)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl {option}: {os.strerror(number)}")
