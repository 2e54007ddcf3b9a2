"""Frames on the wire: encoding, splitting whatever the pieces, and refusing what has no meaning."""

from __future__ import annotations

import random
import struct

import pytest

from diptych_client.errors import ProtocolError
from diptych_client.protocol import (
    HEADER_BYTES,
    PREAMBLE,
    READ_BYTES,
    Frame,
    FrameSplitter,
    Header,
    Kind,
    encode_frame,
)


def frames_and_bytes(count: int, seed: int) -> tuple[list[Frame], bytes]:
    draw = random.Random(seed)
    frames: list[Frame] = []
    data = b""
    for request in range(1, count + 1):
        payload = draw.randbytes(draw.choice([0, 1, 3, 40, 1000]))
        frames.append((int(Kind.QUERY), 7, request, 2**64 - 1, draw.getrandbits(64), payload))
        kind, operation, number, sequence, context, _ = frames[-1]
        data += encode_frame(
            kind, payload, operation=operation, request=number, sequence=sequence, context=context
        )
    return frames, data


@pytest.mark.parametrize("seed", range(20))
def test_any_pieces_give_the_same_frames(seed: int) -> None:
    draw = random.Random(seed)
    expected, data = frames_and_bytes(40, seed)
    data = PREAMBLE + data
    splitter = FrameSplitter(1000)
    found: list[Frame] = []
    start = 0
    while start < len(data):
        piece = data[start : start + draw.choice([1, 2, 7, 31, 32, 33, 500, 5000])]
        if draw.random() < 0.5:
            found += splitter.feed(piece)
            start += len(piece)
        else:
            room = splitter.buffer()
            count = min(len(room), len(piece))
            room[:count] = piece[:count]
            found += splitter.received(count)
            start += count
    assert found == expected
    assert splitter.leftover_bytes == 0


def test_a_frame_larger_than_the_buffer_and_the_small_ones_after_it() -> None:
    payload = random.Random(1).randbytes(3 * READ_BYTES + 5)
    data = encode_frame(Kind.RESULT, payload, request=1) + encode_frame(Kind.RESULT, b"x")
    splitter = FrameSplitter(len(payload), preamble=False)
    found: list[Frame] = []
    start = 0
    while start < len(data):
        room = splitter.buffer()
        count = min(len(room), len(data) - start)
        room[:count] = data[start : start + count]
        found += splitter.received(count)
        start += count
    assert [frame[-1] for frame in found] == [payload, b"x"]
    assert len(splitter.buffer()) == READ_BYTES  # the large buffer is gone again


def test_a_truncated_frame_is_seen_as_leftover() -> None:
    splitter = FrameSplitter(100, preamble=False)
    data = encode_frame(Kind.RESULT, b"12345678")
    assert splitter.feed(data[:-1]) == []
    assert splitter.leftover_bytes == HEADER_BYTES + 7


def test_the_length_is_bounded() -> None:
    assert FrameSplitter(8, preamble=False).feed(encode_frame(Kind.RESULT, b"12345678"))
    with pytest.raises(ProtocolError, match="9 bytes; at most 8"):
        FrameSplitter(8, preamble=False).feed(encode_frame(Kind.RESULT, b"123456789"))


def test_flags_are_refused() -> None:
    frame = Header(0, Kind.RESULT, 1, 0, 0, 0, 0).encoded()
    with pytest.raises(ProtocolError, match="flags 0x1"):
        FrameSplitter(8, preamble=False).feed(frame)


@pytest.mark.parametrize(
    ("start", "says"),
    [
        (b"HTTP/1.1 400", "not a Diptych stream"),
        (b"D1", "not a Diptych stream"),
        (b"DIPTYCH\x02", "version 2; this side speaks 1"),
    ],
)
def test_another_preamble_is_refused(start: bytes, says: str) -> None:
    with pytest.raises(ProtocolError, match=says):
        FrameSplitter(8).feed(start)


def test_a_preamble_may_come_byte_by_byte() -> None:
    splitter = FrameSplitter(8)
    for position in range(len(PREAMBLE)):
        assert splitter.feed(PREAMBLE[position : position + 1]) == []
    assert len(splitter.feed(encode_frame(Kind.CLOSING))) == 1


def test_header() -> None:
    data = encode_frame(Kind.QUERY, b"abc", operation=65535, request=5, sequence=6, context=7)
    header = Header.read(data)
    assert header == Header(3, Kind.QUERY, 0, 65535, 5, 6, 7)
    assert header.encoded() + b"abc" == data
    with pytest.raises(struct.error):
        encode_frame(Kind.QUERY, operation=65536)
