"""A word in the log before a table is full, while there is time to raise its capacity.

Each level is told once, and again only after the table was clearly emptier. Looked at when a table
is given memory, and by the writer from time to time; never for a single transaction.
"""

from __future__ import annotations

import logging

from diptych.memory.layout import Words
from diptych.store import words as at
from diptych.store.fill import fill_share
from diptych.store.layout import Layout, TableLayout

LEVELS = (0.80, 0.95)
FORGET_BELOW = 0.70
CAPACITY_MIN = 100  # a table for fewer rows is one that is meant to be full
LOOK_NS = 1_000_000_000

log = logging.getLogger("diptych.engine")


class FillWatch:
    """The tables of one writer's region."""

    def __init__(self, words: Words, layout: Layout) -> None:
        self._words, self._layout = words, layout
        self._told: dict[str, int] = {}  # by table: how many of LEVELS
        self._next_ns = 0

    def look_at_times(self, now_ns: int) -> None:
        """Look at all tables, if the last time is a second ago. `now_ns`: any clock that ticks."""
        if now_ns >= self._next_ns:
            self._next_ns = now_ns + LOOK_NS
            for table in self._layout.tables:
                self.look_at(table)

    def look_at(self, table: TableLayout) -> None:
        """Look at one table now."""
        if table.capacity < CAPACITY_MIN:
            return
        share, name = fill_share(self._words, table), table.spec.name
        passed = sum(share >= level for level in LEVELS)
        if passed > self._told.get(name, 0):
            self._told[name] = passed
            rows = int(self._words[table.state + at.ROW_COUNT])
            limit = "capacity" if rows / table.capacity == share else "heap_bytes"
            log.warning(
                "table %s is %.0f %% full, with %d of %d rows; when it is full, inserts are "
                "rejected: raise [tables.%s] %s",
                *(name, share * 100, rows, table.capacity, name, limit),
            )
        elif share < FORGET_BELOW:
            self._told.pop(name, None)
