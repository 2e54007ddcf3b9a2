"""Real clients and a real engine around a gateway, and between them everything is lost at random.

Writers die with what they have read and not run, with answers that were never sent, with half of
them; connections are cut. The region outlives them, as it would by replay. Each transfer takes one
from the same account and returns what is left, so that any that ran twice, or not at all, shows.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from itertools import chain
from pathlib import Path

import pytest
from tests.support.stage import HISTORY, FakeWriter, Stage, staged
from tests.support.trouble import CASH, app

from diptych.config import Limits, Settings
from diptych.engine.engine import Engine, layout_bytes
from diptych.memory import Region
from diptych.serving import frames
from diptych.serving.frames import FrameBuffer
from diptych.store.database import SCRATCH_BYTES
from diptych_client import AsyncClient

CALLS = 60
NAMES = ("", "a", "", "b")
"""Of the keys that clients use; those without one leave it to their sessions."""
FAR_AWAY_NS = 1 << 62


@pytest.fixture(name="engine")
def _engine() -> Iterator[Engine]:
    region = Region.create(layout_bytes(app), scratch_bytes=SCRATCH_BYTES)
    engine = Engine.create(app, region, grow=region.allocate, history=HISTORY)
    yield engine
    engine.verify()
    region.close()


async def live(stage: Stage, engine: Engine, reads: int, chance: random.Random) -> None:
    """One writer's life of so many reads, and then its end at one of three moments."""
    writer: FakeWriter = await stage.writer(engine.sequence)
    for read in range(reads):
        buffer = FrameBuffer(1 << 16, 1 << 20)
        data = await writer.reader.read(1 << 16)
        if not data:
            return
        buffer.space()[: len(data)] = data
        buffer.added(len(data))
        last = read == reads - 1
        if last and chance.random() < 0.3:
            break
        first, count = 0, buffer.split()
        while first < count:
            ran = frames.transactions_from(buffer.array, buffer.starts, first, count)
            if ran:
                engine.begin(time.time_ns())
                engine.run(buffer.array, buffer.starts, first, first + ran, FAR_AWAY_NS)
            first += ran or 1
        replies = bytes(engine.replies)
        engine.replies.clear()
        writer.send(replies[: chance.randrange(len(replies) + 1)] if last else replies)
        await asyncio.sleep(0)
    writer.leave()


async def pay(stage: Stage, bank: AsyncClient, name: str, chance: random.Random) -> list[int]:
    """Transfers at the same time, over connections that are cut now and then."""

    async def one(number: int) -> int:
        await asyncio.sleep(chance.random() * 0.05)
        if chance.random() < 0.1:
            for connection in list(stage.gateway._connections.values()):
                if chance.random() < 0.5:
                    connection.abort()
        chosen = bank.using(request=f"{name}-{number}") if name else bank
        return int(await chosen.transfer(1, 2, 1))

    return list(await asyncio.gather(*[one(number) for number in range(CALLS)]))


@pytest.mark.parametrize("seed", range(5))
async def test_every_call_runs_once(engine: Engine, seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    async with staged(Settings(data=tmp_path, limits=Limits(drain_ms=0))) as stage:
        await stage.reader()

        async def writers() -> None:
            while True:
                await live(stage, engine, chance.randint(1, 6), chance)

        task = asyncio.create_task(writers())
        try:
            async with asyncio.timeout(20), AsyncExitStack() as stack:
                host, port = stage.listener.getsockname()[:2]
                banks = [AsyncClient(f"{host}:{port}") for _ in NAMES]
                for bank in banks:
                    await stack.enter_async_context(bank)
                paying = [pay(stage, *one, chance) for one in zip(banks, NAMES, strict=True)]
                paid = await asyncio.gather(*paying)
        finally:
            task.cancel()
        total = CALLS * len(NAMES)
        assert sorted(chain.from_iterable(paid)) == list(range(CASH - total, CASH))
        assert stage.gateway.counts.resent > 0
        assert stage.gateway.counts.unknown == 0
