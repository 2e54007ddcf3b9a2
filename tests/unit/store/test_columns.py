"""`columns()`: views where nothing is missing, copies of the live rows elsewhere."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tests.support.club import Grade, app

from diptych import Rejected
from diptych.testing import Bench


@pytest.fixture(name="bench")
def _bench() -> Iterator[Bench]:
    with app.open(now=0) as bench:
        with bench.transaction() as db:
            for i in range(10):
                grade = Grade.HIGH if i % 2 else Grade.LOW
                db.person.insert(
                    code=f"c{i}", name=f"{'long' * (i % 3)}é", grade=grade, weight=i / 4, visits=i
                )
            db.person[4].active = False
        yield bench


def punch_holes(bench: Bench) -> None:
    with bench.transaction() as db:
        for number in (1, 5, 10):
            db.person.delete(db.person[number])


def is_view(bench: Bench, array: np.ndarray[Any, Any]) -> bool:
    return np.shares_memory(array, bench.db.space.root)


def test_columns_without_holes_are_views(bench: Bench) -> None:
    columns = bench.db.person.columns()
    assert len(columns) == 10
    assert columns.visits.tolist() == list(range(10))
    assert columns.weight.tolist() == [i / 4 for i in range(10)]
    assert columns.code.tolist() == [f"c{i}".encode() for i in range(10)]
    assert columns.name[2].decode() == "longlongé"
    assert columns.active.tolist() == [True] * 3 + [False] + [True] * 6
    assert columns.grade.tolist() == [1, -5] * 5
    dtypes = {name: getattr(columns, name).dtype for name in ("visits", "weight", "active", "name")}
    assert dtypes == {"visits": "i8", "weight": "f8", "active": "?", "name": "S24"}
    for name in ("visits", "weight", "code", "name", "grade"):
        assert is_view(bench, getattr(columns, name)), name
    assert repr(columns) == "<10 rows of person>"


def test_columns_with_holes_are_copies_of_live_rows(bench: Bench) -> None:
    punch_holes(bench)
    columns = bench.db.person.columns()
    assert len(columns) == 7
    assert columns.id.tolist() == [2, 3, 4, 6, 7, 8, 9]
    assert columns.code[0] == b"c1"
    assert not is_view(bench, columns.visits)
    with bench.transaction() as db:
        db.person.insert(code="new")
    assert 11 in bench.db.person.columns().id.tolist()


@pytest.mark.parametrize("holes", [False, True])
def test_arrays_are_read_only(bench: Bench, holes: bool) -> None:
    if holes:
        punch_holes(bench)
    with bench.transaction() as db:
        columns = db.person.columns()
        for name in app.tables["person"].by_name:
            with pytest.raises(ValueError, match="read-only"):
                getattr(columns, name)[0] = 0
        with pytest.raises(ValueError, match="WRITEABLE"):
            columns.visits.view().flags.writeable = True
        assert (columns.visits + 1).flags.writeable


@pytest.mark.parametrize("holes", [False, True])
def test_filters(bench: Bench, holes: bool) -> None:
    if holes:
        punch_holes(bench)

    def ids(**equals: Any) -> list[int]:
        return bench.db.person.columns(**equals).id.tolist()  # type: ignore[no-any-return]

    gone = {1, 5, 10} if holes else set()
    assert ids(grade=Grade.HIGH) == [i for i in (2, 4, 6, 8, 10) if i not in gone]
    assert ids(grade=-5, active=False) == [4]
    assert ids(code="c6") == [7]
    assert ids(code="c66") == ids(code="") == ids(name="é" * 3) == []
    assert ids(name="longlongé") == [3, 6, 9]
    assert ids(name="longé", visits=7) == [8]
    assert ids(weight=0.5) == [3]
    assert ids(active=True, visits=3) == []
    assert len(bench.db.person.columns(name="longlongé")) == 3


def test_filters_that_can_not_hold(bench: Bench) -> None:
    with pytest.raises(Rejected, match="bad_value"):
        bench.db.person.columns(code="longer than eight bytes")
    with pytest.raises(Rejected, match="bad_value"):
        bench.db.person.columns(visits="many")
    with pytest.raises(AttributeError, match=r"no column 'vists'; did you mean 'visits'\?"):
        bench.db.person.columns(vists=1)
    with pytest.raises(AttributeError, match=r"no column 'wight'; did you mean 'weight'\?"):
        _ = bench.db.person.columns().wight


def test_an_empty_table(bench: Bench) -> None:
    columns = bench.db.visit.columns()
    assert (len(columns), columns.place.tolist(), columns.cost.sum()) == (0, [], 0.0)
    assert len(bench.db.visit.columns(place="here", number=1)) == 0


def test_columns_end_with_the_rows_in_use(bench: Bench) -> None:
    """Nobody reads memory beyond them: it need not exist."""
    columns = bench.db.person.columns()
    assert (columns.visits.nbytes, columns.name.nbytes) == (80, 240)


def test_a_selection_can_be_copied_and_looked_at(bench: Bench) -> None:
    columns = bench.db.person.columns()
    assert len(copy.copy(columns)) == 10
    assert not hasattr(columns, "__array__")
    assert not hasattr(columns, "_nothing")
