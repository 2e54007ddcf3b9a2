"""Which files functions are made of, and a hash of them.

An application's code is the files of its functions and whatever they import from beside them;
libraries and Diptych itself are none of it. Reads sources alone.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import site
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

OWN = ("diptych", "diptych_client")


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
            found[f"{function.__module__}.{function.__qualname__}"] = code_text(function.__code__)
    return digest("".join(f"{digest(found[name])} {name}\n" for name in sorted(found)))


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
    name = spec.name if spec is not None else function.__module__ or ""
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


def code_text(code: CodeType) -> bytes:
    """Instructions, names and constants: equal for equal source, wherever it stands."""
    constants = [_constant(each) for each in code.co_consts]
    return repr((code.co_code, code.co_names, code.co_varnames, constants)).encode()


def _constant(value: object) -> str | bytes:
    if isinstance(value, CodeType):
        return code_text(value)
    return repr(sorted(map(repr, value)) if isinstance(value, frozenset) else value)


def digest(content: str | bytes) -> str:
    data = content.encode() if isinstance(content, str) else content
    return hashlib.sha256(data).hexdigest()[:32]
