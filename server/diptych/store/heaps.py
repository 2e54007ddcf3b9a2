"""Values of any length on their way into a table's heap.

Their bytes go to a place in the scratch, from which a kernel takes them. Reading needs none of
this (`getters`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diptych.schema import Column
from diptych.store import calls
from diptych.store import words as at
from diptych.store.faults import fault
from diptych.store.layout import TableLayout
from diptych.store.values import Codec
from diptych.store.views import Space


def heap_code(space: Space, code: int) -> int:
    """What a negative code of a heap means here: nothing is moved in a block that can't run again.

    Compacting changes references, which undo records hold.
    """
    return at.HEAP_FULL if code == at.COMPACT_HEAP and not space.runs_again else code


def make_store(space: Space, table: TableLayout, codec: Codec) -> Callable[[Any], int]:
    """A function that puts a value into the heap and returns its reference, a word.

    Whoever calls it rolls back when what follows fails. Errors: BadValue, HeapFull.
    """
    words, blob, descriptor, raw_of = space.words, space.blob, table.descriptor, codec.raw

    def store(value: Any) -> int:
        raw = raw_of(value)
        if not raw:
            return 0
        blob[: len(raw)] = raw
        reference = calls.heap_store(words, descriptor, len(raw))
        while reference < 0 and space.needs_memory(reference):
            reference = calls.heap_store(words, descriptor, len(raw))
        if reference < 0:
            raise fault(space, heap_code(space, reference), table)
        return reference

    return store


def make_assign(
    space: Space, table: TableLayout, column: Column, codec: Codec
) -> Callable[[int, Any], None]:
    """A function that sets a row's value in the heap, or nothing at all when it raises.

    Errors: BadValue, HeapFull, StaleRow, TransactionTooLarge.
    """
    words, blob, descriptor, raw_of = space.words, space.blob, table.descriptor, codec.raw
    value_word, valid_word = column.first_word, column.valid_word

    def assign(row: int, value: Any) -> None:
        is_none = value is None and column.optional
        raw = b"" if is_none else raw_of(value)
        blob[: len(raw)] = raw
        mark = calls.mark(words)
        code = calls.heap_assign(words, descriptor, row, value_word, len(raw))
        while code < 0 and space.needs_memory(code):
            code = calls.heap_assign(words, descriptor, row, value_word, len(raw))
        if code >= 0 and column.optional:
            code = calls.update(words, descriptor, row, valid_word, not is_none)
        if code < 0:
            calls.rollback(words, mark)
            raise fault(space, heap_code(space, code), table)

    return assign
