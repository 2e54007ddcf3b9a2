"""Words and kernels as generated code reaches them, and how it leaves a handler that can't go on.

Kernels are called out of line, at the addresses of the code that the interpreted lane runs too: a
handler's code stays small, compiles quickly, and can't differ. They get the array of words as a
plain struct around the region's address, which owns nothing and is counted by nobody.

A failure leaves a code in the scratch and returns from function after function with a status, as
Numba's own exceptions do, but without making one. Where a function was given no database, the
region is found in a cell that each call sets first; calls hold the interpreter lock, so there is
one at a time.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.imputils import fix_returning_optional
from numba.core.typing.templates import signature
from numba.np.arrayobj import make_array, populate_array

from diptych.store import btree, built, hashing, random, rows, texts
from diptych.store import words as at
from diptych.store.compiled.types import I32, I64

STATUS_UNEXPECTED = 1  # what Numba itself returns for an exception
STATUS_FAULT = 2  # the code is in the scratch
WORDS = types.Array(types.int64, 1, "C")
WORDS_MAX = 1 << 48  # kernels do not look at the length
KERNELS = {
    "find": (hashing.find, 1),
    "find1": (hashing.find1, 2),
    "insert": (rows.insert, 1),
    "assign": (rows.assign, 4),
    "delete": (rows.delete, 2),
    "update": (rows.update, 4),
    "update_words": (rows.update_words, 4),
    "next_row": (rows.next_row, 2),
    "open_cursor": (btree.open_cursor, 5),
    "advance": (btree.advance, 1),
    "first": (btree.first, 3),
    "fraction": (random.fraction, 0),
    "integer": (random.integer, 2),
    "empty": (built.empty, 0),
    "append": (built.append, 2),
    "set_contains": (built.set_contains, 2),
    "set_add": (built.set_add, 2),
    "join": (texts.join, 3),
    "join_int": (texts.join_int, 4),
    "keep": (texts.keep, 2),
    "characters": (texts.characters, 1),
    "contains": (texts.contains, 3),
}
PREFIX = "diptych_"
"""Of the names under which generated code calls kernels."""
CELL = "diptych_region"

_cell = ctypes.c_int64(0)
llvm.add_symbol(CELL, ctypes.addressof(_cell))


@dataclass(frozen=True)
class Native:
    """Compiled code that other compiled code calls by its address, under the name `symbol`."""

    symbol: str
    arguments: tuple[Any, ...]
    result: Any


_natives: dict[str, Native] = {}


def native(dispatcher: Any, arguments: tuple[Any, ...], symbol: str) -> Native:
    """Compile a Numba function for these argument types and publish its address."""
    dispatcher.compile(arguments)
    compiled = dispatcher.overloads[arguments]
    address = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
    if not address:
        raise RuntimeError(f"Numba does not tell where {symbol} is")
    llvm.add_symbol(symbol, address)
    return Native(symbol, arguments, compiled.signature.return_type)


def call_native(context: Any, builder: Any, callee: Native, arguments: list[Any]) -> Any:
    """Call it: its status, and what it returned."""
    kind = context.call_conv.get_function_type(callee.result, callee.arguments)
    function = cgutils.get_or_insert_function(builder.module, kind, callee.symbol)
    status, value = context.call_conv.call_function(
        builder, function, callee.result, callee.arguments, arguments
    )
    made = signature(callee.result, *callee.arguments)  # None is told by the status alone
    return status, fix_returning_optional(context, builder, made, status, value)


def call_kernel(context: Any, builder: Any, name: str, base: Any, *arguments: Any) -> Any:
    """What a kernel returns for the region at `base`."""
    publish(PREFIX + name)
    values = [words_array(context, builder, base), *(word(value) for value in arguments)]
    status, result = call_native(context, builder, _natives[name], values)
    with builder.if_then(status.is_error, likely=False):
        builder.ret(I32(STATUS_UNEXPECTED))
    return result


def publish(symbol: str) -> None:
    """Make the kernel known that generated code calls by this name; other names are left alone."""
    name = symbol.removeprefix(PREFIX)
    if name in KERNELS and name not in _natives:
        kernel, count = KERNELS[name]
        _natives[name] = native(kernel, (WORDS, *(types.int64,) * count), PREFIX + name)


def words_array(context: Any, builder: Any, base: Any) -> Any:
    """The array of words that begins at `base`, without an owner."""
    array = make_array(WORDS)(context, builder)
    populate_array(
        array,
        data=builder.inttoptr(base, I64.as_pointer()),
        shape=cgutils.pack_array(builder, [I64(WORDS_MAX)]),
        strides=cgutils.pack_array(builder, [I64(8)]),
        itemsize=I64(8),
        meminfo=None,
    )
    return array._getvalue()


def word(value: Any) -> Any:
    """An int as a constant; what is generated code already, as it is."""
    return I64(value) if isinstance(value, int) else value


def pointer(builder: Any, base: Any, position: Any) -> Any:
    address = builder.add(base, builder.shl(word(position), I64(3)))
    return builder.inttoptr(address, I64.as_pointer())


def load(builder: Any, base: Any, position: Any) -> Any:
    """The word at a position of the region."""
    return builder.load(pointer(builder, base, position))


def store_scratch(builder: Any, base: Any, position: Any, value: Any) -> None:
    """Write a word of the scratch, which no undo log knows; `position` from its beginning."""
    scratch = load(builder, base, at.SCRATCH)
    builder.store(word(value), pointer(builder, base, builder.add(scratch, word(position))))


def put_arguments(builder: Any, base: Any, words: list[Any], first: int = at.S_ARGUMENT) -> None:
    """Write the arguments of a kernel, which begin at word `first` of the scratch."""
    scratch = load(builder, base, at.SCRATCH)
    for i, value in enumerate(words):
        place = pointer(builder, base, builder.add(scratch, word(first + i)))
        builder.store(word(value), place)


def load_scratch(builder: Any, base: Any, position: Any) -> Any:
    return load(builder, base, builder.add(load(builder, base, at.SCRATCH), word(position)))


def cell(builder: Any) -> Any:
    """Where the address of the region is kept that the call now running is about."""
    known = builder.module.globals.get(CELL)
    return known if known is not None else ir.GlobalVariable(builder.module, I64, CELL)


def leave(builder: Any, base: Any, code: Any) -> None:
    """End the handler with a code. Ends the block that is built."""
    store_scratch(builder, base, at.S_CALL_CODE, code)
    builder.ret(I32(STATUS_FAULT))


def leave_if(builder: Any, condition: Any, base: Any, code: Any) -> None:
    with builder.if_then(condition, likely=False):
        leave(builder, base, code)


def leave_if_negative(builder: Any, base: Any, result: Any) -> None:
    """End the handler when a kernel returned a negative code."""
    leave_if(builder, builder.icmp_signed("<", result, I64(0)), base, result)


def leave_unless_searched(builder: Any, base: Any, row: Any) -> None:
    """End the handler when a kernel that looks for a row returned another code than NOT_FOUND."""
    leave_if(builder, builder.icmp_signed("<", row, I64(at.NOT_FOUND)), base, row)


def give_up_if(builder: Any, condition: Any) -> None:
    """End the handler with what only the interpreter can tell: the call is run by it again."""
    with builder.if_then(condition, likely=False):
        builder.ret(I32(STATUS_UNEXPECTED))
