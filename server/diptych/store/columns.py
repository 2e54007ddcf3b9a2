"""`columns()`: a table's live rows as numpy arrays.

Equality filters run here, so nobody compares bytes with text or sees a dead slot. Without holes and
filters a column is a view of the memory itself; otherwise its live rows are copied. Every view
derives from the query's one root array, so that a view kept for too long is noticed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.errors import did_you_mean
from diptych.schema import Column
from diptych.store import calls
from diptych.store import words as at
from diptych.store.layout import TableLayout
from diptych.store.storage import items, valid_rows, value_words
from diptych.store.values import Codec
from diptych.store.views import Space


class Selection:
    """Some rows of a table, a numpy array an attribute. `len()` is the number of rows."""

    def __init__(
        self, space: Space, layout: TableLayout, rows: npt.NDArray[np.int64] | None, count: int
    ) -> None:
        self._space, self._layout, self._rows, self._count = space, layout, rows, count

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"<{self._count} rows of {self._layout.spec.name}>"

    def __getattr__(self, name: str) -> npt.NDArray[Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        column = self._layout.spec.by_name.get(name)
        if column is None:
            known = did_you_mean(name, self._layout.spec.by_name)
            raise AttributeError(f"table {self._layout.spec.name!r} has no column {name!r}{known}")
        return _column(self._space, self._layout, column, self._rows, self._count)


def select(
    space: Space, layout: TableLayout, codecs: Mapping[str, Codec], equals: Mapping[str, Any]
) -> Selection:
    """The live rows in which every named column equals the given value, in slot order."""
    state = layout.state
    count = int(space.words[state + at.ROW_COUNT])
    high = int(space.words[state + at.ROW_HIGH])
    rows: npt.NDArray[np.int64] | None = None
    if count != high:
        rows = np.empty(count, np.int64)
        calls.gather(space.words, layout.descriptor, rows)
    for name, value in equals.items():
        if name not in codecs:
            known = did_you_mean(name, codecs)
            raise AttributeError(f"table {layout.spec.name!r} has no column {name!r}{known}")
        column = codecs[name].column
        for i, word in enumerate(codecs[name].encode_sought(value)):
            stored = value_words(space, layout, column.first_word + i, high)
            rows = np.flatnonzero(stored == word) if rows is None else rows[stored[rows] == word]
    return Selection(space, layout, rows, count if rows is None else len(rows))


def _column(
    space: Space,
    layout: TableLayout,
    column: Column,
    rows: npt.NDArray[np.int64] | None,
    count: int,
) -> npt.NDArray[Any]:
    """Those rows of a column, all of the first `count` where `rows` is None; read-only."""
    high = int(space.words[layout.state + at.ROW_HIGH])
    array = items(space, layout, column, high)
    chosen = array[:count] if rows is None else array[rows]
    chosen.flags.writeable = False  # a copy too: writing to one would change nothing
    valid = valid_rows(space, layout, column, high)
    if valid is None:
        return chosen
    mask = ~valid[:count] if rows is None else ~valid[rows]
    masked: npt.NDArray[Any] = np.ma.MaskedArray(chosen, mask, copy=False)
    return masked
