"""Imports by system operations: chunks, the last step, refusals, and what they leave behind."""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from tests.support import everything
from tests.support.bulk import chunk, data_bytes, load, raw_of, system

from diptych import App, Rejected, between, key, ordered, ref, text, unique
from diptych.errors import HeapFull
from diptych.store import words as at
from diptych.store.staging import CHUNK_ROWS_MAX
from diptych.testing import Bench
from diptych_client.errors import BadArguments

app = App("yard")


class Kind(IntEnum):
    PLAIN = 1
    FANCY = 5


@app.table(capacity=50)
class Shop:
    id: int = key()


@app.table(capacity=3000)
class Item:
    id: int = key(auto=True)
    shop: int | None = ref(Shop)
    kind: Kind = Kind.FANCY
    share: Annotated[int, between(0, 100)] = 7
    weight: float = 1.5
    code: Annotated[str, text(9)] = "none"
    note: str = "a note"
    spare: int | None = 3
    by_kind = ordered("kind", "share")
    by_code = unique("code", "id")
    by_note = unique("share", "spare")


@app.table(capacity=2000, heap_bytes=1 << 20)
class Page:
    id: int = key()
    body: str
    other: bytes = b"default bytes"


@app.table(capacity=40)
class Few:
    id: int = key()


COLUMNS = app.tables["item"].by_name


@pytest.fixture
def bench():
    with app.open(now=10**18) as bench:
        with bench.transaction() as db:
            for number in range(3):
                db.shop.insert(id=number)
        yield bench


def item(number: int, **columns: Any) -> dict[str, Any]:
    return {"id": number, "shop": number % 3, "code": f"c{number}", "spare": number} | columns


def refused(bench: Bench, rows: list[dict[str, Any]], code: str) -> dict[str, Any]:
    """Details of the refusal of the last step, which must leave no trace but what is staged."""
    token = load(bench, "item", rows, commit=False)
    before = data_bytes(bench)
    with pytest.raises(Rejected) as no:
        system(bench, "import_commit", token)
    assert data_bytes(bench) == before
    bench.verify()
    assert no.value.code == code
    assert system(bench, "import_abort", token) == len(rows)
    assert data_bytes(bench) == before
    return no.value.details


def test_rows_become_visible_at_once(bench: Bench) -> None:
    rows = [item(number) for number in range(1, 1001)]
    token = load(bench, "item", rows, commit=False)
    assert len(bench.db.item) == 0
    assert bench.db.item.by_kind.first() is None
    assert system(bench, "import_status")["running"] == {"table": "item", "rows": 1000, "age_s": 0}
    assert system(bench, "import_commit", token) == 1000
    bench.verify()
    assert len(bench.db.item) == 1000
    row = bench.db.item[77]
    assert (row.shop, row.kind, row.share, row.code) == (2, Kind.FANCY, 7, "c77")
    assert (row.note, row.spare, row.weight) == ("a note", 77, 1.5)
    assert [r.id for r in bench.db.item.by_code.range("c500")] == [500]
    assert system(bench, "import_status") == {"running": None, "committed": token}


def test_into_a_table_with_rows_and_holes(bench: Bench) -> None:
    load(bench, "item", [item(number) for number in range(1, 400)])
    with bench.transaction() as db:
        for number in range(1, 400, 3):
            db.item.delete(db.item[number])
    load(bench, "item", [item(number) for number in range(1000, 1700)])
    bench.verify()
    assert len(bench.db.item) == 266 + 700
    assert bench.db.item[1699].note == "a note"
    with bench.transaction() as db:
        assert db.item.insert(spare=None).id == 1700  # the counter has moved on


def test_auto_keys_are_counted_on(bench: Bench) -> None:
    load(bench, "item", [{"code": f"x{n}", "spare": n} for n in range(20)])
    assert sorted(row.id for row in bench.db.item) == list(range(1, 21))
    assert {row.shop for row in bench.db.item} == {None}


def test_a_refused_last_step_undoes_every_byte(bench: Bench) -> None:
    load(bench, "item", [item(number) for number in range(1, 600)])
    fresh = [item(number) for number in range(1000, 1900)]
    details = refused(bench, [*fresh, item(5, spare=9999)], "duplicate_key")
    assert details == {"table": "item", "row": 901, "key": 5}
    details = refused(bench, [*fresh, item(2000, shop=44, spare=9999)], "not_found")
    assert details == {"table": "shop", "row": 901, "column": "shop", "key": 44}
    details = refused(bench, [*fresh, item(2000, spare=1500)], "not_unique")
    assert details == {"table": "item", "row": 901, "index": "by_note"}
    details = refused(bench, [item(7000), *fresh, item(7000, spare=9999)], "duplicate_key")
    assert details == {"table": "item", "row": 902, "key": 7000}
    load(bench, "item", fresh)
    bench.verify()


def test_none_is_never_a_duplicate(bench: Bench) -> None:
    load(bench, "item", [item(number, spare=None) for number in range(1, 50)])
    assert len(bench.db.item) == 49


@pytest.mark.parametrize(
    ("column", "value", "limit"),
    [
        ("share", 101, "0 to 100"),
        ("share", -1, "0 to 100"),
        ("kind", 2, "a member of Kind"),
        ("code", "ten bytes.", "at most 9 bytes of UTF-8"),
        ("code", "a\0b", "text without a zero character"),
    ],
)
def test_a_value_that_does_not_fit_names_its_row(
    bench: Bench, column: str, value: Any, limit: str
) -> None:
    token = system(bench, "import_begin", "item")
    rows = [item(number, **{column: COLUMNS[column].default}) for number in range(1, 20)]
    system(bench, "import_rows", token, 0, 19, chunk(COLUMNS, rows))
    rows[4][column] = value
    before = data_bytes(bench)
    with pytest.raises(Rejected) as no:
        system(bench, "import_rows", token, 19, 19, chunk(COLUMNS, rows))
    told = no.value.details
    assert (no.value.code, told["row"], told["column"], told["limit"]) == (
        "bad_value",
        24,
        column,
        limit,
    )
    assert system(bench, "import_status")["running"]["rows"] == 19
    assert data_bytes(bench) == before


def test_bytes_that_are_no_text_are_refused(bench: Bench) -> None:
    token = system(bench, "import_begin", "item")
    for name, wrong in (("code", b"\xff"), ("note", b"ok \xc3"), ("note", b"\xa9")):
        columns = chunk(COLUMNS, [item(1), item(2)])
        raw = raw_of(COLUMNS[name], ["é", wrong])
        values = raw.values.tobytes()
        lengths = b"" if raw.offsets is None else np.diff(raw.offsets).astype("<u4").tobytes()
        columns = [c for c in columns if c[0] != name] + [[name, values, b"", lengths]]
        with pytest.raises(Rejected) as no:
            system(bench, "import_rows", token, 0, 2, columns)
        assert (no.value.details["row"], no.value.details["column"]) == (2, name)
    # Two values that are text together and not alone.
    columns = chunk(COLUMNS, [item(1), item(2)])
    columns.append(["note", "é".encode(), b"", np.array([1, 1], "<u4").tobytes()])
    with pytest.raises(Rejected, match="UTF-8"):
        system(bench, "import_rows", token, 0, 2, columns)


def test_one_zero_and_one_nan(bench: Bench) -> None:
    nan = np.array([0xFFF8000000000001, 0x7FF8000000000000, 1 << 63], np.uint64).tobytes()
    token = system(bench, "import_begin", "item")
    columns = chunk(COLUMNS, [item(1), item(2), item(3)])
    system(bench, "import_rows", token, 0, 3, [*columns, ["weight", nan, b"", b""]])
    system(bench, "import_commit", token)
    layout = bench.db.item.layout
    start = layout.bases[COLUMNS["weight"].first_word]
    words = bench._engine.db.space.words[start : start + 3]
    assert words[0] == words[1] == 0x7FF8000000000000
    assert words[2] == 0


def test_chunks_that_do_not_hold_together(bench: Bench) -> None:
    token = system(bench, "import_begin", "item")
    good = chunk(COLUMNS, [item(1), item(2)])
    by_name = {column[0]: column for column in good}

    def wrong(first: int, rows: int, columns: Any, match: str) -> None:
        with pytest.raises((BadArguments, Rejected), match=match):
            system(bench, "import_rows", token, first, rows, columns)
        assert system(bench, "import_status")["running"]["rows"] == 0

    wrong(1, 2, good, "import_out_of_step")
    wrong(0, 0, good, "rows must be 1")
    wrong(0, CHUNK_ROWS_MAX + 1, [], "rows must be 1 to 1048576")
    wrong(0, 3, good, "take|bitmap")
    wrong(0, 2, [*good, ["colour", b"", b"", b""]], "no column 'colour'")
    wrong(0, 2, [["id", b"\0" * 16, b"", b"x"]], "16 bytes")
    wrong(0, 2, [[*by_name["spare"][:2], b"", b""]], "bitmap")
    wrong(0, 2, [["note", b"abc", b"", b"\1\0\0\0\1\0\0\0"]], "differ")
    wrong(0, 2, [["note", b"abc", b"", b"\1\0\0\0"]], "differ")
    with pytest.raises(BadArguments, match="no table 'itm'; did you mean 'item'"):
        system(bench, "import_begin", "itm")
    token = system(bench, "import_begin", "few", True)
    with pytest.raises(BadArguments, match="column id is missing"):
        system(bench, "import_rows", token, 0, 1, [])


def test_one_import_at_a_time(bench: Bench) -> None:
    first = load(bench, "item", [item(1), item(2)], commit=False)
    bench.advance(seconds=90)
    with pytest.raises(Rejected) as no:
        system(bench, "import_begin", "shop")
    assert no.value == Rejected("import_running", table="item", rows=2, age_s=90)
    second = system(bench, "import_begin", "shop", True)
    for name, *arguments in (
        ("import_rows", first, 2, 1, chunk(COLUMNS, [item(3)])),
        ("import_commit", first),
    ):
        with pytest.raises(Rejected) as no:
            system(bench, name, *arguments)
        assert no.value == Rejected("import_lost", token=first)
    assert system(bench, "import_abort", first) == 0
    assert system(bench, "import_status")["running"]["table"] == "shop"
    assert second > first
    assert system(bench, "import_abort") == 0
    assert system(bench, "import_status")["running"] is None


def test_more_rows_than_the_table_takes(bench: Bench) -> None:
    token = system(bench, "import_begin", "few")
    few = app.tables["few"].by_name
    system(bench, "import_rows", token, 0, 30, chunk(few, [{"id": n} for n in range(30)]))
    with pytest.raises(Rejected, match="table_full"):
        system(bench, "import_rows", token, 30, 30, chunk(few, [{"id": n} for n in range(30)]))
    with bench.transaction() as db:
        for number in range(100, 120):
            db.few.insert(id=number)
    with pytest.raises(Rejected, match="table_full"):
        system(bench, "import_commit", token)
    system(bench, "import_abort")
    load(bench, "few", [{"id": n} for n in range(20)])
    assert len(bench.db.few) == 40


def test_memory_is_there_before_the_last_step(bench: Bench, monkeypatch: Any) -> None:
    rows = [item(number, note="x" * (number % 90)) for number in range(1, 2001)]
    token = load(bench, "item", rows, commit=False)
    monkeypatch.setattr(bench._engine.growth, "give", None)  # not to be called
    assert system(bench, "import_commit", token) == 2000
    assert bench.db.item[1999].note == "x" * (1999 % 90)
    bench.verify()


def pages(start: int, stop: int, size: int) -> list[dict[str, Any]]:
    return [{"id": n, "body": f"{n:04}" * (size // 4)} for n in range(start, stop)]


def test_a_heap_in_pieces_is_put_together(bench: Bench) -> None:
    load(bench, "page", pages(0, 900, 800))
    with bench.transaction() as db:
        for number in range(0, 900, 2):
            db.page.delete(db.page[number])
    load(bench, "page", pages(1000, 1100, 3000))
    bench.verify()
    assert len(bench.db.page) == 450 + 100
    assert bench.db.page[1099].body == "1099" * 750
    assert bench.db.page[899].body == "0899" * 200
    assert {row.other for row in bench.db.page} == {b"default bytes"}


def test_more_bytes_than_the_heap_takes(bench: Bench) -> None:
    load(bench, "page", pages(0, 200, 4000))
    before = data_bytes(bench)
    token = load(bench, "page", pages(1000, 1200, 4000), commit=False)
    with pytest.raises(Rejected) as no:
        system(bench, "import_commit", token)
    assert no.value == HeapFull("page", 1 << 20)
    system(bench, "import_abort")
    bench.verify()
    assert len(data_bytes(bench)) >= len(before)
    assert len(bench.db.page) == 200
    token = system(bench, "import_begin", "page")
    columns = app.tables["page"].by_name
    for first in (0, 100):
        rows = chunk(columns, pages(first, first + 100, 4000))
        system(bench, "import_rows", token, first, 100, rows)
    with pytest.raises(Rejected, match="table_full"):
        system(bench, "import_rows", token, 200, 100, rows)


def test_staged_rows_outlive_the_writer(bench: Bench) -> None:
    token = load(bench, "item", [item(1), item(2)], commit=False)
    words = bench._engine.region.words
    assert words[at.STAGING_TOKEN] == token
    assert words[at.STAGING_ROWS] == 2
    assert bench._engine.db.space.scratch[at.S_UNDO_TOP] == 0


def test_another_transaction_may_come_between(bench: Bench) -> None:
    token = load(bench, "item", [item(n) for n in range(1, 101)], commit=False)
    with bench.transaction() as db:
        db.item.insert(id=500, code="mine", spare=1000)
        db.shop.insert(id=9)
    load_more = chunk(COLUMNS, [item(700, shop=9)])
    system(bench, "import_rows", token, 100, 1, load_more)
    system(bench, "import_commit", token)
    assert len(bench.db.item) == 102
    bench.verify()


numbers = some.integers(1, 60)
histories = some.lists(
    some.tuples(some.lists(numbers, min_size=1, max_size=40), numbers), min_size=1, max_size=8
)


@settings(max_examples=40, deadline=None)
@given(histories)
def test_an_import_is_the_inserts_it_stands_for(history: list[tuple[list[int], int]]) -> None:
    """Against transactions that insert the same rows one by one: outcome and contents."""
    with app.open(now=0) as bench, app.open(now=0) as plain:
        for ids, gone in history:
            rows = [item(number, shop=None) for number in ids]
            before = data_bytes(bench)
            try:
                with plain.transaction() as db:
                    for row in rows:
                        db.item.insert(**row)
                expected = None
            except Rejected as error:
                expected = error.code
            token = load(bench, "item", rows, step=7, commit=False)
            try:
                system(bench, "import_commit", token)
                found = None
            except Rejected as error:
                found = error.code
                assert len(data_bytes(bench)) >= len(before)
                system(bench, "import_abort")
            assert found == expected
            for each in (bench, plain):
                with each.transaction() as db:
                    row = db.item.get(gone)
                    if row is not None:
                        db.item.delete(row)
                each.verify()
            assert shown(bench) == shown(plain)


def shown(bench: Bench) -> list[tuple[Any, ...]]:
    return [(r.id, r.code, r.spare, r.note, r.kind) for r in bench.db.item.by_code.range()]


def test_every_type_comes_back(tmp_path: Any) -> None:
    rows = [everything.row(number) for number in range(1, 300)]
    with everything.app.open(now=0) as bench:
        load(bench, "owner", [{"id": n} for n in range(5)])
        load(bench, "thing", rows)
        bench.verify()
        for row in rows:
            found = bench.db.thing[row["id"]]
            for name, value in row.items():
                expected = float(np.float32(value)) if name == "rough" else value
                assert getattr(found, name) == expected, name
