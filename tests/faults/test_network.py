"""The network between a client and the gateway stands still, or swallows what was answered."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.history import Ended, check
from tests.support.ledger import app, table_of
from tests.support.ledger_load import Script
from tests.support.proxy import BOTH, TO_CLIENT, TO_SERVER, Proxy
from tests.support.wire import wait_until

from diptych.serving.local import Server, running
from diptych_client import Client, OutcomeUnknown


def held_against(server: Server, script: Script) -> None:
    with server.client() as client:
        entries, balances = table_of(client)
    verdict = check(script.seen.transfers, script.seen.looks, entries, balances)
    assert verdict.well, "\n".join(verdict.lines())


@contextmanager
def at_work(proxy: Proxy, script: Script) -> Iterator[None]:
    """A client calls through the proxy, one call after another, while the block runs."""
    over = threading.Event()

    def work(client: Client) -> None:
        while not over.is_set():
            script.step(client)

    with Client(proxy.address, timeout=20) as client:
        working = threading.Thread(target=work, args=(client,))
        working.start()
        try:
            yield
        finally:
            over.set()
            working.join()


@pytest.mark.parametrize("directions", [BOTH, (TO_SERVER,), (TO_CLIENT,)], ids=str)
def test_calls_outlive_a_frozen_network(tmp_path: Path, directions: tuple[str, ...]) -> None:
    """Within their deadline: nobody is told, calls are late, and each runs once."""
    script = Script(1, seed=4)
    with running(app, data=tmp_path / "data", readers=1) as server, Proxy(server.address) as proxy:
        with at_work(proxy, script):
            for _ in range(3):
                before = proxy.held_bytes
                wait_until(lambda: len(script.seen.transfers) > 5)
                proxy.freeze(*directions)
                wait_until(lambda before=before: proxy.held_bytes > before)
                time.sleep(0.2)
                proxy.thaw()
        assert proxy.connections == 1
        assert {each.ended for each in script.seen.transfers} <= {Ended.DONE, Ended.UNDONE}
        held_against(server, script)


def test_an_answer_that_was_swallowed_is_given_again(tmp_path: Path) -> None:
    """The connection is cut with the answer on its way: the client asks again by itself."""
    script = Script(1, seed=5)
    with running(app, data=tmp_path / "data", readers=1) as server, Proxy(server.address) as proxy:
        with at_work(proxy, script):
            for _ in range(8):
                before, count = proxy.held_bytes, len(script.seen.transfers)
                proxy.freeze(TO_CLIENT)
                wait_until(lambda before=before: proxy.held_bytes > before)
                proxy.cut()
                proxy.thaw()
                wait_until(lambda count=count: len(script.seen.transfers) > count + 3)
        assert proxy.connections > 8
        assert {each.ended for each in script.seen.transfers} <= {Ended.DONE, Ended.UNDONE}
        held_against(server, script)


def test_a_deadline_that_passes_is_an_unknown_outcome(tmp_path: Path) -> None:
    """Frozen for longer than the caller waits: the outcome is unknown, and told when asked for."""
    with (
        running(app, data=tmp_path / "data", readers=1) as server,
        Proxy(server.address) as proxy,
        Client(proxy.address, timeout=20) as client,
    ):
        assert client.transfer(1, 1, 1, 2, 5).balance == 995
        proxy.freeze(TO_CLIENT)
        with pytest.raises(OutcomeUnknown) as unknown:
            client.using(timeout=0.2).transfer(1, 2, 1, 2, 5)
        assert proxy.held_bytes > 0
        proxy.thaw()
        sequence, balance = client.outcome(unknown.value.request)
        assert balance == 990
        entries, _ = table_of(client)
        assert [(each.number, each.sequence) for each in entries][1:] == [(2, sequence)]
