"""Arguments and answers in compiled code, against Python's: nothing passes that Python refuses,
what passes is the same, and answers are the same bytes.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from types import NoneType
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as some
from numba.core import types
from tests.support import everything, shapes
from tests.support.shapes import Code, Side, operation_of

from diptych.app import Operation
from diptych.engine.arguments import binder
from diptych.engine.results import failure, packer
from diptych.schema import Between, Bits, Data, Items, Text, ValueType
from diptych.store import words as at
from diptych.store.compiled.programs import (
    answer_program,
    answer_words,
    arguments_program,
    rejection_program,
)
from diptych.store.compiled.shapes import parameter_type, words_count
from diptych.store.compiled.types import (
    DataType,
    DbType,
    ListType,
    TableType,
    TextType,
    fits,
    words_of,
)
from diptych.store.pack import pack
from diptych.store.unpack import unpack
from diptych.testing import Bench
from diptych_client.errors import BadArguments, Rejected
from diptych_client.protocol import Kind

UNTOUCHED = -0x7E57
BEFORE, BEHIND = 3, 5
INTS = [each for each in shapes.INTS if each < 2**63]
SEEDS = some.integers(0, 2**32)


def unpacked(operation: Operation, payload: bytes) -> list[Any] | None:
    """What a handler would be given of a payload, or None: Python takes it.

    It stands in the midst of other bytes, as frames do, and so do its words.
    """
    program = [99, 99, *arguments_program(operation)]
    count = sum(words_count(parameter_type(p.value, "")) for p in operation.parameters)
    words = np.full(BEFORE + count + BEHIND, UNTOUCHED, np.int64)
    around = np.array(list(b"\x01" + payload + b"\x02" * (len(payload) % 11)), np.uint8)
    code = unpack(np.array(program), 2, around, 1, 1 + len(payload), words, BEFORE)
    assert set(words[:BEFORE]) == set(words[BEFORE + count :]) == {UNTOUCHED}
    if code != 0:
        return None
    following = iter(words[BEFORE : BEFORE + count].tolist())
    return [read(p.value, following) for p in operation.parameters]


def read(value: ValueType, words: Iterator[int]) -> Any:
    """The value that stands in the next words, as compiled code reads them."""
    if value.items is not None:
        count = next(words)
        item = words_count(parameter_type(value.arguments[0], ""))
        room = iter([next(words) for _ in range(item * value.items.high)])
        return [read(value.arguments[0], room) for _ in range(count)]
    if value.optional:
        present = next(words)
        assert present in (0, 1)
        given_one = read(ValueType(**{**value.__dict__, "optional": False}), words)
        return given_one if present else None
    parts = [part for _, part in value.fields] or list(value.arguments)
    if parts:
        return tuple(read(part, words) for part in parts)
    if value.base is NoneType:
        return None
    if value.text or value.data:
        size = (value.text or value.data).size_bytes  # type: ignore[union-attr]  # one is there
        raw = b"".join(next(words).to_bytes(8, "little", signed=True) for _ in range(-(-size // 8)))
        assert not any(raw[size:])
        return raw.rstrip(b"\0").decode() if value.text else raw[:size]
    word = next(words)
    if value.base is bool:
        assert word in (0, 1)
        return word == 1
    return struct.unpack("<d", struct.pack("<q", word))[0] if value.base is float else word


def bound(operation: Operation, payload: bytes) -> list[Any] | None:
    """What the interpreted handler is given, or None: it is refused."""
    try:
        return binder(operation)(msgpack.unpackb(payload, strict_map_key=False))
    except (BadArguments, ValueError, TypeError, msgpack.UnpackException):
        return None


def seen(value: Any) -> Any:
    """So that values are equal only if a handler can't tell them apart: 1 is not True."""
    if isinstance(value, tuple | list):
        return [type(value) is list, *map(seen, value)]
    if isinstance(value, float):
        return "nan" if value != value else struct.pack("<d", value)
    return (int, int(value)) if isinstance(value, Side | Code) else (type(value), value)


def flat(value: Any) -> Iterator[int]:
    """All ints in it."""
    if isinstance(value, list):
        for item in value:
            yield from flat(item)
    elif type(value) is int:
        yield value


def compare(operation: Operation, payload: bytes, *, complete: bool = False) -> bool:
    """Check that both agree. `complete`: and that compiled code takes all that Python takes."""
    mine, python = unpacked(operation, payload), bound(operation, payload)
    if mine is not None:
        assert python is not None, (operation.parameters, payload)
        assert seen(mine) == seen(python), (operation.parameters, payload)
    elif complete and python is not None:
        # But ints above 63 bits, sent for a float with bounds: they are compared as ints are.
        large = any(number >= 2**63 for number in flat(msgpack.unpackb(payload)))
        assert large, (operation.parameters, payload)
    return mine is not None


@given(SEEDS)
@settings(max_examples=300)
def test_arguments(seed: int) -> None:
    chance = random.Random(seed)
    operation = operation_of([shapes.random_parameter(chance) for _ in range(chance.randint(0, 5))])
    for _ in range(5):
        values = [shapes.random_argument(chance, p.value) for p in operation.parameters]
        payload = shapes.encoded(chance, values)
        compare(operation, payload, complete=True)
        compare(operation, shapes.damaged(chance, payload))
        compare(operation, chance.randbytes(chance.randrange(30)))


@given(SEEDS)
@settings(max_examples=100)
def test_arguments_that_are_left_out(seed: int) -> None:
    chance = random.Random(seed)
    values = [shapes.random_parameter(chance) for _ in range(chance.randint(1, 5))]
    defaults: list[Any] = []
    for value in reversed(values[chance.randrange(len(values)) :]):
        tried = [shapes.random_argument(chance, value) for _ in range(20)]
        fit = [each for each in tried if is_good(value, each)]
        if not fit:
            break
        defaults.insert(0, fit[0])
    operation = operation_of(values, defaults)
    for count in range(len(values) + 1):
        given_ones = [shapes.random_argument(chance, value) for value in values[:count]]
        compare(operation, shapes.encoded(chance, given_ones), complete=not any(large(defaults)))


def is_good(value: ValueType, argument: Any) -> bool:
    return bound(operation_of([value]), msgpack.packb([argument])) is not None


def large(value: Any) -> Iterator[bool]:
    return (number >= 2**63 for number in flat(value))


def test_a_default_that_is_left_to_python_makes_the_argument_required() -> None:
    values = [ValueType(int), ValueType(float, between=Between(0.0, 1e30))]
    operation = operation_of(values, [5, 2**63])
    assert unpacked(operation, msgpack.packb([1, 2.0])) == [1, 2.0]
    assert unpacked(operation, msgpack.packb([1])) is None
    assert unpacked(operation, msgpack.packb([])) is None


@pytest.mark.parametrize(
    ("value", "payload"),
    [
        (ValueType(int), b"\x91\xc3"),
        (ValueType(int), b"\x91\xcb" + bytes(8)),
        (ValueType(int), b"\x91\xcf\x80" + bytes(7)),
        (ValueType(int), b"\x91\xd3" + bytes(7)),
        (ValueType(int), b"\x91\xc7\x01\x01\x01"),
        (ValueType(int), b"\x81\x01"),
        (ValueType(int), b"\x01"),
        (ValueType(int), b""),
        (ValueType(int), b"\x91\x01\x01"),
        (ValueType(bool), b"\x91\x01"),
        (ValueType(Side), b"\x91\x03"),
        (ValueType(Code), b"\x91\x08"),
        (ValueType(int, bits=Bits(8, signed=False)), b"\x91\xff"),
        (ValueType(str, text=Text(4)), b"\x91\xc4\x01a"),
        (ValueType(str, text=Text(4)), b"\x91\xa5abcde"),
        (ValueType(str, text=Text(4)), b"\x91\xa2a\0"),
        (ValueType(str, text=Text(16)), b"\x91\xadabcdefgh\0jklm"),
        (ValueType(str, text=Text(4)), b"\x91\xa3\xed\xa0\x80"),
        (ValueType(str, text=Text(4)), b"\x91\xa2\xc0\x80"),
        (ValueType(str, text=Text(4)), b"\x91\xa3\xe0\x80\x80"),
        (ValueType(str, text=Text(4)), b"\x91\xa4\xf0\x80\x80\x80"),
        (ValueType(str, text=Text(4)), b"\x91\xa4\xf4\x90\x80\x80"),
        (ValueType(str, text=Text(4)), b"\x91\xa1\xc3"),
        (ValueType(str, text=Text(4)), b"\x91\xdb\xff\xff\xff\xffab"),
        (ValueType(bytes, data=Data(2)), b"\x91\xa2ab"),
        (ValueType(bytes, data=Data(2)), b"\x91\xc4\x03abc"),
        (ValueType(bytes, data=Data(2)), b"\x91\xc4\x02a"),
        (ValueType(float, between=Between(0.0, 2.0**53)), b"\x91\xcf\x00\x20" + bytes(5) + b"\x01"),
        (ValueType(float, between=Between(0.0, 1.0)), b"\x91\xcb\x7f\xf8" + bytes(6)),
        (ValueType(float, bits=Bits(32)), b"\x91\xcb\x47\xef\xff\xff\xf0" + bytes(3)),
        (ValueType(list, arguments=(ValueType(int),), items=Items(0, 2)), b"\x91\x93\x01\x01\x01"),
        (ValueType(list, arguments=(ValueType(int),), items=Items(1, 2)), b"\x91\x90"),
        (
            ValueType(list, arguments=(ValueType(int),), items=Items(0, 2)),
            b"\x91\xdd\xff\xff\xff\xff",
        ),
        (ValueType(list, arguments=(ValueType(NoneType),), items=Items(0, 9)), b"\x91\x93\xc0\xc0"),
    ],
)
def test_what_python_refuses_does_not_pass(value: ValueType, payload: bytes) -> None:
    operation = operation_of([value])
    assert bound(operation, payload) is None
    assert unpacked(operation, payload) is None


@given(some.binary(max_size=9) | some.text(max_size=4).map(str.encode))
@example(b"\xed\x9f\xbf")
@example(b"\xf4\x8f\xbf\xbf")
@settings(max_examples=300)
def test_utf8(raw: bytes) -> None:
    compare(
        operation_of([ValueType(str, text=Text(9))]), b"\x91\xd9%c" % len(raw) + raw, complete=True
    )


# Answers -----------------------------------------------------------------------------------------


class Memory:
    """Words of answers, as compiled code leaves them; the items of lists lie anywhere."""

    def __init__(self) -> None:
        self.words = [UNTOUCHED]

    def put(self, words: list[int]) -> int:
        self.words += words
        return len(self.words) - len(words)

    def words_of(self, kind: types.Type, value: Any) -> list[int]:
        if isinstance(kind, types.NoneType | types.StringLiteral):
            return []
        if isinstance(kind, types.Optional):
            if value is None:
                return [0] + [UNTOUCHED] * answer_words(kind.type)
            return [1, *self.words_of(kind.type, value)]
        if isinstance(kind, ListType):
            items = [word for item in value for word in self.words_of(kind.item, item)]
            return [len(value), self.put(items)]
        if isinstance(kind, types.BaseTuple):
            pairs = zip(kind, value, strict=True)
            return [word for part, item in pairs for word in self.words_of(part, item)]
        if isinstance(kind, TextType | DataType):
            return words_of(value, kind.words)
        if isinstance(kind, types.Float):
            return list(struct.unpack("<q", struct.pack("<d", value)))
        return [int(value)]

    def packed(self, program: list[int], words: list[int]) -> bytes:
        """What `pack` makes of these words. Where it has too little room it makes nothing."""
        source = self.put(words)
        memory = np.array([*self.words, UNTOUCHED])
        code, room = np.array([7, *program]), np.zeros(100_000, np.uint8)
        stop = pack(code, 1, memory, source, room, 3, len(room))
        assert not room[:3].any()
        assert not room[stop:].any()
        assert pack(code, 1, memory, source, room.copy(), 3, stop) == stop
        for limit in {3, (3 + stop) // 2, stop - 1}:
            small = np.zeros(stop, np.uint8)
            assert pack(code, 1, memory, source, small, 3, limit) == -1
            assert not small[limit:].any()
        return room[3:stop].tobytes()


def random_kind(chance: random.Random, depth: int = 3) -> types.Type:
    """A type that compiled code may return."""
    match chance.randrange(11 if depth else 8):
        case 0 | 1:
            return chance.choice([types.int64, types.IntEnumMember(Code, types.int64)])
        case 2:
            return types.float64
        case 3:
            return types.boolean
        case 4:
            return types.none
        case 5:
            return types.StringLiteral(chance.choice(shapes.TEXTS))
        case 6:
            return TextType(chance.choice([1, 8, 17, 300]))
        case 7:
            return DataType(chance.choice([1, 8, 9, 255, 256, 300]))
        case 8:
            inner = random_kind(chance, 0)
            is_open = isinstance(inner, types.NoneType | types.StringLiteral)
            return inner if is_open else types.Optional(inner)
        case 9:
            return ListType(random_kind(chance, depth - 1))
    count = chance.choice([0, 1, 2, 3, 17])
    parts = [random_kind(chance, max(depth - 2, 0)) for _ in range(count)]
    return types.Tuple(parts)


def random_answer(chance: random.Random, kind: types.Type) -> Any:
    if isinstance(kind, types.StringLiteral):
        return kind.literal_value
    if isinstance(kind, types.Optional):
        return None if chance.random() < 0.5 else random_answer(chance, kind.type)
    if isinstance(kind, ListType):
        count = chance.choice([0, 1, 2, 15, 16, 17])
        return [random_answer(chance, kind.item) for _ in range(count)]
    if isinstance(kind, types.BaseTuple):
        return tuple(random_answer(chance, part) for part in kind)
    if isinstance(kind, TextType):
        return chance.choice([each for each in shapes.TEXTS if fits(each, kind.size_bytes)])
    if isinstance(kind, DataType):
        return chance.choice([bytes(kind.size_bytes), chance.randbytes(kind.size_bytes)])
    if isinstance(kind, types.IntEnumMember):
        return chance.choice(list(Code))
    if isinstance(kind, types.Boolean):
        return chance.random() < 0.5
    if isinstance(kind, types.NoneType):
        return None
    numbers = shapes.FLOATS if isinstance(kind, types.Float) else INTS
    return chance.choice(numbers)


@given(SEEDS)
@settings(max_examples=300)
def test_answers(seed: int) -> None:
    chance, memory = random.Random(seed), Memory()
    kind = random_kind(chance)
    value = random_answer(chance, kind)
    made = memory.packed(answer_program(kind), memory.words_of(kind, value))
    assert made == packer()(value), (kind, value)


@given(SEEDS)
@settings(max_examples=100)
def test_rejections(seed: int) -> None:
    chance, memory = random.Random(seed), Memory()
    names = [f"name_{i}" * chance.choice([1, 9]) for i in range(chance.choice([0, 1, 2, 16]))]
    kinds = [random_kind(chance, 1) for _ in names]
    values = [random_answer(chance, kind) for kind in kinds]
    words = [w for pair in zip(kinds, values, strict=True) for w in memory.words_of(*pair)]
    code = chance.choice(["no", "no_such_account_of_anybody_anywhere"])
    made = memory.packed(rejection_program(code, names, kinds), words)
    error = Rejected(code, **dict(zip(names, values, strict=True)))
    assert (Kind.REJECTED, made) == failure(error, "call")


@pytest.mark.parametrize("count", [0, 15, 16, 65_535, 65_536])
def test_long_lists(count: int) -> None:
    memory = Memory()
    words = memory.words_of(ListType(types.boolean), [True] * count)
    assert memory.packed(answer_program(ListType(types.boolean)), words) == packer()([True] * count)


def test_rows() -> None:
    """Columns of every type and width, also those with values of any length."""
    with Bench(everything.app) as bench, bench.transaction() as db:
        made = [(db.owner, db.owner.insert(id=number, name="née")) for number in range(5)]
        for number in range(1, 200):
            long = {"note": "ab" * 40_000, "blob": bytes(70_000)} if number == 33 else {}
            row = db.thing.insert(**{**everything.row(number), "parent": None, **long})
            made.append((db.thing, row))
        words = db.space.words
        for table, row in made:
            kind = TableType(DbType("test", []), "test", table.layout).row
            program = np.array(answer_program(types.Optional(kind)))
            words[db.space.words[at.SCRATCH] + at.S_CALL_ANSWER :][:2] = 1, row._row
            room = np.zeros(300_000, np.uint8)
            stop = pack(program, 0, words, words[at.SCRATCH] + at.S_CALL_ANSWER, room, 0, len(room))
            assert room[:stop].tobytes() == packer()(row)


def test_what_can_not_leave_a_handler() -> None:
    with pytest.raises(TypeError):
        answer_program(types.unicode_type)
