"""Where queries go: each test plays the gateway, with a clock of its own."""

from __future__ import annotations

import random

import pytest

from diptych.serving.channel import Hold, Image
from diptych.serving.queries import (
    ALONE_NS,
    ANSWERED_MAX,
    BATCH_NS,
    IMPATIENT_NS,
    LONG_NS,
    Queries,
    Query,
)
from diptych_client.errors import HistoryChanged, ServerError, ShuttingDown, TimedOut

MS = 1_000_000
LIMIT_NS = 1000 * MS
QUICK, UNKNOWN, LONG = 1, 2, 3


class Desk:
    """Queries with readers, and shorthands."""

    def __init__(self, readers: int = 2) -> None:
        self.now = 0
        self.tokens = 0
        self.queries = Queries(LIMIT_NS, max_pin_ms=100)
        self.publish(0, 1, 10)
        for number in range(1, readers + 1):
            self.queries.joined(number)
        # What operations cost is learned from answers.
        self.queries._learn(QUICK, 30_000)
        self.queries._learn(LONG, 2 * LONG_NS)

    def publish(self, image: int, epoch: int, sequence: int) -> list[Hold]:
        return self.queries.publish(Image(image, epoch, sequence, self.now, 1, 5))

    def arrive(self, operation: int = QUICK, at_least: int = 0, connection: int = 1) -> Query:
        self.tokens += 1
        query = Query(self.tokens, connection, operation, 7, at_least, b"", self.now)
        self.wanted = self.queries.arrive(query)
        return query

    def dispatch(self) -> dict[int, list[Query]]:
        return {number: batch for number, _, batch in self.queries.dispatch(self.now)}

    def answer(self, number: int, query: Query, run_us: int = 30) -> tuple[bool, list[Hold]]:
        answered, released = self.queries.answered(number, query.token, run_us, self.now)
        assert answered in (query, None)
        return answered is not None, released


def test_a_ready_query_goes_to_a_free_reader_with_the_current_image() -> None:
    desk = Desk()
    query = desk.arrive()
    ((number, run, batch),) = desk.queries.dispatch(0)
    assert (number, batch) == (1, [query])
    assert (run.image, run.epoch, run.sequence, run.queries) == (0, 1, 10, 1)
    assert desk.dispatch() == {}
    assert desk.answer(1, query) == (True, [])
    assert len(desk.queries) == 0


def test_quick_queries_are_spread_over_free_readers_in_batches() -> None:
    desk = Desk(readers=2)
    arrived = [desk.arrive() for _ in range(10)]
    given = desk.dispatch()
    assert given == {1: arrived[:5], 2: arrived[5:]}


def test_a_batch_is_bounded_by_what_it_will_take() -> None:
    desk = Desk(readers=1)
    arrived = [desk.arrive() for _ in range(1000)]
    (batch,) = desk.dispatch().values()
    assert len(batch) == -(-BATCH_NS // 30_000)
    assert batch == arrived[: len(batch)]


def test_an_unknown_operation_goes_alone() -> None:
    desk = Desk(readers=1)
    first, second, third = desk.arrive(), desk.arrive(UNKNOWN), desk.arrive()
    assert desk.dispatch() == {1: [first]}
    desk.answer(1, first)
    assert desk.dispatch() == {1: [second]}
    desk.answer(1, second, run_us=ALONE_NS // 1000 - 1)
    assert desk.dispatch() == {1: [third]}


def test_long_queries_leave_a_reader_to_the_others() -> None:
    desk = Desk(readers=3)
    long = [desk.arrive(LONG) for _ in range(3)]
    assert desk.dispatch() == {1: [long[0]], 2: [long[1]]}
    quick = desk.arrive()
    assert desk.dispatch() == {3: [quick]}
    desk.answer(3, quick)
    assert desk.dispatch() == {}
    desk.answer(1, long[0], run_us=20_000)
    assert desk.dispatch() == {1: [long[2]]}


def test_a_single_reader_takes_long_queries_too() -> None:
    desk = Desk(readers=1)
    query = desk.arrive(LONG)
    assert desk.dispatch() == {1: [query]}


def test_a_query_waits_for_its_sequence_number_without_reader_or_image() -> None:
    desk = Desk()
    query = desk.arrive(at_least=12)
    assert (desk.wanted, desk.queries.waiting, desk.dispatch()) == (12, 1, {})
    desk.arrive(at_least=11)
    assert desk.wanted is None  # a sync that shows 12 shows 11
    desk.arrive(at_least=13)
    assert desk.wanted == 13
    assert desk.publish(1, 2, 12) == [Hold(0, 1)]
    assert query in [q for batch in desk.dispatch().values() for q in batch]
    assert desk.queries.waiting == 1
    # Only the number moved on: the same image, nothing to release.
    assert desk.publish(1, 2, 13) == []
    assert desk.queries.waiting == 0
    desk.arrive(at_least=14)
    assert desk.wanted == 14


def test_an_image_is_released_when_its_last_reader_is_done() -> None:
    desk = Desk()
    first, second = desk.arrive(), desk.arrive()
    assert desk.dispatch() == {1: [first], 2: [second]}
    assert desk.publish(1, 2, 11) == []
    assert desk.queries.in_use() == {Hold(0, 1), Hold(1, 2)}
    assert desk.answer(1, first) == (True, [])
    assert desk.answer(2, second) == (True, [Hold(0, 1)])
    assert desk.queries.in_use() == {Hold(1, 2)}


def test_an_image_that_came_back_at_another_epoch_is_another_hold() -> None:
    desk = Desk(readers=1)
    query = desk.arrive()
    desk.dispatch()
    desk.publish(1, 2, 11)
    assert desk.publish(2, 3, 12) == [Hold(1, 2)]
    assert desk.answer(1, query)[1] == [Hold(0, 1)]
    assert desk.publish(0, 4, 13) == [Hold(2, 3)]


def test_a_query_that_waits_too_long_times_out() -> None:
    desk = Desk(readers=0)
    waiting, ready = desk.arrive(at_least=99), desk.arrive()
    desk.now = LIMIT_NS
    assert desk.queries.due(desk.now).failed == []
    desk.now += 1
    failed, kill = desk.queries.due(desk.now)
    assert [(f.query, type(f.error)) for f in failed] == [(waiting, TimedOut), (ready, TimedOut)]
    assert "99" in str(failed[0].error)
    assert (kill, len(desk.queries), desk.queries.waiting) == ([], 0, 0)


def test_a_query_that_runs_too_long_costs_its_reader() -> None:
    desk = Desk(readers=1)
    slow = desk.arrive(UNKNOWN)
    desk.now = LIMIT_NS // 2
    desk.dispatch()
    desk.now = LIMIT_NS + LIMIT_NS // 2  # waiting does not count as running
    assert desk.queries.due(desk.now) == ([], [])
    desk.now += 1
    failed, kill = desk.queries.due(desk.now)
    assert [(f.query, type(f.error)) for f in failed] == [(slow, TimedOut)]
    assert [number for number, _ in kill] == [1]
    assert desk.queries.due(desk.now + LIMIT_NS) == ([], [])
    # Its hold ends when the process is reaped, not before.
    assert desk.publish(1, 2, 11) == []
    assert desk.queries.lost(1, desk.now) == []
    assert desk.queries.in_use() == {Hold(0, 1), Hold(1, 2)}
    assert desk.queries.reaped(1) == [Hold(0, 1)]


def test_what_waits_behind_a_slow_query_is_given_to_another_reader() -> None:
    desk = Desk(readers=2)
    first, second, third = (desk.arrive() for _ in range(3))
    desk.queries.lost(2, 0)
    desk.queries.reaped(2)
    assert desk.dispatch() == {1: [first, second, third]}
    desk.queries.joined(3)
    desk.now = IMPATIENT_NS + 1
    assert desk.queries.due(desk.now) == ([], [])
    assert desk.dispatch() == {3: [second, third]}
    # The first answer counts, whoever gives it; the other one is dropped.
    assert desk.answer(3, second)[0]
    assert desk.answer(1, first)[0]
    assert not desk.answer(1, second)[0]
    assert desk.answer(1, third)[0]
    assert not desk.answer(3, third)[0]
    assert len(desk.queries) == 0
    assert desk.dispatch() == {}


def test_a_query_on_a_reader_that_dies_is_given_to_another_once() -> None:
    desk = Desk(readers=2)
    query = desk.arrive(UNKNOWN)
    assert desk.dispatch() == {1: [query]}
    assert desk.queries.lost(1, desk.now) == []
    assert desk.dispatch() == {2: [query]}
    desk.queries.joined(3)
    (failed,) = desk.queries.lost(2, desk.now)
    assert failed.query is query
    assert isinstance(failed.error, ServerError)
    assert (desk.queries.retried, desk.dispatch()) == (1, {})


def test_what_a_dead_reader_had_not_begun_is_not_counted_against_it() -> None:
    desk = Desk(readers=1)
    first, second, third = (desk.arrive() for _ in range(3))
    assert desk.dispatch() == {1: [first, second, third]}
    desk.queries.joined(2)
    assert desk.queries.lost(1, desk.now) == []
    assert desk.dispatch() == {2: [first, second, third]}
    desk.queries.joined(3)
    assert [failure.query for failure in desk.queries.lost(2, desk.now)] == [first]
    assert desk.dispatch() == {3: [second, third]}
    desk.queries.joined(4)
    assert desk.queries.lost(3, desk.now) == []
    assert desk.dispatch() == {4: [second, third]}


def test_a_query_whose_time_is_over_is_not_given_again() -> None:
    desk = Desk(readers=1)
    query = desk.arrive(UNKNOWN)
    desk.dispatch()
    desk.now = LIMIT_NS + 1
    (failed,) = desk.queries.lost(1, desk.now)
    assert failed.query is query
    assert isinstance(failed.error, TimedOut)


def test_readers_on_a_pinned_image_are_stopped() -> None:
    desk = Desk(readers=2)
    old = desk.arrive(UNKNOWN)
    desk.dispatch()
    desk.publish(1, 2, 11)
    new = desk.arrive(UNKNOWN)
    desk.dispatch()
    failed, kill = desk.queries.pinned(Hold(0, 1), desk.now)
    assert [(f.query, type(f.error)) for f in failed] == [(old, TimedOut)]
    assert "max_pin_ms" in str(failed[0].error)
    assert [number for number, _ in kill] == [1]
    assert desk.answer(2, new)[0]


def test_a_reader_that_says_its_last_word_holds_its_image_until_it_is_reaped() -> None:
    desk = Desk(readers=2)
    first, second, third = desk.arrive(), desk.arrive(), desk.arrive()
    assert desk.dispatch() == {1: [first, second], 2: [third]}
    assert desk.publish(1, 2, 11) == []
    assert desk.queries.answered(1, first.token, 30, 0, last=True) == (first, [])
    assert desk.answer(2, third) == (True, [])
    assert desk.dispatch() == {2: [second]}
    assert desk.queries.lost(1, 0) == []
    assert desk.queries.reaped(1) == [Hold(0, 1)]
    assert desk.answer(2, second) == (True, [])
    assert desk.queries.bytes == 0


def test_a_client_that_left_is_not_answered() -> None:
    desk = Desk(readers=1)
    running, waiting = desk.arrive(connection=1), desk.arrive(at_least=50, connection=1)
    other = desk.arrive(connection=2)
    assert desk.dispatch() == {1: [running, other]}
    desk.queries.abandon(1)
    assert len(desk.queries) == 1
    assert not desk.answer(1, running)[0]
    assert desk.answer(1, other)[0]
    desk.publish(1, 2, 60)
    assert desk.dispatch() == {}
    assert waiting.done


def test_another_history_fails_those_that_wait_for_the_old_one() -> None:
    desk = Desk()
    waiting, ready = desk.arrive(at_least=50), desk.arrive()
    failed = desk.queries.new_writer("recovered")
    assert [(f.query, type(f.error)) for f in failed] == [(waiting, HistoryChanged)]
    assert desk.dispatch() == {1: [ready]}


def test_an_answer_of_a_reader_unknown_changes_nothing() -> None:
    desk = Desk(readers=1)
    query = desk.arrive()
    assert desk.queries.answered(9, query.token, 5, 0) == (None, [])
    assert desk.queries.answered(1, query.token, 5, 0) == (None, [])
    assert desk.queries.reaped(9) == []
    assert desk.queries.lost(9, 0) == []


@pytest.mark.parametrize("seed", range(20))
def test_random_days_end_with_every_query_answered_once(seed: int) -> None:
    """Whatever happens in whatever order: one end for each query, and no image held for ever."""
    chance = random.Random(seed)
    desk = Desk(readers=3)
    queries = desk.queries
    ends: dict[int, int] = {}
    running: dict[int, list[Query]] = {}
    published, free = {Hold(0, 1)}, set[Hold]()
    epoch, sequence, reader = 1, 10, 3

    def end(query: Query) -> None:
        ends[query.token] = ends.get(query.token, 0) + 1

    def release(holds: list[Hold]) -> None:
        for hold in holds:
            assert hold in published
            assert hold not in free, "released twice"
            free.add(hold)

    def kill(number: int) -> None:
        for failure in queries.lost(number, desk.now):
            end(failure.query)
        running.pop(number, None)
        release(queries.reaped(number))

    for _ in range(600):
        desk.now += chance.choice([0, 10_000, MS, 30 * MS])
        match chance.choice(["arrive", "arrive", "answer", "answer", "publish", "kill", "tick"]):
            case "arrive":
                desk.arrive(chance.choice([QUICK, LONG, UNKNOWN]), sequence + chance.randint(-5, 3))
            case "answer" if any(running.values()):
                number = chance.choice([n for n, batch in running.items() if batch])
                query = running[number].pop(0)
                answered, released = desk.answer(number, query, chance.choice([20, 400, 20_000]))
                release(released)
                if answered:
                    end(query)
            case "publish":
                epoch, sequence = epoch + 1, sequence + chance.randint(0, 4)
                published.add(Hold(epoch % 3, epoch))
                release(desk.publish(epoch % 3, epoch, sequence))
            case "kill" if chance.random() < 0.2:
                kill(chance.choice(list(queries.readers)))
                reader += 1
                queries.joined(reader)
            case "tick":
                verdict = queries.due(desk.now)
                for failure in verdict.failed:
                    end(failure.query)
                for number, _ in verdict.kill:
                    kill(number)
                    reader += 1
                    queries.joined(reader)
        for number, batch in desk.dispatch().items():
            assert not running.get(number)
            running[number] = list(batch)
    for query, _, _ in queries.give_up(ShuttingDown("the end")):
        end(query)
    assert ends == dict.fromkeys(range(1, desk.tokens + 1), 1)
    for number in list(queries.readers):
        kill(number)
    assert published - free == queries.in_use() == {Hold(epoch % 3, epoch)}


def test_an_image_to_which_nothing_was_missing_is_not_old() -> None:
    desk = Desk()
    desk.queries.renew(777)
    desk.arrive()
    ((_, run, _),) = desk.queries.dispatch(1000)
    assert (run.image, run.epoch, run.sequence, run.time_ns) == (0, 1, 10, 777)


def test_what_was_answered_is_forgotten_also_behind_one_that_waits() -> None:
    desk = Desk(readers=1)
    desk.arrive(at_least=11)
    for _ in range(3 * ANSWERED_MAX):
        query = desk.arrive()
        query.frame = b"argument"
        desk.queries.bytes += len(query.frame)
        desk.dispatch()
        desk.answer(1, query)
        assert query.frame == b""
    assert desk.queries.bytes == 0
    assert len(desk.queries._arrivals) <= ANSWERED_MAX + 4


def test_an_abandoned_query_waits_no_longer() -> None:
    desk = Desk()
    for _ in range(10):
        desk.arrive(at_least=11, connection=5)
    desk.arrive(at_least=11)
    desk.queries.abandon(5)
    assert desk.queries.waiting == 1
