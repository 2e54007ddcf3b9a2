"""Tables, rows and indexes as interpreted handlers use them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import pytest
from tests.support.club import INT_MAX, INT_MIN, Grade, app

from diptych import App, Db, Rejected, key, ordered, text, u8
from diptych.declarations import DB_NAMES, TABLE_NAMES
from diptych.errors import TableFull
from diptych.store import words as at
from diptych.store.faults import RangeLost, ReadOnly, StaleRow
from diptych.testing import Bench


@pytest.fixture(name="bench")
def _bench() -> Iterator[Bench]:
    with app.open(now=0, check=True) as bench:
        yield bench


@pytest.fixture(name="db")
def _db(bench: Bench) -> Iterator[Any]:
    with bench.transaction() as db:
        yield db


def details(error: pytest.ExceptionInfo[Rejected]) -> dict[str, Any]:
    return {"code": error.value.code, **error.value.details}


# Rows -------------------------------------------------------------------------------------------


def test_a_row_has_what_was_inserted_and_the_defaults(db: Any) -> None:
    row = db.person.insert(code="AB", name="Zoë Ångström", grade=Grade.HIGH, weight=2)
    assert (row.id, row.code, row.name, row.grade) == (1, "AB", "Zoë Ångström", Grade.HIGH)
    assert row.grade is Grade.HIGH
    assert row.active is True
    assert row.weight == 2.0
    assert isinstance(row.weight, float)
    assert row.visits == 0
    other = db.person.insert(code="")
    assert (other.id, other.code, other.name, other.grade) == (2, "", "", Grade.LOW)
    assert repr(other).startswith("<person: id=2, code='', name='', grade=")


def test_columns_are_assigned(db: Any) -> None:
    row = db.person.insert(code="a")
    row.code, row.name, row.grade = "ÄÖÜß", "exactly twenty bytes", Grade.GUEST
    row.active, row.weight, row.visits = False, -0.25, INT_MIN
    again = db.person[1]
    assert again == row
    assert hash(again) == hash(row)
    assert (again.code, again.name, again.grade) == ("ÄÖÜß", "exactly twenty bytes", Grade.GUEST)
    assert (again.active, again.weight, again.visits) == (False, -0.25, INT_MIN)
    row.name = "short"
    assert again.name == "short"
    row.visits = np.int64(7)
    row.weight = np.float64(1.5)
    assert (type(again.visits), again.visits, again.weight) == (int, 7, 1.5)
    row.weight = math.nan
    assert math.isnan(again.weight)


@pytest.mark.parametrize(
    ("column", "value", "limit"),
    [
        ("visits", 2**63, "64 bits"),
        ("visits", 2**70, "64 bits"),
        ("visits", INT_MIN - 1, "64 bits"),
        ("visits", 2.5, "an int"),
        ("visits", "1", "an int"),
        ("visits", None, "an int"),
        ("weight", "1.0", "a float"),
        ("weight", True, "a float"),
        pytest.param("weight", 10**400, "a float", id="weight-too-large"),
        ("active", 1, "true or false"),
        ("active", None, "true or false"),
        ("code", "nine byte", "at most 8 bytes of UTF-8"),
        ("code", "ééééé", "at most 8 bytes of UTF-8"),
        ("code", "a\0b", "text without a zero character"),
        ("code", b"abc", "text"),
        ("code", ["a"], "text"),
        ("code", "\ud800", "text that UTF-8 can hold"),
        ("name", "x" * 21, "at most 20 bytes of UTF-8"),
        ("name", 5, "text"),
        ("grade", 3, "a member of Grade"),
        ("grade", "LOW", "an int"),
    ],
)
def test_what_does_not_fit_is_a_bad_value(db: Any, column: str, value: Any, limit: str) -> None:
    row = db.person.insert(code="a")
    with pytest.raises(Rejected) as assigned:
        setattr(row, column, value)
    with pytest.raises(Rejected) as inserted:
        db.person.insert(**{"code": "b", column: value})
    for error in (assigned, inserted):
        found = details(error)
        found.pop("value")
        assert found == {"code": "bad_value", "table": "person", "column": column, "limit": limit}
    assert len(db.person) == 1


def test_a_bad_value_is_told_in_a_form_that_can_be_sent(db: Any) -> None:
    for value, shown in ((2**70, str(2**70)), ([1], "[1]"), (None, None), (1.5, 1.5)):
        with pytest.raises(Rejected) as error:
            db.seat.insert(id=value)
        assert error.value.details["value"] == shown


def test_keys_and_unknown_columns_are_not_assigned(db: Any) -> None:
    row = db.person.insert(code="a")
    with pytest.raises(ReadOnly, match=r"person\.id is part of the key"):
        row.id = 2
    with pytest.raises(AttributeError):
        row.vists = 2
    with pytest.raises(AttributeError):
        _ = row.vists


def test_a_deleted_row_is_stale(db: Any) -> None:
    row = db.person.insert(code="a", name="b")
    other = db.person[row.id]
    db.person.delete(row)
    assert repr(row) == "<person: not a row any more>"
    for column in ("id", "code", "name", "grade", "weight", "visits"):
        with pytest.raises(StaleRow, match="was deleted"):
            getattr(row, column)
    for column, value in (("visits", 1), ("name", "x"), ("weight", 1.0), ("code", "x")):
        for stale in (row, other):
            with pytest.raises(StaleRow, match="was deleted"):
                setattr(stale, column, value)
    for stale in (row, other):
        with pytest.raises(StaleRow):
            db.person.delete(stale)


def test_a_slot_is_not_another_row_within_its_transaction(bench: Bench) -> None:
    with bench.transaction() as db:
        db.seat.insert(id=1)
    with bench.transaction() as db:
        row, other = db.seat[1], db.seat[1]
        db.seat.delete(row)
        db.seat.insert(id=2)
        assert other != db.seat[2]
        with pytest.raises(StaleRow):
            db.seat.delete(other)


def test_delete_wants_a_row_of_its_table(db: Any) -> None:
    person, seat = db.person.insert(code="a"), db.seat.insert(id=1)
    for wrong in (seat, 1, None):
        with pytest.raises(TypeError, match="delete takes a row of person"):
            db.person.delete(wrong)
    db.person.delete(person)
    assert (len(db.person), len(db.seat)) == (0, 1)


# Keys -------------------------------------------------------------------------------------------


def test_dict_manners(db: Any) -> None:
    assert (len(db.seat), list(db.seat), db.seat.get(1), 1 in db.seat) == (0, [], None, False)
    for number in (5, -7, INT_MAX):
        db.seat.insert(id=number)
    assert [row.id for row in db.seat] == [5, -7, INT_MAX]
    assert 5 in db.seat
    assert 6 not in db.seat
    assert db.seat[INT_MAX].id == INT_MAX
    assert db.seat[np.int64(5)] == db.seat.get(5)
    assert repr(db.seat) == "<table seat: 3 rows>"


def test_not_found(db: Any) -> None:
    with pytest.raises(Rejected) as error:
        db.seat[9]
    assert details(error) == {"code": "not_found", "table": "seat", "key": 9}
    with pytest.raises(Rejected) as error:
        db.visit["here", 3]
    assert details(error) == {"code": "not_found", "table": "visit", "key": ["here", 3]}


def test_a_key_that_no_row_can_have(db: Any) -> None:
    for wrong in (2**63, "x", 1.0, None, 2**80):
        with pytest.raises(Rejected) as error:
            db.seat.get(wrong)
        assert (error.value.code, error.value.details["column"]) == ("bad_value", "id")
    with pytest.raises(Rejected, match="bad_value"):
        db.visit["x" * 21, 1]
    with pytest.raises(Rejected, match="bad_value"):
        db.visit["x", 2**63]
    with pytest.raises(Rejected, match="bad_value"):
        db.setting[[1]]


def test_wrong_number_of_key_columns(db: Any) -> None:
    with pytest.raises(TypeError, match=r"the key of visit is \(place, number\), not 'here'"):
        db.visit["here"]
    with pytest.raises(TypeError, match="the key of visit"):
        db.visit.get(("here", 1, 2))
    with pytest.raises(TypeError, match=r"the key of setting is \(name\)"):
        _ = ("a", "b") in db.setting


def test_composite_and_text_keys(db: Any) -> None:
    db.person.insert(code="p")
    places = ["", "a", "b" * 20, "b" * 19, "zwölf"]
    for place in places:
        for number in (-1, 0, 2**40):
            db.visit.insert(place=place, number=number, person=1, cost=number / 2)
    assert db.visit["b" * 20, 2**40].cost == 2**39
    assert db.visit.get(("zwölf", -1)).place == "zwölf"
    assert db.visit.get(("zwolf", -1)) is None
    assert (len(db.visit), ("", 0) in db.visit) == (15, True)
    db.setting.insert(name="eight by", value=4)
    assert db.setting["eight by"].value == 4
    assert "eight b" not in db.setting


def test_an_auto_key_counts_and_takes_what_is_given(bench: Bench) -> None:
    with bench.transaction() as db:
        assert db.person.insert(code="a").id == 1
        assert db.person.insert(id=10, code="b").id == 10
        assert db.person.insert(code="c").id == 11
        assert db.person.insert(id=4, code="d").id == 4
        db.person.delete(db.person[11])
        assert db.person.insert(code="e").id == 12
    with pytest.raises(Rejected, match="not_found"), bench.transaction() as db:
        db.person[db.person.insert(code="f").id + 1]
    with bench.transaction() as db:
        assert db.person.insert(code="g").id == 13


def test_a_key_exists_once(db: Any) -> None:
    db.seat.insert(id=1)
    with pytest.raises(Rejected) as error:
        db.seat.insert(id=1)
    assert details(error) == {"code": "duplicate_key", "table": "seat", "key": 1}
    db.person.insert(code="a")
    db.visit.insert(place="x", number=2, person=1)
    with pytest.raises(Rejected) as error:
        db.visit.insert(place="x", number=2, person=1)
    assert details(error) == {"code": "duplicate_key", "table": "visit", "key": ["x", 2]}


def test_a_unique_index_holds_on_insert_and_assignment(db: Any) -> None:
    db.person.insert(code="a")
    other = db.person.insert(code="b")
    with pytest.raises(Rejected) as inserted:
        db.person.insert(code="a")
    with pytest.raises(Rejected) as assigned:
        other.code = "a"
    for error in (inserted, assigned):
        assert details(error) == {"code": "not_unique", "table": "person", "index": "by_code"}
    assert ([row.code for row in db.person], db.person.by_code.first("b")) == (["a", "b"], other)


def test_a_reference_is_checked_on_insert(db: Any) -> None:
    with pytest.raises(Rejected) as error:
        db.visit.insert(place="x", number=1, person=3)
    assert details(error) == {"code": "not_found", "table": "person", "key": 3}
    db.person.insert(id=3, code="a")
    assert db.visit.insert(place="x", number=1, person=3).person == 3


def test_get_or_insert(db: Any) -> None:
    first = db.setting.get_or_insert(name="a", value=3)
    again = db.setting.get_or_insert(name="a", value=9)
    assert (first == again, again.value, len(db.setting)) == (True, 3, 1)
    db.person.insert(code="p")
    visit = db.visit.get_or_insert(place="x", number=1, person=1)
    assert db.visit.get_or_insert(place="x", number=1) == visit
    with pytest.raises(TypeError, match="get_or_insert needs the key column 'number'"):
        db.visit.get_or_insert(place="x")


def test_insert_takes_its_columns_by_name(db: Any) -> None:
    with pytest.raises(TypeError, match=r"person\.insert\(\) missing.*'code'"):
        db.person.insert(name="x")
    with pytest.raises(TypeError, match="unexpected keyword argument 'cod'"):
        db.person.insert(cod="x")
    with pytest.raises(TypeError, match="positional"):
        db.person.insert("x")


def test_a_full_table(db: Any) -> None:
    for number in range(3):
        db.seat.insert(id=number)
    with pytest.raises(Rejected) as error:
        db.seat.insert(id=3)
    assert error.value == TableFull("seat", 3)
    assert "setting='[tables.seat] capacity'" in str(error.value)
    assert [row.id for row in db.seat] == [0, 1, 2]


def test_slots_of_deleted_rows_are_used_again(bench: Bench) -> None:
    for number in range(10):
        with bench.transaction() as db:
            for seat in list(db.seat):
                db.seat.delete(seat)
        with bench.transaction() as db:
            for i in range(3):
                db.seat.insert(id=number * 3 + i)
    assert sorted(row.id for row in bench.db.seat) == [27, 28, 29]


# Indexes ----------------------------------------------------------------------------------------


def people(db: Any) -> None:
    for i, (code, name) in enumerate([("a", "Bo"), ("b", "Al"), ("c", "Bo"), ("d", "Élan")]):
        grade = (Grade.HIGH, Grade.LOW, Grade.GUEST)[i % 3]
        db.person.insert(code=code, name=name, grade=grade, visits=10 * i - 10)


def codes(rows: Iterator[Any]) -> str:
    return "".join(row.code for row in rows)


def test_ranges(db: Any) -> None:
    people(db)
    by_name, by_grade = db.person.by_name, db.person.by_grade
    assert codes(by_name.range()) == "bacd"
    assert codes(by_name.range(reverse=True)) == "dcab"
    assert codes(by_name.range("Bo")) == "ac"
    assert codes(by_name.range("Bo", reverse=True)) == "ca"
    assert codes(by_name.range("Bo", 10)) == "c"
    assert codes(by_name.range("Bo", start=-10)) == "ac"
    assert codes(by_name.range("Bo", start=-9)) == "c"
    assert codes(by_name.range("Bo", stop=10)) == "a"
    assert codes(by_name.range("Bo", start=-9, stop=11, reverse=True)) == "c"
    assert codes(by_name.range(start="B", stop="C")) == "ac"
    assert codes(by_name.range(start="Bo")) == "acd"
    assert codes(by_name.range(stop="Bo", reverse=True)) == "b"
    assert codes(by_name.range("nobody")) == ""
    assert codes(by_name.range(start="Z", stop="A")) == ""
    assert codes(by_grade.range()) == "adcb"  # HIGH is -5
    assert codes(by_grade.range(Grade.HIGH)) == "ad"
    assert codes(by_grade.range(-5, start=0)) == "d"


def test_first_and_last(db: Any) -> None:
    assert (db.person.by_name.first(), db.person.by_name.last("Bo")) == (None, None)
    people(db)
    by_name = db.person.by_name
    assert (by_name.first().code, by_name.last().code) == ("b", "d")
    assert (by_name.first("Bo").code, by_name.last("Bo").code) == ("a", "c")
    assert (by_name.first("Bo", 10).code, by_name.first("Bo", 11)) == ("c", None)
    assert db.person.by_code.first("c").name == "Bo"


def test_bounds_that_do_not_fit(db: Any) -> None:
    by_name = db.person.by_name
    for call in (lambda *prefix: list(by_name.range(*prefix)), by_name.first, by_name.last):
        with pytest.raises(TypeError, match="has 2 columns; 3 values were given"):
            call("a", 1, 2)
        with pytest.raises(Rejected, match="bad_value"):
            call("a", "b")
        with pytest.raises(Rejected, match="bad_value"):
            call("a", 2**63)
    with pytest.raises(TypeError, match="has 2 columns"):
        by_name.range("a", 1, start=2)
    with pytest.raises(Rejected, match="bad_value"):
        next(by_name.range("a", stop="b"))
    assert codes(by_name.range("a")) == ""  # and no cursor is lost
    with pytest.raises(Rejected, match="bad_value"):
        db.person.by_grade.first(7)
    with pytest.raises(AttributeError, match=r"no index 'by_nam'; did you mean 'by_name'\?"):
        _ = db.person.by_nam
    assert repr(by_name) == "<index person.by_name by name, visits>"


def test_indexes_follow_assignments(db: Any) -> None:
    people(db)
    db.person.by_code.first("a").name = "Zed"
    db.person.by_code.first("c").visits = -99
    assert codes(db.person.by_name.range()) == "bcad"
    db.person[2].grade = Grade.HIGH
    assert codes(db.person.by_grade.range(Grade.HIGH)) == "abd"


def test_deleting_and_inserting_inside_a_loop(db: Any) -> None:
    for i in range(200):
        db.person.insert(code=f"{i:03}", visits=i)
    seen = []
    for row in db.person.by_name.range(""):
        seen.append(row.visits)
        if row.visits % 2 == 0:
            db.person.delete(row)
        elif row.visits < 200:
            db.person.insert(code=f"n{row.visits}", visits=row.visits + 1000)
    # Even rows were deleted when they were seen; each odd one added a row further on.
    assert seen == [*range(200), *range(1001, 1200, 2)][: len(seen)]
    assert seen[199] == 199
    assert len(db.person) == 100 + 100 - sum(n > 1000 and n % 2 == 0 for n in seen)
    for row in db.person:
        db.person.delete(row)
    assert (len(db.person), list(db.person.by_name.range())) == (0, [])


def test_rows_moved_back_and_forth_inside_a_loop(db: Any) -> None:
    for i in range(50):
        db.person.insert(code=f"{i}", visits=i)
    seen = []
    for row in db.person.by_name.range("", reverse=True):
        seen.append(row.visits)
        row.visits = row.visits + 1000  # behind us: not seen again
    assert seen == list(reversed(range(50)))


def test_many_inner_loops_do_not_lose_an_outer_one(db: Any) -> None:
    for i in range(200):
        db.person.insert(code=f"{i}", visits=i)
    outer = 0
    for row in db.person.by_name.range(""):
        for inner in db.person.by_code.range():
            assert inner is not None
            break
        assert [each.visits for each in db.person.by_name.range("", row.visits)] == [outer]
        _ = db.person.by_name.range()  # never begun: takes nothing
        outer += 1
    assert outer == 200


def test_so_many_ranges_can_be_open(db: Any) -> None:
    for i in range(3):
        db.person.insert(code=f"{i}")
    opened = [db.person.by_code.range() for _ in range(at.CURSORS)]
    for each in opened:
        next(each)
    with pytest.raises(RangeLost, match="more than 64 ranges are open at once"):
        next(db.person.by_code.range())
    assert [len(list(each)) for each in opened] == [2] * at.CURSORS
    del opened
    assert len(list(db.person.by_code.range())) == 3


# Who may do what --------------------------------------------------------------------------------


def test_a_query_reads_and_changes_nothing(bench: Bench) -> None:
    with bench.transaction() as db:
        people(db)
        db.setting.insert(name="a")
    db = bench.db
    before = bench.fingerprint()
    for change in (
        lambda: db.seat.insert(id=1),
        lambda: db.person.delete(db.person[1]),
        lambda: setattr(db.person[1], "visits", 1),
        lambda: setattr(db.person[1], "name", "x"),
        lambda: setattr(db.person[1], "code", "x"),
        lambda: db.setting.get_or_insert(name="b"),
    ):
        with pytest.raises(ReadOnly, match="a query can't change data"):
            change()
    assert db.setting.get_or_insert(name="a").value == 0
    assert codes(db.person.by_name.range("Bo")) == "ac"
    assert db.person.by_name.first("Bo").code == "a"
    assert ([row.id for row in db.person], db.person.get(9)) == ([1, 2, 3, 4], None)
    assert bench.fingerprint() == before


def test_a_table_that_is_not_there(db: Any) -> None:
    with pytest.raises(AttributeError, match=r"no table 'persn'; did you mean 'person'\?"):
        _ = db.persn


def test_no_name_of_ours_can_be_hidden(bench: Bench) -> None:
    def public(thing: object) -> set[str]:
        return {name for name in dir(thing) if not name.startswith("_")}

    assert public(bench.db) - set(app.tables) <= DB_NAMES
    indexes = {index.name for index in app.tables["person"].indexes}
    assert public(bench.db.person) - indexes <= TABLE_NAMES


def test_columns_may_have_any_name() -> None:
    strange = App("strange")

    @strange.table
    class Odd:
        row: int = key()
        words: Annotated[str, text(8)]
        pack: int
        scratch: float
        self: int = 4
        Row: int = 5
        get: int = 6
        type: u8 = 7
        by_pack = ordered("pack", "words")

    @strange.transaction
    def put(db: Db, row: int) -> list[object]:
        odd = db.odd.insert(row=row, words="w", pack=2, scratch=3.5)
        return [odd.row, odd.words, odd.pack, odd.scratch, odd.self, odd.Row, odd.get, odd.type]

    with strange.open() as bench:
        assert bench.put(7) == [7, "w", 2, 3.5, 4, 5, 6, 7]
        with pytest.raises(Rejected) as error:
            bench.put(7)
        assert error.value == Rejected("duplicate_key", table="odd", key=7)
        assert bench.db.odd.by_pack.first(2).get == 6


def test_equal_histories_give_equal_bytes() -> None:
    prints = []
    for nan in (math.nan, -math.nan, float.fromhex("0x0p0") * math.inf):
        with app.open(now=0) as bench:
            with bench.transaction() as db:
                db.person.insert(code="a", weight=nan).weight = nan
                db.person.insert(code="b", weight=nan)
            prints.append(bench.fingerprint())
    assert len(set(prints)) == 1


def test_a_column_that_is_not_there(db: Any) -> None:
    person = db.person.insert(code="p")
    with pytest.raises(AttributeError, match=r"no column 'cod'; did you mean 'code'\?"):
        _ = person.cod
    with pytest.raises(AttributeError):
        person.cod = "q"
