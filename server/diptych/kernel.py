"""The one way functions are compiled: Numba's `njit`, cached on disk.

A kernel is a free function over arrays and integers: everything that happens per frame, per page or
per row in bulk is one. It knows nothing of objects, processes or policy, and calls only kernels.
With `NUMBA_DISABLE_JIT=1` kernels run as plain Python, so that they can be debugged and covered.

Giving up the interpreter lock and taking it again costs more (0.12 us) than most kernels take to
run, so only `bulk_kernel`s do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
from numba import types

F = TypeVar("F", bound=Callable[..., Any])


def kernel(function: F) -> F:
    """Compile `function` on its first call for each combination of argument types.

    It cannot create arrays: Numba counts references to arrays only where that is possible, and the
    counting would cost as much as a lookup.
    """
    return _compiled(function, {"cache": True, "_nrt": False})


def bulk_kernel(function: F) -> F:
    """The same for what runs long, or creates arrays: other threads go on meanwhile."""
    return _compiled(function, {"cache": True, "nogil": True})


def _compiled(function: F, options: dict[str, Any]) -> F:
    dispatcher: Any = numba.njit(**options)(function)
    compiled: F = dispatcher
    return compiled


def direct(function: F, integers: int) -> F:
    """The kernel `function(words, int, ...)`, with so many integers, without Numba's dispatch.

    Dispatch looks at the types of the arguments, which takes as long again as a short kernel. Here
    the caller vouches for them: an array of int64, C order, then Python ints within 64 bits;
    anything else is undefined. Compiles the kernel if that has not happened.
    """
    dispatcher: Any = function
    if not hasattr(dispatcher, "overloads"):
        return function  # NUMBA_DISABLE_JIT=1
    signature = (types.int64[::1], *(types.int64,) * integers)
    dispatcher.compile(signature)
    entry: F = dispatcher.overloads[signature].entry_point
    return entry
