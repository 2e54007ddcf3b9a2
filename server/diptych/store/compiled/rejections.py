"""`raise Rejected("code", name=value)` in compiled code, and what becomes of it in Python.

Before types are inferred the call is replaced by one to `refuse`, which leaves the details as words
in the scratch and ends the handler. Which code and names they belong to, and how to read the
words, is kept here under a number, so nothing but numbers crosses.

The rejections that tables themselves raise are told from the kernel's code, with the same details
as in the interpreted lane: the key is still among the kernel's arguments.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from numba.core import types
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature

from diptych.errors import CorruptionError
from diptych.store import words as at
from diptych.store.compiled.native import cell, give_up_if, leave, store_scratch
from diptych.store.compiled.shapes import Answer, words_count, write_answer
from diptych.store.compiled.types import Refused
from diptych.store.compiled.values import spoken
from diptych.store.database import Database
from diptych.store.faults import fault, not_found
from diptych.store.tables import TableView
from diptych_client.errors import Rejected


@dataclass(frozen=True)
class Site:
    """A `raise Rejected` as it was written: its literal code and the names of its details."""

    code: str
    names: tuple[str, ...]


_sites: list[Site] = []
_readers: list[Callable[[Database], Rejected]] = []


def site_number(site: Site) -> int:
    """The number under which `refuse` is told a site."""
    _sites.append(site)
    return len(_sites) - 1


def refuse(site: int, *details: Any) -> None:
    """What stands in compiled code for a `raise Rejected(...)`."""
    raise NotImplementedError("compiled code alone calls this")


def give_up() -> None:
    """What stands in compiled code for every other `raise`: the interpreter shall say it."""
    raise NotImplementedError("compiled code alone calls this")


def rejection(number: int, db: Database) -> Rejected:
    """The rejection that compiled code left in the scratch."""
    return _readers[number](db)


def _reader(site: Site, kinds: Any) -> int:
    """Keep how to read a site's details of these types; returns the rejection's number."""
    answer = Answer()
    try:
        expressions = [answer.add(kind) for kind in kinds]
    except TypeError as unfit:
        raise Refused(f"the details of {site.code!r} can't hold {unfit}") from None
    packer = struct.Struct("<" + "".join(answer.codes))
    given = "".join(f", {n}={e}" for n, e in zip(site.names, expressions, strict=True))
    source = f"lambda db, w: Rejected({site.code!r}{given})"
    made = eval(source, {**answer.names, "Rejected": Rejected})

    def read(db: Database) -> Rejected:
        found: Rejected = made(db, packer.unpack_from(db.space.scratch_bytes, at.S_CALL_ANSWER * 8))
        return found

    _readers.append(read)
    return len(_readers) - 1


@infer_global(refuse)
class _Refuse(AbstractTemplate):
    prefer_literal = True

    def generic(self, args: Any, kws: Any) -> Any:
        site = _sites[args[0].literal_value]
        for name, kind in zip(site.names, args[1:], strict=True):
            try:
                Answer().add(kind)
            except TypeError:
                raise Refused(f"detail {name!r} of {site.code!r} can't be {spoken(kind)}") from None
        if sum(words_count(kind) for kind in args[1:]) > at.CALL_ANSWER_MAX:
            raise Refused(f"the details of {site.code!r} are too large")
        return signature(types.none, *args)


@lower_builtin(refuse, types.VarArg(types.Any))
def _lower_refuse(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    base = builder.load(cell(builder))
    words: list[Any] = []
    for kind, value in zip(sig.args[1:], args[1:], strict=True):
        words += write_answer(context, builder, kind, value)
    for i, value in enumerate(words):
        store_scratch(builder, base, at.S_CALL_ANSWER + i, value)
    number = _reader(_sites[sig.args[0].literal_value], sig.args[1:])
    store_scratch(builder, base, at.S_CALL_REASON, number)
    with builder.if_then(context.get_constant(types.boolean, True)):
        leave(builder, base, at.REJECTED)
    return context.get_dummy_value()


@infer_global(give_up)
class _GiveUp(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        return signature(types.none)


@lower_builtin(give_up)
def _lower_give_up(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    give_up_if(builder, context.get_constant(types.boolean, True))
    return context.get_dummy_value()


# What tables refuse -----------------------------------------------------------------------------


def store_fault(code: int, db: Database) -> BaseException:
    """The exception for a code that a kernel left, as the interpreted lane would raise it."""
    descriptor = db.space.scratch[at.S_FAULT]
    if code in (at.GROW_TABLE, at.GROW_INDEX, at.UNDO_FULL, at.OVER_BUDGET):
        return fault(db.space, code, db.layout.tables[0])
    for table in db.tables.values():
        if table.layout.descriptor == descriptor:
            if code == at.NO_SUCH_KEY:
                return not_found(db.space, table.name, _key(table, iter(db.space.arguments)))
            if code == at.DUPLICATE_KEY:
                return Rejected("duplicate_key", table=table.name, key=_inserted_key(table))
        known = (index.descriptor for index in table.layout.indexes)
        if descriptor == table.layout.descriptor or descriptor in known:
            return fault(db.space, code, table.layout)
    return CorruptionError(f"a kernel returned {code} for {descriptor}")


def _key(table: TableView, words: Iterator[int]) -> Any:
    """A key of which the words are given: its value, or a tuple of them."""
    values = []
    for column in table.layout.spec.keys:
        parts = tuple(next(words) for _ in range(column.words))
        values.append(table.codecs[column.name].decode(parts))
    return tuple(values) if len(values) > 1 else values[0]


def _inserted_key(table: TableView) -> Any:
    """The key among the values of the row that could not be inserted."""
    arguments = table.space.arguments
    values = [
        table.codecs[column.name].decode(
            tuple(arguments[column.first_word : column.first_word + column.words])
        )
        for column in table.layout.spec.keys
    ]
    return values if len(values) > 1 else values[0]
