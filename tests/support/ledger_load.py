"""Clients of the ledger that write down what they did: `history` is given what they saw.

A process of its own, so that whoever kills processes does not disturb its clock: `Load` starts it
and gets the histories back, `main` is what it runs. Clients of both kinds transfer money and look
at the books all the time, a few calls at once; every fifth has little patience, so that some
outcomes are unknown to it, and then it asks. What any of them does follows from the seed.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.history import Ended, Look, Transfer
from tests.support.ledger import ACCOUNTS, Glance

from diptych_client import AsyncClient, Client
from diptych_client.errors import (
    CallError,
    DiptychError,
    NotExecuted,
    OutcomeUnknown,
    OverBudget,
    Rejected,
    ResultTooLarge,
    ServerError,
    SetAside,
    Unavailable,
)

ROOT = Path(__file__).parents[2]
PATIENT_S, IMPATIENT_S = 30.0, 0.1
ASK_S = 30.0
LOOK_SHARE = 0.1
BUG_SHARE = 0.002
GREEDY_SHARE = 0.02
PAUSE_S = 0.004
"""Between two calls of a worker, on average: the machine has more to do than this load."""
IN_FLIGHT = 2
"""Workers of an asynchronous client."""
STOP_S = 90.0
READY = b"ready"
ANSWERS_OF_NOTHING = (Rejected, NotExecuted, ServerError, OverBudget, SetAside, ResultTooLarge)
"""What an outcome may be of a transfer that left nothing behind,"""
LEFT_NOTHING = (*ANSWERS_OF_NOTHING, CallError, Unavailable)
"""and what its call may end with."""


@dataclass
class Histories:
    """What some clients saw. `errors`: of queries, and of questions about outcomes, by code."""

    transfers: list[Transfer] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    def add(self, other: Histories) -> None:
        self.transfers += other.transfers
        self.looks += other.looks
        self.errors += other.errors


def is_patient(client: int) -> bool:
    """Whether a client waits for long enough that nothing that happens to a server is an error."""
    return client % 5 != 4


class Script:
    """What one client does and saw. Used by one thread."""

    def __init__(self, client: int, seed: int) -> None:
        self.client = client
        self.seen = Histories()
        self.chance = random.Random(f"{seed}/{client}")
        self._number = 0

    @property
    def patience_s(self) -> float:
        return PATIENT_S if is_patient(self.client) else IMPATIENT_S

    def next(self) -> tuple[str, tuple[int, ...]]:
        """An operation and its arguments."""
        chance = self.chance
        if chance.random() < LOOK_SHARE:
            return "glance", ()
        self._number += 1
        source, target = chance.sample(range(1, ACCOUNTS + 1), 2)
        kind = chance.random()
        amount = chance.randint(1, 10)
        if kind < BUG_SHARE:
            amount = 0
        elif kind < BUG_SHARE + GREEDY_SHARE:
            amount = 1_000_000
        return "transfer", (self.client, self._number, source, target, amount)

    def step(self, client: Client) -> DiptychError | None:
        """One call of a blocking client, and a question when its outcome is unknown."""
        name, arguments = self.next()
        began_ns = time.monotonic_ns()
        try:
            reply = client.reply(name, *arguments)
        except DiptychError as error:
            asked = Asked(time.monotonic_ns())
            if isinstance(error, OutcomeUnknown):
                try:
                    asked.take(client.outcome(error.request, timeout=ASK_S))
                except DiptychError as refused:
                    asked.refused(refused, self.seen.errors)
            self.failed(arguments, began_ns, error, asked)
            return error
        self.answered(arguments, began_ns, reply)
        return None

    def answered(self, arguments: tuple[int, ...], began_ns: int, reply: Any) -> None:
        now_ns = time.monotonic_ns()
        if not arguments:
            seen = Glance(*reply.value)
            self.seen.looks.append(Look(self.client, began_ns, now_ns, reply.sequence, seen))
            return
        self.seen.transfers.append(
            Transfer(
                self.client,
                arguments[1],
                began_ns,
                now_ns,
                Ended.DONE,
                reply.sequence,
                reply.value[1],
            )
        )

    def failed(
        self, arguments: tuple[int, ...], began_ns: int, error: DiptychError, asked: Asked
    ) -> None:
        if not arguments:
            who = "patient" if is_patient(self.client) else "impatient"
            self.seen.errors[f"{who}, glance: {error.code}"] += 1
            return
        # Whatever is not known to say that nothing is left behind says nothing.
        ended = Ended.UNDONE if isinstance(error, LEFT_NOTHING) else Ended.UNKNOWN
        self.seen.transfers.append(
            Transfer(
                self.client,
                arguments[1],
                began_ns,
                asked.ended_ns,
                ended,
                asked.sequence,
                asked.balance,
                error.code,
                asked.ended,
            )
        )


@dataclass
class Asked:
    """What a client was told when it asked for an outcome. `ended` None: nothing, or it did not.

    `ended_ns`: when the call that it asks about had ended.
    """

    ended_ns: int
    ended: Ended | None = None
    sequence: int = 0
    balance: int = 0

    def take(self, value: Any) -> None:
        self.ended = Ended.DONE
        self.sequence, self.balance = value

    def refused(self, error: DiptychError, errors: Counter[str]) -> None:
        if isinstance(error, ANSWERS_OF_NOTHING):
            self.ended = Ended.UNDONE
        else:
            errors[f"outcome: {error.code}"] += 1


async def work(script: Script, client: AsyncClient, over: asyncio.Event) -> None:
    """One worker of an asynchronous client."""
    while not over.is_set():
        name, arguments = script.next()
        began_ns = time.monotonic_ns()
        try:
            reply = await client.reply(name, *arguments)
        except DiptychError as error:
            asked = Asked(time.monotonic_ns())
            if isinstance(error, OutcomeUnknown):
                try:
                    asked.take(await client.outcome(error.request, timeout=ASK_S))
                except DiptychError as refused:
                    asked.refused(refused, script.seen.errors)
            script.failed(arguments, began_ns, error, asked)
        else:
            script.answered(arguments, began_ns, reply)
        await asyncio.sleep(script.chance.expovariate(1 / PAUSE_S))


def work_blocking(
    script: Script, address: str, over: threading.Event, connected: Callable[[], None]
) -> None:
    """A blocking client, in a thread of its own."""
    with Client(address, timeout=script.patience_s) as client:
        connected()
        while not over.is_set():
            script.step(client)
            time.sleep(script.chance.expovariate(1 / PAUSE_S))


async def run(address: str, clients: range, seed: int) -> Histories:
    """All of them, until standard input ends; says READY when they are connected."""
    loop = asyncio.get_running_loop()
    over, over_too = asyncio.Event(), threading.Event()
    missing = len(clients)

    def connected() -> None:
        nonlocal missing
        missing -= 1
        if not missing:
            os.write(1, READY)

    async def one(script: Script) -> None:
        async with AsyncClient(address, timeout=script.patience_s) as client:
            connected()
            await asyncio.gather(*(work(script, client, over) for _ in range(IN_FLIGHT)))

    def stop() -> None:
        if not os.read(0, 1):
            loop.remove_reader(0)
            over.set()
            over_too.set()

    def connected_too() -> None:
        loop.call_soon_threadsafe(connected)

    scripts = [Script(client, seed) for client in clients]
    loop.add_reader(0, stop)
    loop.set_default_executor(ThreadPoolExecutor(len(clients)))
    tasks = [
        loop.run_in_executor(None, work_blocking, script, address, over_too, connected_too)
        if script.client % 4 == 3
        else one(script)
        for script in scripts
    ]
    await asyncio.gather(*tasks)
    seen = Histories()
    for script in scripts:
        seen.add(script.seen)
    return seen


class Load:
    """The process. `clients`: their numbers, none of which may be used twice for one server."""

    def __init__(self, address: str, clients: range, seed: int) -> None:
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.support.ledger_load", address),
                *(str(clients.start), str(clients.stop), str(seed)),
            ],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        if self._process.stdout.read(len(READY)) != READY:
            raise RuntimeError(f"the load can't connect to {address}")

    def stop(self) -> Histories:
        """Let them finish what they are at. Errors: RuntimeError, TimeoutExpired."""
        try:
            said, _ = self._process.communicate(timeout=STOP_S)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        if self._process.returncode != 0:
            raise RuntimeError(f"the load ended with {self._process.returncode}")
        histories: Histories = pickle.loads(said)
        return histories

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


def main() -> None:
    address, first, stop, seed = sys.argv[1:]
    seen = asyncio.run(run(address, range(int(first), int(stop)), int(seed)))
    sys.stdout.buffer.write(pickle.dumps(seen))


if __name__ == "__main__":
    from tests.support import ledger_load

    ledger_load.main()  # by its name, which pickles carry
