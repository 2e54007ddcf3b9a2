"""What kernels report below zero, as the exceptions that handlers and the engine see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diptych.errors import CorruptionError, HeapFull, TableFull
from diptych.store import words as at
from diptych.store.layout import TableLayout
from diptych_client.errors import Rejected

if TYPE_CHECKING:
    from diptych.store.views import Space


class MemoryNeeded(BaseException):
    """A table, index or heap has used up its memory but not its capacity.

    It ends the handler, which should not see it (so it is not an `Exception`). What is needed
    stands in `Space.memory_needed`: the engine looks there, also when a handler has caught this.
    """


class OverBudgetNow(BaseException):
    """The transaction has used up its time.

    It ends the handler, which should not see it. Should it go on nevertheless, every further
    operation raises this, too, and the engine looks at `Space.is_over_budget` before it commits.
    """


class TransactionTooLarge(Rejected):
    """A transaction wrote more than its undo log can hold. Code `transaction_too_large`."""

    def __init__(self) -> None:
        super().__init__("transaction_too_large")


class StaleRow(RuntimeError):
    """A handler used a row after it was deleted, or after its transaction or query had ended."""


class ReadOnly(TypeError):
    """A query tried to change data, or a transaction to assign a key."""


class RangeLost(RuntimeError):
    """More ranges were open at once than there are cursors for."""


def stale(table: str) -> StaleRow:
    """For a row object that is not a row any more."""
    return StaleRow(f"this row of {table} was deleted, or its transaction has ended")


def not_found(space: Space, table: str, key: Any) -> BaseException:
    """The exception for a key that no row has, or that was not looked for any more."""
    if space.is_over_budget():
        return OverBudgetNow()
    shown = list(key) if isinstance(key, tuple) else key
    return Rejected("not_found", table=table, key=shown)


def fault(space: Space, code: int, table: TableLayout) -> BaseException:
    """The exception for a kernel's negative result, and what S_FAULT names."""
    name, descriptor = table.spec.name, space.scratch[at.S_FAULT]
    if code in (at.GROW_TABLE, at.GROW_INDEX, at.GROW_HEAP, at.COMPACT_HEAP):
        return space.ask_memory(descriptor, compact=code == at.COMPACT_HEAP)
    if code == at.OVER_BUDGET:
        return OverBudgetNow()
    if code == at.HEAP_FULL:
        return HeapFull(name, table.heap_words * 8)
    if code == at.TABLE_FULL:
        return TableFull(name, table.capacity)
    if code == at.UNDO_FULL:
        return TransactionTooLarge()
    if code == at.NOT_UNIQUE:
        for index in table.indexes:
            if index.descriptor == descriptor:
                return Rejected("not_unique", table=name, index=index.spec.name)
    if code == at.NOT_LIVE:
        return StaleRow(f"this row of {name} was deleted")
    if code == at.CURSOR_LOST:
        return RangeLost(f"more than {at.CURSORS} ranges are open at once")
    return CorruptionError(f"{name}: a kernel returned {code}")
