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
from functools import partial
from struct import Struct
from typing import Any

import crc32c
import msgpack
import numpy as np
import numpy.typing as npt

from diptych.app import App
from diptych.control_page import PAGE_BYTES as CONTROL_BYTES
from diptych.control_page import Word
from diptych.engine.arguments import binder
from diptych.engine.causes import COMPACTED, Abort, Cause, Skipped, cause_of, error_of
from diptych.engine.fill_watch import FillWatch
from diptych.engine.growth import Grow, Growth
from diptych.engine.requests import Found, Requests, split_key
from diptych.engine.results import failure, packer, too_large, unknown_operation
from diptych.engine.system import (
    SESSION_OPEN,
    SYSTEM_FIRST,
    gateway_transactions,
    questions,
    system_transactions,
)
from diptych.errors import OutOfMemory
from diptych.memory import Extent, Region
from diptych.store import calls
from diptych.store import layout as layouts
from diptych.store import words as at
from diptych.store.database import Database
from diptych.store.faults import OverBudgetNow
from diptych.store.lifetimes import Lifetimes, is_view_kept
from diptych_client.errors import (
    BadArguments,
    DiptychError,
    ServerError,
    SessionExpired,
)
from diptych_client.protocol import HEADER_BYTES, Kind

Handler = Callable[..., Any]
Answer = tuple[int, bytes]
"""Kind and payload of a reply."""

HEADER = Struct("<IBBHqqq")
"""The wire's, with numbers as kernels take them."""
# Enums take longer to look up.
RESULT, KEYED = int(Kind.RESULT), int(Kind.KEYED)
EXECUTING, BEGAN_NS, LAST = int(Word.EXECUTING), int(Word.BEGAN_NS), int(Word.SEQUENCE)
PIECE_FRAMES = 128
"""Frames are hashed so many at a time."""
VIEW_KEPT = "the transaction kept a view of the data beyond its end; copy what must outlive it"

UNCERTAIN = -1  # whose session this was may not be a session any more
NOT_MSGPACK = (ValueError, TypeError, msgpack.UnpackException)
unpackb = msgpack.unpackb
admit = calls.admit

log = logging.getLogger("diptych.engine")


def layout_bytes(app: App, capacities: Mapping[str, int] | None = None) -> int:
    """Address space that a region for this application needs, in bytes."""
    return layouts.of_app(app, capacities).size_bytes


class Engine:
    """Transactions of one application on one region. Make it with `create` or `recover`.

    `replies` collects reply frames until its owner has sent them, `aborts` what ended for a reason
    of the machine until it is in the log (`take_aborts`). `skip`: transactions not to be run, since
    they ended so when the log was written. `outcome`: CRC-32C of all replies since `begin`.
    `handlers` may replace functions of operations by name (the compiled lane does).
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
        self.aborts: list[Abort] = []
        self.skip: dict[int, Cause] = {}
        self.outcome = 0
        self.control: memoryview[int] = memoryview(bytearray(CONTROL_BYTES)).cast("q")
        self.committed = self.rejected = self.failed = self.repeated = 0
        self._now_ns = now_ns
        self._ints, self._words = self.db.space.ints, region.words
        self._region_bytes = region.words.view(np.uint8)
        self._scratch = self.db.space.scratch
        self._space = self.db.space
        self._lifetimes = Lifetimes(self.db.space, self.db.tables.values())
        self._count_kept = self._lifetimes.count
        self._packed = packer()
        self.fill = FillWatch(region.words, layout)
        self._memory = Growth(layout, self.db.space, grow, self.fill)
        self.requests = Requests(self.db, self._give_requests_memory)
        self._packed_kept = packer(self.requests.answer_bytes_max)
        self._session = 0
        self._hashes = np.zeros(PIECE_FRAMES, np.int64)
        self._refused: OutOfMemory | None = None
        self.db.now = self._ints[at.NOW]
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
        for operation in [*system_transactions(self.db), *gateway_transactions(self.requests)]:
            self._operations[operation.number] = (
                operation.name,
                operation.function,
                binder(operation),
            )
        self._questions = {
            operation.number: (operation.name, operation.function, binder(operation))
            for operation in questions(self.requests)
        }

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
            engine._memory.give(table.descriptor)
            for index in table.indexes:
                engine._memory.give(index.descriptor)
            if table.heap_words:
                engine._memory.give(table.descriptor + at.T_HEAP)
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
        self.db.space.give_memory, self.db.space.runs_again = self._memory.give, False
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
        began, ran = len(self.replies), 0
        now_ns = time.monotonic_ns()
        while first + ran < count:
            piece = min(PIECE_FRAMES, count - first - ran)
            now_ns, done = self._run_piece(frames, starts, first + ran, piece, now_ns, deadline_ns)
            ran += done
            if now_ns >= deadline_ns:
                break
        self.control[EXECUTING] = 0
        self.control[LAST] = self._ints[at.SEQUENCE]
        with memoryview(self.replies) as replies:
            self.outcome = crc32c.crc32c(replies[began:], self.outcome)
        return ran

    def _run_piece(
        self,
        frames: npt.NDArray[np.uint8],
        starts: npt.NDArray[np.int64],
        first: int,
        count: int,
        now_ns: int,
        deadline_ns: int,
    ) -> tuple[int, int]:
        """Run so many frames, if time allows: when that ended, and how many ran."""
        calls.hash_frames(frames, starts, first, count, self._hashes)
        checks = self._hashes[:count].tolist()
        bounds = starts[first : first + count + 1].tolist()
        data, replies, db = frames.data, self.replies, self.db
        ints, control = self._ints, self.control
        monotonic_ns, packed, packed_kept = time.monotonic_ns, self._packed, self._packed_kept
        requests, words, sequence = self.requests, self._words, ints[at.SEQUENCE]
        # With memory for all that is ever kept, answers are remembered together: those to frames
        # `since` to `ran`, which stand in `replies` from byte `from_byte` on.
        together = requests.has_all_memory()
        since, ran, from_byte = 0, 0, len(replies)
        for start, stop, check in zip(bounds[:-1], bounds[1:], checks, strict=True):
            sequence += 1
            ints[at.SEQUENCE] = db.sequence = sequence
            _, kind, _, number, request, session, context = HEADER.unpack_from(data, start)
            # What belongs to the server, the last step of an import above all, may take its time.
            control[BEGAN_NS] = now_ns if number < SYSTEM_FIRST else 0
            control[EXECUTING] = sequence
            if session != self._session:
                self._session, db.caller = session, requests.caller_of(session)
            payload, said = data[start + HEADER_BYTES : stop], sequence
            is_plain = number < SESSION_OPEN and kind != KEYED
            if is_plain and not session:
                kind, answer = self._answer(number, payload, packed)
            elif is_plain and not admit(words, session, request, check):
                kind, answer = self._answer(number, payload, packed_kept)
                if not together:
                    requests.remember(session, request, check, number, kind, answer)
            else:
                if together:
                    self._remember(frames, starts, first, since, ran, from_byte)
                kind, answer, number, said = self._run_special(data, start, check, payload)
                since, from_byte = ran + 1, len(replies) + HEADER_BYTES + len(answer)
            replies += HEADER.pack(len(answer), kind, 0, number, request, said, context)
            replies += answer
            ran += 1
            now_ns = monotonic_ns()
            if now_ns >= deadline_ns:
                break
        if together:
            self._remember(frames, starts, first, since, ran, from_byte)
        return now_ns, ran

    def _remember(
        self,
        frames: npt.NDArray[np.uint8],
        starts: npt.NDArray[np.int64],
        first: int,
        since: int,
        ran: int,
        from_byte: int,
    ) -> None:
        """Remember the replies, from a byte on, to frames `since` to `ran` of a piece."""
        if since < ran:
            calls.remember_run(
                self._words,
                self._region_bytes,
                frames,
                starts[first + since :],
                self._hashes[since:],
                ran - since,
                np.frombuffer(self.replies, np.uint8),
                from_byte,
            )

    def _run_special(
        self, data: memoryview, start: int, check: int, payload: memoryview
    ) -> tuple[int, bytes, int, int]:
        """Run a frame that is not plainly new: a reply's kind, payload, operation and number."""
        _, kind, _, number, request, session, _ = HEADER.unpack_from(data, start)
        if number >= SESSION_OPEN:
            return self._run_own(number, payload)
        if kind == KEYED:
            kind, answer, said = self._run_keyed(number, check, payload)
        else:
            kind, answer, said = self._run_again(number, session, request, check, payload)
        return kind, answer, number, said

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
        self._session, db.caller = 0, ""

    def _run_again(
        self, number: int, session: int, request: int, check: int, payload: memoryview
    ) -> tuple[int, bytes, int]:
        """Answer a session's frame as it was before, or refuse it; or give memory for what it will
        be answered, and run it: kind and payload of its reply, and when it ran.
        """
        requests = self.requests
        told = self._told_before(partial(requests.admit, session, request, check))
        if told is not None:
            return told
        kind, answer = self._answer(number, payload, self._packed_kept)
        requests.remember(session, request, check, number, kind, answer)
        return kind, answer, self.db.sequence

    def _run_keyed(self, number: int, check: int, payload: memoryview) -> tuple[int, bytes, int]:
        """The same for a frame with a key, which is the caller's."""
        requests, caller = self.requests, self.db.caller
        try:
            if self._session and not calls.row_of_session(self._words, self._session):
                raise SessionExpired(f"session {self._session} is not known")
            key, rest = split_key(payload)
        except DiptychError as error:
            self.failed += 1
            return *failure(error, "?"), self.db.sequence
        told = self._told_before(partial(requests.admit_key, caller, key, check))
        if told is not None:
            return told
        kind, answer = self._answer(number, rest, self._packed_kept)
        requests.remember_key(caller, key, check, number, kind, answer)
        return kind, answer, self.db.sequence

    def _told_before(self, admit: Callable[[], Found | None]) -> tuple[int, bytes, int] | None:
        """The reply to a frame that must not run; None: it is new, or there is no memory to
        remember it, which `_answer` tells.
        """
        try:
            found = admit()
        except OutOfMemory as error:
            self._refused = error
            return None
        except DiptychError as error:
            self.failed += 1
            return *failure(error, "?"), self.db.sequence
        if found is None:
            return None
        self.repeated += 1
        return found.kind, found.payload, found.sequence

    def _run_own(self, number: int, payload: memoryview) -> tuple[int, bytes, int, int]:
        """Run what opens sessions, or asks what another transaction was answered: a reply's kind,
        payload, operation and number. Asked again it does the same again, so it is not remembered.
        """
        if number not in self._questions:
            answer = self._answer(number, payload, self._packed)
            self._session = UNCERTAIN
            return *answer, number, self.db.sequence
        name, function, bind = self._questions[number]
        try:
            self._check_skipped(name)
            try:
                values = unpackb(payload, strict_map_key=False)
            except NOT_MSGPACK as error:
                raise BadArguments(f"the payload is not msgpack: {error}") from None
            found: Found = function(self.db, *bind(values))
            return found.kind, found.payload, found.operation, found.sequence
        except Exception as error:
            return *self._failed(error, name), number, self.db.sequence

    def _answer(self, number: int, payload: memoryview, packed: Callable[[Any], bytes]) -> Answer:
        """Run the transaction that a frame asks for; kind and payload of its reply."""
        name = "?"
        try:
            found = self._operations.get(number)
            if found is None:
                raise unknown_operation(self.app, number)
            name, function, bind = found
            if self.skip or self._refused is not None:
                self._check_skipped(name)
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
            return self._failed(error, name)

    def _check_skipped(self, name: str) -> None:
        """Errors: what the log says that ended this transaction; OutOfMemory, when there is none to
        remember it.
        """
        refused, self._refused = self._refused, None
        cause = self.skip.get(self.db.sequence)
        if cause is not None:
            raise Skipped(cause)
        if refused is not None:
            raise refused

    def _failed(self, error: BaseException, name: str) -> Answer:
        """Kind and payload of the reply to a transaction that ended with an error."""
        sequence = self.db.sequence
        cause = cause_of(error)
        if cause is not None:
            if not isinstance(error, Skipped):
                if self._memory.compacted == sequence:
                    cause = Cause(cause + COMPACTED)
                self.aborts.append(Abort(sequence, cause))
                # Who has no memory says so, and not each time.
                if cause.reason != Cause.OUT_OF_MEMORY:
                    told = "transaction %d, %s, is undone: %s"
                    log.warning(told, sequence, name, cause.name, exc_info=error)
            # Without memory, nobody knows later whether there was some for the answer.
            self._memory.take_back(handlers=cause.reason != Cause.OUT_OF_MEMORY)
            if cause.is_compacted:
                self._memory.compact_all()
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
            self._memory.compact(needed.descriptor - at.T_HEAP)
        else:
            self._memory.give(needed.descriptor)

    def _give_requests_memory(self, header: int) -> None:
        """Memory for sessions, answers and keys. Errors: OutOfMemory, also in a replay of what
        ended so, since it was taken back then.
        """
        if (cause := self.skip.get(self.db.sequence)) and cause.reason == Cause.OUT_OF_MEMORY:
            raise OutOfMemory
        self._memory.give(header)
