"""The application by which `docs/semantics.md` is tested, in both lanes."""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, NamedTuple

from diptych import (
    App,
    Day,
    Db,
    Rejected,
    Time,
    between,
    bits,
    data,
    f32,
    i8,
    key,
    ordered,
    ref,
    scaled,
    text,
    u64,
    unique,
)

app = App("semantics", compiled=True)
Short = Annotated[int, bits(16), between(-10, 1000)]
Price = Annotated[int, scaled(2)]
Share = Annotated[float, between(0.0, 1.0)]
Name = Annotated[str, text(6)]
Title = Annotated[str, text(20)]
Code = Annotated[bytes, data(3)]
Digest = Annotated[bytes, data(16)]
STEPS_MAX = 10**12  # as many digits


class Color(IntEnum):
    RED = 1
    BLUE = -2


@app.table(capacity=100)
class Owner:
    id: int = key()
    items: int = 0


@app.table(capacity=100)
class Number:
    id: int = key()
    whole: int = 0
    tiny: i8 = 0
    short: Short = 0
    large: u64 = 0
    flag: bool = False
    color: Annotated[Color, bits(8)] = Color.RED
    price: Price = 0
    real: float = 0.0
    half: f32 = 0.0
    share: Share = 0.0
    day: Day = 0
    time: Time = 0
    by_tiny = ordered("tiny")
    by_large = ordered("large")
    by_real = ordered("real")
    by_half = ordered("half")


@app.table(capacity=100)
class Word:
    id: int = key()
    name: Name = ""
    title: Title = "untitled"
    code: Code = b"\0\0\0"
    digest: Digest = b"sixteen bytes ok"
    note: str = ""
    by_name = ordered("name")
    by_code = ordered("code", "digest")


@app.table(capacity=100)
class Perhaps:
    id: int = key()
    number: int | None
    label: Title | None
    owner: int | None = ref(Owner)
    note: str | None
    by_number = ordered("number", "id")
    by_label = unique("label")
    by_both = unique("owner", "number")


@app.table(capacity=9)
class Item:
    id: int = key(auto=True)
    rank: int = 0
    serial: int = 0
    owner: int = ref(Owner)
    by_rank = ordered("rank")
    by_serial = unique("serial")


class Numbers(NamedTuple):
    whole: int
    tiny: int
    short: int
    flag: bool
    color: int
    price: Price
    real: float
    half: float
    share: float
    day: Day
    time: Time


class Words(NamedTuple):
    name: Name
    title: Title
    code: Code
    digest: Digest


class Maybes(NamedTuple):
    number: int | None
    label: Title | None
    owner: int | None


class Found(NamedTuple):
    """Rows by which ends an index has, and how many are between."""

    first: int
    last: int
    count: int


# Numbers ----------------------------------------------------------------------------------------


@app.transaction
def compute(db: Db, what: int, a: int, b: int, c: int) -> int:
    if what == 0:
        return a * b // c
    if what == 1:
        return a // b
    if what == 2:
        return a % b
    if what == 3:
        return a << b
    if what == 4:
        return a >> b
    if what == 5:
        return abs(a) - b
    if what == 6:
        return -a - b
    return min(a, b, c) + max(a, b, c)


@app.transaction
def quotient(db: Db, a: int, b: int) -> float:
    return a / b


@app.transaction
def compute_float(db: Db, what: int, a: float, b: float) -> float:
    if what == 0:
        return a / b
    if what == 1:
        return a * b
    return a - b


@app.transaction
def new_number(db: Db, id: int, tiny: int = 0, short: int = 0, large: int = 0) -> None:
    db.number.insert(id=id, tiny=tiny, short=short, large=large)


@app.transaction
def set_int(db: Db, id: int, what: int, value: int) -> None:
    row = db.number[id]
    if what == 0:
        row.whole = value
    elif what == 1:
        row.tiny = value
    elif what == 2:
        row.short = value
    elif what == 3:
        row.large = value
    elif what == 4:
        row.color = value
    elif what == 5:
        row.price = value * row.price
    elif what == 6:
        row.day = value
    elif what == 7:
        row.time = value
    else:
        row.real = value
        row.half = value


@app.transaction
def set_flag(db: Db, id: int, flag: bool) -> int:
    row = db.number[id]
    row.flag = flag
    row.whole = flag  # True is 1
    return row.whole + row.flag


@app.transaction
def set_real(db: Db, id: int, real: float, half: float, share: float) -> None:
    row = db.number[id]
    row.real = real
    row.half = half
    row.share = share


@app.transaction
def numbers(db: Db, id: int) -> Numbers:
    row = db.number[id]
    return Numbers(
        row.whole,
        row.tiny,
        row.short,
        row.flag,
        row.color,
        row.price,
        row.real,
        row.half,
        row.share,
        row.day,
        row.time,
    )


@app.transaction
def large_half(db: Db, id: int) -> int:
    return db.number[id].large // 2


@app.transaction
def find_tiny(db: Db, tiny: int) -> Found:
    row = db.number.by_tiny.first(tiny)
    count = 0
    for _ in db.number.by_tiny.range(start=-1000, stop=tiny):
        count += 1
    return Found(row.id if row is not None else 0, len(db.number), count)


@app.transaction
def find_large(db: Db, large: int) -> int:
    row = db.number.by_large.first(large)
    return row.id if row is not None else 0


@app.transaction
def by_real(db: Db, start: float) -> int:
    found = 0
    for row in db.number.by_real.range(start=start):
        found = found * 10 + row.id
    return found


@app.transaction
def by_half(db: Db, start: float) -> int:
    found = 0
    for row in db.number.by_half.range(start=start):
        found = found * 10 + row.id
    return found


@app.transaction
def is_red(db: Db, id: int) -> bool:
    row = db.number[id]
    return row.color == Color.RED and row.color * 2 == 2


@app.transaction
def compare_floats(db: Db, a: float, b: float) -> tuple[bool, bool, bool, bool]:
    return a == b, a != b, a < b, a >= b


# Text and bytes ---------------------------------------------------------------------------------


@app.transaction
def new_word(db: Db, id: int, name: Title, title: Title = "untitled") -> None:
    """The column `name` is shorter than the parameter."""
    db.word.insert(id=id, name=name, title=title)


@app.transaction
def set_data(db: Db, id: int, code: Code, digest: Digest) -> bool:
    row = db.word[id]
    row.code = code
    row.digest = digest
    return row.code == b"abc" or row.digest != digest


@app.transaction
def words(db: Db, id: int) -> Words:
    row = db.word[id]
    return Words(row.name, row.title, row.code, row.digest)


@app.transaction
def by_name(db: Db, start: Name) -> int:
    found = 0
    for row in db.word.by_name.range(start=start):
        found = found * 10 + row.id
    return found


@app.transaction
def by_code(db: Db, start: Code) -> int:
    found = 0
    for row in db.word.by_code.range(start=start):
        found = found * 10 + row.id
    return found


@app.transaction
def compare_text(db: Db, a: Title, b: Title) -> tuple[bool, bool, bool]:
    return a == b, a < b, a >= b


@app.transaction
def drop_word(db: Db, id: int) -> None:
    db.word.delete(db.word[id])


@app.transaction(compiled=False)
def set_note(db: Db, id: int, note: str) -> str:
    row = db.word[id]
    row.note = note
    note_of_row: str = row.note
    return note_of_row


# None -------------------------------------------------------------------------------------------


@app.transaction
def new_perhaps(
    db: Db, id: int, number: int | None, label: Title | None, owner: int | None
) -> None:
    db.perhaps.insert(id=id, number=number, label=label, owner=owner)


@app.transaction
def new_empty(db: Db, id: int) -> bool:
    row = db.perhaps.insert(id=id)
    return row.number is None and row.label is None and row.owner is None


@app.transaction
def set_perhaps(
    db: Db, id: int, number: int | None, label: Title | None, owner: int | None
) -> Maybes:
    row = db.perhaps[id]
    row.number = number
    row.label = label
    row.owner = owner
    return Maybes(row.number, row.label, row.owner)


@app.transaction
def clear_perhaps(db: Db, id: int) -> None:
    row = db.perhaps[id]
    row.number = None
    row.label = None
    row.owner = None


@app.transaction
def perhaps(db: Db, id: int) -> Maybes:
    row = db.perhaps[id]
    return Maybes(row.number, row.label, row.owner)


@app.transaction
def none_into_int(db: Db, id: int, whole: int | None) -> None:
    db.number[id].whole = whole


@app.transaction
def add_to_number(db: Db, id: int, more: int, compare: bool) -> bool:
    row = db.perhaps[id]
    if compare:
        return row.number < more
    row.number += more
    return row.number == more


@app.transaction
def by_number(db: Db, prefix: int | None, reverse: bool) -> int:
    found = 0
    for row in db.perhaps.by_number.range(prefix, reverse=reverse):
        found = found * 10 + row.id
    return found


@app.transaction
def from_number(db: Db, start: int | None) -> tuple[int, int]:
    found = below = 0
    for row in db.perhaps.by_number.range(start=start):
        found = found * 10 + row.id
    for row in db.perhaps.by_number.range(stop=start):
        below = below * 10 + row.id
    return found, below


# Rows, walks, keys ------------------------------------------------------------------------------


@app.transaction
def new_owner(db: Db, id: int) -> None:
    db.owner.insert(id=id)


@app.transaction
def drop_owner(db: Db, id: int) -> None:
    db.owner.delete(db.owner[id])


@app.transaction
def new_item(db: Db, id: int, rank: int, serial: int, owner: int) -> int:
    return db.item.insert(id=id, rank=rank, serial=serial, owner=owner).id


@app.transaction
def counted_item(db: Db, serial: int) -> int:
    return db.item.insert(serial=serial, owner=1).id


@app.transaction
def set_item(db: Db, id: int, serial: int, owner: int) -> None:
    row = db.item[id]
    row.serial = serial
    row.owner = owner


@app.transaction
def swap_serials(db: Db, a: int, b: int, careful: bool) -> None:
    left, right = db.item[a], db.item[b]
    mine = left.serial
    if careful:
        theirs = right.serial
        right.serial = -1
        left.serial = theirs
    else:
        left.serial = right.serial
    right.serial = mine


@app.transaction
def get_or_new(db: Db, id: int, serial: int, owner: int) -> int:
    return db.item.get_or_insert(id=id, serial=serial, owner=owner).serial


@app.transaction
def drop_item(db: Db, id: int) -> None:
    db.item.delete(db.item[id])


@app.transaction
def replace_item(db: Db, id: int, serial: int) -> int:
    db.item.delete(db.item[id])
    return db.item.insert(serial=serial, owner=1).id


@app.transaction
def use_deleted(db: Db, id: int, what: int) -> int:
    row = db.item[id]
    other = db.item[id]
    db.item.delete(row)
    if what == 0:
        return row.rank
    if what == 1:
        other.rank = 5
    if what == 2:
        other.owner = 1
    if what == 3:
        db.item.delete(other)
    return 0


@app.transaction
def two_rows(db: Db, id: int) -> tuple[int, int, bool]:
    row, other = db.item[id], db.item[id]
    before = other.rank
    row.rank = before + 7
    return before, other.rank, row == other


@app.transaction
def act(db: Db, what: int, id: int, rank: int) -> None:
    if what == 1:
        db.item.insert(id=id, rank=rank, serial=id + 100, owner=1)
    elif what == 2:
        db.item.delete(db.item[id])
    elif what == 3:
        db.item[id].rank = rank


@app.transaction
def walk(db: Db, reverse: bool, at: int, what: int, id: int, rank: int) -> int:
    """Rows in the order of the index, as digits; at one of them something is changed."""
    found = 0
    for row in db.item.by_rank.range(start=0, stop=100, reverse=reverse):
        found = found * 10 + row.id
        if row.id == at:
            act(db, what, id, rank)
        if found >= STEPS_MAX:
            break
    return found


@app.transaction
def push_all(db: Db, by: int) -> int:
    """Moves each row that it meets, ahead of the walk or behind it."""
    steps = 0
    for row in db.item.by_rank.range(stop=100):
        row.rank += by
        steps += 1
    return steps


@app.transaction
def walk_slots(db: Db, at: int, what: int, id: int) -> int:
    """The same over the table itself."""
    found = 0
    for row in db.item:
        found = found * 10 + row.id
        if row.id == at:
            act(db, what, id, 0)
    return found


@app.transaction
def ends(db: Db) -> tuple[int, int]:
    """The least rank is made the greatest, and both ends are looked up before and after."""
    first, last = db.item.by_rank.first(), db.item.by_rank.last()
    if first is None or last is None:
        return 0, 0
    first.rank = last.rank + 1
    newest = db.item.by_rank.last()
    return first.id, newest.id if newest is not None else 0


@app.transaction
def nested(db: Db, depth: int) -> int:
    """Loops in loops, all of which go on."""
    total = 0
    for row in db.item.by_rank.range():
        total += row.id
        if depth > 1 and row.id == 1:
            total += nested(db, depth - 1)
    return total


# Time, errors -----------------------------------------------------------------------------------


@app.transaction
def now(db: Db) -> tuple[Time, int, bool]:
    return db.now, db.sequence, db.now == db.now


@app.transaction
def draw(db: Db) -> tuple[float, float, int, int, int]:
    first, second = db.random.random(), db.random.random()
    return (
        first,
        second,
        db.random.integers(6),
        db.random.integers(-3, 3),
        db.random.integers(low=-(2**62), high=2**62),
    )


@app.transaction
def draw_between(db: Db, low: int, high: int) -> int:
    db.item.insert(serial=db.random.integers(1_000), owner=1)
    return db.random.integers(low, high)


@app.transaction
def draw_often(db: Db, low: int, high: int, count: int) -> tuple[int, int, int]:
    """The least, the greatest, and how many were the least."""
    least, greatest, hits = high, low, 0
    for _ in range(count):
        drawn = db.random.integers(low, high)
        least, greatest = min(least, drawn), max(greatest, drawn)
        if drawn == low:
            hits += 1
    return least, greatest, hits


@app.transaction
def draw_and_give_up(db: Db, large: int) -> int:
    """Compiled code gives this up when `large` is, after it has drawn."""
    db.item.insert(serial=db.random.integers(1_000_000), owner=1)
    return large * large // large


@app.query(compiled=False)
def draw_in_a_query(db: Db) -> float:
    return db.random.random()


@app.transaction
def fail(db: Db, how: int) -> int:
    """Writes, and then fails."""
    db.owner.insert(id=50)
    db.item[1].rank = 50
    db.item.delete(db.item[2])
    if how == 0:
        raise Rejected("as_written", how=how, owner=db.owner[50].id)
    if how == 1:
        raise ValueError("a bug")
    if how == 2:
        return 1 // (how - 2)
    if how == 3:
        db.owner.insert(id=50)
    if how == 4:
        return db.owner[51].items
    assert how > 5, "never"
    return how


@app.transaction
def write_much(db: Db, count: int) -> None:
    for number in range(count):
        db.item[1].rank = number


@app.transaction(compiled=False)
def catch(db: Db, what: int) -> int:
    """What a handler should not do: the one operation is undone, the rest stays."""
    db.item[1].rank = 11
    try:
        if what == 0:
            db.item.insert(id=9, serial=db.item[1].serial, owner=1)
        elif what == 1:
            db.item[1].serial = db.item[2].serial
        else:
            db.item[1].owner = 77
    except Rejected:
        return len(db.item)
    return -1


# Text, lists and sets that are built ------------------------------------------------------------


@app.transaction
def build_text(db: Db, one: Title, other: Title, number: int) -> tuple[Title, bool, int]:
    text = f"{one} {number:03}" + other
    return text[:number], other in one, len(text)


@app.transaction
def build_list(db: Db, count: int, at: int) -> list[int]:
    """Counts down from `count` in a list that grows while it is walked, and `at` an item of it."""
    found: list[int] = []
    again = found
    again.append(count)
    for number in found:
        if number > 0:
            again.append(number - 1)
    found.append(found[at])
    return found


@app.transaction
def count_distinct(db: Db, count: int, modulo: int) -> tuple[int, bool]:
    seen: set[int] = set()
    for number in range(count):
        seen.add(number % modulo)
    return len(seen), 0 in seen
