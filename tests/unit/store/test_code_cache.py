"""Compiled handlers on disk: what their key is made of, what is never run, and that a second start
compiles nothing."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numba
import numpy as np
import pytest

import bank
import diptych
from diptych import Rejected, kernel
from diptych.store.compiled import code_cache, dependencies, handlers
from diptych.store.compiled.code_cache import Stored, StoredOperation
from diptych.store.compiled.dependencies import OWN_SOURCES, key_of, own_sources
from diptych.store.compiled.machine import Code

pytestmark = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled")

ROOT = Path(__file__).parents[3]
FILES = {
    "shop/__init__.py": "",
    "shop/app.py": (
        "from enum import IntEnum\n"
        "from typing import Annotated, NamedTuple\n"
        "from diptych import App, Db, Rejected, between, key\n"
        "from shop import rules\n"
        "import elsewhere\n"
        "app = App('shop', compiled=True)\n"
        "class Kind(IntEnum):\n"
        "    GOOD = 1\n"
        "class Line(NamedTuple):\n"
        "    count: int\n"
        "    kind: Kind = Kind.GOOD\n"
        "@app.table\n"
        "class Thing:\n"
        "    id: int = key()\n"
        "    count: Annotated[int, between(0, 100)] = 0\n"
        "@app.transaction\n"
        "def add(db: Db, id: int, line: Line) -> int:\n"
        "    row = db.thing.get_or_insert(id=id)\n"
        "    if row.count + line.count > elsewhere.MOST:\n"
        "        raise Rejected('too_many', most=elsewhere.MOST)\n"
        "    row.count += rules.counted(line.count)\n"
        "    return row.count\n"
        "@app.query(compiled=False)\n"
        "def count(db: Db, id: int) -> int:\n"
        "    return db.thing[id].count\n"
    ),
    "shop/rules.py": "FACTOR = 2\ndef counted(count: int) -> int:\n    return count * FACTOR\n",
    "library/elsewhere.py": "MOST = 50\n",
}
START = """
import sys
from pathlib import Path
from diptych import kernel
kernel.CACHE_DIRECTORY = Path(sys.argv[1])  # of handlers; kernels' own is chosen by now
from diptych.store.compiled.handlers import compiled_operations
from shop.app import Line, app
told = []
def refuse(*given, **named):
    raise AssertionError("compiled again")
if sys.argv[2] == "again":
    from numba.core import compiler, typeinfer
    kept = compiler.compile_extra, typeinfer.TypeInferer.propagate
    compiler.compile_extra = typeinfer.TypeInferer.propagate = refuse
compiled_operations(app, progress=told.append)
print(len(told))
if sys.argv[2] == "again":
    compiler.compile_extra, typeinfer.TypeInferer.propagate = kept  # for kernels of the engine
    from tests.support.lanes import Lanes
    with Lanes(app) as lanes:
        for arguments in [(1, Line(3)), (1, Line(-9)), (1, Line(60)), (2, Line(5))]:
            print(lanes.check("add", *arguments))
        assert lanes.benches[1].add(1, Line(1)) == 8
        assert lanes.benches[1]._engine.compiled > 0
"""


def write_shop(root: Path, changes: dict[str, tuple[str, str]] | None = None) -> None:
    for name, content in FILES.items():
        if changes and name in changes:
            old, new = changes[name]
            assert old in content
            content = content.replace(old, new)
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Imports the shop from a directory, as a new process would."""

    def imported(root: Path) -> ModuleType:
        for name in [each for each in sys.modules if each.split(".")[0] in ("shop", "elsewhere")]:
            del sys.modules[name]
        importlib.invalidate_caches()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "path", [str(root), str(root / "library"), *sys.path])
            patch.setattr(sys, "dont_write_bytecode", True)
            return importlib.import_module("shop.app")

    yield imported
    for name in [each for each in sys.modules if each.split(".")[0] in ("shop", "elsewhere")]:
        del sys.modules[name]


def key_in(root: Path, fresh: Any) -> str:
    module = fresh(root)
    return key_of(module.app, handlers.chosen(module.app, every=False))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where compiled applications are kept in a test."""
    monkeypatch.setattr(kernel, "CACHE_DIRECTORY", tmp_path)
    code_cache._say_not_kept.cache_clear()
    return tmp_path / "handlers"


def stored(needs: str = "memcpy") -> Stored:
    code = Code("entry", (b"one", b"two"), (needs,))
    return Stored([StoredOperation("add", code, [1, -(2**63)], [2**63 - 1])], [[3], []])


# The key ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("shop/app.py", "row.count += ", "row.count = row.count + "),
        ("shop/app.py", "between(0, 100)", "between(0, 101)"),
        ("shop/app.py", "GOOD = 1", "GOOD = 2"),
        ("shop/app.py", "id: int, line: Line", "id: int, line: Line = Line(1)"),
        ("shop/app.py", "@app.query(compiled=False)", "@app.query"),
        ("shop/rules.py", "FACTOR = 2", "FACTOR = 3"),
        ("shop/rules.py", "count * FACTOR", "FACTOR + count"),
        ("library/elsewhere.py", "MOST = 50", "MOST = 51"),
    ],
)
def test_another_source_is_another_key(
    file: str, old: str, new: str, tmp_path: Path, fresh: Any
) -> None:
    write_shop(tmp_path / "one")
    write_shop(tmp_path / "same")
    write_shop(tmp_path / "other", {file: (old, new)})
    before = key_in(tmp_path / "one", fresh)
    assert key_in(tmp_path / "same", fresh) == before
    assert key_in(tmp_path / "other", fresh) != before


def test_a_constant_set_at_run_time_is_another_key(tmp_path: Path, fresh: Any) -> None:
    write_shop(tmp_path)
    app = fresh(tmp_path).app
    before = key_of(app, handlers.chosen(app, every=False))
    sys.modules["elsewhere"].MOST = 7  # type: ignore[attr-defined]
    assert key_of(app, handlers.chosen(app, every=False)) != before


@pytest.mark.parametrize(
    ("module", "name"), [(np, "__version__"), (numba, "__version__"), (sys, "version")]
)
def test_another_version_is_another_key(
    module: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = key_of(bank.app, bank.app.operations)
    monkeypatch.setattr(module, name, "another")
    assert key_of(bank.app, bank.app.operations) != before


def test_switches_and_the_choice_of_operations_are_in_the_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = key_of(bank.app, bank.app.operations)
    assert key_of(bank.app, bank.app.operations[:1]) != before
    monkeypatch.setenv("NUMBA_CACHE_DIR", "elsewhere")
    assert key_of(bank.app, bank.app.operations) == before
    monkeypatch.setenv("NUMBA_OPT", "1")
    assert key_of(bank.app, bank.app.operations) != before


def test_another_processor_is_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key_of(bank.app, bank.app.operations)
    codegen = dependencies.cpu_target.target_context.codegen()
    monkeypatch.setattr(codegen, "_tm_features", "+another", raising=True)
    assert key_of(bank.app, bank.app.operations) != before


def test_diptychs_own_sources_are_in_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "same", "other"):
        path = tmp_path / name / "store/compiled/exact.py"
        path.parent.mkdir(parents=True)
        path.write_text("x = 2" if name == "other" else "x = 1")
    assert own_sources(tmp_path / "one") == own_sources(tmp_path / "same")
    assert own_sources(tmp_path / "one") != own_sources(tmp_path / "other")
    before = key_of(bank.app, bank.app.operations)
    monkeypatch.setattr(diptych, "__file__", str(tmp_path / "one/__init__.py"))
    assert key_of(bank.app, bank.app.operations) != before


def test_the_key_covers_what_the_compiled_lane_imports() -> None:
    package = Path(diptych.__file__).parent
    covered = {path for pattern in OWN_SOURCES for path in package.glob(pattern)}
    for module in (package / "store/compiled").glob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("diptych."):
                inside = package.joinpath(*str(node.module).split(".")[1:])
                file = inside.with_suffix(".py")
                assert not file.exists() or file in covered, (module, file)


# The files --------------------------------------------------------------------------------------


def test_what_is_written_is_read(place: Path) -> None:
    code_cache.write("shop", "k" * 32, stored())
    assert code_cache.read("shop", "k" * 32) == stored()
    assert code_cache.read("shop", "j" * 32) is None
    assert [path.stat().st_mode & 0o777 for path in place.iterdir()] == [0o600]
    assert place.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("damage", ["torn", "empty", "flipped", "other key", "longer"])
def test_a_damaged_file_is_not_used(
    damage: str, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    code_cache.write("shop", "k" * 32, stored())
    (path,) = place.iterdir()
    content = path.read_bytes()
    middle = len(content) // 2
    bad = {
        "torn": content[:-1],
        "empty": b"",
        "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "other key": content,
        "longer": content + b"x",
    }
    key = "k" * 32
    if damage == "other key":
        key = "j" * 32
        path = path.with_name(f"shop-{key}.code")
    path.write_bytes(bad[damage])
    path.chmod(0o600)
    assert code_cache.read("shop", key) is None
    assert "is damaged" in caplog.text


def test_what_others_could_have_written_is_not_used(place: Path) -> None:
    code_cache.write("shop", "k" * 32, stored())
    (path,) = place.iterdir()
    path.chmod(0o620)
    assert code_cache.read("shop", "k" * 32) is None
    path.chmod(0o600)
    assert code_cache.read("shop", "k" * 32) is not None
    place.chmod(0o770)
    assert code_cache.read("shop", "k" * 32) is None


def test_a_directory_that_is_a_link_is_not_used(place: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    place.symlink_to(tmp_path / "other")
    code_cache.write("shop", "k" * 32, stored())
    assert list((tmp_path / "other").iterdir()) == []


@pytest.mark.parametrize("where", ["none", "a file"])
def test_without_a_directory_nothing_is_kept_and_that_is_said_once(
    where: str, place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place.write_text("no directory")
    monkeypatch.setattr(kernel, "CACHE_DIRECTORY", None if where == "none" else place)
    for _ in range(3):
        code_cache.write("shop", "k" * 32, stored())
        assert code_cache.read("shop", "k" * 32) is None
    assert caplog.text.count("each start compiles them") == 1


def test_files_used_last_are_kept(place: Path) -> None:
    for number in range(code_cache.FILES_KEPT + 3):
        code_cache.write("shop", f"{number:032}", stored())
        os.utime(place / f"shop-{number:032}.code", (number, number))
    assert code_cache.read("shop", f"{3:032}") is not None  # used now
    code_cache.write("shop", "k" * 32, stored())
    code_cache.write("shop", "l" * 32, stored())
    assert len(list(place.iterdir())) == code_cache.FILES_KEPT
    assert code_cache.read("shop", f"{3:032}") is not None
    assert code_cache.read("shop", f"{4:032}") is None


# Starts -----------------------------------------------------------------------------------------


def start(root: Path, cache: Path, word: str) -> subprocess.Popen[str]:
    paths = [str(root), str(root / "library"), str(ROOT), *sys.path]
    return subprocess.Popen(
        [sys.executable, "-c", START, str(cache), word],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_two_first_starts_at_once_and_a_second_that_compiles_nothing(tmp_path: Path) -> None:
    write_shop(tmp_path)
    cache = tmp_path / "cache"
    cache.mkdir()
    both = [start(tmp_path, cache, "first") for _ in range(2)]
    told = [process.communicate(timeout=120)[0].split() for process in both]
    assert all(int(lines) in (0, 3) for (lines,) in told)
    assert ["3"] in told  # it began, one handler, all of it
    assert len(list((cache / "handlers").iterdir())) == 1
    again = start(tmp_path, cache, "again")
    lines = again.communicate(timeout=110)[0].splitlines()
    assert again.returncode == 0
    assert lines[:2] == ["0", "6"]
    assert lines[3] == "('rejected', 'too_many', {'most': 50})"


def test_damaged_code_is_compiled_anew(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    handlers.check_handlers(compiling(), progress=told.append)
    assert len(told) == 3
    (path,) = place.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    handlers.check_handlers(compiling(), progress=told.append)
    assert len(told) == 6
    assert code_cache.read("small", path.stem.removeprefix("small-")) is not None
    handlers.check_handlers(compiling(), progress=told.append)
    assert len(told) == 6


def test_code_that_needs_what_is_not_there_is_compiled_anew(place: Path) -> None:
    told: list[str] = []
    handlers.check_handlers(compiling(), progress=told.append)
    (path,) = place.iterdir()
    key = path.stem.removeprefix("small-")
    code_cache.write("small", key, stored("diptych_no_such_kernel"))
    handlers.check_handlers(compiling(), progress=told.append)
    assert len(told) == 6


def test_rejections_are_numbered_from_0_in_each_application(place: Path) -> None:
    for _ in range(2):
        handlers.check_handlers(compiling())
        (path,) = place.iterdir()
        found = code_cache.read("small", path.stem.removeprefix("small-"))
        assert found is not None
        assert len(found.rejections) == 2  # one of them is raised in two places
        path.unlink()


def compiling() -> diptych.App:
    app = diptych.App("small", compiled=True)
    app.transaction(add)
    return app


def checked(count: int) -> int:
    if count > 9:
        raise Rejected("too_many", most=9)
    return count


def add(db: diptych.Db, count: int) -> int:
    if count < 0:
        raise Rejected("too_few")
    if count == 5:
        raise Rejected("too_few")
    return checked(count) + 1
