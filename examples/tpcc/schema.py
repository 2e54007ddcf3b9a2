"""TPC-C's nine tables and the records that its operations take and return.

Rows have every column of clause 1.3 of the specification (TPC-C, revision 5.11) at the size given
there, under plain names. Money is in cents, `scaled(2)`; rates are in ten-thousandths, `scaled(4)`.

Three choices here keep few pages written a transaction. Numbers are as narrow as their range
allows, so that the three columns of a stock that every order line writes lie on 245 pages and not
on 585. An order's lines are found by their keys, since the order says how many there are, so the
largest table needs no index beside its key. And the key of a line ends with its number, so that
all lines of an order lie on one page of the key's index. `loader` says in which order rows are laid
down, and why.

Counts of events are wider than the specification asks for (four digits): what happens a few times a
second there happens thousands of times here.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

from diptych import App, Db, Table, Time, between, i8, i16, i32, items, key, ordered, scaled, text

app = App("tpcc", compiled=True)

DISTRICTS = 10  # of a warehouse, always
ITEMS = 100_000
CUSTOMERS = 3_000  # of a district
LINES_MIN, LINES_MAX = 5, 15  # of an order
DATA_BYTES = 500  # of a customer's data

Money = Annotated[int, scaled(2)]  # twelve digits
Price = Annotated[i32, scaled(2)]  # of one item, or of one line
Rate = Annotated[i16, scaled(4)]
WarehouseId = Annotated[i32, between(1, 10_000)]
DistrictId = Annotated[i8, between(1, DISTRICTS)]
CustomerId = Annotated[i32, between(1, 96_000)]
OrderId = Annotated[i32, between(1, 10_000_000)]
ItemId = Annotated[i32, between(1, 200_000)]
Quantity = Annotated[i8, between(1, 10)]
Carrier = Annotated[i8, between(1, 10)]
Threshold = Annotated[int, between(10, 20)]
Amount = Annotated[int, scaled(2), between(1_00, 5_000_00)]
Last = Annotated[str, text(16)]
Street = Annotated[str, text(20)]
Info = Annotated[str, text(24)]


@app.table(capacity=1_000)
class Warehouse:
    id: WarehouseId = key()
    name: Annotated[str, text(10)]
    street_1: Street
    street_2: Street
    city: Street
    state: Annotated[str, text(2)]
    zip: Annotated[str, text(9)]
    tax: Rate
    year_to_date: Money


@app.table(capacity=10_000)
class District:
    warehouse: WarehouseId = key()
    id: DistrictId = key()
    name: Annotated[str, text(10)]
    street_1: Street
    street_2: Street
    city: Street
    state: Annotated[str, text(2)]
    zip: Annotated[str, text(9)]
    tax: Rate
    year_to_date: Money
    next_order: OrderId


@app.table(capacity=3_000_000)
class Customer:
    warehouse: WarehouseId = key()
    district: DistrictId = key()
    id: CustomerId = key()
    first: Annotated[str, text(16)]
    middle: Annotated[str, text(2)]
    last: Last
    street_1: Street
    street_2: Street
    city: Street
    state: Annotated[str, text(2)]
    zip: Annotated[str, text(9)]
    phone: Annotated[str, text(16)]
    since: Time
    credit: Annotated[str, text(2)]  # "GC" is good, "BC" is bad
    credit_limit: Money
    discount: Rate
    balance: Money
    year_to_date: Money  # paid
    payment_count: i32
    delivery_count: i32
    data: Annotated[str, text(DATA_BYTES)]
    by_name = ordered("warehouse", "district", "last", "first")


@app.table(capacity=10_000_000)
class History:
    """One payment. The specification gives it no key; the number is ours."""

    id: int = key(auto=True)
    customer: CustomerId
    customer_district: DistrictId
    customer_warehouse: WarehouseId
    district: DistrictId
    warehouse: WarehouseId
    date: Time
    amount: Price
    data: Info


@app.table(capacity=10_000_000)
class Order:
    warehouse: WarehouseId = key()
    district: DistrictId = key()
    id: OrderId = key()
    customer: CustomerId
    entered: Time
    carrier: Carrier | None = None
    line_count: i8
    all_local: bool
    by_customer = ordered("warehouse", "district", "customer", "id")


@app.table(capacity=1_000_000)
class NewOrder:
    """An order that waits for its delivery."""

    warehouse: WarehouseId = key()
    district: DistrictId = key()
    order: OrderId = key()
    by_district = ordered("warehouse", "district", "order")


@app.table(capacity=100_000_000)
class OrderLine:
    warehouse: WarehouseId = key()
    district: DistrictId = key()
    order: OrderId = key()
    number: i8 = key()
    item: ItemId
    supplier: WarehouseId  # the warehouse it comes from
    delivered: Time | None = None
    quantity: Quantity
    amount: Price
    info: Info


@app.table(capacity=2 * ITEMS)
class Item:
    id: ItemId = key()
    image: i16
    name: Info
    price: Price
    data: Annotated[str, text(50)]


@app.table(capacity=10_000_000)
class Stock:
    warehouse: WarehouseId = key()
    item: ItemId = key()
    quantity: i16
    year_to_date: i32 = 0
    order_count: i32 = 0
    remote_count: i32 = 0
    dist_01: Info
    dist_02: Info
    dist_03: Info
    dist_04: Info
    dist_05: Info
    dist_06: Info
    dist_07: Info
    dist_08: Info
    dist_09: Info
    dist_10: Info
    data: Annotated[str, text(50)]


class Tables(Db):
    warehouse: Table[Warehouse]
    district: Table[District]
    customer: Table[Customer]
    history: Table[History]
    order: Table[Order]
    new_order: Table[NewOrder]
    order_line: Table[OrderLine]
    item: Table[Item]
    stock: Table[Stock]


class Line(NamedTuple):
    """One line of an order, as it is keyed in."""

    item: ItemId
    supplier: WarehouseId
    quantity: Quantity


Lines = Annotated[list[Line], items(LINES_MIN, LINES_MAX)]


class OrderedLine(NamedTuple):
    name: Info
    stock: int  # what is left
    brand: Annotated[str, text(1)]  # "B" when item and stock are both original, else "G"
    price: Money
    amount: Money


class Ordered(NamedTuple):
    order: int
    entered: Time
    last: str
    credit: str
    discount: Rate
    warehouse_tax: Rate
    district_tax: Rate
    total: Money
    lines: list[OrderedLine]


class Place(NamedTuple):
    street_1: str
    street_2: str
    city: str
    state: str
    zip: str


class Paid(NamedTuple):
    date: Time
    warehouse: Place
    district: Place
    customer: int
    first: str
    middle: str
    last: str
    place: Place
    phone: str
    since: Time
    credit: str
    credit_limit: Money
    discount: Rate
    balance: Money
    data: str  # the beginning of the customer's, of bad credit alone


class StatusLine(NamedTuple):
    item: int
    supplier: int
    quantity: int
    amount: Money
    delivered: Time | None


class Status(NamedTuple):
    """A customer and their latest order; order 0 when there is none yet."""

    customer: int
    first: str
    middle: str
    last: str
    balance: Money
    order: int
    entered: Time | None
    carrier: int | None
    lines: list[StatusLine]


class Delivered(NamedTuple):
    orders: list[int]  # the order delivered in each district, 0 where none was waiting
    skipped: int  # districts in which none was


class Conditions(NamedTuple):
    broken: list[str]  # names of the conditions that do not hold: empty when all is well
    orders: int
    waiting: int  # orders not yet delivered
    order_lines: int
