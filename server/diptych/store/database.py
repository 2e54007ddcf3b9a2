"""A schema opened on one mapped region: the `db` that handlers get.

Ties layout, views and table wrappers together. Knows one region and one process; transactions,
sequence numbers and what to do about faults are the engine's.
"""

from __future__ import annotations

from typing import Any

from diptych.app import Db, Random
from diptych.errors import CorruptionError, did_you_mean
from diptych.memory import Region
from diptych.store import calls, random, verify, verify_requests
from diptych.store import words as at
from diptych.store.faults import ReadOnly
from diptych.store.layout import Layout
from diptych.store.tables import TableView, open_table
from diptych.store.views import Space

SCRATCH_BYTES = 1 << 30
"""Address space for arguments, cursors and the undo log; memory is taken as the log is used."""


class Database(Db):
    """Tables as attributes, and what a handler may know of its transaction."""

    def __init__(self, layout: Layout, region: Region, *, writable: bool) -> None:
        self.layout = layout
        self.space = Space(region, writable)
        self.tables: dict[str, TableView] = {}
        for table in layout.tables:
            self.tables[table.spec.name] = open_table(self.space, table, self.tables)
        self.__dict__.update(self.tables)
        self.now, self.sequence, self.caller = 0, 0, ""
        if writable:
            self.random: Random = random.Generator(self.space)

    def __getattr__(self, name: str) -> Any:
        if name == "random":
            raise ReadOnly("db.random is for transactions: a query has no number of its own")
        known = did_you_mean(name, self.__dict__.get("tables", ()))
        raise AttributeError(f"there is no table {name!r}{known}")

    def rollback(self) -> None:
        """Undo all that was written since the last commit, byte for byte."""
        calls.rollback(self.space.words, 0)
        random.restart(self.space)

    def commit(self) -> None:
        """Keep all that was written since the last commit."""
        self.space.scratch[at.S_UNDO_TOP] = 0

    def verify(self) -> None:
        """Check every table against its structures, and what is known of requests, reading all
        data. Errors: CorruptionError.
        """
        for name, table in self.tables.items():
            code = calls.check(self.space.words, table.layout.descriptor)
            if code:
                raise CorruptionError(f"table {name}: {verify.explain(code)}")
        code = calls.check_requests(self.space.words)
        if code:
            raise CorruptionError(f"requests: {verify_requests.EXPLANATIONS[code]}")
