"""When a sync is due: numbers in, numbers out."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.engine.sync_policy import (
    DELAY_MS_MAX,
    FAULT_NS,
    PAGES_GOAL_MIN,
    PAGES_PER_TRANSACTION,
    REFILL_NS,
    STOP_MS_MAX,
    SyncPolicy,
    SyncSettings,
)

MS = 1_000_000


def policy(**changes: float) -> SyncPolicy:
    return SyncPolicy(SyncSettings(**changes), 0)  # type: ignore[arg-type]  # all are numbers


def test_an_idle_server_syncs_at_once() -> None:
    assert policy().delay_ns(0, demanded=False) == 0
    assert policy().delay_ns(0, demanded=True) == 0


def test_the_interval_runs_from_cut_to_cut() -> None:
    plan = policy(interval_ms=10)
    plan.began(5 * MS)
    assert plan.delay_ns(6 * MS, demanded=False) == 9 * MS
    assert plan.delay_ns(15 * MS, demanded=False) == 0


def test_a_query_that_waits_does_not_wait_for_the_interval() -> None:
    plan = policy(interval_ms=10)
    plan.began(5 * MS)
    assert plan.delay_ns(6 * MS, demanded=True) == 0


def test_what_a_sync_cost_is_paid_before_the_next_one() -> None:
    plan = policy(max_duty=0.1, interval_ms=1)
    plan.began(0)
    plan.spent(1 * MS, 1 * MS, protected_pages=1000, copied_pages=2000)
    cost_ns = 1 * MS + 1000 * FAULT_NS + 2000 * REFILL_NS
    assert plan.delay_ns(1 * MS, demanded=True) == 10 * cost_ns
    assert plan.delay_ns(1 * MS, demanded=False) == 10 * cost_ns
    assert plan.delay_ns(1 * MS + 10 * cost_ns, demanded=True) == 0


def test_a_long_stop_is_billed_for_a_bounded_time() -> None:
    plan = policy(interval_ms=0, max_duty=0.1)
    plan.spent(60_000 * MS, writer_ns=60_000 * MS)
    assert plan.delay_ns(60_000 * MS, demanded=True) == 10 * STOP_MS_MAX * MS


def test_what_many_pages_cost_is_billed_in_full() -> None:
    plan = policy(interval_ms=0, max_duty=0.1)
    cost_ns = plan.spent(0, writer_ns=0, protected_pages=100_000)
    assert cost_ns == 100_000 * FAULT_NS
    assert plan.delay_ns(0, demanded=True) == 10 * cost_ns


@pytest.mark.parametrize("max_duty", [0.01, 0.1, 1.0])
def test_debts_are_forgotten_where_paying_them_takes_too_long(max_duty: float) -> None:
    plan = policy(interval_ms=0, max_duty=max_duty)
    for _ in range(10):
        plan.spent(0, writer_ns=60_000 * MS, protected_pages=10_000_000)
    assert plan.delay_ns(0, demanded=True) == DELAY_MS_MAX * MS
    assert plan.delay_ns(DELAY_MS_MAX * MS, demanded=True) == 0


def test_idling_does_not_save_up_for_a_burst() -> None:
    plan = policy(max_duty=0.1)
    plan.spent(10_000 * MS, 1 * MS)
    assert plan.delay_ns(10_000 * MS, demanded=True) == 10 * MS


@settings(max_examples=100)
@given(
    duty=st.floats(0.01, 1.0),
    costs_ns=st.lists(st.integers(0, STOP_MS_MAX * MS), min_size=2, max_size=40),
    lateness_ns=st.integers(0, 20 * MS),
)
def test_syncs_never_take_more_than_the_duty(
    duty: float, costs_ns: list[int], lateness_ns: int
) -> None:
    """Over any stretch from one sync's end to a later one's start, however much is demanded."""
    plan = policy(max_duty=duty)
    now, spans = 0, []
    for cost_ns in costs_ns:
        now += plan.delay_ns(now, demanded=True)
        assert plan.delay_ns(now, demanded=True) <= 1
        start = now
        now += cost_ns
        plan.spent(now, cost_ns)
        spans.append((start, now, cost_ns))
        now += lateness_ns
    for i, j in itertools.combinations(range(len(spans)), 2):
        cost = sum(span[2] for span in spans[i:j])
        assert cost <= duty * (spans[j][0] - spans[i][1]) + len(spans)


def test_the_pages_goal_follows_what_was_measured() -> None:
    plan = policy(max_pause_ms=5)
    before = plan.pages_goal
    assert before == 5000
    for _ in range(50):
        plan.measured(pages=1000, scan_ns=1 * MS, copy_ns=2 * MS)
    assert 1900 < plan.pages_goal < 2100
    for _ in range(50):
        plan.measured(pages=1000, scan_ns=50 * MS, copy_ns=2 * MS)
    assert plan.pages_goal == PAGES_GOAL_MIN


def test_few_pages_say_nothing_about_the_cost_of_a_page() -> None:
    plan = policy()
    before = plan.pages_goal
    plan.measured(pages=1, scan_ns=0, copy_ns=1 * MS)
    assert plan.pages_goal == before


def test_expected_pages_grow_with_transactions_and_never_shrink() -> None:
    plan = policy()
    assert plan.expected_pages(1000) == 1000 * PAGES_PER_TRANSACTION, "nothing is known yet"
    plan.epoch(pages=50, transactions=10)
    assert [plan.expected_pages(count) for count in (1, 10, 20)] == [50, 50, 100]


@pytest.mark.parametrize(
    "wrong",
    [
        {"interval_ms": -1},
        {"max_pause_ms": 0},
        {"max_pin_ms": 0},
        {"max_duty": 0},
        {"max_duty": 1.5},
        {"images": 1},
        {"tracker": "guess"},
    ],
)
def test_settings_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        SyncSettings(**wrong)  # type: ignore[arg-type]  # the point
