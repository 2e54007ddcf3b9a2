"""How long a transaction may run, judged by what the control page says.

The supervisor asks every LOOK_S. A transaction that has used up its time is *doomed*: its number is
written to the page, and its next operation on the data ends it. One that calls none, or catches
what should end it, is ended with its writer, after twice its time and GRACE_S. A replay must come
to what came before, so it dooms nothing, and has REPLAY_TIMES as long before its writer is ended.

Knows the page, a clock and the record of a writer; kills nobody itself.
"""

from __future__ import annotations

from enum import Enum

from diptych.control_page import ControlPage, Word
from diptych.serving.children import Child

LOOK_S = 0.05
GRACE_S = 1.0
REPLAY_TIMES = 4
"""It may be slower: everything that it touches is cold."""
MS_NS = 1_000_000
SECOND_NS = 1_000_000_000

Verdict = Enum("Verdict", ["NOTHING", "DOOM", "KILL"])


class Watchdog:
    """Looks at one control page. `transaction_ms`: the limit; 0: there is none."""

    def __init__(self, page: ControlPage, transaction_ms: float) -> None:
        self._words = page.words
        self._limit_ns = int(transaction_ms * MS_NS)
        self._last = self._seen_ns = 0

    def must_end(self, writer: Child, now_ns: int) -> bool:
        """Doom what has used up its time; whether `writer` has to be killed, which is noted in it.

        `now_ns`: CLOCK_MONOTONIC.
        """
        if writer.stopped_because:
            return False
        verdict = self.look(now_ns, since_ns=writer.started_ns, replaying=not writer.ready)
        if verdict is Verdict.DOOM:
            self._words[Word.DOOMED] = self._last
        elif verdict is Verdict.KILL:
            writer.over_budget = self._last
            writer.stopped_because = f"transaction {self._last} did not end"
        return verdict is Verdict.KILL

    def look(self, now_ns: int, *, since_ns: int, replaying: bool) -> Verdict:
        """What to do about the transaction that runs.

        Its time counts from when it was seen first: compiled transactions begin by the dozen, and
        what is said of their beginning is that of the first. What began before `since_ns` was
        another writer's; a beginning of 0 means: no limit.
        """
        words = self._words
        sequence, began_ns = words[Word.EXECUTING], words[Word.BEGAN_NS]
        if sequence != self._last:
            self._last, self._seen_ns = sequence, now_ns
            return Verdict.NOTHING
        if not self._limit_ns or not sequence or began_ns < since_ns:
            return Verdict.NOTHING
        ran_ns = now_ns - max(began_ns, self._seen_ns)
        kill_ns = 2 * self._limit_ns + int(GRACE_S * SECOND_NS)
        if ran_ns > kill_ns * (REPLAY_TIMES if replaying else 1):
            return Verdict.KILL
        if ran_ns > self._limit_ns and not replaying and words[Word.DOOMED] != sequence:
            return Verdict.DOOM
        return Verdict.NOTHING
