"""Random schedules of losses, delays and deadlines: clients are told what really happened.

A core without sockets and clocks sees the most schedules, with copies that arrive late and sessions
that are forgotten; both clients see real connections that end before and after a transaction ran.
"""

from __future__ import annotations

import asyncio
import random
import threading
from contextlib import suppress
from math import inf
from typing import Any

import msgpack
import pytest
from tests.unit.client.driving import connect, feed, sent, start, with_key
from tests.unit.client.fakes import Connection, serving, serving_in_thread, welcome
from tests.unit.client.ledger import Ledger

from diptych_client import (
    AsyncClient,
    Client,
    NotExecuted,
    OutcomeUnknown,
    Rejected,
    SessionExpired,
    TimedOut,
)
from diptych_client.calls import Call
from diptych_client.core import Core, State
from diptych_client.protocol import Frame, Kind
from diptych_client.requests import question


class Schedule:
    """One core, one ledger, and between them a network that loses and delays. Time is a number."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.ledger = Ledger()
        self.core = Core("here:1", identity=seed.to_bytes(16, "little"))
        self.now = 0.0
        self.calls: list[tuple[int, Call]] = []
        self.abandoned: set[int] = set()
        self.questions: list[tuple[int, Call]] = []
        self.to_server: list[Frame] = []
        self.to_client: list[bytes] = []
        self.late: list[Frame] = []
        self.lost = 0
        self.forgotten: set[int] = set()

    def run(self, steps: int) -> None:
        actions = [self.submit] * 6 + [self.send] * 4 + [self.serve] * 5 + [self.deliver] * 5
        actions += [self.lose, self.lose, self.abandon, self.arrive_late, self.pass_time, self.ask]
        self.connect()
        for _ in range(steps):
            if self.core.state is State.LOST:
                self.draw.choice([self.connect, self.submit, self.pass_time, self.arrive_late])()
            else:
                self.draw.choice(actions)()
        self.settle()

    def settle(self) -> None:
        """No more losses: all that still can be answered is."""
        if self.core.state is State.LOST:
            self.connect()
        while self.core.waiting_count or self.to_server or self.to_client:
            self.send()
            self.serve()
            self.deliver()

    # What may happen.

    def submit(self) -> None:
        value = len(self.calls)
        deadline = self.draw.choice([inf, self.now + self.draw.uniform(0, 5)])
        if self.draw.random() < 0.3:
            call = with_key(self.core, f"key {value}", value, deadline)
        else:
            call = start(self.core, "echo", value, deadline=deadline)
        self.calls.append((value, call))

    def abandon(self) -> None:
        if self.calls:
            value, call = self.draw.choice(self.calls)
            if not call.done:
                self.abandoned.add(value)
                self.core.abandon(call)

    def pass_time(self) -> None:
        self.now += self.draw.uniform(0, 2)
        if self.core.next_check <= self.now:
            self.core.expire(self.now)

    def ask(self) -> None:
        """What became of a call whose outcome is open."""
        unknown = [each for each in self.calls if isinstance(each[1].error, OutcomeUnknown)]
        if unknown:
            self.ask_after(*self.draw.choice(unknown))

    def ask_after(self, value: int, call: Call) -> None:
        assert isinstance(call.error, OutcomeUnknown)
        request = call.error.request
        number, arguments = question(request)
        payload = msgpack.packb(arguments)
        asked = self.core.submit(Kind.TRANSACTION, None, payload, inf, number=number, named=request)
        self.questions.append((value, asked))

    def send(self) -> None:
        frames = sent(self.core)
        over = {call.request for _, call in self.calls if call.done}
        assert not over.intersection(frame[2] for frame in frames), "sent again for nobody"
        self.to_server += frames

    def serve(self) -> None:
        for _ in range(self.draw.randint(0, len(self.to_server))):
            self.to_client.append(self.ledger.take(self.to_server.pop(0)))

    def deliver(self) -> None:
        count = self.draw.randint(0, len(self.to_client))
        feed(self.core, b"".join(self.to_client[:count]))
        del self.to_client[:count]

    def lose(self) -> None:
        """What the server has not read vanishes, is read after all, or later; replies vanish."""
        fate = self.draw.choice(["vanish", "run", "late"])
        if fate == "run":
            self.serve()
        elif fate == "late":
            self.late += self.to_server
        self.to_server, self.to_client = [], []
        self.core.lost()
        self.lost += 1

    def arrive_late(self) -> None:
        while self.late and self.draw.random() < 0.8:
            self.ledger.take(self.late.pop(0))

    def connect(self) -> None:
        identity, before = self.core.identity, self.core.session
        if self.draw.random() < 0.1 and before:
            self.ledger.forget(identity)
            self.forgotten.add(before)
        limit = self.draw.choice([1, 3, 40])
        connect(self.core, session=self.ledger.session(identity), transactions_in_flight=limit)

    # What must hold.

    def check(self) -> None:
        assert sorted(self.ledger.ran) == sorted(set(self.ledger.ran)), "one ran twice"
        last = 0
        for value, call in self.calls:
            if value in self.abandoned:
                continue
            assert call.done
            if call.error is None or isinstance(call.error, Rejected):
                check_answer(value, call.error or call.value)
                assert self.ledger.ran.count(value) == 1
                assert call.sequence > last, "not in the order of the calls"
                last = call.sequence
            elif isinstance(call.error, OutcomeUnknown):
                assert call.request, "never sent"
                gone = not call.named and int(call.error.request.split("/")[0]) in self.forgotten
                assert gone or call.deadline <= self.now
            else:
                assert isinstance(call.error, TimedOut)
                assert value not in self.ledger.ran
                assert call.deadline <= self.now

    def check_outcomes(self) -> None:
        """Each open outcome, once somebody was told of it, stays what it was."""
        for value, call in self.calls:
            if isinstance(call.error, OutcomeUnknown):
                self.ask_after(value, call)
        self.settle()
        for frame in self.late:
            self.ledger.take(frame)
        for value, asked in self.questions:
            if isinstance(asked.error, NotExecuted):
                assert value not in self.ledger.ran, "it ran after its outcome was told"
            elif not isinstance(asked.error, SessionExpired):
                check_answer(value, asked.error or asked.value)
                assert value in self.ledger.ran
            else:
                assert asked.named.split("/")[0] in map(str, self.forgotten)
        assert sorted(self.ledger.ran) == sorted(set(self.ledger.ran)), "one ran twice"


def check_answer(value: int, answer: Any) -> None:
    assert answer == (Rejected("seventh", value=value) if value % 7 == 0 else value)


@pytest.mark.parametrize("seed", range(100))
def test_a_core_is_told_what_happened(seed: int) -> None:
    schedule = Schedule(seed)
    schedule.run(300)
    schedule.check()
    schedule.check_outcomes()
    assert schedule.lost > 5  # else nothing was tried
    assert schedule.ledger.copies > 0


# --- over real connections


FATES = ["not read", "not answered", "answered", "not welcomed"]
"""What becomes of a connection's last frame; after the last of them the next connection too."""


class Unreliable:
    """A server whose connections end, `trials` times, after at most ten frames each."""

    def __init__(self, seed: int, trials: int) -> None:
        self.draw = random.Random(seed)
        self.ledger = Ledger()
        self.trials = trials
        self._frames = self.draw.randint(1, 10)
        self._shut = False

    async def serve(self, connection: Connection) -> None:
        said = await connection.hello()
        if self._shut:
            self._shut = False
            return
        connection.send(Kind.WELCOME, welcome(session=self.ledger.session(said["identity"])))
        with suppress(asyncio.IncompleteReadError):  # the client has gone
            while self._goes_on(connection, await connection.read_frame()):
                await connection.writer.drain()

    def _goes_on(self, connection: Connection, frame: Frame) -> bool:
        fate = self._fate()
        if fate == "not read":
            return False
        answer = self.ledger.take(frame)
        self._shut = fate == "not welcomed"
        if fate in ("", "answered"):
            connection.writer.write(answer)
        return fate == ""

    def _fate(self) -> str:
        self._frames -= 1
        if self._frames or not self.trials:
            return ""
        self.trials -= 1
        self._frames = self.draw.randint(1, 10)
        return FATES[self.trials % len(FATES)]

    def check(self, told: dict[int, Any]) -> None:
        """`told`: by value, what its call ended with."""
        ran = self.ledger.ran
        assert sorted(ran) == sorted(set(ran)), "one ran twice"
        for value, answer in told.items():
            check_answer(value, answer)
            assert value in ran
        assert self.trials == 0  # else some were not tried


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diptych_client.connecting.RETRY_FIRST_S", 0.001)


@pytest.mark.parametrize("seed", range(3))
async def test_an_async_client_is_told_what_happened(seed: int) -> None:
    unreliable = Unreliable(seed, trials=20)
    told: dict[int, Any] = {}

    async with (
        serving(unreliable.serve) as server,
        AsyncClient(server.address, timeout=None) as exchange,
    ):

        async def one(value: int) -> None:
            key = f"key {value}" if value % 3 == 0 else None
            with suppress(Rejected):
                told[value] = Rejected("seventh", value=value)
                told[value] = await exchange.using(request=key).echo(value)

        for first in range(0, 200, 40):
            await asyncio.gather(*(one(value) for value in range(first, first + 40)))
        many = await exchange.call_many("echo", [(value,) for value in range(200, 300)])
        told.update(zip(range(200, 300), many, strict=True))
    unreliable.check(told)
    assert len(unreliable.ledger.ran) == 300


async def test_impatient_and_cancelled_callers_learn_the_outcome_later() -> None:
    unreliable = Unreliable(11, trials=10)
    told: dict[int, Any] = {}
    open_ones: dict[int, str] = {}
    draw = random.Random(5)

    async with (
        serving(unreliable.serve) as server,
        AsyncClient(server.address, timeout=None) as exchange,
    ):

        async def one(value: int) -> None:
            patience = draw.choice([None, 0.0005, 0.002])
            try:
                told[value] = await exchange.using(timeout=patience).echo(value)
            except Rejected as no:
                told[value] = no
            except OutcomeUnknown as late:
                open_ones[value] = late.request
            except TimedOut:
                assert value not in unreliable.ledger.ran

        for first in range(0, 400, 20):
            tasks = [asyncio.ensure_future(one(value)) for value in range(first, first + 20)]
            await asyncio.sleep(0)
            draw.choice(tasks).cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        assert open_ones
        for value, request in open_ones.items():
            try:
                told[value] = await exchange.outcome(request)
            except Rejected as no:
                told[value] = no
            except NotExecuted:
                assert value not in unreliable.ledger.ran
    unreliable.check(told)


@pytest.mark.parametrize("seed", range(3))
def test_a_blocking_client_is_told_what_happened(seed: int) -> None:
    unreliable = Unreliable(seed, trials=16)
    told: dict[int, Any] = {}

    def one(exchange: Client, value: int) -> None:
        try:
            key = f"key {value}" if value % 3 == 0 else None
            told[value] = exchange.using(request=key).echo(value)
        except Rejected as no:
            told[value] = no

    with (
        serving_in_thread(unreliable.serve) as server,
        Client(server.address, timeout=None) as exchange,
    ):
        many = exchange.call_many("echo", [(value,) for value in range(100)])
        told.update(zip(range(100), many, strict=True))

        def work(first: int) -> None:
            for value in range(first, 200, 4):
                one(exchange, value)

        threads = [threading.Thread(target=work, args=(100 + each,)) for each in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    unreliable.check(told)
    assert len(unreliable.ledger.ran) == 200
