"""Whether to wait for a sync of the log before its transactions run, or to run them beside it.

A quick disk syncs in a fraction of what a batch of transactions takes. But the kernel's part of a
sync needs a processor, and gets that of the writer only after its time slice: beside a batch, a
sync of 0.2 ms was known to have ended after 1.5 ms, and a sixth fewer orders a second were answered
(the exchange with `fsync`, 50 x 32 on two cores, four rounds in turn). A writer that waits lends
its processor to the sync, the gateway and the clients. A slow disk is better used beside the
transactions, so waiting ends where syncs turn out to be long, and is tried again now and then.
Nor is it worth it for a small batch: the next ones would have shared its sync, and a writer that
sleeps often loses its processor often (TPC-C, 30 transactions a batch: a quarter fewer when each
waited).

Knows counts and durations, neither logs nor clocks.
"""

from __future__ import annotations

SHORT_NS = 500_000
"""Syncs that take less, typically, are waited for."""
LIMIT_NS = 4_000_000
"""No single one for longer: about what the batch takes beside which it would go on."""
COUNTED_NS = 2 * SHORT_NS
"""As what a longer one counts: now and then one is long on any disk."""
PROBE = 64
"""Of so many syncs that are not waited for, one is."""
WEIGHT = 0.1  # of the last duration in the typical one


COUNT_MIN = 256
"""Transactions of a batch that is worth it."""


class Patience:
    """Ask `limit_ns` at each sync; tell `waited` what came of it."""

    def __init__(self) -> None:
        self._typical_ns = 0.0
        self._passed = 0

    def limit_ns(self, count: int) -> int:
        """How long to wait for the sync of a batch of so many, at the most; 0: not at all."""
        if count < COUNT_MIN:
            return 0
        if self._typical_ns < SHORT_NS:
            return LIMIT_NS
        self._passed = (self._passed + 1) % PROBE
        return 0 if self._passed else LIMIT_NS

    def waited(self, took_ns: int) -> None:
        """So long it took until the sync had ended, or the limit had come."""
        self._typical_ns += WEIGHT * (min(took_ns, COUNTED_NS) - self._typical_ns)
