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


class _NotPrompt(Exception):
    """Says why."""


def why_not_prompt(function: Callable[..., Any]) -> str:
    """Why nobody knows that it ends soon, in a few words about it; "" when it does, whatever it is
    given and whatever the tables hold.
    """
    try:
        _calls(function, ())
    except _NotPrompt as why:
        return str(why)
    return ""


def _calls(function: Callable[..., Any], callers: tuple[Any, ...]) -> int:
    """No fewer than it can make. Errors: _NotPrompt."""
    if function in callers:
        raise _NotPrompt("calls itself")
    tree = parsed(function)
    if tree is None:
        raise _NotPrompt("has no source to be read")
    nodes = [node for statement in tree.body for node in ast.walk(statement)]
    if any(isinstance(node, LOOPS) for node in nodes):
        raise _NotPrompt("has a loop")
    if any(_is_range(node) for node in nodes):
        raise _NotPrompt("asks for a range")
    own = sum(isinstance(node, ast.Call | ast.Subscript) for node in nodes)
    assert isinstance(function, FunctionType)
    # What stands in hints and decorators is not called, nor is what a column has the name of.
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    named = [each for name, each in outside(function, None) if name.partition(".")[0] in names]
    deepest = 0
    for helper in dict.fromkeys(each for each in named if isinstance(each, FunctionType)):
        try:
            deepest = max(deepest, _calls(helper, (*callers, function)))
        except _NotPrompt as why:
            if helper is function:
                raise
            raise _NotPrompt(f"calls {helper.__name__}, which {why}") from None
    if own * (1 + deepest) > CALLS_MAX:
        raise _NotPrompt(f"may make more than {CALLS_MAX} calls and look-ups")
    return own * (1 + deepest)


def _is_range(node: ast.AST) -> bool:
    """Whether it may be a part of an index that is as long as it likes."""
    return isinstance(node, ast.Attribute) and node.attr == "range"
