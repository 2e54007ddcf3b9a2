"""Assigning to a column of a row: one function for each column, made once for an open region.

Each is atomic by itself: the value is checked before anything is written, and what takes several
kernel calls is rolled back to where it began when one of them fails.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from diptych.schema import Column
from diptych.store import calls
from diptych.store.faults import fault, not_found, stale
from diptych.store.heaps import make_assign
from diptych.store.layout import TableLayout
from diptych.store.values import Codec
from diptych.store.views import Space

if TYPE_CHECKING:
    from diptych.store.rowtypes import Row

Set = Callable[["Row", Any], None]
Find = Callable[[Any], int]


def make_setter(
    space: Space, table: TableLayout, column: Column, codec: Codec, refers: Find | None
) -> Set:
    """The function that assigns to a column that is not of the key.

    `refers` finds the row that a reference names. Errors of what it makes: BadValue, Rejected
    (`not_unique`, `not_found`), StaleRow.
    """
    indexed = any(column in index.spec.columns for index in table.indexes)
    if column.in_heap:
        setter = _heap_setter(space, table, column, codec)
    elif column.words > 1 or column.optional:
        setter = _words_setter(space, table, column, codec)
    elif column.bits < 64 or indexed:
        setter = _word_setter(space, table, column, codec)
    else:
        setter = _plain_setter(space, table, column, codec)
    return setter if refers is None else _checked(space, setter, column, refers)


def _plain_setter(space: Space, table: TableLayout, column: Column, codec: Codec) -> Set:
    """For whole words that no index holds."""
    words = space.words
    descriptor, base = table.descriptor, table.bases[column.first_word]
    to_word, assign, is_word = codec.word, calls.assign, codec.is_word
    low: Any = codec.low
    high: Any = codec.high

    def set_int(self: Row, value: Any) -> None:
        row = self._row
        if row is None:
            raise stale(table.spec.name)
        word = value if type(value) is int else to_word(value)
        try:
            code = assign(words, descriptor, row, base + row, word)
        except OverflowError:
            raise codec.bad(value, "64 bits") from None
        if code < 0:
            raise fault(space, code, table)

    def set_word(self: Row, value: Any) -> None:
        row = self._row
        if row is None:
            raise stale(table.spec.name)
        fits = is_word and type(value) is int and low <= value <= high
        code = assign(words, descriptor, row, base + row, value if fits else to_word(value))
        if code < 0:
            raise fault(space, code, table)

    return set_int if is_word and codec.is_whole else set_word


def _word_setter(space: Space, table: TableLayout, column: Column, codec: Codec) -> Set:
    """For one word: narrow, or held by an index."""
    words, first = space.words, column.first_word
    descriptor, update, to_word = table.descriptor, calls.update, codec.word
    is_word = codec.is_word
    low: Any = codec.low
    high: Any = codec.high

    def set_word(self: Row, value: Any) -> None:
        row = self._row
        if row is None:
            raise stale(table.spec.name)
        fits = is_word and type(value) is int and low <= value <= high
        word = value if fits else to_word(value)
        code = update(words, descriptor, row, first, word)
        while code < 0 and space.needs_memory(code):
            code = update(words, descriptor, row, first, word)
        if code < 0:
            raise fault(space, code, table)

    return set_word


def _words_setter(space: Space, table: TableLayout, column: Column, codec: Codec) -> Set:
    """For several words, all changed at once, so that no index sees half of a value."""
    words, first = space.words, column.first_word
    arguments, count, encode = space.arguments, column.all_words, codec.encode

    def set_words(self: Row, value: Any) -> None:
        row = self._row
        if row is None:
            raise stale(table.spec.name)
        for i, word in enumerate(encode(value)):
            arguments[i] = word
        code = calls.update_words(words, table.descriptor, row, first, count)
        while code < 0 and space.needs_memory(code):
            code = calls.update_words(words, table.descriptor, row, first, count)
        if code < 0:
            raise fault(space, code, table)

    return set_words


def _heap_setter(space: Space, table: TableLayout, column: Column, codec: Codec) -> Set:
    assign = make_assign(space, table, column, codec)

    def set_value(self: Row, value: Any) -> None:
        row = self._row
        if row is None:
            raise stale(table.spec.name)
        assign(row, value)

    return set_value


def _checked(space: Space, setter: Set, column: Column, refers: Find) -> Set:
    """A setter that first looks for the row that the value refers to."""

    def set_reference(self: Row, value: Any) -> None:
        if value is not None and refers(value) < 0:
            raise not_found(space, str(column.reference), value)
        setter(self, value)

    return set_reference
