"""From Arrow arrays, as files hold them, to the raw columns of a table.

A file's types may differ from a table's as far as nothing is lost: numbers of other widths,
decimals for scaled ints, names or numbers for enums, and text for anything, which is all that CSV
has. What does not convert is refused with its row and the limit. Bounds and UTF-8 are the server's
to check.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.bulk.texts import day_of, time_of
from diptych.schema import Column
from diptych.store.arrow import library
from diptych.store.packing import SHOWN_BYTES_MAX, BadRow
from diptych.store.raw import Raw, value_dtype
from diptych.store.storage import item_bytes

Convert = Callable[[Column, Any], npt.NDArray[Any]]
DECIMAL_DIGITS = 38
ERRORS = (ValueError, TypeError, OverflowError, KeyError)  # Arrow's own are among them
"""What a conversion that loses something raises, whichever library does it."""


def from_arrow(table: str, column: Column, array: Any, first_row: int, *, csv: bool = False) -> Raw:
    """A pyarrow.Array as a raw column. `first_row`: number of its first row, from 0, for errors.
    `csv`: it is from there, where most programs write empty text as nothing at all.

    Errors: BadRow.
    """
    pa, pc = library("pyarrow"), library("pyarrow.compute")
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_null(array.type):
        array = array.cast(pa.string())
    bitmap = None
    if csv and not column.optional and (column.in_heap or column.kind == "text"):
        array = pc.fill_null(array, "")
    if array.null_count and not column.optional:
        row = pc.index(array.is_null(), True).as_py()
        raise BadRow(table, column.name, first_row + row + 1, None, "a value")
    if column.optional:
        valid = array.is_valid().to_numpy(zero_copy_only=False)
        bitmap = np.packbits(valid, bitorder="little")
    if column.in_heap or column.kind in ("text", "data"):
        offsets, content = _attempt(table, column, array, first_row, _contents)
        if column.in_heap:
            return Raw(content, bitmap, offsets)
        return Raw(_wide(table, column, offsets, content, bitmap, first_row), bitmap)
    convert = _conversion(column)
    values = _attempt(table, column, array, first_row, convert)
    return Raw(values.view(np.uint8) if column.kind == "bool" else values, bitmap)


def limit_of(column: Column) -> str:
    """What a value of this column must be, for people."""
    value = column.value
    if value.is_enum:
        return f"a member of {value.base.__name__}"
    if value.scaled:
        return f"a number with at most {value.scaled.digits} decimals that fits the column"
    if value.unit:
        return {"time": "a time, as 2024-01-31T12:00:00Z", "day": "a day, as 2024-01-31"}[
            value.unit.name
        ]
    plain = {"bool": "true or false", "float": "a number", "text": "text", "str": "text"}
    if column.kind == "int":
        return f"{column.low} to {column.high}"
    return plain.get(column.kind, "bytes, or text of two hexadecimal digits each")


def _attempt(
    table: str, column: Column, array: Any, first_row: int, convert: Callable[[Column, Any], Any]
) -> Any:
    """Convert, or find the first row that does not, and raise BadRow."""
    try:
        return convert(column, array)
    except ERRORS:
        good, bad = 0, len(array)  # so many first rows convert, and so many don't
        while bad - good > 1:
            middle = (good + bad) // 2
            try:
                convert(column, array.slice(0, middle))
                good = middle
            except ERRORS:
                bad = middle
    shown = _shown(array[good])
    raise BadRow(table, column.name, first_row + good + 1, shown, limit_of(column)) from None


def _shown(scalar: Any) -> Any:
    """A value as an error shows it."""
    try:
        value = scalar.as_py()
    except (OverflowError, ValueError):
        # A time that Python has none for.
        return scalar.cast(library("pyarrow").string()).as_py()
    if isinstance(value, bytes):
        return value[:SHOWN_BYTES_MAX].hex()
    return value if isinstance(value, int | float | str | bool | None) else str(value)


def _conversion(column: Column) -> Convert:
    if column.value.is_enum:
        return _members
    if column.value.scaled:
        return _scaled
    if column.value.unit:
        return _times if column.value.unit.name == "time" else _days
    return _bools if column.kind == "bool" else _numbers


def _numpy(column: Column, array: Any) -> npt.NDArray[Any]:
    """The values as the column keeps them, None as zero."""
    pa = library("pyarrow")
    kind = pa.from_numpy_dtype(value_dtype(column))
    cast = array.cast(kind) if array.type != kind else array
    return _filled(cast, 0)


def _filled(array: Any, nothing: int) -> npt.NDArray[Any]:
    """An Arrow array as numpy's, with `nothing` where it has nulls."""
    values: npt.NDArray[Any] = array.fill_null(nothing).to_numpy(zero_copy_only=False)
    return values


def _numbers(column: Column, array: Any) -> npt.NDArray[Any]:
    pa = library("pyarrow")
    if column.kind == "float" and column.bits == 32 and not pa.types.is_float32(array.type):
        # By way of the longer form: text that is read as a short float may be refused.
        array = _trimmed(array).cast(pa.float64())
        return _filled(array.cast(pa.float32()), 0)
    return _numpy(column, _trimmed(array))


def _bools(column: Column, array: Any) -> npt.NDArray[Any]:
    pa = library("pyarrow")
    if pa.types.is_integer(array.type):
        values = _filled(array, 0)
        if ((values != 0) & (values != 1)).any():
            raise ValueError("true or false")
        return values.astype(np.bool_)
    array = _trimmed(array).cast(pa.bool_())
    return _filled(array, False)


def _members(column: Column, array: Any) -> npt.NDArray[Any]:
    """Names, in the enum's own spelling, or numbers."""
    if not _is_text(array):
        return _numpy(column, array)
    known = {name: int(member) for name, member in column.value.base.__members__.items()}
    encoded = _trimmed(array).dictionary_encode()
    values = [
        known[name] if name in known else int(name) for name in encoded.dictionary.to_pylist()
    ]
    numbers = np.array([*values, 0], value_dtype(column))
    found: npt.NDArray[Any] = numbers[_filled(encoded.indices, len(values))]
    return found


def _scaled(column: Column, array: Any) -> npt.NDArray[Any]:
    """Decimals, as ints of the column's last digit."""
    pa, pc = library("pyarrow"), library("pyarrow.compute")
    assert column.value.scaled is not None
    kind = pa.decimal128(DECIMAL_DIGITS, column.value.scaled.digits)
    decimals = _trimmed(array).cast(kind)
    if (
        pa.types.is_floating(array.type)
        and not pc.all(
            pc.equal(decimals.cast(pa.float64()), array.cast(pa.float64())), min_count=0
        ).as_py()
    ):
        raise ValueError("more decimals than the column has")
    decimals = pa.array(decimals.fill_null(0) if decimals.null_count else decimals)
    raw = np.frombuffer(decimals.buffers()[1], np.int64) if len(decimals) else np.empty(0, np.int64)
    low, high = raw.reshape(-1, 2)[decimals.offset : decimals.offset + len(decimals)].T
    if column.signed or column.bits < 64:
        if not np.array_equal(high, low >> 63):
            raise OverflowError("more than 64 bits")
        return _numpy(column, pa.array(np.ascontiguousarray(low)))
    if high.any():
        raise OverflowError("more than 64 bits")
    return np.ascontiguousarray(low).view(np.uint64)


def _times(column: Column, array: Any) -> npt.NDArray[Any]:
    pa, pc = library("pyarrow"), library("pyarrow.compute")
    utc = pa.timestamp("ns", tz="UTC")
    if _is_text(array):
        try:
            array = array.cast(utc)
        except pa.ArrowInvalid:
            texts = array.to_pylist()
            array = pa.array(
                [None if text is None else time_of(text) for text in texts], pa.int64()
            )
    elif pa.types.is_timestamp(array.type) and array.type.tz is None:
        array = pc.assume_timezone(array, "UTC").cast(utc)
    elif not pa.types.is_integer(array.type):
        array = array.cast(utc)
    return _numpy(column, array.cast(pa.int64()))


def _days(column: Column, array: Any) -> npt.NDArray[Any]:
    pa = library("pyarrow")
    if _is_text(array):
        try:
            array = array.cast(pa.date32())
        except pa.ArrowInvalid:
            array = _each(array, day_of, pa.int64())
    elif not pa.types.is_integer(array.type):
        array = array.cast(pa.date32())
    if pa.types.is_date32(array.type):
        array = array.cast(pa.int32())
    return _numpy(column, array)


def _contents(column: Column, array: Any) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Offsets and bytes of text or bytes; None is empty."""
    pa, pc = library("pyarrow"), library("pyarrow.compute")
    if column.value.base is str:
        if not _is_text(array):
            raise TypeError("text")
    elif _is_text(array):
        array = _each(array, bytes.fromhex, pa.binary())
    elif not (pa.types.is_fixed_size_binary(array.type) or _is_bytes(array)):
        raise TypeError("bytes")
    array = array.cast(pa.large_binary())
    lengths = pc.fill_null(pc.binary_length(array), 0).to_numpy(zero_copy_only=False)
    if array.null_count:
        array = pc.fill_null(array, b"")
    _, marks, content = array.buffers()
    offsets = np.zeros(len(array) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    if not offsets[-1]:
        return offsets, np.empty(0, np.uint8)
    begin = int(np.frombuffer(marks, np.int64)[array.offset])
    return offsets, np.frombuffer(content, np.uint8)[begin : begin + int(offsets[-1])]


def _wide(
    table: str,
    column: Column,
    offsets: npt.NDArray[np.int64],
    content: npt.NDArray[np.uint8],
    bitmap: npt.NDArray[np.uint8] | None,
    first_row: int,
) -> npt.NDArray[np.uint8]:
    """Text or data in two dimensions."""
    lengths = np.diff(offsets)
    bad, limit = lengths > column.size_bytes, f"at most {column.size_bytes} bytes of UTF-8"
    if column.kind == "data":
        bad, limit = lengths != column.size_bytes, f"exactly {column.size_bytes} bytes"
        if bitmap is not None:
            bad &= np.unpackbits(bitmap, count=len(bad), bitorder="little").view(np.bool_)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raw = content[offsets[row] : offsets[row + 1]].tobytes()
        shown = raw.hex() if column.kind == "data" else raw.decode(errors="backslashreplace")
        raise BadRow(table, column.name, first_row + row + 1, shown, limit)
    out = np.zeros((len(lengths), item_bytes(column)), np.uint8)
    out[np.arange(out.shape[1]) < lengths[:, None]] = content
    return out


def _each(array: Any, convert: Callable[[str], Any], kind: Any) -> Any:
    """The slow way: text by text."""
    texts = array.to_pylist()
    return library("pyarrow").array([None if t is None else convert(t) for t in texts], kind)


def _trimmed(array: Any) -> Any:
    return library("pyarrow.compute").utf8_trim_whitespace(array) if _is_text(array) else array


def _is_text(array: Any) -> bool:
    types = library("pyarrow").types
    return bool(types.is_string(array.type) or types.is_large_string(array.type))


def _is_bytes(array: Any) -> bool:
    types = library("pyarrow").types
    return bool(types.is_binary(array.type) or types.is_large_binary(array.type))
