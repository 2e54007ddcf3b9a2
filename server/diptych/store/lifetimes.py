"""What ends with its transaction or query: rows, ranges and views that something kept.

A kept row would turn into another one as soon as its slot is used again. Checking that at each
access would cost more than the access, so it is done once a transaction: each row object holds a
reference to its class, so the classes' reference counts tell whether any was kept. Only then are
they looked for, among the garbage collector's youngest objects first, and made stale.
"""

from __future__ import annotations

import gc
import logging
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from diptych.store.rowtypes import Row, stale_type
from diptych.store.tables import TableView
from diptych.store.views import Space

TELL_NS = 10_000_000_000
_REFERENCES_OF_OUR_OWN = 2  # the local name and getrefcount's argument

log = logging.getLogger("diptych.store")


class Lifetimes:
    """Ends what was kept of one open region's rows and ranges.

    Between two transactions, `end` is called when `count()` is not `alone`: looking at that here,
    too, would take longer than the count.
    """

    def __init__(self, space: Space, tables: Iterable[TableView]) -> None:
        self._space = space
        self._stale = {table.row: stale_type(table.row, table.name) for table in tables}
        self.count = _counter(space, [table.row for table in tables])
        self.alone = self.count()
        self._tell_ns = 0

    def end(self, *, expected: bool = False) -> None:
        """Make stale what outlived its transaction. `expected`: that is nothing to warn of."""
        self._space.end_walks()
        kept = self.count()
        if kept > self.alone:
            names = self._end_rows()
            if names and not expected and time.monotonic_ns() >= self._tell_ns:
                self._tell_ns = time.monotonic_ns() + TELL_NS
                log.warning("something keeps rows of %s; finding them takes time", ", ".join(names))
            kept = self.count()
        # What is left refers to the classes themselves, which is nobody's mistake.
        self.alone = kept

    def _end_rows(self) -> set[str]:
        """Make every row object there is stale; names of their classes."""
        names = self._end_among(gc.get_objects(0)) | self._end_among(gc.get_objects(1))
        if self.count() > self.alone:  # rows among the many objects that are older
            names |= self._end_among(gc.get_referrers(*self._stale))
        return names

    def _end_among(self, objects: list[Any]) -> set[str]:
        names = set()
        for kept in objects:
            stale = self._stale.get(type(kept))
            if stale is not None:
                names.add(type(kept).__name__)
                kept._row = None
                kept.__class__ = stale
        return names


def _counter(space: Space, row_types: list[type[Row]]) -> Callable[[], int]:
    """A function that sums the reference counts of the classes: it runs for each transaction.

    Walks that were lost are taken off; those that are open count, as rows do.
    """
    known: dict[str, object] = {f"row_{i}": each for i, each in enumerate(row_types)}
    counts = "".join(f"getrefcount({name}) + " for name in known)
    known |= {"getrefcount": sys.getrefcount, "space": space}
    made: Callable[[], int] = eval(f"lambda: {counts}-space.lost_walks", known)
    return made


def is_view_kept(space: Space) -> bool:
    """Whether a view of the transaction or query that ends is still alive; the next gets a root of
    its own.
    """
    root = space.take_root()
    if root is None or sys.getrefcount(root) == _REFERENCES_OF_OUR_OWN:
        return False
    gc.collect()  # a view in a cycle is garbage, not kept
    return sys.getrefcount(root) > _REFERENCES_OF_OUR_OWN
