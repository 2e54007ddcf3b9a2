"""Stored data in the tables that the code has now: filled in bulk, rebuilt, and checked.

Reads the old region, which is as it was stored, and fills a new one; touches no file, so that
whatever goes wrong here leaves the directory as it was. Live rows are copied column by column to
the first slots, in their order; hash and indexes are made anew from them. Then the application's
migration function runs, if there is one, and in the end everything is checked: each table's
structures, each kept column against the old one, each invariant.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from diptych.app import App
from diptych.durable.progress import Progress
from diptych.engine.engine import Engine
from diptych.errors import CorruptionError, EvolutionError
from diptych.evolution import Comparison
from diptych.memory import Region
from diptych.schema import Column
from diptych.store import layout as layouts
from diptych.store import rebuild
from diptych.store import words as at
from diptych.store.database import Database
from diptych.store.layout import IndexLayout, SystemRange, TableLayout
from diptych.store.transfer import Array, Unfit, converted, default_words, read_words, write_words

PIECE_ROWS = 1 << 16
UNDO_KEPT_WORDS = 1 << 20
"""A migration function can't be undone but by starting over: its undo log need not grow."""

log = logging.getLogger("diptych.engine")


class Migration:
    """One migration, from `old` (opened for reading) into `region`, which is all zero."""

    def __init__(
        self,
        app: App,
        comparison: Comparison,
        function: Callable[..., None] | None,
        old: Database,
        region: Region,
        *,
        history: int,
        capacities: Mapping[str, int] | None = None,
    ) -> None:
        self._app, self._comparison, self._function = app, comparison, function
        self._old, self._region = old, region
        self._history, self._capacities = history, capacities

    def run(self) -> None:
        """Do all of it. Errors: EvolutionError, CorruptionError, AllocationFailed, and whatever the
        application's migration function or invariants raise.
        """
        old_words = self._old.space.words
        engine = Engine.create(
            self._app,
            self._region,
            grow=self._region.allocate,
            history=self._history,
            capacities=self._capacities,
            seed=int(old_words[at.SEED]),
            setup=False,
        )
        self._region.words[at.SEQUENCE] = old_words[at.SEQUENCE]
        self._region.words[at.NOW] = old_words[at.NOW]
        self._carry_requests(engine.layout.requests)
        filled = [
            (self._old.tables[table.spec.name].layout, table)
            for table in engine.layout.tables
            if table.spec.name in self._old.tables
            and table.spec.name not in self._comparison.blocked_tables
        ]
        for before, after in filled:
            _Copy(self._old, before, engine.db, after, self._region).run()
        # Counted as a transaction, so that no number means two states.
        with engine.transaction() as new:
            for before, after in filled:
                _fill_heap_defaults(new, before, after)
            if self._function is not None:
                log.info("running the application's migration %s", self._function.__name__)
                with _short_undo(new):
                    self._function(self._old, new)
        log.info("checking what was migrated")
        try:
            engine.verify()
        except AssertionError as broken:
            raise EvolutionError(f"after the migration, {broken}") from None

    def _carry_requests(self, ranges: tuple[SystemRange, ...]) -> None:
        """Sessions, answers and keys, as they are: they know nothing of the application."""
        old, new = self._old.space.words, self._region.words
        for before, after in zip(self._old.layout.requests, ranges, strict=True):
            allocated = int(old[before.allocated_word])
            for extent in layouts.range_extents(after, 0, allocated):
                self._region.allocate(extent)
            new[after.start : after.start + allocated] = old[
                before.start : before.start + allocated
            ]
            new[after.allocated_word] = allocated
        new[at.SESSIONS_HIGH : at.KEYS_TAIL + 1] = old[at.SESSIONS_HIGH : at.KEYS_TAIL + 1]


class _Copy:
    """One table that can be filled without help, and how far that is."""

    def __init__(
        self, old: Database, before: TableLayout, new: Database, after: TableLayout, region: Region
    ) -> None:
        self._old, self._new = old.space.words, new.space.words
        self._before, self._after, self._region = before, after, region
        self._name = after.spec.name
        high = int(self._old[before.state + at.ROW_HIGH])
        self._rows: Array = np.flatnonzero(self._old[before.live : before.live + high] == -1)
        count = len(self._rows)
        # Each column is copied and compared; the hash, and each index, cost as much again.
        self._steps = 2 * len(after.spec.columns) + 4 * len(after.indexes) + 1
        self._progress = Progress(
            log,
            f"migrating table {self._name}",
            count * self._steps,
            shown=lambda work: f"{work // self._steps:,}",
            unit="rows",
        )

    def run(self) -> None:
        before, after, new, count = self._before, self._after, self._new, len(self._rows)
        if count > after.capacity:
            raise EvolutionError(
                f"table {self._name}: its {count:,} rows are more than the capacity "
                f"{after.capacity}"
            )
        self._allocate(count)
        new[after.live : after.live + count] = -1
        new[after.state + at.ROW_COUNT] = new[after.state + at.ROW_HIGH] = count
        for column in after.spec.columns:
            if column.name in before.spec.by_name:
                self._copy_column(before.spec.by_name[column.name], column)
            else:
                self._fill_column(column)
        self._copy_heap()
        self._link()
        for index in after.indexes:
            self._index(index)
        self._compare()
        log.info("table %s: %s rows in %.1f s", self._name, f"{count:,}", self._progress.elapsed_s)

    def _allocate(self, count: int) -> None:
        """Memory for `count` rows, as much as the table would have had by growing."""
        descriptor = self._after.descriptor
        have = more = int(self._new[descriptor + at.T_ALLOCATED])
        while more < count:
            more = layouts.table_growth(self._after, more)
        for extent in layouts.table_extents(self._after, have, more):
            self._region.allocate(extent)
        self._new[descriptor + at.T_ALLOCATED] = more

    def _copy_column(self, old: Column, new: Column) -> None:
        for start in range(0, len(self._rows), PIECE_ROWS):
            piece = self._rows[start : start + PIECE_ROWS]
            given = [
                read_words(self._old, self._before, old.first_word + i, piece)
                for i in range(old.all_words)
            ]
            try:
                arrays = converted(old, new, given)
            except Unfit as unfit:
                raise EvolutionError(
                    f"table {self._name}, column {new.name}: {unfit}; only a migration can say "
                    "what is to become of it (docs/evolution.md)"
                ) from None
            for i, array in enumerate(arrays):
                write_words(self._new, self._after, new.first_word + i, start, array)
            self._progress.add(len(piece))

    def _fill_column(self, column: Column) -> None:
        for i, word in enumerate(default_words(column)):
            if word:
                array = np.full(len(self._rows), word, np.int64)
                write_words(self._new, self._after, column.first_word + i, 0, array)
        self._progress.add(len(self._rows))

    def _copy_heap(self) -> None:
        """The whole heap as it is: every live row comes along, so each reference stays right."""
        before, after = self._before, self._after
        if not before.heap_words or not after.heap_words:
            return
        state = self._old[before.heap_state : before.heap_state + at.HEAP_STATE_WORDS]
        top = int(state[at.H_TOP])
        if top > after.heap_words:
            raise EvolutionError(
                f"table {self._name}: its values need {top * 8} bytes, more than the heap_bytes "
                f"{after.heap_words * 8}"
            )
        have = more = int(self._new[after.descriptor + at.T_HEAP_ALLOCATED])
        while more < top:
            more = layouts.heap_growth(after, more)
        for extent in layouts.heap_extents(after, have, more):
            self._region.allocate(extent)
        self._new[after.descriptor + at.T_HEAP_ALLOCATED] = more
        self._new[after.heap_state : after.heap_state + at.HEAP_STATE_WORDS] = state
        self._new[after.heap : after.heap + top] = self._old[before.heap : before.heap + top]

    def _link(self) -> None:
        before, after, count = self._before, self._after, len(self._rows)
        new, state = self._new, self._after.state
        if after.spec.auto and count:
            key = after.spec.keys[0].first_word
            last = int(read_words(new, after, key, np.arange(count)).max())
            new[state + at.AUTO_LAST] = max(0, last, int(self._old[before.state + at.AUTO_LAST]))
        elif after.spec.auto:
            new[state + at.AUTO_LAST] = self._old[before.state + at.AUTO_LAST]
        new[state + at.BUCKET_COUNT] = max(layouts.BUCKETS_FIRST, count)
        for start in range(0, count, PIECE_ROWS):
            stop = min(start + PIECE_ROWS, count)
            rebuild.link_rows(new, after.descriptor, start, stop)
            self._progress.add(stop - start)

    def _index(self, index: IndexLayout) -> None:
        """Entries in order, which fills the nodes as far as they go."""
        new, count = self._new, len(self._rows)
        entries = np.empty((count, index.spec.words), np.int64)
        rebuild.write_entries(new, index.descriptor, entries)
        self._progress.add(count)
        order = np.lexsort(entries.T[::-1])
        self._progress.add(count)
        done, code = 0, np.zeros(1, np.int64)
        while done < count:
            upto = min(done + PIECE_ROWS, count)
            entered = rebuild.add_rows(new, index.descriptor, order[:upto], done, code)
            self._progress.add(2 * (entered - done))
            done = entered
            if code[0] == at.GROW_INDEX:
                self._grow_index(index)
            elif code[0] == at.NOT_UNIQUE:
                raise EvolutionError(
                    f"table {self._name}, index {index.spec.name}: unique, but rows agree on all "
                    "of its columns"
                )
            elif code[0]:
                raise AssertionError(f"index {index.spec.name} can't be built: {code[0]}")

    def _grow_index(self, index: IndexLayout) -> None:
        nodes = int(self._new[index.descriptor + at.X_NODES_ALLOCATED])
        more = layouts.index_growth(index, nodes)
        for extent in layouts.index_extents(index, nodes, more):
            self._region.allocate(extent)
        self._new[index.descriptor + at.X_NODES_ALLOCATED] = more

    def _compare(self) -> None:
        """Each kept value against the old one, by the way that handlers read them."""
        before, after = self._before, self._after
        for new in after.spec.columns:
            old = before.spec.by_name.get(new.name)
            if old is None or (old.bits != new.bits and old.kind == "float"):
                self._progress.add(len(self._rows))
                continue  # filled with a default, or in another form than it was
            pairs = [(old.first_word + i, new.first_word + i)
                     for i in range(min(old.words, new.words))]  # fmt: skip
            if old.optional and new.optional:
                pairs.append((old.valid_word, new.valid_word))
            for source, target in pairs:
                at_row = rebuild.first_difference(
                    self._old, before.descriptor, source, self._rows,
                    self._new, after.descriptor, target,
                )  # fmt: skip
                if at_row >= 0:
                    raise CorruptionError(
                        f"table {self._name}, column {new.name}: row {at_row} was not copied right"
                    )
            self._progress.add(len(self._rows))


def _fill_heap_defaults(new: Database, before: TableLayout, after: TableLayout) -> None:
    """Values in the heap need memory each: they go the way of a handler's."""
    added = [c for c in after.spec.heap_columns if c.name not in before.spec.by_name and c.default]
    for row in new.tables[after.spec.name] if added else ():
        for column in added:
            setattr(row, column.name, column.default)
        new.space.scratch[at.S_UNDO_TOP] = 0


@contextmanager
def _short_undo(new: Database) -> Iterator[None]:
    """Keep the undo log short while a migration function runs, however much it inserts."""
    scratch = new.space.scratch
    kept = []

    def shortening(operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            if scratch[at.S_UNDO_TOP] > UNDO_KEPT_WORDS:
                scratch[at.S_UNDO_TOP] = 0
            return operation(*given, **named)

        return call

    for view in new.tables.values():
        kept.append((view, view.insert, view.get_or_insert))
        view.insert = shortening(view.insert)
        view.get_or_insert = shortening(view.get_or_insert)
    try:
        yield
    finally:
        for view, insert, get_or_insert in kept:
            view.insert, view.get_or_insert = insert, get_or_insert
