"""A connection's calls as frames, encoded once and sent round and round.

Knows the frame format and msgpack, and which bytes differ from one round to the next: the request
number, and an argument that stands for an earlier result. `kernels` writes those while it copies
the frames out. Errors: MixError, for calls that the server can't have meant.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt

from diptych.loadtest.mix import Call, MixError, ResultOf
from diptych_client.protocol import HEADER_BYTES, Kind, encode_frame

_HOLE = b"\xcf" + bytes(8)  # msgpack's uint64, so that any number fits in place


@dataclass(frozen=True)
class OperationInfo:
    """What a server's WELCOME says of one operation, as far as a load test needs it."""

    name: str
    number: int
    kind: Kind


def operations_of(welcome: Mapping[str, Any]) -> dict[str, OperationInfo]:
    """A WELCOME's operations by name."""
    return {
        described["name"]: OperationInfo(
            described["name"],
            described["number"],
            Kind.TRANSACTION if described["kind"] == "transaction" else Kind.QUERY,
        )
        for described in welcome["operations"]
    }


@dataclass(frozen=True)
class Cycle:
    """`count` frames, back to back. The arrays have an item a frame; `starts` one more, the end.

    `operation`: row of the operation in the load's table of operations; `hole_at`: position in
    `frames` of eight bytes to fill with a result, or -1; `hole_from`: the call whose result that
    is; `watched`: 1 when a later call needs this one's result.
    """

    frames: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int64]
    operation: npt.NDArray[np.int64]
    hole_at: npt.NDArray[np.int64]
    hole_from: npt.NDArray[np.int64]
    watched: npt.NDArray[np.int64]

    @property
    def count(self) -> int:
        return len(self.operation)


def encode_cycle(
    calls: Iterable[Call], count: int, known: Mapping[str, OperationInfo], table: list[str]
) -> Cycle:
    """Encode the first `count` calls; names that are new are added to `table`."""
    frames = bytearray()
    starts, operation, hole_at, hole_from = [0], [], [], []
    watched = np.zeros(count, np.int64)
    packer = msgpack.Packer()
    rows = {name: row for row, name in enumerate(table)}
    for number, call in enumerate(islice(calls, count)):
        name, arguments = call
        info = known.get(name)
        if info is None:
            raise MixError(f"the server has no operation {name!r}; it has: {', '.join(known)}")
        if name not in rows:
            rows[name] = len(table)
            table.append(name)
        payload, hole, needed = _payload(packer, name, arguments)
        if needed is not None:
            if not 0 <= needed < number:
                raise MixError(f"call {number}, {name}: ResultOf({needed}) is not an earlier call")
            watched[needed] = 1
        hole_at.append(len(frames) + HEADER_BYTES + hole if hole >= 0 else -1)
        hole_from.append(needed or 0)
        operation.append(rows[name])
        frames += encode_frame(info.kind, payload, operation=info.number)
        starts.append(len(frames))
    if not operation:
        raise MixError("the mix yields no calls")
    return Cycle(
        np.frombuffer(bytes(frames), np.uint8),
        np.array(starts, np.int64),
        np.array(operation, np.int64),
        np.array(hole_at, np.int64),
        np.array(hole_from, np.int64),
        watched[: len(operation)],
    )


def _payload(
    packer: msgpack.Packer, name: str, arguments: tuple[Any, ...]
) -> tuple[bytes, int, int | None]:
    """Encoded arguments, where the hole's eight bytes begin (-1: none), and which call fills it."""
    hole, needed = -1, None
    parts = [packer.pack_array_header(len(arguments))]
    for argument in arguments:
        if isinstance(argument, ResultOf):
            if needed is not None:
                raise MixError(f"{name}: a call may have one ResultOf, not two")
            needed = argument.call
            hole = sum(map(len, parts)) + 1
            parts.append(_HOLE)
            continue
        try:
            parts.append(packer.pack(argument))
        except (TypeError, OverflowError, ValueError) as error:
            raise MixError(f"{name}: {argument!r} can't be sent: {error}") from error
    return b"".join(parts), hole, needed
