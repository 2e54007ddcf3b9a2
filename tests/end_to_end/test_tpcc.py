"""TPC-C over TCP: its conditions hold on every image, and all that was acknowledged is there.

DIPTYCH_TPCC_TRANSACTIONS says how many calls the terminals make (2,000; a soak runs 100,000), two
clients check the conditions and all structures on whatever image they get meanwhile. They hold as
well when the writer is killed in the middle, and when a server starts from what another one saved.
"""

from __future__ import annotations

import asyncio
import copy
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from diptych import AsyncClient, Client, Db, DiptychError, Rejected
from diptych.app import App
from diptych.errors import CorruptionError
from diptych.testing import running
from tpcc import Scale, app, population
from tpcc.invariants import CONDITIONS
from tpcc.terminals import DECK, Terminals

TRANSACTIONS = int(os.environ.get("DIPTYCH_TPCC_TRANSACTIONS", "2000"))
TERMINALS = 40
SCALE = Scale(warehouses=2, items=1_000, customers=60)
SMALL = Scale(items=200, customers=30)


def audited(original: App) -> App:
    """TPC-C, with queries that check all there is to check."""
    made = copy.copy(original)
    made.operations = list(original.operations)

    @made.query(compiled=False)
    def audit(db: Db) -> list[str]:
        broken = [condition.__name__ for condition in CONDITIONS if not condition(db)]
        try:
            db.verify()
        except CorruptionError as corrupt:
            broken.append(str(corrupt))
        return broken

    @made.query(compiled=False)
    def sums(db: Db) -> dict[str, int]:
        customers, history = db.customer.columns(), db.history.columns()
        return {
            "balance": int(customers.balance.sum()),
            "paid": int(history.amount.sum()),
            "customers_paid": int(customers.year_to_date.sum()),
            "payments": len(db.history),
            "customers_payments": int(customers.payment_count.sum()),
            "orders": len(db.order),
            "waiting": len(db.new_order),
            "lines": len(db.order_line),
            "stock_orders": int(db.stock.columns().order_count.sum()),
            "taken_in": int(db.warehouse.columns().year_to_date.sum()),
        }

    return made


class Tally:
    """What the terminals were told."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.lines = self.paid = self.delivered = 0

    def count(self, operation: str, arguments: Any, result: Any) -> None:
        self.outcomes[operation] += 1
        if operation == "new_order":
            self.lines += len(result.lines)
        elif operation == "payment":
            self.paid += arguments[4]
        elif operation == "delivery":
            self.delivered += 10 - result.skipped


async def terminal(client: AsyncClient, calls: Iterator[Any], tally: Tally) -> None:
    """One call at a time, as at a desk; `calls` ends when all terminals together are done."""
    for operation, arguments in calls:
        try:
            tally.count(operation, arguments, await client.call(operation, *arguments))
        except Rejected as no:
            tally.outcomes[no.code] += 1


async def auditor(address: str, broken: list[str], sequences: list[int]) -> None:
    async with AsyncClient(address, fresh=False, timeout=60.0) as client:
        while True:
            reply = await client.reply("audit")
            broken += reply.value
            sequences.append(reply.sequence)


async def run(address: str) -> tuple[Tally, dict[str, int], dict[str, int], list[int]]:
    """The tally, the sums before and after, and the numbers of the images that were looked at."""
    tally, broken, sequences = Tally(), list[str](), list[int]()
    async with AsyncClient(address, timeout=60.0) as client:
        for operation, arguments in population(SCALE):
            await client.call(operation, *arguments)
        before = await client.call("sums")
        streams = Terminals(SCALE)
        async with asyncio.TaskGroup() as group:
            auditors = [group.create_task(auditor(address, broken, sequences)) for _ in range(2)]
            done = [
                group.create_task(
                    terminal(client, islice(streams.calls(n), TRANSACTIONS // TERMINALS), tally)
                )
                for n in range(TERMINALS)
            ]
            await asyncio.wait(done)
            for task in auditors:
                task.cancel()
        assert await client.call("audit") == broken == []
        return tally, before, await client.call("sums"), sequences


def test_every_image_is_consistent_and_nothing_is_lost() -> None:
    with running(audited(app), interval_ms=2, max_duty=0.5) as server:
        tally, before, after, sequences = asyncio.run(run(server.address))
    outcomes = tally.outcomes
    assert outcomes.total() == TRANSACTIONS // TERMINALS * TERMINALS
    assert set(outcomes) == {*DECK, "item_not_found"}
    assert sequences
    assert len(set(sequences)) >= min(20, TRANSACTIONS // 1_000), (
        "too few different images were seen"
    )
    rose = {name: after[name] - before[name] for name in after}
    assert rose["orders"] == outcomes["new_order"]
    assert rose["lines"] == rose["stock_orders"] == tally.lines
    assert rose["payments"] == rose["customers_payments"] == outcomes["payment"]
    assert rose["paid"] == rose["customers_paid"] == rose["taken_in"] == tally.paid
    assert rose["waiting"] == outcomes["new_order"] - tally.delivered


def work(client: Client, connection: int, decks: int) -> Counter[str]:
    """Some decks, one call after the other; what the calls ended with."""
    outcomes: Counter[str] = Counter()
    for operation, arguments in islice(Terminals(SMALL).calls(connection), 100 * decks):
        try:
            client.call(operation, *arguments)
            outcomes[operation] += 1
        except DiptychError as error:
            outcomes[error.code] += 1
    return outcomes


def test_conditions_hold_after_a_kill_and_after_a_restart(tmp_path: Path) -> None:
    served = audited(app)
    with running(served, readers=1, data=tmp_path) as server:
        with server.client(timeout=60.0) as client:
            for operation, arguments in population(SMALL):
                client.call(operation, *arguments)
            work(client, 0, 2)
            killing = threading.Timer(
                0.1, lambda: os.kill(server.pids["writer"][0], signal.SIGKILL)
            )
            killing.start()
            outcomes: Counter[str] = Counter()
            while not client.info()["restarts"].get("writer"):
                outcomes += work(client, 1, 1)
            killing.join()
            outcomes += work(client, 1, 1)  # a client is told once that the history changed
            assert client.call("audit") == []
            assert outcomes["new_order"] > 0
            assert set(work(client, 2, 1)) >= {"new_order", "payment", "delivery"}
            assert client.call("audit") == []
            before = client.call("sums")
        assert server.stop() == 0
    with running(served, readers=1, data=tmp_path) as server, server.client() as client:
        assert client.call("audit") == []
        assert client.call("sums") == before
        assert set(work(client, 3, 1)) >= {"new_order", "payment", "delivery"}
        assert client.call("audit") == []
