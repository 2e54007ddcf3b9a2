"""Everything that an application's machine code depends on, as one hash: the key of its cache.

That is the files that its handlers are made of; what those handlers and their helpers refer to, by
value, since a constant may come from anywhere; its tables and parameters; the sources of Diptych
that compile it and that it calls; and the versions, the processor and the switches of what makes
code. A hash that differs without need costs a compilation, so in doubt something is in it.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from enum import Enum
from importlib import metadata
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import llvmlite
import numba
import numpy as np
from numba.core.registry import cpu_target

import diptych
from diptych.app import App, Operation
from diptych.sources import code_digest, code_text
from diptych.store import layout as layouts
from diptych.store.compiled.source import parsed

OWN_SOURCES = (
    *("app.py", "declarations.py", "errors.py", "kernel.py", "schema.py", "sources.py"),
    *("memory/*.py", "store/*.py", "store/compiled/*.py"),
)
"""What of Diptych decides about the code. A test compares it with the imports."""
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_KEPT_OUT = ("NUMBA_CACHE_DIR",)


def key_of(app: App, operations: Iterable[Operation]) -> str:
    """The hash, as hex digits, of what the code of these operations depends on."""
    chosen = list(operations)
    functions = [operation.function for operation in chosen]
    parts = [
        *_versions(),
        own_sources(Path(diptych.__file__).parent),
        code_digest(functions),
        layouts.of_app(app).schema.decode(),
        *(_plain(spec.columns, spec.indexes) for spec in app.tables.values()),
        *(_members(c.value.base) for spec in app.tables.values() for c in spec.columns),
        *(_plain(each.describe(), each.parameters, each.compiled) for each in chosen),
        *(_members(part) for each in chosen for part in _bases(each)),
        *referred(functions),
    ]
    found = hashlib.sha256()
    for part in parts:
        found.update(f"{len(part)} {part}\n".encode())
    return found.hexdigest()[:32]


def referred(functions: Iterable[Any]) -> Iterator[str]:
    """Descriptions of these functions and of all values that they refer to, with their helpers'."""
    waiting, seen = list(functions), set()
    while waiting:
        function = waiting.pop()
        if function in seen:
            continue
        seen.add(function)
        name = f"{function.__module__}.{function.__qualname__}"
        defaults = _plain(function.__defaults__, function.__kwdefaults__)
        tree = parsed(function)
        source = "" if tree is None else ast.unparse(tree)  # compiled code is made of that, too
        yield f"{name} {code_text(function.__code__)!r} {defaults} {source}"
        for called, value in outside(function, tree):
            yield f"{name} {called} {_described(value)}"
            if isinstance(value, FunctionType):
                waiting.append(value)


def outside(function: FunctionType, tree: ast.AST | None) -> Iterator[tuple[str, Any]]:
    """What names stand for in a function that come from outside of it, in modules, too."""
    written = ast.walk(tree) if tree is not None else ()
    hints = {node.id for node in written if isinstance(node, ast.Name)}  # of variables, too
    names = sorted({*function.__code__.co_names, *hints})
    given = {name: function.__globals__[name] for name in names if name in function.__globals__}
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    for name, cell in cells:
        with contextlib.suppress(ValueError):  # not assigned yet
            given[name] = cell.cell_contents
    waiting = sorted(given.items())
    while waiting:
        called, value = waiting.pop()
        yield called, value
        if isinstance(value, ModuleType) and called.count(".") < 8:
            found = ((name, getattr(value, name, None)) for name in names)
            waiting += [(f"{called}.{name}", each) for name, each in found if each is not None]


def _described(value: Any) -> str:
    """A value as far as compiled code can depend on it."""
    if isinstance(value, FunctionType):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, ModuleType):
        return f"module {value.__name__}"
    if isinstance(value, type):
        return _members(value)
    if value is None or isinstance(value, int | float | str | bytes | tuple):
        return _plain(type(value), value)
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _members(kind: Any) -> str:
    """A class with its members, if it is an enum, or its fields, if it is a NamedTuple."""
    found: list[Any] = [kind]
    if isinstance(kind, type) and issubclass(kind, Enum):
        found += [(name, member.value) for name, member in kind.__members__.items()]
    elif hasattr(kind, "_fields"):
        found += [kind._fields, kind._field_defaults, vars(kind).get("__annotations__")]
    return _plain(*found)


def _bases(operation: Operation) -> Iterator[Any]:
    """The classes of an operation's parameters, those of their parts, too."""
    waiting = [parameter.value for parameter in operation.parameters]
    while waiting:
        value = waiting.pop()
        yield value.base
        waiting += [*value.arguments, *(part for _, part in value.fields)]


def _plain(*values: Any) -> str:
    """Values as text that is the same in each process."""
    return _ADDRESS.sub("", repr(values))


def _versions() -> Iterator[str]:
    yield sys.version
    yield from (numba.__version__, llvmlite.__version__, np.__version__, diptych.__version__)
    yield metadata.version("msgpack")
    yield _plain(*cpu_target.target_context.codegen().magic_tuple())
    for name in sorted(os.environ):
        if name.startswith("NUMBA_") and name not in _KEPT_OUT:
            yield f"{name}={os.environ[name]}"


@functools.cache
def own_sources(package: Path) -> str:
    """A hash of Diptych's sources, taken once: those that run are the ones that were imported."""
    found = hashlib.sha256()
    for path in sorted(path for pattern in OWN_SOURCES for path in package.glob(pattern)):
        found.update(f"{path.relative_to(package)}\n".encode())
        found.update(path.read_bytes())
    return found.hexdigest()
