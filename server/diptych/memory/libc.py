"""The C library's memory calls that Python does not offer: mapping at a fixed address, and advice.

Addresses are plain integers. Every call releases the interpreter lock, and raises `OSError` with
the kernel's reason. Nothing here knows what the memory is for.
"""

from __future__ import annotations

import ctypes
import mmap
import os

MAP_FIXED = 0x10
MAP_NORESERVE = 0x4000
MADV_NOHUGEPAGE = 15
MADV_POPULATE_WRITE = 23

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int64,
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.syscall.restype = ctypes.c_long
_MAP_FAILED = ctypes.c_void_p(-1).value


def _raise(call: str) -> None:
    error = ctypes.get_errno()
    raise OSError(error, f"{call}: {os.strerror(error)}")


def reserve(size_bytes: int) -> int:
    """Address space that nothing backs yet and nothing else will get."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    return _map(0, size_bytes, 0, flags, -1)


def map_shared(address: int, size_bytes: int, fd: int, *, writable: bool) -> None:
    """Map `fd` over reserved address space."""
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    _map(address, size_bytes, protection, mmap.MAP_SHARED | MAP_FIXED, fd)


def map_private(address: int, size_bytes: int) -> None:
    """Map zeroed memory of this process's own over reserved address space."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE
    _map(address, size_bytes, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1)


def unmap(address: int, size_bytes: int) -> None:
    if _libc.munmap(address, size_bytes) != 0:
        _raise("munmap")


def advise(address: int, size_bytes: int, advice: int) -> None:
    if _libc.madvise(address, size_bytes, advice) != 0:
        _raise("madvise")


def system_call(number: int, *arguments: int) -> int:
    """A system call that the C library has no name for; returns its result."""
    result: int = _libc.syscall(
        ctypes.c_long(number), *[ctypes.c_long(argument) for argument in arguments]
    )
    if result < 0:
        _raise(f"system call {number}")
    return result


def _map(address: int, size_bytes: int, protection: int, flags: int, fd: int) -> int:
    result: int | None = _libc.mmap(address, size_bytes, protection, flags, fd, 0)
    if result is None or result == _MAP_FAILED:
        _raise("mmap")
    assert result is not None
    return result
