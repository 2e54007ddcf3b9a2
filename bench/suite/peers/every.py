"""The systems that the suite knows, and which of them can be measured here."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.suite.measure import progress
from bench.suite.peers.asyncio_peer import Asyncio
from bench.suite.peers.base import Peer
from bench.suite.peers.diptych_peer import Diptych
from bench.suite.peers.postgres_peer import PostgreSql
from bench.suite.peers.redis_peer import RedisLua
from bench.suite.peers.sqlite_peer import Sqlite
from bench.suite.peers.tarantool_peer import TarantoolLua
from bench.suite.workload import State, flow, played

CHECKED_CALLS = 3_000


def every_peer() -> list[Peer]:
    """All of them; the first is what the others are compared with."""
    return [
        Diptych(),
        Asyncio(),
        RedisLua(),
        TarantoolLua(),
        PostgreSql(),
        Sqlite(1),
        Sqlite(1_600),
    ]


def present(peers: list[Peer]) -> tuple[list[Peer], dict[str, str]]:
    """Those that can run here, and why the others can't."""
    skipped = {peer.name: why for peer in peers if (why := peer.missing())}
    return [peer for peer in peers if peer.name not in skipped], skipped


def agreeing(peers: list[Peer], directory: Path, calls: int) -> tuple[list[Peer], dict[str, str]]:
    """Those that answer the flow as the first does, with the same trades and balances after it.

    Who doesn't is left out, since it would be measured doing something else.
    """
    agreed: list[Peer] = []
    differing: dict[str, str] = {}
    reference: tuple[list[object], State] | None = None
    for peer in peers:
        try:
            found = behaviour(peer, directory, calls)
        except Exception as error:
            differing[peer.name] = f"failed: {type(error).__name__}: {error}"
            continue
        reference = reference or found
        if difference := compared(reference, found):
            differing[peer.name] = difference
        else:
            agreed.append(peer)
            progress(f"{peer.name}: the same {calls:,} answers, {len(found[1].tape):,} trades")
    return agreed, differing


def behaviour(peer: Peer, directory: Path, calls: int) -> tuple[list[object], State]:
    """What a system answers to the flow, and what is in it afterwards."""
    with (
        tempfile.TemporaryDirectory(dir=directory) as path,
        peer.open(Path(path)) as served,
    ):
        served.setup(flow().setup())
        return played(served.call, calls), served.state()


def compared(one: tuple[list[object], State], other: tuple[list[object], State]) -> str:
    """The first difference in words; empty when there is none."""
    for number, (expected, found) in enumerate(zip(one[0], other[0], strict=True)):
        if expected != found:
            return f"answers call {number} with {found!r}, not {expected!r}"
    if one[1].tape != other[1].tape:
        return f"made other trades: {len(other[1].tape)}, not {len(one[1].tape)}"
    return "" if one[1].holdings == other[1].holdings else "ended with other balances"
