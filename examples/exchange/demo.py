"""The exchange at work: `python -m exchange.demo`, which is what `make demo` runs.

Starts a server with embedded defaults, plays made-up order flow against it through TCP from a
process of its own (or a tape: `--tape FILE`), while watchers download depth and VWAP all the time
and an auditor checks every image it gets. Ends by itself with a summary and one line of JSON.
The exit code is 0 only if every event is accounted for and every image kept the books balanced.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.live import Live

from diptych import AsyncClient, DiptychError
from diptych.testing import running
from exchange.demo_view import Figures, screen, show_line, show_summary
from exchange.flow import SYMBOLS, Flow
from exchange.player import Player
from exchange.schema import Side, app
from exchange.tape import SYMBOL, TapeError, open_tape, read_events, run_setup, tape_setup

SECONDS = 12.0
WATCHERS = 2
CONNECTIONS = 50
IN_FLIGHT = 32
AUDIT_PAUSE_S = 0.25  # between two checks of everything, so that readers have time for watchers
REFRESH_S = 1.0


@dataclass
class Demo:
    """One run. Its tasks fill `figures`; whoever shows them only reads."""

    address: str
    symbols: tuple[str, ...]
    figures: Figures = field(default_factory=Figures)
    over: bool = False

    async def watch(self, number: int) -> None:
        """One watcher: the book of each symbol in turn, and the average of all its trades."""
        figures = self.figures
        async with AsyncClient(self.address, fresh=False) as client:
            turn = number
            while not self.over:
                turn += 1
                symbol = self.symbols[turn % len(self.symbols)]
                bids = await self._query(client, "depth", symbol, Side.BUY, 10)
                asks = await self._query(client, "depth", symbol, Side.SELL, 10)
                average = await self._query(client, "vwap", symbol)
                figures.markets[symbol] = (
                    bids[0].price if bids else None,
                    asks[0].price if asks else None,
                    average,
                )

    async def _query(self, client: AsyncClient, operation: str, *arguments: Any) -> Any:
        started = time.perf_counter_ns()
        reply = await client.reply(operation, *arguments)
        self.figures.queried(time.perf_counter_ns() - started, reply.age_ms)
        return reply.value

    async def audit(self) -> None:
        """Check all that must always hold, on one image after the other."""
        async with AsyncClient(self.address, fresh=False) as client:
            while not self.over:
                reply = await client.reply("conservation")
                self.figures.audited(reply.value.broken, reply.sequence)
                await asyncio.sleep(AUDIT_PAUSE_S)

    async def ask_server(self) -> None:
        """The server's own figures, again and again."""
        async with AsyncClient(self.address) as client:
            while not self.over:
                self.figures.server = await client.info()
                await asyncio.sleep(REFRESH_S / 2)

    async def conclude(self) -> None:
        """When all is quiet: the server's figures, and a check of everything that was done."""
        async with AsyncClient(self.address, timeout=30.0) as client:
            self.figures.server = await client.info()
            # The server's newest image may be older than what another connection has done, so
            # make a transaction of this one: its queries then see all that came before.
            await client.deposit(1, 0)
            reply = await client.reply("conservation")
            self.figures.audited(reply.value.broken, reply.sequence)
            self.figures.conservation = reply.value


async def offer_flow(demo: Demo, seconds: float, connections: int) -> None:
    """Have `diptych loadtest` offer the made-up flow, and follow its progress."""
    words = ["loadtest", demo.address, "--mix", "exchange.flow:Flow", "--json", "--progress"]
    words += ["--connections", str(connections), "--in-flight", str(IN_FLIGHT)]
    words += ["--duration", str(seconds), "--warmup", "0"]  # so that every call counts
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "diptych.cli", *words),
        cwd=Path(__file__).parent.parent,  # where `exchange` is found
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 22,
    )
    assert process.stdout is not None
    try:
        async for line in process.stdout:
            said = json.loads(line)
            if "progress" in said:
                demo.figures.progress(**said["progress"])
            else:
                demo.figures.report(said)
        demo.figures.complete = await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def play_tape(demo: Demo, path: Path, seconds: float) -> None:
    """Play a tape through one client, as fast as the exchange answers."""
    figures = demo.figures
    async with AsyncClient(demo.address, timeout=60.0) as client:
        await run_setup(client, tape_setup())
        player = Player(client)
        figures.started()
        began = time.perf_counter()
        with open_tape(path) as lines:
            playing = asyncio.create_task(
                player.play(read_events(lines), going=lambda: time.perf_counter() < began + seconds)
            )
            before, last = 0, began
            while not playing.done():
                await asyncio.wait({playing}, timeout=REFRESH_S)
                now, calls = time.perf_counter(), player.tally.calls
                rate = (calls - before) / max(1e-9, now - last)
                figures.progress(now - began, calls, 0, rate, 0.0)
                before, last = calls, now
            tally = await playing
        figures.played(tally, time.perf_counter() - began)


async def run(demo: Demo, offering: Coroutine[Any, Any, None], show: Callable[[], None]) -> None:
    """Offer the load with everybody watching; the first failure of anyone ends it all."""
    async with asyncio.TaskGroup() as group:
        group.create_task(_repeat(show, demo))
        group.create_task(demo.audit())
        group.create_task(demo.ask_server())
        for number in range(WATCHERS):
            group.create_task(demo.watch(number))
        try:
            await offering
        finally:
            demo.over = True
            demo.figures.ended()
    await demo.conclude()


def _shower(figures: Figures, stack: ExitStack) -> Callable[[], None]:
    """How to show figures: a live table on a terminal, plain lines elsewhere."""
    if not sys.stdout.isatty():
        return lambda: show_line(figures)
    live = stack.enter_context(Live(screen(figures), auto_refresh=False))
    return lambda: live.update(screen(figures), refresh=True)


async def _repeat(show: Callable[[], None], demo: Demo) -> None:
    while not demo.over:
        if demo.figures.transactions:  # before, everything is zero
            show()
        await asyncio.sleep(REFRESH_S)
    show()


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="exchange.demo", description="The exchange at work.")
    parser.add_argument(
        "--tape", type=Path, metavar="FILE", help="play this instead of made-up flow"
    )
    parser.add_argument("--seconds", type=float, default=SECONDS, metavar="N", help="(12)")
    parser.add_argument("--connections", type=int, default=CONNECTIONS, metavar="N", help="(50)")
    arguments = parser.parse_args(words)
    failed = False
    with ExitStack() as stack:
        print("starting the exchange ...", flush=True)
        server = stack.enter_context(running(app))
        symbols = (SYMBOL,) if arguments.tape else SYMBOLS
        demo = Demo(server.address, symbols)
        print(
            f"serving on {server.address}; nothing is on disk, so nothing outlives it", flush=True
        )
        if arguments.tape:
            offering = play_tape(demo, arguments.tape, arguments.seconds)
        else:
            print(
                f"opening {Flow().accounts} accounts in {len(symbols)} symbols, "
                f"then {arguments.connections} connections for {arguments.seconds:g} s ...",
                flush=True,
            )
            offering = offer_flow(demo, arguments.seconds, arguments.connections)
        try:
            asyncio.run(run(demo, offering, _shower(demo.figures, stack)))
        except* (DiptychError, TapeError, OSError) as errors:
            failed = True
            for error in errors.exceptions:
                print(f"exchange.demo: {error}", file=sys.stderr)
            print(server.log(), file=sys.stderr)
    return 1 if failed else show_summary(demo.figures)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit(130)
