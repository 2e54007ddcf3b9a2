"""Bins and percentiles of latencies, against exact ones."""

from __future__ import annotations

import numpy as np

from diptych.loadtest.latency import BINS, LARGEST_NS, bin_of, highest_of, percentile_us, summary_us


def test_every_value_is_in_the_bin_that_ends_at_or_above_it() -> None:
    values = [*range(1_000), *(2**power + step for power in range(10, 40) for step in (-1, 0, 1))]
    for value in values:
        found = bin_of(value)
        assert 0 <= found < BINS
        assert value <= highest_of(found) <= value * 1.01
        assert found == 0 or highest_of(found - 1) < value


def test_values_out_of_range_count_as_the_nearest() -> None:
    assert bin_of(-5) == 0
    assert bin_of(LARGEST_NS) == bin_of(10 * LARGEST_NS) == BINS - 1


def test_percentiles_are_within_one_percent() -> None:
    source = np.random.default_rng(1)
    values = np.sort(source.lognormal(12, 2, 20_000).astype(np.int64))
    counters = np.zeros(BINS, np.int64)
    for value in values.tolist():
        counters[bin_of(value)] += 1
    for percent in (1, 50, 90, 99, 99.9, 100):
        exact = values[int(np.ceil(len(values) * percent / 100)) - 1] / 1_000
        found = percentile_us(counters, percent)
        assert found is not None
        assert exact <= found <= exact * 1.01


def test_nothing_counted_has_no_percentiles() -> None:
    assert set(summary_us(np.zeros(BINS, np.int64)).values()) == {None}
