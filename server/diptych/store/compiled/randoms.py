"""`db.random` in compiled handlers: the kernels of `store.random`, with its numbers and counter.

Bounds between which there is no int give the call up: the interpreter says so, after it has drawn
what came before once more.
"""

from __future__ import annotations

from inspect import Parameter, Signature
from typing import Any

from numba.core import types
from numba.core.imputils import lower_builtin, lower_getattr_generic
from numba.core.typing.templates import (
    AbstractTemplate,
    AttributeTemplate,
    infer_getattr,
    signature,
)

from diptych.errors import did_you_mean
from diptych.store.compiled.native import call_kernel, give_up_if
from diptych.store.compiled.types import I64, RandomType, Refused
from diptych.store.compiled.values import spoken

BOUNDS = Signature(
    [
        Parameter("low", Parameter.POSITIONAL_OR_KEYWORD),
        Parameter("high", Parameter.POSITIONAL_OR_KEYWORD, default=None),
    ]
)


class _Random(AbstractTemplate):
    key = "diptych.random.random"

    def generic(self, args: Any, kws: Any) -> Any:
        if args or kws:
            raise Refused("random() takes no arguments")
        return signature(types.float64, recvr=self.this)


class _Integers(AbstractTemplate):
    key = "diptych.random.integers"

    def generic(self, args: Any, kws: Any) -> Any:
        try:
            given = BOUNDS.bind(*args, **kws).arguments
        except TypeError as wrong:
            raise Refused(f"integers(): {wrong}") from None
        low, high = given["low"], given.get("high", types.none)
        for kind in (low, high):
            if not isinstance(types.unliteral(kind), types.Integer | types.Boolean) and (
                kind is low or not _is_none(kind)
            ):
                raise Refused(f"integers() takes ints, not {spoken(kind)}")
        if "high" not in given:
            high = types.Omitted(None)
        return signature(types.int64, low, high, recvr=self.this).replace(pysig=BOUNDS)


METHODS: dict[str, Any] = {"random": _Random, "integers": _Integers}


def _is_none(kind: types.Type) -> bool:
    return isinstance(kind, types.NoneType | types.Omitted)


@infer_getattr
class _RandomAttributes(AttributeTemplate):
    key = RandomType

    def generic_resolve(self, kind: RandomType, name: str) -> Any:
        if name in METHODS:
            return types.BoundFunction(METHODS[name], kind)
        raise Refused(f"db.random has no {name!r}{did_you_mean(name, METHODS)}")


@lower_getattr_generic(RandomType)
def _get_from_random(context: Any, builder: Any, kind: RandomType, base: Any, name: str) -> Any:
    return base


@lower_builtin(_Random.key, RandomType)
def _random(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return call_kernel(context, builder, "fraction", args[0])


@lower_builtin(_Integers.key, RandomType, types.VarArg(types.Any))
def _integers(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    base, low, high = args
    low = context.cast(builder, low, sig.args[1], types.int64)
    if _is_none(sig.args[2]):
        low, high = I64(0), low
    else:
        high = context.cast(builder, high, sig.args[2], types.int64)
    give_up_if(builder, builder.icmp_signed(">=", low, high))
    return call_kernel(context, builder, "integer", base, low, high)
