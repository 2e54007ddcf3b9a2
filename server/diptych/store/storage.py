"""How the rows of a column lie in memory, as memoryviews and numpy read them.

A column's first words are one array with an item a row; the word that tells values from None is a
bit a row. Knows no values: what the items mean is for `values`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.memory.layout import Words
from diptych.schema import Column
from diptych.store import words as at
from diptych.store.layout import VALID_PACK, TableLayout
from diptych.store.views import Space

_INTS = {8: "b", 16: "h", 32: "i", 64: "q"}
_FLOATS = {32: "f", 64: "d"}


def item_format(column: Column) -> str:
    """The `struct` code of a row's item, of a column with one word."""
    if column.kind == "bool":
        return "?"
    if column.kind == "float":
        return _FLOATS[column.bits]
    code = _INTS[column.bits]
    return code if column.signed else code.upper()


def item_bytes(column: Column) -> int:
    """What a row takes of a column's array."""
    return column.words * 8 if column.words > 1 else column.bits // 8


def item_view(space: Space, table: TableLayout, column: Column) -> Any:
    """A column with one word as a memoryview with an item a row, for the table's whole capacity."""
    base, size_bytes = table.bases[column.first_word], table.capacity * item_bytes(column)
    code: Any = item_format(column)
    return space.byte_view(base, size_bytes).cast(code)


def valid_view(space: Space, table: TableLayout, column: Column) -> memoryview[int] | None:
    """The bits that tell values from None, as bytes; None where that can't be."""
    if not column.optional:
        return None
    return space.byte_view(table.bases[column.valid_word], -(-table.capacity // 8))


def items(space: Space, table: TableLayout, column: Column, rows: int) -> npt.NDArray[Any]:
    """Rows 0 to `rows` of a column as a read-only array; its type is what handlers see."""
    size = item_bytes(column)
    raw = space.bytes_array(table.bases[column.first_word], rows * size)
    if column.kind == "text":
        return raw.view(f"S{size}")
    if column.kind == "data":
        exact = np.dtype(
            {"names": ["v"], "formats": [f"V{column.size_bytes}"], "offsets": [0], "itemsize": size}
        )
        return raw.view(exact)["v"]
    return raw.view(item_format(column))


def valid_rows(
    space: Space, table: TableLayout, column: Column, rows: int
) -> npt.NDArray[np.bool_] | None:
    """Which of rows 0 to `rows` have a value; None: all of them, since the column isn't optional.

    A copy, unlike `items`: memory has a bit a row.
    """
    if not column.optional:
        return None
    raw = space.bytes_array(table.bases[column.valid_word], -(-rows // 8))
    return np.unpackbits(raw, count=rows, bitorder="little").view(np.bool_)


def value_words(space: Space, table: TableLayout, value: int, rows: int) -> npt.NDArray[Any]:
    """Value word number `value` of rows 0 to `rows`, as kernels read it, in its own width."""
    if table.packs[value] & at.PACK_ROWS == VALID_PACK:
        raw = space.bytes_array(table.bases[value], -(-rows // 8))
        return np.unpackbits(raw, count=rows, bitorder="little")
    return value_array(space.words, table, value, rows)


def value_array(words: Words, table: TableLayout, value: int, rows: int) -> npt.NDArray[Any]:
    """The same as a view of `words`, of any value word but one that tells values from None."""
    base, pack, stride = table.bases[value], table.packs[value], table.strides[value]
    bits = 64 >> (pack & at.PACK_ROWS)
    if bits == 64:
        return words[base : base + rows * stride : stride]
    code = _INTS[bits] if pack & at.PACK_SIGNED else _INTS[bits].upper()
    return words.view(np.uint8)[base * 8 : base * 8 + rows * bits // 8].view(code)
