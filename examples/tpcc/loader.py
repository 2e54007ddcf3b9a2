"""The initial population, by clause 4.3.3 of the specification: the same for the same seed.

The operation `populate` makes some of the rows; `population` yields the calls that make all of
them, in pieces that hold nobody up for long. So a server is loaded over TCP, by what any client
could send, and the rows themselves need not be sent.

Rows lie in the order in which they are inserted, so orders are loaded by number, all districts in
turn, as they would have been entered. The oldest waiting orders of ten districts, which a delivery
writes, then share their pages.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple, TypeAlias

from tpcc.app import BAD_CREDIT, GOOD_CREDIT, ORIGINAL
from tpcc.draws import LAST_A, LAST_C_LOAD, NAMES, Draws, last_name
from tpcc.schema import (
    CUSTOMERS,
    DATA_BYTES,
    DISTRICTS,
    ITEMS,
    LINES_MAX,
    LINES_MIN,
    Tables,
    app,
)

DATA_BYTES_MIN = 300  # of a customer's data
WAITING_PERCENT = 30  # of the orders; the others are delivered
LOADED_QUANTITY = 5


class Scale(NamedTuple):
    """How much there is. The specification's sizes are the defaults; smaller ones are for tests."""

    warehouses: int = 1
    items: int = ITEMS
    customers: int = CUSTOMERS
    """Of each district, which has as many orders."""
    seed: int = 1

    @property
    def delivered(self) -> int:
        """Orders of a district that are delivered already: those up to this number."""
        return self.customers - self.customers * WAITING_PERCENT // 100

    @property
    def names(self) -> int:
        """How many last names there are."""
        return min(NAMES, self.customers)


class Part(IntEnum):
    """What one call loads; `first` and `last` of a call count what stands here."""

    ITEMS = 1  # items
    WAREHOUSES = 2  # warehouses, with their districts
    STOCK = 3  # items of one warehouse
    CUSTOMERS = 4  # customers of each district of one warehouse, with a payment each
    ORDERS = 5  # orders of each district of one warehouse, with their lines


PIECES = {  # how much of each part one call loads
    Part.ITEMS: 2_000,
    Part.WAREHOUSES: 10,
    Part.STOCK: 500,
    Part.CUSTOMERS: 50,
    Part.ORDERS: 20,
}


Populate: TypeAlias = tuple[str, tuple[int, int, int, int, Scale]]


def population(scale: Scale) -> Iterator[Populate]:
    """Calls of `populate` that fill an empty server."""
    yield from _pieces(Part.ITEMS, 0, scale.items, scale)
    yield from _pieces(Part.WAREHOUSES, 0, scale.warehouses, scale)
    for warehouse in range(1, scale.warehouses + 1):
        yield from _pieces(Part.STOCK, warehouse, scale.items, scale)
        yield from _pieces(Part.CUSTOMERS, warehouse, scale.customers, scale)
        yield from _pieces(Part.ORDERS, warehouse, scale.customers, scale)


def _pieces(part: Part, warehouse: int, count: int, scale: Scale) -> Iterator[Populate]:
    for first in range(1, count + 1, PIECES[part]):
        last = min(count, first + PIECES[part] - 1)
        yield "populate", (int(part), warehouse, first, last, scale)


@app.transaction(compiled=False)
def populate(db: Tables, part: Part, warehouse: int, first: int, last: int, scale: Scale) -> int:
    """Load numbers `first` to `last` of a part; returns how many. `warehouse`: 0 where it has none.

    Rejects with duplicate_key what is there already.
    """
    draws = Draws(scale.seed, part, warehouse, first)
    if part == Part.ITEMS:
        load_items(db, draws, first, last)
    elif part == Part.WAREHOUSES:
        load_warehouses(db, draws, first, last, scale)
    elif part == Part.STOCK:
        load_stock(db, draws, warehouse, first, last)
    elif part == Part.CUSTOMERS:
        for district in range(1, DISTRICTS + 1):
            load_customers(db, draws, warehouse, district, first, last)
    else:
        load_orders(db, draws, warehouse, first, last, scale)
    return last - first + 1


@app.query
def loaded(db: Tables) -> Scale:
    """How much there is. Its seed is not known, and said to be 0."""
    warehouses = len(db.warehouse)
    customers = len(db.customer) // (DISTRICTS * max(1, warehouses))
    return Scale(warehouses, len(db.item), customers, 0)


def load_items(db: Tables, draws: Draws, first: int, last: int) -> None:
    count = last - first + 1
    insert = db.item.insert
    for number, image, name, price, data in zip(
        range(first, last + 1),
        draws.ints(1, 10_000, count),
        draws.texts(14, 24, count),
        draws.ints(1_00, 100_00, count),
        draws.marked(draws.texts(26, 50, count), ORIGINAL, 10),
        strict=True,
    ):
        insert(id=number, image=image, name=name, price=price, data=data)


def load_warehouses(db: Tables, draws: Draws, first: int, last: int, scale: Scale) -> None:
    for warehouse in range(first, last + 1):
        db.warehouse.insert(
            id=warehouse,
            name=draws.texts(6, 10, 1)[0],
            **address(draws),
            tax=draws.ints(0, 20_00, 1)[0],
            year_to_date=300_000_00,
        )
        for district in range(1, DISTRICTS + 1):
            db.district.insert(
                warehouse=warehouse,
                id=district,
                name=draws.texts(6, 10, 1)[0],
                **address(draws),
                tax=draws.ints(0, 20_00, 1)[0],
                year_to_date=30_000_00,
                next_order=scale.customers + 1,
            )


def address(draws: Draws) -> dict[str, str]:
    """The columns of one address."""
    street_1, street_2, city = draws.texts(10, 20, 3)
    state, zip_code = draws.capitals(2, 1)[0], draws.digits(4, 1)[0] + "11111"
    return {
        "street_1": street_1,
        "street_2": street_2,
        "city": city,
        "state": state,
        "zip": zip_code,
    }


def load_stock(db: Tables, draws: Draws, warehouse: int, first: int, last: int) -> None:
    count = last - first + 1
    insert = db.stock.insert
    infos = [draws.texts(24, 24, count) for _ in range(DISTRICTS)]
    names = [f"dist_{district:02}" for district in range(1, DISTRICTS + 1)]
    for number, quantity, data, *dists in zip(
        range(first, last + 1),
        draws.ints(10, 100, count),
        draws.marked(draws.texts(26, 50, count), ORIGINAL, 10),
        *infos,
        strict=True,
    ):
        insert(
            warehouse=warehouse,
            item=number,
            quantity=quantity,
            data=data,
            **dict(zip(names, dists, strict=True)),
        )


def load_customers(
    db: Tables, draws: Draws, warehouse: int, district: int, first: int, last: int
) -> None:
    """Some of a district's customers, and the one payment that each has made."""
    count = last - first + 1
    insert, insert_payment, now = db.customer.insert, db.history.insert, db.now
    for number, name, first_name, bad, discount, phone, data, payment in zip(
        range(first, last + 1),
        draws.nurand(LAST_A, LAST_C_LOAD, 0, NAMES - 1, count),
        draws.texts(8, 16, count),
        draws.chosen(10, count),
        draws.ints(0, 50_00, count),
        draws.digits(16, count),
        draws.texts(DATA_BYTES_MIN, DATA_BYTES, count),
        draws.texts(12, 24, count),
        strict=True,
    ):
        insert(
            warehouse=warehouse,
            district=district,
            id=number,
            first=first_name,
            middle="OE",
            last=last_name(number - 1 if number <= NAMES else name),
            **address(draws),
            phone=phone,
            since=now,
            credit=BAD_CREDIT if bad else GOOD_CREDIT,
            credit_limit=50_000_00,
            discount=discount,
            balance=-10_00,
            year_to_date=10_00,
            payment_count=1,
            delivery_count=0,
            data=data,
        )
        insert_payment(
            customer=number,
            customer_district=district,
            customer_warehouse=warehouse,
            district=district,
            warehouse=warehouse,
            date=now,
            amount=10_00,
            data=payment,
        )


def load_orders(
    db: Tables, draws: Draws, warehouse: int, first: int, last: int, scale: Scale
) -> None:
    """Some of the orders of all districts, by number; each customer has one."""
    districts = range(1, DISTRICTS + 1)
    customers = [
        Draws(scale.seed, 0, warehouse, district).permutation(scale.customers)
        for district in districts
    ]
    for number in range(first, last + 1):
        waiting = number > scale.delivered
        carriers = draws.ints(1, 10, DISTRICTS)
        line_counts = draws.ints(LINES_MIN, LINES_MAX, DISTRICTS)
        for district, line_count in zip(districts, line_counts, strict=True):
            db.order.insert(
                warehouse=warehouse,
                district=district,
                id=number,
                customer=customers[district - 1][number - 1],
                entered=db.now,
                carrier=None if waiting else carriers[district - 1],
                line_count=line_count,
                all_local=True,
            )
            load_lines(db, draws, (warehouse, district, number), line_count, waiting, scale)
            if waiting:
                db.new_order.insert(warehouse=warehouse, district=district, order=number)


def load_lines(
    db: Tables,
    draws: Draws,
    order: tuple[int, int, int],
    count: int,
    waiting: bool,
    scale: Scale,
) -> None:
    warehouse, district, order_number = order
    insert, delivered = db.order_line.insert, None if waiting else db.now
    for number, item, amount, info in zip(
        range(1, count + 1),
        draws.ints(1, scale.items, count),
        draws.ints(1, 9_999_99, count),
        draws.texts(24, 24, count),
        strict=True,
    ):
        insert(
            warehouse=warehouse,
            district=district,
            order=order_number,
            number=number,
            item=item,
            supplier=warehouse,
            delivered=delivered,
            quantity=LOADED_QUANTITY,
            amount=amount if waiting else 0,
            info=info,
        )
