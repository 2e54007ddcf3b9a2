"""Driving a core without a socket: what a server would send goes in, its frames come out."""

from __future__ import annotations

from math import inf
from typing import Any

import msgpack
from tests.unit.client.fakes import welcome

from diptych_client.calls import Call
from diptych_client.core import Core
from diptych_client.protocol import PREAMBLE, Frame, FrameSplitter, Kind, encode_frame
from diptych_client.requests import keyed


def feed(core: Core, data: bytes) -> None:
    core.read_buffer()[: len(data)] = data
    core.received(len(data))


def connect(core: Core, **changes: Any) -> dict[str, Any]:
    """Open a connection and take a WELCOME; returns what HELLO said."""
    ((kind, *_, payload),) = FrameSplitter(1 << 16).feed(core.open())
    assert kind == Kind.HELLO
    feed(core, PREAMBLE + encode_frame(Kind.WELCOME, msgpack.packb(welcome(**changes))))
    hello: dict[str, Any] = msgpack.unpackb(payload)
    return hello


def start(core: Core, name: str, *arguments: Any, deadline: float = inf, **options: Any) -> Call:
    operation = core.operation(name)
    payload = operation.encode(arguments, {})
    return core.submit(operation.kind, operation, payload, deadline, **options)


def transaction(core: Core, deadline: float = inf, **options: Any) -> Call:
    return start(core, "echo", 1, deadline=deadline, **options)


def query(core: Core, deadline: float = inf, **options: Any) -> Call:
    return start(core, "depth", "AAPL", deadline=deadline, **options)


def sent(core: Core) -> list[Frame]:
    return FrameSplitter(1 << 20, preamble=False).feed(core.data_to_send())


def reply(core: Core, call: Call, value: Any = None, *, sequence: int = 0, age: int = 0) -> None:
    answer = encode_frame(
        Kind.RESULT, msgpack.packb(value), request=call.request, sequence=sequence, context=age
    )
    feed(core, answer)


def error(core: Core, request: int, code: str, **fields: Any) -> None:
    payload = msgpack.packb({"code": code, "message": "why", **fields})
    feed(core, encode_frame(Kind.ERROR, payload, request=request))


def with_key(core: Core, key: str, value: Any = 1, deadline: float = inf) -> Call:
    operation = core.operation("echo")
    payload = keyed(key, operation.encode((value,), {}))
    return core.submit(Kind.KEYED, operation, payload, deadline, named=key)
