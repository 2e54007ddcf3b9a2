"""House rules that a linter does not know: docstrings, sizes, documents that name what exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    [*(ROOT / "server/diptych").rglob("*.py"), *(ROOT / "client/diptych_client").rglob("*.py")]
)
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("*/README.md")])
MODULE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70
PATHS = re.compile(r"`((?:server|client|examples|bench|tests|docs|config)/[\w./-]*\w)`")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_module_says_what_it_is_and_stays_small(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    if text.strip():
        assert ast.get_docstring(tree), "a module begins with what it knows and what it doesn't"
    assert len(text.splitlines()) <= MODULE_LINES_MAX
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= FUNCTION_LINES_MAX, f"{node.name} has {lines} lines"


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_a_document_names_files_that_exist(path: Path) -> None:
    for named in PATHS.findall(path.read_text()):
        assert (ROOT / named).exists(), f"{name(path)} names {named}"
