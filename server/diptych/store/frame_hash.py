"""A hash of what a frame asks for: tells a retry from another call with the same number.

Over operation, length and payload. It is part of the data (docs/formats.md), so it never changes.
It finds mistakes and clients that were copied; against somebody who tries it proves nothing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from diptych.kernel import kernel
from diptych.store.hashing import mix
from diptych_client.protocol import HEADER_BYTES

OPERATION_AT = 6  # of a frame's header: two bytes


@kernel
def hash_frames(
    frames: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    first: int,
    count: int,
    hashes: npt.NDArray[np.int64],
) -> None:
    """Hashes of `count` frames from number `first` on, each between two of `starts`."""
    for i in range(count):
        at = starts[first + i]
        stop = starts[first + i + 1]
        operation = np.uint64(frames[at + OPERATION_AT]) | np.uint64(
            frames[at + OPERATION_AT + 1]
        ) << np.uint64(8)
        at += HEADER_BYTES
        mixed = mix(operation | np.uint64(stop - at) << np.uint64(16))
        while at + 8 <= stop:
            word = np.uint64(0)
            for byte in range(8):
                word |= np.uint64(frames[at + byte]) << np.uint64(8 * byte)
            mixed = mix(mixed ^ word)
            at += 8
        if at < stop:
            word = np.uint64(0)
            for byte in range(stop - at):
                word |= np.uint64(frames[at + byte]) << np.uint64(8 * byte)
            mixed = mix(mixed ^ word)
        hashes[i] = np.int64(mixed)
