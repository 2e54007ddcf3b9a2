"""What Numba says of a handler that it can't compile, as its author can use it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

from numba.core.errors import NumbaError

from diptych.store.compiled.source import place_of
from diptych.store.compiled.types import Refused


def explain(error: NumbaError, function: Callable[..., Any]) -> str:
    """Numba's error, or the refusal of ours that it grew from, in a line or two with the place."""
    where = place_of(function)
    refused, text = Refused.latest, str(error)
    places = re.findall(r'File "([^"]+)", line (\d+)', text)
    lines = [line for line in text.strip().splitlines() if not line.startswith("Failed in ")]
    message = lines[0] if lines else text
    if refused is not None and refused.message in text:
        message = refused.message
        if refused.where is not None:
            places = [(refused.where.filename, refused.where.line)]
    if places:
        where = f"{os.path.abspath(places[0][0])}:{places[0][1]}"
    return f"{where}: can't be compiled: {message}"
