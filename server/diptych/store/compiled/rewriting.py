"""A handler's source with what compiled code calls otherwise, before Numba sees its bytecode.

Some of Python's forms tell Numba less than their source does: an empty list not what it will hold,
a format not how wide it is, and two literals not that one variable is to hold both. They become
calls of functions that the compiled lane knows; the rest stays as it is, line by line. Functions
without a source are compiled as they are.
"""

from __future__ import annotations

import ast
import builtins
import inspect
from collections import Counter
from types import FunctionType
from typing import Any

from numba.core import ir

from diptych.errors import DeclarationError
from diptych.schema import ValueType, value_type
from diptych.store.compiled.built_lists import list_number, new_list
from diptych.store.compiled.built_sets import new_set
from diptych.store.compiled.source import parsed
from diptych.store.compiled.texts import text_head, text_joined, text_literal
from diptych.store.compiled.types import Refused

STAND_INS = {
    each.__name__: each for each in (new_list, new_set, text_head, text_joined, text_literal)
}
PREFIX = "diptych_"  # of their names in rewritten code
LIST_CURE = "say what it holds: found: list[Line] = []"
SLICE_CURE = "parts of text are compiled as text[:n] alone"
FORMAT_CURE = "write {name}, or {name:02} for an int"


def rewritten(function: Any) -> Any:
    """The function to compile in place of this one. Errors: Refused."""
    body = parsed(function)
    if body is None:
        return function
    made = _Rewriter(function, body)
    changed = made.visit(body)
    if not made.changes:
        return function
    changed.decorator_list = []
    changed.returns = None
    changed.type_params = []  # of Python 3.12: they would wrap the function in one that makes them
    for argument in ast.walk(changed.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    tree = ast.fix_missing_locations(ast.Module([changed], []))
    filename = function.__code__.co_filename
    code = next(
        each
        for each in compile(tree, filename, "exec", dont_inherit=True).co_consts
        if inspect.iscode(each) and each.co_name == function.__name__
    )
    names = made.names | {PREFIX + name: stand_in for name, stand_in in STAND_INS.items()}
    copy = FunctionType(code, names, function.__name__, function.__defaults__)
    copy.__kwdefaults__, copy.__module__ = function.__kwdefaults__, function.__module__
    return copy


class _Rewriter(ast.NodeTransformer):
    """Replaces what is to be replaced in one function. `names`: its globals and its closure."""

    def __init__(self, function: Any, body: ast.FunctionDef) -> None:
        self.names = dict(function.__globals__)
        for name, cell in zip(
            function.__code__.co_freevars, function.__closure__ or (), strict=True
        ):
            self.names[name] = cell.cell_contents
        self.changes = 0
        self._filename = function.__code__.co_filename
        self._returns = body.returns
        nodes = list(ast.walk(body))
        self._stored = Counter(
            node.id
            for node in nodes
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        )
        self._ends = sum(isinstance(node, ast.Return) for node in nodes)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        if isinstance(node.value, ast.List) and not node.value.elts:
            made = self._list(node.value, node.annotation)
        elif node.value is not None and isinstance(node.target, ast.Name):
            made = self._assigned(node.target, node.value)
        else:
            return self.generic_visit(node)
        return ast.copy_location(ast.Assign([node.target], made), node)

    def visit_Assign(self, node: ast.Assign) -> Any:
        if isinstance(node.value, ast.List) and not node.value.elts:
            if self._returns is None:
                raise Refused(f"an empty list is not compiled; {LIST_CURE}", self._place(node))
            node.value = self._list(node.value, self._returns)
            return node
        node.value = self._assigned(node.targets[0], node.value)
        return node

    def _assigned(self, target: ast.expr, value: ast.expr) -> Any:
        shared = isinstance(target, ast.Name) and self._stored[target.id] > 1
        return self._text(value) if shared else self.visit(value)

    def visit_Call(self, node: ast.Call) -> Any:
        is_set = isinstance(node.func, ast.Name) and node.func.id == "set"
        if is_set and not node.args and not node.keywords and "set" not in self.names:
            return self._called(node, new_set)
        return self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> Any:
        if self._ends > 1 and node.value is not None:
            node.value = self._text(node.value)
            return node
        return self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> Any:
        node.test = self.visit(node.test)
        node.body, node.orelse = self._text(node.body), self._text(node.orelse)
        return node

    def visit_Tuple(self, node: ast.Tuple) -> Any:
        node.elts = [self._text(each) for each in node.elts]
        return node

    def _text(self, node: ast.expr) -> Any:
        """A literal text as a value, where another text may be in its place."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return self._called(node, text_literal, node)
        return self.visit(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> Any:
        arguments: list[ast.expr] = []
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                arguments += [ast.Constant(self._format(part)), self.visit(part.value)]
            else:
                arguments += [ast.Constant(""), part]
        return self._called(node, text_joined, *arguments)

    def _format(self, node: ast.FormattedValue) -> str:
        parts = node.format_spec.values if isinstance(node.format_spec, ast.JoinedStr) else []
        literals = [part.value for part in parts if isinstance(part, ast.Constant)]
        if node.conversion != -1 or len(literals) < len(parts):
            raise Refused(f"this f-string is not compiled; {FORMAT_CURE}", self._place(node))
        return "".join(map(str, literals))

    def visit_Subscript(self, node: ast.Subscript) -> Any:
        if not isinstance(node.slice, ast.Slice):
            return self.generic_visit(node)
        low, high, step = node.slice.lower, node.slice.upper, node.slice.step
        from_start = low is None or (isinstance(low, ast.Constant) and low.value == 0)
        if not from_start or high is None or step is not None:
            raise Refused(SLICE_CURE, self._place(node))
        return self._called(node, text_head, self.visit(node.value), self.visit(high))

    def _list(self, node: ast.expr, annotation: ast.expr) -> ast.expr:
        value = self._value(annotation, node)
        if value.base is not list or value.optional:
            raise Refused(f"an empty list is not compiled; {LIST_CURE}", self._place(node))
        number = list_number(value.arguments[0], self._place(node))
        return self._called(node, new_list, ast.Constant(number))

    def _value(self, annotation: ast.expr, node: ast.AST) -> ValueType:
        """What an annotation in the function's source means."""
        names = {**vars(builtins), **self.names}
        try:
            found = eval(compile(ast.Expression(annotation), "<annotation>", "eval"), names)
            found = eval(found, names) if isinstance(found, str) else found
            return value_type(found, ast.unparse(annotation))
        except (NameError, AttributeError, TypeError, DeclarationError) as error:
            raise Refused(f"{ast.unparse(annotation)}: {error}", self._place(node)) from None

    def _called(self, node: ast.expr, function: Any, *arguments: ast.expr) -> ast.expr:
        self.changes += 1
        name = ast.Name(PREFIX + function.__name__, ast.Load())
        return ast.copy_location(ast.Call(name, list(arguments), []), node)

    def _place(self, node: Any) -> Any:
        return ir.Loc(self._filename, node.lineno)
