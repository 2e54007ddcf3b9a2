"""Whether a handler's time is bounded by what it is: no loop or range, no recursion, few calls.

Judged by its source and that of all functions that it names, before anything is compiled; in doubt
it is not. What one call of a table or an index takes is bounded by how those are built.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from types import FunctionType
from typing import Any

from diptych.store.compiled.dependencies import outside
from diptych.store.compiled.source import parsed

CALLS_MAX = 100
"""That it may make, its helpers' included: each takes less than a microsecond, in memory."""
LOOPS = (ast.For, ast.AsyncFor, ast.While, ast.comprehension)


def is_prompt(function: Callable[..., Any]) -> bool:
    """Whether it ends soon, whatever it is given and whatever the tables hold."""
    return _calls(function, ()) <= CALLS_MAX


def _calls(function: Callable[..., Any], callers: tuple[Any, ...]) -> int:
    """No fewer than it can make; more than CALLS_MAX when nobody knows."""
    tree = parsed(function)
    if tree is None or function in callers:
        return CALLS_MAX + 1
    nodes = [node for statement in tree.body for node in ast.walk(statement)]
    if any(isinstance(node, LOOPS) or _is_range(node) for node in nodes):
        return CALLS_MAX + 1
    own = sum(isinstance(node, ast.Call | ast.Subscript) for node in nodes)
    assert isinstance(function, FunctionType)
    # What stands in hints and decorators is not called, so names are those of the code alone.
    helpers = {each for _, each in outside(function, None) if isinstance(each, FunctionType)}
    deepest = max((_calls(each, (*callers, function)) for each in helpers), default=0)
    return min(own * (1 + deepest), CALLS_MAX + 1)


def _is_range(node: ast.AST) -> bool:
    """Whether it may be a part of an index that is as long as it likes."""
    return isinstance(node, ast.Attribute) and node.attr == "range"
