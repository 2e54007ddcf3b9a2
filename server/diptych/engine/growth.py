"""Memory for what has used up its own: tables, indexes, heaps, and the ranges of the system.

The region says, in a word each, how much memory something has; how much it gets next is a function
of that alone. Whoever allocates and tracks memory is called for what is new, outside the undo of
any transaction.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from diptych.engine.fill_watch import FillWatch
from diptych.errors import HeapFull, OutOfMemory, TableFull
from diptych.memory import Extent, MemoryFailure
from diptych.store import calls
from diptych.store import layout as layouts
from diptych.store import words as at
from diptych.store.fill import range_words, staged_rows
from diptych.store.views import Space

Grow = Callable[[Extent], None]
Extents = Callable[[int, int], list[Extent]]
"""The pages that are added when something goes from one size to another."""
TELL_NS = 10_000_000_000

log = logging.getLogger("diptych.engine")


@dataclass(frozen=True)
class Need:
    """Memory that something will want: `extents` are what it lacks, to have `more`; its `word`
    says how much it has.
    """

    word: int
    more: int
    extents: list[Extent]


class Growth:
    """Of one writer's region. `grow` allocates an extent; OSError or MemoryFailure say it can't.

    `compacted`: the last transaction for which a heap's free memory was put together.
    """

    def __init__(self, layout: layouts.Layout, space: Space, grow: Grow, fill: FillWatch) -> None:
        self.grow = grow
        self.compacted = 0
        self._layout, self._fill = layout, fill
        self._words, self._ints, self._scratch = space.words, space.ints, space.scratch
        # Which words changed in which transaction, and from what; how much memory there is, should
        # a word have gone back.
        self._grown: list[tuple[int, int, int]] = []
        self._has: dict[int, int] = {}
        self._requests = {each.allocated_word for each in layout.requests}
        self._tell_ns = 0

    def give(self, descriptor: int) -> None:
        """Grow what `descriptor` describes. Errors: OutOfMemory."""
        for table in self._layout.tables:
            if table.descriptor == descriptor:
                self._grow_table(table)
                return
            for index in table.indexes:
                if index.descriptor == descriptor:
                    self._grow_index(table, index)
                    return
            if table.heap_words and table.descriptor + at.T_HEAP == descriptor:
                self._grow_heap(table)
                return
        for each in self._layout.system_ranges:
            if each.header == descriptor:
                self._grow_range(each)
                return
        raise AssertionError(f"nothing at {descriptor} can grow")

    def next_need(self) -> Need | None:
        """What will have to grow soon: half of what it was given last is in use, and what it gets
        next is not ready. None when there is no such thing.
        """
        for word, used, more, extents in self._growing():
            before = self._ints[word]
            has = max(before, self._has.get(word, 0))
            if 0 < has < more and 2 * (before - used) < more - before:
                return Need(word, more, extents(has, more))
        return None

    def ready(self, need: Need) -> None:
        """Memory for `need` was given to `grow`: whoever wants it has it at once."""
        self._has[need.word] = max(need.more, self._has.get(need.word, 0))

    def _growing(self) -> Iterator[tuple[int, int, int, Extents]]:
        """By word: what is in use, how much there is after the next growth, and what pages that
        adds. Rows of an import are in use; what they take of indexes is not known.
        """
        ints, words = self._ints, self._words
        for each in self._layout.system_ranges:
            word = each.allocated_word
            more = layouts.range_growth(each, ints[word])
            used = range_words(words, self._layout, each)
            yield word, used, more, partial(layouts.range_extents, each)
        for table in self._layout.tables:
            word = table.descriptor + at.T_ALLOCATED
            more = layouts.table_growth(table, ints[word])
            used = ints[table.state + at.ROW_COUNT] + staged_rows(words, table)
            yield word, used, more, partial(layouts.table_extents, table)
            for index in table.indexes:
                word = index.descriptor + at.X_NODES_ALLOCATED
                more = layouts.index_growth(index, ints[word])
                used = ints[index.state + at.NODE_HIGH]
                yield word, used, more, partial(layouts.index_extents, index)
            if table.heap_words:
                word = table.descriptor + at.T_HEAP_ALLOCATED
                more = layouts.heap_growth(table, ints[word])
                used = ints[table.heap_state + at.H_TOP]
                if staged_rows(words, table):
                    used += ints[at.STAGING_HEAP_WORDS]
                yield word, used, more, partial(layouts.heap_extents, table)

    def compact(self, table: int) -> None:
        """Put the free memory of a table's heap together. Nothing takes that back."""
        self.compacted = self._ints[at.SEQUENCE]
        calls.heap_compact(self._words, table)

    def compact_all(self) -> None:
        """The same for all heaps; one that was for this transaction stays as it is."""
        for table in self._layout.tables:
            if table.heap_words:
                self.compact(table.descriptor)

    def _grow_table(self, table: layouts.TableLayout) -> None:
        allocated = table.descriptor + at.T_ALLOCATED
        more = layouts.table_growth(table, self._ints[allocated])
        self._allocate(allocated, more, lambda old: layouts.table_extents(table, old, more))
        self._fill.look_at(table)

    def _grow_index(self, table: layouts.TableLayout, index: layouts.IndexLayout) -> None:
        allocated = index.descriptor + at.X_NODES_ALLOCATED
        has = self._ints[allocated]
        more = layouts.index_growth(index, has)
        if more == has:
            raise TableFull(table.spec.name, table.capacity)
        self._allocate(allocated, more, lambda old: layouts.index_extents(index, old, more))

    def _grow_heap(self, table: layouts.TableLayout) -> None:
        allocated = table.descriptor + at.T_HEAP_ALLOCATED
        has = self._ints[allocated]
        more = layouts.heap_growth(table, has, self._scratch[at.S_HEAP_WORDS])
        if more == has:
            raise HeapFull(table.spec.name, table.heap_words * 8)
        self._allocate(allocated, more, lambda old: layouts.heap_extents(table, old, more))

    def _grow_range(self, each: layouts.SystemRange) -> None:
        allocated = each.allocated_word
        more = layouts.range_growth(each, self._ints[allocated])
        self._allocate(allocated, more, lambda old: layouts.range_extents(each, old, more))

    def _allocate(self, word: int, more: int, extents: Callable[[int], list[Extent]]) -> None:
        """Give memory beyond what there is, and say so in `word`."""
        before = self._ints[word]
        has = max(before, self._has.get(word, 0))
        if more > has:
            self._take(extents(has))
            self._has[word] = more
        self._grown = [each for each in self._grown if each[0] == self._ints[at.SEQUENCE]]
        self._grown.append((self._ints[at.SEQUENCE], word, before))
        self._ints[word] = more

    def take_back(self, *, handlers: bool) -> None:
        """What was given in this transaction is not in use: it ended for a reason of the machine,
        and a replay, which does not run it, gives nothing. The memory is kept for later.

        `handlers`: only what its handler was given, and not what remembers its answer.
        """
        for sequence, word, before in reversed(self._grown):
            if sequence == self._ints[at.SEQUENCE] and not (handlers and word in self._requests):
                self._ints[word] = before
        self._grown.clear()

    def _take(self, extents: list[Extent]) -> None:
        try:
            for extent in extents:
                self.grow(extent)
        except (OSError, MemoryFailure) as error:
            now_ns = time.monotonic_ns()
            if now_ns >= self._tell_ns:
                # Every transaction that inserts may come this way: the log must not fill up, too.
                self._tell_ns = now_ns + TELL_NS
                log.error("a table can't grow, what needs it to is refused: %s", error)
            raise OutOfMemory(f"the server has no memory for a table to grow: {error}") from error
