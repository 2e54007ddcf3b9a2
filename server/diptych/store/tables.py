"""A table and its indexes as interpreted handlers see them: thin wrappers around kernels.

Each operation is one kernel call; its arguments go through the scratch. Negative results become
exceptions (`faults`). What runs for every transaction is made for each table: `inserts` and
`prefixes` generate it from the columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from operator import itemgetter
from typing import Any

from diptych.errors import did_you_mean
from diptych.schema import MISSING
from diptych.store import calls
from diptych.store import words as at
from diptych.store.columns import Selection, select
from diptych.store.faults import ReadOnly, StaleRow, fault, not_found, stale
from diptych.store.inserts import make_insert
from diptych.store.layout import IndexLayout, TableLayout
from diptych.store.prefixes import prefix_writer
from diptych.store.rowtypes import Row, row_type
from diptych.store.values import Codec
from diptych.store.views import Space


class IndexView:
    """An ordered index. See `diptych.app.Index`."""

    def __init__(self, space: Space, table: TableView, index: IndexLayout) -> None:
        self._space, self._table, self._index = space, table, index
        codecs = [table.codecs[column.name] for column in index.spec.columns]
        self._columns = len(codecs)
        self._write_low = prefix_writer(space, codecs)
        self._write_high = prefix_writer(space, codecs, at.KEY_WORDS_MAX)
        self.first = self._make_end(0)
        self.last = self._make_end(1)

    def __repr__(self) -> str:
        columns = ", ".join(column.name for column in self._index.spec.columns)
        return f"<index {self._table.name}.{self._index.spec.name} by {columns}>"

    def range(
        self, *prefix: Any, start: Any = MISSING, stop: Any = MISSING, reverse: bool = False
    ) -> Iterator[Row]:
        """Rows that begin with `prefix`, in order.

        `start` (inside) and `stop` (outside) bound the next column. Changing the index meanwhile
        is allowed: each step goes to the next entry after the last one given. A value that its
        column can't hold is rejected by the first step.
        """
        low = prefix if start is MISSING else (*prefix, start)
        high = prefix if stop is MISSING else (*prefix, stop)
        self._check(max(len(low), len(high)))
        return self._walk(low, high, stop is not MISSING, reverse)

    def _walk(
        self, low: tuple[Any, ...], high: tuple[Any, ...], high_open: bool, reverse: bool
    ) -> Iterator[Row]:
        space, advance, row_class = self._space, calls.advance, self._table.row
        words, block = space.words, space.take_cursor()
        era = space.begin_walk()
        try:
            low_count, high_count = self._write_low(low), self._write_high(high)
            cursor = calls.open_cursor(
                words, self._index.descriptor, low_count, high_count, high_open, reverse
            )
            while (row := advance(words, cursor)) >= 0:
                yield row_class(row)
            if era != space.era:
                raise StaleRow(f"the transaction of this range of {self!r} has ended")
            if row != at.NOT_FOUND:
                raise fault(space, row, self._table.layout)
        finally:
            space.free_cursor(block, era)
            space.end_walk(era)

    def _make_end(self, reverse: int) -> Callable[..., Row | None]:
        space, table = self._space, self._table.layout
        words, descriptor, row_class = space.words, self._index.descriptor, self._table.row
        write, find_end, columns = self._write_low, calls.first, self._columns

        def end(*prefix: Any) -> Row | None:
            """The first (or last) row that begins with `prefix`, or None."""
            if len(prefix) > columns:
                self._check(len(prefix))
            row = find_end(words, descriptor, write(prefix), reverse)
            if row >= 0:
                return row_class(row)
            if row != at.NOT_FOUND:
                raise fault(space, row, table)
            return None

        return end

    def _check(self, given: int) -> None:
        if given > self._columns:
            raise TypeError(f"{self!r} has {self._columns} columns; {given} values were given")


class TableView:
    """A table. See `diptych.app.Table`. Made by `open_table`, with a class for each table."""

    get: Callable[[Any], Row | None]
    insert: Callable[..., Row]
    get_or_insert: Callable[..., Row]
    find: Callable[[Any], int]

    def __init__(self, space: Space, layout: TableLayout, tables: Mapping[str, TableView]) -> None:
        self.name = layout.spec.name
        self.tables = tables  # those declared before this one, which it may refer to
        self.layout = layout
        self.space = space
        self.codecs = {c.name: Codec(layout.spec.name, c) for c in layout.spec.columns}
        finds = {name: table.find for name, table in tables.items()}
        self.row = row_type(space, layout, self.codecs, finds)
        self._state = space.word_view(layout.state, at.STATE_WORDS)
        self.find = _make_find(self)
        self.get = self._make_get()
        self.insert = make_insert(self) if space.writable else _refuse_write
        self.get_or_insert = self._make_get_or_insert()
        for index in layout.indexes:
            setattr(self, index.spec.name, IndexView(space, self, index))

    def __getattr__(self, name: str) -> Any:
        known = [index.spec.name for index in self.layout.indexes]
        raise AttributeError(
            f"table {self.name!r} has no index {name!r}{did_you_mean(name, known)}"
        )

    def __repr__(self) -> str:
        return f"<table {self.name}: {len(self)} rows>"

    def __len__(self) -> int:
        return self._state[at.ROW_COUNT]

    def __contains__(self, key: Any) -> bool:
        row = self.find(key)
        if row < at.NOT_FOUND:
            raise fault(self.space, row, self.layout)
        return row >= 0

    def __iter__(self) -> Iterator[Row]:
        space, descriptor, row_class, row = self.space, self.layout.descriptor, self.row, -1
        words, era = space.words, space.begin_walk()
        try:
            while (row := calls.next_row(words, descriptor, row)) >= 0:
                yield row_class(row)
                if era != space.era:
                    raise StaleRow(f"the transaction of this iteration of {self!r} has ended")
            if row != at.NOT_FOUND:
                raise fault(space, row, self.layout)
        finally:
            space.end_walk(era)

    def delete(self, row: Row) -> None:
        """Remove a row of this table; the row object is stale afterwards."""
        if not self.space.writable:
            _refuse_write()
        if isinstance(row, Row) and row._row is None:
            raise stale(self.name)
        if type(row) is not self.row or row._row is None:
            raise TypeError(f"delete takes a row of {self.name}, not {row!r}")
        code = calls.delete(self.space.words, self.layout.descriptor, row._row)
        if code < 0:
            raise fault(self.space, code, self.layout)
        row._row = None

    def columns(self, **equals: Any) -> Selection:
        """Live rows as numpy arrays, those alone whose columns equal the given values."""
        return select(self, equals)

    def arrow(self) -> Any:
        """A pyarrow.Table of all rows, in slot order."""
        return self.columns().arrow()

    def df(self) -> Any:
        """A pandas.DataFrame of all rows, in slot order."""
        return self.columns().df()

    def _make_get_or_insert(self) -> Callable[..., Row]:
        names = [column.name for column in self.layout.spec.keys]
        find, row_class, key_of, insert = self.find, self.row, itemgetter(*names), self.insert

        def get_or_insert(**columns: Any) -> Row:
            """The row with the key among `columns`, or a new one made of them."""
            try:
                key = key_of(columns)
            except KeyError as missing:
                raise TypeError(
                    f"{self.name}.get_or_insert needs the key column {missing}"
                ) from None
            row = find(key)
            return insert(**columns) if row < 0 else row_class(row)

        return get_or_insert

    def _make_get(self) -> Callable[[Any], Row | None]:
        find, row_class, space, layout = self.find, self.row, self.space, self.layout

        def get(key: Any) -> Row | None:
            """The row with this key, or None."""
            row = find(key)
            if row >= 0:
                return row_class(row)
            if row != at.NOT_FOUND:
                raise fault(space, row, layout)
            return None

        return get


def open_table(space: Space, layout: TableLayout, tables: Mapping[str, TableView]) -> TableView:
    """A table of an open region. `[]` is the hottest of all calls, so it is made for each table."""

    def row_of(self: TableView, key: Any) -> Row:
        row = find(key)
        if row < 0:
            raise not_found(space, layout.spec.name, key)
        return row_class(row)

    kind = type(f"{layout.spec.record.__name__}Table", (TableView,), {"__getitem__": row_of})
    view: TableView = kind(space, layout, tables)
    find, row_class = view.find, view.row
    return view


def _make_find(view: TableView) -> Callable[[Any], int]:
    """The function from a key to a slot, NOT_FOUND or OVER_BUDGET. Errors: BadValue, TypeError."""
    words, descriptor = view.space.words, view.layout.descriptor
    keys = view.layout.spec.keys
    codecs = [view.codecs[column.name] for column in keys]
    if len(keys) == 1 and codecs[0].is_word:
        find1, to_word = calls.find1, codecs[0].sought

        def find_int(key: Any) -> int:
            try:
                return find1(words, descriptor, key if type(key) is int else to_word(key))
            except OverflowError:
                return to_word(key)  # raises BadValue

        return find_int
    write, find_row, count = prefix_writer(view.space, codecs), calls.find, len(keys)

    def find(key: Any) -> int:
        values = key if isinstance(key, tuple) else (key,)
        if len(values) != count:
            names = ", ".join(column.name for column in keys)
            raise TypeError(f"the key of {view.name} is ({names}), not {key!r}")
        write(values)
        return find_row(words, descriptor)

    return find


def _refuse_write(**columns: Any) -> Row:
    raise ReadOnly("a query can't change data")
