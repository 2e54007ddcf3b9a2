"""Imports without files or sockets: rows as chunks, system operations on an open bench."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from diptych.bulk.importing import _message
from diptych.bulk.system_client import OPERATIONS
from diptych.memory import PAGE_BYTES
from diptych.schema import Column
from diptych.store.raw import Raw, is_wide, value_dtype
from diptych.store.storage import item_bytes
from diptych.testing import Bench


def system(bench: Bench, name: str, *arguments: Any) -> Any:
    """Call a system operation of a bench, with a client's errors."""
    return bench._call(OPERATIONS[name], arguments, {})


def raw_of(column: Column, values: Iterable[Any]) -> Raw:
    """Python values as a raw column."""
    values = list(values)
    bitmap = None
    if column.optional:
        bitmap = np.packbits([value is not None for value in values], bitorder="little")
    if column.kind in ("text", "str", "data", "bytes"):
        raws = [v.encode() if isinstance(v, str) else v or b"" for v in values]
        if is_wide(column):
            padded = b"".join(raw.ljust(item_bytes(column), b"\0") for raw in raws)
            shaped = np.frombuffer(padded, np.uint8).reshape(len(values), -1)
            return Raw(shaped, bitmap)
        offsets = np.cumsum([0, *map(len, raws)])
        return Raw(np.frombuffer(b"".join(raws), np.uint8), bitmap, offsets)
    numbers = [value if value is not None else 0 for value in values]
    return Raw(np.array(numbers, value_dtype(column)), bitmap)


def chunk(columns: Mapping[str, Column], rows: list[dict[str, Any]]) -> list[Any]:
    """A chunk of the rows' columns, as `import_rows` takes it."""
    names = list(rows[0])
    return [list(_message(n, raw_of(columns[n], [row[n] for row in rows]))) for n in names]


def load(
    bench: Bench, table: str, rows: list[dict[str, Any]], *, step: int = 100, commit: bool = True
) -> int:
    """Import rows; the token."""
    columns = bench.app.tables[table].by_name
    token: int = system(bench, "import_begin", table)
    for first in range(0, len(rows), step):
        part = rows[first : first + step]
        staged = system(bench, "import_rows", token, first, len(part), chunk(columns, part))
        assert staged == first + len(part)
    if commit:
        assert system(bench, "import_commit", token) == len(rows)
    return token


def data_bytes(bench: Bench) -> bytes:
    """All of the application's memory: without the system header and staged rows."""
    staging = {
        page
        for each in bench._engine.layout.staging
        for page in range(each.start // 512, -(-(each.start + each.words) // 512))
    }
    region = bench._region.buffer
    pages = [
        region[page * PAGE_BYTES : (page + 1) * PAGE_BYTES]
        for extent in bench.extents()
        for page in range(max(2, extent.start), extent.stop)
        if page not in staging
    ]
    return b"".join(pages)
