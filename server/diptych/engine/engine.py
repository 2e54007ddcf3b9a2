"""One writer's work without sockets: run transactions, one after another, on one region.

Takes frames as they were received, appends replies as they will be sent. A transaction either
commits, or leaves the application's memory byte for byte as it was. Everything it does is a
function of the region's bytes, the frames and the time given; who calls it, and who copies the
region, is not known.

When a table has used up its memory but not its capacity, the transaction is rolled back, the table
gets memory (`grow`), and the transaction runs again, so that memory never grows inside one. The
same goes for a heap whose free memory is in pieces: they are put together in between.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt

from diptych.app import App
from diptych.engine.arguments import binder
from diptych.engine.causes import Cause, error_of
from diptych.engine.fill_watch import FillWatch
from diptych.engine.results import failure, packer
from diptych.engine.system import system_transactions
from diptych.errors import HeapFull, OutOfMemory, TableFull
from diptych.memory import Extent, MemoryFailure, Region
from diptych.store import calls
from diptych.store import layout as layouts
from diptych.store import words as at
from diptych.store.database import Database
from diptych.store.faults import MemoryNeeded, OverBudgetNow
from diptych.store.lifetimes import Lifetimes, is_view_kept
from diptych_client.errors import BadArguments, DiptychError, ServerError, UnknownOperation
from diptych_client.protocol import HEADER, HEADER_BYTES, Kind

Grow = Callable[[Extent], None]
Handler = Callable[..., Any]

RESULT = int(Kind.RESULT)
VIEW_KEPT = "the transaction kept a view of the data beyond its end; copy what must outlive it"
TELL_MEMORY_NS = 10_000_000_000

log = logging.getLogger("diptych.engine")


def layout_bytes(app: App, capacities: Mapping[str, int] | None = None) -> int:
    """Address space that a region for this application needs, in bytes."""
    return layouts.of_app(app, capacities).size_bytes


class Engine:
    """Transactions of one application on one region. Make it with `create` or `recover`.

    `replies` collects reply frames until its owner has sent them. `handlers` may replace functions
    of operations by name (the compiled lane does).
    """

    def __init__(
        self,
        app: App,
        region: Region,
        layout: layouts.Layout,
        grow: Grow,
        now_ns: Callable[[], int],
        handlers: Mapping[str, Handler] | None = None,
    ) -> None:
        self.app = app
        self.region = region
        self.layout = layout
        self.db = Database(layout, region, writable=True)
        self.replies = bytearray()
        self.committed = self.rejected = self.failed = 0
        self._grow = grow
        self._now_ns = now_ns
        self._ints = self.db.space.ints
        self._scratch = self.db.space.scratch
        self._tell_memory_ns = 0
        self._space = self.db.space
        self._lifetimes = Lifetimes(self.db.space, self.db.tables.values())
        self._count_kept = self._lifetimes.count
        self._packed = packer()
        self.fill = FillWatch(region.words, layout)
        functions = handlers or {}
        self._operations: dict[int, tuple[str, Handler, Callable[[list[Any]], list[Any]]]] = {
            operation.number: (
                operation.name,
                functions.get(operation.name, operation.function),
                binder(operation),
            )
            for operation in app.operations
            if operation.kind == "transaction"
        }
        for operation in system_transactions(self.db):
            self._operations[operation.number] = (
                operation.name,
                operation.function,
                binder(operation),
            )

    @classmethod
    def create(
        cls,
        app: App,
        region: Region,
        *,
        grow: Grow,
        history: int,
        capacities: Mapping[str, int] | None = None,
        seed: int = 0,
        now_ns: Callable[[], int] = time.time_ns,
        handlers: Mapping[str, Handler] | None = None,
        setup: bool = True,
    ) -> Engine:
        """Lay out a region of zeros and run the application's setup as its first transaction."""
        layout = layouts.of_app(app, capacities)
        grow(layout.system)
        layout.format(region.words, history=history, seed=seed)
        engine = cls(app, region, layout, grow, now_ns, handlers)
        # Every structure has some memory from the start, so that nobody ever reads a hole.
        for table in layout.tables:
            engine._give_memory(table.descriptor)
            for index in table.indexes:
                engine._give_memory(index.descriptor)
            if table.heap_words:
                engine._give_memory(table.descriptor + at.T_HEAP)
        if setup and app.setup_function is not None:
            engine.transact(app.setup_function)
        region.words[at.SETUP_DONE] = 1
        return engine

    @classmethod
    def recover(
        cls,
        app: App,
        region: Region,
        *,
        grow: Grow,
        history: int,
        capacities: Mapping[str, int] | None = None,
        now_ns: Callable[[], int] = time.time_ns,
        handlers: Mapping[str, Handler] | None = None,
    ) -> Engine:
        """Open a region restored from an image, as the beginning of another `history`.

        Errors: CorruptionError when it was laid out for another schema.
        """
        layout = layouts.of_app(app, capacities)
        layout.check(region.words)
        region.words[at.HISTORY] = history
        return cls(app, region, layout, grow, now_ns, handlers)

    @property
    def sequence(self) -> int:
        """Number of the last transaction."""
        return self._ints[at.SEQUENCE]

    @property
    def history(self) -> int:
        """Changes whenever transactions that may have been acknowledged were lost."""
        return self._ints[at.HISTORY]

    def extents(self) -> list[Extent]:
        """What has memory now."""
        return self.layout.extents(self.region.words)

    @contextmanager
    def transaction(self) -> Iterator[Database]:
        """A transaction as a block of code. It can't run again, so memory is given inside it.

        A heap whose free memory is in pieces is full here: nothing moves while it is written to.
        """
        self._check_alone()
        self._end_kept()
        self._begin()
        self.db.space.give_memory = self._give_memory
        try:
            yield self.db
        except BaseException:
            self.db.rollback()
            raise
        else:
            self.db.commit()
            self._end_kept()  # of an error, whose frames have rows, later
        finally:
            self.db.space.give_memory = None
            self.db.space.take_root()

    def _end_kept(self) -> None:
        """Of a block: its frame may well have rows, which end here like those of a handler."""
        if self._lifetimes.count() != self._lifetimes.alone:
            self._lifetimes.end(expected=True)

    def transact(self, function: Handler, *arguments: Any) -> Any:
        """Run one function as a transaction: setup, tests, scripts. Raises what it raises."""
        self._check_alone()
        self._begin()
        try:
            return self._execute(function, arguments, pack=lambda value: value)
        except OverBudgetNow:
            raise error_of(Cause.OVER_BUDGET, function.__name__) from None

    def run(
        self,
        frames: npt.NDArray[np.uint8],
        starts: npt.NDArray[np.int64],
        first: int,
        count: int,
        deadline_ns: int,
    ) -> int:
        """Run frames `first` to `count`, each a TRANSACTION frame between two of `starts`.

        Stops after the frame in which `deadline_ns` (monotonic) passes. Returns how many ran, and
        appends a reply for each, with the context of its request.
        """
        self._check_alone()
        data = frames.data
        replies, ints, db, monotonic_ns = self.replies, self._ints, self.db, time.monotonic_ns
        ints[at.NOW] = db.now = self._clock()
        sequence = ints[at.SEQUENCE]
        ran = 0
        for start, stop in pairwise(starts[first : count + 1].tolist()):
            sequence += 1
            ints[at.SEQUENCE] = db.sequence = sequence
            _, _, _, number, request, _, context = HEADER.unpack_from(data, start)
            kind, payload = self._answer(number, data[start + HEADER_BYTES : stop])
            replies += HEADER.pack(len(payload), kind, 0, number, request, sequence, context)
            replies += payload
            ran += 1
            if monotonic_ns() >= deadline_ns:
                break
        return ran

    def verify(self) -> None:
        """Check all structures and every invariant. Errors: CorruptionError, AssertionError."""
        self.db.verify()
        try:
            self._check_invariants()
        finally:
            self.db.space.take_root()

    def _check_invariants(self) -> None:
        for invariant in self.app.invariants:
            self.check_invariant(invariant)

    def check_invariant(self, invariant: Callable[..., bool]) -> None:
        """Run one invariant on the data as it is. Errors: AssertionError."""
        holds = invariant(self.db)
        if self._scratch[at.S_UNDO_TOP]:
            self.db.rollback()
            raise AssertionError(f"invariant {invariant.__name__} changes data")
        if not holds:
            raise AssertionError(f"invariant {invariant.__name__} does not hold")

    def _clock(self) -> int:
        """Time of the transactions that begin now: it never goes back, whatever the host says."""
        return max(self._now_ns(), self._ints[at.NOW])

    def _check_alone(self) -> None:
        """Errors: RuntimeError inside a `transaction()` block, whose undo log this would end."""
        if self.db.space.give_memory is not None:
            raise RuntimeError("a transaction() block is open: transactions don't nest")

    def _begin(self) -> None:
        db, ints = self.db, self._ints
        ints[at.NOW] = db.now = self._clock()
        ints[at.SEQUENCE] = db.sequence = ints[at.SEQUENCE] + 1

    def _answer(self, number: int, payload: memoryview) -> tuple[int, bytes]:
        """Run the transaction that a frame asks for; kind and payload of its reply."""
        name = "?"
        try:
            found = self._operations.get(number)
            if found is None:
                raise self._unknown(number)
            name, function, bind = found
            try:
                values = msgpack.unpackb(payload, strict_map_key=False)
            except (ValueError, TypeError, msgpack.UnpackException) as error:
                raise BadArguments(f"the payload is not msgpack: {error}") from None
            answer = self._execute(function, bind(values), self._packed)
            self.committed += 1
            return RESULT, answer
        except OverBudgetNow:
            self.failed += 1
            log.warning("transaction %d, %s, took too long and is undone", self.sequence, name)
            return failure(error_of(Cause.OVER_BUDGET, name), name)
        except Exception as error:
            kind, answer = failure(error, name)
            if kind == Kind.REJECTED:
                self.rejected += 1
            else:
                # A log handler may keep the error for longer; its frames must not keep rows.
                traceback.clear_frames(error.__traceback__)
                self.failed += 1
            return kind, answer

    def _execute(self, function: Handler, arguments: Any, pack: Callable[[Any], Any]) -> Any:
        """Run and commit, or roll back and raise.

        `pack` turns the value into what is returned, before the commit, so that a value which
        can't be sent undoes the transaction. What needed memory on the way is not looked at: it is
        run again, whatever the handler made of the exception. Nor is what used up its time.
        """
        lifetimes, space = self._lifetimes, self._space
        while True:
            if self._count_kept() != lifetimes.alone:
                lifetimes.end()
            try:
                result = pack(function(self.db, *arguments))
                if space.has_root and is_view_kept(space):
                    raise ServerError(VIEW_KEPT)
            except (Exception, MemoryNeeded, OverBudgetNow):
                self._undo()
                if space.memory_needed is None and not space.is_over_budget():
                    raise
            except BaseException:
                self._undo()
                space.memory_needed = None
                raise
            else:
                if space.memory_needed is None and not space.is_over_budget():
                    self._scratch[at.S_UNDO_TOP] = 0
                    return result
                self._undo()  # the handler caught what should have ended it
            if space.is_over_budget():
                space.memory_needed = None
                raise OverBudgetNow
            self._give_what_is_needed()

    def _undo(self) -> None:
        self.db.rollback()
        self.db.space.take_root()

    def _give_what_is_needed(self) -> None:
        needed, self.db.space.memory_needed = self.db.space.memory_needed, None
        assert needed is not None
        if needed.compact:
            calls.heap_compact(self.region.words, needed.descriptor - at.T_HEAP)
        else:
            self._give_memory(needed.descriptor)

    def _unknown(self, number: int) -> DiptychError:
        known = {operation.number: operation for operation in self.app.operations}.get(number)
        if known is None:
            return UnknownOperation(f"{self.app.name} has no operation number {number}")
        return UnknownOperation(f"{known.name} is a query, not a transaction")

    def _give_memory(self, descriptor: int) -> None:
        """Grow what `descriptor` describes. Errors: OutOfMemory."""
        words = self.region.words
        for table in self.layout.tables:
            if table.descriptor == descriptor:
                rows = int(words[descriptor + at.T_ALLOCATED])
                more = layouts.table_growth(table, rows)
                self._take(layouts.table_extents(table, rows, more))
                words[descriptor + at.T_ALLOCATED] = more
                self.fill.look_at(table)
                return
            for index in table.indexes:
                if index.descriptor == descriptor:
                    nodes = int(words[descriptor + at.X_NODES_ALLOCATED])
                    more = layouts.index_growth(index, nodes)
                    if more == nodes:
                        raise TableFull(table.spec.name, table.capacity)
                    self._take(layouts.index_extents(index, nodes, more))
                    words[descriptor + at.X_NODES_ALLOCATED] = more
                    return
            if table.heap_words and table.descriptor + at.T_HEAP == descriptor:
                self._grow_heap(table)
                return
        for staging in self.layout.staging:
            if staging.header == descriptor:
                before = int(words[staging.allocated_word])
                more = layouts.staging_growth(staging, before)
                self._take(layouts.staging_extents(staging, before, more))
                words[staging.allocated_word] = more
                return
        raise AssertionError(f"nothing at {descriptor} can grow")

    def _grow_heap(self, table: layouts.TableLayout) -> None:
        allocated = table.descriptor + at.T_HEAP_ALLOCATED
        has = self._ints[allocated]
        more = layouts.heap_growth(table, has, self._scratch[at.S_HEAP_WORDS])
        if more == has:
            raise HeapFull(table.spec.name, table.heap_words * 8)
        self._take(layouts.heap_extents(table, has, more))
        self._ints[allocated] = more

    def _take(self, extents: list[Extent]) -> None:
        try:
            for extent in extents:
                self._grow(extent)
        except (OSError, MemoryFailure) as error:
            now_ns = time.monotonic_ns()
            if now_ns >= self._tell_memory_ns:
                # Every transaction that inserts may come this way: the log must not fill up, too.
                self._tell_memory_ns = now_ns + TELL_MEMORY_NS
                log.error("a table can't grow, what needs it to is refused: %s", error)
            raise OutOfMemory(f"the server has no memory for a table to grow: {error}") from error
