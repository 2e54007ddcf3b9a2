"""An import from the client's side: files to chunks, chunks to the server, and all or nothing.

Chunks go out a few ahead of their answers, so that reading, sending and staging overlap. Any error
drops what is staged. Nothing of it is visible to anybody before the last step.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from diptych.bulk.conversion import from_arrow
from diptych.bulk.files import BadFile, Source, open_source
from diptych.bulk.system_client import ASK_TIMEOUT_S, SystemClient
from diptych.errors import did_you_mean
from diptych.schema import MISSING, Column, TableSpec
from diptych.store.packing import BadRow
from diptych.store.raw import Raw
from diptych.store.storage import item_bytes
from diptych.stored import read_tables
from diptych_client.errors import DiptychError, OutcomeUnknown, Rejected

CHUNK_BYTES = 1 << 20
WINDOW = 4
"""Chunks on their way at once."""

Progress = Callable[[int], None]
Message = list[tuple[str, bytes, bytes, bytes]]


@dataclass(frozen=True)
class Imported:
    """What an import did. `commit_s`: while other transactions waited."""

    table: str
    rows: int
    seconds: float
    commit_s: float


class ImportFailed(Exception):
    """An import that left nothing behind. `error`: what the server or a conversion said, if that is
    why; `file` and `row`, from 1, where one is to blame.
    """

    def __init__(self, error: Rejected, file: Path | None, row: int | None) -> None:
        super().__init__(f"{file}, row {row}: {error}" if file else str(error))
        self.error, self.file, self.row = error, file, row


def find_table(client: SystemClient, name: str) -> TableSpec:
    """A server's table. Errors: BadFile when there is none."""
    specs = {spec.name: spec for spec in read_tables(client.system("schema")["tables"])}
    if name not in specs:
        raise BadFile(f"{client.app} has no table {name!r}{did_you_mean(name, specs)}")
    return specs[name]


def wanted_columns(
    spec: TableSpec, source: Source, renames: Mapping[str, str], skip: Sequence[str]
) -> dict[str, str]:
    """For each of a file's columns that is of use, the table's. Errors: BadFile."""
    wanted = {name: renames.get(name, name) for name in source.columns if name not in skip}
    for name in [*renames, *skip]:
        if name not in source.columns:
            raise BadFile(
                f"{source.path} has no column {name!r}{did_you_mean(name, source.columns)}"
            )
    for name, column in wanted.items():
        if column not in spec.by_name:
            near = did_you_mean(column, spec.by_name)
            raise BadFile(
                f"{source.path}: column {name!r} is none of {spec.name}'s{near}; "
                "use --rename FILE_COLUMN=COLUMN or --skip"
            )
    if len(set(wanted.values())) < len(wanted):
        raise BadFile(f"{source.path}: two of its columns are to be one of {spec.name}'s")
    for column_ in spec.columns:
        given = column_.name in wanted.values()
        if not given and column_.default is MISSING and not column_.auto:
            raise BadFile(f"{source.path} has no column {column_.name!r}, which has no default")
    return wanted


def run_import(
    client: SystemClient,
    spec: TableSpec,
    sources: Sequence[tuple[Source, Mapping[str, str]]],
    *,
    replace: bool = False,
    progress: Progress = lambda rows: None,
    committing: Callable[[int], None] = lambda rows: None,
) -> Imported:
    """Import files into one table, with their columns as `wanted_columns` says.

    `progress` is told how many rows are staged, `committing` when all are. Errors: ImportFailed,
    BadFile, DiptychError.
    """
    began = time.monotonic()
    token = client.system("import_begin", spec.name, replace, timeout_s=ASK_TIMEOUT_S)
    ends: list[tuple[int, Path]] = []  # rows up to and with each file
    rows = 0
    try:
        chunks = _chunks(spec, sources, min(CHUNK_BYTES, client.frame_bytes), ends)
        calls = ((token, first, count, message) for first, count, message in chunks)
        with contextlib.closing(client.pipelined("import_rows", calls, WINDOW)) as answers:
            for rows in answers:
                progress(rows)
        committing(rows)
        staged = time.monotonic()
        _commit(client, token, rows)
    except BaseException as error:
        with contextlib.suppress(DiptychError):
            client.system("import_abort", token, timeout_s=ASK_TIMEOUT_S)
        if isinstance(error, Rejected):
            raise _located(error, ends) from error
        raise
    ended = time.monotonic()
    return Imported(spec.name, rows, ended - began, ended - staged)


def _commit(client: SystemClient, token: int, rows: int) -> None:
    """The last step. When its answer is lost, the server is asked what became of it."""
    try:
        client.system("import_commit", token)
    except OutcomeUnknown:
        status = client.system("import_status", timeout_s=ASK_TIMEOUT_S)
        if status["committed"] != token:
            raise


def _located(error: Rejected, ends: list[tuple[int, Path]]) -> ImportFailed:
    """Say which file the row is in."""
    row, first = error.details.get("row"), 0
    if isinstance(row, int):
        for end, path in ends:
            if row <= end:
                return ImportFailed(error, path, row - first)
            first = end
    return ImportFailed(error, None, None)


def _chunks(
    spec: TableSpec,
    sources: Sequence[tuple[Source, Mapping[str, str]]],
    bytes_max: int,
    ends: list[tuple[int, Path]],
) -> Iterator[tuple[int, int, Message]]:
    """First row, rows and columns of each chunk; `ends` grows as files do."""
    first = 0
    for source, wanted in sources:
        ends.append((1 << 62, source.path))
        for batch in source.batches(wanted):
            columns = [spec.by_name[name] for name in batch.schema.names]
            csv = source.format == "csv"
            raws = {
                each.name: from_arrow(spec.name, each, batch.column(each.name), first, csv=csv)
                for each in columns
            }
            for start, stop in _pieces(spec, columns, raws, batch.num_rows, bytes_max, first):
                message = [_message(name, raw.slice(start, stop)) for name, raw in raws.items()]
                yield first + start, stop - start, message
            first += batch.num_rows
        ends[-1] = first, source.path


def _pieces(
    spec: TableSpec,
    columns: Sequence[Column],
    raws: Mapping[str, Raw],
    rows: int,
    bytes_max: int,
    first: int,
) -> Iterator[tuple[int, int]]:
    """Split a batch so that each piece fits a message."""
    room = bytes_max - 64 * (len(columns) + 1)  # names and the like
    row_bytes = sum(5 if c.in_heap else item_bytes(c) + 1 for c in columns)
    start = 0
    while start < rows:
        count = min(rows - start, max(1, room // row_bytes))
        while (size := _size(raws, row_bytes, start, start + count)) > room and count > 1:
            count = max(1, min(count - 1, count * room // size))
        if size > room:
            longest = max(columns, key=lambda c: _size({"": raws[c.name]}, 0, start, start + 1))
            limit = f"at most {room} bytes a row, by the server's limits.frame_bytes"
            raise BadRow(spec.name, longest.name, first + start + 1, f"{size} bytes", limit)
        yield start, start + count
        start += count


def _size(raws: Mapping[str, Raw], row_bytes: int, start: int, stop: int) -> int:
    varying = [raw.offsets for raw in raws.values() if raw.offsets is not None]
    return (stop - start) * row_bytes + sum(int(o[stop] - o[start]) for o in varying)


def _message(name: str, raw: Raw) -> tuple[str, bytes, bytes, bytes]:
    bitmap = b"" if raw.bitmap is None else raw.bitmap.tobytes()
    if raw.offsets is None:
        return name, raw.values.tobytes(), bitmap, b""
    lengths = (raw.offsets[1:] - raw.offsets[:-1]).astype("<u4").tobytes()
    return name, raw.values.tobytes(), bitmap, lengths


def open_sources(
    spec: TableSpec,
    paths: Sequence[Path],
    chosen: str | None,
    renames: Mapping[str, str],
    skip: Sequence[str],
) -> list[tuple[Source, dict[str, str]]]:
    """Look at all files before anything is sent. Errors: BadFile."""
    sources = [open_source(path, chosen) for path in paths]
    return [(source, wanted_columns(spec, source, renames, skip)) for source in sources]
