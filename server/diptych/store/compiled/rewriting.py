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
from types import FunctionType
from typing import Any

from numba.core import ir

from diptych.errors import DeclarationError
from diptych.schema import ValueType, value_type
from diptych.store.compiled.built_lists import list_number, new_list
from diptych.store.compiled.source import parsed
from diptych.store.compiled.types import Refused

STAND_INS = {function.__name__: function for function in (new_list,)}
PREFIX = "diptych_"  # of their names in rewritten code
LIST_CURE = "say what it holds: found: list[Line] = []"


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

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        if isinstance(node.value, ast.List) and not node.value.elts:
            node.value = self._list(node.value, node.annotation)
            return ast.copy_location(ast.Assign([node.target], node.value), node)
        return self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> Any:
        if isinstance(node.value, ast.List) and not node.value.elts:
            if self._returns is None:
                raise Refused(f"an empty list is not compiled; {LIST_CURE}", self._place(node))
            node.value = self._list(node.value, self._returns)
            return node
        return self.generic_visit(node)

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
