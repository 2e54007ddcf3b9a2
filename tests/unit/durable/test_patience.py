"""When a sync of the log is waited for: as long as syncs are short, and now and then."""

from __future__ import annotations

from diptych.durable.patience import COUNT_MIN, LIMIT_NS, PROBE, SHORT_NS, Patience


def waits(patience: Patience, syncs: int, took_ns: int) -> int:
    """How many of so many syncs, which take so long each, are waited for."""
    count = 0
    for _ in range(syncs):
        limit_ns = patience.limit_ns(COUNT_MIN)
        if limit_ns:
            assert limit_ns == LIMIT_NS
            count += 1
            patience.waited(min(took_ns, limit_ns))
    return count


def test_short_syncs_are_waited_for() -> None:
    assert waits(Patience(), 1_000, SHORT_NS // 2) == 1_000


def test_long_ones_are_not_for_long() -> None:
    patience = Patience()
    assert waits(patience, 100, 20 * LIMIT_NS) < 10
    assert waits(patience, 10 * PROBE, 20 * LIMIT_NS) == 10


def test_a_disk_that_becomes_quick_is_found_out() -> None:
    patience = Patience()
    waits(patience, 1_000, LIMIT_NS)
    waits(patience, 20 * PROBE, SHORT_NS // 5)
    assert waits(patience, 100, SHORT_NS // 5) == 100


def test_a_single_slow_sync_changes_nothing() -> None:
    patience = Patience()
    waits(patience, 100, SHORT_NS // 5)
    waits(patience, 1, LIMIT_NS)
    assert waits(patience, 100, SHORT_NS // 5) == 100


def test_small_batches_do_not_wait() -> None:
    patience = Patience()
    assert [patience.limit_ns(count) for count in (1, COUNT_MIN - 1)] == [0, 0]
