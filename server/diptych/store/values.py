"""Between a Python value and the words that hold it: one `Codec` a column.

Ints and bools are one word, floats one word of IEEE bits (of a short float, those 32 with their
sign), text its UTF-8 bytes and data its bytes, filled up with zeros. A column that may be None has
another word, which is 1 where there is a value. What does not fit raises `BadValue`, which names
table, column, value and limit; nothing wraps or is cut off, though a short float is rounded to the
nearest. Knows nothing of where the words are, nor of the heap: of plain str and bytes it makes the
bytes that lie there.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from numbers import Real
from typing import Any

import numpy as np

from diptych.errors import BadValue
from diptych.schema import INT_MAX, INT_MIN, Column
from diptych.store.words import HEAP_VALUE_BYTES_MAX

VALUES_REMEMBERED_MAX = 1 << 16
WORD = 1 << 64
SHOWN_MAX = 200

_DOUBLE = struct.Struct("<d")
_SHORT = struct.Struct("<f")
_WORD = struct.Struct("<q")
_HALF = struct.Struct("<i")


class Codec:
    """How one column's values become words and come back.

    `word(value)`: the word of a value, not None, of a column with one word. `sought(value)`: that
    of a value that is looked for, which may be beyond the column's bounds: no row has it then.
    `encode(value)`, `encode_sought(value)`: all value words as a tuple, in the order of a row's.
    `padded(value)`: text or data as bytes of the column's full size. `raw(value)`: bytes of a value
    for the heap. `decode(words)`: the value again, of a column that is not in the heap.
    """

    def __init__(self, table: str, column: Column) -> None:
        self.table = table
        self.column = column
        value = column.value
        self.members: dict[int, Any] = {int(m): m for m in value.base} if value.is_enum else {}
        self._to_word: dict[Any, int] = {member: int(member) for member in self.members.values()}
        self.values: dict[int, Any] = dict(self.members)
        """Values of words: an enum's members, or texts and data read before, as long as they fit
        into one word."""
        self.is_word = column.kind == "int" and not self.members and self._is_signed_word
        """Whether an int within the bounds is its own word."""
        makers: dict[str, Callable[[Any], int]] = {
            "int": self._int_word,
            "bool": self._bool_word,
            "float": self._float_word,
            "text": self._padded_word,
            "data": self._padded_word,
        }
        seekers = {"int": self._sought_int, "float": self._sought_float}
        self.word = makers.get(column.kind, self._heap_word)
        self.sought = self.word if self.members else seekers.get(column.kind, self.word)
        # The bounds of a short float are rounded as its values are, so that what is read fits.
        self.low, self.high = column.low, column.high
        if column.kind == "float" and column.low is not None and column.high is not None:
            self.low, self.high = self.rounded(column.low), self.rounded(column.high)
        self._any_double = column.bits == 64 and column.low is None
        remembers = bool(self.members) or (column.kind in ("text", "data") and column.words == 1)
        # Words of values seen before, for who looks there first; None where that is no help. Only
        # for values of the types in `exact`: 1.0 and a memoryview equal some, but are refused.
        self.known = self._to_word if remembers else None
        self.exact = frozenset({value.base, int} if self.members else {value.base})

    @property
    def _is_signed_word(self) -> bool:
        return self.column.signed or self.column.bits < 64

    @property
    def is_whole(self) -> bool:
        """Whether every int of 64 bits fits."""
        return (self.column.low, self.column.high) == (INT_MIN, INT_MAX)

    def encode(self, value: Any) -> tuple[int, ...]:
        """Errors: BadValue."""
        return self._encode(value, self.word)

    def encode_sought(self, value: Any) -> tuple[int, ...]:
        """Errors: BadValue for what no column of this type could hold."""
        return self._encode(value, self.sought)

    def _encode(self, value: Any, to_word: Callable[[Any], int]) -> tuple[int, ...]:
        column = self.column
        if value is None and column.optional:
            return (0,) * column.all_words
        if column.words == 1:
            words: tuple[int, ...] = (to_word(value),)
        else:
            words = struct.unpack(f"<{column.words}q", self.padded(value))
        return (*words, 1) if column.optional else words

    def decode(self, words: tuple[int, ...]) -> Any:
        column = self.column
        if column.optional and words[column.words] == 0:
            return None
        if column.words > 1:
            return self.unpadded(struct.pack(f"<{column.words}q", *words[: column.words]))
        return self.value(words[0])

    def value(self, word: int) -> Any:
        """The value of a column with one word, which is not None."""
        kind = self.column.kind
        if kind == "int":
            return self.member(word) if self._is_signed_word else word % WORD
        if kind == "bool":
            return word != 0
        if kind == "float":
            wide = self.column.bits == 64
            parts = _DOUBLE.unpack(_WORD.pack(word)) if wide else _SHORT.unpack(_HALF.pack(word))
            return parts[0]
        return self.remembered(word)

    def member(self, word: int) -> Any:
        """The enum's member for an int column that has one; else the int itself."""
        return self.members.get(word, word)

    def padded(self, value: Any) -> bytes:
        """Text or data as bytes, zeros up to whole words. Errors: BadValue."""
        column = self.column
        if column.kind == "data":
            if not isinstance(value, bytes) or len(value) != column.size_bytes:
                raise self.bad(value, f"exactly {column.size_bytes} bytes")
            return value.ljust(column.words * 8, b"\0")
        raw = self._utf8(value)
        if len(raw) > column.size_bytes:
            raise self.bad(value, f"at most {column.size_bytes} bytes of UTF-8")
        if b"\0" in raw:
            raise self.bad(value, "text without a zero character")
        return raw.ljust(column.words * 8, b"\0")

    def unpadded(self, raw: bytes) -> Any:
        """The text or data that `padded` made these bytes of."""
        if self.column.kind == "data":
            return raw[: self.column.size_bytes]
        return raw.rstrip(b"\0").decode()

    def raw(self, value: Any) -> bytes:
        """A plain str or bytes as the bytes that go to the heap. Errors: BadValue."""
        if self.column.kind == "str":
            raw = self._utf8(value)
        elif isinstance(value, bytes):
            raw = value
        else:
            raise self.bad(value, "bytes")
        if len(raw) > HEAP_VALUE_BYTES_MAX:
            raise self.bad(f"{len(raw)} bytes", f"at most {HEAP_VALUE_BYTES_MAX} bytes")
        return raw

    def _utf8(self, value: Any) -> bytes:
        if not isinstance(value, str):
            raise self.bad(value, "text")
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise self.bad(ascii(value), "text that UTF-8 can hold") from None

    def remembered(self, word: int) -> Any:
        """The text or data in one word. Remembered: few different ones are read often."""
        try:
            return self.values[word]
        except KeyError:
            found = self.unpadded(_WORD.pack(word))
            if len(self.values) >= VALUES_REMEMBERED_MAX:
                self.values.clear()
            self.values[word] = found
            return found

    def bad(self, value: Any, limit: str) -> BadValue:
        if isinstance(value, str | bytes) and len(value) > SHOWN_MAX:
            value = f"{value[:SHOWN_MAX]!r}..."
        return BadValue(self.table, self.column.name, value, limit)

    def _padded_word(self, value: Any) -> int:
        if type(value) in self.exact and value in self._to_word:
            return self._to_word[value]
        word: int = _WORD.unpack(self.padded(value))[0]
        if len(self._to_word) >= VALUES_REMEMBERED_MAX:
            self._to_word.clear()
        self._to_word[value] = word
        return word

    def _int(self, value: Any) -> int:
        if not isinstance(value, int):
            if not hasattr(value, "__index__"):
                raise self.bad(value, "an int")
            value = value.__index__()
        return int(value)

    def _int_word(self, value: Any) -> int:
        number = self._int(value)
        low, high = self.column.low, self.column.high
        if low is None or high is None or not low <= number <= high:
            raise self.bad(number, "64 bits" if self.is_whole else f"{low} to {high}")
        if self.members and number not in self.members:
            raise self.bad(number, f"a member of {self.column.value.base.__name__}")
        return number if self._is_signed_word or number <= INT_MAX else number - WORD

    def _sought_int(self, value: Any) -> int:
        number = self._int(value)
        if self._is_signed_word:
            if not INT_MIN <= number <= INT_MAX:
                raise self.bad(number, "64 bits")
            return number
        if not 0 <= number < WORD:
            raise self.bad(number, f"0 to {WORD - 1}")
        return number if number <= INT_MAX else number - WORD

    def _bool_word(self, value: Any) -> int:
        if value is True or value is False or isinstance(value, np.bool_):
            return int(value)
        raise self.bad(value, "true or false")

    def rounded(self, value: Any) -> float:
        """A number as the column holds it, and never -0.0: equal values must be equal words."""
        if type(value) is not float and (isinstance(value, bool) or not isinstance(value, Real)):
            raise self.bad(value, "a float")
        try:
            number = float(value)
            if self.column.bits == 32:
                number = _SHORT.unpack(_SHORT.pack(number))[0]
            if math.isinf(number) and value not in (math.inf, -math.inf):
                raise OverflowError  # a longer float of numpy's
        except OverflowError:
            limit = "a float" if self.column.bits == 64 else "a float of 32 bits"
            raise self.bad(value, limit) from None
        # One bit pattern for every NaN, so that equal histories give equal bytes.
        return number + 0.0 if number == number else math.nan

    def _sought_float(self, value: Any) -> int:
        number = self.rounded(value)
        wide = self.column.bits == 64
        parts = _WORD.unpack(_DOUBLE.pack(number)) if wide else _HALF.unpack(_SHORT.pack(number))
        word: int = parts[0]
        return word

    def _float_word(self, value: Any) -> int:
        if self._any_double and type(value) is float and value == value:
            double: int = _WORD.unpack(_DOUBLE.pack(value + 0.0))[0]
            return double
        word = self._sought_float(value)
        if self.low is not None and self.high is not None:
            number = self.value(word)
            if not self.low <= number <= self.high:
                raise self.bad(value, f"{self.column.low} to {self.column.high}")
        return word

    def _heap_word(self, value: Any) -> int:
        raise AssertionError(f"{self.column.name} is in the heap: only its memory knows the word")
