"""Values in a table's heap, of many rows at once: read, and compared. Knows codecs and kernels."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.schema import Column
from diptych.store import calls
from diptych.store import words as at
from diptych.store.layout import TableLayout
from diptych.store.storage import valid_rows, value_words
from diptych.store.values import Codec
from diptych.store.views import Space

Rows = npt.NDArray[np.int64]


def values_of(space: Space, table: TableLayout, column: Column, rows: Rows) -> npt.NDArray[Any]:
    """The values of these rows, copied: str, bytes or None in a read-only array of objects."""
    offsets = np.empty(len(rows) + 1, np.int64)
    where = (space.words, table.descriptor, column.first_word, rows, offsets)
    raw = np.empty(calls.heap_measure(*where), np.uint8)
    calls.heap_gather(*where, raw)
    data = raw.tobytes()
    parts: list[Any] = [data[start:stop] for start, stop in pairwise(offsets.tolist())]
    if column.kind == "str":
        parts = [part.decode() for part in parts]
    found = np.empty(len(rows), object)
    found[:] = parts
    valid = _valid(space, table, column, rows)
    if valid is not None:
        found[~valid] = None
    found.flags.writeable = False
    return found


def matching(space: Space, table: TableLayout, codec: Codec, value: Any, rows: Rows) -> Rows:
    """Those of the rows whose value is equal to `value`. Errors: BadValue."""
    column = codec.column
    raw = None if value is None and column.optional else codec.raw(value)
    if not len(rows):
        return rows
    valid = _valid(space, table, column, rows)
    if valid is not None:
        rows = rows[~valid if raw is None else valid]
    if raw is None or not len(rows):
        return rows
    references = value_words(space, table, column.first_word, int(rows.max()) + 1)[rows]
    lengths = references & at.HEAP_VALUE_BYTES_MAX
    starts = ((references >> at.REFERENCE_BITS) + table.heap) * 8
    likely = np.flatnonzero(lengths == len(raw))
    size, memory = len(raw), space.bytes
    equal = [i for i in likely.tolist() if memory[(at_ := int(starts[i])) : at_ + size] == raw]
    return rows[equal]


def _valid(
    space: Space, table: TableLayout, column: Column, rows: Rows
) -> npt.NDArray[np.bool_] | None:
    if not column.optional or not len(rows):
        return None
    all_valid = valid_rows(space, table, column, int(rows.max()) + 1)
    return None if all_valid is None else all_valid[rows]
