"""A region against a checkpoint, byte for byte: which words differ, and what they are.

Every page of the checkpoint is compared, whole: nothing is left out, since what may differ between
two runs (the stamp of page 0) is in none. Only where the log was written on a machine that computes
floats otherwise (`exact` is false), floats in columns may be a few units of the last place apart,
and structures made of floats or of answers are not compared, which is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from diptych.durable import Checkpoint, read_pages, verify_pages
from diptych.durable.pages import Advance
from diptych.engine import places
from diptych.engine.places import Part, Places, Role
from diptych.memory import Extent, Region
from diptych.memory.layout import Words
from diptych.schema import Column
from diptych.store.layout import Layout, TableLayout
from diptych.store.transfer import read_words
from diptych.store.words import PAGE_WORDS

TOLD_MAX = 5
"""Differences of one part that are told one by one."""
LOOKED_MAX = 4096
"""Words of one part that are looked at for that."""
ULPS = 16
"""How far apart floats may be that two machines computed, in units of the last place."""


@dataclass(frozen=True)
class Difference:
    """One place. `table`, `column`, `row` (its place) and `key` where it is a value of a row, else
    "", "", -1 and "". `stored` is in the checkpoint, `again` is what the replay came to.
    """

    where: str
    stored: str
    again: str
    table: str = ""
    column: str = ""
    row: int = -1
    key: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.stored} in the checkpoint, {self.again} when run again"


@dataclass
class Compared:
    """`words`: how many differ, in all. `unlike`: parts and how many words of each."""

    pages: int = 0
    words: int = 0
    unlike: dict[str, int] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)
    not_compared: list[str] = field(default_factory=list)


def compare(
    region: Region, layout: Layout, checkpoint: Checkpoint, advance: Advance, *, exact: bool = True
) -> Compared:
    """Errors: CorruptionError, CheckpointReplaced, AllocationFailed, OSError."""
    found: list[npt.NDArray[np.int64]] = []

    def look(piece: Extent, data: memoryview) -> None:
        first = piece.start * PAGE_WORDS
        stored = np.frombuffer(data, np.int64)
        differs = np.flatnonzero(stored != region.words[first : first + len(stored)])
        if len(differs):
            found.append(differs + first)

    manifest = verify_pages(checkpoint, advance, look=look)
    compared = Compared(manifest.page_count)
    if not found:
        return compared
    differing = np.concatenate(found)
    with Region.create(region.size_bytes, name="stored") as stored:
        read_pages(checkpoint, stored, lambda _: None)
        _name(compared, layout, differing, stored.words, region.words, exact=exact)
    return compared


def _name(
    compared: Compared,
    layout: Layout,
    differing: npt.NDArray[np.int64],
    stored: Words,
    again: Words,
    *,
    exact: bool,
) -> None:
    all_places = Places(layout)
    numbers = np.searchsorted(np.array(all_places.starts()), differing, side="right") - 1
    parts = [all_places.parts[int(number)] for number in np.unique(numbers)]
    for part in sorted(parts, key=lambda part: part.role.value):
        words = differing[numbers == all_places.parts.index(part)]
        if not exact and part.holds_floats:
            if part.column is None:
                compared.not_compared.append(part.name)
                continue
            words = _apart(part.column, words, stored, again)
        if not len(words):
            continue
        compared.words += len(words)
        compared.unlike[part.name] = compared.unlike.get(part.name, 0) + len(words)
        told = _told(part, words[:LOOKED_MAX].tolist(), stored, again)
        compared.differences += told


def _apart(
    column: Column, differing: npt.NDArray[np.int64], stored: Words, again: Words
) -> npt.NDArray[np.int64]:
    """Those of the words of a float column that are further apart than two machines may be."""
    before, after = (_in_order(words[differing], column.bits) for words in (stored, again))
    high, low = np.maximum(before, after), np.minimum(before, after)
    far = high.view(np.uint64) - low.view(np.uint64) > ULPS
    return differing[far.reshape(len(differing), -1).any(axis=1)]


def _in_order(words: Words, bits: int) -> Words:
    """The floats of some words as integers in the same order, so that neighbours are 1 apart."""
    floats = words if bits == 64 else words.view(np.int32).astype(np.int64)
    lowest = np.int64(-1 << (bits - 1))
    return np.where(floats < 0, lowest - floats, floats)


def _told(part: Part, words: Iterable[int], stored: Words, again: Words) -> list[Difference]:
    told: dict[str, Difference] = {}
    for word in words:
        for difference in _of_word(part, word, stored, again):
            told.setdefault(difference.where, difference)
            if len(told) == TOLD_MAX:
                return list(told.values())
    return list(told.values())


def _of_word(part: Part, word: int, stored: Words, again: Words) -> Iterator[Difference]:
    if part.column is not None and part.table is not None:
        for row in places.rows_at(part, word):
            if row < part.table.capacity and _differs(part.table, part.column, row, stored, again):
                yield _of_value(part.table, part.column, row, stored, again)
        return
    if part.role is Role.HEAP and part.table is not None and word >= part.table.heap:
        for words in (stored, again):
            owner = places.owner_at(words, part, word)
            if owner is not None:
                yield _of_value(part.table, *owner, stored, again)
                return
    where = places.told(part, word)
    yield Difference(where, f"{int(stored[word]):#x}", f"{int(again[word]):#x}")


def _differs(table: TableLayout, column: Column, row: int, stored: Words, again: Words) -> bool:
    """Whether it is this row's part of a word that differs."""
    numbers = range(column.first_word, column.first_word + column.all_words)
    rows = np.array([row])
    return any(
        read_words(stored, table, number, rows)[0] != read_words(again, table, number, rows)[0]
        for number in numbers
    )


def _of_value(
    table: TableLayout, column: Column, row: int, stored: Words, again: Words
) -> Difference:
    before = places.value_shown(stored, table, column, row)
    after = places.value_shown(again, table, column, row)
    if before == after:
        after = "the same with other bytes, or elsewhere,"
    keys = (places.key_at(words, table, row) for words in (stored, again))
    key = next((places.shown(each) for each in keys if each is not None), "")
    which = f"row {row}, key {key}" if key else f"row {row}"
    name = table.spec.name
    where = f"table {name}, column {column.name}, {which}"
    return Difference(where, before, after, name, column.name, row, key)
