"""Names in handlers that no table has, found in the source before any handler runs.

`wrong_names` reads handlers, and the helpers that they call, and reports what is sure to fail: a
table, index or column that does not exist, an insert without a column that it needs, more values
than an index has columns, an assignment to a key. What an expression is, is followed from the db on
(`scopes`); where that is not certain, nothing is said, and the error comes when the handler runs.
Knows declarations and source; runs nothing, and knows nothing of memory.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from diptych.declarations import DB_NAMES, TABLE_NAMES
from diptych.errors import did_you_mean
from diptych.schema import MISSING, TableSpec
from diptych.scopes import (
    DB,
    Kind,
    Known,
    ScopedReader,
    definition_of,
    function_called,
    known_annotation,
    known_hints,
)

TABLE_METHODS = ("get", "insert", "get_or_insert", "delete", "columns", "df", "arrow")
INDEX_NAMES = frozenset({"range", "first", "last"})
NAMING_COLUMNS = {
    (Kind.TABLE, "insert"),
    (Kind.TABLE, "get_or_insert"),
    (Kind.TABLE, "columns"),
    (Kind.SELECTION, "write"),
}
RANGE_OPTIONS = frozenset({"start", "stop", "reverse"})
SELECTION_NAMES = frozenset({"df", "arrow", "write"})


@dataclass(frozen=True)
class Finding:
    """One mistake. Sorts by place."""

    file: str
    line: int
    function: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.function}: {self.message}"


def wrong_names(
    handlers: Iterable[Callable[..., Any]], tables: Mapping[str, TableSpec], db_type: type
) -> list[Finding]:
    """What is surely wrong in `handlers` and their helpers, by place. `db_type`: the class `Db`."""
    found: set[Finding] = set()
    seen: set[Any] = set()
    waiting = [(handler, True) for handler in handlers]
    while waiting:
        function, is_handler = waiting.pop()
        if not isinstance(function, FunctionType) or function in seen:
            continue
        seen.add(function)
        tree = definition_of(function)
        if tree is None:
            continue
        parameters = _parameters(function, tree, tables, db_type, is_handler)
        reader = _Reader(function, tree, tables, parameters)
        reader.read()
        found.update(reader.found)
        waiting += [(called, False) for called in reader.called]
    return sorted(found, key=lambda finding: (finding.file, finding.line, finding.message))


def _parameters(
    function: FunctionType,
    tree: ast.FunctionDef,
    tables: Mapping[str, TableSpec],
    db_type: type,
    is_handler: bool,
) -> dict[str, Known]:
    """What is known of a function's parameters: the db, and rows that an annotation names."""
    hints = known_hints(function)
    known: dict[str, Known] = {}
    for i, argument in enumerate([*tree.args.posonlyargs, *tree.args.args]):
        hint = hints.get(argument.arg, MISSING)
        by_name = hint is MISSING and argument.arg == "db"
        by_hint = isinstance(hint, type) and issubclass(hint, db_type)
        is_db = by_name or by_hint or (is_handler and i == 0)
        known[argument.arg] = DB if is_db else known_annotation(hint, tables)
    return known


class _Reader(ScopedReader):
    """Reads one function. `found`: its mistakes; `called`: functions of its package it calls."""

    def __init__(
        self,
        function: FunctionType,
        tree: ast.FunctionDef,
        tables: Mapping[str, TableSpec],
        parameters: Mapping[str, Known],
    ) -> None:
        self.found: list[Finding] = []
        self.called: list[FunctionType] = []
        super().__init__(function, tree, tables, parameters)
        self._tables = tables
        # A function that looks whether a name is there may well go on without it.
        self._quiet = any(isinstance(n, ast.Name) and n.id == "hasattr" for n in ast.walk(tree))

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """A class inside a handler is left alone: its body has scopes of another kind."""

    def visit_Try(self, node: ast.Try) -> None:
        self._visit_guarded(node, [handler.type for handler in node.handlers], node.body)

    def visit_With(self, node: ast.With) -> None:
        self._visit_guarded(node, [item.context_expr for item in node.items], node.body)

    def _visit_guarded(
        self, node: ast.AST, guards: list[ast.expr | None], body: list[ast.stmt]
    ) -> None:
        """Visit a block; where its guards expect such an error, its body is read quietly."""
        expected = {"AttributeError", "TypeError"}
        names = {n.id for g in guards if g for n in ast.walk(g) if isinstance(n, ast.Name)}
        before = self._quiet
        for child in ast.iter_child_nodes(node):
            self._quiet = before or (child in body and bool(names & expected))
            self.visit(child)
        self._quiet = before

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.generic_visit(node)
        owner = self._scope.known(node.value)
        name = node.attr
        if name.startswith("_"):
            return
        if owner.kind is Kind.DB:
            if name not in self._tables and name not in DB_NAMES and _reads(node):
                known = did_you_mean(name, self._tables)
                self._report(node, f"there is no table {name!r}{known}")
        elif owner.kind is Kind.TABLE:
            indexes = [index.name for index in owner.table.indexes]
            if name not in indexes and name not in TABLE_NAMES:
                known = did_you_mean(name, [*indexes, *TABLE_METHODS])
                self._report(node, f"table {owner.table.name!r} has no index {name!r}{known}")
        elif owner.kind is Kind.INDEX:
            if name not in INDEX_NAMES:
                known = did_you_mean(name, INDEX_NAMES)
                self._report(node, f"index {owner.index_name!r} has no {name!r}{known}")
        elif owner.kind is Kind.ROW:
            self._check_column(node, owner.table, name)
            column = owner.table.by_name.get(name)
            if column is not None and column.key and not _reads(node):
                table = owner.table.name
                self._report(node, f"{table}.{name} is part of the key: it can't be assigned to")
        elif owner.kind is Kind.SELECTION and name not in SELECTION_NAMES:
            self._check_column(node, owner.table, name)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        self.generic_visit(node)
        owner = self._scope.known(node.value)
        if owner.kind is Kind.TABLE:
            self._check_key(node, owner.table, node.slice)

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        called = function_called(node.func, self._scope, self._function)
        if called is not None:
            self.called.append(called)
        if not isinstance(node.func, ast.Attribute):
            return
        owner, method = self._scope.known(node.func.value), node.func.attr
        if owner.kind is Kind.INDEX and method in INDEX_NAMES:
            self._check_prefix(node, owner, method)
        elif (owner.kind, method) in NAMING_COLUMNS:
            self._check_columns(node, owner.table, method)
        elif owner.kind is Kind.TABLE and method in ("get", "delete") and len(node.args) == 1:
            if method == "get":
                self._check_key(node, owner.table, node.args[0])
                return
            row = self._scope.known(node.args[0])
            if row.kind is Kind.ROW and row.table is not owner.table:
                wrong = f"{owner.table.name}.delete takes its own rows, not one of {row.table.name}"
                self._report(node, wrong)

    def _check_column(self, node: ast.AST, table: TableSpec, name: str) -> None:
        if name not in table.by_name:
            known = did_you_mean(name, table.by_name)
            self._report(node, f"table {table.name!r} has no column {name!r}{known}")

    def _check_columns(self, node: ast.Call, table: TableSpec, method: str) -> None:
        """Names of columns in a call; those that must be there, unless `**` may hold them."""
        given = {keyword.arg for keyword in node.keywords}
        for keyword in node.keywords:
            if keyword.arg is not None:
                self._check_column(keyword, table, keyword.arg)
        if node.args:
            self._report(node, f"{table.name}.{method} takes columns by name: column=value")
        if None in given or method in ("columns", "write"):
            return
        for column in table.columns:
            # Nothing is inserted where there is a row of that key.
            needed = (column.key or method == "insert") and not column.auto
            if needed and column.default is MISSING and column.name not in given:
                self._report(node, f"{table.name}.{method} needs the column {column.name!r}")

    def _check_key(self, node: ast.AST, table: TableSpec, key: ast.expr) -> None:
        if not isinstance(key, ast.Tuple) or _starred(key.elts):
            return
        if len(key.elts) != len(table.keys):
            names = ", ".join(column.name for column in table.keys)
            told = f"the key of {table.name!r} is ({names}); {len(key.elts)} values are given"
            self._report(node, told)

    def _check_prefix(self, node: ast.Call, owner: Known, method: str) -> None:
        """How many values a call gives an index, and by which names."""
        options = {keyword.arg for keyword in node.keywords if keyword.arg is not None}
        for name in sorted(options - (RANGE_OPTIONS if method == "range" else set())):
            known = did_you_mean(name, RANGE_OPTIONS) if method == "range" else ""
            self._report(node, f"{owner.index_name}.{method} has no option {name!r}{known}")
        if not _starred(node.args):
            given = len(node.args) + bool(options & {"start", "stop"})
            columns = owner.index_columns
            if given > len(columns):
                told = f"columns ({', '.join(columns)}); {given} values are given"
                self._report(node, f"index {owner.index_name!r} has the {told}")

    def _report(self, node: Any, message: str) -> None:
        if not self._quiet:
            code = self._function.__code__
            self.found.append(Finding(code.co_filename, node.lineno, code.co_name, message))


def _reads(node: ast.Attribute) -> bool:
    return isinstance(node.ctx, ast.Load)


def _starred(values: list[ast.expr]) -> bool:
    return any(isinstance(value, ast.Starred) for value in values)
