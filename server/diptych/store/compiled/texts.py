"""Text that handlers build: `+`, f-strings, `text[:n]`, `in` and `len`.

How long the result can get follows from the types, so that it is a value like any other text. It is
made by kernels (`store.texts`) in words of the function's own stack. Where characters are not bytes
a cut gives the call up to the interpreter, and so does the lowest of all ints.
"""

from __future__ import annotations

import operator
import re
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature

from diptych.store.compiled.native import call_kernel, give_up_if
from diptych.store.compiled.sized import sized_value
from diptych.store.compiled.types import (
    BUILT_BYTES_MAX,
    I64,
    DataType,
    Refused,
    SizedType,
    TextType,
)
from diptych.store.compiled.values import inner, is_int, spoken

INT_MIN = -(2**63)
INT_CHARACTERS = 20
FORMAT = re.compile(r"(0?)([1-9][0-9]?)?d?")


def text_literal(value: str) -> str:
    """What stands in compiled code for a literal."""
    raise NotImplementedError("compiled code alone calls this")


def text_joined(*formats_and_values: Any) -> str:
    """What stands in compiled code for an f-string."""
    raise NotImplementedError("compiled code alone calls this")


def text_head(value: str, length: int) -> str:
    """What stands in compiled code for `value[:length]`."""
    raise NotImplementedError("compiled code alone calls this")


def is_text(kind: types.Type) -> bool:
    return isinstance(kind, TextType | types.StringLiteral)


def sized_text(kind: types.Type) -> TextType:
    """The type of a text as a value; a literal's is as long as that is. Errors: Refused."""
    if isinstance(kind, TextType):
        return kind
    if "\0" in kind.literal_value:
        raise Refused("text has no zero character")
    return built(len(kind.literal_value.encode()))


def built(size_bytes: int) -> TextType:
    """The type of a text that is made here; it has a word at the least. Errors: Refused."""
    if size_bytes > BUILT_BYTES_MAX:
        raise Refused(f"text of up to {size_bytes} bytes is not compiled; {BUILT_BYTES_MAX} is")
    return TextType(max(1, size_bytes))


def joined(kinds: list[types.Type]) -> Any:
    """The signature of `+` for two texts."""
    parts = [sized_text(kind) for kind in kinds]
    return signature(built(sum(part.size_bytes for part in parts)), *parts)


class Buffer:
    """Words on the stack of the function that is built: `used` of them, zero, then `more`."""

    def __init__(self, builder: Any, used: int, more: int = 0) -> None:
        self._builder = builder
        self._words = cgutils.alloca_once(builder, I64, size=used + more)
        self.address = builder.ptrtoint(self._words, I64)
        cgutils.memset(builder, self._words, I64(8 * used), 0)

    def put(self, value: Any, kind: SizedType, first: int) -> None:
        """Store a text's words, from word `first` on."""
        for i in range(kind.words):
            place = self._builder.gep(self._words, [I64(first + i)])
            self._builder.store(self._builder.extract_value(value, i), place)

    def text(self, kind: SizedType) -> Any:
        """The text at the beginning."""
        places = [self._builder.gep(self._words, [I64(i)]) for i in range(kind.words)]
        return sized_value(self._builder, [self._builder.load(place) for place in places])


@infer_global(text_literal)
class _Literal(AbstractTemplate):
    prefer_literal = True

    def generic(self, args: Any, kws: Any) -> Any:
        kind = sized_text(args[0])
        return signature(kind, kind)


@lower_builtin(text_literal, TextType)
def _literal(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return args[0]


def lower_add(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    """Two texts, one behind the other."""
    made = sig.return_type
    behind = made.words + 1
    buffer = Buffer(builder, behind, max(part.words for part in sig.args))
    size = I64(0)
    for kind, value in zip(sig.args, args, strict=True):
        buffer.put(value, kind, behind)
        size = call_kernel(context, builder, "join", buffer.address, size, behind, kind.words)
    return buffer.text(made)


def _format(kind: types.Type) -> tuple[int, str]:
    """What a literal format asks of an int: the least width, and what fills it up."""
    found = FORMAT.fullmatch(kind.literal_value)
    if found is None:
        raise Refused(f"the format {kind.literal_value!r} is not compiled; widths as 02 are")
    return int(found[2] or 0), "0" if found[1] else " "


@infer_global(text_joined)
class _Joined(AbstractTemplate):
    prefer_literal = True

    def generic(self, args: Any, kws: Any) -> Any:
        kinds, size_bytes = [], 0
        for form, given in zip(args[::2], args[1::2], strict=True):
            if not isinstance(form, types.StringLiteral):
                return None  # Numba tries literals first, and then without
            if is_text(given) and form.literal_value == "":
                part: types.Type = sized_text(given)
                size_bytes += part.size_bytes
            elif is_int(given):
                part = types.int64
                size_bytes += max(INT_CHARACTERS, _format(form)[0])
            else:
                shown = spoken(given)
                raise Refused(f"f-strings are compiled of text and ints, not of {shown}")
            kinds += [form, part]
        return signature(built(size_bytes), *kinds)


@lower_builtin(text_joined, types.VarArg(types.Any))
def _lower_joined(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    made = sig.return_type
    behind = made.words + 1
    longest = max((k.words for k in sig.args if isinstance(k, TextType)), default=0)
    buffer = Buffer(builder, behind, longest)
    size = I64(0)
    for form, kind, value in zip(sig.args[::2], sig.args[1::2], args[1::2], strict=True):
        if isinstance(kind, TextType):
            buffer.put(value, kind, behind)
            given: tuple[Any, ...] = ("join", buffer.address, size, behind, kind.words)
        else:
            give_up_if(builder, builder.icmp_signed("==", value, I64(INT_MIN)))
            width, fill = _format(form)
            given = ("join_int", buffer.address, size, value, width, ord(fill))
        size = call_kernel(context, builder, *given)
    return buffer.text(made)


@infer_global(text_head)
class _Head(AbstractTemplate):
    prefer_literal = True

    def generic(self, args: Any, kws: Any) -> Any:
        found, length = inner(args[0]), args[1]
        if not is_text(found):
            raise Refused(f"{spoken(args[0])} is not compiled in parts; text[:n] is")
        if not is_int(length):
            raise Refused(f"text is cut behind an int of characters, not {spoken(length)}")
        kind = sized_text(found)
        size_bytes = kind.size_bytes
        if isinstance(length, types.IntegerLiteral) and length.literal_value >= 0:
            size_bytes = min(size_bytes, length.literal_value)
        return signature(built(size_bytes), kind, types.int64)


@lower_builtin(text_head, TextType, types.int64)
def _head(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    kind, length = sig.args[0], args[1]
    give_up_if(builder, builder.icmp_signed("<", length, I64(0)))
    buffer = Buffer(builder, kind.words)
    buffer.put(args[0], kind, 0)
    cut = call_kernel(context, builder, "keep", buffer.address, kind.words, length)
    give_up_if(builder, builder.icmp_signed("<", cut, I64(0)))
    return buffer.text(sig.return_type)


@infer_global(len)
class _Length(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        found = inner(args[0])
        if isinstance(found, DataType):
            raise Refused("len() of bytes is not compiled; it is what their type says")
        return signature(types.int64, sized_text(found)) if is_text(found) else None


@lower_builtin(len, TextType)
def _length(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    kind = sig.args[0]
    buffer = Buffer(builder, kind.words)
    buffer.put(args[0], kind, 0)
    return call_kernel(context, builder, "characters", buffer.address, kind.words)


@infer_global(operator.contains)
class _Contains(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        kinds = [inner(kind) for kind in args]
        if not is_text(kinds[0]):
            return None
        if not is_text(kinds[1]):
            raise Refused(f"`in` looks for text in text, not for {spoken(args[1])}")
        return signature(types.boolean, *map(sized_text, kinds))


@lower_builtin(operator.contains, TextType, TextType)
def _contains(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    text, sought = sig.args
    behind = text.words + 1
    buffer = Buffer(builder, behind, sought.words)
    buffer.put(args[0], text, 0)
    buffer.put(args[1], sought, behind)
    found = call_kernel(
        context, builder, "contains", buffer.address, text.words, behind, sought.words
    )
    return builder.trunc(found, ir.IntType(1))
