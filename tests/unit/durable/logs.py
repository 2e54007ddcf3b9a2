"""A small command log, and what was put into it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tests.support.disk import DIRECTORY

from diptych.durable import CommandLog, DiskFull, Files, Kind, Tail, read_tail

HISTORY = 7
APP, FACTS = "shop", '{"python": "3.11"}'


@dataclass(frozen=True)
class Settings:
    durability: str = "fsync"
    segment_bytes: int = 8192


def begin(
    files: Files | None = None,
    *,
    after: int = 0,
    path: Path = DIRECTORY,
    history: int = HISTORY,
    new_history: int | None = None,
    facts: str = FACTS,
    settings: Settings = Settings(),
) -> CommandLog:
    """Open a log behind all that it holds beyond `after`."""
    tail = read_tail(path, after, history, files=files)
    tail.finish()
    return CommandLog.open(
        path,
        settings,
        app=APP,
        facts=facts,
        history=new_history or history,
        sequence=max(after, tail.last),
        tail=tail,
        files=files,
    )


@dataclass
class Appended:
    """Appends records of known content; `records` is what a reader may find, and no more."""

    log: CommandLog
    sequence: int = 0
    records: list[tuple[object, ...]] = field(default_factory=list)

    def batch(self, count: int, payload: bytes, outcome: int | None = None) -> int:
        first, time_ns = self.sequence + 1, 1000 + len(self.records)
        self.records.append((Kind.BATCH, first, count, time_ns, outcome, payload))
        try:
            ticket = self.log.append_batch(payload, first, count, time_ns, outcome)
        except DiskFull:
            self.records.pop()
            raise
        self.sequence += count
        return ticket

    def aborts(self, *aborts: tuple[int, int]) -> int:
        self.records.append((Kind.ABORTS, *aborts))
        try:
            return self.log.append_aborts(aborts)
        except DiskFull:
            self.records.pop()
            raise


def contents(tail: Tail) -> list[tuple[object, ...]]:
    """What is in it, in the form of `Appended.records`. Marks are left out."""
    found: list[tuple[object, ...]] = []
    for record in tail:
        if record.kind is Kind.BATCH:
            found.append(
                (
                    record.kind,
                    record.first,
                    record.count,
                    record.time_ns,
                    record.outcome,
                    bytes(record.payload),
                )
            )
        elif record.kind is Kind.ABORTS:
            found.append((record.kind, *record.aborts))
    return found


def read(
    files: Files | None = None,
    after: int = 0,
    path: Path = DIRECTORY,
    history: int | None = HISTORY,
) -> tuple[list[tuple[object, ...]], Tail]:
    """The records, and the tail that they are from, read to its end."""
    tail = read_tail(path, after, history, files=files)
    return contents(tail), tail
