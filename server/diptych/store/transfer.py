"""Columns as arrays of value words, and how the words of one type become those of another.

For many rows at once, where handlers' views would be slow: a value word is an int64 here, however
rows share memory. What does not fit the new column raises `Unfit`; nothing is cut off.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.memory.layout import Words
from diptych.schema import Column
from diptych.store import words as at
from diptych.store.layout import VALID_PACK, TableLayout
from diptych.store.storage import value_array
from diptych.store.values import Codec

Array = npt.NDArray[np.int64]
Live = npt.NDArray[np.bool_]

_NAN = struct.unpack("<q", struct.pack("<d", math.nan))[0]


class Unfit(Exception):
    """Values that a column can't hold. The message says which, and how many."""


def read_words(words: Words, table: TableLayout, value: int, rows: Array) -> Array:
    """Value word number `value` of some rows."""
    if table.packs[value] & at.PACK_ROWS == VALID_PACK:
        octets = words.view(np.uint8)[table.bases[value] * 8 :]
        bits: Array = (octets[rows >> 3] >> (rows & 7).astype(np.uint8) & 1).astype(np.int64)
        return bits
    top = int(rows[-1]) + 1 if len(rows) else 0
    return value_array(words, table, value, top)[rows].astype(np.int64)


def write_words(words: Words, table: TableLayout, value: int, start: int, array: Array) -> None:
    """Set value word number `value` of the rows from `start` on, a multiple of 8; without undo."""
    if table.packs[value] & at.PACK_ROWS == VALID_PACK:
        octets = np.packbits(array != 0, bitorder="little")
        first = table.bases[value] * 8 + start // 8
        words.view(np.uint8)[first : first + len(octets)] = octets
        return
    target = value_array(words, table, value, start + len(array))
    target[start:] = array.astype(target.dtype)


def converted(old: Column, new: Column, given: Sequence[Array]) -> list[Array]:
    """All value words of `new` from all those of `old`, for some rows. Errors: Unfit."""
    valid = given[old.words] if old.optional else np.ones(len(given[0]), np.int64)
    live = valid != 0
    if not new.optional and not live.all():
        raise Unfit(f"{int((~live).sum())} rows have None")
    values = list(given[: old.words])
    if new.kind == "int":
        _check_ints(old, new, values[0], live)
    elif new.kind == "float":
        values = [_floats(old, new, values[0], live)]
    elif new.kind == "text":
        values = _texts(old, new, values)
    return [*values, valid] if new.optional else values


def default_words(column: Column) -> list[int]:
    """The value words of a column's default; those of a value in a heap are the empty one's."""
    if column.in_heap:
        return [0, int(column.default is not None)][: column.all_words]
    return list(Codec("", column).encode(column.default))


def _check_ints(old: Column, new: Column, values: Array, live: Live) -> None:
    numbers = values[live]
    if old.bits == 64 and not old.signed:
        wide: npt.NDArray[Any] = numbers.view(np.uint64)
    else:
        wide = numbers
    assert new.low is not None
    assert new.high is not None
    if len(wide) and not new.low <= int(wide.min()) <= int(wide.max()) <= new.high:
        worst = int(wide.min()) if int(wide.min()) < new.low else int(wide.max())
        raise Unfit(f"{worst} is not within {new.low} to {new.high}")
    if new.value.is_enum:
        known = np.isin(wide, [int(member) for member in new.value.base])
        if not known.all():
            raise Unfit(f"{int(wide[~known][0])} is no member of {new.value.base.__name__}")


def _floats(old: Column, new: Column, values: Array, live: Live) -> Array:
    if old.bits == 32:
        floats = values.astype(np.int32).view(np.float32).astype(np.float64)
    else:
        floats = values.view(np.float64)
    bounds = Codec("", new)  # rounded, as values are
    if bounds.low is not None and bounds.high is not None:
        outside = live & ~((floats >= bounds.low) & (floats <= bounds.high))
        if outside.any():
            raise Unfit(f"{floats[outside][0]} is not within {new.low} to {new.high}")
    if old.bits == new.bits:
        return values
    return np.where(np.isnan(floats), _NAN, floats.view(np.int64))


def _texts(old: Column, new: Column, values: Sequence[Array]) -> list[Array]:
    """Words of text or data in another length, which is zeros more or zeros less at the end."""
    raw = np.ascontiguousarray(np.stack(values, axis=1)).view(np.uint8)
    if new.size_bytes < old.size_bytes:
        long = (raw[:, new.size_bytes :] != 0).any(axis=1)
        if long.any():
            raise Unfit(f"{int(long.sum())} rows have more than {new.size_bytes} bytes of text")
    room = np.zeros((len(raw), new.words * 8), np.uint8)
    kept = min(raw.shape[1], room.shape[1])
    room[:, :kept] = raw[:, :kept]
    words = room.view(np.int64)
    return [np.ascontiguousarray(words[:, i]) for i in range(new.words)]
