"""Text and bytes in compiled code: values of a fixed number of words, zeros behind the last byte.

Text may be shorter than its type says and becomes longer text by itself; what does not fit where it
is put gives the call up. Bytes are exactly as long as their type says. Literals of bytes stand in
compiled code as calls of `data_literal`, since Numba would make arrays of them.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.imputils import lower_builtin, lower_cast
from numba.core.typing.templates import AbstractTemplate, infer_global, signature

from diptych.store.compiled.native import give_up_if, word
from diptych.store.compiled.types import (
    I64,
    VALUE_WORDS_MAX,
    DataType,
    Refused,
    SizedType,
    TextType,
    words_of,
)

_literals: list[bytes] = []


def literal_number(value: bytes, loc: Any) -> int:
    """The number under which `data_literal` knows these bytes."""
    if not 0 < len(value) <= VALUE_WORDS_MAX * 8:
        raise Refused(f"bytes are compiled when they are 1 to {VALUE_WORDS_MAX * 8}", loc)
    _literals.append(value)
    return len(_literals) - 1


def data_literal(number: int) -> bytes:
    """What stands in compiled code for a literal of bytes."""
    raise NotImplementedError("compiled code alone calls this")


@infer_global(data_literal)
class _DataLiteral(AbstractTemplate):
    prefer_literal = True

    def generic(self, args: Any, kws: Any) -> Any:
        return signature(DataType(len(_literals[args[0].literal_value])), *args)


@lower_builtin(data_literal, types.IntegerLiteral)
def _lower_literal(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    kind = sig.return_type
    parts = words_of(_literals[sig.args[0].literal_value], kind.words)
    return sized_value(builder, [word(part) for part in parts])


def sized_value(builder: Any, parts: list[Any]) -> Any:
    """The value made of these words."""
    value = ir.Constant(ir.ArrayType(I64, len(parts)), ir.Undefined)
    for i, part in enumerate(parts):
        value = builder.insert_value(value, part, i)
    return value


def sized_words(kind: types.Type, builder: Any, value: Any, count: int) -> list[Any]:
    """Text or bytes as `count` words or more: zeros behind what they have."""
    if isinstance(kind, types.StringLiteral):
        size = len(kind.literal_value.encode())
        return [word(part) for part in words_of(kind.literal_value, max(count, -(-size // 8)))]
    parts = [builder.extract_value(value, i) for i in range(kind.words)]
    return parts + [word(0)] * (count - len(parts))


def narrowed(builder: Any, kind: SizedType, value: Any, size_bytes: int) -> list[Any]:
    """Text as words of a place of `size_bytes`; gives the call up when it is longer."""
    count = -(-size_bytes // 8)
    parts = sized_words(kind, builder, value, count)
    if kind.size_bytes > size_bytes:
        rest = word(0)
        for part in parts[count:]:
            rest = builder.or_(rest, part)
        if size_bytes % 8:
            beyond = builder.lshr(parts[count - 1], I64(size_bytes % 8 * 8))
            rest = builder.or_(rest, beyond)
        give_up_if(builder, builder.icmp_signed("!=", rest, I64(0)))
    return parts[:count]


@lower_cast(types.StringLiteral, TextType)
def _literal_to_text(
    context: Any, builder: Any, source: types.StringLiteral, target: TextType, value: Any
) -> Any:
    parts = words_of(source.literal_value, target.words)
    return sized_value(builder, [word(part) for part in parts])


@lower_cast(TextType, TextType)
def _text_to_text(
    context: Any, builder: Any, source: TextType, target: TextType, value: Any
) -> Any:
    return sized_value(builder, narrowed(builder, source, value, target.size_bytes))
