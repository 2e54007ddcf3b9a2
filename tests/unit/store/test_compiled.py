"""Compiled handlers: what they give, and when they leave the work to the interpreter."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import msgpack
import numpy as np
import pytest
from tests.support import depot
from tests.support.lanes import Lanes
from tests.support.things import Tag, application

import bank
import diptych as dp
import diptych_client.errors
from diptych import App, Db, Rejected, items
from diptych.engine.engine import Engine, layout_bytes
from diptych.errors import TableFull
from diptych.memory import Region
from diptych.store import words as at
from diptych.store.compiled.handlers import compiled_operations
from diptych.store.database import SCRATCH_BYTES
from diptych.testing import Bench
from diptych_client.errors import BadArguments, ServerError
from diptych_client.protocol import Kind as Frame
from diptych_client.protocol import encode_frame


@contextmanager
def compiled(app: App) -> Iterator[Bench]:
    with app.open(lane="compiled", setup=True) as bench:
        yield bench


def by_interpreter(bench: Bench, name: str, *arguments: Any) -> Any:
    """What a call gives, and whether it was left to the interpreter."""
    before = bench._engine.compiled
    value = bench.call(name, *arguments)
    return value, bench._engine.compiled == before


def test_handlers_do_not_need_the_interpreter() -> None:
    with compiled(bank.app) as bench:
        assert by_interpreter(bench, "transfer", 1, 2, 300) == (700, False)
        assert bench.db.account[2].cash == 1_300
        with pytest.raises(Rejected):
            bench.transfer(1, 2, 5_000)
        assert bench._engine.compiled == bench._engine.committed + 1


def test_rejections_are_those_of_the_interpreted_lane() -> None:
    with Lanes(bank.app, setup=True) as lanes:
        for arguments in [(1, 2, 5_000), (1, 2, 0), (1, 999, 5), (-7, 1, 5)]:
            assert lanes.check("transfer", *arguments)[0] == "rejected"


def named_otherwise(db: Db, how: int) -> int:
    if how == 1:
        raise dp.Rejected("through_a_module", how=how)
    if how == 2:
        raise diptych_client.errors.Rejected("through_two")
    if how == 3:
        raise dp.DiptychError("no rejection")
    return how


def test_a_rejection_may_be_named_through_modules() -> None:
    app = application(named_otherwise)
    (operation,) = app.operations
    assert operation.describe()["codes"] == ["through_a_module", "through_two"]
    app.check_names()
    assert not app.hazards()
    with Lanes(app) as lanes:
        assert lanes.check("named_otherwise", 0) == 0
        assert lanes.check("named_otherwise", 1) == ("rejected", "through_a_module", {"how": 1})
        assert lanes.check("named_otherwise", 2) == ("rejected", "through_two", {})
        engine = lanes.benches[1]._engine
        assert engine.compiled == engine.sequence
        assert lanes.check("named_otherwise", 3) == ("error", "no rejection")
        assert engine.compiled < engine.sequence


def test_what_needs_memory_is_left_to_the_interpreter_and_gets_it() -> None:
    with compiled(depot.app) as bench:
        bench.add_depot("A")
        assert by_interpreter(bench, "fill", 1, "A", 1, 600) == (600, True)
        assert by_interpreter(bench, "fill", 1, "A", 601, 2) == (602, False)


def test_an_operation_may_have_any_name() -> None:
    app = App("names")

    @app.transaction
    def pack(db: Db, code: int) -> int:
        return code + 1

    with app.open(lane="compiled") as bench:
        assert bench.call("pack", 1) == 2


def test_a_full_table_and_a_large_transaction_are_rejected() -> None:
    with Lanes(depot.app) as lanes:
        assert lanes.call("add_depot", "A") is None
        assert lanes.call("add_owner", 1, 1.0, True) == 1.0
        for number in range(2_000):
            lanes.benches[0].add_parcel(1, "A", str(number))
            lanes.benches[1].add_parcel(1, "A", str(number))
        full = ("rejected", "table_full", TableFull("parcel", 2_000).details)
        assert lanes.check("add_parcel", 1, "A", "one more") == full
        for bench in lanes.benches:
            bench._engine.db.space.scratch[at.S_UNDO_LIMIT] = 600
        large = ("rejected", "transaction_too_large", {})
        assert lanes.check("fill", 1, "A", 1, 300) == large


def test_what_does_not_fit_64_bits_is_computed_by_the_interpreter() -> None:
    with Lanes(depot.app) as lanes:
        assert lanes.call("compute", 9, 2**40, 2**40) == 1
        too_large = lanes.call("compute", 2, 2**40, 2**40)
        assert too_large[0] == "server_error"
        lanes.call("add_owner", 1, 1.0, True)
        before = [bench.fingerprint() for bench in lanes.benches]
        code, name, details = lanes.check("store_large", 1, 2**40)
        assert (code, name, details["value"]) == ("rejected", "bad_value", str(2**80))
        assert before == [bench.fingerprint() for bench in lanes.benches]


def test_a_deleted_row_is_never_read(caplog: pytest.LogCaptureFixture) -> None:
    with compiled(depot.app) as bench:
        bench.add_depot("A")
        bench.add_owner(1, 1.0, True)
        number = bench.add_parcel(1, "A", "a")
        with pytest.raises(ServerError, match="StaleRow"):
            bench.use_deleted(number)
        assert "depot.py" in caplog.text  # the traceback is the handler's own
        assert bench.drop(number) == 0


def test_rows_and_records_come_back_as_what_they_are() -> None:
    with Lanes(depot.app) as lanes:
        lanes.call("add_depot", "Ä", "twenty characters ..")
        lanes.call("add_owner", 7, 2.5, True)
        lanes.call("give_back", 7)
        number = lanes.call("add_parcel", 7, "Ä", "a", -1, 11.0)
        told = lanes.call("summarize", number)
        assert told == (1, "twenty characters ..", depot.State.SENT, (7, 21.5), True)
        details = {"depot": "Ä", "name": "literal", "state": depot.State.LOST, "nothing": None}
        assert lanes.call("move", "Ä", "Ä", 5) == ("rejected", "same_depot", details)
        assert lanes.benches[1]._engine.compiled == lanes.benches[1]._engine.sequence


def optional_limit(db: Db, id: int) -> int | None:
    return db.thing[id].limit


def optional_sum(db: Db, id: int, more: int) -> float:
    row = db.thing[id]
    if row.limit is not None:
        row.limit += more
    return float(row.limit) + (row.limit or 0)


def new_thing(db: Db, id: int, limit: int | None, tag: Tag) -> Tag | None:
    row = db.thing.insert(id=id, limit=limit, tag=tag)
    return row.tag if row.limit is not None else None


def drop_thing(db: Db, id: int) -> None:
    db.thing.delete(db.thing[id])


def test_none_goes_in_and_comes_out() -> None:
    app = application()
    for function in (optional_limit, optional_sum, new_thing, drop_thing):
        app.transaction(function)
    with compiled(app) as bench:
        assert by_interpreter(bench, "new_thing", 1, None, b"\0a\0")[0] is None
        assert by_interpreter(bench, "optional_limit", 1) == (None, False)
        with pytest.raises(ServerError, match="TypeError"):
            bench.optional_sum(1, 5)
        assert by_interpreter(bench, "new_thing", 2, 0, b"\0a\0") == (b"\0a\0", False)
        assert by_interpreter(bench, "optional_limit", 2) == (0, False)
        assert by_interpreter(bench, "optional_sum", 2, 5) == (10.0, False)
        with pytest.raises(BadArguments, match="exactly 3 bytes"):
            bench.new_thing(3, None, b"ab")


def test_rows_with_values_of_any_length_are_inserted_and_deleted() -> None:
    app = application()
    for function in (new_thing, drop_thing):
        app.transaction(function)
    with compiled(app) as bench:
        bench.new_thing(1, None, b"abc")
        row = bench.db.thing[1]
        assert (row.title, row.image, row.essay) == ("", None, "long")
        with bench.transaction() as db:
            db.thing[1].title = "a title of any length" * 100
            db.thing[1].image = b"\0" * 1000
        assert by_interpreter(bench, "drop_thing", 1) == (None, False)
        bench.verify()
        assert len(bench.db.thing) == 0


def total(db: Db, numbers: Annotated[list[int], items(0, 3)], factor: int) -> int:
    result = 0
    for number in numbers:
        result += number * factor
    return result


def test_lists_as_long_as_declared_are_compiled() -> None:
    with compiled(application(total)) as bench:
        for numbers in ([], [5], [1, 2, 3]):
            assert by_interpreter(bench, "total", numbers, 2) == (2 * sum(numbers), False)
        with pytest.raises(BadArguments, match="an array of 0 to 3 items"):
            bench.total([1, 2, 3, 4], 2)


def test_another_capacity_runs_the_same_code() -> None:
    code = compiled_operations(bank.app, every=True)
    capacities = {"account": 777}
    region = Region.create(layout_bytes(bank.app, capacities), scratch_bytes=SCRATCH_BYTES)
    engine = Engine.create(
        bank.app,
        region,
        grow=region.allocate,
        history=1,
        capacities=capacities,
        compiled=code,
    )
    number = next(each.number for each in bank.app.operations if each.name == "transfer")
    frame = encode_frame(Frame.TRANSACTION, msgpack.packb([1, 2, 10]), operation=number)
    engine.begin(0)
    engine.run(np.frombuffer(frame, np.uint8), np.array([0, len(frame)]), 0, 1, 1 << 62)
    assert (engine.compiled, engine.db.account[1].cash) == (1, 990)


def test_an_app_that_compiles_leaves_out_who_opts_out() -> None:
    transactions = {op.number: op.name for op in depot.app.operations if op.kind == "transaction"}
    left_out = transactions.keys() - compiled_operations(depot.app).transactions
    assert [transactions[number] for number in left_out] == ["by_hand"]


GENERIC = """
def told[T](one: T) -> str:
    return f"no {one}"

def tell[T](db: Db, number: int) -> str:
    return f"{told(number)}, {told('more')}"
"""


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the grammar has no type parameters")
def test_what_is_rewritten_may_have_type_parameters() -> None:
    linecache.cache["<generic>"] = (len(GENERIC), None, GENERIC.splitlines(True), "<generic>")
    names: dict[str, Any] = {"Db": Db, "__name__": __name__}
    exec(compile(GENERIC, "<generic>", "exec", dont_inherit=True), names)
    generic = App("generic", compiled=True)
    generic.transaction(names["tell"])
    with compiled(generic) as bench:
        assert by_interpreter(bench, "tell", 7) == ("no 7, no more", False)


@pytest.fixture(autouse=True)
def regions_end(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close every region that a test has opened by itself."""
    made: list[Region] = []
    create = Region.create.__func__  # type: ignore[attr-defined]  # a class method has one

    def remembered(cls: type[Region], *given: Any, **named: Any) -> Region:
        made.append(create(cls, *given, **named))
        return made[-1]

    monkeypatch.setattr(Region, "create", classmethod(remembered))
    yield
    for region in made:
        region.close()
