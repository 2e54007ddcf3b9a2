"""Where the frames are in a run of bytes: what came over a socket, or what the log has of it.

A kernel, since it is done for each frame. Knows the header's length and no kinds.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from diptych.kernel import kernel
from diptych_client.protocol import HEADER_BYTES

Bytes: TypeAlias = npt.NDArray[np.uint8]
Words: TypeAlias = npt.NDArray[np.int64]

_HEADER = HEADER_BYTES


@kernel
def byte_at(buffer: Bytes, position: int) -> Any:
    """One byte as a wide integer, so that it can be shifted, compiled or not."""
    return np.int64(buffer[position])


@kernel
def half_at(buffer: Bytes, position: int) -> int:
    """Four bytes, little-endian."""
    value = 0
    for i in range(4):
        value |= byte_at(buffer, position + i) << (8 * i)
    return value


@kernel
def split_frames(buffer: Bytes, stop: int, payload_bytes_max: int, starts: Words) -> int:
    """Find the whole frames in buffer[:stop]: their positions, then where the rest begins.

    Returns how many. When the rest announces a payload above the limit, returns -1 - that number.
    Fills `starts` at most; what does not fit there is part of the rest.
    """
    position = 0
    count = 0
    room = len(starts) - 1
    while stop - position >= _HEADER and count < room:
        length = half_at(buffer, position)
        if length > payload_bytes_max:
            starts[count] = position
            return -1 - count
        if stop - position < _HEADER + length:
            break
        starts[count] = position
        count += 1
        position += _HEADER + length
    starts[count] = position
    return count


def starts_of(data: Bytes, count: int) -> Words:
    """Where each of `count` whole frames begins, and where the last one ends.

    Errors: ValueError when that is not what the bytes are.
    """
    starts = np.zeros(count + 1, np.int64)
    if split_frames(data, len(data), len(data), starts) != count or starts[count] != len(data):
        raise ValueError(f"{len(data)} bytes are not {count} frames")
    return starts
