"""From raw columns to files: CSV, Parquet and Arrow, which an import reads back unchanged.

In CSV decimals, times, days and names of enums stand as people write them, bytes as two hexadecimal
digits each, None as nothing, and empty text as "".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from diptych.schema import Column
from diptych.store.arrow import arrow_array, arrow_table, library
from diptych.store.raw import Raw, is_wide, value_dtype
from diptych.store.storage import item_bytes

PLAIN_DIGITS_MAX = 6
"""Decimals that Arrow writes without an exponent."""
DAY_MIN, DAY_MAX = -719_162, 2_932_896
"""Of the years 1 to 9999."""


class Writer(AbstractContextManager["Writer"]):
    """Writes batches of raw columns to one file. `columns`: of the table, by name."""

    def __init__(self, path: Path, kind: str, columns: Mapping[str, Column]) -> None:
        self._columns = columns
        self._convert = csv_table if kind == "csv" else arrow_table
        empty = self._convert(columns, {n: empty_raw(c) for n, c in columns.items()})
        self._schema = empty.schema
        self._writer: Any = _WRITERS[kind](path, empty.schema)

    def write(self, raws: Mapping[str, Raw]) -> None:
        self._writer.write_table(self._convert(self._columns, raws).cast(self._schema))

    def __exit__(self, *error: object) -> None:
        self._writer.close()


def empty_raw(column: Column) -> Raw:
    """No rows."""
    values = np.empty((0, item_bytes(column)) if is_wide(column) else 0, value_dtype(column))
    bitmap = np.empty(0, np.uint8) if column.optional else None
    return Raw(values, bitmap, np.zeros(1, np.int64) if column.in_heap else None)


def csv_table(columns: Mapping[str, Column], raws: Mapping[str, Raw]) -> Any:
    """A pyarrow.Table of what stands in CSV."""
    pa = library("pyarrow")
    arrays = [_csv_array(column, raws[name]) for name, column in columns.items()]
    return pa.Table.from_arrays(arrays, names=list(columns))


def _csv_array(column: Column, raw: Raw) -> Any:
    pa = library("pyarrow")
    value = column.value
    if column.value.base is bytes:
        return _hexadecimal(column, raw)
    array = arrow_array(column, raw)
    if value.is_enum:
        return array.cast(pa.string())
    if value.scaled and value.scaled.digits > PLAIN_DIGITS_MAX:
        return _decimals(array, value.scaled.digits)
    if value.unit:
        return _times(array) if value.unit.name == "time" else _days(column, raw, array)
    return array


def _hexadecimal(column: Column, raw: Raw) -> Any:
    pa = library("pyarrow")
    content = arrow_array(column, raw).to_pylist()
    return pa.array([None if each is None else each.hex() for each in content], pa.string())


def _decimals(array: Any, digits: int) -> Any:
    """Without exponents."""
    pa = library("pyarrow")
    texts = [None if each is None else f"{each:.{digits}f}" for each in array.to_pylist()]
    return pa.array(texts, pa.string())


def _times(array: Any) -> Any:
    pa, pc = library("pyarrow"), library("pyarrow.compute")
    return pc.replace_substring(array.cast(pa.string()), " ", "T")


def _days(column: Column, raw: Raw, array: Any) -> Any:
    """Days that no date has stand as their numbers."""
    pa, pc = library("pyarrow"), library("pyarrow.compute")
    dated = pa.array((raw.values >= DAY_MIN) & (raw.values <= DAY_MAX))
    if pc.all(dated, min_count=0).as_py():
        return array.cast(pa.string())
    numbers = array.cast(pa.int32()).cast(pa.string())
    safe = pc.if_else(dated, array, pa.scalar(0, pa.date32()))
    return pc.if_else(dated, safe.cast(pa.string()), numbers)


def _csv_writer(path: Path, schema: Any) -> Any:
    return library("pyarrow.csv").CSVWriter(path, schema)


def _parquet_writer(path: Path, schema: Any) -> Any:
    return library("pyarrow.parquet").ParquetWriter(path, schema)


def _arrow_writer(path: Path, schema: Any) -> Any:
    return library("pyarrow").ipc.new_file(path, schema)


_WRITERS: dict[str, Callable[[Path, Any], Any]] = {
    "csv": _csv_writer,
    "parquet": _parquet_writer,
    "arrow": _arrow_writer,
}
