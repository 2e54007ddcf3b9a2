"""Directories for tests that model a disk themselves."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.power import MEMORY


@pytest.fixture
def work() -> Iterator[Path]:
    """An empty directory, in memory where that can be had."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as path:
        yield Path(path)
