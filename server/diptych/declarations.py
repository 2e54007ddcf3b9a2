"""From a decorated class to a checked `TableSpec`.

Knows the rules of declaring tables, and says what is wrong with file and line; `schema` holds what
comes out. Called by `App.table` alone.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping
from typing import Any

from diptych.errors import DeclarationError, did_you_mean
from diptych.schema import INT_MAX, INT_MIN, MISSING, TEXT_BYTES_MAX, Column, Index, IndexMark
from diptych.schema import Key, Kind, Reference, TableSpec, ValueType, snake_case, value_type

CAPACITY_MAX = 2**32
COLUMNS_WORDS_MAX = 64
KEY_WORDS_MAX = 7
INDEXES_MAX = 10
DB_NAMES = frozenset({"now", "sequence", "caller", "random", "publish", "sql", "refresh", "age_ms"})
TABLE_NAMES = frozenset({"get", "insert", "get_or_insert", "delete", "columns", "df", "arrow"})


def table_spec(record: type, capacity: int, tables: Mapping[str, TableSpec]) -> TableSpec:
    """Check the class `record` and make its spec. Errors: DeclarationError."""
    where = _place(record)
    name = snake_case(record.__name__)
    if name in DB_NAMES:
        raise DeclarationError(f"{where}: a table can't be called {name!r}")
    if name in tables:
        raise DeclarationError(f"{where}: there is a table {name!r} already")
    if not 1 <= capacity <= CAPACITY_MAX:
        raise DeclarationError(f"{where}: capacity must be 1 to {CAPACITY_MAX}, not {capacity}")
    hints = typing.get_type_hints(record, include_extras=True)
    columns: list[Column] = []
    for column_name, annotation in hints.items():
        first = sum(column.words for column in columns)
        columns.append(_column(record, column_name, annotation, first, tables, where))
    by_name = {column.name: column for column in columns}
    _check_keys(columns, where)
    if sum(column.words for column in columns) > COLUMNS_WORDS_MAX:
        raise DeclarationError(f"{where}: a row may have {COLUMNS_WORDS_MAX * 8} bytes at most")
    indexes = [
        _index(index_name, mark, by_name, where)
        for index_name, mark in vars(record).items()
        if isinstance(mark, IndexMark)
    ]
    if len(indexes) > INDEXES_MAX:
        raise DeclarationError(f"{where}: a table may have {INDEXES_MAX} indexes at most")
    return TableSpec(name, record, capacity, tuple(columns), tuple(indexes), by_name)


def _column(
    record: type,
    name: str,
    annotation: Any,
    first_word: int,
    tables: Mapping[str, TableSpec],
    where: str,
) -> Column:
    here = f"{where}, column {name}"
    if name.startswith("_"):
        raise DeclarationError(f"{here}: a column's name can't begin with an underscore")
    value = value_type(annotation, here)
    kind = _kind(value, here)
    mark = getattr(record, name, MISSING)
    key = mark if isinstance(mark, Key) else None
    reference = None
    if isinstance(mark, Reference):
        reference = _referenced(mark, tables, here)
    default = MISSING if isinstance(mark, Key | Reference | IndexMark) else mark
    if default is not MISSING:
        _check_default(default, kind, value, here)
    if key and key.auto and kind != "int":
        raise DeclarationError(f"{here}: key(auto=True) counts, so it must be an int")
    words = -(-value.text.size_bytes // 8) if value.text else 1
    auto = key.auto if key else False
    return Column(name, kind, words, first_word, value, default, key is not None, auto, reference)


def _kind(value: ValueType, here: str) -> Kind:
    if value.optional:
        raise DeclarationError(f"{here}: a column can't be None in this version")
    if value.base is str:
        if value.text is None:
            raise DeclarationError(f"{here}: say how long: Annotated[str, text(16)]")
        if not 1 <= value.text.size_bytes <= TEXT_BYTES_MAX:
            raise DeclarationError(f"{here}: text may be 1 to {TEXT_BYTES_MAX} bytes")
        return "text"
    if value.base is bool:
        return "bool"
    if value.base is float:
        return "float"
    if value.base is int or value.is_enum:
        return "int"
    raise DeclarationError(f"{here}: a column can be int, float, bool, text or IntEnum")


def _check_default(default: Any, kind: Kind, value: ValueType, here: str) -> None:
    fits = {
        "int": isinstance(default, int) and INT_MIN <= default <= INT_MAX,
        "float": isinstance(default, int | float),
        "bool": isinstance(default, bool),
        "text": isinstance(default, str) and len(default.encode()) <= _size(value),
    }[kind]
    if not fits:
        raise DeclarationError(f"{here}: the default {default!r} does not fit")


def _size(value: ValueType) -> int:
    return value.text.size_bytes if value.text else 0


def _referenced(mark: Reference, tables: Mapping[str, TableSpec], here: str) -> str:
    for spec in tables.values():
        if spec.record is mark.table:
            if len(spec.keys) != 1 or spec.keys[0].kind != "int":
                raise DeclarationError(f"{here}: ref() needs a table with one int as its key")
            return spec.name
    raise DeclarationError(f"{here}: {mark.table!r} is not a table declared before this one")


def _check_keys(columns: list[Column], where: str) -> None:
    keys = [column for column in columns if column.key]
    if not keys:
        raise DeclarationError(f"{where}: a table needs a key: id: int = key()")
    if sum(column.words for column in keys) > KEY_WORDS_MAX:
        raise DeclarationError(f"{where}: a key may have {KEY_WORDS_MAX * 8} bytes at most")
    if any(column.auto for column in keys) and len(keys) > 1:
        raise DeclarationError(f"{where}: key(auto=True) must be the whole key")


def _index(name: str, mark: IndexMark, by_name: Mapping[str, Column], where: str) -> Index:
    here = f"{where}, index {name}"
    if name in TABLE_NAMES or name.startswith("_"):
        raise DeclarationError(f"{here}: an index can't be called that")
    if not mark.columns:
        raise DeclarationError(f"{here}: name the columns: ordered('symbol', 'price')")
    for column in mark.columns:
        if column not in by_name:
            raise DeclarationError(
                f"{here}: there is no column {column!r}{did_you_mean(column, by_name)}"
            )
        if by_name[column].kind == "float":
            raise DeclarationError(f"{here}: a float column can't be indexed in this version")
    index = Index(name, tuple(by_name[column] for column in mark.columns), mark.unique)
    if index.words > KEY_WORDS_MAX:
        raise DeclarationError(f"{here}: an index may have {KEY_WORDS_MAX * 8} bytes at most")
    return index


def _place(record: type) -> str:
    try:
        line = inspect.getsourcelines(record)[1]
        return f"{inspect.getsourcefile(record)}:{line}: class {record.__name__}"
    except (OSError, TypeError):
        return f"class {record.__name__}"
