"""`insert` of one table: a function generated from its columns.

`insert(*, account, symbol, ..., price=default)`: as source, since Python's own argument passing is
the fastest there is, checks names and defaults, and says what is missing. Values go to the scratch
in one `struct` call; the kernel does the rest.
"""

from __future__ import annotations

import functools
import struct
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from diptych.schema import MISSING, Column
from diptych.store import calls
from diptych.store import words as at
from diptych.store.faults import fault, not_found
from diptych.store.heaps import make_store
from diptych.store.rowtypes import Row
from diptych.store.values import Codec
from diptych_client.errors import Rejected

if TYPE_CHECKING:
    from diptych.store.tables import TableView

_ARGUMENTS_BYTE = at.S_ARGUMENT * 8


def make_insert(view: TableView) -> Callable[..., Row]:
    """The `insert` of a table that this process may write. It raises what `Table.insert` does."""
    columns = view.layout.spec.columns
    # All names begin with an underscore, as no column's does: one may well be called `type`.
    names: dict[str, Any] = {
        "_type": type,
        "_int": int,
        "_pack": struct.Struct("<" + "".join(map(_struct_code, columns))).pack_into,
        "_scratch": view.space.scratch_bytes,
        "_words": view.space.words,
        "_insert_row": calls.insert,
        "_mark_of": calls.mark,
        "_rollback": calls.rollback,
        "_Row": view.row,
        "_not_found": functools.partial(not_found, view.space),
        "_diagnose": _diagnoser(view),
        "_failed": _failure(view),
        "_packing_error": (struct.error, TypeError, OverflowError),
    }
    parameters, values, checks = [], [], []
    for column in columns:
        name = column.name
        default = 0 if column.auto else column.default
        names[f"_default_{name}"] = default
        parameters.append(name if default is MISSING else f"{name}=_default_{name}")
        codec = view.codecs[name]
        names[f"_word_{name}"] = codec.padded if column.words > 1 else codec.word
        if column.in_heap:
            names[f"_word_{name}"] = make_store(view.space, view.layout, codec)
        names[f"_known_{name}"], names[f"_exact_{name}"] = codec.known, codec.exact
        value = _value_source(column, codec)
        if column.optional:
            nothing = "b''" if column.words > 1 else "0"
            value = f"{nothing} if {name} is None else {value}, {name} is not None"
        values.append(value)
        if column.reference:
            names[f"_find_{name}"] = view.tables[column.reference].find
            given = f"{name} is not None and " if column.optional else ""
            checks.append(
                f"    if {given}_find_{name}({name}) < 0:\n"
                f"        raise _not_found({column.reference!r}, {name})\n"
            )
    everything = "".join(f"{column.name}, " for column in columns)
    body = (
        "    try:\n"
        f"        _pack(_scratch, {_ARGUMENTS_BYTE}, {', '.join(values)})\n"
        "    except _packing_error:\n"
        f"        raise _diagnose(({everything})) from None\n"
        f"    _row = _insert_row(_words, {view.layout.descriptor})\n"
        "    if _row < 0:\n"
        f"        _row = _failed(_row, ({everything}))\n"
    )
    if view.layout.spec.heap_columns:
        body = _undone_on_failure(body)
    source = (
        f"def insert(*, {', '.join(parameters)}):\n{''.join(checks)}{body}    return _Row(_row)\n"
    )
    exec(compile(source, f"<{view.name}.insert>", "exec"), names)
    made: Callable[..., Row] = names["insert"]
    made.__qualname__ = f"{view.name}.insert"
    return made


def _undone_on_failure(body: str) -> str:
    """What went into the heap before an insert failed must go with it."""
    return (
        "    _mark = _mark_of(_words)\n    try:\n"
        + textwrap.indent(body, "    ")
        + "    except BaseException:\n        _rollback(_words, _mark)\n        raise\n"
    )


def _struct_code(column: Column) -> str:
    code = f"{column.words * 8}s" if column.words > 1 else "q"
    return code + "q" * column.optional


def _value_source(column: Column, codec: Codec) -> str:
    """An expression for what `struct` packs of a value that is not None."""
    name = column.name
    if codec.is_word and codec.is_whole:
        return name  # struct itself refuses what is no int of 64 bits
    if codec.is_word:
        fits = f"_type({name}) is _int and {column.low} <= {name} <= {column.high}"
        return f"({name} if {fits} else _word_{name}({name}))"
    if column.kind == "bool":
        return f"(1 if {name} is True else _word_{name}({name}))"
    if codec.known is None:
        return f"_word_{name}({name})"
    seen = f"_known_{name}.get({name}) if _type({name}) in _exact_{name} else None"
    return f"(({seen}) or _word_{name}({name}))"


def _diagnoser(view: TableView) -> Callable[[tuple[Any, ...]], BaseException]:
    def diagnose(values: tuple[Any, ...]) -> BaseException:
        for column, value in zip(view.layout.spec.columns, values, strict=True):
            if column.in_heap:
                continue  # refused at once, if it was
            try:
                view.codecs[column.name].encode(value)
            except Rejected as bad:
                return bad
        return TypeError(f"{view.name}.insert can't store {values!r}")

    return diagnose


def _failure(view: TableView) -> Callable[[int, tuple[Any, ...]], int]:
    """What to do when the kernel refused: give memory and repeat if that is allowed, or raise."""
    spec, space, descriptor = view.layout.spec, view.space, view.layout.descriptor

    def failed(code: int, values: tuple[Any, ...]) -> int:
        while code < 0 and space.needs_memory(code):
            code = calls.insert(space.words, descriptor)
        if code >= 0:
            return code
        if code == at.DUPLICATE_KEY:
            named = dict(zip((column.name for column in spec.columns), values, strict=True))
            key = [named[column.name] for column in spec.keys]
            shown = key if len(key) > 1 else key[0]
            raise Rejected("duplicate_key", table=view.name, key=shown)
        raise fault(space, code, view.layout)

    return failed
