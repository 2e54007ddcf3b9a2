"""Batches of frames through compiled operations: decoded, run, undone or kept, answered.

One call runs as many frames in a row as it can, and stops before the first that is not for it: an
operation that is not compiled, a frame with a key, one that came before, arguments that don't fit,
and whatever compiled code can't tell. The interpreter takes that one, so it is the one source of
errors, and calls again for the rest.

`table` describes an application's compiled operations (see `compiled.handlers`): OP_WORDS words for
each operation number, then the programs that `unpack` and `pack` follow, and where those of its
rejections are. What operations do is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from diptych.kernel import entry_kernel, kernel
from diptych.memory.layout import Words
from diptych.store.batches import (
    KIND_AT,
    OPERATION_AT,
    REQUEST_AT,
    SEQUENCE_AT,
    number_at,
    remember_reply,
)
from diptych.store.budget import is_over_budget
from diptych.store.compiled.entries import call_entry
from diptych.store.pack import pack
from diptych.store.sessions import admit
from diptych.store.undo import rollback
from diptych.store.unpack import unpack
from diptych.store.words import (
    BEGAN_NS,
    EXECUTING,
    KIND_SHIFT,
    REJECTED,
    REQUEST_NEW,
    S_CALL_ANSWER,
    S_CALL_ARGUMENTS,
    S_CALL_REASON,
    S_RANDOM_SEQUENCE,
    S_UNDO_TOP,
    SCRATCH,
    SEQUENCE,
    UNEXPECTED,
)
from diptych_client.protocol import HEADER_BYTES, Kind

Bytes = npt.NDArray[np.uint8]

# The table. Word 0 says how many operation numbers it has, word 1 where the positions of the
# rejections' programs begin; operation n stands at TABLE_OPERATIONS + n * OP_WORDS.
TABLE_NUMBERS = 0
TABLE_REJECTIONS = 1
TABLE_OPERATIONS = 2
OP_WORDS = 4
OP_ENTRY = 0  # address; 0: not compiled
OP_ARGUMENTS = 1  # where the program for its arguments begins
OP_ANSWER = 2
OP_KIND = 3  # of its frames

# What `run_frames` tells.
TOLD_BYTES = 0  # of replies
TOLD_REJECTED = 1  # of the transactions that ran, how many ended so
TOLD_ADMITTED = 2  # 1: the frame that it stopped before is admitted already
TOLD_WORDS = 3


@dataclass(frozen=True)
class Compiled:
    """An application's compiled operations: their `table`, which numbers are transactions and which
    queries, and which of those are `prompt`: they end soon, whatever they are given.
    """

    table: Words
    transactions: frozenset[int]
    queries: frozenset[int]
    prompt: frozenset[int]


CONTEXT_AT = 24  # of a frame's header
TRANSACTION = int(Kind.TRANSACTION)
RESULT_KIND = int(Kind.RESULT)
REJECTED_KIND = int(Kind.REJECTED)
REPLY_BYTES_LEAST = 1 << 16
"""With less room than that for replies, no further frame is begun."""


@kernel
def put_number(data: Bytes, at: int, value: int, size: int) -> None:
    """So many bytes of a number, little-endian."""
    for i in range(size):
        data[np.uint64(at + i)] = (value >> (8 * i)) & 255


@kernel
def put_header(
    data: Bytes,
    at: int,
    length: int,
    kind: int,
    operation: int,
    request: int,
    sequence: int,
    context: int,
) -> None:
    """The header of a frame."""
    put_number(data, at, length, 4)
    put_number(data, at + KIND_AT, kind, 2)  # without flags
    put_number(data, at + OPERATION_AT, operation, 2)
    put_number(data, at + REQUEST_AT, request, 8)
    put_number(data, at + SEQUENCE_AT, sequence, 8)
    put_number(data, at + CONTEXT_AT, context, 8)


@kernel
def operation_of(table: Words, frames: Bytes, at: int, kind: int) -> int:
    """Where the table has the compiled operation of a frame of that kind; 0: it has none."""
    number = number_at(frames, at + OPERATION_AT, 2)
    if number >= table[TABLE_NUMBERS] or number_at(frames, at + KIND_AT, 1) != kind:
        return 0
    operation: int = TABLE_OPERATIONS + number * OP_WORDS
    if table[operation + OP_ENTRY] == 0 or table[operation + OP_KIND] != kind:
        return 0
    return operation


@kernel
def call_operation(
    words: Words, base: int, table: Words, operation: int, frames: Bytes, at: int, stop: int
) -> int:
    """Run the operation with a frame's arguments: 0, or why not."""
    arguments = words[SCRATCH] + S_CALL_ARGUMENTS
    program = table[operation + OP_ARGUMENTS]
    if unpack(table, program, frames, at + HEADER_BYTES, stop, words, arguments) != 0:
        return UNEXPECTED
    code: int = call_entry(table[operation + OP_ENTRY], base)
    return code


@kernel
def pack_answer(
    words: Words, table: Words, operation: int, code: int, replies: Bytes, at: int, limit: int
) -> int:
    """Write what a call that returned `code` is answered; where that ends, or -1: Python has to."""
    scratch = words[SCRATCH]
    if code == 0:
        program = table[operation + OP_ANSWER]
    elif code == REJECTED:
        program = table[table[TABLE_REJECTIONS] + words[scratch + S_CALL_REASON]]
    else:
        return -1
    end: int = pack(table, program, words, scratch + S_CALL_ANSWER, replies, at, limit)
    return end


@entry_kernel
def run_frames(
    words: Words,
    memory: Bytes,
    base: int,
    control: Words,
    frames: Bytes,
    starts: Words,
    hashes: Words,
    first: int,
    count: int,
    table: Words,
    replies: Bytes,
    answer_bytes_max: int,
    now_ns: int,
    told: Words,
) -> int:
    """Run frames `first` to `count` of those that `starts` divides, for as long as it can.

    Returns how many ran; their replies are in `replies`, from its beginning, and are remembered.
    `hashes` are those of all the frames, `base` is the address of `words`, and `memory` the same as
    bytes. Every transaction takes a number, which stands in `control` while it runs.
    """
    scratch = words[SCRATCH]
    position = 0
    i = first
    told[TOLD_REJECTED] = 0
    told[TOLD_ADMITTED] = 0
    while i < count and len(replies) - position >= REPLY_BYTES_LEAST:
        at = starts[i]
        operation = operation_of(table, frames, at, TRANSACTION)
        if operation == 0:
            break
        request = number_at(frames, at + REQUEST_AT, 8)
        session = number_at(frames, at + SEQUENCE_AT, 8)
        if session != 0 and admit(words, session, request, hashes[i]) != REQUEST_NEW:
            break
        sequence = words[SEQUENCE] + 1
        words[SEQUENCE] = sequence
        control[BEGAN_NS] = now_ns
        control[EXECUTING] = sequence
        code = call_operation(words, base, table, operation, frames, at, starts[i + 1])
        if code != 0:
            rollback(words, 0)
        payload = position + HEADER_BYTES
        limit = min(len(replies), payload + answer_bytes_max)
        end = pack_answer(words, table, operation, code, replies, payload, limit)
        if end < 0 or is_over_budget(words):
            rollback(words, 0)
            words[scratch + S_RANDOM_SEQUENCE] = -1
            words[SEQUENCE] = sequence - 1
            told[TOLD_ADMITTED] = 1 if session != 0 else 0
            break
        words[scratch + S_UNDO_TOP] = 0
        kind = RESULT_KIND
        if code != 0:
            kind = REJECTED_KIND
            told[TOLD_REJECTED] += 1
        number = number_at(frames, at + OPERATION_AT, 2)
        context = number_at(frames, at + CONTEXT_AT, 8)
        put_header(replies, position, end - payload, kind, number, request, sequence, context)
        if session != 0:
            what = number | kind << KIND_SHIFT
            remember_reply(
                words, memory, session, request, hashes[i], what, sequence, replies, payload, end
            )
        position = end
        i += 1
    told[TOLD_BYTES] = position
    return i - first
