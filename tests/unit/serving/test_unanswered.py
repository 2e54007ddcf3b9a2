"""What is kept until it is answered, against a plain list of frames."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.engine.system import OUTCOME, SESSION_OPEN
from diptych.serving.unanswered import SENDS_MAX, Entry, Unanswered
from diptych_client.protocol import Header, Kind, encode_frame

CONNECTIONS = st.integers(2, 5)
# Whether a frame may be sent twice, by its kind, session and operation.
FRAMES = st.sampled_from(
    [
        (Kind.TRANSACTION, 0, 7, False),
        (Kind.TRANSACTION, 9 << 20, 7, True),
        (Kind.KEYED, 0, 7, True),
        (Kind.TRANSACTION, 0, SESSION_OPEN, True),
        (Kind.TRANSACTION, 0, OUTCOME, True),
    ]
)


def split(data: bytes) -> list[bytes]:
    found = []
    while data:
        size = 32 + Header.read(data).length
        found.append(data[:size])
        data = data[size:]
    return found


class Model:
    """The same by single frames: [frame, connection, may be sent again, times sent]."""

    def __init__(self) -> None:
        self.frames: list[list[object]] = []

    def lost(self) -> list[object]:
        stays = [f for f in self.frames if not f[3] or (f[2] and f[3] < SENDS_MAX)]
        lost = [f[0] for f in self.frames if f not in stays]
        self.frames = stays
        return lost


@given(st.data())
def test_it_is_the_same_as_a_list(data: st.DataObject) -> None:
    kept, model = Unanswered(1 << 20, 1 << 20), Model()
    requests = itertools.count(1)
    there = False
    for _ in range(data.draw(st.integers(1, 25))):
        match data.draw(st.sampled_from(["put", "put", "answer", "lose", "meet"])):
            case "put":
                some = st.lists(st.tuples(CONNECTIONS, FRAMES), min_size=1, max_size=4)
                chosen = data.draw(some)
                frames = [
                    encode_frame(
                        kind,
                        b"x" * 5,
                        operation=o,
                        request=next(requests),
                        sequence=session,
                        context=connection,
                    )
                    for connection, (kind, session, o, _) in chosen
                ]
                kept.put(Entry(b"".join(frames), len(frames), int(there)))
                for frame, (connection, (_, _, _, again)) in zip(frames, chosen, strict=True):
                    model.frames.append([frame, connection, again, int(there)])
            case "answer" if there:
                count = data.draw(st.integers(0, len(model.frames)))
                kept.answered(count)
                del model.frames[:count]
            case "lose" if there:
                there = False
                lost = [f for e in kept.writer_lost(1.0) for f in split(e.data)[-e.count :]]
                assert lost == model.lost()
            case "meet" if not there:
                there = True
                present = data.draw(st.sets(CONNECTIONS))
                entries = kept.for_writer(lambda number: number in present)  # noqa: B023
                model.frames = [f for f in model.frames if f[3] or f[1] in present]
                for frame in model.frames:
                    frame[3] += 1
                # Nothing is sent that was answered: entries are cut where their answers end.
                assert [f for e in entries for f in split(e.data)] == [f[0] for f in model.frames]
        assert kept.count == len(model.frames)
        if not kept.count:
            assert kept.bytes == 0
    assert [call for e in kept.take_all() for call in e.calls()] == [
        (f[1], Header.read(f[0]).operation, Header.read(f[0]).request) for f in model.frames
    ]
    assert (kept.count, kept.bytes) == (0, 0)


def one(request: int, size: int = 0, **more: float) -> Entry:
    data = encode_frame(Kind.TRANSACTION, bytes(size), request=request, sequence=1)
    return Entry(data, 1, **more)


def test_room_is_bounded_in_frames_and_in_bytes() -> None:
    kept = Unanswered(bytes_max=100, count_max=3)
    assert kept.room() == 3
    kept.put(one(1, size=60, sends=1))
    assert kept.room() == 2
    kept.put(one(2, sends=1))
    assert kept.room() == 0
    kept.answered(1)
    assert kept.room() == 2
    kept.writer_lost(until=5)
    assert (kept.count, kept.bytes, kept.room()) == (1, 32, 2)


def test_what_waits_too_long() -> None:
    kept = Unanswered(1000, 10)
    kept.put(one(1, sends=1))
    kept.writer_lost(until=5)
    kept.put(one(2, until=6))
    assert kept.take_expired(5) == []
    assert [entry.sends for entry in kept.take_expired(5.5)] == [1]
    assert [entry.sends for entry in kept.take_expired(7)] == [0]
    assert (kept.count, kept.bytes) == (0, 0)


def test_more_answers_than_questions_are_a_bug() -> None:
    kept = Unanswered(1000, 10)
    kept.put(one(1, sends=1))
    with pytest.raises(IndexError):
        kept.answered(2)
