"""The test program of page tracking: same values, same offsets, same order."""

from __future__ import annotations

import json

import pytest

from diptych.cli import main
from diptych.memory import userfault

EXPECTED = """\
5
9
14
35
offset 0
offset 1
offset 3
asked again: offset 0, offset 1, offset 3
at most two: offset 0, offset 1
after clearing: nothing
page 5 written, tracking off: nothing
page 6 written, tracking on again: offset 6
"""


def refused() -> int:
    raise PermissionError(1, "Operation not permitted")


@pytest.mark.parametrize("tracker", ["auto", "kernel", "compare"])
def test_the_written_pages_are_listed(tracker: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pages", "--tracker", tracker]) == 0
    first, rest = capsys.readouterr().out.split("\n", 1)
    assert first.startswith("tracker: compare" if tracker == "compare" else "tracker: kernel")
    assert rest == EXPECTED


def test_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pages", "--json", "--tracker", "compare"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "tracker": "compare",
        "opened_by": "",
        "values": [5, 9, 14, 35],
        "written": [0, 1, 3],
        "again": [0, 1, 3],
        "limited": [0, 1],
        "cleared": [],
        "off": [],
        "on": [6],
    }


def test_without_the_kernels_tracking(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in list(userfault.OPENINGS):
        monkeypatch.setitem(userfault.OPENINGS, name, refused)
    assert main(["pages", "--tracker", "kernel"]) == 1
    assert "Operation not permitted" in capsys.readouterr().err
    assert main(["pages"]) == 0
    assert capsys.readouterr().out == "tracker: compare\n" + EXPECTED
