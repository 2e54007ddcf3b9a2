"""Arguments of a call, checked before its handler runs.

`binder(operation)` makes a function from the decoded payload (a list) to the handler's arguments.
It is generated as source, one line a parameter, since it runs for every call. What does not fit
raises `BadArguments`, which names the parameter. Knows declarations; knows neither frames nor
memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import NoneType
from typing import Any

from diptych.app import Operation, Parameter
from diptych.errors import DeclarationError
from diptych.schema import (
    INT_MAX,
    INT_MIN,
    MISSING,
    Bits,
    Data,
    ValueType,
    int_bounds,
    plain_default,
)
from diptych_client.errors import BadArguments

Check = Callable[[Any], Any]
SHOWN_CHARACTERS_MAX = 60
SHORT_END = (2 - 2**-24) * 2.0**127
"""Where numbers begin that are nearer to infinity than to the largest float of 32 bits."""


def binder(operation: Operation) -> Callable[[list[Any]], list[Any]]:
    """The function that checks a call's arguments and fills in defaults. Errors: BadArguments."""
    parameters = operation.parameters
    known: dict[str, Any] = {}
    lines = []
    for i, parameter in enumerate(parameters):
        known[f"check_{i}"] = checker(parameter.value, parameter.name)
        if parameter.value.is_enum and not parameter.value.optional:
            known[f"members_{i}"] = {int(member): member for member in parameter.value.base}
            lines.append(f"    m = members_{i}.get(a{i}) if type(a{i}) is int else None\n")
            lines.append(f"    a{i} = check_{i}(a{i}) if m is None else m\n")
        else:
            quick = _quick_test(parameter.value, f"a{i}")
            lines.append(f"    {quick}a{i} = check_{i}(a{i})\n")
    known["complete"] = _completer(operation)
    names = "".join(f"a{i}, " for i in range(len(parameters)))
    source = (
        "def bind(values):\n"
        f"    if type(values) is not list or len(values) != {len(parameters)}:\n"
        "        values = complete(values)\n"
        + (f"    {names}= values\n" if names else "")
        + "".join(lines)
        + f"    return [{names}]\n"
    )
    exec(compile(source, f"<arguments of {operation.name}>", "exec"), known)
    bound: Callable[[list[Any]], list[Any]] = known["bind"]
    return bound


def checker(value: ValueType, name: str) -> Check:
    """The function that checks one argument and returns what the handler gets."""
    check = _plain_checker(value, name)
    if not value.optional:
        return check
    return lambda given: None if given is None else check(given)


def _quick_test(value: ValueType, name: str) -> str:
    """Source of a test that lets the most common good values pass without a call."""
    if value.optional:
        return f"if {name} is not None: "
    if value.base is bool:
        return f"if {name} is not True and {name} is not False: "
    if value.base is int:
        low, high = _bounds(value)
        # MessagePack holds nothing below 64 signed bits, so one comparison is enough there.
        bounds = f"{low} <= {name} <= {high}" if low > INT_MIN else f"{name} <= {high}"
        return f"if type({name}) is not int or not {bounds}: "
    if value.base is str and value.text is None:
        return f"if type({name}) is not str: "
    if value.base is str and value.text is not None:
        fits = f"len({name}) <= {value.text.size_bytes} and {name}.isascii()"
        return f"if type({name}) is not str or not ({fits}) or '\\0' in {name}: "
    return ""


def _bounds(value: ValueType) -> tuple[int, int]:
    low, high = INT_MIN, INT_MAX
    if value.bits is not None:
        low, high = int_bounds(value.bits)
    if value.between is None:
        return low, high
    return max(low, int(value.between.low)), min(high, int(value.between.high))


def _completer(operation: Operation) -> Callable[[Any], list[Any]]:
    parameters = operation.parameters
    required = sum(parameter.default is MISSING for parameter in parameters)
    # Defaults go through the same checks as what a client sends, so they are given as it would.
    defaults = [_default(operation, p) for p in parameters[required:]]

    def complete(values: Any) -> list[Any]:
        if not isinstance(values, list):
            raise BadArguments(f"{operation.name}: arguments are sent as an array")
        if len(values) > len(parameters):
            raise BadArguments(
                f"{operation.name} takes {len(parameters)} arguments at most, not {len(values)}"
            )
        if len(values) < required:
            missing = parameters[len(values)].name
            raise BadArguments(f"{operation.name}: {missing} is missing", missing)
        return values + defaults[len(values) - required :]

    return complete


def _default(operation: Operation, parameter: Parameter) -> Any:
    given = plain_default(parameter.default, parameter.name)
    try:
        checker(parameter.value, parameter.name)(given)
    except BadArguments as bad:
        raise DeclarationError(f"{operation.name}: the default does not fit: {bad}") from None
    return given


def _plain_checker(value: ValueType, name: str) -> Check:
    if value.is_enum:
        return _enum_checker(value, name)
    if value.is_record:
        return _record_checker(value, name)
    if value.base is int:
        return _int_checker(value, name)
    if value.base is str:
        return _text_checker(value, name)
    if value.base is float:
        return _float_checker(value, name)
    if value.base in (list, tuple):
        return _list_checker(value, name)
    if value.base is dict:
        return _map_checker(value, name)
    if value.data is not None:
        return _data_checker(value.data, name)
    if value.base in (bool, bytes, NoneType):
        return _type_checker(value, name)
    return lambda given: given


def _bad(name: str, given: Any, wanted: str) -> BadArguments:
    shown = repr(given)
    if len(shown) > SHOWN_CHARACTERS_MAX:
        shown = shown[: SHOWN_CHARACTERS_MAX - 3] + "..."
    return BadArguments(f"{name} must be {wanted}, not {shown}", name)


def _enum_checker(value: ValueType, name: str) -> Check:
    members = {int(member): member for member in value.base}
    wanted = "one of " + ", ".join(f"{int(m)} ({m.name})" for m in value.base)

    def check(given: Any) -> Any:
        if type(given) is not int or given not in members:
            raise _bad(name, given, wanted)
        return members[given]

    return check


def _int_checker(value: ValueType, name: str) -> Check:
    low, high = _bounds(value)
    wanted = "an int" if (low, high) == (INT_MIN, INT_MAX) else f"an int from {low} to {high}"

    def check(given: Any) -> int:
        if type(given) is not int or not low <= given <= high:
            raise _bad(name, given, wanted)
        return given

    return check


def _text_checker(value: ValueType, name: str) -> Check:
    size = value.text.size_bytes if value.text else None
    wanted = "text" if size is None else f"text of at most {size} bytes without a zero character"

    def check(given: Any) -> str:
        if type(given) is not str:
            raise _bad(name, given, wanted)
        if size is not None:
            try:
                fits = len(given.encode()) <= size and "\0" not in given
            except UnicodeEncodeError:
                fits = False
            if not fits:
                raise _bad(name, given, wanted)
        return given

    return check


def _float_checker(value: ValueType, name: str) -> Check:
    bounds, is_short = value.between, value.bits == Bits(32)

    def check(given: Any) -> float:
        if type(given) is not float and type(given) is not int:
            raise _bad(name, given, "a number")
        if bounds is not None and not bounds.low <= given <= bounds.high:
            raise _bad(name, given, f"a number from {bounds.low} to {bounds.high}")
        if is_short and SHORT_END <= abs(given) < math.inf:
            raise _bad(name, given, "a number that 32 bits can hold")
        return float(given)

    return check


def _list_checker(value: ValueType, name: str) -> Check:
    fixed = value.base is tuple and not value.repeated
    inner = [checker(argument, f"{name}[]") for argument in value.arguments]
    low, high = (value.items.low, value.items.high) if value.items else (0, None)

    def check(given: Any) -> Any:
        if not isinstance(given, list):
            raise _bad(name, given, "an array")
        if len(given) < low or (high is not None and len(given) > high):
            raise _bad(name, given, f"an array of {low} to {high} items")
        if fixed:
            if len(given) != len(inner):
                raise _bad(name, given, f"an array of {len(inner)} items")
            return tuple(test(item) for test, item in zip(inner, given, strict=True))
        made = [inner[0](item) for item in given]
        return tuple(made) if value.base is tuple else made

    return check


def _record_checker(value: ValueType, name: str) -> Check:
    checks = [checker(inner, f"{name}.{field}") for field, inner in value.fields]
    fields = ", ".join(field for field, _ in value.fields)

    def check(given: Any) -> Any:
        if not isinstance(given, list) or len(given) != len(checks):
            raise _bad(name, given, f"an array of ({fields})")
        return value.base(*(test(item) for test, item in zip(checks, given, strict=True)))

    return check


def _map_checker(value: ValueType, name: str) -> Check:
    check_key, check_value = (checker(inner, f"{name}{{}}") for inner in value.arguments)

    def check(given: Any) -> Any:
        if type(given) is not dict:
            raise _bad(name, given, "a map")
        return {check_key(key): check_value(item) for key, item in given.items()}

    return check


def _data_checker(data: Data, name: str) -> Check:
    size = data.size_bytes

    def check(given: Any) -> bytes:
        if type(given) is not bytes or len(given) != size:
            raise _bad(name, given, f"exactly {size} bytes")
        return given

    return check


def _type_checker(value: ValueType, name: str) -> Check:
    wanted = {bool: "true or false", bytes: "bytes", NoneType: "nil"}[value.base]

    def check(given: Any) -> Any:
        if type(given) is not value.base:
            raise _bad(name, given, wanted)
        return given

    return check
