"""Calling compiled operations from kernels, by address.

An entry is machine code with the C convention: the region's address in, 0 or a code out. Kernels
that call it need not be compiled for it, so they stay in their cache whatever an application does.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

_I64 = ir.IntType(64)
_ENTRY = ir.FunctionType(_I64, [_I64])


@intrinsic
def call_entry(typing_context: Any, entry: Any, base: Any) -> Any:
    """What the entry at address `entry` returns for the region at `base`."""

    def lowered(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        function = builder.inttoptr(arguments[0], _ENTRY.as_pointer())
        return builder.call(function, [arguments[1]])

    return types.int64(types.int64, types.int64), lowered
