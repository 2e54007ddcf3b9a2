"""What Numba says of a handler that it can't compile, as the handler's author can use it.

Refusals of ours say what to write instead. What Numba refuses by itself is told in its words where
they are clear, and in ours where they speak of its own types and functions.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

from numba.core.errors import NumbaError

from diptych.store.compiled.source import place_of
from diptych.store.compiled.types import Refused

INTERPRETED = "or leave this handler interpreted: compiled=False"
_SAID: tuple[tuple[str, str], ...] = (
    (
        r"Unknown attribute '(\w+)' of type (?:text|data|Literal\[str\])\S*",
        r"text has no {1}() in compiled code; compare it, assign it and pass it on, " + INTERPRETED,
    ),
    (
        r"Unknown attribute '(\w+)' of type (\S+)",
        r"{2} has no {1} in compiled code; write it with operators, " + INTERPRETED,
    ),
    (
        r"failed to unpack Row\(.*",
        "a row can't be taken apart; read its columns by name",
    ),
    (
        r"Can't unify return type from the following types: (.*)",
        "it returns values of different types ({1}); return one type, a tuple or None",
    ),
    (
        r"Invalid use of getiter with parameters \((.*)\)",
        "{1} can't be walked; walk a table, an index's range, a list or range()",
    ),
    (
        r"Cannot bind 'args=.*' to signature '(.*)' due to \"TypeError: (.*)\"\.?",
        "the call does not fit {1}: {2}",
    ),
    (
        r"No implementation of function Function\(<built-in function setitem>\).*",
        "items can't be assigned; use insert() for rows, and columns by name",
    ),
    (
        r"No implementation of function Function\(<built-in function getitem>\).*",
        "this can't be indexed in compiled code; tuples of different types take literal indexes",
    ),
    (
        r"No implementation of function Function\(<(?:class|built-in function) '?(\w+)'?>\).*",
        "{1}() of these values is not compiled; write it with operators, " + INTERPRETED,
    ),
)


def explain(error: NumbaError, function: Callable[..., Any]) -> str:
    """Numba's error, or the refusal of ours that it grew from, in a line or two with the place."""
    where = place_of(function)
    refused, text = Refused.latest, str(error)
    places = re.findall(r'File "([^"]+)", line (\d+)', text)
    lines = [line for line in text.strip().splitlines() if not line.startswith("Failed in ")]
    message = _spoken(lines[0] if lines else text)
    if refused is not None and refused.message in text:
        message = refused.message
        if refused.where is not None:
            places = [(refused.where.filename, refused.where.line)]
    if places and os.path.exists(places[0][0]):
        where = f"{os.path.abspath(places[0][0])}:{places[0][1]}"
    return f"{where}: can't be compiled: {message}"


def _spoken(message: str) -> str:
    """A message of Numba's, in our words where those are clearer."""
    for pattern, said in _SAID:
        found = re.fullmatch(pattern, message)
        if found is not None:
            return said.format("", *(_plain(part) for part in found.groups()))
    return message


def _plain(part: str) -> str:
    """Types as Python names them, and literals as they are written."""
    part = re.sub(r"Literal\[\w+\]\(([^)]*)\)", r"\1", part)
    return part.replace("int64", "int").replace("float64", "float")
