"""Compiled and interpreted transactions on one connection, with crashes in between, do what
interpreted ones alone do: the same answers in the same order, and the same data.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from numba.core import config
from tests.support.wire import Wire, numbers, wait_until

from diptych import App, Db, Rejected, key, ordered
from diptych.testing import Server, running
from diptych_client.protocol import PREAMBLE, Header, Kind, encode_frame

pytestmark = pytest.mark.skipif(config.DISABLE_JIT, reason="nothing is compiled")

ACCOUNTS, CASH = 50, 10_000
CALLS, AT_ONCE = 6_000, 400
IDENTITY = bytes(range(16))


class Account:
    id: int = key()
    cash: int = 0
    moved: int = 0


class Entry:
    id: int = key(auto=True)
    account: int
    amount: int
    by_account = ordered("account", "id")


def setup(db: Db) -> None:
    for number in range(ACCOUNTS):
        db.account.insert(id=number, cash=CASH)


def transfer(db: Db, source: int, target: int, amount: int) -> tuple[int, int]:
    """Compiled. An account that is not there is an error, and the interpreter says which."""
    payer = db.account[source]
    if payer.cash < amount:
        raise Rejected("insufficient_funds", needed=amount, free=payer.cash)
    payer.cash -= amount
    db.account[target].cash += amount
    entry = db.entry.insert(account=target, amount=amount)
    return payer.cash, entry.id


def turn(db: Db, account: int, factor: int) -> int:
    """Compiled. Beyond 64 bits it is given up, and what it wrote is undone."""
    row = db.account[account]
    row.moved += 1
    db.entry.insert(account=account, amount=factor)
    row.moved = row.moved * factor % 1_000_003
    return row.moved


def settle(db: Db, account: int) -> dict[str, int]:
    """Interpreted: it builds a dict. It takes back the account's entries."""
    found = {"count": 0, "sum": 0}
    for entry in db.entry.by_account.range(account):
        found["count"] += 1
        found["sum"] += entry.amount % 97
        db.entry.delete(entry)
    return found


def balance(db: Db, account: int) -> int:
    cash: int = db.account[account].cash
    return cash


def everything(db: Db) -> tuple[list[tuple[int, int, int]], list[tuple[int, int, int]]]:
    accounts = [(row.id, row.cash, row.moved) for row in db.account]
    return accounts, [(row.id, row.account, row.amount) for row in db.entry]


def bank(*, compiled: bool) -> App:
    app = App("lanes")
    app.table(Account)
    app.table(Entry)
    app.setup(setup)
    for function in (transfer, turn):
        app.transaction(compiled=compiled)(function)
    app.transaction(settle)
    app.query(compiled=compiled)(balance)
    app.query(everything)
    return app


def calls() -> Iterator[tuple[str, list[Any]]]:
    """Some of each, of all that can happen to a transaction."""
    chance = random.Random(11)
    for number in range(CALLS):
        account, other = chance.randrange(ACCOUNTS), chance.randrange(ACCOUNTS)
        match number % 20:
            case 3 | 4 | 11:
                yield "settle", [account]
            case 7:
                yield "turn", [account, (1 << 62) + number]
            case 8 | 9:
                yield "turn", [account, number]
            case 12:
                yield "transfer", [account, ACCOUNTS + other, 1]
            case 13:
                yield "transfer", [account, other, CASH * 10]
            case 14:
                yield "transfer", [account, "other", 1]
            case 15:
                yield "settle", []
            case _:
                yield "transfer", [account, other, chance.randrange(200)]


class Caller(Wire):
    """A client with a session: it has the same one on every connection."""

    def __init__(self, server: Server) -> None:
        super().__init__(server.address, timeout_s=30)
        hello = msgpack.packb({"client": "lanes", "identity": IDENTITY})
        self.send(PREAMBLE + encode_frame(Kind.HELLO, hello))
        self.read(len(PREAMBLE))
        self.numbers = numbers(self.frame()[1])

    def frames(self) -> list[bytes]:
        return [
            encode_frame(
                Kind.TRANSACTION,
                msgpack.packb(arguments),
                operation=self.numbers[name],
                request=request,
            )
            for request, (name, arguments) in enumerate(calls(), 1)
        ]

    def answers(self, count: int) -> list[tuple[Header, Any]]:
        return [self.frame() for _ in range(count)]


def plain(answer: tuple[Header, Any]) -> tuple[Any, ...]:
    """But for the sequence number: frames that come again after a crash take one, too."""
    header, payload = answer
    return header.kind, header.operation, header.request, payload


def data_of(server: Server) -> Any:
    with server.client() as client:
        client.settle(ACCOUNTS)  # changes nothing; the query sees all that came before it
        return client.everything()


@pytest.fixture(scope="module")
def expected() -> tuple[list[tuple[Any, ...]], Any]:
    """What an interpreted server answers that nobody kills, and what it has in the end."""
    with running(bank(compiled=False)) as server, Caller(server) as caller:
        frames, found = caller.frames(), []
        for first in range(0, CALLS, AT_ONCE):
            caller.send(b"".join(frames[first : first + AT_ONCE]))
            found += [plain(answer) for answer in caller.answers(AT_ONCE)]
        return found, data_of(server)


def test_there_is_some_of_everything(expected: tuple[list[tuple[Any, ...]], Any]) -> None:
    found, (accounts, _) = expected
    kinds = {(kind, payload["code"] if kind == Kind.ERROR else "") for kind, *_, payload in found}
    assert {kind for kind, _ in kinds} == {Kind.RESULT, Kind.REJECTED, Kind.ERROR}
    assert (Kind.ERROR, "bad_arguments") in kinds
    assert sum(cash for _, cash, _ in accounts) == ACCOUNTS * CASH


@pytest.mark.parametrize("killed", ["nobody", "writer", "gateway"])
def test_lanes_mix_in_order_and_each_call_runs_once(
    killed: str, expected: tuple[list[tuple[Any, ...]], Any], tmp_path: Path
) -> None:
    with running(bank(compiled=True), data=tmp_path) as server:
        found: dict[int, tuple[Any, ...]] = {}
        caller = Caller(server)
        frames = caller.frames()
        for first in range(0, CALLS, AT_ONCE):
            caller.send(b"".join(frames[first : first + AT_ONCE]))
            if first % (4 * AT_ONCE) == AT_ONCE and killed != "nobody":
                (pid,) = server.pids[killed]
                os.kill(pid, signal.SIGKILL)
                if killed == "gateway":
                    caller.socket.close()
                    wait_until(lambda pid=pid: server.pids.get("gateway", []) not in ([], [pid]))
                    caller = connected(server)
                    caller.send(b"".join(frames[first : first + AT_ONCE]))
            for answer in caller.answers(AT_ONCE):
                found[answer[0].request] = plain(answer)
        # All of it once more: the last answers are still known, and nothing runs again.
        caller.send(b"".join(frames[-AT_ONCE:]))
        again = [plain(answer) for answer in caller.answers(AT_ONCE)]
        caller.socket.close()
        assert [found[request] for request in range(1, CALLS + 1)] == expected[0]
        assert again == expected[0][-AT_ONCE:]
        assert data_of(server) == expected[1]
        with server.client() as client:
            assert client.balance(3) == expected[1][0][3][1]
            assert client.info()["writer"]["compiled"] > 0
    # What the log and the checkpoints have is the same again.
    with running(bank(compiled=True), data=tmp_path) as server:
        assert data_of(server) == expected[1]


def connected(server: Server) -> Caller:
    """As soon as the next gateway listens."""
    found: list[Caller] = []

    def tried() -> bool:
        try:
            found.append(Caller(server))
        except OSError:
            return False
        return True

    wait_until(tried)
    return found[0]
