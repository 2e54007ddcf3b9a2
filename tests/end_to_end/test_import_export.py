"""Imports and exports against a real server: round trips, cut-off imports, refusals, other work."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from tests.support import everything
from tests.support.bulk import raw_of
from tests.support.wire import wait_until

from diptych import Rejected
from diptych.bulk.files import NAMES
from diptych.bulk.system_client import SystemClient
from diptych.bulk.writing import Writer
from diptych.cli import main
from diptych.testing import Server, running

COLUMNS = everything.COLUMNS
OWNERS = everything.app.tables["owner"].by_name
ROWS = 3000


@pytest.fixture
def server() -> Iterator[Server]:
    with running(everything.app, readers=2) as server:
        with server.client() as client:
            for number in range(5):
                client.add_owner(number, f"owner {number}")
        yield server


def diptych(capsys: Any, *words: str | Path) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    said = capsys.readouterr()
    return code, said.out, said.err


def write(path: Path, kind: str, numbers: range) -> None:
    """A file of everything's rows, as an export writes it."""
    rows = [everything.row(number) for number in numbers]
    with Writer(path, kind, COLUMNS) as writer:
        writer.write({n: raw_of(c, [row[n] for row in rows]) for n, c in COLUMNS.items()})


def count(server: Server) -> int:
    """Of things, as of now."""
    with SystemClient(server.address) as client:
        client.see_all()
        return int(client.thing_count())


def test_what_was_exported_comes_back_equal(server: Server, tmp_path: Path, capsys: Any) -> None:
    write(tmp_path / "first.arrow", "arrow", range(1, ROWS))
    code, out, err = diptych(capsys, "import", server.address, "thing", tmp_path / "first.arrow")
    assert (code, err) == (0, "")
    assert f"{ROWS - 1:,} rows into thing" in out
    with server.client() as client:
        for number in (1, 7, 8, 2000):
            client.drop_thing(number)
    exported = {}
    for kind in NAMES:
        file = tmp_path / f"all.{kind}"
        code, out, _ = diptych(capsys, "export", server.address, "thing", "-o", file, "--json")
        assert code == 0
        told = json.loads(out)
        assert told["rows"] == ROWS - 5
        assert told["tables"] == [{"table": "thing", "file": str(file), "rows": ROWS - 5}]
        exported[kind] = file
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["first.arrow", *(f"all.{kind}" for kind in NAMES)]
    )
    original = pa.ipc.open_file(exported["arrow"]).read_all()
    for kind, file in exported.items():
        with running(everything.app, readers=1) as other:
            with other.client() as client:
                for number in range(5):
                    client.add_owner(number)
            code, out, err = diptych(capsys, "import", other.address, "thing", file, "--json")
            assert (code, err) == (0, ""), out
            assert json.loads(out)["rows"] == ROWS - 5
            again = tmp_path / f"again-{kind}.arrow"
            code, *_ = diptych(capsys, "export", other.address, "thing", "-o", again)
            assert code == 0
        assert pa.ipc.open_file(again).read_all().equals(original), kind


def test_csv_as_people_read_it(server: Server, tmp_path: Path, capsys: Any) -> None:
    given = "id,owner,price,fee,made,due,side,word,digest\n1,2,12.50,0.00001,"
    given += f"2024-01-31T12:00:00Z,2024-02-29,SELL,,{'ab' * 16}\n"
    given += f'2,3,-0.05,-1,2024-01-31 12:00:00.5+01:00,1969-12-31,-1,"",{"00" * 16}\n'
    path = tmp_path / "people.csv"
    path.write_text(given)
    code, _, err = diptych(capsys, "import", server.address, "thing", path)
    assert (code, err) == (0, "")
    out = tmp_path / "out.csv"
    assert diptych(capsys, "export", server.address, "thing", "-o", out)[0] == 0
    table = pyarrow.csv.read_csv(
        out,
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(COLUMNS, pa.string())
        ),
    )
    first, second = table.to_pylist()
    shown = {name: first[name] for name in ("price", "fee", "made", "due", "side", "digest")}
    assert shown == {
        "price": "12.50",
        "fee": "0.00001",
        "made": "2024-01-31T12:00:00.000000000Z",
        "due": "2024-02-29",
        "side": "SELL",
        "digest": "ab" * 16,
    }
    assert (second["price"], second["due"], second["side"]) == ("-0.05", "1969-12-31", "SELL")
    assert second["made"] == "2024-01-31T11:00:00.500000000Z"
    assert (first["short"], first["note"], first["mark"]) == ("-3", "nothing", "616263")
    line = out.read_text().splitlines()[1:]
    word = list(COLUMNS).index("word")
    assert [row.split(",")[word] for row in line] == ["", '""']


def test_columns_of_other_names(server: Server, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "foreign.parquet"
    table = pa.table({"number": [1, 2], "who": [0, 1], "junk": ["a", "b"]})
    pyarrow.parquet.write_table(table, path)
    words = ("import", server.address, "thing", path)
    code, _, err = diptych(capsys, *words)
    assert code == 2
    assert "column 'number' is none of thing's" in err
    code, _, err = diptych(capsys, *words, "--rename", "number=id", "--skip", "junk")
    assert "column 'who' is none of thing's" in err
    code, *_ = diptych(
        capsys, *words, "--rename", "number=id", "--rename", "who=owner", "--skip", "junk"
    )
    assert code == 0
    assert count(server) == 2
    for wrong, said in (
        (("--rename", "nmber=id"), "no column 'nmber'; did you mean 'number'"),
        (("--rename", "number=id", "--rename", "who=id", "--skip", "junk"), "two of its columns"),
        (("--rename", "number=id", "--skip", "junk", "--skip", "who"), "which has no default"),
    ):
        code, _, err = diptych(capsys, *words, *wrong)
        assert code == 2
        assert said in err
    path.rename(tmp_path / "foreign.txt")
    code, _, err = diptych(capsys, "import", server.address, "thing", tmp_path / "foreign.txt")
    assert "--format" in err
    code, _, err = diptych(capsys, "import", server.address, "thng", tmp_path / "foreign.txt")
    assert "no table 'thng'; did you mean 'thing'" in err
    assert diptych(capsys, "import", server.address)[0] == 2


def test_a_refused_row_refuses_all(server: Server, tmp_path: Path, capsys: Any) -> None:
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    one.write_text("id,owner\n" + "".join(f"{n},1\n" for n in range(100)))
    for body, code, column, row in (
        ("500,1,\n501,1,12.345\n", "bad_value", "price", 2),
        ("500,1,1\n501,x,1\n", "bad_value", "owner", 2),
        ("500,1,1\n501,77,1\n", "not_found", "owner", 2),
        ("500,1,1\n7,1,1\n", "duplicate_key", None, 2),
    ):
        two.write_text("id,owner,price\n" + body)
        words = ("import", server.address, "thing", one, two)
        exit_code, out, _ = diptych(capsys, *words, "--json")
        told = json.loads(out)
        if body.startswith("500,1,\n"):  # nothing between commas is None, which price can't be
            column, row = "price", 1
        assert (exit_code, told["rejected"]) == (1, code)
        assert (told["details"]["file"], told["details"]["row"]) == (str(two), row)
        assert told["details"].get("column") == column
        exit_code, _, err = diptych(capsys, *words)
        assert f"{two}, row {row}: {code}" in err
        assert "Nothing was imported" in err
        assert count(server) == 0
    two.write_text("id,owner\n500,1,3\n")
    exit_code, _, err = diptych(capsys, *words)
    assert exit_code == 2
    assert "Expected 2 columns" in err
    two.write_text("id,owner\n500,1\n")
    assert diptych(capsys, *words)[0] == 0
    assert count(server) == 101


def test_a_client_that_is_killed_leaves_nothing(
    server: Server, tmp_path: Path, capsys: Any
) -> None:
    path = tmp_path / "many.csv"
    path.write_text("id,owner\n" + "".join(f"{n},1\n" for n in range(400_000)))
    process = subprocess.Popen(
        [sys.executable, "-c", STOPS_MIDWAY, server.address, str(path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"midway\n"
    finally:
        process.kill()
        process.wait(20)
        process.stdout.close()  # type: ignore[union-attr]  # it was asked for
    with SystemClient(server.address) as client:
        assert 0 < client.system("import_status")["running"]["rows"] < 400_000
    assert count(server) == 0
    code, _, err = diptych(capsys, "import", server.address, "thing", path)
    assert code == 1
    assert "import_running" in err
    assert "--replace" in err
    assert diptych(capsys, "import", server.address, "thing", path, "--replace")[0] == 0
    assert count(server) == 400_000


STOPS_MIDWAY = """
import sys, time
from pathlib import Path
from diptych.bulk.importing import find_table, open_sources, run_import
from diptych.bulk.system_client import SystemClient

def stop(rows):
    print("midway", flush=True)
    time.sleep(60)

client = SystemClient(sys.argv[1])
spec = find_table(client, "thing")
run_import(client, spec, open_sources(spec, [Path(sys.argv[2])], None, {}, []), progress=stop)
"""


def test_other_transactions_go_on_meanwhile(server: Server, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "many.parquet"
    write(path, "parquet", range(1, 20_000))
    seen: list[int] = []
    done = threading.Event()

    def work() -> None:
        with server.client() as client:
            number = 100
            while not done.is_set():
                client.add_owner(number)  # which the count then waits to see
                seen.append(client.thing_count())
                number += 1

    worker = threading.Thread(target=work)
    worker.start()
    try:
        code, _, err = diptych(capsys, "import", server.address, "thing", path)
        wait_until(lambda: seen[-1] > 0)
    finally:
        done.set()
        worker.join(20)
    assert (code, err) == (0, "")
    assert set(seen) == {0, 19_999}
    assert seen.count(0) > 3


def test_an_abort_by_hand(server: Server, capsys: Any) -> None:
    with SystemClient(server.address) as client:
        client.system("import_begin", "thing")
    code, out, _ = diptych(capsys, "import", server.address, "--abort", "--json")
    assert (code, json.loads(out)) == (0, {"dropped_rows": 0})
    with SystemClient(server.address) as client:
        assert client.system("import_status")["running"] is None


def test_exports_are_of_one_instant_and_bounded(tmp_path: Path, capsys: Any) -> None:
    with running(everything.app, readers=2, export_bytes=1 << 20, export_idle_s=1) as server:
        with SystemClient(server.address) as client:
            for number in range(5):
                client.add_owner(number)
            told = client.system("export_begin", ["owner", "thing"])
            client.add_owner(99)
            assert [(t["name"], t["rows"]) for t in told["tables"]] == [("owner", 5), ("thing", 0)]
            part = client.system("export_part", told["token"], 0)
            assert len(part) == told["bytes"]
            assert client.system("export_part", told["token"], told["bytes"]) == b""
            assert client.system("export_end", told["token"]) is True
            assert client.system("export_end", told["token"]) is False
            for token in (told["token"], "../../../etc/passwd", ""):
                with pytest.raises(Rejected) as no:
                    client.system("export_part", token, 0)
                assert no.value.code == "export_expired"
            told = client.system("export_begin", ["owner"])
            time.sleep(1.2)
            client.system("export_begin", ["owner"])
            with pytest.raises(Rejected, match="export_expired"):
                client.system("export_part", told["token"], 0)
        write(tmp_path / "in.arrow", "arrow", range(1, 9000))
        assert diptych(capsys, "import", server.address, "thing", tmp_path / "in.arrow")[0] == 0
        code, out, _ = diptych(capsys, "export", server.address, "thing", "--json")
        told = json.loads(out)
        assert (code, told["rejected"]) == (1, "export_too_large")
        assert told["details"]["limit"] == 1 << 20
        code, _, err = diptych(capsys, "export", server.address, "thng")
        assert code == 2
        assert "did you mean 'thing'" in err


def test_exports_go_where_they_are_told(server: Server, tmp_path: Path, capsys: Any) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    words = ("export", server.address, "owner", "thing")
    assert diptych(capsys, *words, "-o", inside, "--format", "parquet")[0] == 0
    assert sorted(p.name for p in inside.iterdir()) == ["owner.parquet", "thing.parquet"]
    table = pyarrow.parquet.read_table(inside / "owner.parquet")
    assert table["name"].to_pylist() == [f"owner {number}" for number in range(5)]
    code, _, err = diptych(capsys, *words, "-o", tmp_path / "one.csv")
    assert (code, "need one" in err) == (2, True)
    code, _, err = diptych(capsys, "export", server.address, "owner", "-o", tmp_path / "no/one.csv")
    assert (code, "is no directory" in err) == (2, True)
    code, _, err = diptych(capsys, "export", server.address, "owner", "-o", tmp_path / "one.xls")
    assert (code, "ends in one of .csv, .parquet" in err) == (2, True)
    code, _, err = diptych(capsys, "export", "owner")
    assert (code, "'owner' is not host:port" in err) == (2, True)
    code, _, err = diptych(capsys, "import", "owner", inside / "owner.parquet")
    assert (code, "'owner' is not host:port" in err) == (2, True)
    code, _, err = diptych(capsys, "import", server.address, "owner", tmp_path / "no.csv")
    assert (code, err) == (2, f"diptych import: {tmp_path / 'no.csv'}: there is no such file\n")
    before = (inside / "owner.parquet").read_bytes()
    assert diptych(capsys, "export", server.address, "owner", "x", "-o", inside)[0] == 2
    assert (inside / "owner.parquet").read_bytes() == before


def test_a_data_directory_without_its_server(tmp_path: Path, capsys: Any) -> None:
    data, from_server, from_data = (tmp_path / name for name in ("data", "a.arrow", "b.arrow"))
    early = tmp_path / "early.arrow"
    write(tmp_path / "in.arrow", "arrow", range(1, 500))
    with running(everything.app, readers=1, data=str(data)) as server:
        with server.client() as client:
            for number in range(5):
                client.add_owner(number)
        assert diptych(capsys, "import", server.address, "thing", tmp_path / "in.arrow")[0] == 0
        assert diptych(capsys, "export", server.address, "thing", "-o", from_server)[0] == 0
        # The checkpoint that a server begins with.
        code, out, _ = diptych(capsys, "export", "--data", data, "thing", "-o", early, "--json")
        assert (code, json.loads(out)["rows"]) == (0, 0)
    (tmp_path / "empty").mkdir()
    code, _, err = diptych(capsys, "export", "--data", tmp_path / "empty", "thing")
    assert (code, "holds no checkpoint" in err) == (2, True)
    code, out, _ = diptych(capsys, "export", "--data", data, "thing", "-o", from_data, "--json")
    assert (code, json.loads(out)["rows"]) == (0, 499)
    first, second = (pa.ipc.open_file(path).read_all() for path in (from_server, from_data))
    assert first.equals(second)
    code, _, err = diptych(capsys, "export", "--data", data, "thng")
    assert (code, "did you mean 'thing'" in err) == (2, True)
    code, _, err = diptych(capsys, "export", "--data", tmp_path / "nowhere", "thing")
    assert (code, "is not a directory" in err) == (2, True)
    with running(everything.app, readers=1, data=str(data)) as server:
        assert count(server) == 499
        code, _, err = diptych(capsys, "import", server.address, "thing", from_data)
        assert (code, "duplicate_key" in err) == (1, True)


def test_the_servers_directory_goes_with_it(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = tmp_path / f"diptych-exports-{os.getuid()}-killed"
    left.mkdir()
    (left / "lock").touch()
    with running(everything.app, readers=1) as server:
        (directory,) = tmp_path.iterdir()
        assert directory != left
        assert directory.stat().st_mode & 0o777 == 0o700
        with SystemClient(server.address) as client:
            client.system("export_begin", ["owner"])
        (file,) = (directory / "files").iterdir()
        assert file.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == []


def test_a_command_may_be_called_import() -> None:
    assert importlib.import_module("diptych.commands.import_").HELP
