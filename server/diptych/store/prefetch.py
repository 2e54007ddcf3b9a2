"""Asking the processor for memory before it is needed.

A search in an index node looks at a few places, each of which depends on the one before. Asked for
all at once, the node's cache lines arrive together, which makes a lookup in a large index a third
shorter. Without compilation it does nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from diptych.memory.layout import Words

READ, KEEP, DATA = 0, 3, 1  # arguments of LLVM's prefetch: for reading, in all caches, not code


def prefetch(words: Words, at: int) -> None:
    """Ask for the cache line of `words[at]`; no error and no effect where there is none."""


def _emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    pointer = builder.gep(array.data, [arguments[1]])
    byte_pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [byte_pointer, number, number, number])
    function = insert_function(builder.module, kind, "llvm.prefetch.p0")
    address = builder.bitcast(pointer, byte_pointer)
    builder.call(function, [address, number(READ), number(KEEP), number(DATA)])
    return context.get_dummy_value()


def _prefetch_line(typing_context: Any, words: Any, at: Any) -> Any:
    return types.void(words, types.int64), _emit


def _compiled(words: Any, at: Any) -> Callable[[Any, Any], None]:
    def lines(words: Any, at: Any) -> None:
        _line(words, at)

    return lines


insert_function: Any = cgutils.get_or_insert_function
_line: Any = intrinsic(_prefetch_line)
overload(prefetch)(_compiled)
