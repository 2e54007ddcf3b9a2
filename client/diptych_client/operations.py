"""Operations as a WELCOME describes them: arguments bound and encoded, results decoded.

Knows: names, parameters with defaults, result types, rejection codes, MessagePack. Does not know
connections or frames. Argument values are checked only for what can be sent at all; types and
bounds are the server's to check, which answers BadArguments with the parameter's name.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

import msgpack

from diptych_client.errors import BadArguments, ProtocolError, UnknownOperation
from diptych_client.protocol import Kind
from diptych_client.types import Types, holds_any, type_text

_UNPACK_ERRORS = (ValueError, TypeError, RecursionError, msgpack.UnpackException)


class Parameter(NamedTuple):
    """One parameter. `default` means something only where `required` is false."""

    name: str
    type: str
    required: bool
    default: Any = None

    def __str__(self) -> str:
        text = f"{self.name}: {self.type}"
        return text if self.required else f"{text} = {self.default!r}"


class Operation:
    """A transaction or a query of the application that a client is connected to.

    `name`, `number`, `kind` (Kind.TRANSACTION or Kind.QUERY), `parameters`, `result` (its type as
    text), `codes` (what it may reject with) and `doc` describe it; str() is its signature.
    """

    __slots__ = (
        "_pack",
        "_rebuild",
        "_required_count",
        "_use_list",
        "codes",
        "doc",
        "kind",
        "name",
        "number",
        "parameters",
        "result",
    )

    def __init__(
        self, described: Mapping[str, Any], types: Types, pack: Callable[[Any], bytes]
    ) -> None:
        self.name: str = described["name"]
        self.number: int = described["number"]
        self.kind = Kind[described["kind"].upper()]
        if self.kind not in (Kind.TRANSACTION, Kind.QUERY):
            raise ValueError(described["kind"])
        self.parameters = tuple(
            Parameter(
                each["name"], type_text(each["type"]), "default" not in each, each.get("default")
            )
            for each in described["parameters"]
        )
        self.codes: tuple[str, ...] = tuple(described.get("codes", ()))
        self.doc: str = described.get("doc", "")
        self._rebuild = types.rebuild(described["result"])
        self.result = type_text(described["result"])
        # Arrays come as tuples, so that they can be keys of dicts, and become what the result's
        # type says; where it says nothing, lists are what people expect.
        self._use_list = holds_any(described["result"])
        self._required_count = sum(each.required for each in self.parameters)
        self._pack = pack

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(str, self.parameters))}) -> {self.result}"

    def __repr__(self) -> str:
        return f"<{self.kind.name.lower()} {self}>"

    def encode(self, arguments: Sequence[Any], named: Mapping[str, Any]) -> bytes:
        """The payload of a call. Raises BadArguments."""
        count = len(arguments)
        if named or not self._required_count <= count <= len(self.parameters):
            arguments = self._bind(arguments, named)
        try:
            return self._pack(arguments)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise self._blame(arguments, error) from None

    def decode(self, payload: bytes) -> Any:
        """The value of a RESULT's payload. Raises ProtocolError."""
        try:
            value = msgpack.unpackb(payload, use_list=self._use_list, strict_map_key=False)
            return value if self._rebuild is None else self._rebuild(value)
        except (*_UNPACK_ERRORS, AttributeError) as error:
            raise ProtocolError(
                f"the result of {self.name} is no {self.result}: {error}"
            ) from error

    def _bind(self, arguments: Sequence[Any], named: Mapping[str, Any]) -> Sequence[Any]:
        if len(arguments) > len(self.parameters):
            raise BadArguments(
                f"{self.name} takes at most {len(self.parameters)} arguments,"
                f" {len(arguments)} were given"
            )
        values = list(arguments)
        given_count = len(values)
        unused = dict(named)
        for parameter in self.parameters[len(values) :]:
            if parameter.name in unused:
                values.append(unused.pop(parameter.name))
                given_count = len(values)
            elif parameter.required:
                raise BadArguments(f"{self.name} needs {parameter.name!r}", parameter.name)
            else:
                values.append(parameter.default)
        for name in unused:
            if any(parameter.name == name for parameter in self.parameters):
                raise BadArguments(f"{self.name} got two values for {name!r}", name)
            near = suggestion(name, [parameter.name for parameter in self.parameters])
            raise BadArguments(f"{self.name} has no parameter {name!r}{near}", name)
        # Defaults at the end stay out: then they are the server's, also after it changed them.
        return values[:given_count]

    def _blame(self, arguments: Sequence[Any], error: Exception) -> BadArguments:
        for parameter, value in zip(self.parameters, arguments, strict=False):
            try:
                self._pack(value)
            except (TypeError, ValueError, OverflowError, RecursionError) as own:
                return BadArguments(
                    f"{self.name} can't send {parameter.name!r}: {own}", parameter.name
                )
        return BadArguments(f"{self.name} can't send its arguments: {error}")


def read_operations(described: Any) -> dict[str, Operation]:
    """The operations of a WELCOME by name. Raises ProtocolError."""
    types = Types()
    pack = packer()
    try:
        operations = [Operation(each, types, pack) for each in described]
        return {operation.name: operation for operation in operations}
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ProtocolError(f"operations without meaning in WELCOME: {error!r}") from error


def unpack(payload: bytes) -> Any:
    """Decode a payload that is no operation's result. Raises ProtocolError."""
    try:
        return msgpack.unpackb(payload, strict_map_key=False)
    except _UNPACK_ERRORS as error:
        raise ProtocolError(f"a payload that is no MessagePack: {error}") from error


def packer() -> Callable[[Any], bytes]:
    """A function that encodes one value; not to be called from two threads at once."""
    pack: Callable[[Any], bytes] = msgpack.Packer(default=_as_int, buf_size=64 << 10).pack
    return pack


def unknown_operation(name: str, operations: Mapping[str, Operation]) -> UnknownOperation:
    near = suggestion(name, operations)
    return UnknownOperation(f"no operation {name!r}{near}")


def suggestion(name: str, names: Iterable[str]) -> str:
    """ "; did you mean ...?" when one of `names` is near, else nothing."""
    near = get_close_matches(name, list(names), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _as_int(value: Any) -> int:
    """What MessagePack does not know but says it is a whole number (numpy's ints) goes as one."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{type(value).__name__} has no form on the wire") from None
