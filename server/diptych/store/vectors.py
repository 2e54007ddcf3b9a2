"""Whole columns of chosen rows, written in one call: `Selection.write`.

Values are checked as an assignment to one row checks them, but all at once where they are numbers
in an array. The kernel keeps undo records and indexes, as for any other write.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from diptych.errors import did_you_mean
from diptych.store import calls
from diptych.store.faults import ReadOnly, fault, not_found
from diptych.store.heaps import make_assign
from diptych.store.values import Codec

if TYPE_CHECKING:
    from diptych.store.tables import TableView

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.int64]


def write_columns(view: TableView, rows: Rows, columns: Mapping[str, Any]) -> None:
    """Set columns of these rows to one value, or one each; when it raises, nothing is set.

    Errors: BadValue, ReadOnly, Rejected (`not_unique`, `not_found`), StaleRow for a deleted row,
    ValueError for another number of values than there are rows.
    """
    space = view.space
    if not space.writable:
        raise ReadOnly("a query can't change data")
    mark = calls.mark(space.words)
    try:
        for name, values in columns.items():
            if name not in view.codecs:
                known = did_you_mean(name, view.codecs)
                raise AttributeError(f"table {view.name!r} has no column {name!r}{known}")
            codec = view.codecs[name]
            if codec.column.key:
                raise ReadOnly(f"{view.name}.{name} is part of the key")
            array = _as_array(values)
            if array.shape not in ((1,), (len(rows),)):
                raise ValueError(f"{name} needs {len(rows)} values, or one for all of them")
            masked = isinstance(values, np.ma.MaskedArray)
            missing = np.atleast_1d(np.ma.getmaskarray(values)) if masked else None
            if codec.column.in_heap:
                _write_heap(view, codec, rows, array, missing)
            else:
                _write_words(view, codec, rows, array, missing)
    except BaseException:
        calls.rollback(space.words, mark)
        raise


def _as_array(values: Any) -> Array:
    """One value or many as an array of one dimension."""
    if isinstance(values, np.ndarray):
        return np.atleast_1d(np.asarray(values))
    if isinstance(values, str | bytes) or not hasattr(values, "__len__"):
        values = [values]
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _write_words(
    view: TableView, codec: Codec, rows: Rows, array: Array, missing: Array | None
) -> None:
    space, column = view.space, codec.column
    new = np.repeat(_words(codec, array, missing), len(rows) // max(1, len(array)), axis=0)
    if column.reference:
        _check_references(view.tables[column.reference], new, bool(column.optional))
    arguments = (space.words, view.layout.descriptor, column.first_word, rows, new.reshape(-1))
    code = calls.write_rows(*arguments)
    while code < 0 and space.needs_memory(code):
        code = calls.write_rows(*arguments)
    if code < 0:
        raise fault(space, code, view.layout)


def _write_heap(
    view: TableView, codec: Codec, rows: Rows, array: Array, missing: Array | None
) -> None:
    assign = make_assign(view.space, view.layout, codec.column, codec)
    values = _listed(codec, array, missing) * (len(rows) // max(1, len(array)))
    for row, value in zip(rows.tolist(), values, strict=True):
        assign(row, value)


def _check_references(table: TableView, new: npt.NDArray[np.int64], optional: bool) -> None:
    numbers = new[new[:, 1] != 0, 0] if optional else new[:, 0]
    for number in np.unique(numbers).tolist():
        if table.find(number) < 0:
            raise not_found(table.space, table.name, number)


def _words(codec: Codec, array: Array, missing: Array | None) -> npt.NDArray[np.int64]:
    """The value words of each value, a row each. Errors: BadValue."""
    column = codec.column
    fast = _FAST.get(column.kind)
    new = np.zeros((len(array), column.all_words), np.int64)
    if fast is None or array.dtype.kind not in fast[0]:
        encoded = [codec.encode(value) for value in _listed(codec, array, missing)]
        new[:] = np.array(encoded, np.int64).reshape(new.shape)
        return new
    if missing is not None and missing.any():
        codec.encode(None)  # raises unless the column is optional
        new[~missing, 0] = fast[1](codec, array[~missing])
        new[~missing, 1] = 1
        return new
    new[:, 0] = fast[1](codec, array)
    new[:, column.words :] = 1
    return new


def _listed(codec: Codec, array: Array, missing: Array | None) -> list[Any]:
    """The values as one by one they would be assigned."""
    listed: list[Any] = array.tolist()
    if codec.column.kind in ("text", "str") and array.dtype.kind == "S":
        listed = [value.decode() for value in listed]  # as `columns` gave them
    if missing is not None:
        listed = [None if no else value for value, no in zip(listed, missing.tolist(), strict=True)]
    return listed


def _int_words(codec: Codec, array: Array) -> npt.NDArray[np.int64]:
    low, high = codec.low, codec.high
    if len(array) and low is not None and high is not None:
        outside = not low <= int(array.min()) <= int(array.max()) <= high
        if outside or (codec.members and not np.isin(array, list(codec.members)).all()):
            for value in array.tolist():
                codec.word(int(value))  # raises for the first that does not fit
    return array.astype(np.int64)


def _bool_words(codec: Codec, array: Array) -> npt.NDArray[np.int64]:
    return array.astype(np.int64)


def _float_words(codec: Codec, array: Array) -> npt.NDArray[np.int64]:
    wide = codec.column.bits == 64
    with np.errstate(over="ignore"):
        numbers: Array = array.astype(np.float64 if wide else np.float32)
    numbers += numbers.dtype.type(0)  # -0.0 becomes 0.0
    good = np.isfinite(numbers) | ~np.isfinite(array)
    if codec.low is not None and codec.high is not None:
        good &= (numbers >= codec.low) & (numbers <= codec.high)
    if not good.all():
        codec.word(array[~good][0].item())  # raises
    numbers[np.isnan(numbers)] = np.nan
    words: npt.NDArray[np.int64] = numbers.view(np.int64 if wide else np.int32).astype(np.int64)
    return words


_FAST: dict[str, tuple[str, Callable[[Codec, Array], npt.NDArray[np.int64]]]] = {
    "int": ("iub", _int_words),
    "bool": ("b", _bool_words),
    "float": ("iuf", _float_words),
}
"""Kinds of columns whose values are checked all at once, and of the arrays that can be."""
