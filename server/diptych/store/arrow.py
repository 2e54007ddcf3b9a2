"""Arrow tables and data frames of a table's columns.

What people would call the values: decimals for scaled ints, timestamps, dates, names of enums,
strings. Where the memory is laid out as Arrow wants it, and the table has no holes, the arrays are
views of that memory; else copies. pyarrow and pandas are an extra, imported when they are needed.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.schema import Column
from diptych.store.raw import Bytes, Raw, is_wide

EXTRA = "arrow"
INT_DIGITS = 19
UNSIGNED_DIGITS = 20
STRING_BYTES_MAX = 2**31 - 1


def library(name: str) -> Any:
    """The module pyarrow or pandas, or one of theirs. Errors: ImportError, saying what to do."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"{name.partition('.')[0]} can't be imported ({error}): "
            f"install Diptych with it, as in: pip install 'diptych[{EXTRA}]'"
        ) from error


def arrow_type(column: Column) -> Any:
    """The Arrow type of a column's values."""
    pa = library("pyarrow")
    value = column.value
    if value.is_enum:
        return pa.dictionary(pa.int32(), pa.string())
    if value.scaled:
        digits = INT_DIGITS if column.signed else UNSIGNED_DIGITS
        return pa.decimal128(max(digits, value.scaled.digits), value.scaled.digits)
    if value.unit:
        return pa.timestamp("ns", tz="UTC") if value.unit.name == "time" else pa.date32()
    if column.kind == "int":
        return getattr(pa, f"{'' if column.signed else 'u'}int{column.bits}")()
    if column.kind == "float":
        return pa.float32() if column.bits == 32 else pa.float64()
    plain = {"bool": pa.bool_(), "text": pa.string(), "str": pa.string(), "bytes": pa.binary()}
    return plain[column.kind] if column.kind in plain else pa.binary(column.size_bytes)


def arrow_table(columns: Mapping[str, Column], raws: Mapping[str, Raw]) -> Any:
    """A pyarrow.Table of raw columns."""
    pa = library("pyarrow")
    arrays = [arrow_array(column, raws[name]) for name, column in columns.items()]
    fields = [
        pa.field(name, array.type, nullable=column.optional)
        for (name, column), array in zip(columns.items(), arrays, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def arrow_array(column: Column, raw: Raw) -> Any:
    """A pyarrow.Array of one raw column."""
    pa = library("pyarrow")
    kind, values, count = arrow_type(column), raw.values, len(raw)
    valid = None if raw.bitmap is None else _buffer(raw.bitmap)
    if column.value.is_enum:
        return _names(column, raw, kind)
    if raw.offsets is not None:
        return _varying(kind, raw.offsets, values, valid)
    if column.kind == "text":
        return _texts(kind, values, valid)
    if column.value.scaled:
        values = _decimals(values)
    elif column.kind == "bool":
        values = np.packbits(values, bitorder="little")
    elif column.value.unit:
        values = _counted(column, values)
    elif is_wide(column) and values.shape[1] != column.size_bytes:
        values = values[:, : column.size_bytes]
    return pa.Array.from_buffers(kind, count, [valid, _buffer(values)])


def data_frame(columns: Mapping[str, Column], raws: Mapping[str, Raw]) -> Any:
    """A pandas.DataFrame of raw columns. Ints and bools that may be None are of pandas' own types
    for that, so that no int ever becomes a float.
    """
    pandas = library("pandas")
    pa = library("pyarrow")
    table = arrow_table(columns, raws)
    nullable = {
        getattr(pa, name)(): dtype
        for name, dtype in {
            **{f"int{bits}": getattr(pandas, f"Int{bits}Dtype")() for bits in (8, 16, 32, 64)},
            **{f"uint{bits}": getattr(pandas, f"UInt{bits}Dtype")() for bits in (8, 16, 32, 64)},
            "bool_": pandas.BooleanDtype(),
        }.items()
    }
    frame = table.to_pandas()
    for name, column in columns.items():
        if column.optional and table[name].type in nullable:
            frame[name] = table[name].to_pandas(types_mapper=nullable.get)
    return frame


def _buffer(values: npt.NDArray[Any]) -> Any:
    """The array's memory, which it keeps alive."""
    return library("pyarrow").py_buffer(np.ascontiguousarray(values))


def _names(column: Column, raw: Raw, kind: Any) -> Any:
    """Indexes into the names of an enum's members, which stand in the order of their values."""
    pa = library("pyarrow")
    members = sorted(column.value.base)
    known = np.array([int(member) for member in members], raw.values.dtype)
    indices = np.searchsorted(known, raw.values).astype(np.int32)
    if raw.bitmap is not None:
        indices = np.minimum(indices, len(members) - 1)  # None is zero, which may be no member
    valid = None if raw.bitmap is None else _buffer(raw.bitmap)
    positions = pa.Array.from_buffers(pa.int32(), len(raw), [valid, _buffer(indices)])
    names = pa.array([member.name for member in members], pa.string())
    return pa.DictionaryArray.from_arrays(positions, names)


def _varying(kind: Any, offsets: npt.NDArray[np.int64], values: Bytes, valid: Any) -> Any:
    pa = library("pyarrow")
    if offsets[-1] > STRING_BYTES_MAX:
        kind = pa.large_string() if kind == pa.string() else pa.large_binary()
    else:
        offsets = offsets.astype(np.int32)
    buffers = [valid, _buffer(offsets), _buffer(values)]
    return pa.Array.from_buffers(kind, len(offsets) - 1, buffers)


def _texts(kind: Any, values: Bytes, valid: Any) -> Any:
    used = values != 0  # text has no zero inside
    offsets = np.zeros(len(values) + 1, np.int64)
    np.cumsum(used.sum(axis=1), out=offsets[1:])
    return _varying(kind, offsets, values[used], valid)


def _decimals(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Integers of 128 bits."""
    wide = np.zeros((len(values), 2), np.int64)
    wide[:, 0] = values.view(np.int64) if values.dtype == np.uint64 else values
    if values.dtype.kind == "i":
        wide[:, 1] = values >> (values.dtype.itemsize * 8 - 1)
    return wide


def _counted(column: Column, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    assert column.value.unit is not None
    if column.value.unit.name == "time":
        return values.astype(np.int64, copy=False)
    narrow = values.astype(np.int32, copy=False)
    if not np.array_equal(narrow, values):
        raise ValueError(f"{column.name} has days that Arrow's date32 can't hold")
    return narrow
