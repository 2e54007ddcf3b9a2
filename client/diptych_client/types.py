"""Types as a WELCOME describes them: their text for people, and values rebuilt from plain data.

Knows: the description language of docs/protocol.md ("int", {"list": ...}, {"record": ...} and so
on) and how a decoded payload becomes the value a caller expects: lists, tuples, dicts, members of
an IntEnum, NamedTuples, under the names the application gave them. Record and enum classes are
made once per name. Does not know operations, frames or MessagePack.

Plain values are handed through unchecked: the server is trusted to send what it declares; a value
of another shape (a record of the wrong length) raises TypeError or ValueError.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from enum import IntEnum
from typing import Any, TypeAlias, cast

from diptych_client.errors import ProtocolError

Rebuild: TypeAlias = Callable[[Any], Any]
PLAIN = frozenset({"int", "float", "bool", "str", "bytes", "none", "any"})


class Types:
    """The record and enum classes of one application, and what they are made from."""

    __slots__ = ("_enums", "_records")

    def __init__(self) -> None:
        self._records: dict[str, tuple[Any, Rebuild]] = {}
        self._enums: dict[str, tuple[Any, Rebuild]] = {}

    def rebuild(self, described: Any) -> Rebuild | None:
        """How to rebuild a value of this type; None: it is right as it comes.

        Raises ProtocolError when the description has no meaning.
        """
        if isinstance(described, str) and described in PLAIN:
            return None
        try:
            ((form, inner),) = described.items()
            return self._rebuild_form(form, inner)
        except ProtocolError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise ProtocolError(f"no type description: {described!r:.200}") from error

    def _rebuild_form(self, form: str, inner: Any) -> Rebuild | None:
        if form == "optional":
            return _optional(self.rebuild(inner))
        if form == "list":
            return _list(self.rebuild(inner))
        if form == "tuple":
            return _tuple(tuple(self.rebuild(each) for each in inner))
        if form == "dict":
            of_key, of_value = inner
            return _dict(self.rebuild(of_key), self.rebuild(of_value))
        if form == "enum":
            name, members = inner
            return self._once(self._enums, name, members, _enum)
        if form == "record":
            name, fields = inner
            return self._once(self._records, name, fields, self._record)
        raise KeyError(form)

    def _once(
        self,
        known: dict[str, tuple[Any, Rebuild]],
        name: str,
        content: Any,
        make: Callable[[str, Any], Rebuild],
    ) -> Rebuild:
        if name not in known or known[name][0] != content:
            known[name] = (content, make(name, content))
        return known[name][1]

    def _record(self, name: str, fields: list[tuple[str, Any]]) -> Rebuild:
        # rename: a field no Python name can have (from a future server) is reached by position.
        cls = cast("Any", namedtuple)(name, [field for field, _ in fields], rename=True)
        parts = tuple(self.rebuild(described) for _, described in fields)
        make = cast("Rebuild", cls._make)
        if not any(parts):
            return lambda value: make(_array(value))
        rebuild_parts = _tuple(parts)
        return lambda value: make(rebuild_parts(value))


def type_text(described: Any) -> str:
    """The type as Python would write it: "list[Level]", "int | None"."""
    if isinstance(described, str):
        return "None" if described == "none" else described
    ((form, inner),) = described.items()
    if form == "optional":
        return f"{type_text(inner)} | None"
    if form == "list":
        return f"list[{type_text(inner)}]"
    if form in ("tuple", "dict"):
        return f"{form}[{', '.join(type_text(each) for each in inner)}]"
    return str(inner[0])


def holds_any(described: Any) -> bool:
    """Whether values of this type contain data without a declared shape."""
    if isinstance(described, str):
        return described == "any"
    ((form, inner),) = described.items()
    if form in ("optional", "list"):
        return holds_any(inner)
    if form in ("tuple", "dict"):
        return any(holds_any(each) for each in inner)
    return form == "record" and any(holds_any(each) for _, each in inner[1])


def _array(value: Any) -> list[Any] | tuple[Any, ...]:
    # A text is iterable too; taking it for an array would turn a wrong value into a wrong result.
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"an array was declared, {type(value).__name__} came")
    return value


def _optional(inner: Rebuild | None) -> Rebuild | None:
    if inner is None:
        return None
    return lambda value: None if value is None else inner(value)


def _list(inner: Rebuild | None) -> Rebuild:
    if inner is None:
        return lambda value: list(_array(value))
    return lambda value: [inner(each) for each in _array(value)]


def _tuple(parts: tuple[Rebuild | None, ...]) -> Rebuild:
    def rebuild(value: Any) -> tuple[Any, ...]:
        return tuple(
            each if part is None else part(each)
            for part, each in zip(parts, _array(value), strict=True)
        )

    def check(value: Any) -> tuple[Any, ...]:
        if len(_array(value)) != len(parts):
            raise TypeError(f"{len(parts)} values were declared, {len(value)} came")
        return tuple(value)

    return rebuild if any(parts) else check


def _dict(of_key: Rebuild | None, of_value: Rebuild | None) -> Rebuild | None:
    if of_key is None and of_value is None:
        return None

    def rebuild(value: Any) -> dict[Any, Any]:
        return {
            (key if of_key is None else of_key(key)): (each if of_value is None else of_value(each))
            for key, each in value.items()
        }

    return rebuild


def _enum(name: str, members: dict[str, int]) -> Rebuild:
    cls = cast("Any", IntEnum)(name, members)
    by_value = {int(member): member for member in cls}
    # A value without a member stays the int it is: a newer server may know more of them.
    return lambda value: by_value.get(value, value)
