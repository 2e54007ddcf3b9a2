"""The one way functions are compiled: `@kernel` is Numba's `njit`, cached on disk, without the interpreter lock.

A kernel is a free function over arrays and integers: everything that happens per frame, per page or
per row in bulk is one. It knows nothing of objects, processes or policy, and calls only kernels.
With `NUMBA_DISABLE_JIT=1` kernels run as plain Python, so that they can be debugged and covered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

F = TypeVar("F", bound=Callable[..., Any])


def kernel(function: F) -> F:
    """Compile `function` on its first call for each combination of argument types."""
    compiled: F = numba.njit(cache=True, nogil=True)(function)
    return compiled
