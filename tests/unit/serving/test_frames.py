"""The kernels against splitting and grouping done naively, frame by frame."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.serving import frames
from diptych.serving.frames import FrameBuffer
from diptych_client.protocol import HEADER, HEADER_BYTES, Header, Kind, encode_frame

LIMIT = 200
WORDS = st.integers(0, 2**64 - 1)
OPERATIONS = np.array([Kind.TRANSACTION, Kind.QUERY, 0, Kind.TRANSACTION], np.uint8)


ANY_KIND = st.integers(0, 255)


@st.composite
def frame(draw: st.DrawFn, kinds: st.SearchStrategy[int] = ANY_KIND) -> bytes:
    return encode_frame(
        draw(kinds),
        draw(st.binary(max_size=LIMIT)),
        operation=draw(st.integers(0, 4)),
        request=draw(WORDS),
        sequence=draw(st.integers(0, 2**63 - 1)),
        context=draw(st.integers(0, 3)),
    )


def naive(data: bytes) -> tuple[list[bytes], int]:
    """The whole frames of `data`, and how many bytes they are."""
    found, at = [], 0
    while len(data) - at >= HEADER_BYTES:
        size = HEADER_BYTES + Header.read(data, at).length
        if len(data) - at < size:
            break
        found.append(data[at : at + size])
        at += size
    return found, at


def filled(data: bytes) -> FrameBuffer:
    buffer = FrameBuffer(max(1, len(data)), LIMIT)
    buffer.space()[: len(data)] = data
    buffer.added(len(data))
    return buffer


@given(st.lists(frame(), max_size=20), st.data())
def test_split_finds_what_a_naive_splitter_finds(sent: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(sent)
    stream = stream[: data.draw(st.integers(0, len(stream)))]
    buffer = filled(stream)
    found, size = naive(stream)
    assert buffer.split() == len(found)
    assert [bytes(buffer.frame(i)) for i in range(len(found))] == found
    assert buffer.starts[len(found)] == size


@given(st.lists(frame(), min_size=1, max_size=20), st.lists(st.integers(1, 300), min_size=1))
def test_a_stream_in_pieces_gives_the_same_frames(sent: list[bytes], sizes: list[int]) -> None:
    """However the reads fall, and with a buffer that must grow and shrink meanwhile."""
    stream = b"".join(sent)
    buffer = FrameBuffer(HEADER_BYTES, LIMIT)
    got: list[bytes] = []
    at = step = 0
    while at < len(stream):
        room = buffer.space()
        assert len(room) > 0
        piece = stream[at : at + min(len(room), sizes[step % len(sizes)])]
        room[: len(piece)] = piece
        buffer.added(len(piece))
        count = buffer.split()
        got += [bytes(buffer.frame(i)) for i in range(count)]
        buffer.consume()
        at, step = at + len(piece), step + 1
        assert len(buffer.view) <= HEADER_BYTES + LIMIT
    assert got == sent
    assert (buffer.end, len(buffer.view)) == (0, HEADER_BYTES)


@given(st.lists(frame(), max_size=5), st.integers(LIMIT + 1, 2**32 - 1))
def test_a_frame_above_the_limit_is_noticed_behind_good_ones(
    sent: list[bytes], length: int
) -> None:
    stream = b"".join(sent) + HEADER.pack(length, Kind.QUERY, 0, 0, 1, 0, 0)
    buffer = filled(stream)
    assert buffer.split() == -1 - len(sent)
    assert buffer.starts[len(sent)] == len(stream) - HEADER_BYTES


def test_starts_that_are_too_few_leave_the_rest_for_later() -> None:
    stream = np.frombuffer(bytearray(encode_frame(Kind.PING) * 10), np.uint8)
    starts = np.zeros(4, np.int64)
    assert frames.split_frames(stream, len(stream), LIMIT, starts) == 3
    assert starts.tolist() == [0, 32, 64, 96]


def expected_class(data: bytes) -> int:
    header = Header.read(data)
    if header.flags:
        return frames.MEANINGLESS
    kind = Kind.TRANSACTION if header.kind == Kind.KEYED else header.kind
    if kind in (Kind.TRANSACTION, Kind.QUERY):
        if header.operation >= len(OPERATIONS) or not OPERATIONS[header.operation]:
            return frames.UNKNOWN_OPERATION
        return kind if OPERATIONS[header.operation] == kind else frames.WRONG_KIND
    return kind if kind in (Kind.INFO, Kind.PING, Kind.ADMIN) else frames.MEANINGLESS


@given(st.lists(frame(st.integers(2, 7)), max_size=30), st.lists(frame(), max_size=3))
def test_classify_groups_runs_and_stops_at_what_means_nothing(
    good: list[bytes], more: list[bytes]
) -> None:
    sent = good + more
    buffer = filled(b"".join(sent))
    count = buffer.split()
    runs = np.zeros((count + 1, 4), np.int64)
    found = frames.classify(buffer.array, buffer.starts, count, OPERATIONS, runs)
    expected, first = [], 0
    for group, members in groupby(map(expected_class, sent)):
        size = len(list(members))
        meaningless = group == frames.MEANINGLESS
        expected.append([group, first, 1 if meaningless else size])
        if meaningless:
            break
        first += size
    assert runs[:found, :3].tolist() == expected


@given(st.lists(frame(st.sampled_from([17, 18, 19, 64, 67])), max_size=30))
def test_replies_are_grouped_by_connection(sent: list[bytes]) -> None:
    buffer = filled(b"".join(sent))
    count = buffer.split()
    runs = np.zeros((count + 1, frames.REPLY_COLUMNS), np.int64)
    summary = np.zeros(frames.SUMMARY, np.int64)
    found = frames.group_replies(buffer.array, buffer.starts, count, runs, summary)
    got = []
    for connection, start, stop, number in runs[:found].tolist():
        part, size = naive(bytes(buffer.view[start:stop]))
        assert size == stop - start
        assert len(part) == number
        got += [(connection, data) for data in part]
    # The same frames in the same order, each under its connection, with that number taken out.
    expected = [
        (Header.read(data).context, Header.read(data)._replace(context=0).encoded() + data[32:])
        for data in sent
    ]
    assert got == expected
    # As few runs as possible, but each frame of our own by itself.
    pairs = zip(runs[:found].tolist(), runs[1:found].tolist(), strict=False)
    assert not any(a[0] == b[0] != 0 for a, b in pairs)
    replies = [Header.read(data) for data in sent if Header.read(data).context]
    assert summary.tolist() == [
        max([header.sequence for header in replies], default=0),
        *[sum(header.kind == kind for header in replies) for kind in (17, 18, 19)],
    ]


@given(st.lists(frame(st.sampled_from([2, 6, 65, 66])), max_size=20))
def test_transactions_are_counted_up_to_something_else(sent: list[bytes]) -> None:
    buffer = filled(b"".join(sent))
    count = buffer.split()
    kinds = [Header.read(data).kind for data in sent]
    for first in range(count):
        expected = 0
        while first + expected < count and kinds[first + expected] in (2, 6):
            expected += 1
        assert frames.transactions_from(buffer.array, buffer.starts, first, count) == expected


@given(st.binary(min_size=10, max_size=40), st.integers(0, 2), st.integers(-(2**63), 2**63 - 1))
def test_words_are_little_endian_at_any_position(data: bytes, at: int, value: int) -> None:
    buffer = np.frombuffer(bytearray(data), np.uint8)
    expected = int.from_bytes(data[at : at + 8], "little", signed=True)
    assert frames.word_at(buffer, at) == expected
    frames.put_word(buffer, at, value)
    assert frames.word_at(buffer, at) == value
    assert buffer[at + 8 :].tobytes() == data[at + 8 :]


def test_a_header_alone_gets_no_memory() -> None:
    """Else a thousand clients that send 32 bytes each take a gigabyte."""
    size, announced = 1 << 10, 1 << 20
    buffer = FrameBuffer(size, announced)
    data = encode_frame(Kind.QUERY, bytes(announced))
    came = 0
    while came < len(data):
        part = data[came : came + 600]
        buffer.space()[: len(part)] = part
        buffer.added(len(part))
        came += len(part)
        if buffer.split() == 0:
            buffer.consume()
            assert len(buffer.view) <= max(size, 3 * came)
        assert len(buffer.space()) >= 600 or came + 600 > len(data)
    assert bytes(buffer.frame(0)) == data
    buffer.consume()
    assert len(buffer.view) == size


def test_drop_forgets_bytes() -> None:
    buffer = filled(b"DIPTYCH\x01" + encode_frame(Kind.PING, request=3))
    buffer.drop(8)
    assert buffer.split() == 1
    assert Header.read(buffer.frame(0)).request == 3


def test_holding_is_split_already() -> None:
    data = encode_frame(Kind.PING) * 3
    buffer = FrameBuffer.holding(data)
    assert buffer.count == 3
    assert bytes(buffer.view) == data


@pytest.mark.parametrize("size", [0, 1, 31])
def test_less_than_a_header_is_no_frame(size: int) -> None:
    assert filled(b"\xff" * size).split() == 0


def test_a_buffer_that_grew_is_small_again_when_all_is_dropped() -> None:
    buffer = FrameBuffer(64, 1 << 20)
    data = encode_frame(Kind.TRANSACTION, b"x" * 5_000)
    for at in range(0, len(data), 64):
        part = data[at : at + 64]
        while len(buffer.space()) < len(part):
            buffer.split()
            buffer.consume()
        buffer.space()[: len(part)] = part
        buffer.added(len(part))
    assert len(buffer.view) > 64
    buffer.drop(len(data))
    assert (len(buffer.view), buffer.end) == (64, 0)
