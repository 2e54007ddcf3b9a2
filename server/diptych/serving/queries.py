"""Where queries wait, which reader gets which, and who may be looking at which image.

Decisions only: no sockets, no clock (times come in as nanoseconds). `gateway` feeds it with what
happens and carries out what it returns. The life of a query:

    arrive -> waiting for a sequence number -> ready -> in a reader's batch -> answered

A waiting query has neither reader nor image, so it can't block the sync that it waits for. Queries
are dispatched on the current image only. A free reader gets as many as are estimated to take about
BATCH_NS together; one of a slow or unknown operation goes alone; queries known to be long never
take the last reader. What was not started behind a slow query is given to another reader as well,
and the first answer counts. A query whose reader died is given to another once. An image is
released when it is not current and no reader that is alive, or dead but not yet reaped, has work on
it.

A *bundle* is a `Query` of several of one client (`bundles`), compiled and quick ones. All that is
said above is true of it as a whole, until it goes wrong: a reader tells which query it runs
(`Mark`), so that one alone is at fault, and the others of its bundle are given to a reader again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from sortedcontainers import SortedKeyList

from diptych.serving.bundles import Mark, bundle, calls, part
from diptych.serving.channel import Hold, Image, Run
from diptych_client.errors import DiptychError, HistoryChanged, ServerError, TimedOut
from diptych_client.protocol import HEADER

BATCH_NS = 500_000
"""Estimated running time that a reader gets at once."""
ALONE_NS = 250_000
"""From this estimate on a query travels alone."""
LONG_NS = 10_000_000
"""From this estimate on a query must leave a reader free for the others."""
IMPATIENT_NS = 2_000_000
"""After so long with one query, what waits behind it is given to another reader."""
STUCK_NS = 20_000_000
"""After so long with one query of a bundle, so are the others of that bundle."""
WEIGHT = 0.2
"""Of the newest running time in an operation's average."""
ANSWERED_MAX = 1024
"""Answered queries that may stand behind an unanswered one in the order of arrival."""


BUNDLED = -1
"""The operation of a bundle of several: what one of them costs is learned of all together."""
NO_MARK = Mark(0, 0)


@dataclass(slots=True, eq=False)
class Query:
    """One query of a client, from its arrival to its answer, or a bundle of `count` of them, when
    `bundled`. `frame`: as a reader gets it.
    """

    token: int
    connection: int
    operation: int
    request: int
    at_least: int
    frame: bytes
    arrived_ns: int
    count: int = 1
    bundled: bool = False
    deaths: int = 0
    done: bool = False


@dataclass(slots=True, eq=False)
class Reader:
    """What one reader process has been given and has not answered. The first is running."""

    number: int
    batch: deque[Query] = field(default_factory=deque)
    hold: Hold | None = None
    since_ns: int = 0
    mark: Mark = NO_MARK
    gone: bool = False
    alone: Query | None = None  # of its batch, the one that has not been given to others as well
    long: bool = False
    answered: int = 0
    busy_us: int = 0


class Failed(NamedTuple):
    """What is answered with an error. `calls`: operation and request number of each query of it."""

    query: Query
    error: DiptychError
    calls: list[tuple[int, int]]


class Verdict(NamedTuple):
    """What must be done now: answers to give, readers to kill."""

    failed: list[Failed]
    kill: list[tuple[int, str]]


class Queries:
    """See the module. `limit_ns`: how long a query may wait, and then again how long it may run.

    `mark_of`: what a reader, by its number, says that it runs.
    """

    def __init__(
        self,
        limit_ns: int,
        max_pin_ms: float,
        mark_of: Callable[[int], Mark] = lambda number: NO_MARK,
    ) -> None:
        self.limit_ns = limit_ns
        self._mark_of = mark_of
        self._token = self._count = 0
        self.max_pin_ms = max_pin_ms
        self.current: Image | None = None
        self.readers: dict[int, Reader] = {}
        self.retried = 0
        self.bytes = 0  # of all frames here
        self._open: dict[int, Query] = {}
        self._arrivals: deque[Query] = deque()
        self._waiting: SortedKeyList[Query] = SortedKeyList(key=_by_sequence)
        self._quick: deque[Query] = deque()
        self._long: deque[Query] = deque()
        self._wanted = 0
        self._cost_ns: dict[int, float] = {}
        self.changed: set[int] = set()  # operations that may have become quick, or slow

    def __len__(self) -> int:
        return self._count

    def token(self) -> int:
        """A number for the next query."""
        self._token += 1
        return self._token

    @property
    def waiting(self) -> int:
        """Queries that wait for a sequence number."""
        return len(self._waiting)

    @property
    def wanted(self) -> int:
        """The highest sequence number that a query waits for; 0: none."""
        return self._waiting[-1].at_least if self._waiting else 0

    # What happens to queries.

    def arrive(self, query: Query) -> int | None:
        """Take a query in. Returns a sequence number to ask the writer for, when there is need."""
        self._take_in(query)
        self._arrivals.append(query)
        if len(self._arrivals) > 2 * len(self._open) + ANSWERED_MAX:
            self._arrivals = deque(q for q in self._arrivals if not q.done)
        if self.current is not None and query.at_least <= self.current.sequence:
            self._ready(query)
            return None
        self._waiting.add(query)
        if query.at_least <= self._wanted:
            return None
        self._wanted = query.at_least
        return query.at_least

    def dispatch(self, now_ns: int) -> list[tuple[int, Run, list[Query]]]:
        """Give ready queries to free readers: (reader, the image, its queries)."""
        if self.current is None or not (self._quick or self._long):
            return []
        free = [r for r in self.readers.values() if not r.batch and not r.gone]
        given = []
        for position, reader in enumerate(free):
            batch, long = self._pick(len(free) - position)
            if not batch:
                break
            reader.batch.extend(batch)
            reader.hold = Hold(self.current.image, self.current.epoch)
            reader.since_ns, reader.alone, reader.long = now_ns, None, long
            given.append((reader.number, self._run(len(batch)), batch))
        return given

    def answered(
        self,
        number: int,
        token: int,
        run_us: int,
        now_ns: int,
        *,
        count: int = 1,
        last: bool = False,
    ) -> tuple[Query | None, list[Hold]]:
        """A reader answered one, or a bundle of `count`. Returns which, unless it was answered
        before, and releases.

        `last`: the reader ends by itself now, so it holds its image until it is reaped.
        """
        reader = self.readers.get(number)
        if reader is None or not reader.batch or reader.batch[0].token != token:
            return None, []
        query = reader.batch.popleft()
        reader.since_ns = now_ns
        reader.answered += count
        reader.busy_us += run_us
        self._learn_from(query, run_us * 1000, count)
        if last:
            reader.gone = True
            self._give_again(each for each in reader.batch if reader.alone in (None, each))
        released = [] if reader.batch or last else self._end_hold(reader)
        if query.done:
            return None, released
        self._close(query)
        return query, released

    def abandon(self, connection: int) -> None:
        """The client of these is gone; what runs already runs to its end."""
        for query in [q for q in self._open.values() if q.connection == connection]:
            self._waiting.discard(query)
            self._close(query)

    def due(self, now_ns: int) -> Verdict:
        """What time has brought: queries that waited too long, or ran too long."""
        failed: list[Failed] = []
        kill: list[tuple[int, str]] = []
        for reader in self.readers.values():
            if not reader.batch or reader.gone:
                continue
            mark = self._mark_of(reader.number)
            if mark != reader.mark:
                reader.mark, reader.since_ns = mark, now_ns  # it gets on
            ran_ns = now_ns - reader.since_ns
            if ran_ns > self.limit_ns:
                why = f"the query ran longer than query_ms = {self.limit_ns // 1_000_000}"
                failed += self._stop(reader, why, now_ns)
                kill.append((reader.number, why))
            elif ran_ns > IMPATIENT_NS and reader.alone is None:
                reader.alone = self._running(reader)
                self._give_again(each for each in reader.batch if each is not reader.alone)
            elif ran_ns > STUCK_NS and reader.alone is not None and reader.alone.count > 1:
                self._part_stuck(reader, reader.alone, ran_ns)
        failed += self._expired(now_ns)
        return Verdict(failed, kill)

    # What happens to images, and to the writer.

    def publish(self, image: Image) -> list[Hold]:
        """Another image is current, or the current one's number moved on. Returns releases."""
        before, self.current = self.current, image
        while self._waiting and self._waiting[0].at_least <= image.sequence:
            self._ready(self._waiting.pop(0))
        if not self._waiting:
            self._wanted = 0
        if before is None or (before.image, before.epoch) == (image.image, image.epoch):
            return []
        old = Hold(before.image, before.epoch)
        return [] if old in self.in_use() else [old]

    def renew(self, time_ns: int) -> None:
        """The current image shows all that there was at `time_ns`."""
        if self.current is not None:
            self.current = self.current._replace(time_ns=time_ns)

    def in_use(self) -> set[Hold]:
        """The current image, and those that readers are on."""
        used = {reader.hold for reader in self.readers.values() if reader.hold is not None}
        if self.current is not None:
            used.add(Hold(self.current.image, self.current.epoch))
        return used

    def pinned(self, hold: Hold, now_ns: int) -> Verdict:
        """The writer has no image left because of `hold`: whoever is on it must stop."""
        failed: list[Failed] = []
        kill: list[tuple[int, str]] = []
        for reader in self.readers.values():
            if reader.hold == hold and not reader.gone:
                why = f"the query held an image longer than max_pin_ms = {self.max_pin_ms:g}"
                failed += self._stop(reader, why, now_ns)
                kill.append((reader.number, why))
        return Verdict(failed, kill)

    def new_writer(self, message: str) -> list[Failed]:
        """Another writer with another history: the numbers that queries wait for mean nothing."""
        stale = list(self._waiting)
        self._waiting.clear()
        self._wanted = 0
        return [self._fail(query, HistoryChanged(message)) for query in stale]

    def give_up(self, error: DiptychError) -> list[Failed]:
        """All that is unanswered, and nobody's any more: the end."""
        self._waiting.clear()
        return [self._fail(query, error) for query in list(self._open.values())]

    # What happens to readers.

    def joined(self, number: int) -> None:
        self.readers[number] = Reader(number)

    def lost(self, number: int, now_ns: int) -> list[Failed]:
        """A reader's socket closed. What it held stays held until it is reaped."""
        reader = self.readers.get(number)
        if reader is None or reader.gone:
            return []
        reader.gone = True
        if not reader.batch:
            return []
        again, running, is_elsewhere = self._at_fault(reader)
        failed = []
        running.deaths += 1
        if running.done:
            pass
        elif running.deaths > 1 or now_ns - running.arrived_ns > self.limit_ns:
            failed.append(self._fail(running, _death(running.deaths)))
        else:
            self.retried += 1
            if not is_elsewhere:
                again.insert(0, running)
        self._give_again(again)
        return failed

    def reaped(self, number: int) -> list[Hold]:
        """The supervisor says that the process is gone, so its hold ends. Returns releases."""
        reader = self.readers.pop(number, None)
        if reader is None:
            return []
        reader.batch.clear()
        return self._end_hold(reader)

    # Inside.

    def _run(self, count: int) -> Run:
        image = self.current
        assert image is not None
        return Run(image.image, image.epoch, image.sequence, image.time_ns, count)

    def _ready(self, query: Query) -> None:
        long = self._cost_ns.get(query.operation, 0.0) >= LONG_NS
        (self._long if long else self._quick).append(query)

    def _give_again(self, queries: Iterable[Query]) -> None:
        """To the front of the queue, in their order, for whoever is free next."""
        for query in reversed([q for q in queries if not q.done]):
            long = self._cost_ns.get(query.operation, 0.0) >= LONG_NS
            (self._long if long else self._quick).appendleft(query)

    def _pick(self, free: int) -> tuple[list[Query], bool]:
        """The next batch when so many readers are free, and whether it is a long one."""
        quick, long = _skip_done(self._quick), _skip_done(self._long)
        running = sum(reader.long and bool(reader.batch) for reader in self.readers.values())
        may_take_long = bool(long) and running < max(1, len(self.readers) - 1)
        if may_take_long and (not quick or long[0].arrived_ns < quick[0].arrived_ns):
            return [long.popleft()], True
        batch: list[Query] = []
        share = -(-len(quick) // free)
        estimate = 0.0
        while quick and len(batch) < share and estimate < BATCH_NS:
            cost_ns = self._cost_ns.get(quick[0].operation, ALONE_NS) * quick[0].count
            if batch and cost_ns >= ALONE_NS:
                break
            query = quick.popleft()
            if query.done:
                continue
            batch.append(query)
            estimate += cost_ns
            if cost_ns >= ALONE_NS:
                break
        return batch, False

    def _learn(self, operation: int, run_ns: float) -> None:
        known = self._cost_ns.get(operation)
        average = run_ns if known is None else known + WEIGHT * (run_ns - known)
        self._cost_ns[operation] = average
        if (known is None or known >= ALONE_NS) != (average >= ALONE_NS):
            self.changed.add(operation)

    def _learn_from(self, query: Query, run_ns: int, count: int) -> None:
        if query.operation != BUNDLED:
            self._learn(query.operation, run_ns)
        elif run_ns < ALONE_NS * count:
            self._learn(BUNDLED, run_ns / max(1, count))
        else:
            # One of them is not what it was: each shows what it takes.
            for operation in {operation for operation, _ in calls(query.frame)}:
                self._cost_ns.pop(operation, None)
                self.changed.add(operation)

    # Bundles.

    def is_quick(self, operation: int) -> bool:
        """Whether queries of an operation are known to be quick enough for a bundle."""
        return self._cost_ns.get(operation, ALONE_NS) < ALONE_NS

    def _running(self, reader: Reader) -> Query:
        """Which of its batch a reader runs, as far as it says."""
        token = self._mark_of(reader.number).token
        return next((each for each in reader.batch if each.token == token), reader.batch[0])

    def _at_fault(self, reader: Reader) -> tuple[list[Query], Query, bool]:
        """For a reader that is given up: what has to be given to another one, the query that it
        was at, and whether that is with another one already.
        """
        running, alone = self._running(reader), reader.alone
        again = [each for each in reader.batch if each is not running and alone in (None, each)]
        if running.count == 1 or running.done:
            return again, running, alone not in (None, running)
        stuck, others = self._part(running, reader)
        return [*others, *again], stuck, False

    def _part_stuck(self, reader: Reader, query: Query, ran_ns: int) -> None:
        """A reader does not get on with one query of a bundle: the others wait for it no longer.

        That one is run again, alone, since its answer will come with all the others'.
        """
        if query.done:
            return
        reader.long = True
        stuck, others = self._part(query, reader)
        self._learn(stuck.operation, ran_ns)
        self._give_again(others)
        self._ready(stuck)

    def _part(self, query: Query, reader: Reader) -> tuple[Query, list[Query]]:
        """The query of a bundle that a reader runs, and bundles of those before and behind it."""
        mark = self._mark_of(reader.number)
        place = min(mark.place, query.count - 1) if mark.token == query.token else 0
        rest = query.count - place - 1
        parts = [(0, place), (place, 1), (place + 1, rest)]
        made = [self._made_of(query, first, count) for first, count in parts if count]
        stuck = made.pop(1 if place else 0)
        self._close(query)
        return stuck, made

    def _made_of(self, query: Query, first: int, count: int) -> Query:
        """A bundle of some that are in another one."""
        frames = part(query.frame, first, count)
        _, _, _, operation, request, _, _ = HEADER.unpack_from(frames)
        made = Query(
            self.token(),
            query.connection,
            operation if count == 1 else BUNDLED,
            request,
            query.at_least,
            b"",
            query.arrived_ns,
            count,
            bundled=True,
            deaths=query.deaths,
        )
        made.frame = bundle(made.token, count, frames)
        self._take_in(made)
        self._arrivals.appendleft(made)
        return made

    def _take_in(self, query: Query) -> None:
        self._open[query.token] = query
        self._count += query.count
        self.bytes += len(query.frame)

    def _fail(self, query: Query, error: DiptychError) -> Failed:
        told = calls(query.frame) if query.bundled else [(query.operation, query.request)]
        self._close(query)
        return Failed(query, error, told)

    def _close(self, query: Query) -> None:
        if not query.done:
            query.done = True
            self._count -= query.count
            self.bytes -= len(query.frame)
            query.frame = b""  # wherever it still stands in line
            del self._open[query.token]

    def _end_hold(self, reader: Reader) -> list[Hold]:
        hold, reader.hold = reader.hold, None
        return [] if hold is None or hold in self.in_use() else [hold]

    def _stop(self, reader: Reader, why: str, now_ns: int) -> Iterator[Failed]:
        """Give a reader up: its running query fails, the others go elsewhere."""
        reader.gone = True
        if not reader.batch:
            return
        again, running, _ = self._at_fault(reader)
        self._learn(running.operation, now_ns - reader.since_ns)
        self._give_again(again)
        if not running.done:
            yield self._fail(running, TimedOut(why))

    def _expired(self, now_ns: int) -> Iterator[Failed]:
        running = {id(r.batch[0]) for r in self.readers.values() if r.batch and not r.gone}
        while self._arrivals:
            query = self._arrivals[0]
            if not query.done and now_ns - query.arrived_ns <= self.limit_ns:
                break
            self._arrivals.popleft()
            if query.done or id(query) in running:
                continue
            if self.current is None or query.at_least > self.current.sequence:
                self._waiting.discard(query)
                message = f"no image showed transaction {query.at_least} in time"
            else:
                message = "no reader was free in time"
            yield self._fail(query, TimedOut(message))
        _skip_done(self._quick)
        _skip_done(self._long)


def _death(count: int) -> DiptychError:
    if count > 1:
        return ServerError("two readers died while they ran this query")
    return TimedOut("the reader that ran this query died, and its time is over")


def _by_sequence(query: Query) -> tuple[int, int]:
    return query.at_least, query.token


def _skip_done(queue: deque[Query]) -> deque[Query]:
    while queue and queue[0].done:
        queue.popleft()
    return queue
