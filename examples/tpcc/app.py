"""TPC-C's five operations, by clause 2 of the specification (revision 5.11).

A wholesaler: warehouses with ten districts each, whose customers order from a common list of items.
`new_order`, `payment` and `delivery` change data; `order_status` and `stock_level` are queries on
an image, which shows one instant.

Two things are left out, both of them the terminal's: what the specification calls keying and
thinking time (`driver` has none), and the queue of deliveries that wait to be run. A delivery
covers its ten districts in one transaction, as the specification allows.
"""

from __future__ import annotations

from diptych import Rejected
from tpcc.schema import (
    DATA_BYTES,
    DISTRICTS,
    Amount,
    Carrier,
    Customer,
    CustomerId,
    Delivered,
    District,
    DistrictId,
    Last,
    Lines,
    Ordered,
    OrderedLine,
    Paid,
    Place,
    Status,
    StatusLine,
    Stock,
    Tables,
    Threshold,
    Warehouse,
    WarehouseId,
    app,
)

ORIGINAL = "ORIGINAL"
GOOD_CREDIT, BAD_CREDIT = "GC", "BC"
DATA_CHARACTERS_SHOWN = 200
RESTOCK_BELOW = 10  # a stock that would fall below this is filled up
RESTOCK_QUANTITY = 91
RECENT_ORDERS = 20  # that stock_level looks at


def find_customer(
    db: Tables, warehouse: int, district: int, customer: int | None, last: str | None
) -> Customer:
    """A customer by number, or by last name: of several the middle one by first name."""
    if customer is not None:
        return db.customer[warehouse, district, customer]
    by_name, name = db.customer.by_name, last or ""
    namesakes = 0
    for _ in by_name.range(warehouse, district, name):
        namesakes += 1
    for number, row in enumerate(by_name.range(warehouse, district, name), 1):
        if 2 * number >= namesakes:  # number n / 2, rounded up
            return row
    raise Rejected("customer_not_found", last=last)


def place_of(row: Warehouse | District | Customer) -> Place:
    return Place(row.street_1, row.street_2, row.city, row.state, row.zip)


def is_local(warehouse: int, lines: Lines) -> bool:
    """Whether nothing comes from another warehouse."""
    local = True
    for line in lines:
        local = local and line.supplier == warehouse
    return local


def info_of(stock: Stock, district: int) -> str:
    """The text that lines of this stock carry in a district."""
    if district <= 5:
        if district == 1:
            return stock.dist_01
        if district == 2:
            return stock.dist_02
        if district == 3:
            return stock.dist_03
        return stock.dist_04 if district == 4 else stock.dist_05
    if district == 6:
        return stock.dist_06
    if district == 7:
        return stock.dist_07
    if district == 8:
        return stock.dist_08
    return stock.dist_09 if district == 9 else stock.dist_10


@app.transaction
def new_order(
    db: Tables, warehouse: WarehouseId, district: DistrictId, customer: CustomerId, lines: Lines
) -> Ordered:
    """Enter an order of 5 to 15 lines, taking each out of its supplier's stock.

    Rejects with item_not_found, which undoes all of it: the specification has one order in a
    hundred end so.
    """
    home, place = db.warehouse[warehouse], db.district[warehouse, district]
    buyer = db.customer[warehouse, district, customer]
    items, stocks, insert_line = db.item, db.stock, db.order_line.insert
    order = place.next_order
    place.next_order = order + 1
    db.order.insert(
        warehouse=warehouse,
        district=district,
        id=order,
        customer=customer,
        entered=db.now,
        line_count=len(lines),
        all_local=is_local(warehouse, lines),
    )
    db.new_order.insert(warehouse=warehouse, district=district, order=order)
    total = 0
    told: list[OrderedLine] = []
    for number, (item_id, supplier, quantity) in enumerate(lines, 1):
        item = items.get(item_id)
        if item is None:
            raise Rejected("item_not_found", item=item_id)
        stock = stocks[supplier, item_id]
        left = stock.quantity - quantity
        if left < RESTOCK_BELOW:
            left += RESTOCK_QUANTITY
        stock.quantity = left
        stock.year_to_date += quantity
        stock.order_count += 1
        if supplier != warehouse:
            stock.remote_count += 1
        price = item.price
        amount = quantity * price
        total += amount
        insert_line(
            warehouse=warehouse,
            district=district,
            order=order,
            number=number,
            item=item_id,
            supplier=supplier,
            quantity=quantity,
            amount=amount,
            info=info_of(stock, district),
        )
        brand = "B" if ORIGINAL in item.data and ORIGINAL in stock.data else "G"
        told.append(OrderedLine(item.name, left, brand, price, amount))
    discount, warehouse_tax, district_tax = buyer.discount, home.tax, place.tax
    rate = (10_000 - discount) * (10_000 + warehouse_tax + district_tax)
    return Ordered(
        order,
        db.now,
        buyer.last,
        buyer.credit,
        discount,
        warehouse_tax,
        district_tax,
        total * rate // 10**8,
        told,
    )


@app.transaction
def payment(
    db: Tables,
    warehouse: WarehouseId,
    district: DistrictId,
    customer_warehouse: WarehouseId,
    customer_district: DistrictId,
    amount: Amount,
    customer: CustomerId | None = None,
    last: Last | None = None,
) -> Paid:
    """Take a customer's payment. `customer` or else `last` says whose it is.

    Rejects with customer_not_found when nobody there has that name.
    """
    home, place = db.warehouse[warehouse], db.district[warehouse, district]
    payer = find_customer(db, customer_warehouse, customer_district, customer, last)
    home.year_to_date += amount
    place.year_to_date += amount
    balance = payer.balance - amount
    payer.balance = balance
    payer.year_to_date += amount
    payer.payment_count += 1
    payer_id, credit, shown = payer.id, payer.credit, ""
    if credit == BAD_CREDIT:
        entry = (
            f"{payer_id} {customer_district} {customer_warehouse} {district} {warehouse} "
            f"{amount // 100}.{amount % 100:02} "
        )
        data = (entry + payer.data)[:DATA_BYTES]
        payer.data = data
        shown = data[:DATA_CHARACTERS_SHOWN]
    db.history.insert(
        customer=payer_id,
        customer_district=customer_district,
        customer_warehouse=customer_warehouse,
        district=district,
        warehouse=warehouse,
        date=db.now,
        amount=amount,
        data=f"{home.name}    {place.name}",
    )
    return Paid(
        db.now,
        place_of(home),
        place_of(place),
        payer_id,
        payer.first,
        payer.middle,
        payer.last,
        place_of(payer),
        payer.phone,
        payer.since,
        credit,
        payer.credit_limit,
        payer.discount,
        balance,
        shown,
    )


@app.query
def order_status(
    db: Tables,
    warehouse: WarehouseId,
    district: DistrictId,
    customer: CustomerId | None = None,
    last: Last | None = None,
) -> Status:
    """A customer's balance and latest order, with what became of each line.

    Rejects with customer_not_found when nobody there has that name.
    """
    buyer = find_customer(db, warehouse, district, customer, last)
    order = db.order.by_customer.last(warehouse, district, buyer.id)
    lines: list[StatusLine] = []
    if order is not None:
        for number in range(1, order.line_count + 1):
            line = db.order_line[warehouse, district, order.id, number]
            lines.append(
                StatusLine(line.item, line.supplier, line.quantity, line.amount, line.delivered)
            )
    return Status(
        buyer.id,
        buyer.first,
        buyer.middle,
        buyer.last,
        buyer.balance,
        order.id if order is not None else 0,
        order.entered if order is not None else None,
        order.carrier if order is not None else None,
        lines,
    )


@app.transaction
def delivery(db: Tables, warehouse: WarehouseId, carrier: Carrier) -> Delivered:
    """Deliver the oldest waiting order of each district; where none waits it is skipped."""
    now, order_lines = db.now, db.order_line
    delivered: list[int] = []
    skipped = 0
    for district in range(1, DISTRICTS + 1):
        waiting = db.new_order.by_district.first(warehouse, district)
        if waiting is None:
            delivered.append(0)
            skipped += 1
            continue
        number = waiting.order
        db.new_order.delete(waiting)
        order = db.order[warehouse, district, number]
        order.carrier = carrier
        total = 0
        for line_number in range(1, order.line_count + 1):
            line = order_lines[warehouse, district, number, line_number]
            line.delivered = now
            total += line.amount
        buyer = db.customer[warehouse, district, order.customer]
        buyer.balance += total
        buyer.delivery_count += 1
        delivered.append(number)
    return Delivered(delivered, skipped)


@app.query
def stock_level(
    db: Tables, warehouse: WarehouseId, district: DistrictId, threshold: Threshold
) -> int:
    """How many of the items in the district's last 20 orders are scarce in its warehouse."""
    next_order = db.district[warehouse, district].next_order
    orders, order_lines, stocks = db.order, db.order_line, db.stock
    scarce: set[int] = set()
    for number in range(max(1, next_order - RECENT_ORDERS), next_order):
        for line_number in range(1, orders[warehouse, district, number].line_count + 1):
            item = order_lines[warehouse, district, number, line_number].item
            if stocks[warehouse, item].quantity < threshold:
                scarce.add(item)
    return len(scarce)
