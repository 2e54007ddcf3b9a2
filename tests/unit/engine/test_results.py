"""Results and errors as payloads."""

from __future__ import annotations

import logging
from enum import Enum
from typing import Any, NamedTuple

import msgpack
import numpy as np
import pytest
from tests.support.club import Grade, app

from diptych import Rejected
from diptych.engine.results import failure, packer
from diptych.errors import BadValue, TableFull
from diptych_client.errors import BadArguments, ResultTooLarge, ServerError, error_from
from diptych_client.protocol import Kind


class Point(NamedTuple):
    x: int
    y: float | None


class Colour(Enum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        (None, None),
        (Point(1, None), [1, None]),
        ([Point(1, 2.5)], [[1, 2.5]]),
        (Grade.HIGH, -5),
        ({"a": Grade.LOW}, {"a": 1}),
        (np.int64(5), 5),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (np.arange(3), [0, 1, 2]),
        (np.arange(4).reshape(2, 2), [[0, 1], [2, 3]]),
        (np.array(["é".encode(), b""], "S8"), ["é", ""]),
        (np.array([True]), [True]),
        (np.array([2**64 - 1], np.uint64), [2**64 - 1]),
        (np.ma.MaskedArray([1, 2], [False, True]), [1, None]),
        (np.ma.MaskedArray([1.5, 2.5], [True, False])[0], None),
        (np.ma.MaskedArray(np.array([b"a", b"b"]), [True, False]), [None, "b"]),
        (np.array([b"\0a", b"b\0"], "V2"), [b"\0a", b"b\0"]),
        (np.array([b"\0a"], "V2")[0], b"\0a"),
        (np.array(["a", None], object), ["a", None]),
        ({3, 1, 2}, [1, 2, 3]),
        (frozenset({2}), [2]),
        ((number * 2 for number in range(3)), [0, 2, 4]),
        ({"a": 1}.keys(), ["a"]),
        (range(2), [0, 1]),
        (b"\0", b"\0"),
    ],
)
def test_what_is_sent(value: Any, sent: Any) -> None:
    assert msgpack.unpackb(packer()(value)) == sent


def test_rows_are_their_columns() -> None:
    with app.open(now=0) as bench:
        with bench.transaction() as db:
            db.setting.insert(name="a", value=1)
            db.person.insert(code="c", name="d")
        pack = packer()
        assert msgpack.unpackb(pack(bench.db.setting["a"])) == ["a", 1]
        assert msgpack.unpackb(pack(bench.db.setting)) == [["a", 1]]
        assert msgpack.unpackb(pack({"row": bench.db.person[1]})) == {
            "row": [1, "c", "d", 1, True, 0.5, 0]
        }


@pytest.mark.parametrize("value", [object(), Colour.RED, 1j, 2**64, {1: {2: [object()]}}])
def test_what_can_not_be_sent_leaves_the_packer_whole(value: Any) -> None:
    pack = packer()
    with pytest.raises((TypeError, OverflowError)):
        pack([1, 2, value])
    assert msgpack.unpackb(pack([1])) == [1]


def test_results_have_a_limit() -> None:
    pack = packer(1000)
    assert len(pack(b"x" * 990)) <= 1000
    with pytest.raises(ResultTooLarge, match=r"1,003 bytes; 1,000 at most"):
        pack(b"x" * 1000)
    assert msgpack.unpackb(pack(5)) == 5


def test_a_rejection_is_its_code_and_details() -> None:
    kind, payload = failure(Rejected("no", at=np.int64(3), point=Point(1, None)), "op")
    assert (kind, msgpack.unpackb(payload)) == (
        Kind.REJECTED,
        ["no", {"at": 3, "point": [1, None]}],
    )


def test_a_rejection_that_can_not_be_sent_is_told_as_text() -> None:
    kind, payload = failure(Rejected("no", what=1j, size=2**70), "op")
    assert (kind, msgpack.unpackb(payload)) == (
        Kind.REJECTED,
        ["no", {"what": "1j", "size": str(2**70)}],
    )
    code: Any = Colour.RED
    kind, payload = failure(Rejected(code), "op")
    assert (kind, msgpack.unpackb(payload)) == (Kind.REJECTED, ["Colour.RED", {}])


def test_rejections_of_the_store() -> None:
    for error, sent in (
        (
            TableFull("seat", 3),
            ["table_full", {"table": "seat", "capacity": 3, "setting": "[tables.seat] capacity"}],
        ),
        (
            BadValue("seat", "id", 2**64 + 1, "64 bits"),
            [
                "bad_value",
                {"table": "seat", "column": "id", "value": str(2**64 + 1), "limit": "64 bits"},
            ],
        ),
    ):
        assert msgpack.unpackb(failure(error, "op")[1]) == sent


def test_errors_of_the_call_go_as_they_are() -> None:
    kind, payload = failure(BadArguments("x must be", "x"), "op")
    error = error_from(msgpack.unpackb(payload))
    assert kind == Kind.ERROR
    assert isinstance(error, BadArguments)
    assert (error.message, error.parameter) == ("x must be", "x")


def test_a_bug_is_logged_under_an_id(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "diptych.engine"):
        kind, payload = failure(ZeroDivisionError("secret details"), "spend")
    error = error_from(msgpack.unpackb(payload))
    assert kind == Kind.ERROR
    assert isinstance(error, ServerError)
    assert "secret" not in str(error)
    assert "spend failed with ZeroDivisionError" in str(error)
    assert f"see the server's log for error {error.error_id}" in str(error)
    assert f"error {error.error_id} in spend" in caplog.text
    assert "ZeroDivisionError: secret details" in caplog.text


def test_a_rejection_says_the_same_in_every_process() -> None:
    one, other = object(), object()
    assert str(one) != str(other)
    said = [failure(Rejected("no", what=each), "pay") for each in (one, other)]
    assert said[0] == said[1]
    assert b"object" in said[0][1]
