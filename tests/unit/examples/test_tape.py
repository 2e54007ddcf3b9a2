"""Tapes: reading them, playing them, and accounting for every event."""

from __future__ import annotations

import json
import lzma
from itertools import islice
from pathlib import Path

import pytest

from diptych.testing import Server, running
from exchange import tape
from exchange.flow import Flow
from exchange.player import Cancel, Fill, Place, Tally
from exchange.schema import Side, app
from exchange.tape import COLUMNS, SYMBOL, TapeError, play, read_events, tape_setup

HEADER = ",".join(COLUMNS)
LINES = [
    HEADER,
    "9,1,1,236.47,500,changed,bid",  # created before the file began
    "1,1,1,236.47,1000,created,bid",
    "2,1,1,236.50,700,created,ask",
    "3,1,1,236.50,300,created,bid",  # buys 300 of order 2
    "2,1,1,236.50,400,changed,ask",  # as the tape says it did
    "3,1,1,236.50,0,deleted,bid",
    "2,1,1,236.50,400,deleted,ask",
    "1,1,1,236.47,1000,deleted,bid",
    "8,1,1,236.00,100,deleted,ask",  # created before the file began
    "4,1,1,236.00,200,created,ask",
    "5,1,1,236.00,200,created,bid",  # here it takes all of order 4
    "4,1,1,236.00,200,deleted,ask",  # where the tape had it cancelled
    "5,1,1,236.00,200,deleted,bid",
]


def test_lines_become_events() -> None:
    events = list(read_events(LINES[:10]))
    assert events[0] == Fill(9, whole=False)
    assert events[1] == Place(1, 2, SYMBOL, Side.BUY, 23_647, 1_000)
    assert events[2] == Place(2, 3, SYMBOL, Side.SELL, 23_650, 700)
    assert events[5] == Fill(3, whole=True)
    assert events[6] == Cancel(2)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("1,1,1,236.4,1000,created,bid", "two decimals"),
        ("1,1,1,236,1000,created,bid", "two decimals"),
        ("x,1,1,236.40,1000,created,bid", "'x'"),
        ("1,1,1,236.40,1000,made,bid", "made"),
        ("1,1,1,236.40,1000,created,up", "up"),
        ("1,1,1,236.40,1000,created", "unpack"),
    ],
)
def test_bad_lines_are_named(line: str, reason: str) -> None:
    with pytest.raises(TapeError, match="line 2") as bad:
        list(read_events([HEADER, line]))
    assert reason in str(bad.value)


def test_a_file_of_another_kind_is_refused() -> None:
    with pytest.raises(TapeError, match="line 1"):
        list(read_events(["time,price", "1,2"]))
    with pytest.raises(TapeError, match="line 1"):
        list(read_events([]))


def test_a_tally_insists_that_nothing_is_missing() -> None:
    tally = Tally(read=1)
    with pytest.raises(AssertionError):
        tally.check()
    tally.outcomes["accepted"] += 1
    tally.check()


@pytest.fixture(scope="module")
def server() -> Server:
    with running(app) as server:
        yield server


async def test_every_event_is_accounted_for(server: Server) -> None:
    tally, _, conservation = await play(server.address, read_events(LINES), tape_setup(), 1)
    assert tally.read == len(LINES) - 1
    assert tally.outcomes == {
        "accepted: order rests": 3,
        "accepted: order matched at once": 2,
        "accepted: order cancelled": 2,
        "rejected: unknown_order": 1,
        "unknown order: created before the tape began": 2,
        "no call: filled on the tape, here by our own matching": 2,
        "no call: to be cancelled, but all matched here at once": 1,
    }
    assert conservation.broken == []
    assert (conservation.trades, conservation.open_orders) == (2, 0)


async def test_generated_flow_with_hundreds_in_flight(server: Server) -> None:
    flow = Flow(accounts=20, symbols=4)
    events = list(islice(flow.events(), 3_000))
    tally, _, conservation = await play(server.address, events, flow.setup(), 300)
    assert tally.outcomes.total() == tally.read == 3_000
    assert tally.failures == 0
    assert conservation.broken == []


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "day.csv.xz"
    path.write_bytes(lzma.compress("\n".join(LINES).encode()))
    assert tape.main([str(path), "--in-flight", "1"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert "13  of 13 events read" in "\n".join(shown)
    figures = json.loads(shown[-1])
    assert figures["events"] == sum(figures["outcomes"].values()) == 13
    assert figures["broken"] == []


def test_command_line_refuses_a_missing_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert tape.main(["no-such-file.csv"]) == 2
    assert "no-such-file" in capsys.readouterr().err
