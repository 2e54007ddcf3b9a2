"""Queries that the gateway answers itself: as readers would, and without them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from numba.core import config
from tests.support import points
from tests.support.burst import Burst
from tests.support.points import CASH
from tests.support.wire import wait_until

from diptych.engine.lane import compiled_for
from diptych.serving.channel import Image
from diptych.serving.frames import PROMPT_QUERY, FrameBuffer
from diptych.serving.gateway import FIGURES_S
from diptych.serving.prompt import Prompt
from diptych.testing import EPOCH, Server, running
from diptych_client.errors import TimedOut
from diptych_client.protocol import HEADER_BYTES, Header, Kind, encode_frame

pytestmark = pytest.mark.skipif(config.DISABLE_JIT, reason="nothing is compiled")

CALLS: list[Any] = [
    ("point", 5),
    ("both", 1, 2),
    ("owner", 3),
    ("owner", 4, 8),
    ("owner", 4_000),
    ("at_most", 5, CASH),
    ("at_most", 5, 1),
    ("point", 4_000),
    ("point", "x"),
    ("point",),
    ("point", 1 << 63),
    ("total",),
    ("plain", 6),
    ("transfer", 1, 2, 3),
    ("unheard_of",),
    ("point", 7),
]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(points.app, interval_ms=2, query_ms=1_500) as server:
        yield server


def told(wire: Burst, *calls: Any) -> list[tuple[int, int, int, bytes]]:
    """Of each answer what does not depend on time."""
    wire.send(
        b"".join(
            encode_frame(
                Kind.QUERY,
                msgpack.packb(arguments),
                operation=wire.numbers.get(name, 999),
                request=request,
            )
            for request, (name, *arguments) in enumerate(calls, 1)
        )
    )
    found = {}
    for _ in calls:
        header, payload = wire.raw_frame()
        found[header.request] = (header.kind, header.operation, header.sequence, payload)
    return [found[request] for request in sorted(found)]


def test_the_gateway_answers_as_readers_do(server: Server) -> None:
    with (
        running(points.app, prompt_queries="readers") as other,
        Burst(server) as here,
        Burst(other) as there,
    ):
        assert told(here, *CALLS * 3) == told(there, *CALLS * 3)


def test_no_reader_is_needed(server: Server) -> None:
    with Burst(server) as wire:
        assert wire.burst(("total",)) != []
        readers = list(server.pids["reader"])
        for pid in readers:
            os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(FIGURES_S)  # older figures are not told again
            before = figures(server)
            assert wire.burst(*[("point", 900)] * 700) == [CASH] * 700
            assert wire.burst(("at_most", 5, 1)) == [["too_rich", {"cash": CASH, "most": 1}]]
            wait_until(lambda: figures(server)["rejected"] > before["rejected"])
            after = figures(server)
        finally:
            for pid in readers:
                os.kill(pid, signal.SIGCONT)
        assert after["results"] - before["results"] == 700
        assert after["rejected"] - before["rejected"] == 1
        assert after["in_flight"] == 0


def figures(server: Server) -> dict[str, Any]:
    with server.client() as client:
        found: dict[str, Any] = client.info()["queries"]
        return found


def test_with_readers_answering_they_are_needed() -> None:
    with running(points.app, prompt_queries="readers", query_ms=300) as server:
        readers = list(server.pids["reader"])
        for pid in readers:
            os.kill(pid, signal.SIGSTOP)
        try:
            with Burst(server) as wire:
                assert wire.burst(("point", 900)) == [TimedOut.code]
        finally:
            for pid in set(readers) & set(server.pids["reader"]):
                os.kill(pid, signal.SIGCONT)


def test_a_client_sees_its_own_writes(server: Server) -> None:
    with Burst(server) as wire:
        wire.sees_its_own_writes()


def test_what_no_history_has_is_refused(server: Server) -> None:
    with Burst(server) as wire:
        assert wire.burst(*[("point", 1)] * 3, at_least=1, history=1) == ["history_changed"] * 3
        found = wire.burst(("point", 900), at_least=1 << 62, history=wire.history)
        assert found == ["history_changed"]
        assert wire.burst(*[("point", 900)] * 3) == [CASH] * 3


def test_answers_beyond_a_reply_buffer(server: Server) -> None:
    with Burst(server) as wire:
        assert wire.burst(*[("owner", 3)] * 40_000) == [["né 3", 3, 7]] * 40_000


def test_no_image_is_torn(server: Server) -> None:
    """While money moves between two accounts, they always have the same together."""
    over = threading.Event()

    def move() -> None:
        with server.client() as client:
            number = 0
            while not over.is_set():
                number += 1
                client.transfer(21 + number % 2, 22 - number % 2, 1 + number % 9)

    mover = threading.Thread(target=move)
    mover.start()
    try:
        with Burst(server) as wire:
            seen = set()
            for _ in range(300):
                answers = told(wire, *[("both", 21, 22)] * 50)
                seen |= {sequence for _, _, sequence, _ in answers}
                assert {msgpack.unpackb(payload) for *_, payload in answers} == {2 * CASH}
        assert len(seen) > 5
    finally:
        over.set()
        mover.join()


@pytest.mark.parametrize("role", ["writer", "gateway"])
def test_after_a_crash_it_goes_on(role: str, tmp_path: Path) -> None:
    with running(points.app, interval_ms=2, data=tmp_path) as server, server.client() as client:
        left = client.transfer(1, 2, 10)
        (pid,) = server.pids[role]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: server.pids[role] not in ([], [pid], (), (pid,)))
        assert client.point(1) == left
        assert client.transfer(1, 2, 10) == left - 10
        assert client.point(1) == left - 10


def test_an_image_of_another_epoch_is_not_answered_from() -> None:
    """Which the gateway's hold prevents; should it fail, readers answer."""
    compiled = compiled_for(points.app)
    assert compiled is not None
    with points.app.open(setup=True, now=5_000) as bench:
        kinds = np.full(len(points.app.operations), PROMPT_QUERY, np.uint8)
        prompt = Prompt(compiled, bench._queries, kinds)
        numbers = {operation.name: operation.number for operation in points.app.operations}
        frame = encode_frame(Kind.QUERY, msgpack.packb([1]), operation=numbers["point"], request=4)
        buffer = FrameBuffer.holding(frame * 3)
        image = Image(0, EPOCH, 12, 0, 1, 1)
        end, replies, results, rejected = prompt.answer(image, 12, 7, buffer, 0, buffer.end - 1)
        assert (end, results, rejected) == (2 * len(frame), 2, 0), "the third one is not whole"
        header = Header.read(replies)
        assert (header.kind, header.request) == (Kind.RESULT, 4)
        assert (header.sequence, header.context) == (12, 7)
        assert len(replies) == 2 * (HEADER_BYTES + header.length)
        other = image._replace(epoch=EPOCH + 1)
        assert prompt.answer(other, 12, 7, buffer, 0, buffer.end) == (0, b"", 0, 0)
