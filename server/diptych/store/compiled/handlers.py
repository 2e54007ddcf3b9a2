"""From an application to machine code that a kernel calls: `compiled_operations`.

Each function is compiled for the types of its parameters, with an entry in front of it (`machine`).
Programs beside that say how arguments and values are written as MessagePack. All of it is one array
of words, the table that `store.lane` works with. What was compiled is kept on disk (`code_cache`)
under all that it depends on, and loaded from there by the next process.

What an entry can't tell is told by the interpreted function: the call is undone and run again on
the same bytes, which raises the true error with its true traceback.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numba.core import config
from numba.core.errors import NumbaError

from diptych.app import App, Operation
from diptych.errors import DeclarationError
from diptych.store import lane
from diptych.store import layout as layouts
from diptych.store import words as at
from diptych.store.compiled import code_cache
from diptych.store.compiled.code_cache import Stored, StoredOperation
from diptych.store.compiled.compilation import Compilation
from diptych.store.compiled.dependencies import key_of
from diptych.store.compiled.machine import compile_handler, load_code, make_code, missing_symbols
from diptych.store.compiled.messages import explain
from diptych.store.compiled.native import KERNELS, PREFIX, publish
from diptych.store.compiled.pipeline import dispatcher_of
from diptych.store.compiled.programs import answer_program, arguments_program
from diptych.store.compiled.promptness import why_not_prompt
from diptych.store.compiled.shapes import parameter_type, words_count
from diptych.store.compiled.source import place_of
from diptych.store.compiled.types import DbType, Refused
from diptych.store.lane import Compiled
from diptych_client.protocol import Kind

KINDS = {"transaction": int(Kind.TRANSACTION), "query": int(Kind.QUERY)}
Progress = Callable[[str], None]
"""Gets a line of text for each step of compiling; nothing is told where code is loaded."""

log = logging.getLogger("diptych.compiled")

_tags = itertools.count(1)
_compiled: WeakKeyDictionary[App, dict[bool, Compiled]] = WeakKeyDictionary()


def compiled_operations(
    app: App, *, every: bool = False, progress: Progress = log.info
) -> Compiled:
    """An application's operations that are marked compiled, or beside those all transactions.

    Errors: DeclarationError, with file and line, for a handler that can't be compiled. Compiling
    takes seconds, once for an application as it is.
    """
    known = _compiled.setdefault(app, {})
    if every not in known:
        stored, refusals = _compile(app, chosen(app, every), progress, log.debug)
        if refusals:
            raise DeclarationError("\n".join(refusals.values()))
        known[every] = _loaded(app, stored)
    return known[every]


def check_handlers(
    app: App, *, progress: Progress = log.info, begins: Progress = log.debug
) -> dict[str, str]:
    """Why each operation that is marked compiled can't be, with file and line, or "", by name.

    Keeps the code when all can be, so that a start finds it. `begins` gets what each step is,
    before it takes its time.
    """
    operations = chosen(app, every=False)
    _, refusals = _compile(app, operations, progress, begins)
    return {operation.name: refusals.get(operation.name, "") for operation in operations}


def is_kept(app: App) -> bool:
    """Whether what is marked compiled is compiled already, here or on disk."""
    operations = chosen(app, every=False)
    return (
        False in _compiled.get(app, {})
        or _kept(app, operations, key_of(app, operations)) is not None
    )


def chosen(app: App, every: bool) -> list[Operation]:
    """The operations that are to be compiled."""
    return [
        each for each in app.operations if each.compiled or (every and each.kind == "transaction")
    ]


def _compile(
    app: App, operations: Sequence[Operation], progress: Progress, begins: Progress
) -> tuple[Stored, dict[str, str]]:
    """The code of these operations, from disk if it is there, and why some have none, by name."""
    if config.DISABLE_JIT:
        raise DeclarationError("the compiled lane can't run with NUMBA_DISABLE_JIT")
    if not operations:
        return Stored([], []), {}
    key = key_of(app, operations)
    kept = _kept(app, operations, key)
    if kept is not None:
        return kept, {}
    began, count = time.monotonic(), len(operations)
    progress(f"compiling {count} handlers of {app.name}, once for this code and this processor")
    begins("the kernels that handlers call")
    for name in KERNELS:
        publish(PREFIX + name)  # takes half a minute itself where no kernels are cached
    refusals: dict[str, str] = {}
    made = []
    with Compilation() as compilation:
        dbs = db_types(app, layouts.of_app(app).tables)
        for number, operation in enumerate(operations, 1):
            since = time.monotonic()
            begins(f"{operation.name}, {number} of {count}")
            try:
                made.append(compile_operation(operation, dbs[operation.kind]))
            except DeclarationError as error:
                refusals[operation.name] = str(error)
            took_s = time.monotonic() - since
            progress(f"compiled {operation.name}, {number} of {count}, {took_s:.1f} s")
    stored = Stored(made, compilation.rejections)
    if not refusals:
        code_cache.write(app.name, key, stored)
    progress(f"compiled {len(made)} handlers in {time.monotonic() - began:.1f} s")
    return stored, refusals


def _kept(app: App, operations: Sequence[Operation], key: str) -> Stored | None:
    """What is on disk, if it is these operations, and all that it calls is there."""
    stored = code_cache.read(app.name, key)
    if stored is None or [each.name for each in stored.operations] != [
        each.name for each in operations
    ]:
        return None
    return None if missing_symbols([each.code for each in stored.operations]) else stored


def _loaded(app: App, stored: Stored) -> Compiled:
    addresses = load_code([each.code for each in stored.operations])
    by_name = {operation.name: operation for operation in app.operations}
    operations = [by_name[each.name] for each in stored.operations]
    queries = [operation for operation in operations if operation.kind == "query"]
    return Compiled(
        table_of(operations, addresses, stored),
        frozenset(each.number for each in operations if each.kind == "transaction"),
        frozenset(each.number for each in queries),
        frozenset(each.number for each in queries if not why_not_prompt(each.function)),
    )


def db_types(app: App, tables: Sequence[layouts.TableLayout]) -> dict[str, DbType]:
    """The `db` of each kind of operation."""
    tag = f"{app.name}#{next(_tags)}"
    return {
        "transaction": DbType(tag, tables),
        "query": DbType(f"{tag} read-only", tables, writable=False),
    }


def table_of(operations: Iterable[Operation], addresses: Iterable[int], stored: Stored) -> Any:
    """The table of `store.lane`: int64 words."""
    operations = list(operations)
    numbers = max((operation.number for operation in operations), default=-1) + 1
    table = [0] * (lane.TABLE_OPERATIONS + numbers * lane.OP_WORDS)
    table[lane.TABLE_NUMBERS] = numbers
    for operation, address, kept in zip(operations, addresses, stored.operations, strict=True):
        place = lane.TABLE_OPERATIONS + operation.number * lane.OP_WORDS
        table[place + lane.OP_ENTRY] = address
        table[place + lane.OP_KIND] = KINDS[operation.kind]
        for word, program in ((lane.OP_ARGUMENTS, kept.arguments), (lane.OP_ANSWER, kept.answer)):
            table[place + word] = len(table)
            table += program
    places = []
    for program in stored.rejections:
        places.append(len(table))
        table += program
    table[lane.TABLE_REJECTIONS] = len(table)
    return np.array(table + places, np.int64)


def compile_operation(operation: Operation, db: DbType) -> StoredOperation:
    """Compile one operation. Errors: DeclarationError."""
    where = place_of(operation.function)
    kinds = [parameter_type(p.value, f"{where}, {p.name}") for p in operation.parameters]
    Refused.latest = None
    try:
        handler = compile_handler(dispatcher_of(operation.function), (db, *kinds))
    except NumbaError as error:
        raise DeclarationError(explain(error, operation.function)) from error
    result = handler.native.result
    try:
        answer = answer_program(result)
    except TypeError as unfit:
        raise DeclarationError(f"{where}: a compiled handler can't return {unfit}") from None
    if (
        sum(map(words_count, kinds)) > at.CALL_ARGUMENTS_MAX
        or words_count(result) > at.CALL_ANSWER_MAX
    ):
        raise DeclarationError(f"{where}: its arguments or its result are too large to compile")
    code = make_code(handler, operation.name)
    return StoredOperation(operation.name, code, arguments_program(operation), answer)
