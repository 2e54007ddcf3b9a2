"""Reading a column of a row: one function for each column, made once for an open region.

Most reads are one memoryview access. Whether the row is still there is looked at only when what
was read is zero: a slot without a row is zero in every column, and so is None.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from diptych.schema import Column
from diptych.store import words as at
from diptych.store.faults import stale
from diptych.store.layout import TableLayout
from diptych.store.slots import LIVE
from diptych.store.storage import item_bytes, item_view, valid_view
from diptych.store.values import Codec
from diptych.store.views import Space

if TYPE_CHECKING:
    from diptych.store.rowtypes import Row

Get = Callable[["Row"], Any]


def make_getter(space: Space, table: TableLayout, column: Column, codec: Codec) -> Get:
    """The function that reads a column of a row. It raises StaleRow where there is no row."""
    if column.in_heap:
        return _heap_getter(space, table, column, codec)
    if column.words > 1:
        return _wide_getter(space, table, column, codec)
    if column.kind in ("text", "data"):
        return _decoding_getter(space, table, column, codec, codec.remembered)
    if codec.members:
        return _decoding_getter(space, table, column, codec, codec.value)
    if column.optional:
        return _optional_getter(space, table, column, codec)
    view = item_view(space, table, column)
    live: Any = space.word_view(table.live, table.capacity)

    def get(self: Row) -> Any:
        row = self._row
        try:
            value = view[row]
            if value or live[row] < 0:  # LIVE: the only negative number there
                return value
        except TypeError:
            pass
        raise stale(table.spec.name)

    return get


def _zero_reader(space: Space, table: TableLayout, column: Column, codec: Codec) -> Get:
    """What a row has whose words are all zero."""
    live = space.word_view(table.live, table.capacity)
    valid = valid_view(space, table, column)
    zero = codec.unpadded(b"\0" * item_bytes(column)) if column.words > 1 else None
    if column.in_heap:
        zero = "" if column.kind == "str" else b""
    elif column.words == 1:
        zero = codec.value(0)

    def read(self: Row) -> Any:
        row = self._row
        if row is None or live[row] != LIVE:
            raise stale(table.spec.name)
        if valid is not None and not valid[row >> 3] >> (row & 7) & 1:
            return None
        return zero

    return read


def _optional_getter(space: Space, table: TableLayout, column: Column, codec: Codec) -> Get:
    view, read_zero = item_view(space, table, column), _zero_reader(space, table, column, codec)

    def get(self: Row) -> Any:
        try:
            return view[self._row] or read_zero(self)
        except TypeError:
            raise stale(table.spec.name) from None

    return get


def _decoding_getter(
    space: Space, table: TableLayout, column: Column, codec: Codec, decode: Callable[[int], Any]
) -> Get:
    """For values that are one of those in `codec.values` as a rule, which `decode` may add to."""
    view, read_zero = item_view(space, table, column), _zero_reader(space, table, column, codec)
    values = codec.values
    if column.bits == 64:  # words of 64 bits have a sign, whatever their bytes mean
        view = space.word_view(table.bases[column.first_word], table.capacity)

    def get(self: Row) -> Any:
        try:
            word = view[self._row]
        except TypeError:
            raise stale(table.spec.name) from None
        if not word:
            return read_zero(self)
        try:
            return values[word]
        except KeyError:
            return decode(word)

    return get


def _wide_getter(space: Space, table: TableLayout, column: Column, codec: Codec) -> Get:
    size_bytes = item_bytes(column)
    raw = space.byte_view(table.bases[column.first_word], table.capacity * size_bytes)
    read_zero, exact = _zero_reader(space, table, column, codec), column.size_bytes
    # Twice as fast as a slice of `raw`.
    unpack = struct.Struct(f"{size_bytes}s").unpack_from
    unpack_exact, zeros = struct.Struct(f"{exact}s").unpack_from, bytes(exact)

    def get_text(self: Row) -> Any:
        row = self._row
        if row is None:
            raise stale(table.spec.name)
        found: str = unpack(raw, row * size_bytes)[0].rstrip(b"\0").decode()
        return found or read_zero(self)

    def get_data(self: Row) -> Any:
        row = self._row
        if row is None:
            raise stale(table.spec.name)
        found: bytes = unpack_exact(raw, row * size_bytes)[0]
        return found if found != zeros else read_zero(self)

    return get_text if column.kind == "text" else get_data


def _heap_getter(space: Space, table: TableLayout, column: Column, codec: Codec) -> Get:
    view: Any = space.word_view(table.bases[column.first_word], table.capacity)
    heap = space.byte_view(table.heap, table.heap_words * 8)
    read_zero, is_text = _zero_reader(space, table, column, codec), column.kind == "str"
    length_mask = at.HEAP_VALUE_BYTES_MAX

    def get(self: Row) -> Any:
        try:
            word = view[self._row]
        except TypeError:
            raise stale(table.spec.name) from None
        if not word:
            return read_zero(self)
        start = word >> at.REFERENCE_BITS << 3
        raw = heap[start : start + (word & length_mask)]
        return str(raw, "utf-8") if is_text else bytes(raw)

    return get
