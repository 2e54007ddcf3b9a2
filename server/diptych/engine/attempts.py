"""Which transactions ended a writer, how often, and when one of them is set aside.

A transaction that ends every writer would keep a server from ever starting again. So deaths are
counted, each for the transaction that was executing: a fatal signal, or a writer that we killed
because the transaction did not come to an end, counts at once. A SIGKILL of somebody else's says
little about the transaction (an operator, another process's memory), so it counts from the third
one on that came in a row at the same transaction. A transaction with two counts is to be set aside:
answered on the record as one that never ran, and skipped by the replay.

What was executed to its end once may have been answered, and is never set aside; if it ends writers
now, the server stops. It stops, too, when transactions are set aside faster than one could follow.

Counts are in a file, so that they outlive the host. Whoever starts writers calls this, between one
writer and the next. Knows no processes, and no log: the record is written by the next writer.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections import deque
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from diptych.durable import Files

FILE = "attempts.json"
FORMAT = 1
COUNTS_MAX = 2
"""So many counts, and a transaction is set aside."""
KILLS_MAX = 2
"""So many kills in a row at one transaction say nothing about it."""
SET_ASIDE_MAX = 3
"""So many may be set aside within WINDOW_S; one more stops the server."""
WINDOW_S = 60.0

log = logging.getLogger("diptych.engine")


class Ending(Enum):
    """How a writer ended."""

    FATAL_SIGNAL = "a signal of its own doing, or an exit in the middle of a transaction"
    BUDGET_KILL = "killed by us, since a transaction did not come to an end"
    KILLED = "killed, by somebody else"
    OTHER = "anything else: our own stop"


class Verdict(Enum):
    GO_ON = "start the next writer"
    SET_ASIDE = "start it with this transaction among `due`"
    STOP = "stop the server"


class Attempts:
    """The counts. `directory`: the data directory, whose file they are read from; None: no file.

    A file that can't be read or written costs counts, and is said; it stops nothing.
    """

    def __init__(self, directory: Path | None = None, files: Files | None = None) -> None:
        self._path = None if directory is None else directory / FILE
        self._files = files or Files()
        self._counts: dict[int, int] = {}
        # Where the last deaths were, if all of them were kills by somebody else; how many.
        self._killed_at, self._kills = 0, 0
        self._set_aside_s: deque[float] = deque()
        if self._path is not None:
            self._read(self._path)
        self._kept = self._packed()

    def count(self, sequence: int) -> int:
        return self._counts.get(sequence, 0)

    def due(self, executed: int) -> tuple[int, ...]:
        """Transactions behind `executed` that the next writer sets aside before it replays."""
        return tuple(
            sorted(s for s, count in self._counts.items() if count >= COUNTS_MAX and s > executed)
        )

    def ended(self, sequence: int, how: Ending, *, executed: int, now_s: float) -> Verdict:
        """A writer ended while it executed `sequence`; 0: none.

        `executed`: the last transaction known to have been executed to its end, by this or an
        earlier writer (of the records of a log, all but the last one's were). `now_s`: of one
        monotonic clock.
        """
        verdict = Verdict.GO_ON
        if self._says_something(sequence, how):
            self._counts[sequence] = self.count(sequence) + 1
            if self._counts[sequence] >= COUNTS_MAX:
                verdict = self._judge(sequence, executed, now_s)
            if verdict is Verdict.STOP:
                # Whoever starts the server again wants it tried again.
                self._counts[sequence] = COUNTS_MAX - 1
        self._keep()
        return verdict

    def settled(self) -> None:
        """A writer is ready: all that is in the log is executed, or set aside on the record.

        Numbers behind its end, which a host that failed may have taken from it, will be given to
        other transactions, so nothing is known of any.
        """
        self._counts = {}
        self._killed_at, self._kills = 0, 0
        self._keep()

    def _says_something(self, sequence: int, how: Ending) -> bool:
        """Whether this death counts. Kills are in a row until another death comes between."""
        if how is not Ending.KILLED or sequence == 0:
            self._killed_at, self._kills = 0, 0
            return sequence != 0 and how is not Ending.OTHER
        self._kills = self._kills + 1 if sequence == self._killed_at else 1
        self._killed_at = sequence
        return self._kills > KILLS_MAX

    def _judge(self, sequence: int, executed: int, now_s: float) -> Verdict:
        if sequence <= executed:
            log.error(
                "transaction %d ends the writer, and was executed before: it may have been "
                "answered, so it can't be set aside",
                sequence,
            )
            return Verdict.STOP
        while self._set_aside_s and self._set_aside_s[0] <= now_s - WINDOW_S:
            self._set_aside_s.popleft()
        if len(self._set_aside_s) == SET_ASIDE_MAX:
            log.error(
                "transaction %d would be number %d to be set aside within a minute: the cause is "
                "not in one transaction",
                sequence,
                SET_ASIDE_MAX + 1,
            )
            return Verdict.STOP
        self._set_aside_s.append(now_s)
        return Verdict.SET_ASIDE

    def _packed(self) -> bytes:
        told: dict[str, Any] = {
            "format": FORMAT,
            "counts": {str(sequence): count for sequence, count in sorted(self._counts.items())},
            "killed": {"sequence": self._killed_at, "times": self._kills},
        }
        return _text(told | {"checksum": zlib.crc32(_text(told))})

    def _keep(self) -> None:
        """Write the file, if it would be another; complete or not at all."""
        packed = self._packed()
        if self._path is None or packed == self._kept:
            return
        partial = self._path.with_name(FILE + ".partial")
        try:
            fd = self._files.create(partial)
            try:
                self._files.write(fd, packed, 0)
                self._files.sync(fd)
            finally:
                self._files.close(fd)
            self._files.rename(partial, self._path)
            self._files.sync_directory(self._path.parent)
        except OSError as error:
            log.warning(
                "%s was not written, and an end of the server loses counts: %s", FILE, error
            )
        else:
            self._kept = packed

    def _read(self, path: Path) -> None:
        try:
            stored = read_attempts(path)
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            log.warning("%s can't be used, and counts begin anew: %s", path, error)
        else:
            self._counts, self._killed_at, self._kills = dict(stored.counts), *stored.killed


class Stored(NamedTuple):
    """What the file says: counts by transaction; where the last deaths were, and how many."""

    counts: Mapping[int, int]
    killed: tuple[int, int]


def read_attempts(path: Path) -> Stored:
    """Errors: OSError; ValueError when it can't be used."""
    try:
        told = json.loads(path.read_bytes())
        checksum = told.pop("checksum")
        if checksum != zlib.crc32(_text(told)) or told["format"] != FORMAT:
            raise ValueError("its checksum or its format is another")
        counts = {int(sequence): int(count) for sequence, count in told["counts"].items()}
        return Stored(counts, (int(told["killed"]["sequence"]), int(told["killed"]["times"])))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it is not what it should be: {error!r}") from None


def _text(told: dict[str, Any]) -> bytes:
    return json.dumps(told, sort_keys=True, separators=(",", ":")).encode()
