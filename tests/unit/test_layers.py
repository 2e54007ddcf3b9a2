"""Imports run one way: a module may import from layers below its own, and from its own package."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = [
    ["diptych_client"],
    ["diptych.errors", "diptych.kernel_passes", "diptych.control_page", "diptych.sources"],
    ["diptych.kernel"],
    ["diptych.schema", "diptych.rejections"],
    ["diptych.memory", "diptych.declarations"],
    ["diptych.scopes"],
    ["diptych.names", "diptych.determinism"],
    ["diptych.app", "diptych.stored", "diptych.evolution"],
    ["diptych.store"],
    ["diptych.durable"],
    ["diptych.engine"],
    ["diptych.config"],
    ["diptych.serving"],
    ["diptych.loadtest", "diptych.testing", "diptych.bulk"],
    ["diptych.commands"],
    ["diptych.cli"],
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
SOURCES = sorted(
    [*(ROOT / "server/diptych").rglob("*.py"), *(ROOT / "client/diptych_client").rglob("*.py")]
)


def module_name(path: Path) -> str:
    parts = path.with_suffix("").relative_to(ROOT).parts[1:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer(module: str) -> str | None:
    if module.startswith("diptych_client"):
        return "diptych_client"
    return ".".join(module.split(".")[:2]) if module.startswith("diptych.") else None


def for_type_checkers(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.dump(statement.test)


def runtime_imports(body: list[ast.stmt]) -> Iterator[str]:
    """Modules imported when a module is, leaving out those for type checkers alone."""
    for statement in body:
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom) and statement.module:
            yield statement.module
            yield from (f"{statement.module}.{alias.name}" for alias in statement.names)
        elif isinstance(statement, ast.If | ast.Try) and not for_type_checkers(statement):
            yield from runtime_imports(statement.body)


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_a_module_imports_from_below(path: Path) -> None:
    module = module_name(path)
    own = layer(module)
    if own is None:
        return  # the package itself offers names of every layer
    assert own in RANK, f"{module} is in no layer: add it to LAYERS"
    for imported in runtime_imports(ast.parse(path.read_text()).body):
        other = layer(imported)
        if other is None or other == own or other not in RANK:
            continue
        assert RANK[other] < RANK[own], f"{module} imports {imported}, which is not below it"


def test_the_client_needs_msgpack_alone() -> None:
    allowed = {"diptych_client", "msgpack"}
    for path in SOURCES:
        if "diptych_client" not in path.parts:
            continue
        for imported in runtime_imports(ast.parse(path.read_text()).body):
            top = imported.split(".")[0]
            assert top in allowed or top in sys.stdlib_module_names, f"{path.name}: {imported}"
