"""`columns()`: a table's live rows as numpy arrays.

Equality filters run here, so nobody compares bytes with text or sees a dead slot. Without holes and
filters a column is a view of the memory itself; otherwise its live rows are copied. Every view
derives from the query's one root array, so that a view kept for too long is noticed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.errors import did_you_mean
from diptych.store import arrow, calls, raw
from diptych.store import words as at
from diptych.store.layout import TableLayout
from diptych.store.values import Codec
from diptych.store.views import Space

_DTYPES = {"int": "<i8", "float": "<f8"}


class Selection:
    """Some rows of a table, a numpy array an attribute. `len()` is the number of rows.

    `arrow()` and `df()` are there unless a column has that name; a table's own always are.
    """

    def __init__(
        self, space: Space, layout: TableLayout, rows: npt.NDArray[np.int64] | None, count: int
    ) -> None:
        self._space, self._layout, self._rows, self._count = space, layout, rows, count

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"<{self._count} rows of {self._layout.spec.name}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        column = self._layout.spec.by_name.get(name)
        if column is None:
            if name in _CONVERSIONS:
                return partial(_CONVERSIONS[name], self)
            known = did_you_mean(name, self._layout.spec.by_name)
            raise AttributeError(f"table {self._layout.spec.name!r} has no column {name!r}{known}")
        array = _column(self._space, self._layout, name)
        chosen = array[: self._count] if self._rows is None else array[self._rows]
        if column.kind == "bool":
            chosen = chosen != 0
        chosen.flags.writeable = False  # a copy too: writing to one would change nothing
        return chosen


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
        for i, word in enumerate(codecs[name].encode(value)):
            base = layout.bases[column.first_word] + i
            stored = space.words[base : base + high * column.words : column.words]
            rows = np.flatnonzero(stored == word) if rows is None else rows[stored[rows] == word]
    return Selection(space, layout, rows, count if rows is None else len(rows))


def to_arrow(chosen: Selection) -> Any:
    """A pyarrow.Table of these rows, whose arrays may be views of the data."""
    return arrow.arrow_table(chosen._layout.spec.by_name, _raws(chosen))


def to_df(chosen: Selection) -> Any:
    """A pandas.DataFrame of these rows."""
    return arrow.data_frame(chosen._layout.spec.by_name, _raws(chosen))


_CONVERSIONS: dict[str, Callable[[Selection], Any]] = {"arrow": to_arrow, "df": to_df}


def _raws(chosen: Selection) -> dict[str, raw.Raw]:
    layout = chosen._layout
    return {
        column.name: raw.read(chosen._space, layout, column, chosen._rows, len(chosen))
        for column in layout.spec.columns
    }


def _column(space: Space, layout: TableLayout, name: str) -> npt.NDArray[Any]:
    column = layout.spec.by_name[name]
    high = int(space.words[layout.state + at.ROW_HIGH])
    dtype = f"S{column.words * 8}" if column.kind == "text" else _DTYPES.get(column.kind, "<i8")
    return space.column_array(layout.bases[column.first_word], high, column.words, dtype)
