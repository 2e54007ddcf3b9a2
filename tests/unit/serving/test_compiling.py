"""Handlers are compiled in a child: what it makes and says, how it ends, when there is none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numba
import pytest

from diptych import App, Db, Rejected, kernel
from diptych.cli import main
from diptych.errors import ConfigurationError, DeclarationError
from diptych.serving import compiling, spawn
from diptych.serving.compiling import compile_apart
from diptych.store.compiled import code_cache, handlers
from diptych.testing import running

pytestmark = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled")

LIMIT_S = 600.0
SOURCE = """
from diptych import App, Db
app = App("small", compiled=True)
@app.transaction
def add(db: Db, count: int) -> int:
    return count + 1
"""
SLOW_START = """
import os, sys, time
from pathlib import Path
from diptych import kernel
kernel.CACHE_DIRECTORY = Path("cache")
from diptych.cli import main
from diptych.store.compiled import handlers
def slow(*given):
    print(os.getpid(), flush=True)
    time.sleep(100)
handlers.compile_operation = slow
sys.exit(main(["serve", "small:app", "--listen", "127.0.0.1:0"]))
"""


def add(db: Db, count: int) -> int:
    if count < 0:
        raise Rejected("too_few")
    return count + 1


def double(db: Db, count: int) -> int:
    return count * 2


def with_a_list(db: Db, count: int) -> int:
    return len([count])


def application(*more: Callable[..., Any]) -> App:
    app = App("small", compiled=True)
    for function in (add, *more):
        app.transaction(function)
    return app


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where code is kept in a test. Libraries' threads, of this process, take no part."""
    monkeypatch.setattr(kernel, "CACHE_DIRECTORY", tmp_path)
    monkeypatch.setattr(spawn, "thread_count", lambda: 1)
    monkeypatch.setattr(compiling, "thread_count", lambda: 1)
    code_cache._say_not_kept.cache_clear()
    return tmp_path / "handlers"


def never(*given: Any, **named: Any) -> NoReturn:
    raise AssertionError("this process shall not do that")


def no_child_is_left() -> bool:
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return True
    return False


def test_a_child_compiles_and_this_process_loads(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "diptych.compiled")
    app = application(double)
    assert compile_apart(app, LIMIT_S) == {"add": "", "double": ""}
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].startswith("compiling 2 handlers of small")
    assert lines[1].startswith("compiled add, 1 of 2")
    assert lines[3].startswith("compiled 2 handlers in")
    assert no_child_is_left()
    monkeypatch.setattr(handlers, "compile_operation", never)
    monkeypatch.setattr(compiling, "fork_child", never)
    assert compile_apart(app, LIMIT_S) == {}
    assert len(handlers.compiled_operations(app).transactions) == 2
    with app.open(lane="compiled") as bench:
        assert bench.double(4) == 8
        assert bench._engine.compiled == 1


def test_what_can_not_be_compiled_is_told_as_ever() -> None:
    told = compile_apart(application(with_a_list), LIMIT_S)
    assert told == handlers.check_handlers(application(with_a_list))
    assert told["add"] == ""
    assert "lists are compiled when they begin empty" in told["with_a_list"]


def test_an_application_that_can_not_be_compiled_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: Any) -> NoReturn:
        raise DeclarationError("not this one")

    monkeypatch.setattr(handlers, "db_types", fail)
    with pytest.raises(DeclarationError, match="not this one"):
        compile_apart(application(), LIMIT_S)


def test_beyond_the_limit_it_is_ended_and_the_handler_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compile_operation = handlers.compile_operation

    def slow(operation: Any, db: Any) -> Any:
        if operation.name == "double":
            time.sleep(100)
        return compile_operation(operation, db)

    handlers.check_handlers(application())  # kernels are compiled, in the child, too
    monkeypatch.setattr(handlers, "compile_operation", slow)
    with pytest.raises(ConfigurationError, match=r"compile_s: .* than 5 s, .* at double, 2 of 2;"):
        compile_apart(application(double), 5.0)
    assert no_child_is_left()


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "failed at add, 1 of 1: signal SIGKILL"),
        (never, "failed at add, 1 of 1: exit code 1"),
    ],
    ids=["killed", "error"],
)
def test_a_child_that_dies(
    how: Callable[[], Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers, "compile_operation", lambda *given: how())
    with pytest.raises(ChildProcessError, match=told):
        compile_apart(application(), LIMIT_S)
    assert no_child_is_left()


def test_without_a_place_for_code_nothing_is_forked(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compiling, "fork_child", never)
    place.write_text("no directory")
    assert compile_apart(application(), LIMIT_S) == {}
    assert "each start compiles them" in caplog.text


def test_a_place_that_can_not_be_written_to(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != place)
    assert not code_cache.is_usable()
    assert f"{place} can't be written to" in caplog.text


def test_beside_other_threads_nothing_is_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "thread_count", lambda: 2)
    monkeypatch.setattr(compiling, "fork_child", never)
    assert compile_apart(application(), LIMIT_S) == {}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_child_ends_with_its_parent(number: int, tmp_path: Path) -> None:
    """Ctrl-C reaches both; other signals the parent alone."""
    (tmp_path / "small.py").write_text(SOURCE)
    (tmp_path / "cache").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_START],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert child != process.pid
        send = os.killpg if number == signal.SIGINT else os.kill
        send(process.pid, number)
        assert process.wait(30) == (130 if number == signal.SIGINT else -number)
    until = time.monotonic() + 30
    while is_alive(child):
        assert time.monotonic() < until, "the child goes on"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# In a server, and in `diptych check`.


def test_a_server_compiles_once_and_never_in_a_takeover(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_operation = handlers.compile_operation

    def watched(*given: Any) -> Any:
        assert Path(f"/proc/{os.getppid()}/comm").read_text().strip() == "diptych:supervi"
        return compile_operation(*given)

    monkeypatch.setattr(handlers, "compile_operation", watched)
    with running(application(), readers=1) as server, server.client() as client:
        assert client.add(1) == 2
        assert server.log().count("compiled add, 1 of 1") == 1
        os.kill(server.pids["writer"][0], signal.SIGKILL)
        assert client.add(2) == 3
        assert server.log().count("compiling") == 1


def test_a_server_does_not_start_with_what_can_not_be_compiled() -> None:
    with (
        pytest.raises(RuntimeError, match="lists are compiled when they begin empty"),
        running(application(with_a_list)),
    ):
        pass


def test_serve_ends_with_2_and_the_reason(tmp_path: Path) -> None:
    (tmp_path / "small.py").write_text(SOURCE.replace("count + 1", "len([count])"))
    done = subprocess.run(
        [sys.executable, "-m", "diptych.cli", "serve", "small:app", "--listen", "127.0.0.1:0"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"diptych serve: {tmp_path}/small.py:6: can't be compiled: lists")


def test_check_has_the_limit_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "checked_small.py").write_text(SOURCE)
    (tmp_path / "small.toml").write_text('app = "checked_small:app"\ncompile_s = 1\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(handlers, "compile_operation", lambda *given: time.sleep(100))
    assert main(["check", "small.toml"]) == 2
    assert "compile_s: compiling handlers of small took longer than 1 s" in capsys.readouterr().err
    del sys.modules["checked_small"]
