"""The worked examples of docs/protocol.md, encoded and decoded, byte for byte."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgpack
import pytest

from diptych_client.errors import ERRORS
from diptych_client.protocol import PREAMBLE, FrameSplitter, Kind, encode_frame

DOCUMENT = (Path(__file__).parents[3] / "docs/protocol.md").read_text()
BLOCKS = re.findall(r"^```(frame|bytes)\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
FRAMES = [text for kind, text in BLOCKS if kind == "frame"]
SECTION_7 = DOCUMENT.split("## 7.")[-1]
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


@pytest.mark.parametrize("example", FRAMES, ids=lambda text: text.split("\n", 1)[0])
def test_an_example_is_what_is_sent_and_understood(example: str) -> None:
    kind, numbers, content, data = read(example)
    payload = b"" if kind in EMPTY else msgpack.packb(content)
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
    assert (msgpack.unpackb(found) if found else None) == content


def test_the_preamble() -> None:
    (text,) = [text for kind, text in BLOCKS if kind == "bytes"]
    assert octets(text) == PREAMBLE


def test_every_kind_and_every_code_is_described() -> None:
    table = dict(re.findall(r"^\| (\d+) \| ([A-Z]+) \|", DOCUMENT, re.MULTILINE))
    assert table == {str(int(kind)): kind.name for kind in Kind}
    described = set(re.findall(r"^\| `(\w+)` \|", SECTION_7, re.MULTILINE))
    assert described == set(ERRORS) - {"error", "unavailable"}


def test_most_kinds_have_an_example() -> None:
    assert {read(example)[0] for example in FRAMES} == set(Kind) - {Kind.INFO}
