"""Plain str and bytes in handlers: values, room for them, and what happens without."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from diptych import App, Db, Rejected, key, unique
from diptych.errors import ConfigurationError, HeapFull, TableFull
from diptych.schema import MISSING
from diptych.store import layout as layouts
from diptych.store import words as at
from diptych.testing import Bench

HEAP_BYTES = 1 << 20
app = App("notes")


@app.table(capacity=5000, heap_bytes=HEAP_BYTES)
class Note:
    id: int = key()
    code: int | None
    text: str = "new"
    raw: bytes = b""
    title: str | None
    data: bytes | None = b"\0"
    by_code = unique("code")


@app.transaction
def put(db: Db, number: int, size: int) -> int:
    """Replace a note by one of another size."""
    if number in db.note:
        db.note.delete(db.note[number])
    return len(db.note.insert(id=number, text="é" * (size // 2), raw=bytes(size)).raw)


@app.transaction
def put_and_refuse(db: Db, number: int, size: int) -> int:
    put(db, number, size)
    raise Rejected("no")


@app.query
def note(db: Db, number: int) -> Note:
    return db.note[number]  # type: ignore[no-any-return]


@pytest.fixture(name="bench")
def _bench() -> Iterator[Bench]:
    with app.open(now=0, check=True) as bench:
        yield bench


@pytest.fixture(name="db")
def _db(bench: Bench) -> Iterator[Any]:
    with bench.transaction() as db:
        yield db


VALUES: dict[str, list[Any]] = {
    "text": ["", "a", "a\0b", "é" * 4, "x" * 100_000, "\U0001f600"],
    "raw": [b"", b"\0", b"\0" * 9, bytes(range(256)) * 99],
    "title": [None, "", "a" * 8],
    "data": [None, b"", b"\xff" * 7],
}


@pytest.mark.parametrize("name", VALUES)
def test_values_come_back(db: Any, name: str) -> None:
    row, other = db.note.insert(id=1), db.note.insert(id=2, text="other", title="t")
    for value in [*VALUES[name], *reversed(VALUES[name])]:
        setattr(row, name, value)
        found = getattr(row, name)
        assert (found, type(found)) == (value, type(value))
        inserted = db.note.insert(id=3, **{name: value})
        assert getattr(inserted, name) == value
        db.note.delete(inserted)
        assert (other.text, other.title, other.raw, other.data) == ("other", "t", b"", b"\0")
    with pytest.raises(Rejected, match="bad_value"):
        setattr(row, name, 5)
    assert getattr(row, name) == VALUES[name][0]


def test_defaults(db: Any) -> None:
    row = db.note.insert(id=1)
    assert (row.text, row.raw, row.title, row.data) == ("new", b"", None, b"\0")
    assert repr(row) == "<note: id=1, code=None, text='new', raw=b'', title=None, data=b'\\x00'>"


@pytest.mark.parametrize(
    ("name", "value", "limit"),
    [
        ("text", b"a", "text"),
        ("text", None, "text"),
        ("text", "\ud800", "text that UTF-8 can hold"),
        ("raw", "a", "bytes"),
        ("raw", bytearray(b"a"), "bytes"),
        ("raw", None, "bytes"),
        ("raw", bytes(1 << 24), "at most 16777215 bytes"),
        ("title", 5, "text"),
        ("data", 5, "bytes"),
    ],
)
def test_what_does_not_fit(db: Any, name: str, value: Any, limit: str) -> None:
    row = db.note.insert(id=1)
    for change in (
        lambda: setattr(row, name, value),
        lambda: db.note.insert(id=2, **{name: value}),
    ):
        with pytest.raises(Rejected) as error:
            change()
        assert (error.value.code, error.value.details["limit"]) == ("bad_value", limit)
        assert len(str(error.value)) < 400
    assert len(db.note) == 1


def test_an_insert_that_fails_leaves_nothing_in_the_heap(bench: Bench) -> None:
    with bench.transaction() as db:
        db.note.insert(id=1, code=5, text="long enough for a block")
        db.note.insert(id=2, code=6)
    before = bench.fingerprint()
    state = bench._engine.layout.tables[0].heap_state
    used = bench._engine.db.space.ints[state + at.H_USED]
    with bench.transaction() as db:
        for wrong in (
            {"id": 1},  # the key is there
            {"id": 3, "code": 5},  # so is the code
            {"id": 3, "data": 5},
            {"id": 3, "title": "x" * 100, "raw": None},
            {"id": None},
            {"id": "x"},
        ):
            with pytest.raises(Rejected):
                db.note.insert(**({"text": "y" * 1000} | wrong))
            assert bench._engine.db.space.ints[state + at.H_USED] == used
        with pytest.raises(TypeError):
            db.note.insert(text="y", nothing=1)
    assert bench.fingerprint() == before


def test_deleting_gives_memory_back(bench: Bench) -> None:
    for number in range(300):
        assert bench.put(number % 3, 90_000) == 90_000
    assert bench.note(1).text == "é" * 45_000
    heap = bench._engine.layout.tables[0]
    assert bench._engine.db.space.ints[heap.descriptor + at.T_HEAP_ALLOCATED] * 8 <= HEAP_BYTES


def test_a_heap_grows_between_transactions(bench: Bench) -> None:
    allocated = bench._engine.layout.tables[0].descriptor + at.T_HEAP_ALLOCATED
    sizes = []
    for number in range(10):
        bench.put(number, 16_000)
        sizes.append(bench._engine.db.space.ints[allocated] * 8)
    assert sizes == sorted(sizes)
    assert len(set(sizes)) > 3
    bench.put(100, 150_000)  # at once as far as one value needs it
    assert bench._engine.sequence == 11


def test_what_a_full_heap_refuses(bench: Bench) -> None:
    refusals = []
    for number in range(40):
        try:
            bench.put(number, 20_000)
        except Rejected as error:
            refusals.append(error)
    assert refusals[0] == HeapFull("note", HEAP_BYTES)
    assert 10 < len(refusals) < 30
    before = bench.fingerprint()
    for size in (50_000, 900_000):
        with pytest.raises(Rejected, match="table_full"):
            bench.put(1000, size)
    assert bench.fingerprint() == before
    with bench.transaction() as db:
        with pytest.raises(HeapFull) as full:
            db.note[0].text = "x" * 900_000
        assert isinstance(full.value, TableFull)
        db.note.delete(db.note[0])
    bench.put(0, 19_000)
    assert bench.note(3).raw == bytes(20_000)


def fragment(bench: Bench) -> None:
    """Fill the heap with small values and free every other one."""
    for number in range(60):
        bench.put(number, 7_600)
    for number in range(0, 60, 2):
        with bench.transaction() as db:
            db.note.delete(db.note[number])


def test_free_pieces_are_put_together_between_transactions(bench: Bench) -> None:
    fragment(bench)
    expected = {row.id: (row.text, row.raw) for row in bench.db.note}
    state = bench._engine.layout.tables[0].heap_state
    free = bench._engine.db.space.ints[state + at.H_FREE]
    sequence = bench._engine.sequence
    assert free > 100
    assert bench.put(1000, 150_000) == 150_000
    assert bench._engine.sequence == sequence + 1
    assert bench._engine.db.space.ints[state + at.H_COMPACTED] == sequence + 2
    assert {row.id: (row.text, row.raw) for row in bench.db.note if row.id < 1000} == expected
    # What is refused after that is undone, and the heap stays in one piece.
    with pytest.raises(Rejected, match="no"):
        bench.put_and_refuse(2000, 20_000)
    assert {row.id: (row.text, row.raw) for row in bench.db.note if row.id < 1000} == expected


def test_nothing_moves_inside_a_block(bench: Bench) -> None:
    fragment(bench)
    with bench.transaction() as db:
        with pytest.raises(HeapFull):
            db.note.insert(id=1000, raw=bytes(150_000))
        with pytest.raises(HeapFull):
            db.note[1].raw = bytes(150_000)
        assert db.note[1].raw == bytes(7_600)
    bench.put(1000, 150_000)


def test_a_block_gives_a_heap_memory_on_the_spot(bench: Bench) -> None:
    with bench.transaction() as db:
        for number in range(20):
            db.note.insert(id=number, text="x" * 20_000).raw = bytes(10_000)
    assert {len(row.text) + len(row.raw) for row in bench.db.note} == {30_000}


@pytest.mark.parametrize("holes", [False, True])
def test_columns_and_filters(bench: Bench, holes: bool) -> None:
    random.seed(5)
    texts = [random.choice(["", "a", "b" * 9, "é" * 300]) for _ in range(50)]
    raws = [random.choice([None, b"", b"a", b"\0" * 12]) for _ in range(50)]
    with bench.transaction() as db:
        for i in range(50):
            db.note.insert(id=i, text=texts[i], data=raws[i])
        if holes:
            db.note.delete(db.note[7])
    kept = [i for i in range(50) if not (holes and i == 7)]
    notes = bench.db.note.columns()
    assert notes.text.dtype == object
    assert notes.text.tolist() == [texts[i] for i in kept]
    assert notes.data.tolist() == [raws[i] for i in kept]
    assert notes.title.tolist() == [None] * len(kept)
    with pytest.raises(ValueError, match="read-only"):
        notes.text[0] = "x"
    for text in set(texts):
        found = bench.db.note.columns(text=text).id.tolist()
        assert found == [i for i in kept if texts[i] == text]
        both = bench.db.note.columns(data=b"a", text=text).id.tolist()
        assert both == [i for i in kept if (texts[i], raws[i]) == (text, b"a")]
    for raw in set(raws):
        assert bench.db.note.columns(data=raw).id.tolist() == [i for i in kept if raws[i] == raw]
    assert len(bench.db.note.columns(text="never")) == len(bench.db.note.columns(title="")) == 0
    with pytest.raises(Rejected, match="bad_value"):
        bench.db.note.columns(text=None)
    with pytest.raises(Rejected, match="bad_value"):
        bench.db.note.columns(data="a")


def test_an_empty_table(bench: Bench) -> None:
    notes = bench.db.note.columns()
    assert notes.text.tolist() == notes.data.tolist() == []
    assert len(bench.db.note.columns(text="a", title=None, data=b"")) == 0


def test_a_row_as_a_result(bench: Bench) -> None:
    bench.put(4, 3)
    assert tuple(bench.note(4)) == (4, None, "é", b"\0\0\0", None, b"\0")


def test_the_size_of_a_heap_can_be_chosen() -> None:
    specs = list(app.tables.values())
    (table,) = layouts.plan(specs, {"note.heap_bytes": 1 << 21}).tables
    assert (table.heap_words, table.capacity) == (1 << 18, 5000)
    (table,) = layouts.plan(specs, {"note": 7}).tables
    assert (table.heap_words, table.capacity) == (HEAP_BYTES // 8, 7)
    with pytest.raises(ConfigurationError, match=r"'nott' that does not exist; did you mean 'note"):
        layouts.plan(specs, {"nott.heap_bytes": 1 << 21})
    with pytest.raises(ConfigurationError, match="heap_bytes of note must be 1048576 to"):
        layouts.plan(specs, {"note.heap_bytes": 1})
    plain = App("plain")

    @plain.table
    class Seat:
        id: int = key()

    with pytest.raises(ConfigurationError, match="seat has no str or bytes columns"):
        layouts.plan(list(plain.tables.values()), {"seat.heap_bytes": 1 << 21})


def test_growth_of_a_heap() -> None:
    (table,) = layouts.plan(list(app.tables.values())).tables
    words, steps = 0, []
    while words < table.heap_words:
        more = layouts.heap_growth(table, words)
        steps.append(sum(extent.page_count for extent in layouts.heap_extents(table, words, more)))
        words = more
    assert steps[0] == 8
    assert sum(steps) * 4096 == HEAP_BYTES
    assert layouts.heap_growth(table, words) == words
    assert layouts.heap_growth(table, 4096, 10_000) == 10_240  # whole pages
    assert layouts.heap_growth(table, 4096, 1 << 60) == table.heap_words


def test_equal_histories_give_equal_bytes() -> None:
    prints = set()
    for _ in range(2):
        random.seed(7)
        with app.open(now=0) as bench:
            for number in range(300):
                bench.put(number % 20, random.randrange(20_000))
            prints.add(bench.fingerprint())
    assert len(prints) == 1


def test_columns_of_the_heap_need_a_default_only_if_said() -> None:
    columns = app.tables["note"].by_name
    assert columns["title"].default is None
    assert columns["id"].default is MISSING
    assert np.ndim(columns["raw"].default) == 0
