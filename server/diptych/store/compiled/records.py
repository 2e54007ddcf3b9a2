"""Building records: a NamedTuple's call in compiled code.

Numba would give each call a type of its own, by the arguments it happens to get, and two of them
could not be returned from one handler. So fields are made what the class says, as far as nothing
changes by that: an int may become `int | None`, short text longer text, and never an int a float.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from numba.core import ir, ir_utils, types
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature

from diptych.errors import DeclarationError
from diptych.schema import ValueType, value_type
from diptych.store.compiled.shapes import argument_type
from diptych.store.compiled.types import DataType, Refused, TextType
from diptych.store.compiled.values import inner, number_kind

_classes: list[tuple[Any, ValueType]] = []


def make_record(number: int, *fields: Any) -> Any:
    """What stands in compiled code for a call of the NamedTuple of that number."""
    raise NotImplementedError("compiled code alone calls this")


def is_record(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, tuple) and hasattr(value, "_fields")


def record_call(kind: Any, inst: Any, expr: Any) -> tuple[list[Any], list[Any]]:
    """The arguments of `make_record` for a call of a record class, and what must come before it."""
    if expr.vararg or expr.varkwarg:
        raise Refused(f"{kind.__name__}(*...) is not compiled", inst.loc)
    try:
        bound = inspect.signature(kind).bind(*expr.args, **dict(expr.kws))
    except TypeError as wrong:
        raise Refused(f"{kind.__name__}: {wrong}", inst.loc) from None
    bound.apply_defaults()
    _classes.append((kind, value_type(kind, kind.__name__)))
    before: list[Any] = []
    arguments = []
    for value in (len(_classes) - 1, *bound.arguments.values()):
        if not isinstance(value, ir.Var):
            name = ir.Var(inst.target.scope, ir_utils.mk_unique_var("$field"), inst.loc)
            before.append(ir.Assign(ir.Const(value, inst.loc), name, inst.loc))
            value = name
        arguments.append(value)
    return before, arguments


def settled(value: ValueType, kind: types.Type) -> types.Type:
    """The type of a field that is declared as `value` and is given a `kind`."""
    found = inner(kind)
    try:
        declared = argument_type(value, "")
    except DeclarationError:
        return kind if isinstance(kind, types.StringLiteral) else types.unliteral(kind)
    plain = inner(declared)
    if isinstance(plain, DataType):
        same = plain == found
    elif isinstance(plain, types.BaseTuple):
        same = _is_settled_tuple(value, plain, found)
    elif isinstance(plain, TextType):
        size_bytes = getattr(found, "size_bytes", None)
        if isinstance(found, types.StringLiteral):
            size_bytes = len(found.literal_value.encode())
        same = size_bytes is not None and size_bytes <= plain.size_bytes
    else:
        same = number_kind(plain) is not None and number_kind(plain) == number_kind(found)
    given_none = isinstance(kind, types.Optional | types.NoneType)
    if (same or found == types.none) and (value.optional or not given_none):
        return declared
    return kind if isinstance(kind, types.StringLiteral) else types.unliteral(kind)


def _is_settled_tuple(value: ValueType, declared: types.BaseTuple, found: types.Type) -> bool:
    """Whether a tuple or record that is declared as `value` may become what that says."""
    classes = [getattr(kind, "instance_class", None) for kind in (declared, found)]
    if not isinstance(found, types.BaseTuple) or classes[0] is not classes[1]:
        return False
    parts = [part for _, part in value.fields] if value.is_record else list(value.arguments)
    return len(parts) == len(list(found)) and all(
        settled(part, given) == wanted
        for part, given, wanted in zip(parts, found, declared, strict=True)
    )


@infer_global(make_record)
class _MakeRecord(AbstractTemplate):
    prefer_literal = True

    def generic(self, args: Any, kws: Any) -> Any:
        kind, value = _classes[args[0].literal_value]
        fields: Iterator[Any] = (
            settled(part, given) for (_, part), given in zip(value.fields, args[1:], strict=True)
        )
        kinds = list(fields)
        return signature(types.BaseTuple.from_types(kinds, kind), args[0], *kinds)


@lower_builtin(make_record, types.VarArg(types.Any))
def _lower_record(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return context.make_tuple(builder, sig.return_type, args[1:])
