"""Random parameters and payloads for them: good ones, nearly good ones, and rubbish."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Sequence
from enum import IntEnum
from types import NoneType
from typing import Any, NamedTuple

import msgpack

from diptych.app import Operation, Parameter
from diptych.schema import MISSING, Between, Bits, Data, Items, Text, ValueType


class Side(IntEnum):
    BUY = 1
    SELL = 2


class Code(IntEnum):
    FEW = -7
    SOME = 300
    MANY = 2**40


class Pair(NamedTuple):
    left: Any
    right: Any


INTS = [
    0,
    1,
    2,
    -1,
    31,
    -32,
    -33,
    127,
    128,
    -128,
    -129,
    255,
    256,
    300,
    -32768,
    -32769,
    65535,
    65536,
]
INTS += [2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**32 - 1, 2**32, 2**53, 2**53 + 1, 2**40, -7]
INTS += [2**63 - 1, 2**63 - 513, -(2**63), 2**63, 2**63 + 1025, 2**64 - 1, 2**64 - 1025]
FLOATS = [0.0, -0.0, 1.0, -1.5, 0.1, 2.0**53, 2.0**63, -(2.0**63), 1e308, 5e-324, math.inf]
FLOATS += [
    -math.inf,
    math.nan,
    3.4028234663852886e38,
    3.4028235677973366e38,
    -3.4028235677973366e38,
]
FLOATS += [math.nextafter(3.4028235677973366e38, 0), 1e-46]
TEXTS = [
    "",
    "a",
    "ACME",
    "é",
    "12345678",
    "123456789",
    "1234567é",
    "日本語",
    "𝄞",
    "x\0",
    "\0",
    "\x7f",
]
TEXTS += ["seventeen bytes..", "\ud7ff\ue000", "\U0010ffff", "y" * 40, "\x80" * 20, "z" * 300]
BOUNDS: list[tuple[float, float]] = [
    *((0, 9), (-1.5, 2.5), (0.1, 0.1), (-math.inf, 0.0), (1, math.inf), (2**53 + 1, 2**54 + 3)),
    *((-(2**63) - 1, 2**63 + 1), (0, 2.0**53), (math.inf, math.inf), (2**70, 2**80), (0, 10**400)),
]
UNTOUCHED = -0x1234567
RUBBISH = b"\xc0\xc1\xc7\xc8\xc9\xd4\xd5\xd8\x80\x81\xde\xdf\x90\x91\x9f\xdc\xdd\xff\x00"


def random_value(chance: random.Random, depth: int = 2) -> ValueType:
    """What a parameter that is no list may be declared as."""
    if depth and chance.random() < 0.2:
        inner = tuple(random_value(chance, depth - 1) for _ in range(chance.randint(1, 3)))
        if len(inner) == 2 and chance.random() < 0.5:
            return ValueType(Pair, fields=(("left", inner[0]), ("right", inner[1])))
        return ValueType(tuple, optional=chance.random() < 0.2, arguments=inner)
    base = chance.choice([int, int, float, float, bool, str, bytes, Side, Code, NoneType])
    optional = base is not NoneType and chance.random() < 0.2
    between = bits = None
    if base is int and chance.random() < 0.5:
        between = Between(*sorted(chance.sample(INTS, 2)))
    if base is int and chance.random() < 0.3:
        bits = Bits(chance.choice([8, 16, 32, 64]), signed=chance.random() < 0.5)
    if base is float and chance.random() < 0.5:
        between = Between(*chance.choice(BOUNDS))
    if base is float and chance.random() < 0.3:
        bits = Bits(32)
    size = chance.choice([1, 3, 4, 7, 8, 9, 16, 17, 40])
    return ValueType(
        base,
        optional,
        text=Text(size) if base is str else None,
        data=Data(size) if base is bytes else None,
        between=between,
        bits=bits,
    )


def random_parameter(chance: random.Random) -> ValueType:
    """What any parameter may be declared as."""
    value = random_value(chance)
    if chance.random() < 0.8:
        return value
    low = chance.randint(0, 2)
    return ValueType(list, arguments=(value,), items=Items(low, low + chance.choice([0, 1, 3, 20])))


def operation_of(values: Sequence[ValueType], defaults: Sequence[Any] = ()) -> Operation:
    """An operation with these parameters, the last ones of which have defaults."""
    given = [MISSING] * (len(values) - len(defaults)) + list(defaults)
    parameters = [Parameter(f"p{i}", value, given[i]) for i, value in enumerate(values)]
    kind, result = "transaction", ValueType(NoneType)
    return Operation("call", 1, kind, print, True, tuple(parameters), result, (), "")


def random_argument(chance: random.Random, value: ValueType) -> Any:
    """Something to send for a parameter, most often what it is declared as."""
    if chance.random() < 0.02:
        return chance.choice([None, True, 1, 1.0, "", b"", [], {}, [1, [2]], {1: 2}])
    if value.optional and chance.random() < 0.3:
        return None
    if value.items is not None:
        count = chance.randint(value.items.low, value.items.high)
        count += chance.choice([0] * 20 + [1, -1])
        return [random_argument(chance, value.arguments[0]) for _ in range(count)]
    parts = [part for _, part in value.fields] or value.arguments
    if parts:
        return [random_argument(chance, part) for part in parts]
    if value.is_enum:
        return chance.choice([*map(int, value.base)] * 4 + [3, True])
    if value.between is not None and chance.random() < 0.6:
        low, high = value.between.low, value.between.high
        near = [low, high, low, high] if value.base is int else [*_near(low), *_near(high)]
        known = [each for each in near if not isinstance(each, int) or -(2**63) <= each < 2**64]
        return chance.choice(known or [0])
    if value.base is int:
        return chance.choice([chance.choice(INTS), chance.randint(-200, 200)])
    if value.base is float:
        return chance.choice([chance.choice(FLOATS), chance.choice(FLOATS), chance.choice(INTS)])
    if value.base is bool:
        return chance.random() < 0.5
    if value.text is not None:
        fit = [text for text in TEXTS if len(text.encode()) <= value.text.size_bytes]
        return chance.choice(chance.choice([fit, fit, TEXTS]))
    if value.data is not None:
        return chance.randbytes(value.data.size_bytes + chance.choice([0] * 20 + [1, -1]))
    return None


def _near(bound: float) -> list[Any]:
    """Numbers next to a bound, whole ones and others."""
    if not abs(bound) < 1e300:
        return [bound] if isinstance(bound, float) else [1.7e308]
    exact, whole = float(bound), int(bound)
    beside = [math.nextafter(exact, way) for way in (-math.inf, math.inf)]
    return [exact, *beside, whole - 1, whole, whole + 1]


def encoded(chance: random.Random, value: Any) -> bytes:
    """MessagePack of a value, now and then in more bytes than it takes."""
    if isinstance(value, list):
        return _headed(chance, len(value), 0x90, 16, (0xDC, 0xDD)) + b"".join(
            encoded(chance, item) for item in value
        )
    if isinstance(value, str):
        raw = value.encode("utf-8", "surrogatepass")
        return _headed(chance, len(raw), 0xA0, 32, (0xD9, 0xDA, 0xDB)) + raw
    if isinstance(value, bytes):
        return _headed(chance, len(value), 0, 0, (0xC4, 0xC5, 0xC6)) + value
    if isinstance(value, float) and chance.random() < 0.1:
        short = struct.unpack("<f", struct.pack("<f", math.nan))[0]
        return msgpack.packb(short if math.isnan(value) else value, use_single_float=abs(value) < 9)
    if type(value) is int and chance.random() < 0.1:
        codes = [(0xCC, ">B"), (0xCD, ">H"), (0xCE, ">I"), (0xCF, ">Q")]
        codes += [(0xD0, ">b"), (0xD1, ">h"), (0xD2, ">i"), (0xD3, ">q")]
        first, code = chance.choice(codes)
        try:
            return bytes([first]) + struct.pack(code, value)
        except struct.error:
            return msgpack.packb(value)
    return msgpack.packb(value)


def _headed(
    chance: random.Random, length: int, fixed: int, fixed_end: int, firsts: Sequence[int]
) -> bytes:
    """What stands before something of a length; the shortest form, or now and then a longer one."""
    forms = [bytes([fixed | length])] if length < fixed_end else []
    for first in firsts:
        size = 2 if first == 0xDC else 4 if first == 0xDD else 1 << (firsts.index(first))
        if length < 1 << (8 * size):
            forms.append(bytes([first]) + length.to_bytes(size, "big"))
    return chance.choice(forms) if chance.random() < 0.2 else forms[0]


def damaged(chance: random.Random, payload: bytes) -> bytes:
    """A payload with something changed, cut off, put in or appended."""
    at = chance.randrange(len(payload) + 1)
    match chance.randrange(5):
        case 0:
            return payload[:at]
        case 1:
            return payload[:at] + bytes([chance.choice(RUBBISH)]) + payload[at:]
        case 2:
            return payload[:at] + bytes([chance.randrange(256)]) + payload[at + 1 :]
        case 3:
            return payload + chance.choice([b"\0", b"\xc0", b"\x90"])
    return payload[:at] + chance.choice([b"\xdd\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff"])
