"""What something keeps beyond its transaction or query ends with it."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from diptych import App, Db, key, ordered
from diptych.store import words as at
from diptych.store.faults import RangeLost, StaleRow
from diptych.testing import Bench
from diptych_client.errors import ServerError

app = App("keeper")
kept: list[Any] = []


@app.table(capacity=1000)
class Item:
    id: int = key()
    name: str = ""
    weight: float | None = None
    size: int = 0
    by_size = ordered("size")


@app.table(capacity=10)
class Other:
    id: int = key()


@app.transaction
def fill(db: Db, count: int) -> int:
    for number in range(count):
        db.item.insert(id=number, name=str(number), size=number + 1)
    return len(db.item)


@app.transaction
def keep(db: Db, what: str) -> int:
    if what == "row":
        kept.append(db.item[3])
    elif what == "range":
        kept.append(db.item.by_size.range())
        next(kept[-1])
    elif what == "iteration":
        kept.append(iter(db.item))
        next(kept[-1])
    elif what == "fresh range":
        kept.append(db.item.by_size.range())
    elif what == "selection":
        kept.append(db.item.columns())
    elif what == "view":
        db.item[3].size = -1
        kept.append(db.item.columns().size)
    elif what == "copy":
        kept.append(db.item.columns().size.copy())
    elif what == "error":
        kept.append(db.item[3])
        raise ZeroDivisionError
    return len(kept)


@app.transaction
def use(db: Db, what: str) -> Any:
    return USES[what](kept[-1], db)


@app.transaction
def renumber(db: Db) -> int:
    """Delete a row and put another one into its slot."""
    db.item.delete(db.item[3])
    return len(db.item)


@app.transaction
def add(db: Db, number: int) -> int:
    return int(db.item.insert(id=number, size=number).id)


@app.query
def look(db: Db, what: str) -> Any:
    if what == "keep":
        kept.append(db.item[3])
        return 1
    return kept[-1].id


def assign(row: Any, db: Db) -> None:
    row.size = 1


USES: dict[str, Any] = {
    "read": lambda row, db: row.size,
    "read text": lambda row, db: row.name,
    "read none": lambda row, db: row.weight,
    "assign": assign,
    "delete": lambda row, db: db.item.delete(row),
    "return": lambda row, db: row,
    "show": lambda row, db: repr(row),
    "next": lambda rows, db: next(rows).id,
    "list": lambda rows, db: [row.id for row in rows],
    "column": lambda selection, db: selection.size,
    "write": lambda selection, db: selection.write(size=1),
    "sum": lambda array, db: array.sum(),
}


@pytest.fixture(name="bench")
def _bench() -> Iterator[Bench]:
    kept.clear()
    with app.open(now=0, check=True) as bench:
        bench.fill(20)
        yield bench
    kept.clear()


def refuses(bench: Bench, what: str, caplog: pytest.LogCaptureFixture) -> str:
    caplog.clear()
    with pytest.raises(ServerError, match="use failed with StaleRow"):
        bench.use(what)
    return caplog.text


@pytest.mark.parametrize("what", ["read", "read text", "read none", "assign", "delete", "return"])
def test_a_row_ends_with_its_transaction(
    bench: Bench, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    bench.keep("row")
    text = "this row of item was deleted, or its transaction has ended"
    assert text in refuses(bench, what, caplog)
    assert text in refuses(bench, what, caplog)  # and stays so
    assert bench.use("show") == "<item: not a row any more>"


def test_a_kept_row_is_not_the_one_that_gets_its_slot(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.keep("row")
    bench.renumber()
    bench.add(300)
    refuses(bench, "read", caplog)
    assert bench.db.item[300].size == 300


def test_a_row_kept_by_a_transaction_that_failed(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ServerError, match="ZeroDivisionError"):
        bench.keep("error")
    refuses(bench, "read", caplog)


def test_what_keeps_rows_is_told_now_and_then(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "diptych.store"):
        for _ in range(3):
            bench.keep("row")
        bench.add(99)
    assert caplog.text.count("something keeps rows of Item") == 1


@pytest.mark.parametrize("what", ["range", "iteration"])
def test_a_range_ends_with_its_transaction(
    bench: Bench, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    bench.keep(what)
    assert "has ended" in refuses(bench, "next", caplog)
    assert bench.keep("row") == 2
    refuses(bench, "read", caplog)  # rows are still noticed, though the range is alive
    del kept[:]
    bench.keep("row")
    refuses(bench, "read", caplog)


def test_ranges_kept_take_no_cursors(bench: Bench) -> None:
    for _ in range(at.CURSORS + 5):
        bench.keep("range")
    del kept[:]
    bench.keep("fresh range")
    assert bench.use("list")[:3] == [0, 1, 2]  # begins with the transaction that uses it
    space = bench._engine.db.space
    assert (space.open_walks, space.lost_walks) == (0, 0)
    assert len(space._free_cursors) == at.CURSORS


def test_ranges_of_one_transaction_are_still_limited(bench: Bench) -> None:
    with bench.transaction() as db:
        ranges = [db.item.by_size.range() for _ in range(at.CURSORS + 1)]
        for each in ranges[:-1]:
            next(each)
        with pytest.raises(RangeLost, match="more than 64 ranges"):
            next(ranges[-1])


def test_a_selection_ends_with_its_transaction(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.keep("selection")
    for what in ("column", "write"):
        assert "the transaction or query of <20 rows of item> has ended" in refuses(
            bench, what, caplog
        )


def test_a_view_that_is_kept_undoes_its_transaction(bench: Bench) -> None:
    before = bench.fingerprint()
    with pytest.raises(ServerError, match="the transaction kept a view of the data beyond its end"):
        bench.keep("view")
    assert bench.fingerprint() == before
    assert bench.keep("copy") == 2  # the view is still there, and nothing fails for it again
    assert bench.use("sum") == sum(range(1, 21))


def test_a_row_ends_with_its_query(bench: Bench) -> None:
    assert bench.look("keep") == 1
    with pytest.raises(ServerError, match="look failed with StaleRow"):
        bench.look("use")


def test_rows_end_with_the_block_that_made_them(bench: Bench) -> None:
    with bench.transaction() as db:
        row = db.item[3]
        rows = iter(db.item)
        ranged = db.item.by_size.range()
        assert (next(rows).id, next(ranged).id) == (0, 0)
        array = db.item.columns().size
    with pytest.raises(StaleRow):
        _ = row.size
    for each in (rows, ranged):
        with pytest.raises(StaleRow, match="has ended"):
            next(each)
    # A view in the frame that made it is left alone: it shows the memory as it is.
    assert array[3] == 4
    with bench.transaction() as db:
        db.item[3].size = 40
    assert array[3] == 40


def test_rows_in_cycles_and_containers(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    class Holder:
        pass

    with bench.transaction() as db:
        holder = Holder()
        holder.row, holder.me = db.item[1], holder  # type: ignore[attr-defined]
        several = {"a": (db.item[2], [db.item[4]]), db.item[5]: 1}
    for row in (holder.row, several["a"][0], several["a"][1][0], list(several)[1]):  # type: ignore
        with pytest.raises(StaleRow):
            _ = row.id


def test_who_keeps_a_class_costs_no_more_than_once(bench: Bench) -> None:
    classes = [type(bench._engine.db.item.row)] + [bench._engine.db.item.row for _ in range(3)]
    lifetimes = bench._engine._lifetimes
    bench.add(50)
    assert lifetimes.alone == lifetimes.count()
    classes.clear()
    bench.add(51)
    assert lifetimes.alone == lifetimes.count()
    bench.keep("row")
    bench.add(52)
    with pytest.raises(StaleRow):
        _ = kept[-1].id


def test_nothing_is_looked_for_when_nothing_was_kept(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*generation: int) -> list[Any]:
        raise AssertionError("looked for rows")

    monkeypatch.setattr(gc, "get_objects", refuse)
    for number in range(30, 60):
        bench.add(number)
        with bench.transaction() as db:
            assert [row.id for row in db.item.by_size.range(start=3, stop=5)] == [2, 3]
            assert len(list(db.item)) == len(db.item)
            for row in db.item.by_size.range():
                assert row.id == 0
                break
            del row
    bench.keep("row")
    with pytest.raises(ServerError, match="add failed with AssertionError"):
        bench.add(1000)


def test_rows_of_the_bench_show_what_is_there(bench: Bench) -> None:
    """`bench.db` belongs to no transaction."""
    row = bench.db.item[3]
    assert row.size == 4
    with bench.transaction() as db:
        db.item[3].size = 9
    assert row.size == 9
    bench.renumber()
    with pytest.raises(StaleRow):
        _ = row.size


def test_reading_zeros_of_a_row_deleted_through_another_object(bench: Bench) -> None:
    with bench.transaction() as db:
        row, other = db.item[3], db.item[3]
        row.size, row.weight = 0, None
        assert (other.size, other.weight, other.name) == (0, None, "3")
        db.item.delete(other)
        for column in ("id", "name", "weight", "size"):
            with pytest.raises(StaleRow):
                getattr(row, column)
        assert repr(row) == "<item: not a row any more>"


def test_a_row_of_an_undone_insert(bench: Bench) -> None:
    before = sys.getrefcount(bench._engine.db.item.row)
    rows: list[Any] = []

    def insert() -> None:
        with bench.transaction() as db:
            rows.append(db.item.insert(id=500))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        insert()
    bench.fill(0)
    with pytest.raises(StaleRow):
        _ = rows[0].id
    after = sys.getrefcount(bench._engine.db.item.row)
    assert after == before
    assert np.array_equal(bench.db.item.columns().id, np.arange(20))
