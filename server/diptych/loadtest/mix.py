"""What a load test calls: a mix, made by a Python function or from words on the command line.

A mix yields calls, `(operation, arguments)`, for each connection a stream of its own. Where an
argument is only known from an earlier reply (an order's number, to cancel it) the mix yields
`ResultOf(n)`: the result, or its first element, of the n-th call of the same stream. The load
fills it in while it sends, without waking the mix: a callback for each reply would cost more than
the call itself. Knows nothing of frames or sockets.
"""

from __future__ import annotations

import importlib
import json
import random
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

Call: TypeAlias = tuple[str, tuple[Any, ...]]

_RANGE = re.compile(r"^(-?\d+)\.\.(-?\d+)$")


class MixError(Exception):
    """A mix can't be found, or yields something that is no call."""


class ResultOf(NamedTuple):
    """An argument: the int that call number `call` of this stream, counted from 0, returned.

    Of a result that is a list or a record its first element; 0 when that call was refused, is not
    answered yet, or returned something else.
    """

    call: int


@runtime_checkable
class Mix(Protocol):
    """`setup` runs once, `calls` go round and round, `queries` on connections of their own."""

    def setup(self) -> Iterable[Call]: ...
    def calls(self, connection: int) -> Iterable[Call]: ...
    def queries(self, connection: int) -> Iterable[Call]: ...


class FunctionMix:
    """A mix from plain functions: connection number in, calls out."""

    def __init__(
        self,
        calls: Callable[[int], Iterable[Call]] | None = None,
        queries: Callable[[int], Iterable[Call]] | None = None,
    ) -> None:
        self._calls = calls
        self._queries = queries

    def setup(self) -> Iterable[Call]:
        return ()

    def calls(self, connection: int) -> Iterable[Call]:
        return self._calls(connection) if self._calls is not None else ()

    def queries(self, connection: int) -> Iterable[Call]:
        return self._queries(connection) if self._queries is not None else ()


def load_mix(reference: str) -> Mix:
    """The mix that `module:name` names: a Mix, a class of one, or `(connection) -> calls`.

    Errors: MixError.
    """
    module_name, colon, name = reference.partition(":")
    if not colon or not name:
        raise MixError(f"{reference!r} is not of the form module:name")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except ModuleNotFoundError as error:
        raise MixError(f"{reference!r}: {error}") from error
    except AttributeError:
        raise MixError(f"{reference!r}: module {module_name!r} has no {name!r}") from None
    made = found() if isinstance(found, type) else found
    if isinstance(made, Mix):
        return made
    if callable(made):
        return FunctionMix(made)
    raise MixError(f"{reference!r} is neither a mix nor a function that yields calls")


def mix_of_texts(
    calls: Iterable[tuple[str, float]], queries: Iterable[tuple[str, float]] = ()
) -> Mix:
    """A mix of weighted calls in words: `transfer 1..100 1..100 5`.

    Arguments are JSON where they parse as such and text otherwise; `1..100` is an int drawn anew
    for each call, both ends included, the same in every run. Errors: MixError.
    """
    return FunctionMix(_drawn(list(calls)), _drawn(list(queries)))


def _drawn(texts: list[tuple[str, float]]) -> Callable[[int], Iterable[Call]] | None:
    if not texts:
        return None
    templates = [_template(text) for text, _ in texts]
    weights = [weight for _, weight in texts]

    def calls(connection: int) -> Iterator[Call]:
        source = random.Random(f"loadtest/{connection}")
        while True:
            operation, arguments = source.choices(templates, weights)[0]
            yield (
                operation,
                tuple(
                    source.randint(argument.start, argument.stop - 1)
                    if isinstance(argument, range)
                    else argument
                    for argument in arguments
                ),
            )

    return calls


def _template(text: str) -> tuple[str, list[Any]]:
    """Operation and arguments; a `range` stands for an int to be drawn."""
    try:
        operation, *words = shlex.split(text)
    except ValueError as error:
        raise MixError(f"{text!r}: {error or 'no operation'}") from error
    return operation, [_argument(word) for word in words]


def _argument(word: str) -> Any:
    if limits := _RANGE.match(word):
        low, high = int(limits[1]), int(limits[2])
        if low > high:
            raise MixError(f"{word!r} is an empty range")
        return range(low, high + 1)
    try:
        return json.loads(word)
    except json.JSONDecodeError:
        return word
