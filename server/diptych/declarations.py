"""From a decorated class to a checked `TableSpec`.

Knows the rules of declaring tables, and says what is wrong with file and line; `schema` holds what
comes out. Called by `App.table` alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from diptych.errors import DeclarationError, did_you_mean
from diptych.schema import (
    CAPACITY_MAX,
    INT_MAX,
    INT_MIN,
    MISSING,
    TEXT_BYTES_MAX,
    Column,
    Index,
    IndexMark,
    Key,
    Kind,
    Reference,
    TableSpec,
    ValueType,
    snake_case,
    type_hints,
    value_type,
)

COLUMNS_WORDS_MAX = 64
KEY_WORDS_MAX = 7
INDEXES_MAX = 10
# What a table or an index would hide: names for handlers, and those that `store` uses. A test holds
# them against the classes.
DB_NAMES = frozenset(
    {
        *("now", "sequence", "caller", "random", "publish", "sql", "refresh", "age_ms"),
        *("layout", "space", "tables", "commit", "rollback", "verify"),
    }
)
TABLE_NAMES = frozenset(
    {
        *("get", "insert", "get_or_insert", "delete", "columns", "df", "arrow"),
        *("name", "layout", "space", "tables", "codecs", "row", "find"),
    }
)


def table_spec(record: Any, capacity: int, tables: Mapping[str, TableSpec]) -> TableSpec:
    """Check the class `record` and make its spec. Errors: DeclarationError."""
    if not isinstance(record, type):
        raise DeclarationError(f"@app.table goes on a class, not on {record!r}")
    try:
        return _table_spec(record, capacity, tables)
    except DeclarationError as error:
        raise DeclarationError(f"{_place(record)}: {error}") from None


def _table_spec(record: type, capacity: int, tables: Mapping[str, TableSpec]) -> TableSpec:
    name = snake_case(record.__name__)
    if name in DB_NAMES or name.startswith("_"):
        raise DeclarationError(f"a table can't be called {name!r}")
    if name in tables:
        raise DeclarationError(f"there is a table {name!r} already")
    if not (isinstance(capacity, int) and 1 <= capacity <= CAPACITY_MAX):
        raise DeclarationError(f"capacity must be 1 to {CAPACITY_MAX}, not {capacity!r}")
    hints = type_hints(record, "columns")
    _check_members(record, hints)
    columns: list[Column] = []
    for column_name, annotation in hints.items():
        first = sum(column.words for column in columns)
        columns.append(_column(record, column_name, annotation, first, tables))
    by_name = {column.name: column for column in columns}
    _check_keys(columns)
    if sum(column.words for column in columns) > COLUMNS_WORDS_MAX:
        raise DeclarationError(f"a row may have {COLUMNS_WORDS_MAX * 8} bytes at most")
    indexes = [
        _index(index_name, mark, by_name)
        for index_name, mark in vars(record).items()
        if isinstance(mark, IndexMark)
    ]
    if len(indexes) > INDEXES_MAX:
        raise DeclarationError(f"a table may have {INDEXES_MAX} indexes at most")
    return TableSpec(name, record, capacity, tuple(columns), tuple(indexes), by_name)


def _check_members(record: type, hints: Mapping[str, Any]) -> None:
    """What would be ignored is refused: values without an annotation, and methods."""
    for name, member in vars(record).items():
        if name.startswith("_") or name in hints or isinstance(member, IndexMark | type):
            continue
        if callable(member) or hasattr(member, "__get__"):
            raise DeclarationError(f"{name}: rows have no methods; write a function instead")
        raise DeclarationError(f"{name} has no annotation, so it is no column: {name}: int = ...")


def _column(
    record: type, name: str, annotation: Any, first_word: int, tables: Mapping[str, TableSpec]
) -> Column:
    here = f"column {name}"
    if name.startswith("_"):
        raise DeclarationError(f"{here}: a column's name can't begin with an underscore")
    mark = getattr(record, name, MISSING)
    if isinstance(mark, IndexMark):
        raise DeclarationError(f"index {name}: an index has no annotation: {name} = ordered(...)")
    value = value_type(annotation, here)
    kind = _kind(value, here)
    key = mark if isinstance(mark, Key) else None
    reference = None
    if isinstance(mark, Reference):
        if kind != "int":
            raise DeclarationError(f"{here}: ref() is the key of a row, so it must be an int")
        reference = _referenced(mark, tables, here)
    default = MISSING if isinstance(mark, Key | Reference) else mark
    if default is not MISSING and not _fits(default, kind, value):
        raise DeclarationError(f"{here}: the default {default!r} does not fit")
    if key and key.auto and (kind != "int" or value.is_enum):
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


def _fits(default: Any, kind: Kind, value: ValueType) -> bool:
    if value.is_enum:
        return isinstance(default, int) and default in value.base.__members__.values()
    if kind == "int":
        return isinstance(default, int) and INT_MIN <= default <= INT_MAX
    if kind == "float":
        return isinstance(default, int | float) and not isinstance(default, bool)
    if kind == "bool":
        return isinstance(default, bool)
    if not isinstance(default, str) or "\0" in default or value.text is None:
        return False
    try:
        return len(default.encode()) <= value.text.size_bytes
    except UnicodeEncodeError:
        return False


def _referenced(mark: Reference, tables: Mapping[str, TableSpec], here: str) -> str:
    for spec in tables.values():
        if spec.record is mark.table:
            if len(spec.keys) != 1 or spec.keys[0].kind != "int":
                raise DeclarationError(f"{here}: ref() needs a table with one int as its key")
            return spec.name
    raise DeclarationError(f"{here}: {mark.table!r} is not a table declared before this one")


def _check_keys(columns: list[Column]) -> None:
    keys = [column for column in columns if column.key]
    if not keys:
        raise DeclarationError("a table needs a key: id: int = key()")
    for column in keys:
        if column.kind == "float":
            raise DeclarationError(f"column {column.name}: a float can't be a key")
    if sum(column.words for column in keys) > KEY_WORDS_MAX:
        raise DeclarationError(f"a key may have {KEY_WORDS_MAX * 8} bytes at most")
    if any(column.auto for column in keys) and len(keys) > 1:
        raise DeclarationError("key(auto=True) must be the whole key")


def _index(name: str, mark: IndexMark, by_name: Mapping[str, Column]) -> Index:
    here = f"index {name}"
    if name in TABLE_NAMES or name.startswith("_"):
        raise DeclarationError(f"{here}: an index can't be called that")
    if not mark.columns:
        raise DeclarationError(f"{here}: name the columns: ordered('symbol', 'price')")
    for column in mark.columns:
        if column not in by_name:
            known = did_you_mean(str(column), by_name)
            raise DeclarationError(f"{here}: there is no column {column!r}{known}")
        if by_name[column].kind == "float":
            raise DeclarationError(f"{here}: a float column can't be indexed in this version")
    if len(set(mark.columns)) < len(mark.columns):
        raise DeclarationError(f"{here}: a column is named twice")
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
