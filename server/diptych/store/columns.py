"""`columns()`: a table's live rows as numpy arrays.

Equality filters run here, so nobody compares bytes with text or sees a dead slot. Without holes and
filters a column is a view of the memory itself; otherwise its live rows are copied. Every view
derives from the query's one root array, so that a view kept for too long is noticed. `vectors`
writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from diptych.errors import did_you_mean
from diptych.schema import Column
from diptych.store import arrow, calls, raw
from diptych.store import words as at
from diptych.store.faults import StaleRow
from diptych.store.heap_values import matching, values_of
from diptych.store.layout import TableLayout
from diptych.store.storage import items, valid_rows, value_words
from diptych.store.vectors import write_columns
from diptych.store.views import Space

if TYPE_CHECKING:
    from diptych.store.tables import TableView


class Selection:
    """Some rows of a table, a numpy array an attribute. `len()` is the number of rows.

    `[name]` is the same, also for columns that are called like a method.
    """

    def __init__(self, view: TableView, rows: npt.NDArray[np.int64] | None, count: int) -> None:
        self._view, self._rows, self._count = view, rows, count
        self._sequence = view.space.ints[at.SEQUENCE]

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"<{self._count} rows of {self._view.name}>"

    def __getattr__(self, name: str) -> npt.NDArray[Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        view = self._view
        column = view.layout.spec.by_name.get(name)
        if column is None:
            known = did_you_mean(str(name), view.layout.spec.by_name)
            raise AttributeError(f"table {view.name!r} has no column {name!r}{known}")
        self._check()
        return _column(view.space, view.layout, column, self._rows, self._count)

    def write(self, **columns: Any) -> None:
        """Set columns of all these rows: to one value, or to an array with one each."""
        self._check()
        rows = np.arange(self._count) if self._rows is None else self._rows
        write_columns(self._view, rows, columns)

    def arrow(self) -> Any:
        """A pyarrow.Table of these rows, whose arrays may be views of the data."""
        return arrow.arrow_table(self._view.layout.spec.by_name, self._raws())

    def df(self) -> Any:
        """A pandas.DataFrame of these rows."""
        return arrow.data_frame(self._view.layout.spec.by_name, self._raws())

    def _raws(self) -> dict[str, raw.Raw]:
        self._check()
        view = self._view
        return {
            column.name: raw.read(view.space, view.layout, column, self._rows, self._count)
            for column in view.layout.spec.columns
        }

    def _check(self) -> None:
        if self._view.space.ints[at.SEQUENCE] != self._sequence:
            raise StaleRow(f"the transaction or query of {self!r} has ended")


def select(view: TableView, equals: Mapping[str, Any]) -> Selection:
    """The live rows in which every named column equals the given value, in slot order."""
    space, layout, codecs = view.space, view.layout, view.codecs
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
        if column.in_heap:
            candidates = np.arange(high) if rows is None else rows
            rows = matching(space, layout, codecs[name], value, candidates)
            continue
        for i, word in enumerate(codecs[name].encode_sought(value)):
            stored = value_words(space, layout, column.first_word + i, high)
            rows = np.flatnonzero(stored == word) if rows is None else rows[stored[rows] == word]
    return Selection(view, rows, count if rows is None else len(rows))


def _column(
    space: Space,
    layout: TableLayout,
    column: Column,
    rows: npt.NDArray[np.int64] | None,
    count: int,
) -> npt.NDArray[Any]:
    """Those rows of a column, all of the first `count` where `rows` is None; read-only."""
    high = int(space.words[layout.state + at.ROW_HIGH])
    if column.in_heap:
        return values_of(space, layout, column, np.arange(count) if rows is None else rows)
    array = items(space, layout, column, high)
    chosen = array[:count] if rows is None else array[rows]
    chosen.flags.writeable = False  # a copy too: writing to one would change nothing
    valid = valid_rows(space, layout, column, high)
    if valid is None:
        return chosen
    mask = ~valid[:count] if rows is None else ~valid[rows]
    masked: npt.NDArray[Any] = np.ma.MaskedArray(chosen, mask, copy=False)
    return masked
