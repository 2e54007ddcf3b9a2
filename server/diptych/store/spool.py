"""Tables in a file: the raw columns of some rows, end to end, for exports.

What `spool` returns says where each column's values, bitmap and offsets lie; `columns_of` makes
views of them again, wherever the file is then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from diptych.schema import Column
from diptych.store import calls, raw
from diptych.store import words as at
from diptych.store.raw import Bytes, Raw
from diptych.store.storage import item_bytes
from diptych.store.tables import TableView

ALIGNMENT = 64


def spool_bytes(view: TableView) -> int:
    """About what a table's rows will take in a file, and not less."""
    layout = view.layout
    row_bytes = sum(9 if c.in_heap else item_bytes(c) + 1 for c in layout.spec.columns)
    heap_words = int(view.space.words[layout.heap_state + at.H_USED]) if layout.heap_words else 0
    return len(view) * row_bytes + heap_words * 8


def columns_in(view: TableView) -> dict[str, Raw]:
    """The raw columns of a table's live rows, as views of its memory as far as that can be."""
    layout, rows = view.layout, None
    if len(view) != view.space.words[layout.state + at.ROW_HIGH]:
        rows = np.empty(len(view), np.int64)
        calls.gather(view.space.words, layout.descriptor, rows)
    return {
        column.name: raw.read(view.space, layout, column, rows, len(view))
        for column in layout.spec.columns
    }


def spool(view: TableView, file: IO[bytes]) -> dict[str, Any]:
    """Write a table's rows; its name, how many there are, and where each column's arrays lie."""
    places: dict[str, list[list[int]]] = {}
    for name, found in columns_in(view).items():
        parts = (found.values, found.bitmap, found.offsets)
        places[name] = [[0, 0] if part is None else _write(file, part) for part in parts]
    return {"name": view.name, "rows": len(view), "places": places}


def columns_of(
    columns: Mapping[str, Column], told: Mapping[str, Any], data: Bytes
) -> dict[str, Raw]:
    """A spooled table's columns as views of the file's bytes. The inverse of `spool`."""
    found = {}
    for name, column in columns.items():
        values, bitmap, offsets = (
            data[start : start + size] for start, size in told["places"][name]
        )
        typed: npt.NDArray[Any] = values.view(raw.value_dtype(column))
        if raw.is_wide(column):
            typed = typed.reshape(-1, item_bytes(column))
        found[name] = Raw(
            typed,
            bitmap if column.optional else None,
            offsets.view(np.int64) if column.in_heap else None,
        )
    return found


def _write(file: IO[bytes], values: npt.NDArray[Any]) -> list[int]:
    """Where the array's bytes are now: offset and length."""
    file.write(bytes(-file.tell() % ALIGNMENT))
    start = file.tell()
    file.write(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    return [start, values.nbytes]
