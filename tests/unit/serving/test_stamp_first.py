"""Whole reads of transactions, stamped in one call: as splitting, classifying and stamping do."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from diptych.serving import frames
from diptych.serving.frames import FrameBuffer
from diptych_client.protocol import HEADER, HEADER_BYTES, Kind, encode_frame

KINDS = np.array([Kind.TRANSACTION, Kind.QUERY, 0], np.uint8)
LIMIT = 100
SESSION, CONNECTION = -5, 1 << 40


def read_of(seed: int) -> bytes:
    """Mostly transactions; then anything, and often less than a frame."""
    chance = random.Random(seed)
    parts = []
    for _ in range(chance.randrange(12)):
        kind = chance.choice([Kind.TRANSACTION] * 12 + [Kind.KEYED, Kind.QUERY, Kind.PING])
        operation = chance.choice([0] * 12 + [1, 2, 3])
        length = chance.choice([0, 1, 30, LIMIT] * 4 + [LIMIT + 1])
        parts.append(encode_frame(kind, b"x" * length, operation=operation, request=7))
        if chance.random() < 0.03:
            parts[-1] = parts[-1][:5] + b"\x01" + parts[-1][6:]  # flags
    data = b"".join(parts)
    return data[: chance.randrange(len(data) + 1)] if chance.random() < 0.5 else data


@given(st.integers(0, 1 << 32), st.integers(0, 12))
def test_it_takes_what_the_longer_way_takes(seed: int, count_max: int) -> None:
    data = read_of(seed)
    short, long = (np.frombuffer(bytearray(data or b"\0"), np.uint8) for _ in range(2))
    stop, told = len(data), np.zeros(1, np.int64)
    end = frames.stamp_first(short, stop, LIMIT, KINDS, SESSION, CONNECTION, count_max, told)
    buffer = FrameBuffer(max(1, stop), LIMIT)
    buffer.array[:stop] = long[:stop]
    buffer.end = stop
    count = buffer.split()
    whole = count if count >= 0 else -1 - count
    runs = np.zeros((len(buffer.starts), 4), np.int64)
    found = frames.classify(buffer.array, buffer.starts, whole, KINDS, runs)
    first = 0
    if found and runs[0, 0] == Kind.TRANSACTION:
        first = min(int(runs[0, 2]), count_max)
    frames.stamp(buffer.array, buffer.starts, 0, first, SESSION, CONNECTION)
    assert (told[0], end) == (first, buffer.starts[first] if first else 0)
    assert bytes(short[:stop]) == bytes(buffer.array[:stop])
    if first:
        _, _, _, _, request, session, connection = HEADER.unpack_from(bytes(short[:HEADER_BYTES]))
        assert (request, session, connection) == (7, SESSION & (1 << 64) - 1, CONNECTION)
