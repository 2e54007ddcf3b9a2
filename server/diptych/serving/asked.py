"""Clients' queries, between their connections and the readers: taken in, passed on, answered.

Which waits for what and who gets which is decided by `queries`. Compiled queries that are known to
be quick are taken as bundles (`bundles`), so nothing here is done for each of them. Those that
always are get their answers at once (`prompt`), if the current image shows what they must see.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from diptych.app import App
from diptych.engine.lane import compiled_for
from diptych.engine.queries import Queries
from diptych.kernel import ready
from diptych.serving import bundles, channel
from diptych.serving.bundles import QUERIES_MAX, Answers, Mark, Progress, bundle
from diptych.serving.connection import QUERIES_WAIT, Connection
from diptych.serving.frames import PROMPT_QUERY, QUICK_QUERY, Words
from diptych.serving.images import Images
from diptych.serving.links import readdressed
from diptych.serving.prompt import Prompt
from diptych.serving.queries import BUNDLED, Failed, Query
from diptych_client.errors import Busy, HistoryChanged
from diptych_client.protocol import HEADER, Kind

if TYPE_CHECKING:
    from diptych.serving.gateway import Gateway

WAITING_BYTES_MAX = 64 << 20
"""Queries that may wait."""

admit_run = ready(
    bundles.admit_run,
    "(uint8[::1], int64[::1], int64, int64, int64, int64, int64, int64[::1])",
)


class Asked:
    """See the module. `progress`: where readers say what they run. `images`: for queries that are
    answered here; None: all are for readers.
    """

    def __init__(
        self, gateway: Gateway, app: App, progress: Progress, images: Images | None
    ) -> None:
        self.gateway = gateway
        self.slots: dict[int, int] = {}  # of the readers there are
        self._progress = progress
        compiled = compiled_for(app)
        self._compiled = compiled.queries if compiled else frozenset()
        self._told_words: Words = np.zeros(1, np.int64)
        self._prompt: Prompt | None = None
        if compiled is not None and images is not None and compiled.prompt:
            for operation in compiled.prompt:
                gateway.greeter.kinds[operation] = PROMPT_QUERY
            opened = Queries(app, images.open(), gateway.settings.capacities)
            self._prompt = Prompt(compiled, opened, gateway.greeter.kinds)

    def take(self, connection: Connection, frame: memoryview) -> None:
        """Take one query."""
        _, _, _, operation, request, at_least, history = HEADER.unpack_from(frame)
        if at_least and (history != self.gateway.history or at_least > self.gateway.newest):
            self.gateway.counts.refused += 1
            self._tell_history(connection, operation, request)
            return
        if self.room() <= 0:
            self.gateway.counts.refused += 1
            connection.fail(operation, request, Busy(QUERIES_WAIT))
            return
        token, bundled = self.gateway.queries.token(), operation in self._compiled
        ours = bundle(token, 1, frame) if bundled else readdressed(frame, token, 0)
        now = time.monotonic_ns()
        query = Query(
            *(token, connection.number, operation, request, at_least, ours, now), bundled=bundled
        )
        self._arrived(connection, query)

    def take_bundles(self, connection: Connection, first: int, count: int) -> None:
        """Take quick compiled queries, for which there is room, as few bundles."""
        buffer, queries, told = connection.buffer, self.gateway.queries, self._told_words
        shown = queries.current.sequence if queries.current else 0
        while count:
            taken = admit_run(
                buffer.array,
                buffer.starts,
                first,
                min(count, QUERIES_MAX),
                self.gateway.history,
                self.gateway.newest,
                shown,
                told,
            )
            if taken:
                token, start = queries.token(), buffer.starts[first]
                ours = bundle(token, taken, buffer.view[start : buffer.starts[first + taken]])
                now = time.monotonic_ns()
                at_least = int(told[0])
                query = Query(
                    *(token, connection.number, BUNDLED, 0, at_least, ours, now),
                    count=taken,
                    bundled=True,
                )
                self._arrived(connection, query)
            else:
                taken = 1
                _, _, _, operation, request, _, _ = HEADER.unpack_from(buffer.frame(first))
                self.gateway.counts.refused += 1
                self._tell_history(connection, operation, request)
            first += taken
            count -= taken

    @property
    def answers(self) -> bool:
        """Whether some queries are answered here."""
        return self._prompt is not None

    def answer(self, connection: Connection, at: int, stop: int) -> int:
        """Answer the prompt queries that a connection's bytes from `at` to `stop` begin with, if
        the current image shows what they must see; where the first is that was not answered.
        """
        gateway = self.gateway
        image = gateway.queries.current
        if image is None or self._prompt is None or image.history != gateway.history:
            return at
        began_ns, age_us = time.monotonic_ns(), 0
        if not gateway.shows_all(image.sequence):
            age_us = min(channel.AGE_US_MAX, max(0, began_ns - image.time_ns) // 1000)
        end, replies, results, rejected = self._prompt.answer(
            image, gateway.newest, age_us, connection.buffer, at, stop
        )
        if replies:
            count = results + rejected
            run_us = (time.monotonic_ns() - began_ns) // 1000 // count
            gateway.counts.several(results, rejected, 0, age_us, run_us)
            connection.answer(replies)
        return end

    def room(self) -> int:
        """How many more queries may wait."""
        if self.gateway.queries.bytes > WAITING_BYTES_MAX:
            return 0
        return self.gateway.settings.limits.queries_waiting - len(self.gateway.queries)

    def _arrived(self, connection: Connection, query: Query) -> None:
        connection.queries += query.count
        wanted = self.gateway.queries.arrive(query)
        if wanted is not None:
            self.gateway.tell_writer_soon(channel.wanted(wanted))
        self.gateway.pump_soon()

    def _tell_history(self, connection: Connection, operation: int, request: int) -> None:
        error = HistoryChanged("the server does not have what this client saw; it recovered")
        connection.fail(
            operation, request, error, history=self.gateway.history, sequence=self.gateway.newest
        )

    def answered(self, number: int, frame: memoryview) -> None:
        _, kind, flags, _, token, _, times = HEADER.unpack_from(frame)
        age_us = times & channel.AGE_US_MAX
        run_us = times >> channel.RUN_US_SHIFT
        query, released = self.gateway.queries.answered(
            number, token, run_us, time.monotonic_ns(), last=bool(flags & channel.LAST_ANSWER)
        )
        self.gateway.release(released)
        if query is not None:
            self.gateway.counts.query(kind, age_us, run_us)
            connection = self.gateway.connection(query.connection)
            if connection is not None:
                connection.queries -= 1
                connection.answer(readdressed(frame, query.request, age_us))
        if self.gateway.queries.changed:
            self._sort_operations()
        self.gateway.pump_soon()

    def bundle_answered(self, number: int, told: Answers, frames: bytes) -> None:
        """A reader answered all queries of a bundle."""
        count = told.queries
        query, released = self.gateway.queries.answered(
            number, told.token, told.run_us, time.monotonic_ns(), count=count
        )
        self.gateway.release(released)
        if query is not None:
            each_us = told.run_us // max(1, count)
            self.gateway.counts.several(
                told.results, told.rejected, told.errors, told.age_us, each_us
            )
            connection = self.gateway.connection(query.connection)
            if connection is not None:
                connection.queries -= count
                connection.answer(frames)
        if self.gateway.queries.changed:
            self._sort_operations()
        self.gateway.pump_soon()

    def _sort_operations(self) -> None:
        """Compiled queries that are known to be quick travel in bundles."""
        for operation in self.gateway.queries.changed & self._compiled:
            if self.gateway.greeter.kinds[operation] != PROMPT_QUERY:
                quick = self.gateway.queries.is_quick(operation)
                self.gateway.greeter.kinds[operation] = QUICK_QUERY if quick else Kind.QUERY
        self.gateway.queries.changed.clear()

    def mark_of(self, number: int) -> Mark:
        """What a reader runs."""
        return Mark.of(int(self._progress.slot(self.slots[number])[0]))

    def fail(self, failed: Iterable[Failed]) -> None:
        for query, error, calls in failed:
            self.gateway.counts.query_errors += len(calls)
            connection = self.gateway.connection(query.connection)
            if connection is None:
                continue
            connection.queries -= len(calls)
            for operation, request in calls:
                if isinstance(error, HistoryChanged):
                    self._tell_history(connection, operation, request)
                else:
                    connection.fail(operation, request, error)
