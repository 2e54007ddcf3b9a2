"""Lists, sets and text that compiled handlers build: what they are, and when they give up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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
        told.append(Told(thing.name, thing.limit, thing.id / 2, even, (thing.id, "text")))
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


class Texts(NamedTuple):
    sum: Annotated[str, text(40)]
    line: Annotated[str, text(200)]
    wide: Annotated[str, text(200)]
    head: Annotated[str, text(20)]
    first: Annotated[str, text(4)]
    short: bool
    which: Annotated[str, text(9)]


Long = Annotated[str, text(500)]
ASIDE = " aside"


def which_of(number: int) -> str:
    if number == 0:
        return ""
    return "another"


@app.transaction
def texts(db: Db, one: Name, other: Name, number: int, length: int) -> Texts:
    mark = "x"
    if number > 0:
        mark = "positive"
    return Texts(
        one + other,
        f"{one}: {number}, {other}{ASIDE}{mark}",
        f"{number:02}|{number:5}|{number:05d}|{number % 7:012}{{}}",
        (one + other)[:length],
        one[:4],
        len(one) < len(other + "é"),
        which_of(number),
    )


@app.transaction
def find(db: Db, where: Long, sought: Annotated[str, text(20)]) -> tuple[bool, bool, bool]:
    return sought in where, "ORIGINAL" in where, sought not in where


@app.transaction
def lengths(db: Db, value: Long) -> tuple[int, bool, Annotated[str, text(9)]]:
    return len(value), len(value) > 0, value[:9]


@app.transaction
def append_note(db: Db, entry: Name, count: int) -> Long:
    note = entry[:0]
    for number in range(count):
        note = (f"{entry} {number}; " + note)[:490]
    return note


@app.transaction
def store(db: Db, id: int, name: Name, number: int) -> Name:
    thing = db.thing[id]
    thing.name = name + f"{number}"
    return thing.name


@app.transaction
def perhaps(db: Db, name: Name | None) -> Annotated[str, text(20)]:
    return (name or "nobody") + "!"


def seen_before(seen: set[int], number: int) -> bool:
    found = number in seen
    seen.add(number)
    return found


@app.transaction
def distinct(db: Db, first: int, step: int, count: int, modulo: int) -> tuple[int, int, bool]:
    """How many numbers a series has, how often one came again, and whether there is any."""
    seen: set[int] = set()
    again, number = 0, first
    for _ in range(count):
        if seen_before(seen, number % modulo):
            again += 1
        number += step
    return len(seen), again, bool(seen)


@pytest.fixture(scope="module")
def lanes() -> Iterator[Lanes]:
    with Lanes(app) as lanes:
        lanes.call("fill", 40, "äöü")
        yield lanes


def test_lists_come_back_as_what_they_hold(lanes: Lanes) -> None:
    told = lanes.check("both")
    assert told.count == len(told.told) == len(told.numbers) == 40
    assert told.told[2] == Told("äöü", 2, 1.0, True, (2, "text"))
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


NUMBERS = [0, 1, -1, 9, 10, -10, 12_345_678, 10**18, 2**63 - 1, -(2**63)]
NAMES = ["", "a", "abc", "abcdefgh", "abcdefghi", "é", "añb", "日本語", "\U0001f600ab", "aaaaaaaé"]


@pytest.mark.parametrize("number", NUMBERS)
def test_ints_are_written_as_python_does(lanes: Lanes, number: int) -> None:
    told = lanes.check("texts", "one", "other", number, 5)
    assert told.wide == f"{number:02}|{number:5}|{number:05d}|{number % 7:012}{{}}"


@pytest.mark.parametrize("one", NAMES)
@pytest.mark.parametrize("other", NAMES)
def test_texts_are_put_together_and_cut(lanes: Lanes, one: str, other: str) -> None:
    for length in (0, 1, 3, 8, 9, 100, -1, 2**40):
        told = lanes.check("texts", one, other, length, length)
        assert (told.sum, told.head, told.first) == (one + other, (one + other)[:length], one[:4])
    assert told.line == f"{one}: {2**40}, {other} asidepositive"


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_text_is_found_in_text(lanes: Lanes, data: st.DataObject) -> None:
    alphabet = st.sampled_from("ab\x7fé日ORIGNAL")
    where = data.draw(st.text(alphabet, max_size=60))
    sought = data.draw(st.text(alphabet, max_size=5))
    if where and data.draw(st.booleans()):
        start = data.draw(st.integers(0, len(where) - 1))
        sought = where[start : start + data.draw(st.integers(1, 6))]
    expected = (sought in where, "ORIGINAL" in where, sought not in where)
    assert lanes.call("find", where, sought) == expected
    assert lanes.call("find", where + "ORIGINAL" + sought, sought) == (True, True, False)
    assert lanes.call("lengths", where) == (len(where), bool(where), where[:9])


@pytest.mark.parametrize("size", [0, 7, 8, 9, 499, 500])
def test_long_text_has_a_length(lanes: Lanes, size: int) -> None:
    assert lanes.check("lengths", "x" * size) == (size, size > 0, "x" * min(9, size))


@pytest.mark.parametrize(("entry", "count"), [("abc", 0), ("abc", 5), ("abc", 200), ("é", 90)])
def test_text_grows_and_is_cut_again_and_again(lanes: Lanes, entry: str, count: int) -> None:
    note = ""
    for number in range(count):
        note = (f"{entry} {number}; " + note)[:490]
    assert lanes.check("append_note", entry, count) == note


def test_what_is_built_is_stored_where_it_fits(lanes: Lanes) -> None:
    assert lanes.check("store", 1, "äb", 123) == "äb123"
    kind, code, details = lanes.check("store", 1, "äb", 1_234_567)
    assert (kind, code, details["limit"]) == ("rejected", "bad_value", "at most 9 bytes of UTF-8")


def test_one_text_or_another(lanes: Lanes) -> None:
    assert lanes.check("perhaps", None) == lanes.check("perhaps", "") == "nobody!"
    assert lanes.check("perhaps", "Ann") == "Ann!"
    assert lanes.check("texts", "", "", 0, 0).which == ""


@pytest.mark.parametrize("modulo", [1, 10, 97, 2**61, -(2**61)])
@pytest.mark.parametrize("step", [1, -1, 2**31 + 1, 2**40, 7 * 2**45])
@pytest.mark.parametrize("count", [0, 1, 32, 33, 2_000])
def test_a_set_has_each_int_once(lanes: Lanes, modulo: int, step: int, count: int) -> None:
    numbers = {(5 + i * step) % modulo for i in range(count)}
    told = lanes.check("distinct", 5, step, count, modulo)
    assert told == (len(numbers), count - len(numbers), count > 0)


def test_too_large_a_set_is_left_to_the_interpreter(lanes: Lanes) -> None:
    assert lanes.check("distinct", 0, 1, at.BUILT_WORDS, 2**40)[0] == at.BUILT_WORDS
