"""What other stores take over from the example: its population as rows, its conditions as SQL."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from typing import Any

from tpcc import Scale, app, population

BROKEN = {
    "payments_add_up": """SELECT count(*) FROM warehouse w WHERE year_to_date !=
        (SELECT coalesce(sum(year_to_date), 0) FROM district WHERE warehouse = w.id)""",
    "orders_are_counted": """SELECT count(*) FROM (SELECT next_order - 1 AS told,
        (SELECT coalesce(max(id), 0) FROM "order"
            WHERE warehouse = d.warehouse AND district = d.id) AS last,
        (SELECT max("order") FROM new_order
            WHERE warehouse = d.warehouse AND district = d.id) AS waiting
        FROM district d) AS counts WHERE told != last OR waiting != last""",
    "waiting_orders_have_no_gaps": """SELECT count(*) FROM (SELECT 1 FROM new_order
        GROUP BY warehouse, district
        HAVING max("order") - min("order") + 1 != count(*)) AS gaps""",
    "lines_are_counted": """SELECT count(*) FROM district d WHERE
        (SELECT coalesce(sum(line_count), 0) FROM "order"
            WHERE warehouse = d.warehouse AND district = d.id) !=
        (SELECT count(*) FROM order_line WHERE warehouse = d.warehouse AND district = d.id)""",
}
"""TPC-C's conditions 1 to 4 as the example has them: how many places break each."""


def tables(scale: Scale) -> Iterator[tuple[Any, Iterator[tuple[Any, ...]]]]:
    """The example's own population: each table's spec, and its rows as they lie."""
    with app.open() as bench:
        for operation, arguments in population(scale):
            bench.call(operation, *arguments)
        for table in bench.db.tables.values():
            spec = table.layout.spec
            yield spec, map(attrgetter(*(column.name for column in spec.columns)), table)
