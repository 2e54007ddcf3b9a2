"""From an operation to machine code that a kernel calls: `compiled_operations`.

The function is compiled for the types of its parameters; a small entry beside it takes the
arguments out of the scratch, calls it, and puts its value, or why it failed, back. Programs beside
that say how arguments and values are written as MessagePack. All of it is one array of words, the
table that `store.lane` works with.

What an entry can't tell is told by the interpreted function: the call is undone and run again on
the same bytes, which raises the true error with its true traceback.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numba
import numpy as np
from numba.core import config, types
from numba.core.errors import NumbaError
from numba.extending import intrinsic

from diptych.app import App, Operation
from diptych.errors import DeclarationError
from diptych.store import lane
from diptych.store import layout as layouts
from diptych.store import words as at
from diptych.store.compiled import rejections
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
from diptych.store.compiled.programs import answer_program, arguments_program
from diptych.store.compiled.shapes import (
    Words,
    parameter_type,
    read_argument,
    words_count,
    write_answer,
)
from diptych.store.compiled.source import place_of
from diptych.store.compiled.types import I32, I64, DbType, Refused
from diptych.store.lane import Compiled
from diptych_client.protocol import Kind

KINDS = {"transaction": int(Kind.TRANSACTION), "query": int(Kind.QUERY)}

_tags = itertools.count(1)
_compiled: WeakKeyDictionary[App, dict[bool, Compiled]] = WeakKeyDictionary()
_entries: list[Any] = []  # whose code is called by address: kept for as long as the process runs


@dataclass(frozen=True)
class Entry:
    """One operation, compiled: the address of its code, and its programs."""

    operation: Operation
    address: int
    arguments: list[int]
    answer: list[int]


def compiled_operations(app: App, *, every: bool = False) -> Compiled:
    """An application's operations that are marked compiled, or beside those all transactions.

    Errors: DeclarationError, with file and line, for a handler that can't be compiled. Compiling
    takes seconds, once a process.
    """
    if config.DISABLE_JIT:
        raise DeclarationError("the compiled lane can't run with NUMBA_DISABLE_JIT")
    known = _compiled.setdefault(app, {})
    if every not in known:
        tables = layouts.of_app(app).tables
        dbs = db_types(app, tables)
        entries = [compile_operation(each, dbs[each.kind]) for each in chosen(app, every)]
        known[every] = Compiled(
            table_of(entries),
            frozenset(e.operation.number for e in entries if e.operation.kind == "transaction"),
            frozenset(e.operation.number for e in entries if e.operation.kind == "query"),
        )
    return known[every]


def chosen(app: App, every: bool) -> list[Operation]:
    """The operations that are to be compiled."""
    return [
        each for each in app.operations if each.compiled or (every and each.kind == "transaction")
    ]


def db_types(app: App, tables: Sequence[layouts.TableLayout]) -> dict[str, DbType]:
    """The `db` of each kind of operation."""
    tag = f"{app.name}#{next(_tags)}"
    return {
        "transaction": DbType(tag, tables),
        "query": DbType(f"{tag} read-only", tables, writable=False),
    }


def table_of(entries: Iterable[Entry]) -> Any:
    """The table of `store.lane`: int64 words."""
    entries = list(entries)
    numbers = max((entry.operation.number for entry in entries), default=-1) + 1
    table = [0] * (lane.TABLE_OPERATIONS + numbers * lane.OP_WORDS)
    table[lane.TABLE_NUMBERS] = numbers
    for entry in entries:
        place = lane.TABLE_OPERATIONS + entry.operation.number * lane.OP_WORDS
        table[place + lane.OP_ENTRY] = entry.address
        table[place + lane.OP_KIND] = KINDS[entry.operation.kind]
        for word, program in ((lane.OP_ARGUMENTS, entry.arguments), (lane.OP_ANSWER, entry.answer)):
            table[place + word] = len(table)
            table += program
    places = []
    for program in rejections.programs:
        places.append(len(table))
        table += program
    table[lane.TABLE_REJECTIONS] = len(table)
    return np.array(table + places, np.int64)


def check_handlers(app: App) -> dict[str, str]:
    """Why each operation that is marked compiled can't be, with file and line, or "", by name."""
    dbs = db_types(app, layouts.plan(list(app.tables.values())).tables)
    found = {}
    for operation in chosen(app, False):
        try:
            compile_operation(operation, dbs[operation.kind])
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
    try:
        answer = answer_program(handler.result)
    except TypeError as unfit:
        raise DeclarationError(f"{where}: a compiled handler can't return {unfit}") from None
    if (
        sum(map(words_count, kinds)) > at.CALL_ARGUMENTS_MAX
        or words_count(handler.result) > at.CALL_ANSWER_MAX
    ):
        raise DeclarationError(f"{where}: its arguments or its result are too large to compile")
    return Entry(operation, _entry(handler), arguments_program(operation), answer)


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


def _entry(handler: Native) -> int:
    """The address of code that calls a handler with words from the scratch."""

    @intrinsic
    def call(typing_context: Any, base: Any) -> Any:
        return types.int64(types.int64), lambda c, b, s, a: _lower_call(handler, c, b, a[0])

    @numba.cfunc(types.int64(types.int64))
    def entry(base: int) -> int:
        code: int = call(base)
        return code

    _entries.append(entry)
    address: int = entry.address
    return address


def _lower_call(handler: Native, context: Any, builder: Any, base: Any) -> Any:
    builder.store(base, cell(builder))
    top = load_scratch(builder, base, at.S_UNDO_TOP)
    store_scratch(builder, base, at.S_CALL_MARK, top)
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
