"""Lists that compiled handlers build: what they return, how they grow, and when they give up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, NamedTuple

import pytest
from tests.support.lanes import Lanes

from diptych import App, Db, Rejected, key, text
from diptych.store import words as at

app = App("built", compiled=True)
Name = Annotated[str, text(9)]


@app.table
class Thing:
    id: int = key()
    name: Name
    limit: int | None


class Told(NamedTuple):
    name: Name
    limit: int | None
    half: float
    even: bool
    pair: tuple[int, Name]


class Both(NamedTuple):
    count: int
    told: list[Told]
    numbers: list[int]
    last: int | None


@app.transaction
def fill(db: Db, count: int, name: Name) -> None:
    for number in range(count):
        db.thing.insert(id=number, name=name, limit=None if number % 2 else number)


@app.transaction
def both(db: Db) -> Both:
    told: list[Told] = []
    numbers: list[int] = []
    for thing in db.thing:  # in turn, so that neither stays where it was
        even = thing.id % 2 == 0
        told.append(Told(thing.name, thing.limit, thing.id / 2, even, (thing.id, thing.name)))
        numbers.append(thing.id)
    return Both(len(told), told, numbers, numbers[-1] if numbers else None)


@app.transaction
def squares(db: Db, count: int) -> list[int]:
    found = []
    for number in range(count):
        found.append(number * number)
    return found


def add_twice(found: list[int], number: int) -> list[int]:
    found.append(number)
    found.append(number)
    return found


@app.transaction
def shared(db: Db, count: int) -> list[int]:
    """One list under two names, changed by a helper and while it is walked."""
    found: list[int] = []
    again = add_twice(found, count)
    for number in found:
        if number > 0:
            again.append(number - 1)
    return found


@app.transaction
def item(db: Db, number: int) -> int:
    found: list[int] = []
    found.append(10)
    found.append(20)
    return found[number]


@app.transaction
def many(db: Db, count: int) -> int:
    total = 0
    for number in range(count):
        found: list[int] = []
        found.append(number)
        total += found[0]
    return total


@app.transaction
def refused(db: Db) -> list[int]:
    db.thing.insert(id=99, name="undone", limit=None)
    found: list[int] = []
    found.append(len(db.thing))
    raise Rejected("no", count=len(found))


@pytest.fixture(scope="module")
def lanes() -> Iterator[Lanes]:
    with Lanes(app) as lanes:
        lanes.call("fill", 40, "äöü")
        yield lanes


def test_lists_come_back_as_what_they_hold(lanes: Lanes) -> None:
    told = lanes.check("both")
    assert told.count == len(told.told) == len(told.numbers) == 40
    assert told.told[2] == Told("äöü", 2, 1.0, True, (2, "äöü"))
    assert told.told[3].limit is None
    assert told.last == 39


def test_a_list_that_is_all_of_the_result(lanes: Lanes) -> None:
    assert lanes.check("squares", 0) == []
    assert lanes.check("squares", 17) == [number * number for number in range(17)]


def test_a_list_is_one_list_under_every_name(lanes: Lanes) -> None:
    assert lanes.check("shared", 3) == [3, 3, 2, 2, 1, 1, 0, 0]


@pytest.mark.parametrize("number", [0, 1, -1, -2])
def test_items_are_found_from_both_ends(lanes: Lanes, number: int) -> None:
    assert lanes.check("item", number) == (10, 20)[number]


@pytest.mark.parametrize("number", [2, -3, 2**62])
def test_an_item_that_is_not_there_is_an_error_of_the_interpreter(
    lanes: Lanes, number: int
) -> None:
    assert "IndexError" in lanes.check("item", number)[1]


def test_more_than_the_scratch_holds_is_left_to_the_interpreter(lanes: Lanes) -> None:
    count = at.BUILT_WORDS
    assert len(lanes.check("squares", count)) == count
    assert lanes.check("many", count) == count * (count - 1) // 2
    assert len(lanes.check("squares", 9)) == 9  # the next call has all of it again


def test_a_rejection_leaves_nothing(lanes: Lanes) -> None:
    assert lanes.check("refused") == ("rejected", "no", {"count": 1})
