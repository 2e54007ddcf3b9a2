"""TPC-C's consistency conditions 1 to 4, by clause 3.3.2 of the specification.

The engine runs them after each transaction of a test that asks for it. The query `conditions` runs
them on the image that it sees, so that a client can have every image checked. Whole columns at a
time: a second's worth of new orders takes no longer than one.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tpcc.schema import DISTRICTS, Conditions, Tables, app

Numbers: TypeAlias = npt.NDArray[np.int64]


def district_numbers(warehouses: npt.NDArray[Any], districts: npt.NDArray[Any]) -> Numbers:
    """One number, 0 or more, for each row's district."""
    numbers: Numbers = (warehouses.astype(np.int64) - 1) * DISTRICTS + districts - 1
    return numbers


def sums(groups: Numbers, values: npt.NDArray[Any], count: int) -> Numbers:
    """The sum of `values` in each of `count` groups, exactly."""
    found = np.zeros(count, np.int64)
    np.add.at(found, groups, values)
    return found


def greatest(groups: Numbers, values: npt.NDArray[Any], count: int) -> Numbers:
    """The greatest of `values` in each of `count` groups, 0 in one without any."""
    found = np.zeros(count, np.int64)
    np.maximum.at(found, groups, values)
    return found


def least(groups: Numbers, values: npt.NDArray[Any], count: int) -> Numbers:
    """The least of `values` in each of `count` groups, 0 in one without any."""
    found = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(found, groups, values)
    found[found == np.iinfo(np.int64).max] = 0
    return found


def group_count(db: Tables) -> int:
    """One more than the number of the last district there is."""
    return DISTRICTS * int(db.warehouse.columns().id.max(initial=0))


@app.invariant
def payments_add_up(db: Tables) -> bool:
    """Condition 1: a warehouse took in what its districts did."""
    warehouses, districts = db.warehouse.columns(), db.district.columns()
    taken = sums(districts.warehouse - 1, districts.year_to_date, group_count(db))
    return bool((taken[warehouses.id - 1] == warehouses.year_to_date).all())


@app.invariant
def orders_are_counted(db: Tables) -> bool:
    """Condition 2: a district's next order follows its last one, and its last one that waits.

    Where none waits there is nothing to compare with.
    """
    count = group_count(db)
    districts, orders, waiting = db.district.columns(), db.order.columns(), db.new_order.columns()
    groups = district_numbers(districts.warehouse, districts.id)
    last = greatest(district_numbers(orders.warehouse, orders.district), orders.id, count)[groups]
    last_waiting = greatest(
        district_numbers(waiting.warehouse, waiting.district), waiting.order, count
    )[groups]
    return bool(
        (last == districts.next_order - 1).all()
        and ((last_waiting == last) | (last_waiting == 0)).all()
    )


@app.invariant
def waiting_orders_have_no_gaps(db: Tables) -> bool:
    """Condition 3: between the first and the last order that waits in a district all of them do."""
    count = group_count(db)
    waiting = db.new_order.columns()
    groups = district_numbers(waiting.warehouse, waiting.district)
    rows = np.bincount(groups, minlength=count)
    last = greatest(groups, waiting.order, count)
    first = least(groups, waiting.order, count)
    return bool(((last - first + 1 == rows) | (rows == 0)).all())


@app.invariant
def lines_are_counted(db: Tables) -> bool:
    """Condition 4: a district has as many order lines as its orders say."""
    count = group_count(db)
    orders, lines = db.order.columns(), db.order_line.columns()
    told = sums(district_numbers(orders.warehouse, orders.district), orders.line_count, count)
    found = np.bincount(district_numbers(lines.warehouse, lines.district), minlength=count)
    return bool(np.array_equal(told, found))


CONDITIONS = (
    payments_add_up,
    orders_are_counted,
    waiting_orders_have_no_gaps,
    lines_are_counted,
)


@app.query(compiled=False)
def conditions(db: Tables) -> Conditions:
    """Check conditions 1 to 4 on the image this query sees, and say which do not hold."""
    return Conditions(
        broken=[condition.__name__ for condition in CONDITIONS if not condition(db)],
        orders=len(db.order),
        waiting=len(db.new_order),
        order_lines=len(db.order_line),
    )
