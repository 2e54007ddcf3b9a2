"""Outcomes that depend on the machine and not on the data: why, and what the caller is told.

A replay of the log can't find them out again, so they are written to it, and a replay answers them
from there. Everything about such an answer is a function of cause and operation, since answers are
part of the data.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from diptych.errors import OutOfMemory
from diptych.store.faults import OverBudgetNow
from diptych_client.errors import DiptychError, OverBudget, ServerError, SetAside

COMPACTED = 16


class Cause(IntEnum):
    """Numbers are those in the log.

    What has COMPACTED added says more than why: heaps were compacted on the way, which is not
    undone, so a replay has to do it, too.
    """

    OVER_BUDGET = 1
    OUT_OF_MEMORY = 2
    RECURSION = 3
    SET_ASIDE = 4
    OVER_BUDGET_COMPACTED = OVER_BUDGET + COMPACTED
    OUT_OF_MEMORY_COMPACTED = OUT_OF_MEMORY + COMPACTED
    RECURSION_COMPACTED = RECURSION + COMPACTED

    @property
    def reason(self) -> Cause:
        return Cause(self % COMPACTED)

    @property
    def is_compacted(self) -> bool:
        return self >= COMPACTED


class Abort(NamedTuple):
    """Transaction `sequence` ended for this cause; nothing that it wrote is left."""

    sequence: int
    cause: Cause


class Skipped(Exception):
    """A transaction that must not run: why it did not when the log was written."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause)
        self.cause = cause


CHAIN_MAX = 32


def cause_of(error: BaseException) -> Cause | None:
    """Why a transaction ended, if that depends on the machine; also where a handler has met such an
    error and raised another one.
    """
    link: BaseException | None = error
    for _ in range(CHAIN_MAX):
        match link:
            case None:
                return None
            case Skipped(cause=cause):
                return cause
            case OverBudgetNow():
                return Cause.OVER_BUDGET
            case MemoryError() | OutOfMemory():
                return Cause.OUT_OF_MEMORY
            case RecursionError():
                return Cause.RECURSION
        link = link.__cause__ or link.__context__
    return None


def error_of(cause: Cause, operation: str) -> DiptychError:
    """What the caller gets."""
    match cause.reason:
        case Cause.OVER_BUDGET:
            return OverBudget(f"{operation} took longer than limits.transaction_ms; it is undone")
        case Cause.OUT_OF_MEMORY:
            return OutOfMemory(f"the server had no memory for {operation}; it is undone")
        case Cause.RECURSION:
            return ServerError(f"{operation} called itself too deeply; it is undone")
        case _:
            return SetAside(f"{operation} ended the writer, repeatedly; it is set aside")
