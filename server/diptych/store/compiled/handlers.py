"""From an operation to a callable that stands in for its function: `compiled_handlers`.

The function is compiled for the types of its parameters; a small entry beside it takes the
arguments out of the scratch, calls it, and puts its value, or why it failed, back. In front of the
entry stands generated Python that packs the arguments and unpacks the value. So one call from
Python is one int in and one int out, and the entry could be called from compiled code as well.

What the entry can't tell is told by the interpreted function: the call is rolled back to where it
began and run again on the same bytes, which raises the true error with its true traceback.
"""

from __future__ import annotations

import itertools
import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numba
from numba.core import config, types
from numba.core.errors import NumbaError
from numba.extending import intrinsic

from diptych.app import App, Operation
from diptych.errors import DeclarationError
from diptych.memory import Region
from diptych.schema import MISSING
from diptych.store import calls, random
from diptych.store import layout as layouts
from diptych.store import words as at
from diptych.store.compiled.native import (
    STATUS_FAULT,
    Native,
    call_native,
    cell,
    load,
    load_scratch,
    native,
    store_scratch,
)
from diptych.store.compiled.pipeline import dispatcher_of
from diptych.store.compiled.rejections import rejection, store_fault
from diptych.store.compiled.shapes import (
    Answer,
    Arguments,
    Words,
    parameter_type,
    read_argument,
    words_count,
    write_answer,
)
from diptych.store.compiled.source import place_of
from diptych.store.compiled.types import I32, I64, DbType, Refused
from diptych.store.database import Database
from diptych.store.faults import OverBudgetNow

Handler = Callable[..., Any]
INTERPRETED_CODES = (at.UNEXPECTED, at.NOT_LIVE, at.CURSOR_LOST)

_tags = itertools.count(1)
_compiled: WeakKeyDictionary[App, dict[str, Entry]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Entry:
    """One operation, compiled. `call(address)` runs it for a region and returns 0 or a code."""

    operation: Operation
    call: Callable[[int], int]
    arguments: Arguments
    answer: Answer
    expression: str


def compiled_handlers(app: App, region: Region) -> dict[str, Handler]:
    """A callable `(db, *arguments)` for each transaction that is to be compiled, by name.

    In an app that compiles its handlers, those are the ones that don't opt out; in another one
    all of them, since its lane was chosen from outside. Errors: DeclarationError, with file and
    line, for a handler that can't be compiled. Compiling takes seconds, once a process.
    """
    if config.DISABLE_JIT:
        raise DeclarationError("the compiled lane can't run with NUMBA_DISABLE_JIT")
    if app not in _compiled:
        tables = layouts.of_app(app).tables
        db = DbType(f"{app.name}#{next(_tags)}", tables)
        _compiled[app] = {
            operation.name: compile_operation(operation, db)
            for operation in app.operations
            if operation.kind == "transaction" and (operation.compiled or not app.compiled)
        }
    return {name: bind(entry, region) for name, entry in _compiled[app].items()}


def check_handlers(app: App) -> dict[str, str]:
    """Why each transaction that is marked compiled can't be, with file and line, or "", by name."""
    tables = layouts.plan(list(app.tables.values())).tables
    db = DbType(f"{app.name}#{next(_tags)}", tables)
    found = {}
    for operation in app.operations:
        if operation.kind == "transaction" and operation.compiled:
            try:
                compile_operation(operation, db)
                found[operation.name] = ""
            except DeclarationError as error:
                found[operation.name] = str(error)
    return found


def compile_operation(operation: Operation, db: DbType) -> Entry:
    """Compile one operation. Errors: DeclarationError."""
    where = place_of(operation.function)
    kinds = [parameter_type(p.value, f"{where}, {p.name}") for p in operation.parameters]
    Refused.latest = None
    try:
        symbol = f"diptych_handler_{db.name}_{operation.name}"
        handler = native(dispatcher_of(operation.function), (db, *kinds), symbol)
    except NumbaError as error:
        raise DeclarationError(explain(error, where)) from error
    answer = Answer()
    try:
        expression = answer.add(handler.result)
    except TypeError as unfit:
        raise DeclarationError(f"{where}: a compiled handler can't return {unfit}") from None
    if (
        sum(map(words_count, kinds)) > at.CALL_ARGUMENTS_MAX
        or words_count(handler.result) > at.CALL_ANSWER_MAX
    ):
        raise DeclarationError(f"{where}: its arguments or its result are too large to compile")
    arguments = Arguments()
    for i, parameter in enumerate(operation.parameters):
        arguments.add_parameter(parameter.value, f"a{i}")
    return Entry(operation, _entry(handler), arguments, answer, expression)


def explain(error: NumbaError, where: str) -> str:
    """Numba's error, or the refusal of ours that it grew from, in a line or two with the place."""
    refused, text = Refused.latest, str(error)
    places = re.findall(r'File "([^"]+)", line (\d+)', text)
    lines = [line for line in text.strip().splitlines() if not line.startswith("Failed in ")]
    message = lines[0] if lines else text
    if refused is not None and refused.message in text:
        message = refused.message
        if refused.where is not None:
            places = [(refused.where.filename, refused.where.line)]
    if places:
        where = f"{os.path.abspath(places[0][0])}:{places[0][1]}"
    return f"{where}: can't be compiled: {message}"


def _entry(handler: Native) -> Callable[[int], int]:
    """Compiled code that calls a handler with words from the scratch and leaves words there."""

    @intrinsic
    def call(typing_context: Any, base: Any) -> Any:
        return types.int64(types.int64), lambda c, b, s, a: _lower_call(handler, c, b, a[0])

    @numba.njit(types.int64(types.int64))
    def entry(base: int) -> int:
        code: int = call(base)
        return code

    made: Callable[[int], int] = entry
    return made


def _lower_call(handler: Native, context: Any, builder: Any, base: Any) -> Any:
    builder.store(base, cell(builder))
    top = load_scratch(builder, base, at.S_UNDO_TOP)
    store_scratch(builder, base, at.S_CALL_MARK, top)
    store_scratch(builder, base, at.S_BUILT_USED, 0)
    first = builder.add(load(builder, base, at.SCRATCH), I64(at.S_CALL_ARGUMENTS))
    words = Words(builder, builder.add(base, builder.shl(first, I64(3))))
    arguments = [read_argument(context, builder, kind, words) for kind in handler.arguments[1:]]
    status, value = call_native(context, builder, handler, [base, *arguments])
    result = builder.alloca(I64)
    builder.store(I64(0), result)
    with builder.if_else(builder.not_(status.is_error), likely=True) as (good, bad):
        with good:
            for i, part in enumerate(write_answer(context, builder, handler.result, value)):
                store_scratch(builder, base, at.S_CALL_ANSWER + i, part)
        with bad:
            told = builder.icmp_signed("==", status.code, I32(STATUS_FAULT))
            code = load_scratch(builder, base, at.S_CALL_CODE)
            builder.store(builder.select(told, code, I64(at.UNEXPECTED)), result)
    return builder.load(result)


def bind(entry: Entry, region: Region) -> Handler:
    """The callable for one region, as generated source, since it runs for every call."""
    operation = entry.operation
    packer = struct.Struct("<" + "".join(entry.arguments.codes))
    unpacker = struct.Struct("<" + "".join(entry.answer.codes))
    parameters, names = ["db"], []
    known: dict[str, Any] = {
        **entry.arguments.names,
        **entry.answer.names,
        "pack": packer.pack_into,
        "unpack": unpacker.unpack_from,
        "scratch": region.scratch,
        "call": entry.call,
        "address": region.address,
        "failed": failed,
        "function": operation.function,
        "packing_errors": (struct.error, TypeError, AttributeError, OverflowError, IndexError),
    }
    for i, parameter in enumerate(operation.parameters):
        names.append(f"a{i}")
        if parameter.default is MISSING:
            parameters.append(f"a{i}")
        else:
            parameters.append(f"a{i}=default_{i}")
            known[f"default_{i}"] = parameter.default
    given = "".join(f"{name}, " for name in names)
    packed = "".join(f", {expression}" for expression in entry.arguments.expressions)
    lists = "".join(f"        {statement}\n" for statement in entry.arguments.statements)
    source = (
        f"def run({', '.join(parameters)}):\n"
        "    try:\n"
        f"        pack(scratch, {at.S_CALL_ARGUMENTS * 8}{packed})\n"
        f"{lists}"
        "    except packing_errors:\n"
        f"        return function(db, {given})\n"
        "    code = call(address)\n"
        "    if code:\n"
        f"        return failed(code, function, db, ({given}))\n"
        f"    w = unpack(scratch, {at.S_CALL_ANSWER * 8})\n"
        f"    return {entry.expression}\n"
    )
    exec(compile(source, f"<compiled {operation.name}>", "exec"), known)
    made: Handler = known["run"]
    made.__name__ = made.__qualname__ = operation.name
    return made


def failed(code: int, function: Handler, db: Database, arguments: tuple[Any, ...]) -> Any:
    """Raise what a code means; what it can't tell, the interpreted function does or returns."""
    if code == at.REJECTED:
        raise rejection(db.space.scratch[at.S_CALL_REASON], db)
    if db.space.is_over_budget():
        raise OverBudgetNow
    if code in INTERPRETED_CODES:
        calls.rollback(db.space.words, db.space.scratch[at.S_CALL_MARK])
        random.restart(db.space)
        return function(db, *arguments)
    raise store_fault(code, db)
