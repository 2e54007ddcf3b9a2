"""A word in the log before a table is full, while there is time to raise its capacity.

Each level is told once, and again only after the table was clearly emptier. Looked at when a table
is given memory, and by the writer from time to time; never for a single transaction.
"""

from __future__ import annotations

import logging

from diptych.memory.layout import Words
from diptych.store.fill import heap_share, rows_share
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
        self._told: dict[str, int] = {}  # by setting: how many of LEVELS
        self._next_ns = 0

    def look_at_times(self, now_ns: int) -> None:
        """Look at all tables, if the last time is a second ago. `now_ns`: any clock that ticks."""
        if now_ns >= self._next_ns:
            self._next_ns = now_ns + LOOK_NS
            for table in self._layout.tables:
                self.look_at(table)

    def look_at(self, table: TableLayout) -> None:
        """Look at one table now."""
        name, words = table.spec.name, self._words
        if table.capacity >= CAPACITY_MIN:
            self._look(f"[tables.{name}] capacity", name, "rows", rows_share(words, table))
        if table.heap_words:
            self._look(f"[tables.{name}] heap_bytes", name, "heap", heap_share(words, table))

    def _look(self, setting: str, table: str, part: str, share: float) -> None:
        passed = sum(share >= level for level in LEVELS)
        if passed > self._told.get(setting, 0):
            self._told[setting] = passed
            log.warning(
                "table %s is %.0f %% full (%s); what goes beyond is rejected: raise %s",
                *(table, share * 100, part, setting),
            )
        elif share < FORGET_BELOW:
            self._told.pop(setting, None)
