"""The worked examples of docs/protocol.md, encoded and decoded, byte for byte."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgpack
import pytest

from diptych_client.errors import ERRORS, error_from
from diptych_client.protocol import (
    FIRST_OTHER_REQUEST,
    IDENTITY_BYTES,
    PREAMBLE,
    REQUEST_WINDOW,
    SESSION_MIN,
    FrameSplitter,
    Kind,
    encode_frame,
)
from diptych_client.requests import KEY_BYTES_MAX, OUTCOME, OUTCOME_OF_KEY, keyed

DOCUMENT = (Path(__file__).parents[3] / "docs/protocol.md").read_text()
BLOCKS = re.findall(r"^```(frame|errors|bytes)\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
FRAMES = [text for kind, text in BLOCKS if kind == "frame"]
SECTION_7 = DOCUMENT.split("## 7.")[-1]
CODES = set(ERRORS) - {"error", "unavailable"}
WRITING = {Kind.TRANSACTION, Kind.KEYED}
EMPTY = {Kind.INFO, Kind.PING, Kind.PONG, Kind.CLOSING}


def octets(text: str) -> bytes:
    return bytes.fromhex("".join(line.partition(";")[0] for line in text.splitlines()))


def content_of(text: str) -> Any:
    """JSON, with h'5d41' for bytes."""
    marked = re.sub(r"h'([0-9a-f]*)'", r'{"bytes in hex": "\1"}', text)

    def restore(found: dict[str, Any]) -> Any:
        return bytes.fromhex(found["bytes in hex"]) if "bytes in hex" in found else found

    return json.loads(marked, object_hook=restore)


def read(example: str) -> tuple[Kind, dict[str, int], Any, bytes]:
    said, _, data = example.partition("---\n")
    first, _, content = said.partition("\n")
    kind, *fields = first.split()
    numbers = {name: int(value) for name, _, value in (field.partition("=") for field in fields)}
    return Kind[kind], numbers, content_of(content) if content else None, octets(data)


def payload_of(kind: Kind, content: Any) -> bytes:
    if kind in EMPTY:
        return b""
    if kind is Kind.KEYED:
        key, arguments = content
        return keyed(key, msgpack.packb(arguments))
    packed: bytes = msgpack.packb(content)
    return packed


@pytest.mark.parametrize("example", FRAMES, ids=lambda text: text.split("\n", 1)[0])
def test_an_example_is_what_is_sent_and_understood(example: str) -> None:
    kind, numbers, content, data = read(example)
    payload = payload_of(kind, content)
    assert encode_frame(kind, payload, **numbers) == data

    ((got, operation, request, sequence, context, found),) = FrameSplitter(
        len(payload), preamble=False
    ).feed(data)
    assert got == kind
    names = ("operation", "request", "sequence", "context")
    assert dict(zip(names, (operation, request, sequence, context), strict=True)) == {
        name: numbers.get(name, 0) for name in names
    }
    assert found == payload
    if kind is not Kind.KEYED:
        assert (msgpack.unpackb(found) if found else None) == content


def test_the_preamble() -> None:
    (text,) = [text for kind, text in BLOCKS if kind == "bytes"]
    assert octets(text) == PREAMBLE


def test_every_kind_and_every_code_is_described() -> None:
    table = dict(re.findall(r"^\| (\d+) \| ([A-Z]+) \|", DOCUMENT, re.MULTILINE))
    assert table == {str(int(kind)): kind.name for kind in Kind}
    described = set(re.findall(r"^\| `(\w+)` \|", SECTION_7, re.MULTILINE))
    assert described == CODES


def test_every_kind_has_an_example() -> None:
    assert {read(example)[0] for example in FRAMES} == set(Kind)


def test_every_code_has_an_example() -> None:
    (text,) = [text for kind, text in BLOCKS if kind == "errors"]
    examples = re.findall(r"^(\{.*\})\n((?:[0-9a-f]{2}[ \n])+)", text, re.MULTILINE)
    for said, data in examples:
        content = content_of(said)
        assert msgpack.packb(content) == bytes.fromhex(data)
        error = error_from(content)
        assert type(error) is ERRORS[content["code"]]
        assert {name: getattr(error, name) for name in error.fields} == {
            name: value for name, value in content.items() if name not in ("code", "message")
        }
    assert [content_of(said)["code"] for said, _ in examples] == re.findall(
        r"^\| `(\w+)` \|", SECTION_7, re.MULTILINE
    )


def test_requests_are_numbered_as_told() -> None:
    session = None
    last = 0
    for kind, numbers, content, _ in map(read, FRAMES):
        if kind is Kind.HELLO:
            assert len(content["identity"]) == IDENTITY_BYTES
        elif kind is Kind.WELCOME:
            session = content["session"]
            assert session >= SESSION_MIN
        elif kind in WRITING:
            assert (numbers["context"], numbers["request"]) == (session, last + 1)
            last += 1
        elif kind in (Kind.QUERY, Kind.PING, Kind.INFO, Kind.ADMIN):
            assert numbers["request"] >= FIRST_OTHER_REQUEST


@pytest.mark.parametrize(
    ("words", "number"),
    [
        ("From {} on it is a session that outlives", SESSION_MIN),
        ("bin of {} bytes, chosen at random", IDENTITY_BYTES),
        ("remembers the last {} numbers", REQUEST_WINDOW),
        ("A key is 1 to {} bytes of UTF-8", KEY_BYTES_MAX),
        ("| {} | transaction | `outcome(session: int, request: int)`", OUTCOME),
        ("| {} | transaction | `outcome_of_key(key: str)`", OUTCOME_OF_KEY),
    ],
)
def test_numbers_that_both_sides_know(words: str, number: int) -> None:
    text = " ".join(DOCUMENT.split())
    assert words.format(number) in text or words.format(f"{number:,}") in text
