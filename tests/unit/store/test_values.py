"""Codecs: values to words and back."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from tests.support.club import INT_MAX, INT_MIN, Grade, app

from diptych import Rejected
from diptych.store import values
from diptych.store.values import Codec


def codec(name: str) -> Codec:
    return Codec("person", app.tables["person"].by_name[name])


INT, FLOAT, BOOL, ENUM = codec("visits"), codec("weight"), codec("active"), codec("grade")
SHORT, LONG = codec("code"), codec("name")


@given(some.integers(INT_MIN, INT_MAX))
def test_ints_are_their_own_words(value: int) -> None:
    assert INT.encode(value) == (value,)
    assert INT.decode((value,)) == value


@given(some.floats())
def test_floats_are_their_bits(value: float) -> None:
    (word,) = FLOAT.encode(value)
    found = FLOAT.decode((word,))
    assert math.isnan(found) if math.isnan(value) else found == value
    assert math.copysign(1, found) == (-1 if value < 0 else 1)  # -0.0 is stored as 0.0


@given(some.integers(0, 2**52 - 1), some.booleans())
def test_every_nan_is_the_same_word(bits: int, negative: bool) -> None:
    raw = (0x7FF0_0000_0000_0000 | max(bits, 1) | (negative << 63)).to_bytes(8, "little")
    (value,) = values._DOUBLE.unpack(raw)
    assert FLOAT.word(value) == FLOAT.word(math.nan)


def test_ints_become_floats_and_bools_do_not() -> None:
    assert FLOAT.decode(FLOAT.encode(3)) == 3.0
    with pytest.raises(Rejected, match="a float"):
        FLOAT.word(True)


def test_bools_and_enums() -> None:
    assert (BOOL.word(True), BOOL.word(False), BOOL.decode((1,)), BOOL.decode((0,))) == (
        *(1, 0),
        *(True, False),
    )
    assert (ENUM.word(Grade.HIGH), ENUM.word(-5), ENUM.decode((-5,))) == (-5, -5, Grade.HIGH)
    assert ENUM.decode((77,)) == 77  # written by another version: shown as it is
    with pytest.raises(Rejected, match="a member of Grade"):
        ENUM.word(77)


texts = some.text(some.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


@given(texts)
def test_text_comes_back(value: str) -> None:
    size = len(value.encode())
    for each in (SHORT, LONG):
        if size > each.column.size_bytes:
            with pytest.raises(Rejected, match="bytes of UTF-8"):
                each.encode(value)
            continue
        words = each.encode(value)
        assert len(words) == each.column.words
        assert each.decode(words) == value
        assert len(each.padded(value)) == each.column.words * 8


def test_words_of_text_are_its_bytes_in_memory() -> None:
    assert SHORT.word("ab") == int.from_bytes(b"ab\0\0\0\0\0\0", "little")
    assert SHORT.word("ÿ" * 4) == int.from_bytes(("ÿ" * 4).encode(), "little", signed=True) < 0
    assert SHORT.word("") == 0


def test_texts_seen_are_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "VALUES_REMEMBERED_MAX", 3)
    small = codec("code")
    words = [small.word(str(i)) for i in range(10)]
    assert [small.remembered(word) for word in words] == [str(i) for i in range(10)]
    assert small.known is not None
    assert len(small.known) <= 3
    assert [small.word(str(i)) for i in range(10)] == words


@pytest.mark.parametrize("value", [None, 1.5, [], {}, b"x", object()])
def test_strange_values_are_refused_by_name(value: Any) -> None:
    for each in (INT, BOOL, ENUM, SHORT, LONG):
        with pytest.raises(Rejected) as error:
            each.encode(value)
        assert error.value.code == "bad_value"
        assert error.value.details["column"] == each.column.name


def test_what_says_it_is_a_whole_number_is_one() -> None:
    class Whole:
        def __index__(self) -> int:
            return 6

    assert INT.word(Whole()) == 6
    assert INT.word(True) == 1
