"""What a handler's source tells before it is compiled: statements that never are, and the cure.

Numba refuses most of these as well, later and in its own words; some it would compile to something
else. Handlers and the helpers they call are judged alike. Knows Python's grammar alone.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

from numba.core import ir

from diptych.store.compiled.types import Refused

REFUSED: dict[type[ast.AST], str] = {
    ast.Try: "a handler can't catch errors: it would keep half of its writes; test before you act",
    ast.With: "`with` is not compiled",
    ast.Yield: "a handler can't be a generator",
    ast.YieldFrom: "a handler can't be a generator",
    ast.Await: "a handler can't wait",
    ast.GeneratorExp: "generator expressions are not compiled; write a loop",
    ast.ListComp: "lists are not compiled in a transaction; write a loop",
    ast.SetComp: "sets are not compiled in a transaction; write a loop",
    ast.DictComp: "dicts are not compiled in a transaction; write a loop",
    ast.List: "lists are compiled when they begin empty; append to it",
    ast.Set: "sets are not compiled in a transaction",
    ast.Dict: "dicts are not compiled in a transaction",
    ast.Lambda: "lambdas are not compiled; write a function of the module",
    ast.Global: "a handler can't change globals",
    ast.Nonlocal: "a handler can't change variables outside of it",
    ast.Import: "a handler can't import",
    ast.ImportFrom: "a handler can't import",
    ast.Delete: "`del` is not compiled",
}


def place_of(function: Callable[..., Any]) -> str:
    """File, line and name of a function."""
    code = function.__code__
    return f"{code.co_filename}:{code.co_firstlineno}: {function.__name__}"


def parsed(function: Callable[..., Any]) -> ast.FunctionDef | None:
    """The tree of a function's source, with the lines that it has in its file; None without one."""
    try:
        lines, first = inspect.getsourcelines(function)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, SyntaxError, TypeError):
        return None
    body = ast.increment_lineno(tree, first - 1).body[0]
    return body if isinstance(body, ast.FunctionDef) else None


def check_source(function: Callable[..., Any]) -> None:
    """Refuse statements that can't be compiled. Errors: Refused, with file and line."""
    body = parsed(function)
    if body is None:
        return  # without source Numba alone judges
    for node in ast.walk(body):
        if node is not body and isinstance(node, ast.FunctionDef):
            cure: str | None = "functions inside a handler are not compiled; put them beside it"
        elif isinstance(node, ast.List) and not node.elts:
            cure = None  # `rewriting` knows which of them are compiled
        else:
            cure = REFUSED.get(type(node))
        if cure is not None:
            line = getattr(node, "lineno", body.lineno)
            raise Refused(cure, ir.Loc(function.__code__.co_filename, line))
