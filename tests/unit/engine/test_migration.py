"""Stored data in the tables of newer code: what goes by itself, what needs help."""

from __future__ import annotations

import os
import random
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from tests.support.versions import opened, store
from tests.unit.durable.checkpoints import flip, pages_file

from diptych import (
    App,
    Day,
    Db,
    Time,
    between,
    bits,
    data,
    f32,
    i8,
    i16,
    i32,
    key,
    ordered,
    ref,
    scaled,
    text,
    u8,
    u64,
    unique,
)
from diptych.durable import checkpoints_in
from diptych.engine.engine import Engine
from diptych.errors import ConfigurationError, DeclarationError, EvolutionError
from diptych.evolution import compare

ROWS = 3_000


class Side(IntEnum):
    BUY = 1
    SELL = 2


def shop(version: int = 1, **columns: Any) -> App:
    """An app with one table `item` of a key and such columns: (annotation, default or mark)."""
    app = App("shop", version=version)
    namespace: dict[str, Any] = {"__annotations__": {"id": int}, "id": key()}
    capacity = columns.pop("capacity", 10_000)
    for name, given in columns.items():
        if isinstance(given, tuple):
            namespace["__annotations__"][name] = given[0]
            if len(given) > 1:
                namespace[name] = given[1]
        else:
            namespace[name] = given
    app.table(capacity=capacity)(type("Item", (), namespace))
    return app


def fill(db: Db) -> None:
    """Rows with holes among them, in no order."""
    numbers = list(range(ROWS))
    random.Random(1).shuffle(numbers)
    for number in numbers:
        db.item.insert(id=number, price=number % 97)
    for number in range(0, ROWS, 7):
        db.item.delete(db.item[number])


def expected() -> dict[int, int]:
    return {number: number % 97 for number in range(ROWS) if number % 7}


def prices(engine: Engine) -> dict[int, int]:
    return {row.id: row.price for row in engine.db.item}


def files(path: Path) -> dict[str, bytes]:
    return {name: (path / name).read_bytes() for name in sorted(os.listdir(path)) if name != "lock"}


def test_the_same_tables_are_loaded_as_they_are(tmp_path: Path) -> None:
    app = shop(price=(int, 0))
    store(app, tmp_path, fill)
    before = files(tmp_path)
    with opened(app, tmp_path) as engine:
        assert prices(engine) == expected()
        assert (engine.sequence, engine.history) == (1, 2)
        engine.transact(lambda db: db.item.insert(id=0, price=5))
        engine.verify()
    assert files(tmp_path) == before


def test_an_empty_directory_has_nothing(tmp_path: Path) -> None:
    with pytest.raises(AssertionError), opened(shop(price=(int, 0)), tmp_path):
        pass


def test_added_columns_indexes_and_tables(tmp_path: Path) -> None:
    store(shop(price=(int, 0)), tmp_path, fill)
    newer = shop(
        price=(int, 0),
        stock=(int, 12),
        name=(Annotated[str, text(20)], "nameless"),
        ratio=(float, -0.0),
        by_price=ordered("price", "id"),
        by_both=unique("name", "id"),
    )

    @newer.table
    class Label:
        id: int = key()

    with opened(newer, tmp_path) as engine:
        db = engine.db
        assert prices(engine) == expected()
        assert {(row.stock, row.name, row.ratio) for row in db.item} == {(12, "nameless", 0.0)}
        ranked = [(row.price, row.id) for row in db.item.by_price.range()]
        assert ranked == sorted((price, id) for id, price in expected().items())
        assert [row.id for row in db.item.by_both.range("nameless")] == sorted(expected())
        assert len(db.label) == 0
        assert engine.sequence == 2

        def change(db: Db) -> None:
            db.label.insert(id=1)
            for number in range(0, ROWS, 7):
                db.item.insert(id=number, price=1, name="late")
            for number in range(1, ROWS, 14):
                db.item.delete(db.item[number])

        engine.transact(change)
        engine.verify()
    kept = checkpoints_in(tmp_path)
    assert [checkpoint.sequence for checkpoint in kept] == [1, 2]


def test_what_was_migrated_is_saved_and_loaded_as_it_is(tmp_path: Path) -> None:
    store(shop(price=(int, 0)), tmp_path, fill)
    newer = shop(price=(int, 0), stock=(int, 12))
    with opened(newer, tmp_path) as engine:
        migrated = engine.region.words[: engine.layout.scratch_word].copy()
    before = files(tmp_path)
    with opened(newer, tmp_path) as engine:
        assert (engine.region.words[: engine.layout.scratch_word] == migrated).all()
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (i8, int),
        (i8, i16),
        (u8, i16),
        (int, i32),  # narrower, but all that is there fits
        (int, int | None),
        (i32 | None, int),  # None is nowhere
        (Annotated[int, between(0, 100)], Annotated[int, between(0, 200)]),
        (int, Annotated[int, between(0, 96)]),
    ],
)
def test_numbers_that_fit_their_new_type(tmp_path: Path, before: Any, after: Any) -> None:
    store(shop(price=(before, 0)), tmp_path, fill)
    with opened(shop(price=(after, 0)), tmp_path) as engine:
        assert prices(engine) == expected()


def test_longer_text_and_floats(tmp_path: Path) -> None:
    names = [f"n{number}" * (number % 3) for number in range(1000)]

    def fill(db: Db) -> None:
        for number, name in enumerate(names):
            db.item.insert(id=number, name=name[:8], short=name[:3], ratio=number / 4)

    store(
        shop(
            name=(Annotated[str, text(8)], ""),
            short=(Annotated[str, text(3)], ""),
            ratio=(f32, 0.0),
        ),
        tmp_path,
        fill,
    )
    newer = shop(
        ratio=(float, 0.0),
        short=(Annotated[str, text(30)], ""),
        name=(Annotated[str, text(12)] | None, None),
        by_name=ordered("name"),
    )
    with opened(newer, tmp_path) as engine:
        for number, name in enumerate(names):
            row = engine.db.item[number]
            assert (row.name, row.short, row.ratio) == (name[:8], name[:3], number / 4)


def test_a_counter_goes_on_where_it_was(tmp_path: Path) -> None:
    app, newer = App("shop"), App("shop")
    for each in (app, newer):
        namespace = {"__annotations__": {"id": int}, "id": key(auto=True)}
        if each is newer:
            namespace["__annotations__"]["price"] = int  # type: ignore[index]
            namespace["price"] = 0
        each.table(type("Item", (), namespace))

    def fill(db: Db) -> None:
        for _ in range(10):
            db.item.insert()
        db.item.delete(db.item[10])

    store(app, tmp_path, fill)
    with opened(newer, tmp_path) as engine:
        assert engine.transact(lambda db: db.item.insert().id) == 11


def test_capacity_goes_up_and_down(tmp_path: Path) -> None:
    app = shop(price=(int, 0))
    store(app, tmp_path, fill)
    with opened(app, tmp_path, {"item": 50_000}) as engine:
        assert prices(engine) == expected()
    with opened(app, tmp_path, {"item": len(expected())}) as engine:
        assert prices(engine) == expected()
    before = files(tmp_path)
    with (
        pytest.raises(EvolutionError, match="2,571 rows are more than the capacity 2000"),
        opened(app, tmp_path, {"item": 2000}),
    ):
        pass
    assert files(tmp_path) == before


def test_only_the_version_changes(tmp_path: Path) -> None:
    store(shop(price=(int, 0)), tmp_path, fill)
    with opened(shop(version=5, price=(int, 0)), tmp_path) as engine:
        assert prices(engine) == expected()
    with (
        pytest.raises(EvolutionError, match=r"is of version 5 .* this is version 1: older code"),
        opened(shop(price=(int, 0)), tmp_path),
    ):
        pass


@pytest.mark.parametrize(
    ("columns", "lines"),
    [
        ({}, ["table item, column price: removed"]),
        ({"price": (float, 0.0)}, ["table item, column price: int -> float"]),
        (
            {"price": (Annotated[int, scaled(2)], 0)},
            ["table item, column price: int -> int scaled(2)"],
        ),
        (
            {"price": (int, 0), "note": (Annotated[str, text(8)],)},
            ["table item, column note: new, text(8), without a default for the rows there are"],
        ),
        (
            {"price": (int, key())},
            [
                "table item, key: id -> id, price",
                "table item, column price: default 0 -> none, for new rows",
            ],
        ),
        (
            {"price": (float, 0.0), "more": (i8 | None,), "by_more": ordered("more")},
            [
                "table item, column price: int -> float",
                "table item, column more: new, i8 | None, filled with None",
                "table item, index by_more: new, ordered(more)",
            ],
        ),
    ],
)
def test_what_needs_a_migration_is_refused_and_listed(
    tmp_path: Path, columns: dict[str, Any], lines: list[str]
) -> None:
    store(shop(price=(int, 0)), tmp_path, fill)
    before = files(tmp_path)
    with pytest.raises(EvolutionError) as refused, opened(shop(**columns), tmp_path):
        pass
    message = str(refused.value)
    listed = [line.strip() for line in message.splitlines() if line.startswith("  table ")]
    assert listed == lines
    assert "@app.migration(from_version=1)" in message
    assert 'App("shop", version=2)' in message
    assert files(tmp_path) == before


def test_a_removed_table_is_refused(tmp_path: Path) -> None:
    app = shop(price=(int, 0))

    @app.table
    class Label:
        id: int = key()

    store(app, tmp_path, fill)
    with (
        pytest.raises(EvolutionError, match="  table label: removed"),
        opened(shop(price=(int, 0)), tmp_path),
    ):
        pass


class Three(IntEnum):
    BUY = 1
    SELL = 2
    CANCEL = 3


class Swapped(IntEnum):
    BUY = 2
    SELL = 1


class One(IntEnum):
    BUY = 1


def test_members_of_an_enum(tmp_path: Path) -> None:
    def fill(db: Db) -> None:
        for number in range(100):
            db.item.insert(id=number, side=Side.SELL if number % 2 else Side.BUY)

    store(shop(side=(Side, Side.BUY)), tmp_path, fill)
    with (
        pytest.raises(EvolutionError, match="members have other numbers: BUY = 1 -> 2"),
        opened(shop(side=(Swapped, Swapped.BUY)), tmp_path),
    ):
        pass
    with (
        pytest.raises(EvolutionError, match="column side: 2 is no member of One"),
        opened(shop(side=(One, One.BUY)), tmp_path),
    ):
        pass
    with opened(shop(side=(Three, Three.BUY)), tmp_path) as engine:
        assert engine.db.item[1].side is Three.SELL


class Backwards(IntEnum):
    SELL = 2
    BUY = 1


def test_the_order_of_members_is_no_difference() -> None:
    old, new = (
        list(shop(side=(side, side.BUY)).tables.values())  # type: ignore[attr-defined]
        for side in (Backwards, Side)
    )
    # They differ in the name of the class alone.
    assert [each.told for each in compare(old, new).differences] == ["Backwards -> Side"]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ((i8, 0), "column price: 200 is not within -128 to 127"),
        ((Annotated[int, between(3, 500)], 3), "column price: -5 is not within 3 to 500"),
    ],
)
def test_values_that_do_not_fit_are_refused(tmp_path: Path, column: Any, message: str) -> None:
    def fill(db: Db) -> None:
        for number, price in enumerate((5, 200, -5)):
            db.item.insert(id=number, price=price)

    store(shop(price=(int, 0)), tmp_path, fill)
    before = files(tmp_path)
    with pytest.raises(EvolutionError, match=message), opened(shop(price=column), tmp_path):
        pass
    assert files(tmp_path) == before


def test_a_short_float_at_its_bound_stays(tmp_path: Path) -> None:
    ratio = Annotated[f32, between(0.0, 0.3)]
    store(shop(price=(ratio,)), tmp_path, lambda db: db.item.insert(id=1, price=0.3))
    with opened(shop(price=(ratio,), capacity=20_000), tmp_path) as engine:
        assert engine.db.item[1].price == float(np.float32(0.3)) > 0.3


def test_none_where_there_may_be_none_no_more(tmp_path: Path) -> None:
    store(shop(price=(int | None,)), tmp_path, lambda db: db.item.insert(id=1))
    with (
        pytest.raises(EvolutionError, match="column price: 1 rows have None"),
        opened(shop(price=(int, 0)), tmp_path),
    ):
        pass


def test_an_index_that_can_not_be_unique(tmp_path: Path) -> None:
    store(shop(price=(int, 0)), tmp_path, fill)
    before = files(tmp_path)
    with (
        pytest.raises(EvolutionError, match="index by_price: unique, but rows agree"),
        opened(shop(price=(int, 0), by_price=unique("price")), tmp_path),
    ):
        pass
    assert files(tmp_path) == before


def migrating() -> App:
    """Version 2: prices are floats, and a summary is kept of them."""
    newer = shop(version=2, price=(float, 0.0), by_price=ordered("price"))

    @newer.table
    class Summary:
        id: int = key()
        total: float = 0.0

    @newer.migration(from_version=1)
    def to_floats(old: Db, new: Db) -> None:
        for row in old.item:
            new.item.insert(id=row.id, price=row.price / 2)
        new.summary.insert(id=1, total=float(old.item.columns().price.sum()) / 2)

    return newer


def test_a_migration_function_fills_what_differs(tmp_path: Path) -> None:
    store(shop(price=(int, 0)), tmp_path, fill)
    newer = migrating()
    with opened(newer, tmp_path) as engine:
        assert prices(engine) == {number: price / 2 for number, price in expected().items()}
        assert engine.db.summary[1].total == sum(expected().values()) / 2
        low = engine.db.item.by_price.first()
        assert low is not None
        assert low.price == 0
        assert engine.sequence == 2
    with opened(newer, tmp_path) as engine:
        assert len(engine.db.item) == len(expected())


def test_a_migration_that_fails_leaves_all_as_it_was(tmp_path: Path) -> None:
    store(shop(price=(int, 0)), tmp_path, fill)
    before = files(tmp_path)
    newer = shop(version=2, price=(float, 0.0))

    @newer.migration(from_version=1)
    def broken(old: Db, new: Db) -> None:
        new.item.insert(id=1, price=2.0)
        raise ZeroDivisionError("a bug in a migration")

    with pytest.raises(ZeroDivisionError), opened(newer, tmp_path):
        pass
    assert files(tmp_path) == before


def test_invariants_hold_after_a_migration_or_it_fails(tmp_path: Path) -> None:
    store(shop(price=(int, 0)), tmp_path, fill)
    before = files(tmp_path)
    newer = shop(price=(int, 0), stock=(int, 1))

    @newer.invariant
    def everything_is_sold_out(db: Db) -> bool:
        return not db.item.columns().stock.any()

    with (
        pytest.raises(EvolutionError, match="everything_is_sold_out does not hold"),
        opened(newer, tmp_path),
    ):
        pass
    assert files(tmp_path) == before


def test_old_data_can_not_be_changed_by_a_migration(tmp_path: Path) -> None:
    store(shop(price=(int, 0)), tmp_path, fill)
    newer = shop(version=2, price=(int, 0))

    @newer.migration(from_version=1)
    def wrong(old: Db, new: Db) -> None:
        old.item.delete(old.item[1])

    with pytest.raises(Exception, match="can't change data"), opened(newer, tmp_path):
        pass


def test_a_long_migration_keeps_its_undo_log_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diptych.engine import migration
    from diptych.store import words as at

    monkeypatch.setattr(migration, "UNDO_KEPT_WORDS", 1000)
    store(shop(price=(int, 0)), tmp_path, fill)
    newer = shop(version=2, price=(float, 0.0))
    longest = []

    @newer.migration(from_version=1)
    def to_floats(old: Db, new: Any) -> None:
        for row in old.item:
            new.item.insert(id=row.id, price=row.price / 2)
            longest.append(int(new.space.scratch[at.S_UNDO_TOP]))

    with opened(newer, tmp_path) as engine:
        assert len(engine.db.item) == len(expected())
    assert 0 < max(longest) < 2000


def test_data_of_another_application(tmp_path: Path) -> None:
    store(shop(price=(int, 0)), tmp_path, fill)
    other = App("bank")
    other.table(type("Item", (), {"__annotations__": {"id": int}, "id": key()}))
    with (
        pytest.raises(ConfigurationError, match="'shop', not of 'bank'"),
        opened(other, tmp_path),
    ):
        pass


def test_damage_is_refused_with_what_to_do(tmp_path: Path) -> None:
    app = shop(price=(int, 0))
    store(app, tmp_path, fill)
    store(app, tmp_path, fill)
    first, second = checkpoints_in(tmp_path)
    flip(pages_file(second), 4096)
    with pytest.raises(ConfigurationError) as damaged, opened(app, tmp_path):
        pass
    message = str(damaged.value)
    assert f"{second.path} is damaged: pages-2.diptych: page 1" in message
    assert f"move {second.path.name} out of {tmp_path}" in message
    assert "diptych check" in message
    second.path.rename(tmp_path / "aside")
    with opened(app, tmp_path) as engine:
        assert prices(engine) == expected()
    first.path.unlink()
    (tmp_path / "aside").rename(second.path)
    with pytest.raises(ConfigurationError, match="every checkpoint in"), opened(app, tmp_path):
        pass


def test_references_and_class_names_may_change(tmp_path: Path) -> None:
    app, newer = App("shop"), App("shop")

    @app.table
    class Owner:
        id: int = key()

    @app.table
    class Parcel:
        id: int = key()
        owner: int = 0

    newer.table(Owner)
    newer.table(
        type(
            "Parcel",
            (),
            {"__annotations__": {"id": int, "owner": int}, "id": key(), "owner": ref(Owner)},
        )
    )

    def fill(db: Db) -> None:
        db.owner.insert(id=1)
        db.parcel.insert(id=1, owner=1)

    store(app, tmp_path, fill)
    with opened(newer, tmp_path) as engine:
        assert engine.db.parcel[1].owner == 1
        assert np.array_equal(engine.db.parcel.columns().owner, [1])


EVERY_KIND: dict[str, tuple[Any, Any]] = {
    "whole": (int, -5),
    "tiny": (i8, -5),
    "small": (u8, 250),
    "unsigned": (u64, 2**64 - 1),
    "real": (float, 2.5),
    "short": (f32, -0.75),
    "flag": (bool, True),
    "side": (Annotated[Side, bits(8)], Side.SELL),
    "code": (Annotated[str, text(3)], "abc"),
    "name": (Annotated[str, text(20)], "a longer name"),
    "hash": (Annotated[bytes, data(4)], b"\0\1\2\xff"),
    "digest": (Annotated[bytes, data(12)], bytes(range(12))),
    "day": (Day, 19_000),
    "time": (Time, 1_700_000_000_000_000_000),
    "maybe": (i16 | None, 7),
    "maybe_not": (Annotated[str, text(20)] | None, None),
}


def test_defaults_of_every_kind(tmp_path: Path) -> None:
    store(shop(price=(int, 0)), tmp_path, fill)
    with opened(shop(price=(int, 0), **EVERY_KIND), tmp_path) as engine:
        inserted = engine.transact(lambda db: db.item.insert(id=0).id)
        for name, (_, default) in EVERY_KIND.items():
            for number in (inserted, 1, ROWS - 1):
                assert getattr(engine.db.item[number], name) == default, name
            column = getattr(engine.db.item.columns(), name)
            assert len(column) == len(expected()) + 1
            assert len(set(column.tolist())) == 1, name


def test_values_of_every_kind_come_along(tmp_path: Path) -> None:
    """With None among them, into a table with a column and an index more."""
    given = {name: (kind, default) for name, (kind, default) in EVERY_KIND.items()}

    def values(number: int) -> dict[str, Any]:
        return {
            "whole": -number,
            "tiny": number % 256 - 128,
            "small": number % 256,
            "unsigned": 2**64 - 1 - number,
            "real": number / 7,
            "short": number / 4,
            "flag": number % 3 == 0,
            "side": Side.BUY if number % 2 else Side.SELL,
            "code": str(number % 1000),
            "name": "n" * (number % 21),
            "hash": number.to_bytes(4, "big"),
            "digest": number.to_bytes(12, "big"),
            "day": number,
            "time": number * 10**15,
            "maybe": None if number % 5 == 0 else number,
            "maybe_not": None if number % 7 else str(number),
        }

    def fill(db: Db) -> None:
        for number in range(1000):
            db.item.insert(id=number, **values(number))
        for number in range(0, 1000, 3):
            db.item.delete(db.item[number])

    store(shop(**given), tmp_path, fill)
    newer = shop(price=(int, 1), **given, by_maybe=ordered("maybe", "side", "unsigned"))
    with opened(newer, tmp_path) as engine:
        for number in range(1000):
            row = engine.db.item.get(number)
            assert (row is None) == (number % 3 == 0)
            if row is not None:
                found = {name: getattr(row, name) for name in EVERY_KIND}
                assert found == values(number)
        walked = [row.maybe for row in engine.db.item.by_maybe.range()]
        assert walked == sorted(walked, key=lambda maybe: (maybe is not None, maybe))


def test_a_migration_is_declared_right() -> None:
    newer = shop(version=2, price=(int, 0))
    for wrong in (lambda old: None, lambda old, new, more: None, lambda old, new: None):
        with pytest.raises(DeclarationError, match=r"a migration takes \(old: Db, new: Db\)"):
            newer.migration(from_version=1)(wrong)

    def right(old: Db, new: Db) -> None: ...

    for version in (0, 2, 3, "1"):
        with pytest.raises(DeclarationError, match="from_version must be below the app's"):
            newer.migration(from_version=version)(right)  # type: ignore[arg-type]
    assert newer.migration(from_version=1)(right) is right
    with pytest.raises(DeclarationError, match="there is a migration from version 1"):
        newer.migration(from_version=1)(right)


def test_values_of_any_length_come_along(tmp_path: Path) -> None:
    notes = {number: f"note {number} " * (number % 50) for number in range(500)}

    def fill(db: Db) -> None:
        for number, note in notes.items():
            db.item.insert(id=number, note=note, raw=note.encode() * 2)
        for number in range(0, 500, 3):
            db.item.delete(db.item[number])
        for number in range(1, 500, 3):
            db.item[number].note = "changed" * number

    store(shop(note=(str, ""), raw=(bytes, b"")), tmp_path, fill)
    newer = shop(price=(int, 5), note=(str, ""), raw=(bytes | None, None), more=(str, "filled"))
    with opened(newer, tmp_path) as engine:
        for number, note in notes.items():
            if number % 3 == 0:
                assert number not in engine.db.item
                continue
            row = engine.db.item[number]
            assert row.note == ("changed" * number if number % 3 == 1 else note)
            assert (row.raw, row.more, row.price) == (note.encode() * 2, "filled", 5)
        engine.transact(lambda db: db.item.insert(id=1000, note="x" * 5000))
        engine.verify()
