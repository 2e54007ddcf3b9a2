"""What terminals key in: the inputs of clause 2 of the specification, in its mix.

Each terminal draws operations from a shuffled deck of a hundred cards, 45 new orders, 43 payments
and 4 of each of the others, so the specification's least shares (5.2.3) hold exactly. One order in
a hundred names an item that does not exist, as its last line. With several warehouses one line in a
hundred comes from another one, and 15 payments in a hundred are a customer's of another one.

`Terminals` is a mix for `diptych loadtest` (`--mix tpcc.terminals:Terminals`, at full size); a
connection stands for as many terminals of one district as it has calls in flight. Knows no sockets.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

from diptych.loadtest.mix import Call
from tpcc.draws import (
    CUSTOMER_A,
    CUSTOMER_C,
    ITEM_A,
    ITEM_C,
    LAST_A,
    LAST_C_RUN,
    last_name,
    nurand,
)
from tpcc.loader import Scale, population
from tpcc.schema import DISTRICTS, LINES_MAX, LINES_MIN

DECK = (
    ("new_order",) * 45
    + ("payment",) * 43
    + ("order_status",) * 4
    + ("delivery",) * 4
    + ("stock_level",) * 4
)
FULL_SIZE = Scale()


class Terminals:
    """The calls of all terminals. `connection` tells them apart; the same for the same seed."""

    def __init__(self, scale: Scale = FULL_SIZE, seed: int = 7) -> None:
        self.scale = scale
        self.seed = seed

    def setup(self) -> Iterator[Call]:
        """The initial population. A server that has it refuses every call of it."""
        return population(self.scale)

    def calls(self, connection: int) -> Iterator[Call]:
        """One deck after another, for ever; queries among them."""
        keyed = self._keyboard(connection)
        while True:
            yield from keyed.deck()

    def queries(self, connection: int) -> Iterator[Call]:
        """The two queries in turn, for connections that do nothing else."""
        keyed = self._keyboard(-1 - connection)
        while True:
            yield "order_status", keyed.order_status()
            yield "stock_level", keyed.stock_level()

    def _keyboard(self, number: int) -> Keyboard:
        warehouse = 1 + number % self.scale.warehouses
        district = 1 + number // self.scale.warehouses % DISTRICTS
        source = random.Random(f"{self.seed}/terminal/{number}")
        return Keyboard(self.scale, source, warehouse, district)


class Keyboard:
    """One terminal's inputs: its warehouse never changes, nor the district of its stock levels."""

    def __init__(self, scale: Scale, source: random.Random, warehouse: int, district: int) -> None:
        self._scale = scale
        self._source = source
        self._warehouse = warehouse
        self._district = district
        self._keyed: dict[str, Callable[[], tuple[Any, ...]]] = {
            name: getattr(self, name) for name in dict.fromkeys(DECK)
        }

    def deck(self) -> Iterator[Call]:
        """A hundred calls."""
        cards = list(DECK)
        self._source.shuffle(cards)
        for operation in cards:
            yield operation, self._keyed[operation]()

    def new_order(self) -> tuple[Any, ...]:
        customer = self._customer()
        count = self._between(LINES_MIN, LINES_MAX)
        fails = self._percent(1)
        lines = [(self._item(), self._supplier(), self._between(1, 10)) for _ in range(count)]
        if fails:
            lines[-1] = (self._scale.items + 1, *lines[-1][1:])
        return self._warehouse, self._between(1, DISTRICTS), customer, lines

    def payment(self) -> tuple[Any, ...]:
        district = self._between(1, DISTRICTS)
        where = (self._warehouse, district)
        if not self._percent(85):
            where = (self._another_warehouse(), self._between(1, DISTRICTS))
        amount = self._between(1_00, 5_000_00)
        return self._warehouse, district, *where, amount, *self._who()

    def order_status(self) -> tuple[Any, ...]:
        return self._warehouse, self._between(1, DISTRICTS), *self._who()

    def delivery(self) -> tuple[Any, ...]:
        return self._warehouse, self._between(1, 10)

    def stock_level(self) -> tuple[Any, ...]:
        return self._warehouse, self._district, self._between(10, 20)

    def _who(self) -> tuple[int | None, str | None]:
        """A customer's number, or in 60 of a hundred cases a last name."""
        if self._percent(60):
            number = nurand(self._source, LAST_A, LAST_C_RUN, 0, self._scale.names - 1)
            return None, last_name(number)
        return self._customer(), None

    def _customer(self) -> int:
        return nurand(self._source, CUSTOMER_A, CUSTOMER_C, 1, self._scale.customers)

    def _item(self) -> int:
        return nurand(self._source, ITEM_A, ITEM_C, 1, self._scale.items)

    def _supplier(self) -> int:
        return self._another_warehouse() if self._percent(1) else self._warehouse

    def _another_warehouse(self) -> int:
        """Any warehouse but one's own; one's own where there is no other."""
        if self._scale.warehouses == 1:
            return self._warehouse
        other = self._between(1, self._scale.warehouses - 1)
        return other + (other >= self._warehouse)

    def _between(self, low: int, high: int) -> int:
        return low + int(self._source.random() * (high - low + 1))

    def _percent(self, percent: int) -> bool:
        return self._source.random() * 100 < percent
