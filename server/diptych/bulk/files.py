"""Files of rows: CSV, Parquet and Arrow, read a batch at a time.

From CSV everything comes as text, with nothing between two commas as None and "" as empty text:
what it means is decided by the table's columns. Files are told apart by their names' ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.store.arrow import library

FORMATS = {"csv": "csv", "parquet": "parquet", "pq": "parquet", "arrow": "arrow"}
FORMATS |= {"feather": "arrow", "ipc": "arrow"}
NAMES = ("csv", "parquet", "arrow")
BATCH_ROWS = 1 << 16
CSV_BLOCK_BYTES = 4 << 20


class BadFile(Exception):
    """A file that can't be read, or whose columns are not the table's."""


def format_of(path: Path, chosen: str | None) -> str:
    """One of NAMES. Errors: BadFile."""
    found = chosen or FORMATS.get(path.suffix.lower().removeprefix("."))
    if found is None:
        raise BadFile(f"{path}: say which format it has with --format: {', '.join(NAMES)}")
    return found


@dataclass(frozen=True)
class Source:
    """One file. `columns`: names in the file, in its order; `rows`: how many, where it says so."""

    path: Path
    format: str
    columns: tuple[str, ...]
    rows: int | None

    def batches(self, wanted: Mapping[str, str]) -> Iterator[Any]:
        """pyarrow.RecordBatches of the columns `wanted`, by their new names. Errors: BadFile."""
        names = list(wanted)
        try:
            for batch in _READERS[self.format][1](self.path, names):
                if batch.num_rows:
                    yield batch.select(names).rename_columns([wanted[name] for name in names])
        except (OSError, library("pyarrow").ArrowException) as error:
            raise BadFile(f"{self.path}: {error}") from None


def open_source(path: Path, chosen: str | None) -> Source:
    """Look at a file. Errors: BadFile."""
    kind = format_of(path, chosen)
    if not path.exists():
        raise BadFile(f"{path}: there is no such file")
    try:
        columns, rows = _READERS[kind][0](path)
    except (OSError, library("pyarrow").ArrowException) as error:
        raise BadFile(f"{path}: {error}") from None
    if len(set(columns)) < len(columns):
        raise BadFile(f"{path}: two columns have the same name")
    return Source(path, kind, tuple(columns), rows)


def _open_csv(path: Path, names: list[str]) -> Any:
    pa, csv = library("pyarrow"), library("pyarrow.csv")
    return csv.open_csv(
        path,
        read_options=csv.ReadOptions(block_size=CSV_BLOCK_BYTES),
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )


def _look_at_csv(path: Path) -> tuple[list[str], int | None]:
    with path.open("rb") as file:
        head = file.readline(CSV_BLOCK_BYTES)
    csv, io = library("pyarrow.csv"), library("io")
    if not head.strip():
        return [], 0
    return csv.read_csv(io.BytesIO(head)).column_names, None


def _read_csv(path: Path, names: list[str]) -> Iterator[Any]:
    with _open_csv(path, names) as reader:
        yield from reader


def _look_at_parquet(path: Path) -> tuple[list[str], int | None]:
    with library("pyarrow.parquet").ParquetFile(path) as file:
        return file.schema_arrow.names, file.metadata.num_rows


def _read_parquet(path: Path, names: list[str]) -> Iterator[Any]:
    with library("pyarrow.parquet").ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=BATCH_ROWS, columns=names)


def _open_arrow(path: Path) -> Any:
    """A file or, without the index at its end, a stream."""
    pa = library("pyarrow")
    source = pa.memory_map(str(path))
    try:
        return pa.ipc.open_file(source)
    except pa.ArrowInvalid:
        source.seek(0)
        return pa.ipc.open_stream(source)


def _look_at_arrow(path: Path) -> tuple[list[str], int | None]:
    with _open_arrow(path) as reader:
        return reader.schema.names, None


def _read_arrow(path: Path, names: list[str]) -> Iterator[Any]:
    with _open_arrow(path) as reader:
        if hasattr(reader, "num_record_batches"):
            yield from map(reader.get_batch, range(reader.num_record_batches))
        else:
            yield from reader


_READERS = {
    "csv": (_look_at_csv, _read_csv),
    "parquet": (_look_at_parquet, _read_parquet),
    "arrow": (_look_at_arrow, _read_arrow),
}
