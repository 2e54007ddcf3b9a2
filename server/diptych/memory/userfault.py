"""The kernel's userfaultfd, as far as asynchronous write-tracking of shared memory needs it.

Constants are our own, since the headers of many systems do not have them yet. There is more than
one way to get a descriptor, and which of them work depends on kernel, user and container, so
callers try `OPENINGS` in order and go on at any error. Knows addresses and sizes, not regions.
"""

from __future__ import annotations

import fcntl
import os
import platform
import struct
from collections.abc import Callable

from diptych.memory import libc

# Protection faults only, and only those the kernel resolves by itself: no handler thread exists.
_USER_MODE_ONLY = 1
_SYSTEM_CALL = {"x86_64": 323, "aarch64": 282}
_DEVICE = "/dev/userfaultfd"

_API = 0xAA
_FEATURE_SHARED_MEMORY = 1 << 12
_FEATURE_UNPOPULATED = 1 << 13
_FEATURE_ASYNC = 1 << 15
_FEATURES = _FEATURE_ASYNC | _FEATURE_UNPOPULATED | _FEATURE_SHARED_MEMORY


def _command(number: int, size_bytes: int) -> int:
    return (3 << 30) | (size_bytes << 16) | (_API << 8) | number


_IOCTL_NEW = _API << 8
_IOCTL_API = _command(0x3F, 24)
_IOCTL_REGISTER = _command(0x00, 32)
_IOCTL_WRITE_PROTECT = _command(0x06, 24)
_REGISTER_MODE_PROTECT = 2
_PROTECT = 1


def _open_by_system_call() -> int:
    machine = platform.machine()
    if machine not in _SYSTEM_CALL:
        raise OSError(f"its number on {machine} is not known here")
    flags = os.O_CLOEXEC | os.O_NONBLOCK | _USER_MODE_ONLY
    return libc.system_call(_SYSTEM_CALL[machine], flags)


def _open_by_device() -> int:
    device = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        return fcntl.ioctl(device, _IOCTL_NEW, os.O_CLOEXEC | os.O_NONBLOCK)
    finally:
        os.close(device)


OPENINGS: dict[str, Callable[[], int]] = {
    "system call": _open_by_system_call,
    "/dev/userfaultfd": _open_by_device,
}


def enable(fd: int) -> None:
    """Agree on the features with the kernel; OSError when it lacks one (Linux before 6.7 does)."""
    fcntl.ioctl(fd, _IOCTL_API, struct.pack("QQQ", _API, _FEATURES, 0))


def register(fd: int, address: int, size_bytes: int) -> None:
    """From now on the kernel knows which pages of this range are written."""
    request = struct.pack("QQQQ", address, size_bytes, _REGISTER_MODE_PROTECT, 0)
    fcntl.ioctl(fd, _IOCTL_REGISTER, request)


def protect(fd: int, address: int, size_bytes: int) -> None:
    """Every page of this range counts as not written, from now on."""
    fcntl.ioctl(fd, _IOCTL_WRITE_PROTECT, struct.pack("QQQ", address, size_bytes, _PROTECT))
