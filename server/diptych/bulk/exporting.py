"""An export from the client's side: fetch what a server spooled, and write files of it.

Files appear under their names when all of them are whole; whatever fails before leaves none. Where
the rows come from is one function, so that other sources than a server can be read in the same way.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from diptych.bulk.files import FORMATS, BadFile
from diptych.bulk.system_client import ASK_TIMEOUT_S, SystemClient
from diptych.bulk.writing import Writer
from diptych.schema import TableSpec
from diptych.store.raw import Bytes, Raw
from diptych.store.spool import columns_of
from diptych.stored import read_tables
from diptych_client.errors import DiptychError

WINDOW = 4
"""Parts on their way at once."""
BATCH_ROWS = 1 << 17
SPOOL_TIMEOUT_S = 600.0

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Exported:
    """One table that was written. `sequence`: the last transaction whose work is in it."""

    table: str
    file: Path
    rows: int
    sequence: int


@dataclass(frozen=True)
class Rows:
    """A table's rows, from wherever."""

    spec: TableSpec
    rows: int
    columns: Mapping[str, Raw]


@dataclass(frozen=True)
class Snapshot:
    """Tables of one instant."""

    sequence: int
    tables: Sequence[Rows]


def target_files(
    tables: Sequence[str], output: Path | None, chosen: str | None
) -> tuple[list[Path], str]:
    """Where each table goes, and the format. Errors: BadFile."""
    suffix = output.suffix.lower().removeprefix(".") if output and not output.is_dir() else ""
    if suffix and not chosen and suffix not in FORMATS:
        known = ", ".join(f".{each}" for each in FORMATS)
        raise BadFile(f"{output}: a file's name ends in one of {known}; or say --format")
    kind = chosen or FORMATS.get(suffix, "csv")
    if output is None or output.is_dir():
        return [(output or Path()) / f"{table}.{kind}" for table in tables], kind
    if len(tables) > 1:
        raise BadFile(f"{output} is no directory, and {len(tables)} tables need one")
    if not output.parent.is_dir():
        raise BadFile(f"{output.parent} is no directory")
    return [output], kind


def write_files(snapshot: Snapshot, files: Sequence[Path], kind: str, progress: Progress) -> None:
    """Write each table to its file; all or none. `progress`: rows written, and of how many."""
    total, done = sum(table.rows for table in snapshot.tables), 0
    partial = [file.with_name(f".{file.name}.partial") for file in files]
    try:
        for table, path in zip(snapshot.tables, partial, strict=True):
            with Writer(path, kind, table.spec.by_name) as writer:
                for start in range(0, table.rows, BATCH_ROWS):
                    stop = min(table.rows, start + BATCH_ROWS)
                    writer.write({n: raw.slice(start, stop) for n, raw in table.columns.items()})
                    progress(done + stop, total)
            done += table.rows
        for path, file in zip(partial, files, strict=True):
            path.replace(file)
    finally:
        for path in partial:
            path.unlink(missing_ok=True)


@contextmanager
def from_server(
    client: SystemClient, tables: Sequence[str], directory: Path, progress: Progress
) -> Iterator[Snapshot]:
    """Tables of a server, fetched into a file of no name in `directory`. `progress`: bytes fetched,
    and of how many. Errors: DiptychError.
    """
    specs = {spec.name: spec for spec in read_tables(client.system("schema")["tables"])}
    client.see_all()
    told = client.system("export_begin", list(tables), timeout_s=SPOOL_TIMEOUT_S)
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            _fetch(client, told["token"], told["bytes"], file, progress)
            data = _mapped(file, told["bytes"])
            yield Snapshot(
                told["sequence"],
                [
                    Rows(
                        specs[each["name"]],
                        each["rows"],
                        columns_of(specs[each["name"]].by_name, each, data),
                    )
                    for each in told["tables"]
                ],
            )
    finally:
        with contextlib.suppress(DiptychError):
            client.system("export_end", told["token"], timeout_s=ASK_TIMEOUT_S)


def _fetch(
    client: SystemClient, token: str, size_bytes: int, file: IO[bytes], progress: Progress
) -> None:
    if not size_bytes:
        return
    first = client.system("export_part", token, 0)
    file.write(first)
    offsets = ((token, offset) for offset in range(len(first), size_bytes, len(first)))
    with contextlib.closing(client.pipelined("export_part", offsets, WINDOW)) as parts:
        for part in parts:
            file.write(part)
            progress(file.tell(), size_bytes)
    file.flush()
    if file.tell() != size_bytes:
        raise BadFile(f"the server sent {file.tell():,} bytes of {size_bytes:,}")


def _mapped(file: IO[bytes], size_bytes: int) -> Bytes:
    if not size_bytes:
        return np.empty(0, np.uint8)
    return np.memmap(file, np.uint8, "r", shape=(size_bytes,)).view(np.ndarray)


def exported(snapshot: Snapshot, files: Sequence[Path]) -> list[Exported]:
    """What `write_files` wrote."""
    return [
        Exported(table.spec.name, file, table.rows, snapshot.sequence)
        for table, file in zip(snapshot.tables, files, strict=True)
    ]
