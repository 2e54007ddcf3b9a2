"""Between a Python value and the words that hold it: one `Codec` a column.

Ints and bools are one word, floats one word of IEEE bits, text its UTF-8 bytes filled up with
zeros. What does not fit raises `BadValue`, which names table, column, value and limit; nothing
wraps or is cut off. Knows nothing of where the words are.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any

from diptych.errors import BadValue
from diptych.schema import INT_MAX, INT_MIN, Column

TEXTS_REMEMBERED_MAX = 1 << 16

_DOUBLE = struct.Struct("<d")
_WORD = struct.Struct("<q")


class Codec:
    """How one column's values become words and come back.

    `word(value)`: the word of a one-word value; `encode(value)`: all of its words, as a tuple;
    `padded(value)`: text as bytes of the column's full size; `decode(words)`: the value again.
    """

    def __init__(self, table: str, column: Column) -> None:
        self.table = table
        self.column = column
        value = column.value
        self.members: dict[int, Any] = {int(m): m for m in value.base} if value.is_enum else {}
        self._to_word: dict[Any, int] = {member: int(member) for member in self.members.values()}
        self._to_text: dict[int, str] = {}
        makers: dict[str, Callable[[Any], int]] = {
            "int": self._int_word,
            "bool": self._bool_word,
            "float": self._float_word,
            "text": self._text_word,
        }
        self.word = makers[column.kind]
        # Words of values seen before, for who looks there first; None where an int is its own word.
        self.known = None if column.kind == "int" and not self.members else self._to_word

    def encode(self, value: Any) -> tuple[int, ...]:
        if self.column.words == 1:
            return (self.word(value),)
        padded = self.padded(value)
        return tuple(int.from_bytes(padded[i : i + 8], "little", signed=True)
                     for i in range(0, len(padded), 8))  # fmt: skip

    def decode(self, words: tuple[int, ...]) -> Any:
        kind = self.column.kind
        if kind == "int":
            return self.member(words[0])
        if kind == "bool":
            return words[0] != 0
        if kind == "float":
            return _DOUBLE.unpack(_WORD.pack(words[0]))[0]
        if self.column.words == 1:
            return self.text(words[0])
        raw = b"".join(word.to_bytes(8, "little", signed=True) for word in words)
        return raw.rstrip(b"\0").decode()

    def member(self, word: int) -> Any:
        """The enum's member for an int column that has one; else the int itself."""
        return self.members.get(word, word)

    def padded(self, value: Any) -> bytes:
        """Text as bytes, zeros up to whole words. Errors: BadValue."""
        if not isinstance(value, str):
            raise self.bad(value, "text")
        try:
            raw = value.encode()
        except UnicodeEncodeError:
            raise self.bad(ascii(value), "text that UTF-8 can hold") from None
        if len(raw) > self.column.size_bytes:
            raise self.bad(value, f"at most {self.column.size_bytes} bytes of UTF-8")
        if b"\0" in raw:
            raise self.bad(value, "text without a zero character")
        return raw.ljust(self.column.words * 8, b"\0")

    def text(self, word: int) -> str:
        """The text in one word. Remembered, since few different ones are read often."""
        try:
            return self._to_text[word]
        except KeyError:
            found = word.to_bytes(8, "little", signed=True).rstrip(b"\0").decode()
            if len(self._to_text) >= TEXTS_REMEMBERED_MAX:
                self._to_text.clear()
            self._to_text[word] = found
            return found

    def bad(self, value: Any, limit: str) -> BadValue:
        return BadValue(self.table, self.column.name, value, limit)

    def _text_word(self, value: Any) -> int:
        try:
            return self._to_word[value]
        except (KeyError, TypeError):
            word = int.from_bytes(self.padded(value), "little", signed=True)
            if len(self._to_word) >= TEXTS_REMEMBERED_MAX:
                self._to_word.clear()
            self._to_word[value] = word
            return word

    def _int_word(self, value: Any) -> int:
        if not isinstance(value, int):
            if not hasattr(value, "__index__"):
                raise self.bad(value, "an int")
            value = value.__index__()
        if not INT_MIN <= value <= INT_MAX:
            raise self.bad(value, "64 bits")
        if self.members and value not in self.members:
            raise self.bad(int(value), f"a member of {self.column.value.base.__name__}")
        return int(value)

    def _bool_word(self, value: Any) -> int:
        if value is True or value is False:
            return int(value)
        raise self.bad(value, "true or false")

    def _float_word(self, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.bad(value, "a float")
        try:
            # One bit pattern for every NaN, so that equal histories give equal bytes.
            word: int = _WORD.unpack(_DOUBLE.pack(float(value) if value == value else math.nan))[0]
        except OverflowError:
            raise self.bad(value, "a float") from None
        return word
