"""Syncing a file while the interpreter does something else: one sync at a time, told by an eventfd.

A thread that is to call fdatasync has to wait for the interpreter first, hence for the handlers
that it was to overlap with. Linux can be asked directly: io_submit of a data sync, and an eventfd
that becomes readable when it has ended. Where that call is not to be had, a thread does it.

Knows descriptors alone. What a failed sync means is the caller's matter.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol

_CALLS = {
    # io_setup, io_destroy, io_submit, io_getevents
    "x86_64": (206, 207, 209, 208),
    "aarch64": (0, 1, 2, 4),
}
_FDSYNC = 3
_RESFD = 1


class Syncer(Protocol):
    """Syncs the data of files, one at a time."""

    wakeup_fd: int
    """Readable when the sync that was begun has ended, until `ended` was asked. Nobody else reads
    it. It may also tell of one that was waited for."""

    def begin(self, fd: int) -> None:
        """Begin to sync `fd`; none is under way. Errors: OSError."""

    def ended(self) -> bool:
        """Whether what was begun has ended; False when nothing is under way. Does not wait.
        Errors: OSError when it failed."""

    def wait(self) -> None:
        """Wait until what was begun has ended. Errors: OSError when it failed."""

    def close(self) -> None:
        """None is under way, or nobody cares for its result."""


class _Request(ctypes.Structure):
    """struct iocb, in its little-endian form."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("rw_flags", ctypes.c_uint32),
        ("opcode", ctypes.c_uint16),
        ("priority", ctypes.c_int16),
        ("fd", ctypes.c_uint32),
        ("buffer", ctypes.c_uint64),
        ("bytes", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("reserved", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("result_fd", ctypes.c_uint32),
    )


class _Event(ctypes.Structure):
    """struct io_event."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("request", ctypes.c_uint64),
        ("result", ctypes.c_int64),
        ("result2", ctypes.c_int64),
    )


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_int64), ("nanoseconds", ctypes.c_int64))


class KernelSyncer:
    """Asks Linux itself. Errors of making one: OSError where the call is not to be had."""

    def __init__(self) -> None:
        if platform.machine() not in _CALLS:
            raise OSError(errno.ENOSYS, f"not known on {platform.machine()}")
        self._setup, self._destroy, self._submit, self._getevents = _CALLS[platform.machine()]
        # Calls that don't wait keep the interpreter's lock: giving it up costs a switch of threads.
        self._quick = ctypes.PyDLL(None, use_errno=True).syscall
        self._patient = ctypes.CDLL(None, use_errno=True).syscall
        self._context = ctypes.c_ulong()
        self._event = _Event()
        self._now = _Timespec()
        self._call(self._quick, self._setup, 1, ctypes.byref(self._context))
        self.wakeup_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._request = _Request(opcode=_FDSYNC, flags=_RESFD, result_fd=self.wakeup_fd)
        self._requests = (ctypes.POINTER(_Request) * 1)(ctypes.pointer(self._request))
        try:
            self._probe()
        except OSError:
            self.close()
            raise

    def begin(self, fd: int) -> None:
        self._request.fd = fd
        self._call(self._quick, self._submit, self._context, 1, self._requests)

    def ended(self) -> bool:
        return self._reap(self._quick, 0, ctypes.byref(self._now))

    def wait(self) -> None:
        while not self._reap(self._patient, 1, None):
            pass

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._call(self._patient, self._destroy, self._context)
        os.close(self.wakeup_fd)

    def _reap(self, syscall: Callable[..., int], at_least: int, timeout: object) -> bool:
        # First the event, which is told after the result is there: so none stays behind.
        _drain(self.wakeup_fd)
        arguments = (self._context, at_least, 1, ctypes.byref(self._event), timeout)
        try:
            if self._call(syscall, self._getevents, *arguments) == 0:
                return False
        except InterruptedError:
            return False
        if self._event.result < 0:
            raise OSError(-self._event.result, os.strerror(-self._event.result))
        return True

    def _probe(self) -> None:
        """Whether this kernel knows such a request: of a file in memory it ends at once."""
        fd = os.memfd_create("diptych-sync", os.MFD_CLOEXEC)
        try:
            self.begin(fd)
            self.wait()
        finally:
            os.close(fd)

    @staticmethod
    def _call(syscall: Callable[..., int], *arguments: object) -> int:
        result = syscall(*(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result


class ThreadSyncer:
    """A thread that calls `sync`."""

    def __init__(self, sync: Callable[[int], None]) -> None:
        self._sync = sync
        self.wakeup_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._wanted: SimpleQueue[int] = SimpleQueue()
        self._results: SimpleQueue[OSError | None] = SimpleQueue()
        self._telling = threading.Lock()
        """Held while a result is there and the descriptor does not say so yet."""
        self._thread = threading.Thread(target=self._run, name="diptych-log-sync", daemon=True)
        self._thread.start()

    def begin(self, fd: int) -> None:
        self._wanted.put(fd)

    def ended(self) -> bool:
        if self._results.empty():
            return False
        self.wait()
        return True

    def wait(self) -> None:
        failure = self._results.get()
        with self._telling:
            _drain(self.wakeup_fd)
        if failure is not None:
            raise failure

    def close(self) -> None:
        self._wanted.put(-1)
        self._thread.join()
        os.close(self.wakeup_fd)

    def _run(self) -> None:
        while (fd := self._wanted.get()) >= 0:
            result = None
            try:
                self._sync(fd)
            except OSError as failure:
                result = failure
            with self._telling:
                self._results.put(result)
                os.eventfd_write(self.wakeup_fd, 1)


def best_syncer(sync: Callable[[int], None]) -> Syncer:
    """That of the kernel, or a thread that calls `sync`."""
    try:
        return KernelSyncer()
    except OSError:
        return ThreadSyncer(sync)


def _drain(fd: int) -> None:
    with contextlib.suppress(BlockingIOError):
        os.eventfd_read(fd)
