"""How full tables are: the figures, and the warnings before they are."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from diptych import App, Db, key, ordered
from diptych.engine.engine import Engine, layout_bytes
from diptych.engine.fill_watch import LOOK_NS, FillWatch
from diptych.memory import Region
from diptych.store import layout as layouts
from diptych.store import words as at
from diptych.store.database import SCRATCH_BYTES
from diptych.store.fill import table_figures

app = App("stock")


@app.table(capacity=1_000)
class Item:
    id: int = key()
    size: int = 0
    by_size = ordered("size")


@app.table(capacity=3)
class Bay:
    id: int = key()


def fill(db: Db, first: int, last: int) -> None:
    for number in range(first, last):
        db.item.insert(id=number, size=-number)


def clear(db: Db, first: int) -> None:
    for row in db.item:
        if row.id >= first:
            db.item.delete(row)


@pytest.fixture(name="engine")
def _engine() -> Iterator[Engine]:
    region = Region.create(layout_bytes(app), scratch_bytes=SCRATCH_BYTES)
    yield Engine.create(app, region, grow=region.allocate, history=1)
    region.close()


def figures(engine: Engine) -> dict[str, Any]:
    return table_figures(engine.region.words, engine.layout)


def test_figures(engine: Engine) -> None:
    empty = {"entries": 0, "nodes": 0, "memory_bytes": 4096}
    assert figures(engine)["item"] == {
        "rows": 0,
        "capacity": 1_000,
        "fill": 0.0,
        "allocated_rows": 512,
        "memory_bytes": 6 * 4096,  # live, chain, buckets, two columns, a page of nodes
        "indexes": {"by_size": empty},
    }
    engine.transact(fill, 0, 600)
    item = figures(engine)["item"]
    assert (item["rows"], item["fill"], item["allocated_rows"]) == (600, 0.6, 1_000)
    index = item["indexes"]["by_size"]
    assert index["entries"] == 600
    assert 600 / 63 <= index["nodes"] <= index["memory_bytes"] / 1024
    assert item["memory_bytes"] == 5 * 2 * 4096 + index["memory_bytes"]
    total = sum(extent.page_count for extent in engine.extents()) * 4096
    told = sum(table["memory_bytes"] for table in figures(engine).values())
    assert told == total - engine.layout.system.page_count * 4096


def test_the_fuller_of_rows_and_heap_counts(caplog: pytest.LogCaptureFixture) -> None:
    notes = App("notes")

    @notes.table(capacity=100, heap_bytes=1 << 20)
    class Note:
        id: int = key()
        words: str = ""

    layout = layouts.of_app(notes)
    words = np.zeros(layout.size_bytes // 8, np.int64)
    layout.format(words, history=1, seed=2)
    (table,) = layout.tables
    words[table.descriptor + at.T_HEAP_ALLOCATED] = 1024
    words[table.heap_state + at.H_USED] = 600
    words[table.heap_state + at.H_FREE] = 24
    words[table.state + at.ROW_COUNT] = 0
    told = table_figures(words, layout)["note"]
    assert told["heap"] == {
        "used_bytes": 4800,
        "free_bytes": 192,
        "capacity_bytes": 1 << 20,
        "memory_bytes": 8192,
    }
    assert (told["fill"], told["memory_bytes"]) == (round(4800 / (1 << 20), 4), 8192)
    words[table.heap_state + at.H_USED] = table.heap_words * 9 // 10
    with caplog.at_level(logging.WARNING, "diptych.engine"):
        FillWatch(words, layout).look_at(table)
    assert "table note is 90 % full (heap)" in caplog.text
    assert "raise [tables.note] heap_bytes" in caplog.text


def test_warnings_come_once_a_level(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    def said(now_s: float) -> str:
        caplog.clear()
        engine.fill.look_at_times(int(now_s * LOOK_NS))
        return caplog.text

    with caplog.at_level(logging.WARNING, "diptych.engine"):
        assert said(1) == ""
        engine.transact(fill, 0, 810)
        assert said(1.9) == "", "not that often"
        assert "table item is 81 % full (rows)" in said(2)
        assert said(3) == ""
        engine.transact(fill, 810, 960)
        assert "96 % full" in said(4)
        assert "raise [tables.item] capacity" in caplog.text
        engine.transact(clear, 750)
        assert said(5) == ""
        engine.transact(fill, 750, 960)
        assert said(6) == "", "it was never clearly emptier"
        engine.transact(clear, 600)
        assert said(7) == ""
        engine.transact(fill, 600, 990)
        assert "99 % full" in said(8)


def test_what_is_meant_to_be_full_is_not_told(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    def bays(db: Db) -> None:
        for number in range(3):
            db.bay.insert(id=number)

    with caplog.at_level(logging.WARNING, "diptych.engine"):
        engine.transact(bays)
        engine.fill.look_at_times(LOOK_NS)
    assert caplog.text == ""


def test_a_table_that_is_given_memory_is_looked_at(caplog: pytest.LogCaptureFixture) -> None:
    small = App("small")
    small.table(capacity=600)(Item)
    region = Region.create(layout_bytes(small), scratch_bytes=SCRATCH_BYTES)
    engine = Engine.create(small, region, grow=region.allocate, history=1)
    with caplog.at_level(logging.WARNING, "diptych.engine"):
        for number in range(520):
            engine.transact(fill, number, number + 1)
    assert "table item is 85 % full (rows)" in caplog.text
    region.close()
