"""What page 0 of an image says: whether the image is whole, and which instant it shows.

A stamp is seven words with a checksum over the first six, so a torn or foreign one reads as none.
An image is stamped FILLING before its first byte changes and COMPLETE after its last one. FILLING
has epoch 0, which no published image has: a reader that compares epochs before and after a query
notices.
"""

from __future__ import annotations

import enum
import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

from diptych.memory.region import Region

MAGIC = int.from_bytes(b"DIPTYCH1", "little")
_BODY = struct.Struct("<6Q")
_CHECKSUM = struct.Struct("<Q")
_WORD = (1 << 64) - 1
EPOCH_WORD = 2
"""Of an image: the stamp's epoch, for who has looked at the whole stamp before."""


class State(enum.IntEnum):
    FILLING = 1
    COMPLETE = 2


class Stamp(NamedTuple):
    state: State
    epoch: int  # counts the images made of one region; 0 while filling
    sequence: int  # of the last transaction that the image shows
    history: int  # which history that number belongs to
    time_ns: int  # CLOCK_MONOTONIC when the region was as the image shows it


FILLING = Stamp(State.FILLING, 0, 0, 0, 0)


def write_stamp(image: Region, stamp: Stamp) -> None:
    state, epoch, sequence, history, time_ns = stamp
    body = _BODY.pack(MAGIC, state, epoch, sequence, history & _WORD, time_ns)
    image.buffer[: _BODY.size] = body
    _CHECKSUM.pack_into(image.buffer, _BODY.size, zlib.crc32(body))


def read_stamp(image: Region) -> Stamp | None:
    """The image's stamp; None when it has none, or one that is not whole."""
    body = bytes(image.buffer[: _BODY.size])
    magic, state, epoch, sequence, history, time_ns = _BODY.unpack(body)
    (checksum,) = _CHECKSUM.unpack_from(image.buffer, _BODY.size)
    if magic != MAGIC or checksum != zlib.crc32(body) or state not in (1, 2):
        return None
    return Stamp(State(state), epoch, sequence, history, time_ns)


def newest_complete(images: Sequence[Region]) -> int | None:
    """Which of `images` shows the latest instant, among those that are whole."""
    whole = []
    for number, image in enumerate(images):
        stamp = read_stamp(image)
        if stamp is not None and stamp.state is State.COMPLETE:
            whole.append((stamp.epoch, number))
    return max(whole)[1] if whole else None
