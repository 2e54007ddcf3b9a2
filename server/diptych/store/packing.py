"""From raw columns, as somebody outside sends them, to a table's value words: checked in bulk.

Nothing is trusted: sizes, bounds, members, UTF-8, zeros inside text. What does not fit is refused
with table, row, column, value and limit. The words are the same as an insert of the value makes, so
floats have one zero and one NaN, and None is zero words. Knows arrays; knows no memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.schema import Column
from diptych.store.raw import Bytes, Raw, is_wide, value_dtype
from diptych.store.storage import item_bytes
from diptych.store.words import HEAP_VALUE_BYTES_MAX, REFERENCE_BITS
from diptych_client.errors import BadArguments, Rejected

Mask = npt.NDArray[np.bool_]
Words = npt.NDArray[np.int64]
SHOWN_BYTES_MAX = 60
CONTINUES = 0x80
"""The two highest bits of a byte that goes on with a character of UTF-8, under the mask 0xC0."""


class BadRow(Rejected):
    """A value of a row that its column can't hold. `row` counts from 1. Code `bad_value`."""

    def __init__(self, table: str, column: str, row: int, value: Any, limit: str) -> None:
        super().__init__("bad_value", table=table, row=row, column=column, value=value, limit=limit)


def read_chunk(column: Column, rows: int, values: bytes, bitmap: bytes, lengths: bytes) -> Raw:
    """The raw column that a message carries; `lengths` in 32 bits each, of values of any length.

    Errors: BadArguments when it is not of so many rows.
    """
    marks = np.frombuffer(bitmap, np.uint8) if column.optional else None
    if len(bitmap) != (-(-rows // 8) if column.optional else 0):
        raise BadArguments(f"column {column.name}: the bitmap is not of {rows} rows", "columns")
    content = np.frombuffer(values, np.uint8)
    if column.in_heap:
        offsets = np.zeros(rows + 1, np.int64)
        sizes = np.frombuffer(lengths, "<u4") if len(lengths) == rows * 4 else None
        if sizes is not None:
            np.cumsum(sizes, out=offsets[1:])
        if sizes is None or offsets[-1] != len(content):
            raise BadArguments(f"column {column.name}: lengths and values differ", "columns")
        return Raw(content, marks, offsets)
    size = item_bytes(column)
    if len(content) != rows * size or lengths:
        message = f"column {column.name}: {rows} rows take {rows * size} bytes, not {len(content)}"
        raise BadArguments(message, "columns")
    if is_wide(column):
        return Raw(content.reshape(rows, size), marks)
    return Raw(content.view(np.uint8 if column.kind == "bool" else value_dtype(column)), marks)


def pack(table: str, column: Column, raw: Raw, out: Words, first_row: int, blob_at: int) -> None:
    """Write a column's value words into `out`, one row of it a row of the table.

    `first_row`: number of the first, from 0, for errors; `blob_at`: where in the blob the bytes of
    values of any length will stand. Errors: BadRow.
    """
    checks = {"int": _int, "float": _float, "bool": _bool, "text": _text, "data": _data}
    check = checks.get(column.kind)
    bad, limit = check(column, raw, out) if check else _heap(column, raw, out, blob_at)
    valid = raw.valid
    if valid is not None:
        bad &= valid
        out[~valid] = 0
        out[:, column.words] = valid
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise BadRow(table, column.name, first_row + row + 1, shown(column, raw, row), limit)


def shown(column: Column, raw: Raw, row: int) -> Any:
    """A value as an error shows it."""
    if raw.offsets is not None:
        content = raw.values[raw.offsets[row] : raw.offsets[row + 1]].tobytes()
    elif is_wide(column):
        content = raw.values[row].tobytes().rstrip(b"\0")
    else:
        return raw.values[row].item()
    content = content[:SHOWN_BYTES_MAX]
    return content.decode(errors="backslashreplace") if column.value.base is str else content.hex()


def _int(column: Column, raw: Raw, out: Words) -> tuple[Mask, str]:
    values = raw.values
    out[:, 0] = values.view(np.int64) if values.dtype == np.uint64 else values
    if column.value.is_enum:
        members = np.array([int(member) for member in column.value.base], np.int64)
        return ~np.isin(out[:, 0], members), f"a member of {column.value.base.__name__}"
    low, high = column.low, column.high
    assert low is not None
    assert high is not None
    return (values < low) | (values > high), f"{low} to {high}"


def _float(column: Column, raw: Raw, out: Words) -> tuple[Mask, str]:
    with np.errstate(invalid="ignore"):
        values = raw.values + 0.0  # which makes the one zero of both
    values[np.isnan(values)] = np.nan
    out[:, 0] = values.view(f"<i{values.dtype.itemsize}")
    if column.low is None or column.high is None:
        return np.zeros(len(values), np.bool_), ""
    return ~((values >= column.low) & (values <= column.high)), f"{column.low} to {column.high}"


def _bool(column: Column, raw: Raw, out: Words) -> tuple[Mask, str]:
    out[:, 0] = raw.values
    return raw.values > 1, "true or false"


def _text(column: Column, raw: Raw, out: Words) -> tuple[Mask, str]:
    _wide_words(column, raw.values, out)
    used = raw.values != 0
    if raw.valid is not None:
        used &= raw.valid[:, None]  # what stands where None is must not hide what is wrong
    bad: Mask = (used[:, 1:] & ~used[:, :-1]).any(axis=1)
    if bad.any():
        return bad, "text without a zero character"
    bad |= used[:, column.size_bytes :].any(axis=1)
    if bad.any():
        return bad, f"at most {column.size_bytes} bytes of UTF-8"
    for row in np.flatnonzero((raw.values >= CONTINUES).any(axis=1)):
        bad[row] = not _is_utf8(raw.values[row].tobytes())
    return bad, "text that UTF-8 can hold"


def _data(column: Column, raw: Raw, out: Words) -> tuple[Mask, str]:
    _wide_words(column, raw.values, out)
    bad = np.zeros(len(raw), np.bool_)
    bad |= raw.values[:, column.size_bytes :].any(axis=1)
    return bad, f"exactly {column.size_bytes} bytes"


def _wide_words(column: Column, values: Bytes, out: Words) -> None:
    padded = np.zeros((len(values), column.words * 8), np.uint8)
    padded[:, : values.shape[1]] = values
    out[:, : column.words] = padded.view("<i8")


def _heap(column: Column, raw: Raw, out: Words, blob_at: int) -> tuple[Mask, str]:
    assert raw.offsets is not None
    sizes = np.diff(raw.offsets)
    out[:, 0] = np.where(sizes > 0, (blob_at + raw.offsets[:-1]) << REFERENCE_BITS | sizes, 0)
    bad = sizes > HEAP_VALUE_BYTES_MAX
    if bad.any() or column.kind == "bytes":
        return bad, f"at most {HEAP_VALUE_BYTES_MAX} bytes"
    starts = raw.offsets[:-1][sizes > 0]
    whole = _is_utf8(raw.values.tobytes())
    if not whole or ((raw.values[starts] & 0xC0) == CONTINUES).any():
        for row, (start, stop) in enumerate(zip(raw.offsets, raw.offsets[1:], strict=False)):
            bad[row] = not _is_utf8(raw.values[start:stop].tobytes())
    return bad, "text that UTF-8 can hold"


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True
