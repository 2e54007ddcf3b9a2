"""What differs between the schema that data was stored with and the one in code.

Pure comparison of table specs: which differences a start carries out by itself, some of them only
if the data fits, and which need a migration function. Knows no memory and no data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from diptych.schema import MISSING, Column, TableSpec


@dataclass(frozen=True)
class Difference:
    """One difference. `automatic`: a start carries it out, unless the data does not fit."""

    table: str
    what: str
    told: str
    automatic: bool = True

    def __str__(self) -> str:
        where = f"table {self.table}" + (f", {self.what}" if self.what else "")
        return f"{where}: {self.told}"


@dataclass(frozen=True)
class Comparison:
    """All differences, tables in the order of the code, those that are gone last."""

    differences: tuple[Difference, ...]

    @property
    def blocking(self) -> tuple[Difference, ...]:
        """Those that need a migration function."""
        return tuple(each for each in self.differences if not each.automatic)

    @property
    def blocked_tables(self) -> frozenset[str]:
        return frozenset(each.table for each in self.blocking)


def compare(old: Sequence[TableSpec], new: Sequence[TableSpec]) -> Comparison:
    """`old`: as stored; `new`: as in code. Both with the capacities in force."""
    stored, declared = {t.name: t for t in old}, {t.name: t for t in new}
    found: list[Difference] = []
    for name, table in declared.items():
        if name in stored:
            found += _table(stored[name], table)
        else:
            found.append(Difference(name, "", "new"))
    for name in stored:
        if name not in declared:
            found.append(Difference(name, "", "removed", automatic=False))
    return Comparison(tuple(found))


def _table(old: TableSpec, new: TableSpec) -> Iterator[Difference]:
    name = new.name
    old_keys, new_keys = _names(old.keys), _names(new.keys)
    if old_keys != new_keys:
        yield Difference(name, "key", f"{_list(old_keys)} -> {_list(new_keys)}", automatic=False)
    for column in new.columns:
        if column.name in old.by_name:
            yield from _column(name, old.by_name[column.name], column)
        else:
            yield _added(name, column)
    for column in old.columns:
        if column.name not in new.by_name:
            yield Difference(name, f"column {column.name}", "removed", automatic=False)
    kept = [c for c in _names(old.columns) if c in new.by_name]
    if kept != [c for c in _names(new.columns) if c in old.by_name]:
        yield Difference(name, "", "its columns stand in another order")
    yield from _indexes(old, new)
    if old.capacity != new.capacity:
        yield Difference(name, "capacity", f"{old.capacity} -> {new.capacity} rows")
    if old.heap_bytes != new.heap_bytes:
        yield Difference(name, "heap", f"{old.heap_bytes} -> {new.heap_bytes} bytes")
    if old.record.__name__ != new.record.__name__:
        told = f"{old.record.__name__} -> {new.record.__name__}"
        yield Difference(name, "class", told)


def _added(table: str, column: Column) -> Difference:
    told = f"new, {type_of(column)}"
    if column.key:
        return Difference(table, f"column {column.name}", f"{told}, in the key", automatic=False)
    if column.default is MISSING:
        told += ", without a default for the rows there are"
        return Difference(table, f"column {column.name}", told, automatic=False)
    return Difference(table, f"column {column.name}", f"{told}, filled with {column.default!r}")


def _column(table: str, old: Column, new: Column) -> Iterator[Difference]:
    what = f"column {new.name}"
    if type_of(old) != type_of(new):
        told = f"{type_of(old)} -> {type_of(new)}"
        yield Difference(table, what, told, automatic=_converts(old, new))
    moved = _renumbered(old, new)
    if moved:
        yield Difference(table, what, moved, automatic=False)
    elif old.value.is_enum and new.value.is_enum and _members(old) != _members(new):
        told = f"members {_list(_members(old))} -> {_list(_members(new))}"
        yield Difference(table, what, told)
    if old.auto != new.auto:
        told = "key(auto=True) -> key()" if old.auto else "key() -> key(auto=True)"
        yield Difference(table, what, told)
    if old.reference != new.reference:
        told = f"reference to {old.reference or 'nothing'} -> {new.reference or 'nothing'}"
        yield Difference(table, what, told)
    if old.default != new.default:
        told = f"default {_default(old)} -> {_default(new)}, for new rows"
        yield Difference(table, what, told)


def _converts(old: Column, new: Column) -> bool:
    """Whether values become the new type by themselves, as long as they are within its bounds."""
    if old.kind != new.kind:
        return False
    if old.value.unit != new.value.unit or old.value.scaled != new.value.scaled:
        return False
    if new.kind == "float":
        return new.bits >= old.bits
    return new.kind != "data" or old.size_bytes == new.size_bytes


def _renumbered(old: Column, new: Column) -> str:
    """Names of an enum that stand for other numbers now; "" for none."""
    if not (old.value.is_enum and new.value.is_enum):
        return ""
    before, after = ({m.name: int(m) for m in c.value.base} for c in (old, new))
    moved = [f"{n} = {v} -> {after[n]}" for n, v in before.items() if after.get(n, v) != v]
    return f"members have other numbers: {', '.join(moved)}" if moved else ""


def _indexes(old: TableSpec, new: TableSpec) -> Iterator[Difference]:
    before = {i.name: (tuple(_names(i.columns)), i.unique) for i in old.indexes}
    after = {i.name: (tuple(_names(i.columns)), i.unique) for i in new.indexes}
    for name, index in after.items():
        if name not in before:
            yield Difference(new.name, f"index {name}", f"new, {_index(*index)}")
        elif before[name] != index:
            told = f"{_index(*before[name])} -> {_index(*index)}"
            yield Difference(new.name, f"index {name}", told)
    for name in before:
        if name not in after:
            yield Difference(new.name, f"index {name}", "removed")


def type_of(column: Column) -> str:
    """A column's type as it is written in code, or nearly."""
    value = column.value
    marks = []
    name = value.base.__name__
    if column.kind in ("text", "data"):
        name = f"{column.kind}({column.size_bytes})"
    elif column.kind == "int" and value.unit is not None:
        name = value.unit.name.capitalize()
    elif column.kind == "int" and not value.is_enum and (column.bits < 64 or not column.signed):
        name = f"{'i' if column.signed else 'u'}{column.bits}"
    elif column.kind == "float" and column.bits < 64:
        name = f"f{column.bits}"
    elif value.is_enum and column.bits < 64:
        marks.append(f"{column.bits} bits")
    if value.scaled is not None:
        marks.append(f"scaled({value.scaled.digits})")
    if value.between is not None:
        marks.append(f"between({value.between.low}, {value.between.high})")
    return " ".join([name, *marks]) + (" | None" if column.optional else "")


def _index(columns: Sequence[str], unique: bool) -> str:
    return f"{'unique' if unique else 'ordered'}({_list(columns)})"


def _members(column: Column) -> list[str]:
    """In the order of their numbers: stored ones have lost that of their declaration."""
    return [f"{member.name} = {int(member)}" for member in sorted(column.value.base)]


def _default(column: Column) -> str:
    return "none" if column.default is MISSING else repr(column.default)


def _names(columns: Sequence[Column]) -> list[str]:
    return [column.name for column in columns]


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)
