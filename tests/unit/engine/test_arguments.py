"""Arguments: what passes, what it becomes, and which parameter is named when it does not."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from enum import IntEnum
from typing import Annotated, Any, NamedTuple

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as some

from diptych import App, Day, Db, Time, between, bits, data, f32, i8, items, text, u8, u16, u64
from diptych.engine.arguments import binder
from diptych.errors import DeclarationError
from diptych_client.errors import BadArguments


class Side(IntEnum):
    BUY = 1
    SELL = -1


class Line(NamedTuple):
    item: Annotated[int, between(1, 99)]
    side: Side = Side.BUY


def bind_of(annotation: Any, *default: Any) -> Callable[[list[Any]], Any]:
    """Binds the one argument of an operation with that parameter."""

    def operation(db: Db, value: Any) -> None: ...

    operation.__annotations__["value"] = annotation
    operation.__defaults__ = default or None
    app = App("one")
    app.transaction(operation)
    bind = binder(app.operations[0])
    return lambda values: bind(values)[0]


PAIRS = Annotated[list[tuple[int, str]], items(1, 2)]
GOOD = [
    (int, 5, 5),
    (int, -(2**63), -(2**63)),
    (int, 2**63 - 1, 2**63 - 1),
    (Annotated[int, between(1, 9)], 9, 9),
    (float, 2.5, 2.5),
    (float, 2, 2.0),
    (Annotated[float, between(0.5, 9)], 1, 1.0),
    (bool, True, True),
    (str, "any\0thing", "any\0thing"),
    (Annotated[str, text(4)], "éé", "éé"),
    (Annotated[str, text(4)], "", ""),
    (bytes, b"\0", b"\0"),
    (None, None, None),
    (Any, {"a": [1]}, {"a": [1]}),
    (int | None, None, None),
    (int | None, 3, 3),
    (Annotated[int | None, between(1, 9)], None, None),
    (Side, -1, Side.SELL),
    (Side | None, 1, Side.BUY),
    (Line, [3, -1], Line(3, Side.SELL)),
    (list, [1, "a"], [1, "a"]),
    (list[float], [1, 2.5], [1.0, 2.5]),
    (list[Line], [[1, 1]], [Line(1)]),
    (tuple[int, str], [1, "a"], (1, "a")),
    (tuple[int], [1], (1,)),
    (tuple[int, ...], [1, 2, 3], (1, 2, 3)),
    (tuple[int, ...], [], ()),
    (Annotated[tuple[int, ...], items(1, 3)], [1], (1,)),
    (PAIRS, [[1, "a"], [2, "b"]], [(1, "a"), (2, "b")]),
    (dict, {1: "a"}, {1: "a"}),
    (dict[str, float], {"a": 1}, {"a": 1.0}),
    (dict[int, Side], {5: 1}, {5: Side.BUY}),
    (i8, -128, -128),
    (u64, 2**64 - 1, 2**64 - 1),
    (u16 | None, None, None),
    (Annotated[u8, between(-5, 9)], 0, 0),
    (f32, 3.4e38, 3.4e38),
    (f32, float("inf"), float("inf")),
    (Annotated[f32 | None, between(0, 1)], 0.5, 0.5),
    (Annotated[bytes, data(3)], b"a\0c", b"a\0c"),
    (Annotated[bytes, data(3)] | None, None, None),
    (Time, -1, -1),
    (Day, 20_000, 20_000),
    (Annotated[Side, bits(8)], 1, Side.BUY),
]


@pytest.mark.parametrize(("annotation", "given", "bound"), GOOD)
def test_what_passes(annotation: Any, given: Any, bound: Any) -> None:
    found = bind_of(annotation)([given])
    assert found == bound
    assert type(found) is type(bound)


BAD = [
    (int, 1.0, "value must be an int, not 1.0"),
    (int, True, "value must be an int, not True"),
    (int, "1", "value must be an int"),
    (int, None, "value must be an int"),
    (int, 2**63, "value must be an int"),
    (Annotated[int, between(1, 9)], 0, "value must be an int from 1 to 9, not 0"),
    (Annotated[int, between(1, 9)], 10, "value must be an int from 1 to 9"),
    (Annotated[int | None, between(1, 9)], 10, "value must be an int from 1 to 9"),
    (float, True, "value must be a number, not True"),
    (float, "1", "value must be a number"),
    (Annotated[float, between(0.5, 9)], 0.4, "value must be a number from 0.5 to 9"),
    (Annotated[float, between(0.5, 9)], float("nan"), "value must be a number from 0.5 to 9"),
    (bool, 1, "value must be true or false, not 1"),
    (str, b"a", "value must be text"),
    (Annotated[str, text(4)], "ééé", "text of at most 4 bytes without a zero character"),
    (Annotated[str, text(4)], "abcde", "text of at most 4 bytes"),
    (Annotated[str, text(4)], "a\0", "text of at most 4 bytes"),
    (Annotated[str, text(4)], 5, "text of at most 4 bytes"),
    (bytes, "a", "value must be bytes"),
    (None, 0, "value must be nil"),
    (Side, 0, r"one of 1 \(BUY\), -1 \(SELL\), not 0"),
    (Side, True, r"one of 1 \(BUY\)"),
    (Side, "BUY", r"one of 1 \(BUY\)"),
    (Side | None, 3, r"one of 1 \(BUY\)"),
    (Line, [3], r"value must be an array of \(item, side\)"),
    (Line, {"item": 3}, r"an array of \(item, side\)"),
    (Line, [100, 1], "value.item must be an int from 1 to 99"),
    (list[int], 5, "value must be an array"),
    (list[int], [1, "a"], r"value\[\] must be an int"),
    (tuple[int, str], [1], "value must be an array of 2 items"),
    (tuple[int], [1, 2], "value must be an array of 1 items"),
    (PAIRS, [], "value must be an array of 1 to 2 items"),
    (PAIRS, [[1, "a"]] * 3, "value must be an array of 1 to 2 items"),
    (dict, [], "value must be a map"),
    (dict[str, int], {"a": "b"}, r"value\{\} must be an int"),
    (dict[str, int], {1: 1}, r"value\{\} must be text"),
    (i8, 128, "value must be an int from -128 to 127, not 128"),
    (u8 | None, -1, "value must be an int from 0 to 255"),
    (Annotated[u8, between(-5, 9)], -1, "value must be an int from 0 to 9"),
    (Day, 2**31, "value must be an int from -2147483648 to 2147483647"),
    (f32, 3.5e38, "value must be a number that 32 bits can hold"),
    (Annotated[f32 | None, between(0, 1)], 2, "value must be a number from 0 to 1"),
    (Annotated[bytes, data(3)], b"ab", "value must be exactly 3 bytes, not b'ab'"),
    (Annotated[bytes, data(3)], "abc", "value must be exactly 3 bytes"),
    (Annotated[Side, bits(8)], 2, r"one of 1 \(BUY\)"),
]


@pytest.mark.parametrize(("annotation", "given", "message"), BAD)
def test_what_does_not(annotation: Any, given: Any, message: str) -> None:
    with pytest.raises(BadArguments, match=message) as error:
        bind_of(annotation)([given])
    assert error.value.parameter.startswith("value")


def test_long_values_are_shown_in_part() -> None:
    with pytest.raises(BadArguments) as error:
        bind_of(int)(["x" * 1000])
    assert len(str(error.value)) < 100


# How many ---------------------------------------------------------------------------------------


LINES = (Line(2), Line(3, Side.SELL))


def three(db: Db, a: int, b: float = 2.5, side: Side = Side.SELL) -> None: ...
def none(db: Db) -> None: ...
def deep(db: Db, lines: tuple[Line, ...] = LINES) -> None: ...


app = App("several")
for each in (three, none, deep):
    app.transaction(each)
bind_three, bind_none, bind_deep = (binder(operation) for operation in app.operations)


def test_defaults_fill_in_at_the_end() -> None:
    assert bind_three([1]) == [1, 2.5, Side.SELL]
    assert bind_three([1, 3]) == [1, 3.0, Side.SELL]
    assert bind_three([1, 3, 1]) == [1, 3.0, Side.BUY]
    assert type(bind_three([1])[2]) is Side
    assert bind_none([]) == []
    assert bind_deep([]) == [LINES]


def test_too_few_too_many_or_no_array_at_all() -> None:
    with pytest.raises(BadArguments, match="three: a is missing") as error:
        bind_three([])
    assert error.value.parameter == "a"
    with pytest.raises(BadArguments, match="three takes 3 arguments at most, not 4"):
        bind_three([1, 2, 1, 4])
    with pytest.raises(BadArguments, match="none takes 0 arguments at most, not 1"):
        bind_none([1])
    nonsense: Any
    for nonsense in ({"a": 1}, None, 5, "abc", (1, 2)):
        with pytest.raises(BadArguments, match="arguments are sent as an array"):
            bind_three(nonsense)


@pytest.mark.parametrize(
    ("annotation", "default"),
    [(int, None), (Annotated[int, between(1, 9)], 0), (Side, 5), (str, 1), (list[Line], [(1,)])],
)
def test_a_default_that_does_not_fit_is_told_at_the_start(annotation: Any, default: Any) -> None:
    with pytest.raises(DeclarationError, match="operation: the default does not fit: value"):
        bind_of(annotation, default)


anything = some.recursive(
    some.none()
    | some.booleans()
    | some.integers(-(2**63), 2**64 - 1)
    | some.floats()
    | some.text(max_size=9)
    | some.binary(max_size=3),
    lambda inner: (
        some.lists(inner, max_size=3)
        | some.dictionaries(some.text(max_size=2) | some.integers(-9, 9), inner, max_size=2)
    ),
    max_leaves=6,
)
BINDERS = [bind_of(annotation) for annotation, _, _ in GOOD]


@given(some.lists(anything, max_size=2))
def test_whatever_is_sent_is_bound_or_refused(values: list[Any]) -> None:
    sent = msgpack.unpackb(msgpack.packb(values), strict_map_key=False)
    for bind in BINDERS:
        with contextlib.suppress(BadArguments):
            bind(sent)
