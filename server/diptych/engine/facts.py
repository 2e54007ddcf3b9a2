"""What must be equal for a command log to be run again with the same result, and what differs.

Facts are plain data, written into each file of the log as JSON: the application (its tables, its
transactions and the text of its code), the lane, the versions of what runs it, and of the machine
what decides the last bits of floats. The application's code is the files of its transactions and
whatever they import from beside them; libraries and Diptych itself count by their versions.

The text of a file is taken for the code that runs, so facts are made once, soon after the import:
a file may be edited while a server runs the code it had. Knows nothing of logs.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numba
import numpy as np

import diptych
from diptych.app import App
from diptych.errors import CorruptionError
from diptych.sources import code_digest, digest
from diptych.store import layout as layouts

FORMAT = 1
FLOATS = ("lane", "python", "numpy", "numba", "processor", "switches", "libc")
"""Facts on which the bits of a float may depend."""
SWITCHES = (
    *("GLIBC_TUNABLES", "NPY_DISABLE_CPU_FEATURES", "NPY_ENABLE_CPU_FEATURES"),
    *("NUMBA_CPU_FEATURES", "NUMBA_CPU_NAME", "OPENBLAS_CORETYPE"),
)
"""Environment variables that change which code numpy, Numba and the C library choose."""
_CPU_FEATURE = re.compile(r"(pni|s?sse|avx|amx|fma|f16c|popcnt|abm|bmi|movbe|asimd|sve|fphp)\w*")

Facts: TypeAlias = dict[str, Any]


def facts_of(app: App, lane: str, capacities: Mapping[str, int] | None = None) -> Facts:
    """The facts of this process, running `app` in `lane`. Errors: ConfigurationError, of capacities
    for tables that there are not.
    """
    tables = json.loads(layouts.of_app(app, capacities).schema)["tables"]
    transactions = [each for each in app.operations if each.kind == "transaction"]
    described = [each.describe() for each in transactions]
    asked = [[each[word] for word in ("number", "name", "parameters")] for each in described]
    return {
        "format": FORMAT,
        "app": app.name,
        "version": app.version,
        "tables": digest(json.dumps(tables, sort_keys=True)),
        "transactions": digest(json.dumps(asked, sort_keys=True, default=repr)),
        "code": code_digest([each.function for each in transactions]),
        "lane": lane,
        "diptych": diptych.__version__,
        "python": f"{platform.python_implementation()} {'.'.join(map(str, sys.version_info[:2]))}",
        "numpy": np.__version__,
        "numba": numba.__version__,
        "processor": [platform.machine(), *cpu_features(_cpuinfo())],
        "switches": {name: os.environ[name] for name in SWITCHES if name in os.environ},
        "libc": _libc(),
    }


def to_text(facts: Facts) -> str:
    """JSON: equal facts are equal text."""
    return json.dumps(facts, sort_keys=True, separators=(",", ":"))


def from_text(text: str) -> Facts:
    """Facts as `to_text` wrote them. Errors: CorruptionError."""
    try:
        facts = json.loads(text)
    except ValueError as error:
        raise CorruptionError(f"the facts of a log can't be read: {error}") from None
    if not isinstance(facts, dict):
        raise CorruptionError("the facts of a log are not a JSON object")
    return facts


def differences(stored: Facts, now: Facts) -> list[str]:
    """What of `stored` is otherwise now, in words; empty when a log of it can be run again."""
    told = []
    for name in [*_WORDS, *sorted((stored.keys() | now.keys()) - _WORDS.keys())]:
        before, after = stored.get(name), now.get(name)
        if before != after:
            word = _WORDS.get(name, name)
            told.append(word(before, after) if callable(word) else word.format(before, after))
    return told


def same_floats(stored: Facts, now: Facts) -> bool:
    """Whether the same code on the same numbers gives the same floats, to the last bit."""
    return all(stored.get(name) == now.get(name) for name in FLOATS)


def cpu_features(cpuinfo: str) -> list[str]:
    """Of the text of /proc/cpuinfo, the features that numeric libraries look at, sorted."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip().lower() in ("flags", "features"):
            return sorted({word for word in value.split() if _CPU_FEATURE.fullmatch(word)})
    return []


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def _libc() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):  # another C library
        return " ".join(platform.libc_ver())


def _processor(before: Any, after: Any) -> str:
    if not before or not after or before[0] != after[0]:
        return f"processor {(before or ['unknown'])[0]} -> {(after or ['unknown'])[0]}"
    gone, fresh = sorted({*before} - {*after}), sorted({*after} - {*before})
    told = [f"without {', '.join(gone)}"] * bool(gone) + [f"with {', '.join(fresh)}"] * bool(fresh)
    return f"processor, now {' and '.join(told)}"


def _switches(before: Any, after: Any) -> str:
    before, after = before or {}, after or {}
    names = sorted(n for n in before.keys() | after.keys() if before.get(n) != after.get(n))
    told = (f"{name} {before.get(name, '')!r} -> {after.get(name, '')!r}" for name in names)
    return f"environment: {', '.join(told)}"


_WORDS: Mapping[str, str | Callable[[Any, Any], str]] = {
    "format": "format of the facts {} -> {}",
    "app": "application {} -> {}",
    "version": "version {} -> {} of the application",
    "tables": "tables or their capacities",
    "transactions": "transactions' names, order or parameters",
    "code": "handlers' code",
    "lane": "lane {} -> {}",
    "diptych": "Diptych {} -> {}",
    "python": "{} -> {}",
    "numpy": "numpy {} -> {}",
    "numba": "Numba {} -> {}",
    "processor": _processor,
    "switches": _switches,
    "libc": "C library {} -> {}",
}
