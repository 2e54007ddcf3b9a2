"""The examples of docs/compiled.md compile, or are refused with what the document says."""

from __future__ import annotations

import linecache
import re
from pathlib import Path
from typing import Any

import pytest

from diptych import App, Db, Rejected, key
from diptych.store.compiled.handlers import check_handlers

TEXT = (Path(__file__).parents[3] / "docs/compiled.md").read_text()
EXAMPLES = re.findall(r"```python (compiles|refused: [^\n]*)\n(.*?)```", TEXT, re.DOTALL)


class Account:
    id: int = key()
    cash: int = 0


def test_the_document_has_examples_of_both() -> None:
    assert len({said.partition(":")[0] for said, _ in EXAMPLES}) == 2


@pytest.mark.parametrize(("said", "source"), EXAMPLES)
def test_an_example_does_what_the_document_says(said: str, source: str) -> None:
    name = f"<{said} {hash(source)}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    names: dict[str, Any] = {"Db": Db, "Rejected": Rejected, "__name__": __name__}
    exec(compile(source, name, "exec", dont_inherit=True), names)
    (function,) = [each for each in names.values() if hasattr(each, "__code__")]
    app = App("documented", compiled=True)
    app.table(Account)
    app.transaction(function)
    (refusal,) = check_handlers(app, progress=lambda line: None).values()
    if said == "compiles":
        assert refusal == ""
    else:
        assert said.removeprefix("refused: ") in refusal
