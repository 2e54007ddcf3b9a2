"""Machine code as bytes: taken from Numba when it has compiled, and loaded without its compiler.

An operation's code is two object files: the handler with its helpers, and an *entry* in front of it
with the C convention, the region's address in, 0 or a code out. The entry takes the arguments out
of the scratch, calls the handler, and leaves its value there, or says why it failed.

What is loaded lies in an engine of its own, so that names of two applications never meet. Fresh
code and code from a file take the same way. Knows nothing of files.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core.registry import cpu_target

from diptych.errors import CorruptionError
from diptych.store import words as at
from diptych.store.compiled.native import (
    STATUS_FAULT,
    Native,
    call_native,
    cell,
    load,
    load_scratch,
    publish,
    store_scratch,
)
from diptych.store.compiled.shapes import Words, read_argument, write_answer
from diptych.store.compiled.types import I32, I64, Refused

_numbers = itertools.count(1)
_loaded: list[Any] = []  # what is called by address stays for as long as the process runs


@dataclass(frozen=True)
class Code:
    """An operation's code: object files, the symbol to call, and those it needs from outside."""

    entry: str
    objects: tuple[bytes, ...]
    needs: tuple[str, ...]


@dataclass(frozen=True)
class Handler:
    """A handler that Numba has compiled."""

    native: Native
    library: Any


def compile_handler(dispatcher: Any, arguments: tuple[Any, ...]) -> Handler:
    """Compile a function for these argument types. Errors: NumbaError, when that can't be."""
    dispatcher.compile(arguments)
    made = dispatcher.overloads[arguments]
    symbol = made.fndesc.llvm_func_name
    return Handler(Native(symbol, arguments, made.signature.return_type), made.library)


def make_code(handler: Handler, name: str) -> Code:
    """A handler's code, with an entry. Errors: Refused, when it holds for this process alone."""
    entry = f"diptych_entry_{name}_{next(_numbers)}"  # Numba's own engine has those of all apps
    objects, needs = [], set()
    for library in (handler.library, _entry_library(handler.native, entry)):
        if library.has_dynamic_globals:
            raise Refused(f"{name} refers to objects of this process")
        objects.append(bytes(library.serialize_using_object_code()[2][0]))
        needs |= _undefined(library)
    return Code(entry, tuple(objects), tuple(sorted(needs - {handler.native.symbol})))


def missing_symbols(codes: Sequence[Code]) -> list[str]:
    """What this code needs and this process does not have. Kernels are made ready."""
    names = sorted({name for code in codes for name in code.needs})
    for name in names:
        publish(name)
    return [name for name in names if llvm.address_of_symbol(name) is None]


def load_code(codes: Sequence[Code]) -> list[int]:
    """The addresses of their entries. Errors: CorruptionError."""
    missing = missing_symbols(codes)
    if missing:  # an engine that misses one would end the process
        raise CorruptionError(f"compiled handlers need {', '.join(missing)}")
    module = llvm.parse_assembly("")
    module.triple = llvm.get_process_triple()
    target = llvm.Target.from_triple(module.triple)
    # As Numba has it; the code itself is made already.
    machine = target.create_target_machine(reloc="static", codemodel="jitdefault", jit=True)
    engine = llvm.create_mcjit_compiler(module, machine)
    files = [llvm.ObjectFileRef.from_data(each) for code in codes for each in code.objects]
    for file in files:
        engine.add_object_file(file)
    engine.finalize_object()
    addresses = [engine.get_function_address(code.entry) for code in codes]
    if not all(addresses):
        raise CorruptionError("an entry of compiled handlers is not in its object file")
    _loaded.append((engine, files, codes))
    return addresses


def _undefined(library: Any) -> set[str]:
    """The symbols that a library's code needs from outside of it."""
    module = library._final_module
    found = {each.name for each in module.functions if each.is_declaration}
    found |= {each.name for each in module.global_variables if each.is_declaration}
    return {name for name in found if not name.startswith("llvm.")}


def _entry_library(handler: Native, symbol: str) -> Any:
    """Code that calls a handler with words from the scratch and leaves words there.

    Within it stands a function that ends with a status, as handlers do, since reading arguments and
    writing the answer may give the call up, too.
    """
    context = cpu_target.target_context
    library = context.codegen().create_library(symbol)
    library.enable_object_caching()
    module = library.create_ir_module(symbol)
    body = ir.Function(module, ir.FunctionType(I32, [I64]), f"{symbol}_body")
    body.linkage = "internal"
    _lower_body(handler, context, ir.IRBuilder(body.append_basic_block()), body.args[0])
    entry = ir.Function(module, ir.FunctionType(I64, [I64]), symbol)
    _lower_entry(body, ir.IRBuilder(entry.append_basic_block()), entry.args[0])
    library.add_ir_module(module)
    library.finalize()
    return library


def _lower_body(handler: Native, context: Any, builder: Any, base: Any) -> None:
    first = builder.add(load(builder, base, at.SCRATCH), I64(at.S_CALL_ARGUMENTS))
    words = Words(builder, builder.add(base, builder.shl(first, I64(3))))
    arguments = [read_argument(context, builder, kind, words) for kind in handler.arguments[1:]]
    status, value = call_native(context, builder, handler, [base, *arguments])
    with builder.if_then(status.is_error, likely=False):
        builder.ret(status.code)
    for i, part in enumerate(write_answer(context, builder, handler.result, value)):
        store_scratch(builder, base, at.S_CALL_ANSWER + i, part)
    builder.ret(I32(0))


def _lower_entry(body: Any, builder: Any, base: Any) -> None:
    builder.store(base, cell(builder))
    store_scratch(builder, base, at.S_BUILT_USED, 0)
    status = builder.call(body, [base])
    with builder.if_then(builder.icmp_signed("==", status, I32(0)), likely=True):
        builder.ret(I64(0))
    told = builder.icmp_signed("==", status, I32(STATUS_FAULT))
    code = load_scratch(builder, base, at.S_CALL_CODE)
    builder.ret(builder.select(told, code, I64(at.UNEXPECTED)))
