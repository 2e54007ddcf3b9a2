"""Raw columns: the values of many rows of one column as arrays of the column's own width.

This is the form between memory and everybody else who works with columns: Arrow, files of an
export, chunks of an import. Numbers are arrays of their type; text and data are bytes in two
dimensions, filled up with zeros; values of any length are their bytes end to end, with offsets;
which rows have a value is a bitmap, lowest bit first. In a table without holes most of it is a view
of the memory itself. Arrow, files and checks of what comes from outside are not known here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.schema import Column
from diptych.store import words as at
from diptych.store.layout import TableLayout
from diptych.store.storage import item_bytes, item_format
from diptych.store.views import Space

Bytes = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Raw:
    """One column of some rows.

    `values` as the module says; `bitmap` of an optional column, else None; `offsets` into `values`,
    one more than rows, of a column whose values have any length, else None.
    """

    values: npt.NDArray[Any]
    bitmap: Bytes | None = None
    offsets: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.values) if self.offsets is None else len(self.offsets) - 1

    @property
    def valid(self) -> npt.NDArray[np.bool_] | None:
        """Which rows have a value; None: all."""
        if self.bitmap is None:
            return None
        return np.unpackbits(self.bitmap, count=len(self), bitorder="little").view(np.bool_)

    def slice(self, start: int, stop: int) -> Raw:
        """Some of the rows, mostly as views."""
        bitmap = self.bitmap
        if bitmap is not None:
            bitmap = bitmap[start // 8 : -(-stop // 8)]
            if start % 8:
                bits = np.unpackbits(bitmap, bitorder="little")
                bitmap = np.packbits(bits[start % 8 : start % 8 + stop - start], bitorder="little")
        if self.offsets is None:
            return Raw(self.values[start:stop], bitmap)
        offsets = self.offsets[start : stop + 1]
        return Raw(self.values[offsets[0] : offsets[-1]], bitmap, offsets - offsets[0])


def value_dtype(column: Column) -> np.dtype[Any]:
    """Of one value; of text and data, and of what has any length, of one byte."""
    return np.dtype(np.uint8 if is_bytes(column) else item_format(column))


def is_wide(column: Column) -> bool:
    """Whether its values are bytes in two dimensions."""
    return column.kind in ("text", "data")


def is_bytes(column: Column) -> bool:
    """Whether its values are bytes at all."""
    return is_wide(column) or column.in_heap


def read(space: Space, layout: TableLayout, column: Column, rows: Rows | None, count: int) -> Raw:
    """The values of `rows`; None: of the first `count`, as views that derive from the root."""
    bitmap = None
    if column.optional:
        bitmap = _bitmap(space, layout.bases[column.valid_word], rows, count)
    start = layout.bases[column.first_word] * 8
    stop = count if rows is None else int(space.words[layout.state + at.ROW_HIGH])
    if column.in_heap:
        return _from_heap(space, layout, column, rows, count, bitmap)
    size = item_bytes(column)
    values = space.root[start : start + stop * size].view(value_dtype(column))
    if is_wide(column):
        values = values.reshape(-1, size)
    return Raw(values if rows is None else values[rows], bitmap)


def _bitmap(space: Space, base: int, rows: Rows | None, count: int) -> Bytes:
    if rows is None:
        return space.root[base * 8 : base * 8 + -(-count // 8)]
    if not len(rows):
        return np.empty(0, np.uint8)
    highest = int(rows[-1]) + 1  # rows ascend
    bits = np.unpackbits(space.root[base * 8 : base * 8 + -(-highest // 8)], bitorder="little")
    return np.packbits(bits[rows], bitorder="little")


def _from_heap(
    space: Space,
    layout: TableLayout,
    column: Column,
    rows: Rows | None,
    count: int,
    bitmap: Bytes | None,
) -> Raw:
    chosen = np.arange(count) if rows is None else rows
    offsets = np.empty(len(chosen) + 1, np.int64)
    where = space.words, layout.descriptor, column.first_word, chosen, offsets
    from diptych.store import calls  # compiles kernels, which files alone don't need

    values = np.empty(calls.heap_measure(*where), np.uint8)
    calls.heap_gather(*where, values)
    return Raw(values, bitmap, offsets)
