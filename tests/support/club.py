"""A small application with every kind of column, key and index, for tests of store and engine."""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated

from diptych import App, Db, Rejected, key, ordered, ref, text, unique

INT_MIN, INT_MAX = -(2**63), 2**63 - 1

app = App("club")


class Grade(IntEnum):
    GUEST = 0
    LOW = 1
    HIGH = -5


@app.table(capacity=5_000)
class Person:
    id: int = key(auto=True)
    code: Annotated[str, text(8)]
    name: Annotated[str, text(20)] = ""
    grade: Grade = Grade.LOW
    active: bool = True
    weight: float = 0.5
    visits: int = 0
    by_code = unique("code")
    by_name = ordered("name", "visits")
    by_grade = ordered("grade", "visits")


@app.table(capacity=5_000)
class Visit:
    place: Annotated[str, text(20)] = key()
    number: int = key()
    person: int = ref(Person)
    cost: float = 0.0
    by_person = ordered("person", "number")


@app.table(capacity=3)
class Seat:
    id: int = key()


@app.table
class Setting:
    name: Annotated[str, text(8)] = key()
    value: int = 0


@app.transaction
def join(db: Db, code: str, name: str = "", grade: Grade = Grade.LOW) -> int:
    """Add a person and return its number."""
    return db.person.insert(code=code, name=name, grade=grade).id


@app.transaction
def join_many(db: Db, first: int, count: int) -> int:
    for number in range(first, first + count):
        db.person.insert(code=f"c{number}", name=f"name {number % 7}", visits=number)
    return len(db.person)


@app.transaction
def visit(db: Db, person: int, place: str) -> Person:
    row = db.person[person]
    row.visits += 1
    db.visit.insert(place=place, number=row.visits, person=person)
    return row


@app.transaction
def spend(db: Db, person: int, amount: int) -> int:
    row = db.person[person]
    row.visits += amount
    row.name = "changed"
    if row.visits > 1_000_000:
        raise Rejected("too_much", limit=1_000_000)
    if amount == 13:
        raise ZeroDivisionError("a bug")
    return row.visits


@app.transaction
def sit(db: Db, seat: int) -> None:
    db.seat.insert(id=seat)


@app.transaction
def answer_oddly(db: Db, kind: str) -> object:
    db.setting.get_or_insert(name="odd").value += 1
    return {"object": object(), "large": 2**70, "bytes": b"x" * (17 << 20)}[kind]


@app.transaction
def clock(db: Db) -> tuple[int, int]:
    return db.now, db.sequence


@app.query
def person(db: Db, number: int) -> Person | None:
    return db.person.get(number)


@app.query
def people(db: Db) -> list[Person]:
    return list(db.person.by_name.range())


@app.query
def count(db: Db) -> int:
    return len(db.person)
