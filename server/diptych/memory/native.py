"""C library functions as kernels can call them: no interpreter, no lock, and cached on disk.

A kernel refers to them by name, so its cached machine code is valid in every process. With
`NUMBA_DISABLE_JIT=1` the same names are ctypes functions. Addresses are integers; nothing is
checked. `ioctl` is variadic in C; the Linux calling conventions of x86-64 and AArch64 pass its
third argument as an ordinary one.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numba

ioctl: Any
memcpy: Any
memcmp: Any
errno_location: Any

_numba: Any = numba  # its stubs lack these names
_config = _numba.config
_types = _numba.types
carray = _numba.carray

if _config.DISABLE_JIT:
    _libc = ctypes.CDLL(None, use_errno=True)
    ioctl = _libc.ioctl
    ioctl.argtypes = (ctypes.c_int32, ctypes.c_int64, ctypes.c_size_t)
    memcpy = _libc.memcpy
    memcpy.argtypes = (ctypes.c_size_t, ctypes.c_size_t, ctypes.c_size_t)
    memcpy.restype = ctypes.c_size_t
    memcmp = _libc.memcmp
    memcmp.argtypes = (ctypes.c_size_t, ctypes.c_size_t, ctypes.c_size_t)

    def errno_location() -> Any:
        """The interpreter changes errno itself; ctypes keeps what the last call left."""
        return ctypes.pointer(ctypes.c_int32(ctypes.get_errno()))
else:
    ioctl = _types.ExternalFunction("ioctl", _types.int32(_types.int32, _types.int64, _types.uintp))
    memcpy = _types.ExternalFunction(
        "memcpy", _types.uintp(_types.uintp, _types.uintp, _types.uintp)
    )
    memcmp = _types.ExternalFunction(
        "memcmp", _types.int32(_types.uintp, _types.uintp, _types.uintp)
    )
    errno_location = _types.ExternalFunction("__errno_location", _types.CPointer(_types.int32)())
