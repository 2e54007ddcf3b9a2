"""A table and its indexes as interpreted handlers see them: thin wrappers around kernels.

Each operation is one kernel call; its arguments go through the scratch. Negative results become
exceptions (`faults`). `insert` is generated from the columns, so that Python itself checks names and
defaults, and says what is missing.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

from diptych.errors import Rejected, did_you_mean
from diptych.schema import INT_MAX, INT_MIN, MISSING, Column
from diptych.store import btree, hashing
from diptych.store import rows as row_kernels
from diptych.store import words as at
from diptych.store.columns import Selection, select
from diptych.store.faults import ReadOnly, StaleRow, fault
from diptych.store.layout import IndexLayout, TableLayout
from diptych.store.rowtypes import Row, not_found, row_type
from diptych.store.values import Codec
from diptych.store.views import Space

_ARGUMENTS_BYTE = at.S_ARGUMENT * 8


class IndexView:
    """An ordered index. See `diptych.app.Index`."""

    def __init__(self, space: Space, table: TableView, index: IndexLayout) -> None:
        self._space, self._table, self._index = space, table, index
        self._codecs = [table.codecs[column.name] for column in index.spec.columns]

    def __repr__(self) -> str:
        columns = ", ".join(column.name for column in self._index.spec.columns)
        return f"<index {self._table.name}.{self._index.spec.name} by {columns}>"

    def range(
        self, *prefix: Any, start: Any = MISSING, stop: Any = MISSING, reverse: bool = False
    ) -> Iterator[Row]:
        """Rows that begin with `prefix`, in order; `start` (inside) and `stop` (outside) bound the next column.

        Changing the index meanwhile is allowed: each step goes to the next entry after the last one
        given, wherever the index has moved.
        """
        low = self._bound(prefix, start)
        high = low if start is stop else self._bound(prefix, stop)
        arguments = self._space.arguments
        for i, word in enumerate(low):
            arguments[i] = word
        for i, word in enumerate(high, at.KEY_WORDS_MAX):
            arguments[i] = word
        cursor = btree.open_cursor(
            self._space.words,
            self._index.descriptor,
            len(low),
            len(high),
            int(stop is not MISSING),
            int(reverse),
        )
        return self._walk(cursor)

    def first(self, *prefix: Any) -> Row | None:
        """The first row that begins with `prefix`, or None."""
        return self._end(prefix, 0)

    def last(self, *prefix: Any) -> Row | None:
        """The last row that begins with `prefix`, or None."""
        return self._end(prefix, 1)

    def _end(self, prefix: tuple[Any, ...], reverse: int) -> Row | None:
        bound = self._bound(prefix, MISSING)
        arguments = self._space.arguments
        for i, word in enumerate(bound):
            arguments[i] = word
        row = btree.first(self._space.words, self._index.descriptor, len(bound), reverse)
        return None if row < 0 else self._table.row(row)

    def _walk(self, cursor: int) -> Iterator[Row]:
        words, advance, row_class = self._space.words, btree.advance, self._table.row
        while (row := advance(words, cursor)) >= 0:
            yield row_class(row)
        if row != at.NOT_FOUND:
            raise fault(row, 0, self._table.layout)

    def _bound(self, prefix: tuple[Any, ...], end: Any) -> list[int]:
        values = prefix if end is MISSING else (*prefix, end)
        if len(values) > len(self._codecs):
            raise TypeError(f"{self!r} has no more than {len(self._codecs)} columns")
        words: list[int] = []
        for codec, value in zip(self._codecs, values, strict=False):
            if codec.column.words == 1:
                words.append(codec.word(value))
            else:
                words += codec.encode(value)
        return words


class TableView:
    """A table. See `diptych.app.Table`. Its class is made once a table, for the indexes' names."""

    def __init__(self, space: Space, layout: TableLayout) -> None:
        self.name = layout.spec.name
        self.layout = layout
        self.space = space
        self.codecs = {c.name: Codec(layout.spec.name, c) for c in layout.spec.columns}
        self.row = row_type(space, layout, self.codecs)
        self.references: dict[str, TableView] = {}
        self._keys = [self.codecs[column.name] for column in layout.spec.keys]
        self._one_int = len(self._keys) == 1 and layout.spec.keys[0].kind == "int"
        self._state = space.word_view(layout.state, at.STATE_WORDS)
        for index in layout.indexes:
            setattr(self, index.spec.name, IndexView(space, self, index))
        self.insert: Callable[..., Row] = _make_insert(self) if space.writable else _refuse_write

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
        return self._find(key) >= 0

    def __getitem__(self, key: Any) -> Row:
        row = self._find(key)
        if row < 0:
            raise not_found(self.name, key)
        return self.row(row)

    def get(self, key: Any) -> Row | None:
        """The row with this key, or None."""
        row = self._find(key)
        return None if row < 0 else self.row(row)

    def __iter__(self) -> Iterator[Row]:
        words, descriptor, row = self.space.words, self.layout.descriptor, -1
        while (row := row_kernels.next_row(words, descriptor, row)) >= 0:
            yield self.row(row)

    def get_or_insert(self, **columns: Any) -> Row:
        """The row with the key among `columns`, or a new one made of them."""
        names = [codec.column.name for codec in self._keys]
        row = self.get(columns[names[0]] if len(names) == 1 else tuple(columns[n] for n in names))
        return self.insert(**columns) if row is None else row

    def delete(self, row: Row) -> None:
        """Remove a row of this table; the row object is stale afterwards."""
        if not self.space.writable:
            _refuse_write()
        if type(row) is not self.row or row._row is None:
            raise StaleRow(f"{row!r} is not a live row of {self.name}")
        code = row_kernels.delete(self.space.words, self.layout.descriptor, row._row)
        if code < 0:
            raise fault(code, self.space.scratch[at.S_FAULT], self.layout)
        row._row = None

    def columns(self, **equals: Any) -> Selection:
        """Live rows as numpy arrays, those alone whose columns equal the given values."""
        return select(self.space, self.layout, self.codecs, equals)

    def _find(self, key: Any) -> int:
        if self._one_int:
            if type(key) is not int or not INT_MIN <= key <= INT_MAX:
                key = self._keys[0].word(key)
            return hashing.find1(self.space.words, self.layout.descriptor, key)
        values = key if type(key) is tuple else (key,)
        if len(values) != len(self._keys):
            names = ", ".join(codec.column.name for codec in self._keys)
            raise TypeError(f"the key of {self.name} is ({names}), not {key!r}")
        arguments = self.space.arguments
        i = 0
        for codec, value in zip(self._keys, values, strict=True):
            if codec.column.words == 1:
                arguments[i] = codec.word(value)
                i += 1
            else:
                for word in codec.encode(value):
                    arguments[i] = word
                    i += 1
        return hashing.find(self.space.words, self.layout.descriptor)


def _refuse_write(**columns: Any) -> Row:
    raise ReadOnly("a query can't change data")


def _make_insert(view: TableView) -> Callable[..., Row]:
    """`insert(*, column, ..., column=default)`, as source, since Python's own argument passing is the fastest."""
    columns = view.layout.spec.columns
    table, scratch = view.layout, view.space.scratch
    packer = struct.Struct("<" + "".join(_struct_code(column) for column in columns))

    def diagnose(values: tuple[Any, ...]) -> BaseException:
        for column, value in zip(columns, values, strict=True):
            try:
                view.codecs[column.name].encode(value)
            except Rejected as bad:
                return bad
        return TypeError(f"{table.spec.name}.insert can't store {values!r}")

    def failed(code: int, values: tuple[Any, ...]) -> int:
        while code < 0 and view.space.needs_memory(code):
            code = row_kernels.insert(view.space.words, table.descriptor)
        if code >= 0:
            return code
        if code == at.DUPLICATE_KEY:
            named = dict(zip((c.name for c in columns), values, strict=True))
            key = [named[c.name] for c in table.spec.keys]
            raise Rejected(
                "duplicate_key", table=table.spec.name, key=key if len(key) > 1 else key[0]
            )
        raise fault(code, scratch[at.S_FAULT], table)

    names: dict[str, Any] = {
        "pack": packer.pack_into,
        "scratch": view.space.scratch_bytes,
        "insert_row": row_kernels.insert,
        "words": view.space.words,
        "Row": view.row,
        "diagnose": diagnose,
        "failed": failed,
        "packing_error": (struct.error, TypeError, OverflowError),
    }
    parameters, values, checks = [], [], []
    for column in columns:
        default = 0 if column.auto else column.default
        names[f"default_{column.name}"] = default
        names[f"codec_{column.name}"] = _packed(view.codecs[column.name])
        parameters.append(
            column.name if default is MISSING else f"{column.name}=default_{column.name}"
        )
        plain = column.kind in ("int", "float") and not view.codecs[column.name].members
        values.append(column.name if plain else f"codec_{column.name}({column.name})")
        if column.reference:
            names[f"table_{column.name}"] = column.reference
            names["references"], names["not_found"] = view.references, not_found
            checks.append(
                f"    if {column.name} not in references[table_{column.name}]:\n"
                f"        raise not_found(table_{column.name}, {column.name})\n"
            )
    everything = ", ".join(column.name for column in columns)
    source = (
        f"def insert(*, {', '.join(parameters)}):\n"
        + "".join(checks)
        + "    try:\n"
        + f"        pack(scratch, {_ARGUMENTS_BYTE}, {', '.join(values)})\n"
        + "    except packing_error:\n"
        + f"        raise diagnose(({everything},)) from None\n"
        + f"    row = insert_row(words, {table.descriptor})\n"
        + "    if row < 0:\n"
        + f"        row = failed(row, ({everything},))\n"
        + "    return Row(row)\n"
    )
    exec(compile(source, f"<{table.spec.name}.insert>", "exec"), names)
    made: Callable[..., Row] = names["insert"]
    made.__qualname__ = f"{table.spec.name}.insert"
    return made


def _struct_code(column: Column) -> str:
    if column.words > 1:
        return f"{column.words * 8}s"
    return "d" if column.kind == "float" else "q"


def _packed(codec: Codec) -> Callable[[Any], Any]:
    return codec.padded if codec.column.words > 1 else codec.word
