"""Frames through one engine: which lane runs each, what came before, what is remembered.

Every frame takes a number, whatever becomes of it. A frame of a session, or with a key, runs if it
is new, and what it was answered is remembered with it (`requests`); else it gets the first answer.
Compiled operations run in kernels, many frames at a time (`store.lane`); all else runs here, one by
one, in the order in which it came. How a transaction runs, and what is made of its errors, is the
engine's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from struct import Struct
from typing import TYPE_CHECKING

import msgpack
import numpy as np
import numpy.typing as npt

from diptych.control_page import Word
from diptych.engine.arguments import binder
from diptych.engine.lane import Lane
from diptych.engine.requests import Found, split_key
from diptych.engine.results import failure
from diptych.engine.system import SESSION_OPEN, SYSTEM_FIRST, questions
from diptych.errors import OutOfMemory
from diptych.store import calls
from diptych.store import words as at
from diptych.store.faults import OverBudgetNow
from diptych_client.errors import BadArguments, DiptychError, SessionExpired
from diptych_client.protocol import HEADER_BYTES, Kind

if TYPE_CHECKING:
    from diptych.engine.engine import Engine

HEADER = Struct("<IBBHqqq")
"""The wire's, with numbers as kernels take them."""
# Enums take longer to look up.
KEYED = int(Kind.KEYED)
EXECUTING, BEGAN_NS, LAST = int(Word.EXECUTING), int(Word.BEGAN_NS), int(Word.SEQUENCE)
PIECE_FRAMES = 128
"""Frames are hashed, and given to the compiled lane, so many at a time."""
UNCERTAIN = -1  # whose session this was may not be a session any more
NOT_MSGPACK = (ValueError, TypeError, msgpack.UnpackException)
unpackb = msgpack.unpackb
admit = calls.admit
Frames = npt.NDArray[np.uint8]
Starts = npt.NDArray[np.int64]


class Batches:
    """Of one engine. `lane`: its compiled operations, if it has any."""

    def __init__(self, engine: Engine, lane: Lane | None) -> None:
        self._engine, self._lane = engine, lane
        self._compiled: frozenset[int] = lane.numbers if lane is not None else frozenset()
        self.repeated = 0  # how many came before
        self._session = 0  # whose the last frame was
        self._hashes = np.zeros(PIECE_FRAMES, np.int64)
        self._region_bytes = engine.region.words.view(np.uint8)
        self._questions = {
            operation.number: (operation.name, operation.function, binder(operation))
            for operation in questions(engine.requests)
        }

    def forget_session(self) -> None:
        """What runs next may be another caller's, or nobody's."""
        self._session = UNCERTAIN

    def run(self, frames: Frames, starts: Starts, first: int, count: int, deadline_ns: int) -> int:
        """See `Engine.run`."""
        ran, hashes = 0, self._hashes
        now_ns = time.monotonic_ns()
        while first + ran < count:
            begin = first + ran
            piece = min(PIECE_FRAMES, count - begin)
            calls.hash_frames(frames, starts, begin, piece, hashes)
            bounds = starts[begin : begin + piece + 1]
            now_ns, done = self._run_piece(frames, bounds, now_ns, deadline_ns)
            ran += done
            if now_ns >= deadline_ns:
                break
        return ran

    def _run_piece(
        self, frames: Frames, starts: Starts, now_ns: int, deadline_ns: int
    ) -> tuple[int, int]:
        """Run the frames between `starts`, if time allows: when that ended, and how many ran."""
        count, ran, admitted = len(starts) - 1, 0, False
        while ran < count:
            if self._lane is not None:
                ran = self._run_compiled(self._lane, frames, starts, ran, now_ns)
                admitted, now_ns = self._lane.admitted, time.monotonic_ns()
            # What is admitted has to run, since it counts as answered; and some frame always does.
            if ran < count and (admitted or ran == 0 or now_ns < deadline_ns):
                now_ns, ran = self._interpret(frames, starts, ran, now_ns, deadline_ns, admitted)
            if now_ns >= deadline_ns:
                break
        return now_ns, ran

    def _run_compiled(
        self, lane: Lane, frames: Frames, starts: Starts, first: int, now_ns: int
    ) -> int:
        """Run frames from number `first` on, for as long as the lane can; the number of the next.

        What the log says that it ended for a reason of the machine is not for the lane.
        """
        engine, stop = self._engine, len(starts) - 1
        if engine.skip:
            before = engine.sequence
            stop = min(
                [stop, *(first + each - before - 1 for each in engine.skip if each > before)]
            )
        control = np.frombuffer(engine.control, np.int64)
        ran, replies = lane.run(control, frames, starts, self._hashes, first, stop, now_ns)
        engine.replies += replies
        engine.compiled += ran
        engine.rejected += lane.rejected
        engine.committed += ran - lane.rejected
        if first + ran < stop and engine.db.space.control[at.DOOMED] == engine.sequence + 1:
            engine.refused = OverBudgetNow()  # by what was done of it here
        return first + ran

    def _interpret(
        self,
        frames: Frames,
        starts: Starts,
        first: int,
        now_ns: int,
        deadline_ns: int,
        admitted: bool,
    ) -> tuple[int, int]:
        """Run frames from number `first` on, up to one that the lane may take, or all if there is
        none: when that ended, and the number of the next. The first may be `admitted`.
        """
        engine = self._engine
        checks, bounds = self._hashes[first : len(starts) - 1].tolist(), starts[first:].tolist()
        data, replies, db = frames.data, engine.replies, engine.db
        ints, control, words = db.space.ints, engine.control, db.space.words
        monotonic_ns, compiled = time.monotonic_ns, self._compiled
        requests, sequence = engine.requests, ints[at.SEQUENCE]
        packed, packed_kept = engine.packed, engine.packed_kept
        # With memory for all that is ever kept, answers are remembered together: those to frames
        # `since` to `ran`, which stand in `replies` from byte `from_byte` on.
        together = requests.has_all_memory()
        since, ran, from_byte = first, first, len(replies)
        for start, stop, check in zip(bounds[:-1], bounds[1:], checks, strict=True):
            _, kind, _, number, request, session, context = HEADER.unpack_from(data, start)
            if number in compiled and ran > first:
                break
            sequence += 1
            ints[at.SEQUENCE] = db.sequence = sequence
            # What belongs to the server, the last step of an import above all, may take its time.
            control[BEGAN_NS] = now_ns if number < SYSTEM_FIRST else 0
            control[EXECUTING] = sequence
            if session != self._session:
                self._session, db.caller = session, requests.caller_of(session)
            payload, said = data[start + HEADER_BYTES : stop], sequence
            is_plain = number < SESSION_OPEN and kind != KEYED
            if is_plain and not session:
                kind, answer = engine.answer(number, payload, packed)
            elif is_plain and (admitted or not admit(words, session, request, check)):
                kind, answer = engine.answer(number, payload, packed_kept)
                if not together:
                    requests.remember(session, request, check, number, kind, answer)
            else:
                if together:
                    self._remember(frames, starts, since, ran, from_byte)
                kind, answer, number, said = self._run_special(data, start, check, payload)
                since, from_byte = ran + 1, len(replies) + HEADER_BYTES + len(answer)
            replies += HEADER.pack(len(answer), kind, 0, number, request, said, context)
            replies += answer
            admitted = False
            ran += 1
            now_ns = monotonic_ns()
            if now_ns >= deadline_ns:
                break
        if together:
            self._remember(frames, starts, since, ran, from_byte)
        return now_ns, ran

    def _remember(
        self, frames: Frames, starts: Starts, since: int, ran: int, from_byte: int
    ) -> None:
        """Remember the replies, from a byte on, to frames `since` to `ran` of a piece."""
        if since < ran:
            engine = self._engine
            calls.remember_run(
                engine.db.space.words,
                self._region_bytes,
                frames,
                starts[since:],
                self._hashes[since:],
                ran - since,
                np.frombuffer(engine.replies, np.uint8),
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

    def _run_again(
        self, number: int, session: int, request: int, check: int, payload: memoryview
    ) -> tuple[int, bytes, int]:
        """Answer a session's frame as it was before, or refuse it; or give memory for what it will
        be answered, and run it: kind and payload of its reply, and when it ran.
        """
        engine, requests = self._engine, self._engine.requests
        told = self._told_before(partial(requests.admit, session, request, check))
        if told is not None:
            return told
        kind, answer = engine.answer(number, payload, engine.packed_kept)
        requests.remember(session, request, check, number, kind, answer)
        return kind, answer, self._engine.db.sequence

    def _run_keyed(self, number: int, check: int, payload: memoryview) -> tuple[int, bytes, int]:
        """The same for a frame with a key, which is the caller's."""
        engine, requests = self._engine, self._engine.requests
        caller = engine.db.caller
        try:
            if self._session and not calls.row_of_session(engine.db.space.words, self._session):
                raise SessionExpired(f"session {self._session} is not known")
            key, rest = split_key(payload)
        except DiptychError as error:
            self._engine.failed += 1
            return *failure(error, "?"), self._engine.db.sequence
        told = self._told_before(partial(requests.admit_key, caller, key, check))
        if told is not None:
            return told
        kind, answer = engine.answer(number, rest, engine.packed_kept)
        requests.remember_key(caller, key, check, number, kind, answer)
        return kind, answer, self._engine.db.sequence

    def _told_before(self, admit: Callable[[], Found | None]) -> tuple[int, bytes, int] | None:
        """The reply to a frame that must not run; None: it is new, or there is no memory to
        remember it, which `Engine.answer` tells.
        """
        try:
            found = admit()
        except OutOfMemory as error:
            self._engine.refused = error
            return None
        except DiptychError as error:
            self._engine.failed += 1
            return *failure(error, "?"), self._engine.db.sequence
        if found is None:
            return None
        self.repeated += 1
        return found.kind, found.payload, found.sequence

    def _run_own(self, number: int, payload: memoryview) -> tuple[int, bytes, int, int]:
        """Run what opens sessions, or asks what another transaction was answered: a reply's kind,
        payload, operation and number. Asked again it does the same again, so it is not remembered.
        """
        engine = self._engine
        if number not in self._questions:
            answer = engine.answer(number, payload, engine.packed)
            self.forget_session()
            return *answer, number, self._engine.db.sequence
        name, function, bind = self._questions[number]
        try:
            engine.check_skipped(name)
            try:
                values = unpackb(payload, strict_map_key=False)
            except NOT_MSGPACK as error:
                raise BadArguments(f"the payload is not msgpack: {error}") from None
            found: Found = function(engine.db, *bind(values))
            return found.kind, found.payload, found.operation, found.sequence
        except Exception as error:
            return *engine.failure_of(error, name), number, self._engine.db.sequence
