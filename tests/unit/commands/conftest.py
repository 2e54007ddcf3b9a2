"""Commands run in this process: what they change of it is put back."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support import logged

from diptych.cli import main

ROOT = Path(__file__).parents[3]
Command = Callable[..., tuple[int, str]]


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("diptych")
    handlers, levels = list(root.handlers), (root.level, ours.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


@pytest.fixture
def command(
    logging_as_before: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    """Runs `diptych` with these words, where applications of the tests are found: its exit code,
    and what it prints.
    """
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(*words: object) -> tuple[int, str]:
        code = main([str(word) for word in words])
        told = capsys.readouterr()
        return code, told.out + told.err

    return run


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that nobody changes, with checkpoints of transactions 1, 9 and 12, log to 15."""
    path = tmp_path_factory.mktemp("usual") / "data"
    with logged.usual(path):
        pass
    return path


@pytest.fixture
def own(usual: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(usual, tmp_path / "own"))
