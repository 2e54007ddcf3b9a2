"""What a record of the log says, for people and their tools: frames, names, arguments, causes.

Sound records may hold garbage: what a client sent is logged before anybody looks at it. So nothing
here fails over a payload, and what is shown of one has a bound. Changes nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np

from diptych.app import App
from diptych.durable import Kind, Record
from diptych.engine.causes import Cause
from diptych.engine.framing import starts_of
from diptych.engine.requests import split_key
from diptych.engine.system import (
    SYSTEM_FIRST,
    gateway_transactions,
    questions,
    system_transactions,
)
from diptych_client import protocol
from diptych_client.errors import DiptychError

SHOWN_CHARACTERS_MAX = 400
"""Of the arguments of a call."""
_BYTES_SHOWN = 24


@dataclass(frozen=True)
class LoggedFrame:
    """A transaction as it came. `session` 0: none; `key`: of the caller's own, None without one.

    `at`: its place among the frames of its record.
    """

    sequence: int
    at: int
    kind: int
    operation: int
    request: int
    session: int
    connection: int
    key: bytes | None
    payload: bytes

    def arguments(self) -> Any:
        """The payload decoded. Errors: ValueError."""
        try:
            return msgpack.unpackb(self.payload, strict_map_key=False)
        except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
            raise ValueError(f"no msgpack: {error}") from None


def frames_of(record: Record) -> Iterator[LoggedFrame]:
    """Those of a BATCH record, in order; of others there are none."""
    if record.kind is not Kind.BATCH:
        return
    starts = starts_of(np.frombuffer(record.payload, np.uint8), record.count).tolist()
    for at, (start, stop) in enumerate(itertools.pairwise(starts)):
        header = protocol.Header.read(record.payload, start)
        payload = bytes(record.payload[start + protocol.HEADER_BYTES : stop])
        key = None
        if header.kind == protocol.Kind.KEYED:
            with contextlib.suppress(DiptychError):  # garbage is shown as it is
                key, rest = split_key(memoryview(payload))
                payload = bytes(rest)
        yield LoggedFrame(
            record.first + at,
            at,
            header.kind,
            header.operation,
            header.request,
            header.sequence,
            header.context,
            key,
            payload,
        )


class Names:
    """Of operations by number: the system's, and with an application its own."""

    def __init__(self, app: App | None = None) -> None:
        system = [*system_transactions(None), *gateway_transactions(None), *questions(None)]
        self._names = {operation.number: operation.name for operation in system}
        self._parameters: dict[int, list[str]] = {
            operation.number: [each.name for each in operation.parameters] for operation in system
        }
        for operation in app.operations if app is not None else ():
            self._names[operation.number] = operation.name
            self._parameters[operation.number] = [each.name for each in operation.parameters]

    def of(self, number: int) -> str:
        """The name, or the number with a sign that it is one."""
        return self._names.get(number, f"#{number}")

    def is_system(self, number: int) -> bool:
        return number >= SYSTEM_FIRST and number in self._names

    def call(self, frame: LoggedFrame) -> str:
        """The frame as a call is written, its arguments cut to a bound."""
        try:
            values = frame.arguments()
        except ValueError as error:
            return f"{self.of(frame.operation)}(?): {shown(frame.payload)}, {error}"
        if isinstance(values, list):
            told = ", ".join(self._named(frame.operation, values))
        else:
            told = shown(values)
        return f"{self.of(frame.operation)}({cut(told)})"

    def _named(self, number: int, values: list[Any]) -> list[str]:
        names = self._parameters.get(number, [])
        if len(names) < len(values):
            return [shown(value) for value in values]
        named = zip(names[: len(values)], values, strict=True)
        return [f"{name}={shown(value)}" for name, value in named]


def described(record: Record, names: Names) -> dict[str, Any]:
    """A record as plain data for JSON."""
    told: dict[str, Any] = {
        "record": record.number,
        "kind": record.kind.name,
        "file": record.segment.path.name,
        "offset": record.offset,
        "history": record.history,
        "time_ns": record.time_ns,
        "durable_through": record.durable_through,
    }
    if record.kind is Kind.BATCH:
        told |= {"first": record.first, "last": record.last, "outcome_before": record.outcome}
        told["transactions"] = [_frame(frame, names) for frame in frames_of(record)]
    if record.kind is Kind.ABORTS:
        told["aborts"] = [
            {"sequence": sequence, "cause": cause_name(cause)} for sequence, cause in record.aborts
        ]
    return told


def cause_name(cause: int) -> str:
    return Cause(cause).name if cause in list(Cause) else str(cause)


def shown(value: Any) -> str:
    """A value as text, bytes by their beginning."""
    if isinstance(value, bytes) and len(value) > _BYTES_SHOWN:
        return f"{value[:_BYTES_SHOWN]!r}... {len(value)} bytes"
    return cut(repr(value))


def cut(text: str) -> str:
    if len(text) <= SHOWN_CHARACTERS_MAX:
        return text
    return f"{text[:SHOWN_CHARACTERS_MAX]}... {len(text)} characters"


def _frame(frame: LoggedFrame, names: Names) -> dict[str, Any]:
    told: dict[str, Any] = {
        "sequence": frame.sequence,
        "operation": names.of(frame.operation),
        "number": frame.operation,
        "session": frame.session,
        "request": frame.request,
    }
    if frame.key is not None:
        told["key"] = frame.key.decode(errors="replace")
    try:
        told["arguments"] = _for_json(frame.arguments())
    except ValueError:
        told["garbage"] = shown(frame.payload)
    return told


def _for_json(value: Any) -> Any:
    """The value if it is plain and short, else text."""
    with contextlib.suppress(TypeError, ValueError, RecursionError):
        if len(json.dumps(value, allow_nan=False)) <= SHOWN_CHARACTERS_MAX:
            return value
    if isinstance(value, list) and len(value) <= _BYTES_SHOWN:
        return [each if isinstance(each, int | bool | None) else shown(each) for each in value]
    return shown(value)
