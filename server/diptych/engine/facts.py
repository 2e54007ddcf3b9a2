"""What must be equal for a command log to be run again with the same result, and what differs.

Facts are plain data, written into each file of the log as JSON: the application (its tables, its
transactions and the text of its code), the lane, the versions of what runs it, and of the machine
what decides the last bits of floats. The application's code is the files of its transactions and
whatever they import from beside them; libraries and Diptych itself count by their versions.

The text of a file is taken for the code that runs, so facts are made once, soon after the import:
a file may be edited while a server runs the code it had. Knows nothing of logs.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import os
import platform
import re
import site
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any, TypeAlias

import numba
import numpy as np

import diptych
from diptych.app import App
from diptych.errors import CorruptionError
from diptych.store import layout as layouts

FORMAT = 1
FLOATS = ("lane", "python", "numpy", "numba", "processor", "switches", "libc")
"""Facts on which the bits of a float may depend."""
SWITCHES = (
    *("GLIBC_TUNABLES", "NPY_DISABLE_CPU_FEATURES", "NPY_ENABLE_CPU_FEATURES"),
    *("NUMBA_CPU_FEATURES", "NUMBA_CPU_NAME", "OPENBLAS_CORETYPE"),
)
"""Environment variables that change which code numpy, Numba and the C library choose."""
OWN = ("diptych", "diptych_client")
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
        "tables": _digest(json.dumps(tables, sort_keys=True)),
        "transactions": _digest(json.dumps(asked, sort_keys=True, default=repr)),
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


def code_digest(functions: list[Callable[..., Any]]) -> str:
    """A hash of the files of `functions` and of what they import from beside them.

    Where the files are makes no difference. A function without a file counts by its compiled code.
    """
    found: dict[str, bytes] = {}
    for function in map(inspect.unwrap, functions):
        path = Path(function.__code__.co_filename)
        if path.is_file():
            module = _module_of(function, path)
            if module.key not in found:
                _gather(module, found)
        else:
            found[f"{function.__module__}.{function.__qualname__}"] = _code(function.__code__)
    return _digest("".join(f"{_digest(found[name])} {name}\n" for name in sorted(found)))


def cpu_features(cpuinfo: str) -> list[str]:
    """Of the text of /proc/cpuinfo, the features that numeric libraries look at, sorted."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip().lower() in ("flags", "features"):
            return sorted({word for word in value.split() if _CPU_FEATURE.fullmatch(word)})
    return []


@dataclass(frozen=True)
class _Module:
    """A file of the application: `root` / `key` is its path, `name` what it is imported by."""

    name: str
    root: Path
    key: str

    @property
    def path(self) -> Path:
        return self.root / self.key

    @property
    def package(self) -> str:
        """What its relative imports begin from."""
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]

    def beside(self, name: str) -> _Module | None:
        """The module of that name, if it belongs to the same application."""
        top = name.partition(".")[0]
        if top in OWN or (top != self.name.partition(".")[0] and _is_library(self.root)):
            return None
        base = name.replace(".", "/")
        for key in (f"{base}/__init__.py", f"{base}.py"):
            if (self.root / key).is_file():
                return _Module(name, self.root, key)
        return None


def _module_of(function: Callable[..., Any], path: Path) -> _Module:
    """Its name in the import system tells how far up the application's directory is."""
    path = path.resolve()
    module = sys.modules.get(function.__module__)
    spec = getattr(module, "__spec__", None)
    name = spec.name if spec is not None else function.__module__
    words = name.split(".")
    parts = [*path.parts[:-1], path.stem]
    if parts[-1] == "__init__" and words[-1] != "__init__":
        parts.pop()
    if parts[-len(words) :] != words:  # run as a script, or loaded by other means
        return _Module(path.stem, path.parent, path.name)
    root = Path(*parts[: -len(words)])
    return _Module(name, root, path.relative_to(root).as_posix())


def _gather(module: _Module, found: dict[str, bytes]) -> None:
    """Add the file of `module`, and those that importing it runs."""
    waiting = [module]
    while waiting:
        module = waiting.pop()
        if module.key in found:
            continue
        found[module.key] = text = module.path.read_bytes()
        try:
            tree = ast.parse(text)
        except SyntaxError:  # of another Python: imported, if at all, where it may fail
            continue
        for name in _imported(module, tree):
            words = name.split(".")
            names = (".".join(words[:count]) for count in range(1, len(words) + 1))
            waiting += filter(None, map(module.beside, names))


def _imported(module: _Module, tree: ast.Module) -> Iterator[str]:
    """Names that may be modules, of every import statement in it, and its own packages."""
    yield module.name
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                packages = module.package.split(".")
                above = packages[: len(packages) - node.level + 1]
                base = ".".join([*above, *filter(None, [base])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _is_library(root: Path) -> bool:
    """Whether modules of many authors lie there side by side."""
    paths = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    paths |= {*site.getsitepackages(), site.getusersitepackages()}
    return any(root == Path(path).resolve() for path in paths)


def _code(code: CodeType) -> bytes:
    """Instructions, names and constants: equal for equal source, wherever it stands."""
    constants = [_constant(each) for each in code.co_consts]
    return repr((code.co_code, code.co_names, code.co_varnames, constants)).encode()


def _constant(value: object) -> str | bytes:
    if isinstance(value, CodeType):
        return _code(value)
    return repr(sorted(map(repr, value)) if isinstance(value, frozenset) else value)


def _digest(content: str | bytes) -> str:
    data = content.encode() if isinstance(content, str) else content
    return hashlib.sha256(data).hexdigest()[:32]


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
