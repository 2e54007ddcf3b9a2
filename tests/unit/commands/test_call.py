"""`diptych call` against a scripted server: one transaction's own key, and what became of it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.unit.client.fakes import Connection, serving_in_thread

from diptych.commands import call
from diptych_client.protocol import Kind
from diptych_client.requests import OUTCOME, OUTCOME_OF_KEY

SESSION = 5 << 20


async def script(connection: Connection) -> None:
    """Answers with what was sent; a question about session 1 was not run, about 2 was rejected."""
    await connection.greet(session=SESSION)
    while True:
        kind, operation, request, _, _, content = await connection.read()
        if operation == OUTCOME and content[0] == 1:
            connection.send(Kind.ERROR, {"code": "not_executed", "message": ""}, request=request)
        elif operation == OUTCOME and content[0] == 2:
            connection.send(Kind.REJECTED, ["closed", {"day": 3}], request=request)
        elif operation in (OUTCOME, OUTCOME_OF_KEY):
            connection.send(Kind.RESULT, content, operation=3, request=request)
        elif kind == Kind.KEYED:
            connection.send(Kind.RESULT, content.hex(), request=request)


@pytest.fixture
def address() -> Iterator[str]:
    with serving_in_thread(script) as server:
        yield server.address


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    call.add_arguments(parser)
    return call.run(parser.parse_intermixed_args(list(words)))


Said = pytest.CaptureFixture[str]


def test_a_transaction_with_a_key(address: str, capsys: Said) -> None:
    assert run(address, "echo", "5", "--request", "web-8f3a") == 0
    assert bytes.fromhex(capsys.readouterr().out) == b"\x08web-8f3a\x91\x05"
    assert run(address, "echo", "5", "--request", "1/2") == 2
    assert "'1/2' is no key" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("request_", "shown"), [("6291459/17", [6291459, 17]), ("web-8f3a", ["web-8f3a"])]
)
def test_an_outcome(address: str, capsys: Said, request_: str, shown: Any) -> None:
    assert run(address, "--outcome", request_, "--json") == 0
    assert json.loads(capsys.readouterr().out) == shown


def test_an_outcome_that_is_no_value(address: str, capsys: Said) -> None:
    assert run(address, "--outcome", "1/1", "--json") == 1
    assert json.loads(capsys.readouterr().out)["error"] == "not_executed"
    assert run(address, "--outcome", "2/1", "--json") == 1
    assert json.loads(capsys.readouterr().out) == {"rejected": "closed", "details": {"day": 3}}
    assert run(address, "--outcome", "1/1", "echo", "5") == 2


def test_an_open_outcome_says_how_to_ask(address: str, capsys: Said) -> None:
    assert run(address, "echo", "5", "--timeout", "0.2") == 1
    assert f"diptych call {address} --outcome {SESSION}/1" in capsys.readouterr().err
    assert run(address, "echo", "5", "--timeout", "0.2", "--json") == 1
    assert json.loads(capsys.readouterr().out)["request"] == f"{SESSION}/1"
