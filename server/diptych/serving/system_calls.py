"""System calls from kernels: sockets read and written, many in one go, with no object for each.

Nothing here ever waits. Kernels get a descriptor and an address; a result below 0 is an error's
number, negative. `ready` fills rows with the descriptors that an epoll object, made in Python,
knows to be ready. Whoever calls must be sure that a descriptor is still the socket it means.

With `NUMBA_DISABLE_JIT=1` the C library's functions are called through ctypes.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import socket
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import config
from numba.extending import intrinsic

from diptych.kernel import kernel

AGAIN = -int(errno.EAGAIN)
"""Result of a call that would have to wait."""
_EVENT_BYTES = 12 if platform.machine() == "x86_64" else 16
"""Of struct epoll_event, which x86-64 packs."""
_FD_AT = _EVENT_BYTES - 8
_MONOTONIC = 1
_FLAGS = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

_recv: Any
_send: Any
_epoll_wait: Any
_clock_gettime: Any
_errno: Any

_types: Any = numba.types  # its stubs lack these names
if config.DISABLE_JIT:
    _libc = ctypes.CDLL(None, use_errno=True)
    _recv, _send, _epoll_wait = _libc.recv, _libc.send, _libc.epoll_wait
    for _call in (_recv, _send):
        _call.argtypes = (ctypes.c_int32, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int32)
        _call.restype = ctypes.c_ssize_t
    _epoll_wait.argtypes = (ctypes.c_int32, ctypes.c_size_t, ctypes.c_int32, ctypes.c_int32)
    _clock_gettime = _libc.clock_gettime
    _clock_gettime.argtypes = (ctypes.c_int32, ctypes.c_size_t)
    _errno = ctypes.get_errno
else:
    _transfer = _types.intp(_types.int32, _types.uintp, _types.uintp, _types.int32)
    _recv = _types.ExternalFunction("recv", _transfer)
    _send = _types.ExternalFunction("send", _transfer)
    _epoll_wait = _types.ExternalFunction(
        "epoll_wait", _types.int32(_types.int32, _types.uintp, _types.int32, _types.int32)
    )
    _clock_gettime = _types.ExternalFunction(
        "clock_gettime", _types.int32(_types.int32, _types.uintp)
    )
    _errno_location = _types.ExternalFunction("__errno_location", _types.uintp())

    def _load(context: Any, address: Any) -> Any:
        """Code of `int32 load(address)`."""

        def code(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
            kind = builder.inttoptr(arguments[0], ir.IntType(32).as_pointer())
            return builder.load(kind)

        return _types.int32(_types.uintp), code

    _int32_at: Any = intrinsic(_load)

    @kernel
    def _errno() -> int:
        number: int = _int32_at(_errno_location())
        return number


def events_for(count: int) -> npt.NDArray[np.uint8]:
    """Room in which `ready` is told of so many sockets at a time."""
    return np.zeros(count * _EVENT_BYTES, np.uint8)


@kernel
def receive(fd: int, address: int, size: int) -> int:
    """How many bytes came, 0 at the end of the stream."""
    count: int = _recv(fd, address, size, _FLAGS)
    return count if count >= 0 else -_errno()


@kernel
def send_some(fd: int, address: int, size: int) -> int:
    """How many bytes the socket took."""
    count: int = _send(fd, address, size, _FLAGS)
    return count if count >= 0 else -_errno()


@kernel
def ready(epoll_fd: int, events: npt.NDArray[np.uint8], found: npt.NDArray[np.int64]) -> int:
    """Sockets that are ready now: descriptor and events of each, in rows of `found`."""
    room = min(len(events) // _EVENT_BYTES, len(found))
    count: int = max(0, _epoll_wait(epoll_fd, events.ctypes.data, room, 0))
    for i in range(count):
        for column, start in ((0, _FD_AT), (1, 0)):
            value = np.int64(0)
            for byte in range(4):
                value |= np.int64(events[i * _EVENT_BYTES + start + byte]) << (8 * byte)
            found[i, column] = value
    return count


@kernel
def monotonic_ns(work: npt.NDArray[np.int64]) -> int:
    """What `time.monotonic_ns` says. `work`: two words."""
    _clock_gettime(_MONOTONIC, work.ctypes.data)
    now_ns: int = work[0] * 1_000_000_000 + work[1]
    return now_ns
