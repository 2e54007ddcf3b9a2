"""Money and shares are conserved, and every index agrees with its table, on every image.

Orders and transfers run at full speed, with a sync every 2 ms, while two clients check whatever
image they get. DIPTYCH_SOAK_S says for how many seconds (8; the release runs 60).
"""

from __future__ import annotations

import copy
import json
import os
import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from diptych import Db, Rejected
from diptych.app import App
from diptych.errors import CorruptionError
from diptych.testing import running
from exchange import app
from exchange.flow import Flow
from exchange.invariants import INVARIANTS

SOAK_S = float(os.environ.get("DIPTYCH_SOAK_S", "8"))
EXAMPLES = Path(__file__).parents[2] / "examples"


def audited(original: App) -> App:
    """The exchange, with cash transfers, and a query that checks all there is to check."""
    made = copy.copy(original)
    made.operations = list(original.operations)

    @made.transaction(compiled=False)
    def transfer(db: Db, source: int, target: int, amount: int) -> int:
        payer, payee = db.account[source], db.account[target]
        if amount > payer.cash - payer.reserved:
            raise Rejected("insufficient_funds", free=payer.cash - payer.reserved)
        payer.cash -= amount
        payee.cash += amount
        return payer.cash

    @made.query(compiled=False)
    def audit(db: Db) -> list[str]:
        broken = [invariant.__name__ for invariant in INVARIANTS if not invariant(db)]
        try:
            db.verify()
        except CorruptionError as corrupt:
            broken.append(str(corrupt))
        return broken

    return made


class Auditor(threading.Thread):
    """Asks for an audit again and again; what it found is in `broken` and `sequences`."""

    def __init__(self, server: Any, stop: threading.Event) -> None:
        super().__init__()
        self.server, self.stop = server, stop
        self.broken: list[str] = []
        self.sequences: list[int] = []

    def run(self) -> None:
        with self.server.client() as client:
            while not self.stop.is_set():
                reply = client.reply("audit")
                self.broken += reply.value
                self.sequences.append(reply.sequence)


class Transfers(threading.Thread):
    """Moves cash between accounts, pipelined."""

    def __init__(self, server: Any, stop: threading.Event) -> None:
        super().__init__()
        self.server, self.stop = server, stop
        self.made = 0

    def run(self) -> None:
        source = random.Random(11)
        with self.server.client() as client:
            while not self.stop.is_set():
                moves = [
                    (source.randint(1, 400), source.randint(1, 400), source.randint(1, 1000))
                    for _ in range(256)
                ]
                results = client.call_many("transfer", moves)
                self.made += sum(isinstance(result, int) for result in results)


def test_every_image_is_consistent_under_full_load() -> None:
    stop = threading.Event()
    with running(audited(app), interval_ms=2, max_duty=0.5) as server:
        with server.client() as client:
            for operation, arguments in Flow().setup():
                client.call(operation, *arguments)
        auditors = [Auditor(server, stop) for _ in range(2)]
        threads = [*auditors, Transfers(server, stop)]
        for thread in threads:
            thread.start()
        load = subprocess.run(
            [
                *(sys.executable, "-m", "diptych.cli", "loadtest", server.address),
                *("--mix", "exchange.flow:Flow", "--no-setup", "--json", "--connections", "20"),
                *("--duration", str(SOAK_S), "--warmup", "0"),
            ],
            cwd=EXAMPLES,
            capture_output=True,
            text=True,
            timeout=SOAK_S + 60,
            check=False,
        )
        stop.set()
        for thread in threads:
            thread.join(30)
        with server.client() as client:
            assert client.call("audit") == []
            figures = client.info()["writer"]
    assert load.returncode == 0, load.stderr
    assert json.loads(load.stdout)
    for auditor in auditors:
        assert auditor.broken == []
        assert len(set(auditor.sequences)) > 2 * SOAK_S, "too few different images were seen"
        assert auditor.sequences == sorted(auditor.sequences), "a client went back in time"
    assert threads[-1].made > 0
    assert figures["sync"]["syncs"] > 20 * SOAK_S
