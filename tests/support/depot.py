"""An application that uses all that compiled handlers can: each kind of column, index and call."""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, NamedTuple

from tests.support import depot_rules

from diptych import App, Db, Rejected, between, items, key, ordered, ref, text, unique

app = App("depot", compiled=True)
Name = Annotated[str, text(20)]
Code = Annotated[str, text(5)]
Code8 = Annotated[str, text(8)]
LIMIT = 1_000
UNKNOWN = "unknown_parcel"


class State(IntEnum):
    NEW = 1
    SENT = 2
    LOST = -1


@app.table(capacity=5_000)
class Depot:
    code: Code = key()
    name: Name = "nameless"
    parcels: int = 0


@app.table(capacity=5_000)
class Owner:
    id: int = key()
    weight: float = 1.5
    trusted: bool = False


@app.table(capacity=2_000)
class Parcel:
    id: int = key(auto=True)
    owner: int = ref(Owner)
    depot: Code
    label: Name
    state: State = State.NEW
    weight: float = 0.0
    fragile: bool = True
    by_depot = ordered("depot", "state", "owner")
    by_label = unique("label")


@app.table
class Shelf:
    depot: Code = key()
    number: int = key()
    used: int = 0


class Point(NamedTuple):
    x: int
    y: float


class Summary(NamedTuple):
    count: int
    name: Name | None
    state: State
    point: Point
    heavy: bool


class Line(NamedTuple):
    depot: Code
    number: int
    weight: float | None = None
    state: State = State.NEW
    point: Point = Point(0, 0.0)


class Missing(NamedTuple):
    at: int | None
    why: Name | None = None


@app.transaction
def add_depot(db: Db, code: Code, name: Name = "none") -> None:
    db.depot.insert(code=code, name=name)


@app.transaction
def add_owner(db: Db, id: int, weight: float, trusted: bool) -> float:
    return db.owner.insert(id=id, weight=weight, trusted=trusted).weight


@app.transaction
def add_parcel(
    db: Db, owner: int, depot: Code, label: Name, state: int = 1, weight: float = 2.0
) -> int:
    parcel = db.parcel.insert(owner=owner, depot=depot, label=label, state=state, weight=weight)
    place = db.depot.get(parcel.depot)
    if place:
        place.parcels += 1
    return parcel.id


@app.transaction
def summarize(db: Db, id: int) -> Summary:
    row = db.parcel[id]
    place = db.depot.get(row.depot)
    name = place.name if place is not None else None
    heavy = row.weight > 10.0
    return Summary(len(db.parcel), name, State.SENT, Point(row.owner, row.weight * 2 - 0.5), heavy)


@app.transaction
def set_state(db: Db, id: int, state: int) -> int:
    row = db.parcel[id]
    row.state = state  # in an index: the kernel moves the row; no member: bad_value
    return row.state


@app.transaction
def relabel(db: Db, id: int, label: Name) -> Name:
    row = db.parcel[id]
    row.label = label  # wide text in a unique index
    row.fragile = not row.fragile
    return row.label


@app.transaction
def rename(db: Db, code: Code, name: Name) -> bool:
    row = db.depot[code]
    row.name = name  # wide text in no index
    return row.name == name and row.name != "x" and bool(row.name)


@app.transaction
def narrow(db: Db, code: Code8, number: int) -> int:
    """Eight bytes into a key of five: fits, or is bad_value."""
    shelf = db.shelf.get_or_insert(depot=code, number=number)
    shelf.used += number
    return shelf.used


@app.transaction
def shelve(db: Db, depot: Code, number: int) -> tuple[int, bool, bool]:
    before = (depot, number) in db.shelf
    used = db.shelf.get_or_insert(depot=depot, number=number).used
    db.shelf[depot, number].used = used + number
    return db.shelf[depot, number].used, before, ("ZZ", number) in db.shelf


@app.transaction
def drop(db: Db, id: int) -> int:
    """Deleting by an optional row: a bug in the handler when there is none."""
    db.parcel.delete(db.parcel.get(id))
    return len(db.parcel)


@app.transaction
def use_deleted(db: Db, id: int) -> float:
    row = db.parcel[id]
    db.parcel.delete(row)
    return row.weight


@app.transaction
def count_states(db: Db, depot: Code) -> tuple[int, int, int]:
    new = sent = lost = 0
    for row in db.parcel.by_depot.range(depot):
        if row.state == State.NEW:
            new += 1
        elif row.state == State.SENT:
            sent += 1
        else:
            lost += 1
    return new, sent, lost


@app.transaction
def bounds(db: Db, depot: Code, low: int, high: int, backwards: bool) -> int:
    total = 0
    for row in db.parcel.by_depot.range(depot, 1, start=low, stop=high, reverse=backwards):
        total = total * 7 % 1_000_003 + row.id
    for row in db.parcel.by_depot.range(depot, 1, start=low):
        total = total * 7 % 1_000_003 + row.id
    for row in db.parcel.by_depot.range(stop="M", reverse=True):
        total = total * 7 % 1_000_003 + row.id
    return total


@app.transaction
def ends(db: Db, depot: Code) -> tuple[int | None, int | None, bool]:
    first, last = db.parcel.by_depot.first(depot), db.parcel.by_depot.last(depot)
    same = first is not None and last is not None and first == last
    return (
        first.id if first is not None else None,
        last.id if last is not None else None,
        same,
    )


@app.transaction
def clear_depot(db: Db, depot: Code) -> int:
    """Deletes and inserts in the index that it walks."""
    moved = 0
    for row in db.parcel.by_depot.range(depot, State.NEW):
        if row.owner % 2 == 0:
            db.parcel.delete(row)
        else:
            row.state = State.SENT
        moved += 1
    return moved


@app.transaction
def sum_weights(db: Db) -> float:
    total = 0.0
    for row in db.parcel:
        total += row.weight
    return total / 2


@app.transaction
def move(db: Db, source: Code, target: Code, limit: Annotated[int, between(0, 100)]) -> int:
    """A handler that calls handlers, and helpers of another module."""
    if source == target:
        raise Rejected("same_depot", depot=source, name="literal", state=State.LOST, nothing=None)
    moved = 0
    for row in db.parcel.by_depot.range(source):
        if moved == limit:
            raise Rejected("too_many", limit=limit, first=row.label, weight=row.weight, kept=True)
        depot_rules.reroute(db, row, target)
        moved += 1
    if moved == 0:
        add_depot(db, source, "again")
    return depot_rules.checked(moved)


@app.transaction
def fill(db: Db, owner: int, depot: Code, prefix: int, count: int) -> int:
    """Many rows in one transaction: tables and indexes must grow."""
    for number in range(count):
        db.shelf.insert(depot=depot, number=prefix * 1_000_000 + number, used=owner)
    return len(db.shelf)


@app.transaction
def give_back(db: Db, id: int) -> Owner:
    return db.owner[id]


@app.transaction
def maybe(db: Db, price: int | None, name: Name | None, point: Point | None = None) -> Missing:
    if name is not None and name == "fail":
        raise Rejected(UNKNOWN, price=price, name=name)
    if point is not None and point.x > 0:
        return Missing(point.x)
    if price == 5:
        return Missing(why="five", at=None)
    return Missing(price, name)


@app.transaction
def now(db: Db) -> tuple[int, int]:
    return db.now, db.sequence


@app.transaction
def compute(db: Db, what: int, a: int, b: int) -> int:
    """Arithmetic at the edge of 64 bits, by number."""
    if what == 0:
        return a + b
    if what == 1:
        return a - b
    if what == 2:
        return a * b
    if what == 3:
        return a // b
    if what == 4:
        return a % b
    if what == 5:
        return -a
    if what == 6:
        return abs(a)
    if what == 7:
        return a << b
    if what == 8:
        return a >> b
    if what == 9:
        return (a * b) // (b * b)  # too large on the way, not in the end
    if what == 10:
        return (a & b) | (a ^ LIMIT)
    return min(a, b) + max(a, b) + int(a > b) + (a > b)


@app.transaction
def compute_float(db: Db, a: int, b: int, c: float) -> tuple[float, float, float]:
    return a / b, c / b + a, -c * (c - 1.0)


@app.transaction
def store_large(db: Db, id: int, factor: int) -> int:
    row = db.owner[id]
    row.weight = factor  # an int into a float column
    shelf = db.shelf.get_or_insert(depot="BIG", number=id)
    shelf.used = factor * factor
    return shelf.used


@app.transaction
def compare_text(db: Db, a: Name, b: Code) -> tuple[bool, bool, bool, bool, bool, bool, bool]:
    return a == b, a != b, a < b, a <= b, a > b, a >= b, b > "M"


@app.transaction
def truths(db: Db, id: int, price: int | None, name: Name | None, weight: float) -> int:
    row = db.owner.get(id)
    found = 0
    if not row:
        found += 1
    if price:
        found += 2
    if not name:
        found += 4
    if weight or found == 1:
        found += 8
    if price == 5 or name == "x" or price is None != name is None:
        found += 16
    if row and not row.trusted and id in (1, 2, 3):
        found += 32
    return found


@app.transaction
def book(
    db: Db,
    lines: Annotated[list[Line], items(0, 5)],
    more: Annotated[tuple[int, ...], items(0, 3)] = (),
    pick: int = 0,
) -> tuple[int, float, bool]:
    """Lists: walked, counted, indexed, and passed on to a helper."""
    total, weight = depot_rules.sum_of(more), 0.0
    for position, line in enumerate(lines, 1):
        shelf = db.shelf.get_or_insert(depot=line.depot, number=line.number)
        shelf.used += position
        if line.weight is not None:
            weight += line.weight
        if line.state == State.LOST:
            raise Rejected("lost_line", position=position, depot=line.depot)
    for i in range(len(lines)):
        total += i * lines[i].number
    if lines and pick != 0:
        total += lines[pick].number + lines[-1].point.x
    return total, weight, len(lines) == len(more)


@app.transaction
def fail(db: Db, how: int) -> int:
    if how == 0:
        assert len(db.owner) < 0, "never"
    if how == 1:
        raise ValueError("a bug")
    depot_rules.refuse(how)
    return how


@app.transaction(compiled=False)
def by_hand(db: Db) -> list[int]:
    return sorted({row.id for row in db.owner})
