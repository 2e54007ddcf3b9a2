"""The second example: TPC-C's wholesaler, its loader, its terminals and its consistency conditions.

`python -m tpcc` shows it at work, `python -m tpcc.driver` measures it, `diptych serve tpcc:app`
serves it, and `tpcc.terminals:Terminals` is its mix for `diptych loadtest`.
"""

from tpcc.app import delivery, new_order, order_status, payment, stock_level
from tpcc.invariants import conditions
from tpcc.loader import Part, Scale, populate, population
from tpcc.schema import (
    Conditions,
    Delivered,
    Line,
    Ordered,
    OrderedLine,
    Paid,
    Place,
    Status,
    StatusLine,
    Tables,
    app,
)

__all__ = [
    "Conditions",
    "Delivered",
    "Line",
    "Ordered",
    "OrderedLine",
    "Paid",
    "Part",
    "Place",
    "Scale",
    "Status",
    "StatusLine",
    "Tables",
    "app",
    "conditions",
    "delivery",
    "new_order",
    "order_status",
    "payment",
    "populate",
    "population",
    "stock_level",
]
