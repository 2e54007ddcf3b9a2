"""From a decorated class to a checked `TableSpec`.

Knows the rules of declaring tables, and says what is wrong with file and line; `schema` holds what
comes out. Called by `App.table` alone.
"""

from __future__ import annotations

import inspect
import struct
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from diptych.errors import DeclarationError, did_you_mean
from diptych.schema import (
    CAPACITY_MAX,
    HEAP_BYTES_MAX,
    HEAP_BYTES_MIN,
    INT_MAX,
    MISSING,
    SIZED_BYTES_MAX,
    Bits,
    Column,
    Index,
    IndexMark,
    Key,
    Kind,
    Reference,
    TableSpec,
    ValueType,
    int_bounds,
    snake_case,
    type_hints,
    value_type,
)

COLUMNS_WORDS_MAX = 256
HEAP_VALUE_BYTES = 128
"""Address space for a str or bytes value where the table does not say; it costs no memory."""
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


def table_spec(
    record: Any, capacity: int, heap_bytes: int | None, tables: Mapping[str, TableSpec]
) -> TableSpec:
    """Check the class `record` and make its spec. Errors: DeclarationError.

    `heap_bytes`: None for HEAP_VALUE_BYTES a value, if the table has columns that need any.
    """
    if not isinstance(record, type):
        raise DeclarationError(f"@app.table goes on a class, not on {record!r}")
    try:
        return _table_spec(record, capacity, heap_bytes, tables)
    except DeclarationError as error:
        raise DeclarationError(f"{_place(record)}: {error}") from None


def _table_spec(
    record: type, capacity: int, heap_bytes: int | None, tables: Mapping[str, TableSpec]
) -> TableSpec:
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
        first = sum(column.all_words for column in columns)
        columns.append(_column(record, column_name, annotation, first, tables))
    by_name = {column.name: column for column in columns}
    _check_keys(columns)
    if sum(column.all_words for column in columns) > COLUMNS_WORDS_MAX:
        raise DeclarationError(
            f"a row may have {COLUMNS_WORDS_MAX * 8} bytes at most; a plain str takes 8 of them"
        )
    indexes = [
        _index(index_name, mark, by_name)
        for index_name, mark in vars(record).items()
        if isinstance(mark, IndexMark)
    ]
    if len(indexes) > INDEXES_MAX:
        raise DeclarationError(f"a table may have {INDEXES_MAX} indexes at most")
    heap = _heap_bytes(heap_bytes, capacity, sum(column.in_heap for column in columns))
    return TableSpec(name, record, capacity, tuple(columns), tuple(indexes), heap, by_name)


def _heap_bytes(chosen: int | None, capacity: int, columns: int) -> int:
    if chosen is None:
        return max(HEAP_BYTES_MIN, capacity * columns * HEAP_VALUE_BYTES) if columns else 0
    if not columns:
        raise DeclarationError("heap_bytes is for tables with str or bytes columns")
    if not (isinstance(chosen, int) and HEAP_BYTES_MIN <= chosen <= HEAP_BYTES_MAX):
        raise DeclarationError(f"heap_bytes must be {HEAP_BYTES_MIN} to {HEAP_BYTES_MAX}")
    return chosen


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
    key = mark if isinstance(mark, Key) else None
    auto = key.auto if key else False
    default = MISSING if isinstance(mark, Key | Reference) else mark
    if default is MISSING and value.optional:
        default = None
    column = make_column(name, value, first_word, default, key is not None, auto)
    if isinstance(mark, Reference):
        if column.kind != "int":
            raise DeclarationError(f"{here}: ref() is the key of a row, so it must be an int")
        column = replace(column, reference=_referenced(mark, tables, here))
    return column


def make_column(
    name: str, value: ValueType, first_word: int, default: Any, is_key: bool, auto: bool
) -> Column:
    """A column with the memory that its type asks for. Errors: DeclarationError."""
    here = f"column {name}"
    kind = _kind(value, here)
    words, bits, signed = _storage(value, kind)
    low, high = _bounds(value, bits, signed, here) if kind in ("int", "float") else (None, None)
    if is_key and value.optional:
        raise DeclarationError(f"{here}: a key can't be None")
    if auto and (kind != "int" or value.is_enum or bits < 64 or not signed):
        raise DeclarationError(f"{here}: key(auto=True) counts, so it must be an int of 64 bits")
    column = Column(
        name,
        kind,
        words,
        first_word,
        value,
        MISSING,
        is_key,
        auto,
        None,
        bits=bits,
        signed=signed,
        low=low,
        high=high,
    )
    if default is not MISSING and not _fits(default, column):
        raise DeclarationError(f"{here}: the default {default!r} does not fit")
    return replace(column, default=default)


def _kind(value: ValueType, here: str) -> Kind:
    mark = value.text or value.data
    if mark:
        if mark.size_bytes > SIZED_BYTES_MAX:
            raise DeclarationError(
                f"{here}: text and data may be 1 to {SIZED_BYTES_MAX} bytes; "
                "a plain str or bytes may have any length"
            )
        return "text" if value.text else "data"
    if value.base is str:
        return "str"
    if value.base is bytes:
        return "bytes"
    if value.base is bool:
        return "bool"
    if value.base is float:
        return "float"
    if value.base is int or value.is_enum:
        return "int"
    raise DeclarationError(f"{here}: a column can be int, float, bool, str, bytes or IntEnum")


def _storage(value: ValueType, kind: Kind) -> tuple[int, int, bool]:
    """Value words, bits that a row takes if that is one word, and whether those have a sign."""
    mark = value.text or value.data
    if mark:
        fitting = [bits for bits in (8, 16, 32, 64) if bits >= mark.size_bytes * 8]
        return (1, fitting[0], False) if fitting else (-(-mark.size_bytes // 8), 64, True)
    if kind == "bool":
        return 1, 8, False
    # The bits of a short float are read with their sign, which makes them sort as those of a long.
    return 1, value.bits.size if value.bits else 64, value.bits.signed if value.bits else True


def _bounds(
    value: ValueType, bits: int, signed: bool, here: str
) -> tuple[int | float | None, int | float | None]:
    """What the column's numbers must be within; None, None for floats that may be anything."""
    between = value.between
    if value.base is float:
        if (
            between
            and bits == 32
            and not all(_is_short(bound) for bound in (between.low, between.high))
        ):
            raise DeclarationError(f"{here}: its bounds are beyond what 32 bits can hold")
        return (between.low, between.high) if between else (None, None)
    low, high = int_bounds(Bits(bits, signed))
    if value.is_enum and not all(low <= int(member) <= min(high, INT_MAX) for member in value.base):
        most = bits if high <= INT_MAX else 63
        raise DeclarationError(f"{here}: {value.base.__name__} has members beyond {most} bits")
    if between:
        low, high = max(low, int(between.low)), min(high, int(between.high))
    if low > high:
        raise DeclarationError(f"{here}: no number of {bits} bits is within the bounds")
    return low, high


def _is_short(number: float) -> bool:
    """Whether a float of 32 bits can be near to a number."""
    try:
        struct.pack("<f", number)
    except OverflowError:
        return False
    return True


def _fits(default: Any, column: Column) -> bool:
    value, kind = column.value, column.kind
    if default is None:
        return column.optional
    if value.is_enum:
        return isinstance(default, int) and default in value.base.__members__.values()
    if kind in ("int", "float"):
        plain = isinstance(default, int if kind == "int" else int | float)
        if not plain or (kind == "float" and isinstance(default, bool)):
            return False
        return column.low is None or column.high is None or column.low <= default <= column.high
    if kind == "bool":
        return isinstance(default, bool)
    if kind in ("data", "bytes"):
        exact = len(default) == column.size_bytes if isinstance(default, bytes) else False
        return isinstance(default, bytes) and (kind == "bytes" or exact)
    return isinstance(default, str) and _is_text(default, column)


def _is_text(default: str, column: Column) -> bool:
    try:
        raw = default.encode()
    except UnicodeEncodeError:
        return False
    return column.in_heap or (len(raw) <= column.size_bytes and b"\0" not in raw)


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
        if column.kind == "float" or column.in_heap:
            raise DeclarationError(f"column {column.name}: a {column.kind} can't be a key")
    _check_words("a key", sum(column.words for column in keys))
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
        if by_name[column].in_heap:
            raise DeclarationError(
                f"{here}: {column} has no longest value; to index it say Annotated[str, text(40)]"
            )
    if len(set(mark.columns)) < len(mark.columns):
        raise DeclarationError(f"{here}: a column is named twice")
    index = Index(name, tuple(by_name[column] for column in mark.columns), mark.unique)
    _check_words(f"{here}: an index", index.words)
    return index


def _check_words(what: str, words: int) -> None:
    if words > KEY_WORDS_MAX:
        raise DeclarationError(
            f"{what} may have {KEY_WORDS_MAX} words at most, and this has {words}: text and data "
            "take one for 8 bytes, each other column one, and one more if it may be None"
        )


def _place(record: type) -> str:
    try:
        line = inspect.getsourcelines(record)[1]
        return f"{inspect.getsourcefile(record)}:{line}: class {record.__name__}"
    except (OSError, TypeError):
        return f"class {record.__name__}"
