"""Staged rows: an import's, on their way into a table, that nobody sees until they are all there.

They lie as value words in a range of their own, behind the tables, with the bytes of str and bytes
values in a second one; the system header counts them. What is beyond the counts means nothing, so
appending undoes by its counts alone. One import can be under way. Memory is asked for while rows
are staged, for the table and its indexes, too, so that making them visible needs none.

Wire and files are not known here; errors are `Rejected`, as of any operation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from diptych.errors import HeapFull, TableFull, did_you_mean
from diptych.schema import MISSING, Column
from diptych.store import calls, packing
from diptych.store import words as at
from diptych.store.database import Database
from diptych.store.faults import TransactionTooLarge, fault
from diptych.store.heap import CLASSES, class_words
from diptych.store.layout import IndexLayout, TableLayout
from diptych.store.nodes import ENTRY_SPACE
from diptych.store.raw import Raw
from diptych_client.errors import BadArguments, Rejected

SECOND_NS = 1_000_000_000
CHUNK_ROWS_MAX = 1 << 20
BLOCK_WORDS = np.array([0, *(class_words(number) for number in range(CLASSES))])


@dataclass(frozen=True)
class Staged:
    """The import that is under way. `age_s`: since it began, by the transactions' clock."""

    token: int
    table: str
    rows: int
    age_s: int


class Staging:
    """The staging ranges of one open region."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._words = db.space.words
        self._range, self._blob = db.layout.staging
        self._tables = {table.spec.name: table for table in db.layout.tables}

    def now(self) -> Staged | None:
        """The import that is under way, if one is."""
        words = self._words
        token = int(words[at.STAGING_TOKEN])
        if not token:
            return None
        table = self._table_at(int(words[at.STAGING_TABLE]))
        age_s = (self._db.now - int(words[at.STAGING_BEGAN])) // SECOND_NS
        return Staged(token, table.spec.name, int(words[at.STAGING_ROWS]), max(0, age_s))

    @property
    def committed(self) -> int:
        """The token of the last import that became visible; 0 before the first."""
        return int(self._words[at.STAGING_COMMITTED])

    def begin(self, table: str, replace: bool) -> int:
        """Begin an import; the token that names it. `replace`: drop one that is under way.

        Errors: Rejected `import_running`.
        """
        found = self._tables.get(table)
        if found is None:
            known = did_you_mean(table, self._tables)
            raise BadArguments(f"there is no table {table!r}{known}", "table")
        running = self.now()
        if running and not replace:
            raise Rejected(
                "import_running", table=running.table, rows=running.rows, age_s=running.age_s
            )
        token = self._db.now + self._db.sequence  # ascends, also where the clock stands still
        self._note(token, found.descriptor, self._db.now)
        return token

    def append(
        self, token: int, first_row: int, rows: int, columns: Mapping[str, tuple[bytes, ...]]
    ) -> int:
        """Stage rows; how many there are now. `columns`: arguments of `packing.read_chunk`.

        Errors: Rejected `import_lost`, `import_out_of_step`, `bad_value`, `table_full`.
        """
        table, staged = self._open(token)
        if first_row != staged:
            raise Rejected("import_out_of_step", expected=staged, row=first_row)
        if not 1 <= rows <= CHUNK_ROWS_MAX:  # a chunk of defaults alone has no size
            raise BadArguments(f"rows must be 1 to {CHUNK_ROWS_MAX}", "rows")
        used = int(self._words[at.STAGING_BYTES])
        raws = self._raws(table, rows, columns)
        blobs = {name: raw.values for name, raw in raws.items() if raw.offsets is not None}
        heap_words = sum(_heap_words(raws[name]) for name in blobs)
        for column in table.spec.heap_columns:
            if column.name not in raws and column.default:
                blobs[column.name] = np.frombuffer(_bytes_of(column.default), np.uint8)
                heap_words += rows * block_words(len(blobs[column.name]))
        heap_words += int(self._words[at.STAGING_HEAP_WORDS])
        self._reserve(table, staged + rows, heap_words)
        self._ask(at.STAGING, (staged + rows) * table.spec.words)
        self._ask(at.STAGING_BLOB, -(-(used + sum(map(len, blobs.values()))) // 8))
        width = table.spec.words
        start = self._range.start + staged * width
        out = self._words[start : start + rows * width].reshape(rows, width)
        for column in table.spec.columns:
            name = column.name
            mine = out[:, column.first_word : column.first_word + column.all_words]
            if name in raws:
                packing.pack(table.spec.name, column, raws[name], mine, first_row, used)
            else:
                mine[:] = self._default(table, column, used)
            if name in blobs:
                begin = self._blob.start * 8 + used
                used += len(blobs[name])
                self._words.view(np.uint8)[begin : begin + len(blobs[name])] = blobs[name]
        self._put(at.STAGING_BYTES, used)
        self._put(at.STAGING_HEAP_WORDS, heap_words)
        self._put(at.STAGING_ROWS, staged + rows)
        return staged + rows

    def commit(self, token: int) -> int:
        """Make all staged rows visible; how many. Errors: Rejected, with the row that is refused:
        `duplicate_key`, `not_unique`, `not_found`, `table_full`.
        """
        table, staged = self._open(token)
        self._reserve(table, staged, int(self._words[at.STAGING_HEAP_WORDS]))
        references = self._references(table)
        failed = np.zeros(2, np.int64)
        if not calls.begin_pages(self._words):
            raise TransactionTooLarge
        try:
            code = calls.insert_staged(
                self._words,
                table.descriptor,
                self._range.start,
                staged,
                self._blob.start,
                references,
                failed,
            )
        finally:
            calls.end_pages(self._words)
        if code < 0:
            self._refuse(table, code, int(failed[0]), int(failed[1]))
        self._note(0, 0, 0)
        self._put(at.STAGING_COMMITTED, token)
        return staged

    def drop(self, token: int) -> int:
        """Forget what is staged, by this token or, if that is 0, by any; how many rows that was."""
        running = self.now()
        if running is None or token not in (0, running.token):
            return 0
        self._note(0, 0, 0)
        return running.rows

    def _open(self, token: int) -> tuple[TableLayout, int]:
        words = self._words
        if not token or token != words[at.STAGING_TOKEN]:
            raise Rejected("import_lost", token=token)
        return self._table_at(int(words[at.STAGING_TABLE])), int(words[at.STAGING_ROWS])

    def _table_at(self, descriptor: int) -> TableLayout:
        (table,) = [t for t in self._tables.values() if t.descriptor == descriptor]
        return table

    def _note(self, token: int, descriptor: int, began_ns: int) -> None:
        self._put(at.STAGING_TOKEN, token)
        self._put(at.STAGING_TABLE, descriptor)
        self._put(at.STAGING_BEGAN, began_ns)
        self._put(at.STAGING_ROWS, 0)
        self._put(at.STAGING_BYTES, 0)
        self._put(at.STAGING_HEAP_WORDS, 0)

    def _put(self, spot: int, value: int) -> None:
        if not calls.put(self._words, spot, value):
            raise TransactionTooLarge

    # Memory.

    def _reserve(self, table: TableLayout, rows: int, heap_words: int) -> None:
        """See to it that the table takes so many more rows, and its heap words. Errors: TableFull,
        MemoryNeeded.
        """
        words, t = self._words, table.descriptor
        if int(words[table.state + at.ROW_COUNT]) + rows > table.capacity:
            raise TableFull(table.spec.name, table.capacity)
        wanted = min(table.capacity, int(words[table.state + at.ROW_HIGH]) + rows)
        if words[t + at.T_ALLOCATED] < wanted:
            raise self._db.space.ask_memory(t)
        for index in table.indexes:
            nodes = int(words[index.state + at.NODE_HIGH]) + _nodes_more(index, rows)
            if words[index.descriptor + at.X_NODES_ALLOCATED] < min(index.nodes_max, nodes):
                raise self._db.space.ask_memory(index.descriptor)
        if heap_words:
            # Not more than there is: blocks that are free now may be of use, too.
            wanted = min(table.heap_words, int(words[table.heap_state + at.H_TOP]) + heap_words)
            if words[t + at.T_HEAP_ALLOCATED] < wanted:
                self._db.space.scratch[at.S_HEAP_WORDS] = wanted
                raise self._db.space.ask_memory(t + at.T_HEAP)

    def _ask(self, header: int, wanted: int) -> None:
        """The same for a staging range."""
        allocated = self._words[header + at.STAGING_ALLOCATED - at.STAGING]
        if wanted > self._words[header + at.STAGING_WORDS - at.STAGING]:
            table = self._table_at(int(self._words[at.STAGING_TABLE]))
            raise HeapFull(table.spec.name, table.heap_words * 8)
        if wanted > allocated:
            raise self._db.space.ask_memory(header)

    # Columns.

    def _raws(
        self, table: TableLayout, rows: int, columns: Mapping[str, tuple[bytes, ...]]
    ) -> dict[str, Raw]:
        by_name = table.spec.by_name
        for name in columns:
            if name not in by_name:
                known = did_you_mean(name, by_name)
                message = f"table {table.spec.name!r} has no column {name!r}{known}"
                raise BadArguments(message, "columns")
        for column in table.spec.columns:
            if column.name not in columns and not column.auto and column.default is MISSING:
                raise BadArguments(f"column {column.name} is missing", "columns")
        return {
            name: packing.read_chunk(by_name[name], rows, *parts) for name, parts in columns.items()
        }

    def _default(self, table: TableLayout, column: Column, blob_at: int) -> npt.NDArray[np.int64]:
        """Value words of a column that the chunk leaves out; `blob_at`: where its bytes will be."""
        words = np.zeros(column.all_words, np.int64)
        if column.auto or column.default is None:
            return words
        if column.in_heap:
            length = len(_bytes_of(column.default))
            words[0] = blob_at << at.REFERENCE_BITS | length if length else 0
        else:
            encoded = self._db.tables[table.spec.name].codecs[column.name].encode(column.default)
            words[: len(encoded)] = encoded
        words[column.words :] = 1
        return words

    def _references(self, table: TableLayout) -> npt.NDArray[np.int64]:
        found = [
            (
                column.first_word,
                self._tables[column.reference].descriptor,
                column.valid_word if column.optional else -1,
            )
            for column in table.spec.columns
            if column.reference
        ]
        return np.array(found, np.int64).reshape(-1, 3)

    # Refusals.

    def _refuse(self, table: TableLayout, code: int, row: int, reference: int) -> NoReturn:
        spec = table.spec
        if code == at.DUPLICATE_KEY:
            key = [self._value(table, row, column) for column in spec.keys]
            shown = key if len(key) > 1 else key[0]
            raise Rejected("duplicate_key", table=spec.name, row=row + 1, key=shown)
        if code == at.NO_SUCH_KEY:
            column = [column for column in spec.columns if column.reference][reference]
            raise Rejected(
                "not_found",
                table=column.reference,
                row=row + 1,
                column=column.name,
                key=self._value(table, row, column),
            )
        error = fault(self._db.space, code, table)
        if isinstance(error, Rejected) and error.code == "not_unique":
            error.details["row"] = row + 1
        raise error

    def _value(self, table: TableLayout, row: int, column: Column) -> Any:
        """A value of a staged row, as an error shows it. Keys and references have no None."""
        start = self._range.start + row * table.spec.words + column.first_word
        words = self._words[start : start + column.words]
        if column.kind in ("text", "data"):
            return packing.shown(column, Raw(words.view(np.uint8).reshape(1, -1)), 0)
        return int(words[0])


def _nodes_more(index: IndexLayout, rows: int) -> int:
    """Nodes that so many entries more take: those that splits leave half full, and what is above.

    Should it be too few, the transaction runs again when there are more.
    """
    entries = ENTRY_SPACE // (index.spec.words + 1)
    fanout = ENTRY_SPACE // (index.spec.words + 2)
    return int(2 * rows / entries * (1 + 4 / fanout)) + at.HEIGHT_MAX


def _heap_words(raw: Raw) -> int:
    """Words of the heap that values of any length will take, in blocks of their size classes."""
    assert raw.offsets is not None
    sizes = -(-np.diff(raw.offsets) // 8)
    return int(BLOCK_WORDS[np.searchsorted(BLOCK_WORDS, sizes)].sum())


def block_words(length: int) -> int:
    """The same of one value."""
    return int(BLOCK_WORDS[np.searchsorted(BLOCK_WORDS, -(-length // 8))])


def _bytes_of(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value
