"""What a transaction should not do, since a replay of the log would come to something else.

A transaction's effect has to be a function of the data and its arguments. `hazards` reads its
source, and that of the helpers it calls, for what is evidently something else: clocks, chance,
hashes and addresses of this process, the order of a set, functions whose last bits depend on the
processor, and what is kept outside of the data. It warns, and forbids nothing: a value that only
goes to the log does no harm.

What a name stands for is looked up in the function's module, so it is the object that counts and
not how it was imported. Runs nothing, imports nothing that is not there already.
"""

from __future__ import annotations

import ast
import builtins
import collections
import datetime
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

from diptych.schema import TableSpec
from diptych.scopes import UNKNOWN, ScopedReader, definition_of, function_called

CLOCK = "each run reads another time; use db.now"
CHANCE = "each run draws other numbers; use db.random"
PROCESSOR = "its last bits depend on the processor; compute with ints, or with math"
UNORDERED = "the order of a set differs from process to process; use sorted()"
OUTSIDE = "what is kept outside of the data is lost with the process; keep it in a table"

NAMED: dict[tuple[str, str], str] = {
    ("builtins", "hash"): "hash() differs from process to process; compare the values themselves",
    ("builtins", "id"): "an address differs from process to process; use a key",
    ("posix", "urandom"): CHANCE,
    ("posix", "getrandom"): CHANCE,
    ("time", "sleep"): "all other transactions wait meanwhile; leave it out",
    **{("uuid", f"uuid{version}"): CHANCE for version in (1, 4, 6, 7, 8)},
    ("uuid", "getnode"): "it differs from machine to machine; keep it in a table",
}
MODULES = {"time": CLOCK, "random": CHANCE, "secrets": CHANCE, "numpy.random": CHANCE}
CLOCK_METHODS = frozenset({"now", "utcnow", "today"})
SEEDED = frozenset({"Random", "default_rng", "RandomState", "Generator", "PCG64", "SeedSequence"})
"""With arguments they make numbers that follow from those."""
INEXACT = frozenset(
    {
        *("exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "logaddexp", "logaddexp2"),
        *("sin", "cos", "tan", "arcsin", "arccos", "arctan", "arctan2", "sinh", "cosh", "tanh"),
        *("arcsinh", "arccosh", "arctanh", "power", "float_power", "cbrt", "hypot"),
        *("dot", "vdot", "inner", "outer", "matmul", "tensordot", "einsum", "convolve"),
    }
)
"""Of numpy: what has an implementation for each kind of processor."""
CHANGING = frozenset(
    {
        *("append", "extend", "insert", "pop", "remove", "clear", "sort", "reverse"),
        *("add", "discard", "update", "setdefault", "popitem", "appendleft", "popleft"),
        *("extendleft", "rotate", "subtract", "move_to_end"),
    }
)
CONTAINERS = (list, dict, set, bytearray, collections.deque)
ORDERING = frozenset({"list", "tuple", "iter", "enumerate", "next"})
LOOKED_INTO = (ModuleType, type, random.Random, *CONTAINERS)


@dataclass(frozen=True)
class Hazard:
    """One place. `operations`: the transactions that come there; `what`: as it is written."""

    file: str
    line: int
    operations: tuple[str, ...]
    what: str
    cure: str

    def __str__(self) -> str:
        names = ", ".join(self.operations)
        return f"{self.file}:{self.line}: {names}: {self.what}: {self.cure}"


def hazards(
    transactions: Mapping[str, Callable[..., Any]], tables: Mapping[str, TableSpec]
) -> list[Hazard]:
    """What in these transactions, by name, a replay may do otherwise, by place."""
    found: dict[tuple[str, int, str, str], list[str]] = {}
    for name, function in transactions.items():
        for place in _places(function, tables):
            found.setdefault(place, []).append(name)
    return [
        Hazard(file, line, tuple(names), what, cure)
        for (file, line, what, cure), names in sorted(found.items())
    ]


def _places(
    function: Callable[..., Any], tables: Mapping[str, TableSpec]
) -> set[tuple[str, int, str, str]]:
    """What is found in a transaction and its helpers."""
    found: set[tuple[str, int, str, str]] = set()
    seen: set[Any] = set()
    waiting: list[Any] = [function]
    while waiting:
        each = waiting.pop()
        tree = definition_of(each) if isinstance(each, FunctionType) and each not in seen else None
        seen.add(each)
        if tree is not None:
            reader = _Reader(each, tree, tables)
            reader.read()
            found |= reader.found
            waiting += reader.called
    return found


class _Reader(ScopedReader):
    """Reads one function. `called`: functions of its package that it calls."""

    def __init__(
        self, function: FunctionType, tree: ast.FunctionDef, tables: Mapping[str, TableSpec]
    ) -> None:
        self.found: set[tuple[str, int, str, str]] = set()
        self.called: list[FunctionType] = []
        arguments = [*tree.args.posonlyargs, *tree.args.args]
        parameters = {argument.arg: UNKNOWN for argument in arguments}
        super().__init__(function, tree, tables, parameters)
        self._outside = dict(_outside(function))
        self._imported = dict(_imported(tree))
        self._globals = {
            name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names
        }
        self._assigned = _assigned(tree)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self._judge(node)
        elif node.id in self._globals:
            self._report(node, f"the global {node.id}", OUTSIDE)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.ctx, ast.Load):
            if not self._judge(node):
                self.generic_visit(node)
        else:
            self._check_target(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if not isinstance(node.ctx, ast.Load):
            self._check_target(node)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        called = function_called(node.func, self._scope, self._function)
        if called is not None:
            self.called.append(called)
        value = self._value(node.func)
        name = _of(value, "__name__") or ""
        if isinstance(_of(value, "__self__"), CONTAINERS) and name in CHANGING:
            self._report(node, ast.unparse(node.func), OUTSIDE)
        if value is getattr(builtins, name, None) and name in ORDERING and node.args:
            self._check_order(node.args[0])
        if name not in SEEDED or MODULES.get(_home(value)) != CHANCE:
            self.visit(node.func)
        elif not node.args and not node.keywords:
            self._report(node, ast.unparse(node), CHANCE)
        for argument in (*node.args, *node.keywords):
            self.visit(argument)

    def visit_For(self, node: ast.For) -> None:
        self._check_order(node.iter)
        self.generic_visit(node)

    def visit_ListComp(self, node: ast.ListComp | ast.DictComp) -> None:
        for generator in node.generators:
            self._check_order(generator.iter)
        self.generic_visit(node)

    visit_DictComp = visit_ListComp

    def _judge(self, node: ast.expr) -> bool:
        """Report a name, dotted or not, if what it stands for should not be used."""
        cure = _cure(self._value(node))
        if cure:
            self._report(node, ast.unparse(node), cure)
        return bool(cure)

    def _check_target(self, node: ast.Attribute | ast.Subscript) -> None:
        """Report what is assigned to, or deleted from, if it is reached from outside."""
        root: ast.expr = node
        while isinstance(root, ast.Attribute | ast.Subscript):
            root = root.value
        if isinstance(root, ast.Name) and self._value(root) is not None:
            self._report(node, ast.unparse(node), OUTSIDE)

    def _check_order(self, node: ast.expr) -> None:
        if self._is_set(node):
            self._report(node, ast.unparse(node), UNORDERED)

    def _is_set(self, node: ast.expr, depth: int = 8) -> bool:
        """Whether an expression is surely a set, and not one of ints alone, which have an order."""
        match node:
            case ast.Set():
                return not all(
                    isinstance(e, ast.Constant) and isinstance(e.value, int) for e in node.elts
                )
            case ast.SetComp():
                return True
            case ast.Call(func=ast.Name() as func):
                value = self._value(func)
                return value is set or value is frozenset
            case ast.BinOp(op=ast.BitOr() | ast.BitAnd() | ast.Sub() | ast.BitXor()):
                return self._is_set(node.left, depth) and self._is_set(node.right, depth)
            case ast.Name() if self._scope.binds(node.id):
                values = self._assigned.get(node.id, [None])
                if depth == 0:
                    return False  # names that are assigned from each other
                return all(each is not None and self._is_set(each, depth - 1) for each in values)
            case ast.Name() | ast.Attribute():
                value = self._value(node)
                return type(value) in (set, frozenset) and not all(type(e) is int for e in value)
        return False

    def _value(self, node: ast.expr) -> Any:
        """What a name, dotted or not, stands for outside of the function; None: unknown."""
        if isinstance(node, ast.Name):
            if node.id in self._imported:
                return self._imported[node.id]
            return None if self._is_local(node.id) else self._outside.get(node.id)
        if isinstance(node, ast.Attribute):
            owner = self._value(node.value)
            looked_into = issubclass(type(owner), LOOKED_INTO) or _home(owner) == "numpy.random"
            return _of(owner, node.attr) if looked_into else None
        return None

    def _is_local(self, name: str) -> bool:
        return name not in self._globals and self._scope.binds(name)

    def _report(self, node: ast.expr, what: str, cure: str) -> None:
        self.found.add((self._function.__code__.co_filename, node.lineno, what, cure))


def _outside(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """What names in a function stand for that it does not assign itself."""
    yield from vars(builtins).items()
    yield from function.__globals__.items()
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # not assigned yet
            yield name, cell.cell_contents


def _imported(tree: ast.FunctionDef) -> Iterator[tuple[str, Any]]:
    """What a function imports itself, where that is in this process already."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.name if alias.asname else alias.name.partition(".")[0]
                yield alias.asname or name, sys.modules.get(name)
        elif isinstance(node, ast.ImportFrom):
            module = sys.modules.get(node.module or "")
            for alias in node.names:
                yield alias.asname or alias.name, getattr(module, alias.name, None)


def _assigned(tree: ast.FunctionDef) -> dict[str, list[ast.expr | None]]:
    """What is assigned to each name; None stands for what is not a plain assignment."""
    found: dict[str, list[ast.expr | None]] = {}
    plain: set[ast.expr] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[ast.Name() as target]):
                found.setdefault(target.id, []).append(node.value)
                plain.add(target)
            case ast.AnnAssign(target=ast.Name() as target, value=ast.expr()):
                found.setdefault(target.id, []).append(node.value)
                plain.add(target)
            case ast.arg():
                found.setdefault(node.arg, []).append(None)
            case ast.Name(ctx=ast.Store()) if node not in plain:
                found.setdefault(node.id, []).append(None)
    return found


def _cure(value: Any) -> str:
    """What to do instead of using this object; "" where nothing is wrong with it."""
    name, home, owner = _of(value, "__name__"), _home(value), _of(value, "__self__")
    if not isinstance(name, str) or isinstance(value, ModuleType):
        return ""
    if isinstance(owner, type) and issubclass(owner, datetime.date):
        return CLOCK if name in CLOCK_METHODS else ""
    if (name in INEXACT and home == "numpy") or home == "numpy.linalg":
        return PROCESSOR
    return NAMED.get((home, name)) or ("" if isinstance(value, type) else MODULES.get(home, ""))


def _home(value: Any) -> str:
    """The module that a function, or the object whose method it is, comes from."""
    owner = _of(value, "__self__")
    if isinstance(owner, ModuleType):
        return owner.__name__
    if type(value).__module__ == "numpy" and type(value).__name__ == "ufunc":
        return "numpy"
    of = type(owner) if owner is not None and not isinstance(owner, type) else value
    module = str(_of(of, "__module__") or type(value).__module__)
    for known in ("numpy.random", "numpy.linalg"):
        if module == known or module.startswith(known + "."):
            return known
    return module


def _of(value: Any, name: str) -> Any:
    """An attribute of whatever an application's module holds, or None."""
    try:
        return getattr(value, name, None)
    except Exception:
        return None  # of a proxy, say, for what is not there yet
