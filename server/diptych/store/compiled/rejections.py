"""`raise Rejected("code", name=value)` in compiled code.

Before types are inferred the call is replaced by one to `refuse`, which leaves the details as words
in the scratch and ends the handler. Which code and names they belong to, and how the whole is
written as MessagePack, is kept by the `compilation` under a number, so nothing but numbers crosses.

The rejections that tables themselves raise are left to the interpreter.
"""

from __future__ import annotations

from typing import Any

from numba.core import types
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature

from diptych.store import words as at
from diptych.store.compiled.compilation import Site, running
from diptych.store.compiled.native import cell, give_up_if, leave, store_scratch
from diptych.store.compiled.programs import answer_program, rejection_program
from diptych.store.compiled.shapes import words_count, write_answer
from diptych.store.compiled.types import Refused
from diptych.store.compiled.values import spoken


def refuse(site: int, *details: Any) -> None:
    """What stands in compiled code for a `raise Rejected(...)`."""
    raise NotImplementedError("compiled code alone calls this")


def give_up() -> None:
    """What stands in compiled code for every other `raise`: the interpreter shall say it."""
    raise NotImplementedError("compiled code alone calls this")


def _number(site: Site, kinds: Any) -> int:
    """The number of a rejection from that site, with details of these types."""
    try:
        program = rejection_program(site.code, site.names, kinds)
    except TypeError as unfit:
        raise Refused(f"the details of {site.code!r} can't hold {unfit}") from None
    return running().rejection_number(program)


@infer_global(refuse)
class _Refuse(AbstractTemplate):
    prefer_literal = True

    def generic(self, args: Any, kws: Any) -> Any:
        site = running().sites[args[0].literal_value]
        for name, kind in zip(site.names, args[1:], strict=True):
            try:
                answer_program(kind)
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
    number = _number(running().sites[sig.args[0].literal_value], sig.args[1:])
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
