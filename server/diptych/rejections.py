"""Which codes a handler can reject with: the literals in its source and in the helpers it calls.

Read from the source, for hello and documentation alone: a handler whose source can't be found, or
that makes its codes at run time, simply tells fewer.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Mapping
from types import FunctionType, ModuleType
from typing import Any

from diptych_client.errors import Rejected


def rejection_codes(handler: Callable[..., Any]) -> tuple[str, ...]:
    """Literal codes of every `Rejected("code", ...)` reachable from `handler`, sorted."""
    codes: set[str] = set()
    seen: set[Any] = set()
    waiting: list[Any] = [handler]
    while waiting:
        function = waiting.pop()
        if not isinstance(function, FunctionType) or function in seen:
            continue
        seen.add(function)
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        except (OSError, SyntaxError, TypeError):
            continue
        for call in ast.walk(tree):
            if not isinstance(call, ast.Call):
                continue
            called = named(call.func, function.__globals__)
            if called is Rejected and call.args and isinstance(call.args[0], ast.Constant):
                codes.add(str(call.args[0].value))
            elif package_of(called) == package_of(function):
                waiting.append(called)
    return tuple(sorted(codes))


def named(expression: ast.expr, names: Mapping[str, Any]) -> Any:
    """What an expression stands for that is one of these names, or is reached from one through
    modules: `Rejected`, `diptych.Rejected`. None: anything else.
    """
    if isinstance(expression, ast.Name):
        return names.get(expression.id)
    if isinstance(expression, ast.Attribute):
        module = named(expression.value, names)
        return getattr(module, expression.attr, None) if isinstance(module, ModuleType) else None
    return None


def package_of(member: Any) -> str:
    """The top-level package that a function or class belongs to."""
    return str(getattr(member, "__module__", None)).partition(".")[0]
