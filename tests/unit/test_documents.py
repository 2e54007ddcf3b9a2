"""Documents and ready-made files say what is so."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from diptych.cli import COMMANDS
from diptych.config import OPTIONS, load

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("option", OPTIONS.values(), ids=lambda option: option.path)
def test_every_setting_is_documented_with_its_default(option: object) -> None:
    text = (ROOT / "docs/configuration.md").read_text()
    (line,) = [row for row in text.splitlines() if row.startswith(f"| `{option.name}` |")]
    default = option.default
    shown = '""' if default == "" else "none" if default in (None, ()) else default
    shown = ", ".join(shown) if isinstance(shown, tuple) else shown
    assert f"| {shown} |" in line
    assert f"`{option.variable}`" in line
    assert option.metadata["help"] in line


def test_the_ready_made_file_holds_every_setting_at_its_default() -> None:
    path = ROOT / "config/exchange.toml"
    assert load(path, environment={}).sync == load(environment={}).sync
    assert load(path, environment={}).limits == load(environment={}).limits
    assert load(path, environment={}).log == load(environment={}).log
    assert load(path, environment={}).processes == load(environment={}).processes
    given = tomllib.loads(path.read_text())
    sections = ("sync", "limits", "log", "processes")
    paths = set(given) | {f"{s}.{n}" for s in sections for n in given[s]}
    left_out = {"data", "sync.images_directory", "log.archive"}
    assert {o.path for o in OPTIONS.values()} - paths == left_out


def test_the_readme_names_every_command() -> None:
    text = (ROOT / "README.md").read_text()
    for command in COMMANDS:
        assert f"`{command}`" in text or f"diptych {command}" in text


def test_the_readme_walks_through_the_bank_as_it_is() -> None:
    bank = (ROOT / "examples/bank.py").read_text()
    readme = (ROOT / "README.md").read_text()
    shown = readme.split("```python\n", 1)[1].split("```", 1)[0]
    for line in shown.splitlines():
        code = line.split("#")[0].strip()
        assert code in bank, f"the README shows {code!r}"
