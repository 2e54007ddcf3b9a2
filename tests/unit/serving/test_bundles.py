"""Bundles of queries: how they are made, and what becomes of them when one of them goes wrong."""

from __future__ import annotations

import random

import numpy as np
import pytest

from diptych.serving.bundles import (
    MARK_BITS,
    Answers,
    Mark,
    Progress,
    admit_run,
    bundle,
    calls,
    part,
    stamp_times,
)
from diptych.serving.channel import Hold, Image, Internal
from diptych.serving.frames import FrameBuffer
from diptych.serving.queries import (
    ALONE_NS,
    BUNDLED,
    IMPATIENT_NS,
    NO_MARK,
    STUCK_NS,
    Failed,
    Queries,
    Query,
)
from diptych_client.errors import ServerError, ShuttingDown, TimedOut
from diptych_client.protocol import HEADER, HEADER_BYTES, Header, Kind, encode_frame

MS = 1_000_000
LIMIT_NS = 1000 * MS
QUICK, OTHER = 1, 2


def asked(*requests: int, operation: int = QUICK, at_least: int = 0, history: int = 0) -> bytes:
    """A client's queries, of different lengths."""
    return b"".join(
        encode_frame(
            Kind.QUERY,
            b"x" * (request % 5),
            operation=operation,
            request=request,
            sequence=at_least,
            context=history,
        )
        for request in requests
    )


class Desk:
    """Queries with readers whose marks the test sets."""

    def __init__(self, readers: int = 2) -> None:
        self.now = 0
        self.marks: dict[int, Mark] = {}
        self.queries = Queries(LIMIT_NS, 100, lambda number: self.marks.get(number, NO_MARK))
        self.publish(0, 1, 10)
        for number in range(1, readers + 1):
            self.queries.joined(number)
        self.queries._learn(BUNDLED, 1_000)

    def publish(self, image: int, epoch: int, sequence: int) -> list[Hold]:
        return self.queries.publish(Image(image, epoch, sequence, self.now, 1, 5))

    def arrive(self, *requests: int, at_least: int = 0, connection: int = 1) -> Query:
        token, frames = self.queries.token(), asked(*requests)
        query = Query(
            *(token, connection, BUNDLED, 0, at_least, bundle(token, len(requests), frames)),
            self.now,
            count=len(requests),
            bundled=True,
        )
        self.queries.arrive(query)
        return query

    def dispatch(self) -> dict[int, list[Query]]:
        return {number: batch for number, _, batch in self.queries.dispatch(self.now)}

    def look(self, after_ns: int) -> list[Failed]:
        """Time passes without a sign of any reader: it is seen once before, and then."""
        self.queries.due(self.now)
        self.now += after_ns
        return self.queries.due(self.now).failed


def requests(*queries: Query) -> list[list[int]]:
    return [[request for _, request in calls(query.frame)] for query in queries]


# The bytes.


def test_parts_of_a_bundle_are_what_the_client_sent() -> None:
    made = bundle(7, 4, asked(11, 12, 13, 14))
    header = Header.read(made)
    assert (header.kind, header.request, header.sequence) == (Internal.BUNDLE, 7, 4)
    assert header.length == len(made) - HEADER_BYTES
    assert calls(made) == [(QUICK, 11), (QUICK, 12), (QUICK, 13), (QUICK, 14)]
    assert part(made, 0, 4) == asked(11, 12, 13, 14)
    assert part(made, 1, 2) == asked(12, 13)
    assert part(made, 3, 1) == asked(14)


def admitted(frames: bytes, *, history: int, newest: int, shown: int, first: int = 0) -> object:
    buffer = FrameBuffer.holding(frames)
    told = np.zeros(1, np.int64)
    count = buffer.count - first
    taken = admit_run(buffer.array, buffer.starts, first, count, history, newest, shown, told)
    return taken, int(told[0])


def test_a_run_is_admitted_as_far_as_its_queries_can_travel_together() -> None:
    known = {"history": 9, "newest": 20, "shown": 10}
    ready = asked(1) + asked(2, at_least=10, history=9) + asked(3, at_least=7, history=9)
    waiting = asked(4, at_least=11, history=9) + asked(5, at_least=20, history=9)
    assert admitted(ready, **known) == (3, 10)
    assert admitted(ready + waiting, **known) == (3, 10)
    assert admitted(ready + waiting, **known, first=3) == (2, 20)
    assert admitted(waiting + ready, **known) == (2, 20)


@pytest.mark.parametrize(
    ("at_least", "history"), [(21, 9), (10, 8), (1 << 63, 9), ((1 << 64) - 1, 9), (5, 1 << 63)]
)
def test_a_query_of_another_history_is_not_admitted(at_least: int, history: int) -> None:
    strange = asked(2, at_least=at_least, history=history)
    known = {"history": 9, "newest": 20, "shown": 10}
    assert admitted(strange, **known) == (0, 0)
    assert admitted(asked(1) + strange, **known) == (1, 0)


def test_a_query_without_a_number_may_name_any_history() -> None:
    """As one query alone may."""
    assert admitted(asked(1, history=77), history=9, newest=20, shown=10) == (1, 0)


def test_times_are_written_into_answers_and_shared_out_by_their_number() -> None:
    def answers(token: int, frames: bytes, results: int, rejected: int, errors: int) -> bytes:
        counts = results | rejected << 20 | errors << 40
        kind = Internal.ANSWERS
        return HEADER.pack(len(frames), kind, 0, 0, token, counts, 0) + frames

    data = (
        answers(5, asked(1, 2, 3), 1, 1, 1)
        + answers(6, asked(4), 1, 0, 0)
        + answers(7, b"", 0, 0, 0)
    )
    array = np.frombuffer(bytearray(data), np.uint8)
    stamp_times(array, len(data), 123, 4_000_000)
    buffer = FrameBuffer.holding(array.tobytes())
    told = [Answers.read(buffer.frame(i)) for i in range(3)]
    assert told[0] == Answers(5, False, 1, 1, 1, 123, 3_000)
    assert told[1] == Answers(6, False, 1, 0, 0, 123, 1_000)
    assert told[2] == Answers(7, False, 0, 0, 0, 123, 0)
    inner = FrameBuffer.holding(bytes(buffer.frame(0)[HEADER_BYTES:]))
    assert [Header.read(inner.frame(i)).context for i in range(3)] == [123] * 3


def test_a_slot_says_which_query_runs() -> None:
    progress = Progress()
    progress.slot(3)[0] = 77 << MARK_BITS | 5
    assert Mark.of(int(progress.slot(3)[0])) == Mark(77, 5)
    assert Mark.of(int(progress.slot(4)[0])) == NO_MARK


# Where they go.


def test_a_bundle_counts_as_its_queries() -> None:
    desk = Desk()
    query = desk.arrive(1, 2, 3)
    assert len(desk.queries) == 3
    assert desk.dispatch() == {1: [query]}
    answered, _ = desk.queries.answered(1, query.token, 9, 0, count=3)
    assert answered is query
    assert (len(desk.queries), desk.queries.bytes) == (0, 0)
    assert desk.queries.readers[1].answered == 3


def test_one_query_is_at_fault_when_a_reader_dies() -> None:
    desk = Desk(readers=1)
    desk.queries._learn(QUICK, 1_000)
    first, second, third = desk.arrive(1, 2), desk.arrive(3, 4, 5), desk.arrive(6)
    assert desk.dispatch() == {1: [first, second, third]}
    desk.marks[1] = Mark(second.token, 1)
    assert desk.queries.lost(1, 0) == []
    assert desk.queries.retried == 1
    assert len(desk.queries) == 6
    desk.queries.joined(2)
    (batch,) = desk.dispatch().values()
    alone = batch[0]
    assert requests(*batch) == [[4], [3], [5], [1, 2], [6]]
    assert (alone.operation, alone.deaths) == (QUICK, 1)
    desk.marks[2] = Mark(alone.token, 0)
    (failed,) = desk.queries.lost(2, 0)
    assert (failed.query, failed.calls) == (alone, [(QUICK, 4)])
    assert isinstance(failed.error, ServerError)
    assert len(desk.queries) == 5


def test_one_query_is_at_fault_when_time_is_over() -> None:
    desk = Desk(readers=1)
    query = desk.arrive(1, 2, 3)
    desk.dispatch()
    desk.marks[1] = Mark(query.token, 2)
    desk.now += 1
    assert desk.look(LIMIT_NS // 2) == []
    assert desk.look(1) == []  # by now the bundle is in parts
    others = [each for each in desk.queries._open.values() if each.operation == BUNDLED]
    assert requests(*others) == [[1, 2]]
    desk.queries.joined(2)
    assert desk.dispatch() == {2: others}
    failed = desk.look(LIMIT_NS)
    assert next(each.calls for each in failed) == [(QUICK, 3)]
    assert all(isinstance(each.error, TimedOut) for each in failed)
    assert desk.queries.readers[1].gone


def test_other_bundles_do_not_wait_for_a_slow_one() -> None:
    desk = Desk(readers=1)
    first, second, third = desk.arrive(1, 2), desk.arrive(3, 4), desk.arrive(5)
    desk.dispatch()
    desk.marks[1] = Mark(second.token, 0)
    desk.queries.joined(2)
    desk.look(IMPATIENT_NS + 1)
    assert desk.dispatch() == {2: [first, third]}
    # Its answers come later than the other reader's, and don't count.
    desk.queries.answered(2, first.token, 9, desk.now, count=2)
    assert desk.queries.answered(1, first.token, 9, desk.now, count=2) == (None, [])
    assert desk.queries.answered(1, second.token, 9, desk.now, count=2)[0] is second


def test_a_reader_that_gets_on_is_not_slow() -> None:
    desk = Desk(readers=1)
    query = desk.arrive(*range(1, 100))
    desk.dispatch()
    for place in range(99):
        desk.marks[1] = Mark(query.token, place)
        assert desk.look(IMPATIENT_NS // 2) == []
    assert not query.done
    assert desk.queries.readers[1].alone is None


def test_what_is_stuck_runs_again_alone_and_leaves_a_reader_free() -> None:
    desk = Desk(readers=2)
    desk.queries._learn(QUICK, 1_000)
    token = desk.queries.token()
    frames = asked(1) + asked(2, operation=OTHER) + asked(3)
    query = Query(*(token, 1, BUNDLED, 0, 0, bundle(token, 3, frames), 0), count=3, bundled=True)
    desk.queries.arrive(query)
    desk.dispatch()
    desk.marks[1] = Mark(query.token, 1)
    desk.look(STUCK_NS + 1)
    desk.look(1)
    assert query.done
    assert not desk.queries.is_quick(OTHER)
    ((number, batch),) = desk.dispatch().items()
    assert number == 2
    assert requests(*batch) == [[1], [3]]
    for each in batch:
        desk.queries.answered(2, each.token, 9, desk.now)
    assert desk.dispatch() == {}  # the last free reader is not for it
    desk.queries.answered(1, query.token, 30_000, desk.now, count=3)
    ((_, (stuck,)),) = desk.dispatch().items()
    assert requests(stuck) == [[2]]


def test_what_operations_cost_decides_whether_they_are_bundled() -> None:
    desk = Desk()
    token = desk.queries.token()
    alone = Query(*(token, 1, OTHER, 8, 0, bundle(token, 1, asked(8, operation=OTHER)), 0))
    desk.queries.arrive(alone)
    assert not desk.queries.is_quick(OTHER)
    desk.dispatch()
    desk.queries.answered(1, token, 5, 0)
    assert OTHER in desk.queries.changed
    assert desk.queries.is_quick(OTHER)
    query = desk.arrive(1, 2)
    desk.dispatch()
    desk.queries.answered(1, query.token, 3 * ALONE_NS // 1000, 0, count=2)
    assert QUICK in desk.queries.changed
    assert not desk.queries.is_quick(QUICK)


@pytest.mark.parametrize("seed", range(20))
def test_random_days_end_with_every_query_of_every_bundle_answered_once(seed: int) -> None:
    chance = random.Random(seed)
    desk = Desk(readers=3)
    queries = desk.queries
    ends: dict[int, int] = {}
    sent: dict[int, list[tuple[int, list[int]]]] = {1: [], 2: [], 3: []}
    asked_so_far, reader, epoch = 0, 3, 1
    published, free = {Hold(0, 1)}, set[Hold]()

    def end(number: int) -> None:
        ends[number] = ends.get(number, 0) + 1

    def fail(failed: list[Failed]) -> None:
        for each in failed:
            for _, request in each.calls:
                end(request)

    def replace(number: int) -> None:
        nonlocal reader
        fail(queries.lost(number, desk.now))
        free.update(queries.reaped(number))
        del sent[number]
        reader += 1
        queries.joined(reader)
        sent[reader] = []

    for _ in range(500):
        desk.now += chance.choice([0, 10_000, MS, 30 * MS])
        busy = [number for number, batch in sent.items() if batch]
        match chance.choice(["arrive", "arrive", "answer", "answer", "run", "kill", "tick", "cut"]):
            case "arrive":
                count = chance.randint(1, 9)
                desk.arrive(*range(asked_so_far + 1, asked_so_far + count + 1))
                asked_so_far += count
            case "run" if busy:
                number = chance.choice(busy)
                token, left = chance.choice(sent[number])
                desk.marks[number] = Mark(token, chance.randrange(len(left)))
            case "answer" if busy:
                number = chance.choice(busy)
                token, left = sent[number][0]
                answered, released = queries.answered(
                    number, token, chance.choice([5, 9_000]), desk.now, count=len(left)
                )
                free.update(released)
                for request in left if answered else ():
                    end(request)
                sent[number].pop(0)
            case "kill" if chance.random() < 0.2:
                replace(chance.choice(list(sent)))
            case "tick":
                verdict = queries.due(desk.now)
                fail(verdict.failed)
                for number, _ in verdict.kill:
                    replace(number)
            case "cut":
                epoch += 1
                published.add(Hold(epoch % 3, epoch))
                free.update(desk.publish(epoch % 3, epoch, 10 + epoch))
        for number, batch in desk.dispatch().items():
            told = requests(*batch)
            sent[number] = [(q.token, left) for q, left in zip(batch, told, strict=True)]
    fail(queries.give_up(ShuttingDown("the end")))
    assert ends == dict.fromkeys(range(1, asked_so_far + 1), 1)
    assert (len(queries), queries.bytes) == (0, 0)
    for number in list(sent):
        free.update(queries.reaped(number))
    assert published - free == queries.in_use()
