"""What must be equal for a log to be run again: what counts, and how a difference is told."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bank import app as bank
from diptych import App, Db
from diptych.engine.facts import (
    FLOATS,
    SWITCHES,
    Facts,
    cpu_features,
    differences,
    facts_of,
    from_text,
    same_floats,
    to_text,
)
from diptych.errors import ConfigurationError, CorruptionError
from diptych.sources import code_digest

FILES = {
    "shop/__init__.py": "",
    "shop/app.py": """
from diptych import App, Db
from shop import prices
app = App("shop")
@app.transaction
def sell(db: Db, count: int) -> int:
    from .discounts.large import discount
    return prices.PRICE * count - discount(count)
""",
    "shop/prices.py": "from helpers import PRICE\n",
    "shop/discounts/__init__.py": "",
    "shop/discounts/large.py": """
from ..rounding import down
try:
    from .. import old
except SyntaxError:
    pass
def discount(count): return down(count)
""",
    "shop/old.py": "print 'of another Python'\n",
    "shop/rounding.py": "import math\ndown = math.floor\n",
    "shop/unused.py": "",
    "helpers.py": "PRICE = 5\n",
    "alone.py": """
import helpers
from diptych import App, Db
app = App("alone")
@app.transaction
def sell(db: Db) -> int:
    return helpers.PRICE
""",
}
Import = Callable[[Path, str], App]


@pytest.fixture
def imported(monkeypatch: pytest.MonkeyPatch) -> Iterator[Import]:
    """Imports an application from a directory, as a new process would."""

    def import_app(root: Path, name: str) -> App:
        forget()
        with monkeypatch.context() as patch:
            patch.syspath_prepend(str(root))
            found = importlib.import_module(name).app
        assert isinstance(found, App)
        return found

    def forget() -> None:
        for name in [*sys.modules]:
            if name.partition(".")[0] in ("shop", "alone", "helpers"):
                del sys.modules[name]

    yield import_app
    forget()


def write(root: Path, files: dict[str, str] = FILES) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


FACTS = facts_of(bank, "interpreted")


def test_facts_are_text_and_back() -> None:
    text = to_text(FACTS)
    assert from_text(text) == FACTS
    assert to_text(dict(reversed(FACTS.items()))) == text
    assert len(text) < 1500, "it goes into a page with other things"
    assert facts_of(bank, "interpreted") == FACTS


def test_facts_are_the_same_in_every_process() -> None:
    script = (
        "import bank; from diptych.engine.facts import *;"
        "print(to_text(facts_of(bank.app, 'interpreted')))"
    )
    environment = os.environ | {
        "PYTHONHASHSEED": "77",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    told = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, check=True, timeout=60
    )
    assert told.stdout.decode().strip() == to_text(FACTS)


@pytest.mark.parametrize("text", ["", "{", "[]", "7"])
def test_facts_that_are_none(text: str) -> None:
    with pytest.raises(CorruptionError, match="facts of a log"):
        from_text(text)


def test_equal_facts_do_not_differ() -> None:
    assert differences(FACTS, from_text(to_text(FACTS))) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"app": "shop"}, "application bank -> shop"),
        ({"version": 2}, "version 1 -> 2 of the application"),
        ({"tables": "x"}, "tables or their capacities"),
        ({"transactions": "x"}, "transactions' names, order or parameters"),
        ({"code": "x"}, "handlers' code"),
        ({"lane": "compiled"}, "lane interpreted -> compiled"),
        ({"diptych": "9"}, f"Diptych {FACTS['diptych']} -> 9"),
        ({"python": "CPython 3.99"}, f"{FACTS['python']} -> CPython 3.99"),
        ({"numpy": "9"}, f"numpy {FACTS['numpy']} -> 9"),
        ({"numba": "9"}, f"Numba {FACTS['numba']} -> 9"),
        ({"libc": "musl 1"}, f"C library {FACTS['libc']} -> musl 1"),
        ({"processor": ["riscv"]}, f"processor {FACTS['processor'][0]} -> riscv"),
        ({"switches": {"GLIBC_TUNABLES": "a"}}, "environment: GLIBC_TUNABLES '' -> 'a'"),
        ({"format": 2}, "format of the facts 1 -> 2"),
        ({"new": 1}, "new"),
    ],
)
def test_every_difference_is_told(changes: dict[str, Any], told: str) -> None:
    assert differences(FACTS, FACTS | changes) == [told]


def test_every_fact_is_among_the_differences() -> None:
    assert len(differences({}, FACTS)) == len(FACTS)


def test_a_processor_is_told_by_what_it_has() -> None:
    before = FACTS | {"processor": ["x86_64", "avx", "avx512f"]}
    after = FACTS | {"processor": ["x86_64", "amx", "avx"]}
    assert differences(before, after) == ["processor, now without avx512f and with amx"]
    assert differences(before, FACTS | {"processor": ["x86_64", "avx"]}) == [
        "processor, now without avx512f"
    ]


@pytest.mark.parametrize("name", sorted(FACTS))
def test_floats_depend_on_the_machine_and_not_on_the_code(name: str) -> None:
    assert same_floats(FACTS, FACTS | {name: "another"}) == (name not in FLOATS)


def test_features_of_a_processor() -> None:
    intel = "processor\t: 0\nmodel name\t: X avx9\nflags\t\t: fpu sse2 avx2 avx512f vme fma ssse3\n"
    assert cpu_features(intel) == ["avx2", "avx512f", "fma", "sse2", "ssse3"]
    assert cpu_features("Features\t: fp asimd sve2 crc32\n") == ["asimd", "sve2"]
    assert cpu_features("") == []


def test_a_switch_of_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCHES[0], "glibc.cpu.hwcaps=-AVX2")
    now = facts_of(bank, "interpreted")
    assert differences(FACTS, now) == [f"environment: {SWITCHES[0]} '' -> 'glibc.cpu.hwcaps=-AVX2'"]


def test_capacities_are_of_the_tables() -> None:
    table = next(iter(bank.tables))
    now = facts_of(bank, "interpreted", {table: 77})
    assert differences(FACTS, now) == ["tables or their capacities"]
    with pytest.raises(ConfigurationError):
        facts_of(bank, "interpreted", {"none": 1})


def test_the_place_of_the_files_makes_no_difference(tmp_path: Path, imported: Import) -> None:
    for name in ("shop.app", "alone"):
        here = facts_of(imported(write(tmp_path / "here"), name), "interpreted")
        there = facts_of(imported(write(tmp_path / "a" / "b"), name), "interpreted")
        assert here == there


@pytest.mark.parametrize(
    ("name", "file", "counts"),
    [
        ("shop.app", "shop/app.py", True),
        ("shop.app", "shop/prices.py", True),
        ("shop.app", "shop/discounts/large.py", True),
        ("shop.app", "shop/discounts/__init__.py", True),
        ("shop.app", "shop/rounding.py", True),
        ("shop.app", "shop/__init__.py", True),
        ("shop.app", "helpers.py", True),
        ("shop.app", "shop/old.py", True),
        ("shop.app", "shop/unused.py", False),
        ("shop.app", "alone.py", False),
        ("alone", "helpers.py", True),
        ("alone", "shop/app.py", False),
    ],
)
def test_code_is_what_the_handlers_import_from_beside_them(
    tmp_path: Path, imported: Import, name: str, file: str, counts: bool
) -> None:
    before = facts_of(imported(write(tmp_path / "before"), name), "interpreted")
    root = write(tmp_path / "after", FILES | {file: FILES[file] + "# another version\n"})
    after = facts_of(imported(root, name), "interpreted")
    assert differences(before, after) == ["handlers' code"] * counts


def test_libraries_count_by_their_versions(
    tmp_path: Path, imported: Import, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("site.getusersitepackages", lambda: str(tmp_path / "before"))
    before = facts_of(imported(write(tmp_path / "before"), "alone"), "interpreted")
    monkeypatch.setattr("site.getusersitepackages", lambda: str(tmp_path / "after"))
    root = write(tmp_path / "after", FILES | {"helpers.py": "PRICE = 6\n"})
    assert facts_of(imported(root, "alone"), "interpreted") == before


def test_a_query_is_no_part_of_it_but_its_place_is() -> None:
    def number_of(with_query: bool) -> Facts:
        app = App("places")

        def ask(db: Db) -> int:
            return 1

        def tell(db: Db) -> int:
            return 2

        if with_query:
            app.query(ask)
        app.transaction(tell)
        return facts_of(app, "interpreted")

    assert differences(number_of(False), number_of(True)) == [
        "transactions' names, order or parameters"
    ]


def test_code_without_a_file_counts_by_what_was_compiled() -> None:
    def compiled(text: str) -> Callable[..., Any]:
        names: dict[str, Any] = {"__name__": "nowhere"}
        exec(compile(text, "<told>", "exec"), names)
        found = names["act"]
        assert callable(found)
        return found  # type: ignore[no-any-return]  # of the text

    text = "def act(db):\n    return [x in {'a', 'b'} for x in db]\n"
    assert code_digest([compiled(text)]) == code_digest([compiled("\n\n" + text)])
    assert code_digest([compiled(text)]) != code_digest([compiled(text.replace("'b'", "'c'"))])
    assert code_digest([compiled(text)]) != code_digest(
        [compiled(text.replace("in {", "not in {"))]
    )


def test_a_script_is_the_same_code_as_its_module(tmp_path: Path) -> None:
    root = write(tmp_path)
    ask = (
        "\nfrom diptych.engine.facts import facts_of, to_text\nprint(to_text(facts_of({}, 'x')))\n"
    )
    (root / "alone.py").write_text(
        FILES["alone.py"] + "if __name__ == '__main__':" + ask.format("app").replace("\n", "\n    ")
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), *filter(None, sys.path)])}
    told = []
    for arguments in (
        ["alone.py"],
        ["-m", "alone"],
        ["-c", "import alone" + ask.format("alone.app")],
    ):
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=root,
            env=environment,
            capture_output=True,
            check=True,
            timeout=60,
        )
        told.append(json.loads(done.stdout))
    assert told[0] == told[1] == told[2]
