"""Latencies, counted in bins whose width follows the value: percentiles to within 1 %.

A row of counters holds any number of latencies in 35 KiB. Values below 128 ns have a bin each, then
every power of two is split in 128. What a latency is counted *from* decides whether percentiles
tell the truth: at a fixed rate from the moment the call was due, not from when it could at last be
sent, else a server that stalls hides its own stall (coordinated omission). That is `load`'s part.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from diptych.kernel import kernel

SPLIT_BITS = 7
SPLIT = 1 << SPLIT_BITS
LARGEST_NS = (1 << 40) - 1  # 18 minutes: anything slower counts as this
BINS = (40 - SPLIT_BITS + 1) * SPLIT

Counters: TypeAlias = npt.NDArray[np.int64]


@kernel
def bin_of(value_ns: int) -> int:
    """The bin that a latency falls in."""
    value = min(max(value_ns, 0), LARGEST_NS)
    shift = 0
    while value >> shift >= 2 * SPLIT:
        shift += 1
    return shift * SPLIT + (value >> shift)


def highest_of(bin_number: int) -> int:
    """The largest value, in ns, that falls in a bin."""
    if bin_number < 2 * SPLIT:
        return bin_number
    shift = bin_number // SPLIT - 1
    return (((bin_number - shift * SPLIT) + 1) << shift) - 1


def percentile_us(counters: Counters, percent: float) -> float | None:
    """The latency that `percent` of all stay at or below, in us; None without any."""
    total = int(counters.sum())
    if total == 0:
        return None
    rank = min(total, max(1, int(np.ceil(total * percent / 100))))
    return highest_of(int(np.searchsorted(np.cumsum(counters), rank))) / 1_000


def summary_us(counters: Counters) -> dict[str, float | None]:
    """The percentiles that every report shows, and the highest, in us."""
    shown = {f"p{percent:g}": percentile_us(counters, percent) for percent in (50, 90, 99, 99.9)}
    return shown | {"max": percentile_us(counters, 100)}
