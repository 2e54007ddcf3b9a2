"""Transactions at the beginning of a read, stamped in one call: which, and with what."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from diptych.serving import frames
from diptych_client.protocol import HEADER, HEADER_BYTES, Header, Kind, encode_frame

KINDS = np.array([Kind.TRANSACTION, Kind.QUERY, 0], np.uint8)
LIMIT = 100
Frame = tuple[bytes, bool]
"""And whether it is a transaction that may be passed on."""


def some_frames(chance: random.Random) -> list[Frame]:
    """Mostly transactions; then anything."""
    made = []
    for _ in range(chance.randrange(12)):
        kind = chance.choice([Kind.TRANSACTION] * 12 + [Kind.KEYED, Kind.QUERY, Kind.PING])
        operation = chance.choice([0] * 12 + [1, 2, 3])
        length = chance.choice([0, 1, 30, LIMIT] * 4 + [LIMIT + 1])
        flags = chance.random() < 0.03
        data = encode_frame(kind, b"x" * length, operation=operation, request=7)
        data = data[:5] + bytes([flags]) + data[6:]
        wanted = kind in (Kind.TRANSACTION, Kind.KEYED) and operation == 0
        made.append((data, wanted and length <= LIMIT and not flags))
    return made


@given(
    st.integers(0, 1 << 32),
    st.integers(-1, 12),
    st.integers(0, 2**62),
    st.integers(1, 2**62),
)
def test_stamp_says_whose_frames_these_are(
    seed: int, count_max: int, session: int, connection: int
) -> None:
    chance = random.Random(seed)
    sent = some_frames(chance)
    before = bytes(chance.randrange(5))
    data = before + b"".join(each for each, _ in sent)
    at = len(before)
    stop = chance.randrange(at, len(data) + 1) if chance.random() < 0.5 else len(data)
    buffer = np.frombuffer(bytearray(data + b"\0"), np.uint8)
    told = np.zeros(1, np.int64)
    end = frames.stamp(buffer, at, stop, LIMIT, KINDS, session, connection, count_max, told)
    count, position, expected = 0, at, [before]
    for each, wanted in sent:
        if count >= count_max or not wanted or position + len(each) > stop:
            break
        header = Header.read(each)._replace(sequence=session, context=connection)
        expected.append(HEADER.pack(*header) + each[HEADER_BYTES:])
        count, position = count + 1, position + len(each)
    assert (told[0], end) == (count, position)
    assert bytes(buffer[:-1]) == b"".join(expected) + data[position:]
