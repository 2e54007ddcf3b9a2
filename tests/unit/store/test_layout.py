"""Where things lie: arithmetic of ranges, growth, and the header that names the schema."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import numpy as np
import pytest
from tests.support.club import app

from diptych import App, key, text
from diptych.errors import ConfigurationError, CorruptionError
from diptych.memory.layout import PAGE_BYTES, PAGE_WORDS, Extent
from diptych.schema import TableSpec
from diptych.store import layout as layouts
from diptych.store import words as at
from diptych.store.layout import Layout, plan

SPECS = list(app.tables.values())


def ranges(layout: Layout) -> list[tuple[int, int]]:
    """First word and end of everything that has a place of its own, at full capacity."""
    found = [(PAGE_WORDS, layout.system_pages * PAGE_WORDS)]
    for table in layout.tables:
        for each in table.ranges:
            found.append((each.start, each.start + each.pages(table.capacity) * PAGE_WORDS))
        for index in table.indexes:
            found.append((index.nodes, index.nodes + index.nodes_max * at.NODE_WORDS))
        if table.heap_words:
            found.append((table.heap, table.heap + table.heap_words))
    return sorted(found)


@pytest.mark.parametrize("capacity", [1, 7, 8, 9, 511, 512, 513, 100_000])
def test_ranges_are_page_aligned_and_apart(capacity: int) -> None:
    layout = plan(SPECS, dict.fromkeys(app.tables, capacity))
    found = ranges(layout)
    for (_, stop), (start, _) in pairwise(found):
        assert start % PAGE_WORDS == 0
        assert stop <= start
    assert found[-1][1] * 8 <= layout.size_bytes
    assert layout.size_bytes % PAGE_BYTES == 0
    assert layout.scratch_word * 8 == layout.size_bytes


def test_states_and_descriptors_are_in_the_system_pages() -> None:
    layout = plan(SPECS)
    states = [t.state for t in layout.tables] + [i.state for t in layout.tables for i in t.indexes]
    descriptors = [table.descriptor for table in layout.tables]
    assert len(set(states)) == len(states)
    assert min(states) == 2 * PAGE_WORDS
    assert max(states) + at.STATE_WORDS <= min(descriptors)
    step = PAGE_WORDS * at.DESCRIPTOR_PAGES
    assert descriptors == [min(descriptors) + step * i for i in range(len(descriptors))]
    assert layout.system == Extent(1, layout.system_pages)


def test_words_of_wide_columns_are_neighbours() -> None:
    person = plan(SPECS).tables[0]
    name = person.spec.by_name["name"]
    assert name.words == 3
    bases = person.bases[name.first_word : name.first_word + 3]
    assert bases == (bases[0], bases[0] + 1, bases[0] + 2)
    assert person.strides[name.first_word] == 3


def test_capacities_from_outside_outrank_the_code() -> None:
    layout = plan(SPECS, {"person": 9})
    assert [table.capacity for table in layout.tables][:2] == [9, 5_000]
    with pytest.raises(ConfigurationError, match=r"'persn' that does not exist; did you mean 'per"):
        plan(SPECS, {"persn": 9})
    for wrong in (0, -1, 2**40):
        with pytest.raises(ConfigurationError, match="capacity of person must be 1 to"):
            plan(SPECS, {"person": wrong})


def test_an_application_without_tables() -> None:
    layout = plan([])
    words = np.zeros(layout.size_bytes // 8, np.int64)
    layout.format(words, history=1, seed=2)
    layout.check(words)
    assert layout.extents(words) == [layout.system]


@pytest.mark.parametrize("capacity", [1, 100, 512, 513, 5_000_000])
def test_growth_leaves_little_unused_and_ends_at_the_capacity(capacity: int) -> None:
    (table, *_) = plan(SPECS, {"person": capacity}).tables
    rows, steps = 0, []
    while rows < capacity:
        rows = layouts.table_growth(table, rows)
        steps.append(rows)
    assert steps[0] == min(512, capacity)
    assert steps[-1] == capacity == layouts.table_growth(table, capacity)
    for a, b in pairwise(steps):
        assert b <= (2 if a < layouts.ROWS_SMALL else 1.25) * a
        assert b - a <= layouts.ROWS_STEP_MAX
    assert len(steps) < 40, "each costs a system call for every column"
    index, nodes, steps = table.indexes[0], 0, []
    while nodes < index.nodes_max:
        nodes = layouts.index_growth(index, nodes)
        steps.append(nodes)
    assert steps[0] == 4
    assert all(b <= 1.25 * a for a, b in pairwise(steps) if a >= layouts.NODES_SMALL)
    assert index.nodes_max == layouts.index_growth(index, index.nodes_max)


def test_each_page_is_added_once() -> None:
    (table, *_) = plan(SPECS).tables
    seen: set[int] = set()
    rows = 0
    while rows < table.capacity:
        more = layouts.table_growth(table, rows)
        for extent in layouts.table_extents(table, rows, more):
            pages = set(range(*extent))
            assert not pages & seen
            seen |= pages
        rows = more
        for each in table.ranges:
            first = each.start // PAGE_WORDS
            assert {first, first + each.pages(rows) - 1} <= seen
    assert layouts.table_extents(table, rows, rows) == []
    index = table.indexes[0]
    page = index.nodes // PAGE_WORDS
    assert layouts.index_extents(index, 0, 4) == [Extent(page, page + 1)]
    assert layouts.index_extents(index, 4, 4) == []


def test_extents_tell_what_has_memory() -> None:
    layout = plan(SPECS)
    words = np.zeros(layout.size_bytes // 8, np.int64)
    layout.format(words, history=1, seed=2)
    assert layout.extents(words) == [layout.system]
    table = layout.tables[0]
    words[table.descriptor + at.T_ALLOCATED] = 600
    words[table.indexes[0].descriptor + at.X_NODES_ALLOCATED] = 4
    pages = sum(extent.page_count for extent in layout.extents(words)) - layout.system.page_count
    assert pages == sum(each.pages(600) for each in table.ranges) + 1


def specs(size_bytes: int = 8) -> list[TableSpec]:
    other = App("other")

    @other.table(capacity=10)
    class Thing:
        id: int = key()
        name: Annotated[str, text(8)] = ""

    Thing.__annotations__["name"] = Annotated[str, text(size_bytes)]
    again = App("other")
    again.table(capacity=10)(Thing)
    return list(again.tables.values())


def test_memory_of_another_schema_is_refused() -> None:
    layout = plan(specs())
    words = np.zeros(layout.size_bytes // 8, np.int64)
    with pytest.raises(CorruptionError, match="does not begin with a Diptych header"):
        layout.check(words)
    layout.format(words, history=7, seed=8)
    layout.check(words)
    plan(specs()).check(words)
    for other in (plan(specs(7)), plan(specs(), {"thing": 11}), plan([])):
        with pytest.raises(CorruptionError, match="another schema or other capacities"):
            other.check(words)
    assert (words[at.HISTORY], words[at.SEED], words[at.TABLE_COUNT]) == (7, 8, 1)


def test_the_schema_can_be_read_from_the_memory() -> None:
    layout = plan(specs())
    words = np.zeros(layout.size_bytes // 8, np.int64)
    layout.format(words, history=7, seed=8)
    start, size = int(words[at.SCHEMA_AT]) * 8, int(words[at.SCHEMA_WORDS])
    assert words.tobytes()[start : start + size] == layout.schema
    assert b'"thing"' in layout.schema
