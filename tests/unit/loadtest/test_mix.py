"""Mixes in words and from modules, and their calls as frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice

import msgpack
import pytest

from diptych.loadtest import Call, Mix, MixError, ResultOf, load_mix, mix_of_texts
from diptych.loadtest.cycle import OperationInfo, encode_cycle
from diptych_client.protocol import HEADER_BYTES, Header, Kind

KNOWN = {
    "place": OperationInfo("place", 3, Kind.TRANSACTION),
    "best": OperationInfo("best", 5, Kind.QUERY),
}


def calls(connection: int) -> Iterator[Call]:
    yield "place", (connection,)


class ClassMix:
    def setup(self) -> Iterator[Call]:
        yield "place", (0,)

    def calls(self, connection: int) -> Iterator[Call]:
        yield "place", (1,)

    def queries(self, connection: int) -> Iterator[Call]:
        yield "best", ()


NUMBER = 5


def test_words_become_calls() -> None:
    mix = mix_of_texts([("place 7 'two words' true 1.5 [1,2]", 1)])
    assert next(iter(mix.calls(0))) == ("place", (7, "two words", True, 1.5, [1, 2]))
    assert list(mix.queries(0)) == []
    assert list(mix.setup()) == []


def test_ranges_are_drawn_for_each_call_and_the_same_in_every_run() -> None:
    mix = mix_of_texts([("place 3..5 -2..-2", 1)])
    drawn = list(islice(mix.calls(1), 100))
    assert {arguments[0] for _, arguments in drawn} == {3, 4, 5}
    assert {arguments[1] for _, arguments in drawn} == {-2}
    assert drawn == list(islice(mix.calls(1), 100))
    assert drawn != list(islice(mix.calls(2), 100))


def test_weights() -> None:
    mix = mix_of_texts([("place 1", 3), ("place 2", 1)])
    counted = Counter(arguments[0] for _, arguments in islice(mix.calls(0), 4_000))
    assert 2.5 < counted[1] / counted[2] < 3.5


@pytest.mark.parametrize("words", ["", "place 5..3", "place 'open"])
def test_bad_words(words: str) -> None:
    with pytest.raises(MixError):
        mix_of_texts([(words, 1)])


def test_mixes_from_a_module() -> None:
    here = __name__
    assert isinstance(load_mix(f"{here}:ClassMix"), Mix)
    assert list(load_mix(f"{here}:calls").calls(4)) == [("place", (4,))]
    for reference in ("nothing", "no_such_module:x", f"{here}:absent", f"{here}:NUMBER"):
        with pytest.raises(MixError, match=reference.partition(":")[0]):
            load_mix(reference)


def test_calls_are_encoded_back_to_back() -> None:
    table: list[str] = []
    made: list[Call] = [("place", (1, "x")), ("best", ()), ("place", (ResultOf(0), 9))]
    cycle = encode_cycle(made, 10, KNOWN, table)
    assert table == ["place", "best"]
    assert cycle.count == 3
    assert cycle.operation.tolist() == [0, 1, 0]
    assert cycle.watched.tolist() == [1, 0, 0]
    assert cycle.hole_at[:2].tolist() == [-1, -1]
    data = cycle.frames.tobytes()
    first = Header.read(data, 0)
    assert (first.kind, first.operation) == (Kind.TRANSACTION, 3)
    assert msgpack.unpackb(data[HEADER_BYTES : cycle.starts[1]]) == [1, "x"]
    patched = bytearray(data)
    hole = int(cycle.hole_at[2])
    patched[hole : hole + 8] = (123_456).to_bytes(8, "big")
    last = bytes(patched[int(cycle.starts[2]) + HEADER_BYTES :])
    assert msgpack.unpackb(last) == [123_456, 9]


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        ([], "no calls"),
        ([("absent", ())], "absent"),
        ([("place", (ResultOf(0),))], "earlier"),
        ([("place", ()), ("place", (ResultOf(0), ResultOf(0)))], "two"),
        ([("place", (object(),))], "can't be sent"),
    ],
)
def test_calls_that_can_not_be_meant(made: list[Call], reason: str) -> None:
    with pytest.raises(MixError, match=reason):
        encode_cycle(made, 10, KNOWN, [])
