"""What the expressions in a handler surely are: the db, a table, an index, a row of which table.

A name is what all of its assignments in its function agree on, wherever they stand; one that is
assigned anything else is unknown, and so is whatever comes from it. None does not count: a name is
None or a row. Expressions of Python's that keep what they are given (`a or b`, `list(rows)`,
`next(rows)`) are followed, and calls of functions whose annotation says that they return a row.

Reads source alone. What is wrong with it is told by `names`.
"""

from __future__ import annotations

import ast
import builtins
import functools
import inspect
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import FunctionType, NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from diptych.errors import DeclarationError
from diptych.rejections import named, package_of
from diptych.schema import TableSpec, type_hints

Kind = Enum("Kind", ["UNKNOWN", "NONE", "DB", "TABLE", "INDEX", "ROW", "ROWS", "SELECTION"])
ROWS_KEPT = frozenset({"list", "tuple", "sorted", "iter", "reversed"})


@dataclass(frozen=True)
class Known:
    """What an expression is. `of`: the table, for all but the db and what is unknown."""

    kind: Kind
    of: TableSpec | None = None
    index_name: str = ""

    @property
    def table(self) -> TableSpec:
        assert self.of is not None
        return self.of

    @property
    def index_columns(self) -> list[str]:
        for index in self.table.indexes:
            if index.name == self.index_name:
                return [column.name for column in index.columns]
        return []


UNKNOWN, NONE, DB = Known(Kind.UNKNOWN), Known(Kind.NONE), Known(Kind.DB)
METHODS = {
    (Kind.TABLE, "get"): Kind.ROW,
    (Kind.TABLE, "insert"): Kind.ROW,
    (Kind.TABLE, "get_or_insert"): Kind.ROW,
    (Kind.TABLE, "columns"): Kind.SELECTION,
    (Kind.INDEX, "range"): Kind.ROWS,
    (Kind.INDEX, "first"): Kind.ROW,
    (Kind.INDEX, "last"): Kind.ROW,
}


def agreed(alternatives: list[Known]) -> Known:
    """What something is that is one of these: unknown unless they agree."""
    found = [each for each in alternatives if each is not NONE]
    return found[0] if found and all(each == found[0] for each in found) else UNKNOWN


def _itself(known: Known) -> Known:
    return known


def known_hints(function: FunctionType) -> dict[str, Any]:
    """A function's annotations; none when they can't be read."""
    try:
        return type_hints(function, "")
    except DeclarationError:
        return {}


def known_annotation(hint: Any, tables: Mapping[str, TableSpec]) -> Known:
    """What an annotation says: a table's class is a row of it, a list of those are rows."""
    for spec in tables.values():
        if hint is spec.record:
            return Known(Kind.ROW, spec)
    inner = [part for part in get_args(hint) if part is not NoneType]
    if len(inner) == 1:
        known = known_annotation(inner[0], tables)
        if get_origin(hint) in (Union, UnionType):
            return known
        if get_origin(hint) is list and known.kind is Kind.ROW:
            return Known(Kind.ROWS, known.of)
    return UNKNOWN


class Scope:
    """The names of a function, lambda or comprehension, inside those of the one around it."""

    def __init__(self, function: _Function, parent: Scope | None) -> None:
        self.function, self.parent = function, parent
        self._bindings: dict[str, list[Callable[[], Known]]] = {}
        self._following: set[str] = set()

    def bind(self, name: str, what: Callable[[], Known]) -> None:
        self._bindings.setdefault(name, []).append(what)

    def bind_unknown(self, target: ast.AST) -> None:
        """Every name that is assigned to in `target` is unknown."""
        for node in ast.walk(target):
            if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                self.bind(node.id, lambda: UNKNOWN)

    def binds(self, name: str) -> bool:
        """Whether a name is a local one, here or further out."""
        return name in self._bindings or (self.parent is not None and self.parent.binds(name))

    def name(self, name: str) -> Known:
        if name not in self._bindings:
            return self.parent.name(name) if self.parent is not None else UNKNOWN
        if name in self._following or name in self.function.shared:
            return UNKNOWN  # defined by itself, or written from a function within
        self._following.add(name)
        known = agreed([binding() for binding in self._bindings[name]])
        self._following.discard(name)
        return known

    def known(self, node: ast.expr) -> Known:
        """What an expression in this scope is."""
        match node:
            case ast.Name():
                return self.name(node.id)
            case ast.Constant(value=None):
                return NONE
            case ast.NamedExpr():
                return self.known(node.value)
            case ast.IfExp():
                return agreed([self.known(node.body), self.known(node.orelse)])
            case ast.BoolOp():
                return agreed([self.known(value) for value in node.values])
            case ast.Attribute():
                return self._attribute(self.known(node.value), node.attr)
            case ast.Subscript():
                owner = self.known(node.value)
                one = owner.kind is Kind.TABLE or (
                    owner.kind is Kind.ROWS and not isinstance(node.slice, ast.Slice)
                )
                return Known(Kind.ROW, owner.of) if one else UNKNOWN
            case ast.Call(func=ast.Attribute() as method):
                owner = self.known(method.value)
                kind = METHODS.get((owner.kind, method.attr))
                return UNKNOWN if kind is None else Known(kind, owner.of)
            case ast.Call(func=ast.Name() as called):
                return self._call(called.id, node)
        return UNKNOWN

    def each(self, node: ast.expr) -> Known:
        """What a loop over an expression gives."""
        over = self.known(node)
        return Known(Kind.ROW, over.of) if over.kind in (Kind.TABLE, Kind.ROWS) else UNKNOWN

    def _attribute(self, owner: Known, name: str) -> Known:
        if owner.kind is Kind.DB and name in self.function.tables:
            return Known(Kind.TABLE, self.function.tables[name])
        if owner.kind is Kind.TABLE and any(index.name == name for index in owner.table.indexes):
            return Known(Kind.INDEX, owner.of, name)
        return UNKNOWN

    def _call(self, name: str, call: ast.Call) -> Known:
        if self.binds(name):
            return UNKNOWN
        called = self.function.names.get(name, getattr(builtins, name, None))
        if isinstance(called, FunctionType):
            return known_annotation(known_hints(called).get("return"), self.function.tables)
        if called is getattr(builtins, name, None) and call.args:
            each = self.each(call.args[0])
            if name in ROWS_KEPT and each != UNKNOWN:
                return Known(Kind.ROWS, each.of)
            if name == "next":
                others = [self.known(argument) for argument in call.args[1:]]
                return agreed([each, *others]) if each != UNKNOWN else UNKNOWN
        return UNKNOWN


def function_called(func: ast.expr, scope: Scope, function: FunctionType) -> FunctionType | None:
    """The function of the same package that a call in `function` names, in its module or through
    others.
    """
    if any(isinstance(node, ast.Name) and scope.binds(node.id) for node in ast.walk(func)):
        return None
    called = named(func, function.__globals__)
    if not isinstance(called, FunctionType):
        return None
    return called if package_of(called) == package_of(function) else None


def definition_of(function: FunctionType) -> ast.FunctionDef | None:
    """A function's definition; None for a wrapper, a lambda, or when there is no source."""
    if hasattr(function, "__wrapped__"):
        return None
    try:
        lines, first = inspect.getsourcelines(function)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, SyntaxError, TypeError):
        return None
    definition = tree.body[0] if tree.body else None
    if not isinstance(definition, ast.FunctionDef):
        return None
    ast.increment_lineno(definition, first - 1)
    return definition


@dataclass(frozen=True)
class _Function:
    """What all scopes of one function share. `shared`: names that functions within it assign."""

    tables: Mapping[str, TableSpec]
    names: Mapping[str, Any]
    shared: frozenset[str]


def open_scopes(
    tree: ast.FunctionDef,
    parameters: Mapping[str, Known],
    tables: Mapping[str, TableSpec],
    names: Mapping[str, Any],
) -> dict[ast.AST, Scope]:
    """The scopes of a function, by the node that opens each. `names`: those of its module."""
    shared = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Nonlocal | ast.Global)
        for name in node.names
    }
    top = Scope(_Function(tables, names, frozenset(shared)), None)
    for name, known in parameters.items():
        top.bind(name, functools.partial(_itself, known))
    for argument in (tree.args.vararg, tree.args.kwarg, *tree.args.kwonlyargs):
        if argument is not None:
            top.bind(argument.arg, lambda: UNKNOWN)
    collector = _Collector(top)
    collector.scopes[tree] = top
    for statement in tree.body:
        collector.visit(statement)
    return collector.scopes


class ScopedReader(ast.NodeVisitor):
    """Visits a function's statements; `_scope` is the one that the node visited now stands in."""

    def __init__(
        self,
        function: FunctionType,
        tree: ast.FunctionDef,
        tables: Mapping[str, TableSpec],
        parameters: Mapping[str, Known],
    ) -> None:
        self._function, self._tree = function, tree
        self._scopes = open_scopes(tree, parameters, tables, function.__globals__)
        self._scope = self._scopes[tree]

    def read(self) -> None:
        for statement in self._tree.body:
            self.visit(statement)

    def visit(self, node: ast.AST) -> None:
        outer = self._scope
        self._scope = self._scopes.get(node, outer)
        super().visit(node)
        self._scope = outer


class _Collector(ast.NodeVisitor):
    """Finds all that binds a name, and opens the scopes within."""

    def __init__(self, top: Scope) -> None:
        self.scopes: dict[ast.AST, Scope] = {}
        self._scope = top

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        for target in node.targets:
            self._assign(target, node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.generic_visit(node)
        if node.value is not None:
            self._assign(node.target, node.value)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.generic_visit(node)
        self._assign(node.target, node.value)
        if (outer := self._scope.parent) is not None:
            outer.bind_unknown(node.target)  # a comprehension's is the function's name

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.generic_visit(node)
        self._scope.bind_unknown(node.target)

    def visit_Delete(self, node: ast.Delete) -> None:
        self._scope.bind_unknown(node)

    def visit_For(self, node: ast.For) -> None:
        self.generic_visit(node)
        self._loop(node.target, node.iter)

    def visit_With(self, node: ast.With) -> None:
        self.generic_visit(node)
        for item in node.items:
            if item.optional_vars is not None:
                self._scope.bind_unknown(item.optional_vars)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        self._bind_name(node.name)
        self.generic_visit(node)

    def visit_alias(self, node: ast.alias) -> None:
        self._bind_name(node.asname or node.name.partition(".")[0])

    def visit_MatchAs(self, node: ast.MatchAs) -> None:
        self._bind_name(node.name)
        self.generic_visit(node)

    def visit_MatchStar(self, node: ast.MatchStar) -> None:
        self._bind_name(node.name)

    def visit_MatchMapping(self, node: ast.MatchMapping) -> None:
        self._bind_name(node.rest)
        self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._bind_name(node.name)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._bind_name(node.name)
        self._within(node, node.args, node.body)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._within(node, node.args, [node.body])

    def visit_ListComp(self, node: ast.ListComp | ast.SetComp | ast.DictComp) -> None:
        self._comprehension(node, node.generators)

    visit_SetComp = visit_DictComp = visit_ListComp

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> None:
        self._comprehension(node, node.generators)

    def _comprehension(self, node: ast.AST, generators: list[ast.comprehension]) -> None:
        outer, self._scope = self._scope, self._open(node)
        self.generic_visit(node)
        for generator in generators:
            self._loop(generator.target, generator.iter)
        self._scope = outer

    def _within(self, node: ast.AST, arguments: ast.arguments, body: list[Any]) -> None:
        for default in (*arguments.defaults, *arguments.kw_defaults):
            if default is not None:
                self.visit(default)
        outer, self._scope = self._scope, self._open(node)
        for argument in ast.walk(arguments):
            if isinstance(argument, ast.arg):
                self._bind_name(argument.arg)
        for each in body:
            self.visit(each)
        self._scope = outer

    def _open(self, node: ast.AST) -> Scope:
        self.scopes[node] = Scope(self._scope.function, self._scope)
        return self.scopes[node]

    def _bind_name(self, name: str | None) -> None:
        if name is not None:
            self._scope.bind(name, lambda: UNKNOWN)

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        scope = self._scope
        if isinstance(target, ast.Name):
            scope.bind(target.id, lambda: scope.known(value))
        elif isinstance(target, ast.Tuple | ast.List) and isinstance(value, ast.Tuple | ast.List):
            starred = any(isinstance(e, ast.Starred) for e in (*target.elts, *value.elts))
            if starred or len(target.elts) != len(value.elts):
                scope.bind_unknown(target)
                return
            for one, other in zip(target.elts, value.elts, strict=True):
                self._assign(one, other)
        else:
            scope.bind_unknown(target)

    def _loop(self, target: ast.expr, over: ast.expr) -> None:
        scope = self._scope
        if isinstance(target, ast.Name):
            scope.bind(target.id, lambda: scope.each(over))
        else:
            scope.bind_unknown(target)
