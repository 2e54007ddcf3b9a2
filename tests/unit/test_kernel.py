"""Kernels are cached under all that they are made of, and called directly with the same results."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

from diptych import kernel
from diptych.store import undo

PACKAGE = Path(kernel.__file__).parent
COVERED = {path for pattern in kernel.KERNEL_SOURCES for path in PACKAGE.glob(pattern)}


def made_of(path: Path) -> set[Path]:
    """The module and what it imports of this package."""
    found = {path}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("diptych."):
            inside = PACKAGE.joinpath(*str(node.module).split(".")[1:])
            found |= {file for file in (inside.with_suffix(".py"),) if file.exists()}
            found |= {
                file
                for alias in node.names
                for file in [inside / f"{alias.name}.py"]
                if file.exists()
            }
    return found


def test_the_cache_is_named_after_everything_that_kernels_are_made_of() -> None:
    modules = [p for p in PACKAGE.rglob("*.py") if "\n@kernel" in p.read_text()]
    modules += [p for p in PACKAGE.rglob("*.py") if "\n@bulk_kernel" in p.read_text()]
    assert len(modules) > 5
    for module in modules:
        assert made_of(module) <= COVERED, module


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled")
def test_another_source_is_another_cache(tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-c", "from diptych import kernel; print(kernel.CACHE_DIRECTORY)"],
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    directory = Path(told.stdout.strip())
    assert directory.parent == tmp_path
    assert directory.is_dir()
    assert kernel.CACHE_DIRECTORY is not None
    assert directory.name == kernel.CACHE_DIRECTORY.name


def test_old_caches_are_forgotten(tmp_path: Path) -> None:
    for number in range(kernel.CACHES_KEPT + 3):
        path = tmp_path / f"{number:016x}"
        path.mkdir()
        os.utime(path, (number, number))
    (tmp_path / "something else").mkdir()
    kernel._forget_old(tmp_path, path)
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert len(kept) == kernel.CACHES_KEPT + 1
    assert kept[0] == f"{3:016x}"


def test_a_direct_call_does_the_same() -> None:
    words = np.arange(2048, dtype=np.int64)
    words[518] = 600  # where the scratch begins
    assert kernel.direct(undo.mark, 0)(words) == undo.mark(words)


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled")
def test_a_first_start_says_that_it_compiles(tmp_path: Path) -> None:
    code = (
        "from diptych.kernel import direct, kernel\n"
        "from diptych.store import undo\n"
        "direct(undo.mark, 0)\n"
    )
    told = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        ).stderr.count("compiling kernels")
        for _ in range(2)
    ]
    assert told == [1, 0]
