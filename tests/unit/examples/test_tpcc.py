"""TPC-C: its rules one at a time, and thousands of random transactions against a naive model."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import pytest
from tests.support.lanes import Lanes
from tests.unit.examples.naive_tpcc import DATA_CHARACTERS, NaiveTpcc, Refused, dump

from diptych import Db, Rejected
from diptych.loadtest import Mix
from diptych.testing import Bench
from diptych_client import BadArguments
from tpcc import Line, Part, Scale, app, population
from tpcc.draws import LAST_C_LOAD, LAST_C_RUN, last_name
from tpcc.invariants import CONDITIONS
from tpcc.terminals import DECK, Terminals

NOW = 1_700_000_000_000_000_000
LANES = ("interpreted", "compiled")
SMALL = Scale(warehouses=2, items=300, customers=40)
BAR = last_name(0)  # of customer 1 of each district, and of nobody else at this size


def populated(scale: Scale = SMALL, **options: Any) -> Iterator[Bench]:
    with app.open(now=NOW, **options) as bench:
        for operation, arguments in population(scale):
            bench.call(operation, *arguments)
        yield bench


@pytest.fixture(scope="module")
def untouched() -> Iterator[Bench]:
    """A small population that nobody changes."""
    yield from populated()


@pytest.fixture(params=LANES)
def tpcc(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A smaller one to be changed."""
    yield from populated(Scale(warehouses=2, items=100, customers=20), lane=request.param)


def order(bench: Bench, *items: int, quantity: int = 1, supplier: int = 1) -> Any:
    """An order of customer 1 in warehouse 1, district 1."""
    lines = [Line(item, supplier, quantity) for item in items]
    return bench.new_order(1, 1, 1, lines)


def refused(bench: Bench, operation: str, *arguments: Any, **named: Any) -> Rejected:
    """The rejection a call ends with, which must leave no trace."""
    before = bench.fingerprint()
    with pytest.raises(Rejected) as no:
        bench.call(operation, *arguments, **named)
    assert bench.fingerprint() == before
    return no.value


# The initial population --------------------------------------------------------------------------


def test_full_size_is_the_specifications() -> None:
    loaded: Counter[Part] = Counter()
    for _, (part, warehouse, first, last, _) in population(Scale(warehouses=2)):
        assert warehouse == (0 if part in (Part.ITEMS, Part.WAREHOUSES) else warehouse)
        loaded[Part(part)] += last - first + 1
    assert loaded == {
        Part.ITEMS: 100_000,
        Part.WAREHOUSES: 2,
        Part.STOCK: 200_000,
        Part.CUSTOMERS: 2 * 3_000,  # times ten districts
        Part.ORDERS: 2 * 3_000,
    }
    assert Scale().delivered == 2_100
    assert Scale().names == 1_000


def test_how_many_rows_there_are(untouched: Bench) -> None:
    counts = {name: len(table) for name, table in untouched.db.tables.items()}
    lines = counts.pop("order_line")
    assert counts == {
        "warehouse": 2,
        "district": 20,
        "customer": 800,
        "history": 800,
        "order": 800,
        "new_order": 240,
        "item": 300,
        "stock": 600,
    }
    assert 9 * 800 < lines < 11 * 800
    assert untouched.loaded() == (2, 300, 40, 0)
    assert untouched.conditions().broken == []
    untouched.verify()


def test_values_are_as_specified(untouched: Bench) -> None:
    tables = dump(untouched.db)
    for row in tables["warehouse"].values():
        assert row["year_to_date"] == 300_000_00
        assert 0 <= row["tax"] <= 20_00
        assert row["zip"][4:] == "11111"
    for row in tables["district"].values():
        assert row["year_to_date"] == 30_000_00
        assert row["next_order"] == 41
    for row in tables["customer"].values():
        assert row["last"] == last_name(row["id"] - 1)
        assert (row["middle"], row["balance"], row["year_to_date"]) == ("OE", -10_00, 10_00)
        assert 0 <= row["discount"] <= 50_00
        assert len(row["phone"]) == 16
        assert row["phone"].isdigit()
        assert row["data"].isalnum()
    credits = Counter(row["credit"] for row in tables["customer"].values())
    assert 0.05 < credits["BC"] / 800 < 0.15
    for table in ("item", "stock"):
        texts = [row["data"] for row in tables[table].values()]
        assert all(26 <= len(text) <= 50 for text in texts)
        assert 0.04 < sum("ORIGINAL" in text for text in texts) / len(texts) < 0.16
    assert all(1_00 <= row["price"] <= 100_00 for row in tables["item"].values())
    assert all(10 <= row["quantity"] <= 100 for row in tables["stock"].values())
    assert all(len(row["dist_07"]) == 24 for row in tables["stock"].values())


def test_orders_are_as_specified(untouched: Bench) -> None:
    tables = dump(untouched.db)
    buyers: Counter[tuple[int, ...]] = Counter()
    lines = Counter(key[:3] for key in tables["order_line"])
    for key, row in tables["order"].items():
        buyers[(*key[:2], row["customer"])] += 1
        assert 5 <= row["line_count"] == lines[key] <= 15
        waits = row["id"] > 28
        assert (key in tables["new_order"]) == waits
        assert bool(row["carrier"]) != waits
        for number in range(1, row["line_count"] + 1):
            line = tables["order_line"][(*key, number)]
            assert bool(line["delivered"]) != waits
            assert bool(line["amount"]) == waits
            assert (line["quantity"], line["supplier"]) == (5, key[0])
    assert set(buyers) == set(tables["customer"])
    assert set(buyers.values()) == {1}, "each customer has one order"
    customers = [tables["order"][1, 1, number]["customer"] for number in range(1, 41)]
    assert customers != sorted(customers)


def test_same_seed_same_bytes(untouched: Bench) -> None:
    for again in populated():
        assert again.fingerprint() == untouched.fingerprint()
    for other in populated(SMALL._replace(seed=2)):
        assert other.fingerprint() != untouched.fingerprint()


def test_nothing_is_loaded_twice(untouched: Bench) -> None:
    for operation, arguments in population(SMALL):
        assert refused(untouched, operation, *arguments).code == "duplicate_key"


def test_last_names() -> None:
    assert last_name(371) == "PRICALLYOUGHT"
    assert last_name(40) == "BARPRESBAR"
    assert len({last_name(number) for number in range(1_000)}) == 1_000
    assert 65 <= abs(LAST_C_RUN - LAST_C_LOAD) <= 119
    assert abs(LAST_C_RUN - LAST_C_LOAD) not in (96, 112)


# One transaction at a time -----------------------------------------------------------------------


def test_new_order_takes_from_stock_and_fills_it_up(tpcc: Bench) -> None:
    with tpcc.transaction() as db:
        for item, quantity in ((1, 20), (2, 19), (3, 10)):
            db.stock[1, item].quantity = quantity
    told = order(tpcc, 1, 2, 3, 4, 5, quantity=10)
    assert [line.stock for line in told.lines[:3]] == [10, 19 - 10 + 91, 91]
    assert told.order == 21
    assert tpcc.db.district[1, 1].next_order == 22
    row = tpcc.db.stock[1, 1]
    assert (row.year_to_date, row.order_count, row.remote_count) == (10, 1, 0)
    assert tpcc.db.order_line[1, 1, 21, 3].info == tpcc.db.stock[1, 3].dist_01


def test_new_order_from_another_warehouse_is_remote(tpcc: Bench) -> None:
    order(tpcc, 1, 2, 3, 4, 5)
    assert tpcc.db.order[1, 1, 21].all_local is True
    order(tpcc, 1, 2, 3, 4, 5, supplier=2)
    assert tpcc.db.order[1, 1, 22].all_local is False
    assert (tpcc.db.stock[2, 1].remote_count, tpcc.db.stock[1, 1].remote_count) == (1, 0)


def test_an_unused_item_undoes_the_order(tpcc: Bench) -> None:
    lines = [Line(item, 1, 1) for item in (1, 2, 3, 4, 101)]
    no = refused(tpcc, "new_order", 1, 1, 1, lines)
    assert no == Rejected("item_not_found", item=101)


def test_both_originals_make_a_brand(tpcc: Bench) -> None:
    with tpcc.transaction() as db:
        for item, data, stocked in ((1, "an ORIGINAL", "ORIGINAL"), (2, "ORIGINAL", "none")):
            db.item[item].data, db.stock[1, item].data = data, stocked
    assert [line.brand for line in order(tpcc, 1, 2, 3, 4, 5).lines][:2] == ["B", "G"]


@pytest.mark.parametrize(
    ("operation", "arguments", "parameter"),
    [
        ("new_order", (1, 1, 1, [Line(1, 1, 1)] * 4), "lines"),
        ("new_order", (1, 1, 1, [Line(1, 1, 1)] * 16), "lines"),
        ("new_order", (1, 11, 1, [Line(1, 1, 1)] * 5), "district"),
        ("new_order", (1, 1, 1, [Line(1, 1, 11)] * 5), "lines[].quantity"),
        ("payment", (1, 1, 1, 1, 99, 1), "amount"),
        ("delivery", (1, 0), "carrier"),
        ("stock_level", (1, 1, 21), "threshold"),
    ],
)
def test_arguments_out_of_bounds(
    untouched: Bench, operation: str, arguments: Any, parameter: str
) -> None:
    with pytest.raises(BadArguments) as bad:
        untouched.call(operation, *arguments)
    assert bad.value.parameter == parameter


@pytest.mark.parametrize("count", range(1, 7))
def test_of_several_with_a_name_the_middle_one_is_meant(tpcc: Bench, count: int) -> None:
    firsts = ["Ann", "Bea", "Cid", "Dan", "Eve", "Fay"][:count]
    with tpcc.transaction() as db:
        plain = db.customer[1, 3, 1]
        columns = {
            column.name: getattr(plain, column.name) for column in db.customer.layout.spec.columns
        }
        for number, first in enumerate(random.Random(count).sample(firsts, count)):
            named = {"id": 900 + number, "first": first, "last": "NAMESAKE"}
            db.customer.insert(**columns | named)
            db.customer.insert(**columns | named | {"district": 4, "first": "Zoe"})
    middle = firsts[-(-count // 2) - 1]
    assert tpcc.payment(1, 1, 1, 3, 100_00, last="NAMESAKE").first == middle
    assert tpcc.order_status(1, 3, last="NAMESAKE").first == middle
    assert tpcc.order_status(1, 3, last="NAMESAKE").balance == -10_00 - 100_00


def test_nobody_of_that_name_or_number(tpcc: Bench) -> None:
    no = refused(tpcc, "payment", 1, 1, 1, 1, 100_00, last="NOBODY")
    assert no == Rejected("customer_not_found", last="NOBODY")
    assert refused(tpcc, "payment", 1, 1, 1, 1, 100_00, 999).code == "not_found"
    assert refused(tpcc, "order_status", 1, 1, last="NOBODY") == no
    assert refused(tpcc, "payment", 3, 1, 1, 1, 100_00, 1).details["table"] == "warehouse"
    assert refused(tpcc, "payment", 1, 1, 1, 1, 100_00).code == "customer_not_found"


def test_bad_credit_keeps_an_account_of_payments(tpcc: Bench) -> None:
    with tpcc.transaction() as db:
        db.customer[2, 4, 1].credit = "BC"
        db.customer[2, 4, 1].data = "x" * DATA_CHARACTERS
        db.customer[2, 4, 2].credit = "GC"
    entry = "1 4 2 7 1 1234.05 "
    paid = tpcc.payment(1, 7, 2, 4, 1234_05, 1)
    data = tpcc.db.customer[2, 4, 1].data
    assert data == entry + "x" * (DATA_CHARACTERS - len(entry))
    assert paid.data == data[:200]
    before = tpcc.db.customer[2, 4, 2].data
    assert tpcc.payment(1, 7, 2, 4, 1234_05, 2).data == ""
    assert tpcc.db.customer[2, 4, 2].data == before
    home, place = tpcc.db.warehouse[1], tpcc.db.district[1, 7]
    assert home.year_to_date == 300_000_00 + 2 * 1234_05
    assert place.year_to_date == 30_000_00 + 2 * 1234_05
    assert tpcc.db.history[len(tpcc.db.history)].data == f"{home.name}    {place.name}"


def test_delivery_takes_the_oldest_of_each_district_and_skips_empty_ones(tpcc: Bench) -> None:
    tpcc.advance(seconds=5)
    before = {d: tpcc.order_status(1, d, tpcc.db.order[1, d, 15].customer) for d in range(1, 11)}
    assert tpcc.delivery(1, 7) == ([15] * 10, 0)
    for district, status in before.items():
        after = tpcc.order_status(1, district, status.customer)
        assert after.balance == status.balance + sum(line.amount for line in status.lines)
        assert (status.carrier, after.carrier) == (None, 7)
        assert {line.delivered for line in after.lines} == {NOW + 5_000_000_000}
        assert tpcc.db.customer[1, district, status.customer].delivery_count == 1
    for number in range(16, 21):
        assert tpcc.delivery(1, 7).orders == [number] * 10
    order(tpcc, 1, 2, 3, 4, 5)
    assert tpcc.delivery(1, 7) == ([21, *[0] * 9], 9)
    assert tpcc.delivery(1, 7) == ([0] * 10, 10)
    assert tpcc.conditions().broken == []


def test_stock_level_counts_scarce_items_of_the_last_20_orders(tpcc: Bench) -> None:
    with tpcc.transaction() as db:
        for item in range(1, 101):
            db.stock[1, item].quantity = 50
            db.stock[2, item].quantity = 1
    order(tpcc, 1, 1, 2, 3, 4)
    for item, quantity in ((1, 14), (2, 15), (3, 13)):
        with tpcc.transaction() as db:
            db.stock[1, item].quantity = quantity
    assert [tpcc.stock_level(1, 1, threshold) for threshold in (13, 14, 15, 16)] == [0, 1, 2, 3]
    for _ in range(19):
        order(tpcc, 50, 51, 52, 53, 54)
    assert tpcc.stock_level(1, 1, 16) == 3
    order(tpcc, 50, 51, 52, 53, 54)
    assert tpcc.stock_level(1, 1, 16) == 0


def test_a_customer_without_orders(tpcc: Bench) -> None:
    with tpcc.transaction() as db:
        for row in list(db.order.by_customer.range(1, 1, 5)):
            db.order.delete(row)
    status = tpcc.order_status(1, 1, 5)
    assert status[5:] == (0, None, None, [])


# Thousands of them -------------------------------------------------------------------------------


def answer(naive: NaiveTpcc, operation: str, now: int, arguments: Any) -> Any:
    """What the model returns, or its refusal."""
    try:
        return getattr(naive, operation)(now, *arguments)
    except Refused as no:
        return no


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("warehouses", [1, 2])
def test_as_the_naive_model_does(warehouses: int, lane: str) -> None:
    scale = Scale(warehouses, items=200, customers=30)
    calls = Terminals(scale, seed=5).calls
    streams = [calls(connection) for connection in range(4 * warehouses)]
    outcomes: Counter[str] = Counter()
    for bench in populated(scale, lane=lane):
        naive = NaiveTpcc(dump(bench.db))
        now = NOW
        for number in range(2_500):
            bench.advance(seconds=1)
            now += 1_000_000_000
            operation, arguments = next(streams[number % len(streams)])
            wanted = answer(naive, operation, now, arguments)
            if isinstance(wanted, Refused):
                assert refused(bench, operation, *arguments).code == str(wanted)
                outcomes[str(wanted)] += 1
            else:
                assert bench.call(operation, *arguments) == wanted
                outcomes[operation] += 1
            if number % 500 == 499:
                assert dump(bench.db) == naive.tables
                assert bench.conditions().broken == []
        bench.verify()
    assert set(outcomes) == {*DECK, "item_not_found"}


def test_both_lanes_leave_the_same_bytes() -> None:
    """And compiled code gives nothing up that is not rejected by a table."""
    scale = Scale(2, items=200, customers=30)
    streams = [Terminals(scale, seed=6).calls(connection) for connection in range(4)]
    with Lanes(app) as lanes:
        for operation, arguments in population(scale):
            lanes.call(operation, *arguments)
        engine = lanes.benches[1]._engine
        before, transactions = engine.compiled, 0
        for number in range(600):
            operation, arguments = next(streams[number % 4])
            transactions += operation in ("new_order", "payment", "delivery")
            lanes.call(operation, *arguments)
        lanes.compare()
        assert engine.compiled - before > transactions - 5  # which needed memory


# Conditions --------------------------------------------------------------------------------------


def wrong_warehouse_total(db: Db) -> None:
    db.warehouse[2].year_to_date += 1


def wrong_district_total(db: Db) -> None:
    db.district[2, 3].year_to_date -= 1


def skipped_order_number(db: Db) -> None:
    db.district[2, 10].next_order += 1


def lost_last_waiting_order(db: Db) -> None:
    db.new_order.delete(db.new_order[1, 4, 20])


def lost_waiting_order_between(db: Db) -> None:
    db.new_order.delete(db.new_order[1, 4, 18])


def lost_line(db: Db) -> None:
    db.order_line.delete(db.order_line[2, 10, 20, 1])


def miscounted_lines(db: Db) -> None:
    db.order[1, 1, 1].line_count += 1


@pytest.mark.parametrize(
    ("violation", "broken"),
    [
        (wrong_warehouse_total, "payments_add_up"),
        (wrong_district_total, "payments_add_up"),
        (skipped_order_number, "orders_are_counted"),
        (lost_last_waiting_order, "orders_are_counted"),
        (lost_waiting_order_between, "waiting_orders_have_no_gaps"),
        (lost_line, "lines_are_counted"),
        (miscounted_lines, "lines_are_counted"),
    ],
)
def test_a_condition_notices(tpcc: Bench, violation: Callable[[Db], None], broken: str) -> None:
    assert tpcc.conditions().broken == []
    with tpcc.transaction() as db:
        violation(db)
    assert tpcc.conditions().broken == [broken]
    with pytest.raises(AssertionError, match=broken):
        tpcc.verify()


def test_conditions_hold_where_there_is_nothing() -> None:
    with app.open(check=True) as bench:
        assert bench.conditions() == ([], 0, 0, 0)
        bench.populate(Part.WAREHOUSES, 0, 1, 1, Scale(customers=0))
        assert bench.conditions().broken == []
    assert app.invariants == list(CONDITIONS)


# Terminals ---------------------------------------------------------------------------------------


def test_the_deck_has_the_least_shares() -> None:
    shares = Counter(DECK)
    assert len(DECK) == 100
    assert shares == {
        "new_order": 45,
        "payment": 43,
        "order_status": 4,
        "delivery": 4,
        "stock_level": 4,
    }
    calls = Terminals().calls(0)
    for _ in range(3):
        assert Counter(operation for operation, _ in islice(calls, 100)) == shares


def test_terminals_are_the_same_for_the_same_seed() -> None:
    first, again = (list(islice(Terminals(SMALL, 3).calls(1), 300)) for _ in range(2))
    assert first == again
    assert first != list(islice(Terminals(SMALL, 4).calls(1), 300))
    assert first != list(islice(Terminals(SMALL, 3).calls(2), 300))
    assert isinstance(Terminals(), Mix)
    assert next(iter(Terminals().setup()))[0] == "populate"
    queries = [operation for operation, _ in islice(Terminals(SMALL).queries(0), 4)]
    assert queries == ["order_status", "stock_level"] * 2


def test_what_terminals_key_in() -> None:
    scale = Scale(warehouses=3)
    by_operation: dict[str, list[Any]] = {name: [] for name in DECK}
    for connection in range(3):
        for operation, arguments in islice(Terminals(scale).calls(connection), 10_000):
            by_operation[operation].append(arguments)
            assert arguments[0] == connection + 1
    orders = by_operation["new_order"]
    failing = [lines for *_, lines in orders if lines[-1][0] == 100_001]
    assert 0.005 < len(failing) / len(orders) < 0.015
    lines = [line for *_, each in orders for line in each]
    assert all(1 <= item <= 100_000 for item, _, _ in lines if item != 100_001)
    assert {quantity for _, _, quantity in lines} == set(range(1, 11))
    assert {len(each) for *_, each in orders} == set(range(5, 16))
    remote = sum(line[1] != home for home, _, _, each in orders for line in each)
    assert 0.007 < remote / len(lines) < 0.013
    customers = Counter(customer for _, _, customer, _ in orders)
    assert customers.most_common(1)[0][1] > 10 * len(orders) / 3_000, "some come much more often"
    payments = by_operation["payment"]
    assert 0.13 < sum(each[0] != each[2] for each in payments) / len(payments) < 0.17
    assert all(each[1] == each[3] for each in payments if each[0] == each[2])
    assert 0.57 < sum(each[5] is None for each in payments) / len(payments) < 0.63
    assert all((each[5] is None) != (each[6] is None) for each in payments)
    assert {each[2] for each in by_operation["stock_level"]} == set(range(10, 21))
    assert len({each[:2] for each in by_operation["stock_level"]}) == 3
