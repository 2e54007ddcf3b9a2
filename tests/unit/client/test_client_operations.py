"""Operations and types from WELCOME: binding, encoding, rebuilding results."""

from __future__ import annotations

import decimal
from enum import Enum, IntEnum
from typing import Any, NamedTuple

import msgpack
import pytest
from tests.unit.client.fakes import LEVEL, OPERATIONS, PLACED, SIDE

from diptych_client.errors import BadArguments, ProtocolError
from diptych_client.operations import Operation, packer, read_operations, unknown_operation
from diptych_client.types import Types, type_text


class Side(IntEnum):
    BUY = 1


class Line(NamedTuple):
    item: int
    quantity: int


class Indexed:
    """Like numpy's integers: a whole number that is no int."""

    def __index__(self) -> int:
        return 41


@pytest.fixture
def place_order() -> Operation:
    return read_operations(OPERATIONS)["place_order"]


def sent(operation: Operation, *arguments: Any, **named: Any) -> Any:
    return msgpack.unpackb(operation.encode(arguments, named))


def test_arguments_by_position_and_by_name(place_order: Operation) -> None:
    assert sent(place_order, 7, "AAPL", 1, 50, 2) == [7, "AAPL", 1, 50, 2]
    assert sent(place_order, 7, side=1, symbol="AAPL", price=50) == [7, "AAPL", 1, 50]
    assert sent(place_order, account=7, symbol="AAPL", side=1) == [7, "AAPL", 1]


def test_a_default_before_a_given_argument_is_filled_in(place_order: Operation) -> None:
    assert sent(place_order, 7, "AAPL", 1, until=2) == [7, "AAPL", 1, 100, 2]


@pytest.mark.parametrize(
    ("arguments", "named", "parameter", "says"),
    [
        ((7, "AAPL"), {}, "side", "needs 'side'"),
        ((), {"symbol": "AAPL", "side": 1}, "account", "needs 'account'"),
        ((7, "AAPL", 1, 2, 3, 4), {}, "", "at most 5 arguments, 6 were given"),
        ((7, "AAPL", 1), {"symbol": "MSFT"}, "symbol", "two values for 'symbol'"),
        ((7, "AAPL", 1), {"prize": 5}, "prize", "no parameter 'prize'; did you mean 'price'"),
        ((7, "AAPL", 2**64), {}, "side", "can't send 'side'"),
        ((7, "AAPL", 1, decimal.Decimal(5)), {}, "price", "Decimal has no form on the wire"),
        ((7, {"a"}, 1), {}, "symbol", "set has no form on the wire"),
    ],
)
def test_bad_arguments_name_the_parameter(
    place_order: Operation,
    arguments: tuple[Any, ...],
    named: dict[str, Any],
    parameter: str,
    says: str,
) -> None:
    with pytest.raises(BadArguments, match=says) as error:
        place_order.encode(arguments, named)
    assert error.value.parameter == parameter
    assert sent(place_order, 1, "A", 1) == [1, "A", 1]  # the packer is as new


def test_what_can_be_sent() -> None:
    echo = read_operations(OPERATIONS)["echo"]

    class Plain(Enum):
        A = 1

    for value, wire in [
        (Side.BUY, 1),
        (Line(3, 4), [3, 4]),
        ([Line(3, 4), (1, None)], [[3, 4], [1, None]]),
        (Indexed(), 41),
        (b"\x00\xff", b"\x00\xff"),
        ("naïve", "naïve"),
        ({"a": 1.5}, {"a": 1.5}),
        (-(2**63), -(2**63)),
        (2**64 - 1, 2**64 - 1),
        (True, True),
    ]:
        assert sent(echo, value) == [wire]
    for refused in (2**64, -(2**63) - 1, Plain.A, object(), 1j):
        with pytest.raises(BadArguments):
            echo.encode((refused,), {})


def test_description(place_order: Operation) -> None:
    assert str(place_order) == (
        "place_order(account: int, symbol: str, side: Side, price: int = 100, until: int = 0)"
        " -> Placed"
    )
    assert repr(place_order).startswith("<transaction place_order(")
    assert place_order.codes == ("insufficient_funds",)
    assert [each.required for each in place_order.parameters] == [True, True, True, False, False]


def test_results_are_rebuilt() -> None:
    operations = read_operations(OPERATIONS)
    placed = operations["place_order"].decode(msgpack.packb([17, 4]))
    assert (placed.order, placed.filled, type(placed).__name__) == (17, 4, "Placed")
    depth = operations["depth"].decode(msgpack.packb([[100, 1], [99, -1], [98, 5]]))
    assert [level.price for level in depth] == [100, 99, 98]
    assert depth[0].side.name == "BUY"
    assert depth[1].side.name == "SELL"
    assert depth[2].side == 5  # a member this description does not know
    best = operations["best"].decode(msgpack.packb([None, 5]))
    assert best == (None, 5)
    assert isinstance(best, tuple)
    assert operations["echo"].decode(msgpack.packb([1, [2]])) == [1, [2]]


@pytest.mark.parametrize(
    ("described", "wire", "value", "text"),
    [
        ("none", None, None, "None"),
        ({"list": "int"}, [1, 2], [1, 2], "list[int]"),
        ({"optional": {"list": "str"}}, None, None, "list[str] | None"),
        ({"optional": {"list": "str"}}, ["a"], ["a"], "list[str] | None"),
        ({"tuple": ["int", {"list": "int"}]}, [1, [2]], (1, [2]), "tuple[int, list[int]]"),
        ({"dict": ["str", "int"]}, {"a": 1}, {"a": 1}, "dict[str, int]"),
        (
            {"dict": [{"tuple": ["int", "str"]}, {"tuple": ["int"]}]},
            {(1, "a"): [5]},
            {(1, "a"): (5,)},
            "dict[tuple[int, str], tuple[int]]",
        ),
        ({"list": {"tuple": []}}, [[], []], [(), ()], "list[tuple[]]"),
        ({"list": PLACED}, [[1, 2]], [(1, 2)], "list[Placed]"),
        (SIDE, 1, 1, "Side"),
        ({"tuple": ["any"]}, [[1]], ([1],), "tuple[any]"),
    ],
)
def test_types(described: Any, wire: Any, value: Any, text: str) -> None:
    assert type_text(described) == text
    result = {
        "name": "f",
        "number": 0,
        "kind": "query",
        "parameters": [],
        "result": described,
    }
    operation = Operation(result, Types(), packer())
    found = operation.decode(msgpack.packb(wire))
    assert found == value
    assert type(found) is type(value) or isinstance(found, IntEnum)


def test_classes_are_made_once_for_a_name() -> None:
    types = Types()
    first, second = types.rebuild(PLACED), types.rebuild({"list": PLACED})
    assert first is not None
    assert second is not None
    assert type(first([1, 2])) is type(second([[3, 4]])[0])
    other = types.rebuild({"record": ["Placed", [["order", "int"]]]})
    assert other is not None
    assert type(other([1])) is not type(first([1, 2]))
    enum = types.rebuild(SIDE)
    level = types.rebuild(LEVEL)
    assert enum is not None
    assert level is not None
    assert type(enum(1)) is type(level([1, -1]).side)


def test_a_field_that_is_no_name_is_reached_by_position() -> None:
    rebuild = Types().rebuild({"record": ["Odd", [["class", "int"], ["b", "int"]]]})
    assert rebuild is not None
    odd = rebuild([1, 2])
    assert (odd[0], odd.b) == (1, 2)


@pytest.mark.parametrize(
    ("operation", "payload"),
    [
        ("place_order", msgpack.packb([1])),
        ("place_order", msgpack.packb([1, 2, 3])),
        ("place_order", msgpack.packb("ab")),
        ("place_order", msgpack.packb(None)),
        ("depth", msgpack.packb([5])),
        ("depth", msgpack.packb("text")),
        ("best", msgpack.packb([1, 2, 3])),
        ("echo", b"\xc1"),
        ("echo", b""),
        ("echo", b"\x01\x02"),
        ("echo", b"\xa1\xff"),
        ("echo", b"\x91" * 5000),
        ("echo", msgpack.packb({(1,): 2})),
    ],
)
def test_a_result_of_another_shape_is_a_protocol_error(operation: str, payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        read_operations(OPERATIONS)[operation].decode(payload)


def nested(depth: int) -> Any:
    described: Any = "int"
    for _ in range(depth):
        described = {"list": described}
    return described


@pytest.mark.parametrize(
    "described",
    [
        "number",
        5,
        None,
        {},
        {"set": "int"},
        {"list": "int", "dict": "int"},
        {"dict": ["int"]},
        {"record": ["R"]},
        {"record": ["R", [["a", "nothing"]]]},
        {"record": ["R", ["ab", 5]]},
        {"record": ["no name", []]},
        {"enum": ["E", {"mro": 1}]},
        {"enum": ["E", {"A": "x"}]},
        nested(5000),
    ],
)
def test_a_type_without_meaning_is_a_protocol_error(described: Any) -> None:
    operation = OPERATIONS[1] | {"result": described}
    with pytest.raises(ProtocolError):
        read_operations([operation])


@pytest.mark.parametrize(
    "described",
    [
        5,
        [5],
        [{}],
        [OPERATIONS[0] | {"kind": "hello"}],
        [OPERATIONS[0] | {"kind": "other"}],
        [OPERATIONS[0] | {"parameters": [{}]}],
        [OPERATIONS[0] | {"parameters": [{"name": "a", "type": {"list": []}}]}],
    ],
)
def test_operations_without_meaning_are_a_protocol_error(described: Any) -> None:
    with pytest.raises(ProtocolError):
        read_operations(described)


def test_did_you_mean() -> None:
    operations = read_operations(OPERATIONS)
    assert str(unknown_operation("place_oder", operations)) == (
        "no operation 'place_oder'; did you mean 'place_order'?"
    )
    assert str(unknown_operation("zzz", operations)) == "no operation 'zzz'"
