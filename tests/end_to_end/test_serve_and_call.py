"""`diptych serve` and `diptych call` as a person runs them: exit codes, and what is printed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.support.wire import alive, wait_until

from diptych.commands.call import parsed, show

EXAMPLES = Path(__file__).parents[2] / "examples"
DIPTYCH = [sys.executable, "-m", "diptych.cli"]


def diptych(*words: str, directory: Path = EXAMPLES) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DIPTYCH, *words], cwd=directory, capture_output=True, text=True, timeout=60, check=False
    )


class Served:
    """`diptych serve` in the examples' directory, until its banner is complete."""

    def __init__(self, *words: str) -> None:
        self.process = subprocess.Popen(
            [*DIPTYCH, "serve", *words, "--listen", "127.0.0.1:0"],
            cwd=EXAMPLES,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.banner = ""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.banner += line
            if "durability" in line:
                break
        found = re.search(r"serves \w+ at ([\d.:]+)", self.banner)
        assert found is not None, self.banner
        self.address = found[1]
        listed = re.search(r"processes: (.*)", self.banner)
        assert listed is not None
        self.pids = [int(pid) for pid in re.findall(r"\d+", listed[1])]

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=20)
        return self.process.returncode, said


@pytest.fixture(scope="module")
def bank() -> Iterator[Served]:
    served = Served("bank:app", "--readers", "1")
    yield served
    if served.process.poll() is None:
        served.end(signal.SIGKILL)


def test_the_banner_says_what_one_should_know(bank: Served) -> None:
    assert "serves bank at 127.0.0.1:" in bank.banner
    assert "(1 + 3 images) x" in bank.banner
    assert "nothing is on disk, so nothing outlives this server" in bank.banner
    assert len(bank.pids) == 4


def test_call_runs_an_operation(bank: Served) -> None:
    done = diptych("call", bank.address, "transfer", "1", "2", "50")
    assert (done.returncode, done.stdout, done.stderr) == (0, "950\n", "")
    done = diptych("call", bank.address, "total", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, 100_000)


def test_call_lists_operations(bank: Served) -> None:
    done = diptych("call", bank.address)
    assert done.returncode == 0
    assert "transaction  transfer(source: int, target: int, amount: int)" in done.stdout
    listed = json.loads(diptych("call", bank.address, "--json").stdout)
    assert listed == {"transfer": "transaction", "balance": "query", "total": "query"}


def test_call_shows_figures(bank: Served) -> None:
    told = json.loads(diptych("call", bank.address, "--info").stdout)
    assert told["durability"] == "none"


def test_call_shows_how_full_tables_are(bank: Served) -> None:
    shown = diptych("call", bank.address, "--tables").stdout.splitlines()
    assert [line.split() for line in shown] == [
        ["table", "rows", "capacity", "full", "memory"],
        ["account", "100", "1,000,000", "0.0%", "0.0", "MiB"],
    ]
    told = json.loads(diptych("call", bank.address, "--tables", "--json").stdout)
    assert told["account"]["allocated_rows"] == 512
    assert told["account"]["memory_bytes"] == 5 * 4096


def test_call_exit_codes(bank: Served) -> None:
    refused = diptych("call", bank.address, "transfer", "1", "2", "1000000")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "rejected: insufficient_funds" in refused.stderr
    told = diptych("call", bank.address, "transfer", "1", "2", "1000000", "--json")
    assert told.returncode == 1
    assert json.loads(told.stdout)["rejected"] == "insufficient_funds"
    assert diptych("call", bank.address, "transfr", "1", "2", "5").returncode == 2
    assert diptych("call", bank.address, "transfer", "1").returncode == 2
    nobody = diptych("call", "127.0.0.1:1", "total", "--timeout", "2")
    assert nobody.returncode == 1
    assert "Traceback" not in nobody.stderr


def test_call_takes_options_anywhere_and_tells_errors_as_json(bank: Served) -> None:
    for words in (["--json", bank.address, "total"], [bank.address, "--json", "total"]):
        done = diptych("call", *words)
        assert (done.returncode, done.stdout) == (0, "100000\n")
    refused = diptych("call", "--json", bank.address, "transfer", "1", "2", "-5")
    assert json.loads(refused.stdout)["details"]["needed"] == -5
    wrong = diptych("call", bank.address, "transfer", "1", "two", "5", "--json")
    assert (wrong.returncode, json.loads(wrong.stdout)["error"]) == (2, "bad_arguments")
    nobody = diptych("call", "127.0.0.1:1", "total", "--json")
    assert (nobody.returncode, json.loads(nobody.stdout)["error"]) == (1, "disconnected")
    assert diptych("call", bank.address, "--inf").returncode == 2


def test_sigterm_ends_it_in_order(bank: Served) -> None:
    """The last one for this server."""
    code, said = bank.end()
    assert code == 0
    assert "SIGTERM: draining" in said
    assert said.splitlines()[-1].endswith("ended in order")
    assert not any(alive(pid) for pid in bank.pids)


def test_ctrl_c_reaches_every_process_and_only_the_supervisor_minds() -> None:
    served = Served("bank:app", "--readers", "1", "--log-format", "json")
    for pid in served.pids:
        os.kill(pid, signal.SIGINT)
    _, said = served.process.communicate(timeout=20)
    assert served.process.returncode == 0
    assert [json.loads(line)["message"] for line in said.splitlines()] == [
        "SIGINT: draining",
        "ended in order",
    ]
    wait_until(lambda: not any(alive(pid) for pid in served.pids))


def test_a_configuration_file(tmp_path: Path) -> None:
    path = tmp_path / "bank.toml"
    path.write_text('app = "bank:app"\nreaders = 1\n[tables.account]\ncapacity = 500\n')
    checked = diptych("serve", str(path), "--check")
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "bank:app: 1 tables, 3 operations" in checked.stdout
    served = Served(str(path))
    assert served.end()[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bank:app", "--readers", "0"], "readers: must be 1 to 64"),
        (["bank:app", "--listen", "nowhere"], "is not host:port"),
        (["bank:app", "--capacity", "acount=5"], "did you mean 'account'"),
        (["bank:app", "--capacity", "account"], "is not TABLE=ROWS"),
        (["bank:aap"], "did you mean 'app'"),
        (["bank"], "is not module:name"),
        (["../bank.py:app"], "is not module:name"),
        (["bnak:app"], "there is no module 'bnak'"),
        (["bank:setup"], "not an App"),
        (["none.toml"], "No such file"),
        (["wrong:app"], "can't be imported: division by zero"),
        (["undeclared:app"], "a table needs a key"),
    ],
)
def test_what_is_wrong_ends_with_2_and_a_reason(
    tmp_path: Path, words: list[str], message: str
) -> None:
    (tmp_path / "bank.py").write_text((EXAMPLES / "bank.py").read_text())
    (tmp_path / "wrong.py").write_text("1 / 0\n")
    (tmp_path / "undeclared.py").write_text(
        "from diptych import App\napp = App('x')\n@app.table\nclass T:\n    a: int = 0\n"
    )
    done = diptych("serve", *words, "--check", directory=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert ("Traceback" in done.stderr) == (words == ["wrong:app"])


def test_an_address_in_use() -> None:
    served = Served("bank:app", "--readers", "1")
    port = served.address.rpartition(":")[2]
    done = diptych("serve", "bank:app", "--listen", f"127.0.0.1:{port}")
    assert done.returncode == 2
    assert "Address already in use" in done.stderr
    assert served.end()[0] == 0


def test_help_names_every_setting() -> None:
    said = diptych("serve", "--help").stdout
    for flag in ("--interval-ms", "--images-directory", "--tracker", "--query-ms", "--check"):
        assert flag in said
    assert "DIPTYCH_" in said


def test_rows_are_shown_one_a_line_with_names(capsys: pytest.CaptureFixture[str]) -> None:
    class Level(NamedTuple):
        price: int
        quantity: int

    levels = [Level(1, 2), Level(3, 4)]
    show(levels, as_json=False)
    assert capsys.readouterr().out == "Level(price=1, quantity=2)\nLevel(price=3, quantity=4)\n"
    show(levels, as_json=True)
    assert json.loads(capsys.readouterr().out) == [[1, 2], [3, 4]]
    show([], as_json=False)
    assert capsys.readouterr().out == "[]\n"


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("5", 5),
        ("-1.5", -1.5),
        ("true", True),
        ("null", None),
        ("AAPL", "AAPL"),
        ('"5"', "5"),
        ("[1, 2]", [1, 2]),
        ('{"a": 1}', {"a": 1}),
        ("", ""),
    ],
)
def test_words_are_json_where_they_can_be(word: str, value: object) -> None:
    assert parsed(word) == value
