"""`diptych inspect`: what it lists, decodes and says of damage, and that it changes nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgpack
import pytest
from tests.support.logged import NUMBERS, TARGET, logged
from tests.unit.commands.conftest import ROOT, Command
from tests.unit.durable.checkpoints import flip

from diptych.durable import DataDirectory, checkpoints_in, read_tail
from diptych.engine.attempts import FILE, Attempts, Ending
from diptych_client.protocol import Kind, encode_frame


def files_of(path: Path) -> dict[str, tuple[int, bytes]]:
    return {each.name: (each.stat().st_mtime_ns, each.read_bytes()) for each in path.iterdir()}


def as_json(command: Command, *words: object) -> dict[str, Any]:
    _, said = command("inspect", *words, "--json")
    told: dict[str, Any] = json.loads(said)
    return told


def test_it_lists_what_there_is_and_changes_nothing(command: Command, usual: Path) -> None:
    before = files_of(usual)
    code, said = command("inspect", usual)
    assert code == 0, said
    assert said.count("checkpoint-") == 3
    assert "transactions 2 to 15; 10 records" in said
    assert "not in use; the last one there, logged, ended in order, durability fsync" in said
    assert "the log behind transaction 12: up to 15, clean" in said
    assert "history 4d; version 1, Diptych" in said
    assert files_of(usual) == before


def test_as_json(command: Command, usual: Path) -> None:
    told = as_json(command, usual)
    assert [each["sequence"] for each in told["checkpoints"]] == [1, 9, 12]
    assert [each["pages_file"] for each in told["checkpoints"]] == [1, 2, 3]
    (segment,) = told["segments"]
    assert (segment["first"], segment["last"], segment["records"]) == (2, 15, 10)
    assert segment["facts"]["app"] == "logged"
    assert told["ending"]["state"] == "clean"
    assert told["lock"] | {"process": 0} == {
        "process": 0,
        "app": "logged",
        "held": False,
        "ended": "clean",
        "mode": "fsync",
    }
    assert told["damage"] == []


def test_who_has_it_locked(command: Command, own: Path) -> None:
    with DataDirectory.open(own, "logged") as directory:
        directory.begin("os")
        code, said = command("inspect", own)
        assert code == 0
        assert f"in use by process {os.getpid()}, logged, durability os" in said
    _, said = command("inspect", own)
    assert (
        "not in use; the last one there, logged, ended killed, and the host has run since" in said
    )


def test_records_with_names(command: Command, usual: Path) -> None:
    code, said = command("inspect", usual, "--app", TARGET, "--records")
    assert code == 0, said
    assert "2 request 1 session_open(identity=b'" in said
    assert "3 session 2097152 request 1 pay(source=1, target=2, amount=30)" in said
    assert "6 request 4 open_many(first=100, count=800)" in said
    assert "9 request 5 key 'invoice 7' pay(source=2, target=3, amount=5)" in said
    assert " aborts 2" in said
    assert ", before it " in said
    assert "8 RECURSION" in said
    assert "xxx... " in said, "long arguments are cut"
    assert "all up to 15 is safe" in said


def test_records_without_an_application_from_somewhere_and_a_few(
    command: Command, usual: Path
) -> None:
    code, said = command("inspect", usual, "--from", 4, "--limit", 2)
    assert code == 0
    assert f"4 session 2097152 request 2 #{NUMBERS['pay']}(1, 2, 500)" in said
    assert "\n  3 " not in said, "it is in the same record, before what was asked for"
    assert said.count("record ") == 2


def test_records_as_json_are_one_a_line(command: Command, usual: Path) -> None:
    code, said = command("inspect", usual, "--app", TARGET, "--from", 9, "--json")
    assert code == 0
    told = [json.loads(line) for line in said.splitlines()]
    keyed = told[0]["transactions"][0]
    assert (keyed["key"], keyed["operation"], keyed["arguments"]) == ("invoice 7", "pay", [2, 3, 5])
    noted = told[1]["transactions"][1]
    assert noted["arguments"][0] == 3
    assert len(noted["arguments"][1]) < 500
    assert [each["kind"] for each in told][-1] == "MARK"


def test_garbage_is_shown_as_such(command: Command, tmp_path: Path) -> None:
    payloads = [b"\xc1\xff", msgpack.packb(7), b"\x05no", msgpack.packb([{1: float("nan")}])]
    kinds = [Kind.TRANSACTION, Kind.TRANSACTION, Kind.KEYED, Kind.TRANSACTION]
    with logged(tmp_path / "data") as made:
        frames = [
            encode_frame(kind, payload, operation=NUMBERS["pay"])
            for kind, payload in zip(kinds, payloads, strict=True)
        ]
        made.send(b"".join(frames), len(frames))
    code, said = command("inspect", tmp_path / "data", "--records", "--app", TARGET)
    assert code == 0
    assert r"2 request 0 pay(?): b'\xc1\xff', no msgpack" in said
    assert "3 request 0 pay(7)" in said
    assert r"4 request 0 pay(?): b'\x05no', no msgpack" in said
    assert "5 request 0 pay(source={1: nan})" in said
    code, said = command("inspect", tmp_path / "data", "--records", "--json")
    assert code == 0
    lines = [json.loads(line) for line in said.splitlines()]
    transactions = [each for line in lines for each in line.get("transactions", [])]
    assert ["garbage" in t for t in transactions] == [True, False, True, False]


def test_a_damaged_record_is_said_and_where(command: Command, own: Path) -> None:
    (log,) = own.glob("log-*")
    # The first that no checkpoint has: damage to the others is passed over.
    needed = next(iter(read_tail(own, checkpoints_in(own)[-1].sequence, None))).offset
    flip(log, needed + 70)
    code, said = command("inspect", own)
    assert code == 1
    assert "DAMAGED: the log is damaged: log-" in said
    code, said = command("inspect", own, "--records")
    assert code == 1
    assert "diptych inspect: the log is damaged: log-" in said
    assert f"at byte {needed}: the record there is not whole" in said


def test_other_damage_is_said(command: Command, own: Path) -> None:
    newest, older, oldest = sorted(own.glob("checkpoint-*"), reverse=True)
    flip(newest, 40)
    flip(older, 4096 + 8)
    flip(own / "pages-1.diptych", 5 * 4096)
    (own / FILE).write_text("{}")
    told = as_json(command, own)
    assert [bool(each["damage"]) for each in told["checkpoints"]] == [False, True, True]
    assert len(told["damage"]) == 3
    code, said = command("inspect", own, "--pages")
    assert code == 1
    assert f"{oldest.name}: DAMAGED" in said
    assert f"DAMAGED: {own / FILE}: " in said


def test_the_counts_of_deaths_are_told(command: Command, own: Path) -> None:
    Attempts(own).ended(15, Ending.FATAL_SIGNAL, executed=0, now_s=0.0)
    _, said = command("inspect", own)
    assert "transaction 15 ended a writer: 1 times" in said
    assert as_json(command, own)["attempts"]["counts"] == {"15": 1}


def test_following_shows_what_is_written_and_the_next_file(tmp_path: Path) -> None:
    path = tmp_path / "data"
    with logged(path) as made:
        made.run(("pay", 1, 2, 1))
        reader = subprocess.Popen(
            [sys.executable, "-m", "diptych.cli", "inspect", str(path), "--follow", "--json"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert reader.stdout is not None
        try:
            assert json.loads(reader.stdout.readline())["first"] == 2
            for _ in range(3):
                made.run(("annotate", 1, "x" * 30_000))
            made.run(("pay", 1, 2, 2))
            seen = [json.loads(reader.stdout.readline()) for _ in range(4)]
            assert [each["first"] for each in seen] == [3, 4, 5, 6]
            assert len({each["file"] for each in seen}) > 1
            reader.send_signal(signal.SIGINT)
            assert reader.wait(20) == 0
        finally:
            reader.kill()
            reader.wait()
            reader.stdout.close()


def test_what_is_no_directory_is_refused(command: Command, tmp_path: Path) -> None:
    code, said = command("inspect", tmp_path / "nowhere")
    assert (code, said) == (2, f"diptych inspect: {tmp_path / 'nowhere'} is not a directory\n")
    assert command("inspect", tmp_path)[0] == 0
    with pytest.raises(SystemExit, match="0"):
        command("inspect", "--help")
