"""One writer's work without sockets: run transactions, one after another, on one region.

Takes frames as they were received, appends replies as they will be sent. A transaction either
commits, or leaves the application's memory byte for byte as it was. Everything it does is a
function of the region's bytes, the frames and the time given, but for what the machine refuses
(`causes`), which is noted in `aborts`; who calls it, and who copies the region, is not known.

A frame of a session, or with a key, runs if it is new; what it was answered is remembered with it
(`requests`). Each frame takes a number, whatever becomes of it.

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
from typing import Any

import crc32c
import numpy as np
import numpy.typing as npt

from diptych.app import App
from diptych.control_page import PAGE_BYTES as CONTROL_BYTES
from diptych.control_page import Word
from diptych.engine.arguments import binder
from diptych.engine.batches import NOT_MSGPACK, Batches, unpackb
from diptych.engine.causes import COMPACTED, Abort, Cause, Skipped, cause_of, error_of
from diptych.engine.fill_watch import FillWatch
from diptych.engine.growth import Grow, Growth
from diptych.engine.lane import Lane
from diptych.engine.requests import Requests
from diptych.engine.results import failure, packer, too_large, unknown_operation
from diptych.engine.system import (
    gateway_transactions,
    system_transactions,
)
from diptych.errors import OutOfMemory
from diptych.memory import Extent, Region
from diptych.store import layout as layouts
from diptych.store import words as at
from diptych.store.database import Database
from diptych.store.faults import OverBudgetNow
from diptych.store.lane import Compiled
from diptych.store.lifetimes import Lifetimes, is_view_kept
from diptych_client.errors import (
    BadArguments,
    ServerError,
)
from diptych_client.protocol import Kind

Handler = Callable[..., Any]
Answer = tuple[int, bytes]
"""Kind and payload of a reply."""

RESULT = int(Kind.RESULT)
EXECUTING, LAST = int(Word.EXECUTING), int(Word.SEQUENCE)
VIEW_KEPT = "the transaction kept a view of the data beyond its end; copy what must outlive it"

log = logging.getLogger("diptych.engine")


def layout_bytes(app: App, capacities: Mapping[str, int] | None = None) -> int:
    """Address space that a region for this application needs, in bytes."""
    return layouts.of_app(app, capacities).size_bytes


class Engine:
    """Transactions of one application on one region. Make it with `create` or `recover`.

    `replies` collects reply frames until its owner has sent them, `aborts` what ended for a reason
    of the machine until it is in the log (`take_aborts`). `skip`: transactions not to be run, since
    they ended so when the log was written. `outcome`: CRC-32C of all replies since `begin`.
    `committed`, `rejected`, `failed` count transactions; `compiled` those that compiled code ran.
    Of what it is made of, `compiled` are operations that run as machine code, many frames at a
    time; `handlers` may replace functions of the others by name.
    """

    def __init__(
        self,
        app: App,
        region: Region,
        layout: layouts.Layout,
        grow: Grow,
        now_ns: Callable[[], int],
        compiled: Compiled | None = None,
        handlers: Mapping[str, Handler] | None = None,
    ) -> None:
        self.app = app
        self.region = region
        self.layout = layout
        self.db = Database(layout, region, writable=True)
        self.replies = bytearray()
        self.aborts: list[Abort] = []
        self.skip: dict[int, Cause] = {}
        self.outcome = 0
        self.control: memoryview[int] = memoryview(bytearray(CONTROL_BYTES)).cast("q")
        self.committed = self.rejected = self.failed = self.compiled = 0
        self._now_ns = now_ns
        self._ints, self._words = self.db.space.ints, region.words
        self._scratch = self.db.space.scratch
        self._space = self.db.space
        self._lifetimes = Lifetimes(self.db.space, self.db.tables.values())
        self._count_kept = self._lifetimes.count
        self.packed = packer()
        self.fill = FillWatch(region.words, layout)
        self.growth = Growth(layout, self.db.space, grow, self.fill)
        self.requests = Requests(self.db, self._give_requests_memory)
        self.packed_kept = packer(self.requests.answer_bytes_max)
        self.refused: OutOfMemory | OverBudgetNow | None = None
        self.db.now = self._ints[at.NOW]
        functions = handlers or {}
        self._operations: dict[int, tuple[str, Handler, Callable[[list[Any]], list[Any]]]] = {
            operation.number: (
                operation.name,
                functions.get(operation.name, operation.function),
                binder(operation),
            )
            for operation in [
                *(each for each in app.operations if each.kind == "transaction"),
                *system_transactions(self.db),
                *gateway_transactions(self.requests),
            ]
        }
        lane = None
        if compiled is not None and compiled.transactions:
            lane = Lane(compiled, region, self.requests.answer_bytes_max)
        self._batches = Batches(self, lane)

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
        compiled: Compiled | None = None,
        handlers: Mapping[str, Handler] | None = None,
        setup: bool = True,
    ) -> Engine:
        """Lay out a region of zeros and run the application's setup as its first transaction."""
        layout = layouts.of_app(app, capacities)
        grow(layout.system)
        layout.format(region.words, history=history, seed=seed)
        engine = cls(app, region, layout, grow, now_ns, compiled, handlers)
        # Every structure has some memory from the start, so that nobody ever reads a hole.
        for table in layout.tables:
            engine.growth.give(table.descriptor)
            for index in table.indexes:
                engine.growth.give(index.descriptor)
            if table.heap_words:
                engine.growth.give(table.descriptor + at.T_HEAP)
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
        compiled: Compiled | None = None,
        handlers: Mapping[str, Handler] | None = None,
    ) -> Engine:
        """Open a region restored from an image, as the beginning of another `history`.

        Errors: CorruptionError when it was laid out for another schema.
        """
        layout = layouts.of_app(app, capacities)
        layout.check(region.words)
        region.words[at.HISTORY] = history
        return cls(app, region, layout, grow, now_ns, compiled, handlers)

    @property
    def repeated(self) -> int:
        """How many transactions came before, and were not run again."""
        return self._batches.repeated

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
        self.db.space.give_memory, self.db.space.runs_again = self.growth.give, False
        try:
            yield self.db
        except BaseException:
            self.db.rollback()
            raise
        else:
            self.db.commit()
            self._end_kept()  # of an error, whose frames have rows, later
        finally:
            self.db.space.give_memory, self.db.space.runs_again = None, True
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

    def begin(self, time_ns: int) -> None:
        """Give the transactions that `run` runs from now on their time; `outcome` begins anew."""
        self._ints[at.NOW] = self.db.now = max(time_ns, self._ints[at.NOW])
        self.outcome = 0

    def run(
        self,
        frames: npt.NDArray[np.uint8],
        starts: npt.NDArray[np.int64],
        first: int,
        count: int,
        deadline_ns: int,
    ) -> int:
        """Run frames `first` to `count`, each a TRANSACTION or KEYED frame between two of `starts`.

        Stops after the frame in which `deadline_ns` (monotonic) passes. Returns how many ran, and
        appends a reply for each, with the context of its request.
        """
        self._check_alone()
        began = len(self.replies)
        ran = self._batches.run(frames, starts, first, count, deadline_ns)
        self.control[EXECUTING] = 0
        self.control[LAST] = self._ints[at.SEQUENCE]
        with memoryview(self.replies) as replies:
            self.outcome = crc32c.crc32c(replies[began:], self.outcome)
        return ran

    def take_aborts(self) -> list[Abort]:
        """What ended for a reason of the machine since this was last called."""
        taken, self.aborts = self.aborts, []
        return taken

    def verify(self) -> None:
        """Check all structures and every invariant. Errors: CorruptionError, AssertionError."""
        self.db.verify()
        try:
            for invariant in self.app.invariants:
                self.check_invariant(invariant)
        finally:
            self.db.space.take_root()

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
        db.caller = ""
        self._batches.forget_session()

    def answer(self, number: int, payload: memoryview, packed: Callable[[Any], bytes]) -> Answer:
        """Run the transaction that a frame asks for; kind and payload of its reply."""
        name = "?"
        try:
            found = self._operations.get(number)
            if found is None:
                raise unknown_operation(self.app, number)
            name, function, bind = found
            if self.skip or self.refused is not None:
                self.check_skipped(name)
            try:
                values = unpackb(payload, strict_map_key=False)
            except NOT_MSGPACK as error:
                raise BadArguments(f"the payload is not msgpack: {error}") from None
            answer = self._execute(function, bind(values), packed)
            self.committed += 1
            return RESULT, answer
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit, too: a handler must not end the server
            return self.failure_of(error, name)

    def check_skipped(self, name: str) -> None:
        """Errors: what the log says that ended this transaction; OutOfMemory, when there is none to
        remember it; OverBudgetNow, when compiled code has used up its time.
        """
        refused, self.refused = self.refused, None
        cause = self.skip.get(self.db.sequence)
        if cause is not None:
            raise Skipped(cause)
        if refused is not None:
            raise refused

    def failure_of(self, error: BaseException, name: str) -> Answer:
        """Kind and payload of the reply to a transaction that ended with an error."""
        sequence = self.db.sequence
        cause = cause_of(error)
        if cause is not None:
            if not isinstance(error, Skipped):
                if self.growth.compacted == sequence:
                    cause = Cause(cause + COMPACTED)
                self.aborts.append(Abort(sequence, cause))
                # Who has no memory says so, and not each time.
                if cause.reason != Cause.OUT_OF_MEMORY:
                    told = "transaction %d, %s, is undone: %s"
                    log.warning(told, sequence, name, cause.name, exc_info=error)
            # Without memory, nobody knows later whether there was some for the answer.
            self.growth.take_back(handlers=cause.reason != Cause.OUT_OF_MEMORY)
            if cause.is_compacted:
                self.growth.compact_all()
            error = error_of(cause, name)
        kind, answer = failure(error, name, str(sequence))
        if len(answer) > self.requests.answer_bytes_max:
            error = too_large(len(answer), self.requests.answer_bytes_max)
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

        `pack` makes of the value what is returned, before the commit, so that one which can't be
        sent undoes the transaction. What needed memory is run again, whatever became of it.
        """
        lifetimes, space = self._lifetimes, self._space
        while True:
            if self._count_kept() != lifetimes.alone:
                lifetimes.end()
            try:
                result = pack(function(self.db, *arguments))
                if space.has_root and is_view_kept(space):
                    raise ServerError(VIEW_KEPT)
            except KeyboardInterrupt:
                self._undo()
                space.memory_needed = None
                raise
            except BaseException as error:
                self._undo()
                if space.is_over_budget():
                    space.memory_needed = None
                    raise OverBudgetNow from error  # whose traceback says where it was
                if space.memory_needed is None:
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
            self.growth.compact(needed.descriptor - at.T_HEAP)
        else:
            self.growth.give(needed.descriptor)

    def _give_requests_memory(self, header: int) -> None:
        """Memory for sessions, answers and keys. Errors: OutOfMemory, also in a replay of what
        ended so, since it was taken back then.
        """
        if (cause := self.skip.get(self.db.sequence)) and cause.reason == Cause.OUT_OF_MEMORY:
            raise OutOfMemory
        self.growth.give(header)
