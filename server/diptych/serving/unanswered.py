"""Transactions that have no answer yet, in the one order in which they came: sent, then waiting.

Answers come in the order sent, so what was sent is known by counting, and its bytes are kept until
it is answered: when a writer dies, whatever may be sent twice is sent again to the next one, before
anything that waits for its first. Twice may be sent what the engine knows again: by its session and
request number, by its key, or as an operation that is the same done twice.

Bounded in frames and in bytes, sent and waiting together, so that all of it fits whenever a writer
comes. Knows frames' headers; no sockets and no clock (times are the event loop's).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

from diptych.engine.system import OUTCOME, OUTCOME_OF_KEY, SESSION_OPEN, SESSIONS_TOUCH
from diptych.serving.frames import FrameBuffer
from diptych_client.protocol import HEADER, Kind

T = TypeVar("T")

REPEATABLE = frozenset({SESSION_OPEN, SESSIONS_TOUCH, OUTCOME, OUTCOME_OF_KEY})
SENDS_MAX = 3
"""Writers that a transaction may be sent to where there is no log: it may be what kills them."""
LOGGED_SENDS_MAX = 100
"""With a log that one is found and set aside long before, and the others need not suffer."""


@dataclass(slots=True, eq=False)
class Entry:
    """Whole frames, as the writer gets them, each with its connection; the last `count` are
    unanswered.
    """

    data: bytes
    count: int
    sends: int = 0  # writers that it was sent to
    until: float = math.inf  # waits for a writer so long

    def calls(self) -> Iterator[tuple[int, int, int]]:
        """(connection, operation, request) of each unanswered frame."""
        buffer = FrameBuffer.holding(self.data)
        for position in range(buffer.count - self.count, buffer.count):
            _, _, _, operation, request, _, connection = HEADER.unpack_from(buffer.frame(position))
            yield connection, operation, request


class Unanswered:
    """See the module. `count`: frames, `bytes`: of entries that have any."""

    def __init__(self, bytes_max: int, count_max: int, sends_max: int = SENDS_MAX) -> None:
        self.bytes_max = bytes_max
        self.count_max = count_max
        self.sends_max = sends_max
        self.count = self.bytes = 0
        self._entries: deque[Entry] = deque()
        self._deaths: dict[tuple[int, int], int] = {}  # by session and request, see below

    def room(self) -> int:
        """How many more frames may come: of one read at a time, which may exceed the bytes."""
        return 0 if self.bytes > self.bytes_max else self.count_max - self.count

    def put(self, entry: Entry) -> None:
        self._entries.append(entry)
        self.count += entry.count
        self.bytes += len(entry.data)

    def answered(self, count: int) -> None:
        """The first so many have their answers. Errors: IndexError when there are not so many."""
        self.count -= count
        while count:
            head = self._entries[0]
            if head.count > count:
                head.count -= count
                return
            count -= head.count
            self._entries.popleft()
            self.bytes -= len(head.data)

    def writer_lost(self, until: float) -> list[Entry]:
        """Keep what may be sent again, until then. Returns the rest of what was sent."""
        lost = []
        for entry in self.take_all():
            if not entry.sends:
                self.put(entry)
                continue
            for part, again in _parts(entry, _repeatable):
                if again and part.sends < self.sends_max:
                    part.until = until
                    self.put(part)
                else:
                    lost.append(part)
        return lost

    def for_writer(self, is_there: Callable[[int], bool]) -> list[Entry]:
        """All there is, for a writer who is there now and is sent it in this order.

        What was never sent is dropped when its connection is not there any more: nobody was
        promised anything.
        """
        for entry in self.take_all():
            parts = [(entry, True)] if entry.sends else _parts(entry, _whose(is_there))
            for part, there in parts:
                if there:
                    part.sends += 1
                    part.until = math.inf
                    self.put(part)
        return list(self._entries)

    def take_expired(self, now: float) -> list[Entry]:
        """Those that have waited for a writer for too long."""
        expired = []
        while self._entries and self._entries[0].until < now:
            entry = self._entries.popleft()
            self.count -= entry.count
            self.bytes -= len(entry.data)
            expired.append(entry)
        return expired

    def forget_sessions(self) -> list[Entry]:
        """Drop what came on sessions: whoever sent it connects again, and sends it again.

        Returns what was with so many writers in turn when they died that it may be why.
        """
        before, self._deaths = self._deaths, {}
        given_up = []
        for entry in self.take_all():
            for part, session in _parts(entry, lambda frame: HEADER.unpack_from(frame)[5]):
                if not session:
                    self.put(part)
                elif part.sends:
                    calls = [(session, request) for _, _, request in part.calls()]
                    self._deaths |= {call: before.get(call, 0) + 1 for call in calls}
                    if max(self._deaths[call] for call in calls) >= self.sends_max:
                        given_up.append(part)
        return given_up

    def take_all(self) -> list[Entry]:
        entries = list(self._entries)
        self._entries.clear()
        self.count = self.bytes = 0
        return entries


def _parts(entry: Entry, key: Callable[[memoryview], T]) -> Iterator[tuple[Entry, T]]:
    """The unanswered frames of an entry, by what `key` says of them, in order."""
    buffer = FrameBuffer.holding(entry.data)
    numbers = range(buffer.count - entry.count, buffer.count)
    for said, found in groupby(numbers, lambda number: key(buffer.frame(number))):
        of_it = list(found)
        data = bytes(buffer.view[buffer.starts[of_it[0]] : buffer.starts[of_it[-1] + 1]])
        yield Entry(data, len(of_it), entry.sends, entry.until), said


def _whose(said: Callable[[int], bool]) -> Callable[[memoryview], bool]:
    """What is said of a frame's connection."""
    return lambda frame: said(HEADER.unpack_from(frame)[6])


def _repeatable(frame: memoryview) -> bool:
    _, kind, _, operation, _, session, _ = HEADER.unpack_from(frame)
    return session != 0 or kind == Kind.KEYED or operation in REPEATABLE
