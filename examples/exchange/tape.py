"""Plays a recorded market day: `python -m exchange.tape [FILE]`.

The format is Bitstamp's: a line of CSV an event (`id`, two timestamps in ms, `price` in USD with
two decimals, `volume` still open in 1e-8 BTC, `action`, `direction`), plain or compressed as .xz. A
created order becomes a limit order, a deletion with volume left a cancel. A change, or a deletion
with nothing left, was a fill: our own matching makes those, so no call is made. Orders of before
the file began are unknown. Everything is accounted for, and the sums are checked.

Units: a price is cents, a quantity 1e-8 BTC, and cash therefore 1e-10 USD; all fit in 64 bits.
Orders are dealt out to accounts by their number, each with money and coins for a day's trading.
Without a file the made-up flow of `flow` is played; without `--address` a server is started for it.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import lzma
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from diptych import AsyncClient, DiptychError
from diptych.loadtest.mix import Call
from exchange.flow import Flow
from exchange.player import Cancel, Event, Fill, Place, Player, Tally
from exchange.schema import Conservation, Side, app

SYMBOL = "BTCUSD"
ACCOUNTS = 100
CASH = 3 * 10**16  # 3 million USD each: 3 * 10**18 together
COINS = 10**13  # 100,000 BTC each
FLOW_EVENTS = 50_000
COLUMNS = ["id", "timestamp", "exchange.timestamp", "price", "volume", "action", "direction"]
SIDES = {"bid": Side.BUY, "ask": Side.SELL}


class TapeError(Exception):
    """A file is no tape: says which line, and why."""


def open_tape(path: Path) -> TextIO:
    """Open a tape for reading, compressed or not."""
    if path.suffix == ".xz":
        return lzma.open(path, "rt", encoding="ascii", newline="")
    return path.open(encoding="ascii", newline="")


def read_events(lines: Iterable[str]) -> Iterator[Event]:
    """Turn a tape's lines into events. Errors: TapeError."""
    rows = csv.reader(lines)
    header = next(rows, None)
    if header != COLUMNS:
        raise TapeError(f"line 1: the columns should be {','.join(COLUMNS)}")
    for number, row in enumerate(rows, 2):
        try:
            order, _, _, price, volume, action, direction = row
            yield _event(int(order), _cents(price), int(volume), action, SIDES[direction])
        except (ValueError, KeyError) as error:
            raise TapeError(f"line {number}: {row}: {error!r}") from error


def _event(order: int, price: int, volume: int, action: str, side: Side) -> Event:
    if action == "created":
        return Place(order, 1 + order % ACCOUNTS, SYMBOL, side, price, volume)
    if action == "changed":
        return Fill(order, whole=False)
    if action != "deleted":
        raise ValueError(f"unknown action {action!r}")
    return Cancel(order) if volume > 0 else Fill(order, whole=True)


def _cents(text: str) -> int:
    """Dollars with two decimals as cents, without a float in between."""
    dollars, point, cents = text.partition(".")
    if not point or len(cents) != 2 or not cents.isdigit():
        raise ValueError(f"a price has two decimals, not {text!r}")
    return int(dollars) * 100 + int(cents)


def tape_setup() -> Iterator[Call]:
    """One market, and accounts rich enough that no order of a day is refused."""
    yield "list_symbol", (SYMBOL,)
    for account in range(1, ACCOUNTS + 1):
        yield "open_account", (account, CASH)
    for account in range(1, ACCOUNTS + 1):
        yield "issue_shares", (account, SYMBOL, COINS)


async def run_setup(client: AsyncClient, calls: Iterable[Call]) -> None:
    """Make the calls, one operation after another. What exists already stays as it is.

    Errors: the first that any ends with.
    """
    by_operation: dict[str, list[tuple[Any, ...]]] = {}
    for operation, arguments in calls:
        by_operation.setdefault(operation, []).append(arguments)
    for operation, arguments_list in by_operation.items():
        for result in await client.call_many(operation, arguments_list):
            if isinstance(result, DiptychError) and not result.code.endswith("_exists"):
                raise result


async def play(
    address: str, events: Iterable[Event], setup: Iterable[Call], in_flight: int
) -> tuple[Tally, float, Conservation]:
    """Set up, play everything, and check that money and shares are where they should be."""
    async with AsyncClient(address, timeout=60.0) as client:
        await run_setup(client, setup)
        started = time.perf_counter()
        tally = await Player(client, in_flight=in_flight).play(events)
        seconds = time.perf_counter() - started
        # A fresh query: its image has every transaction of this connection.
        return tally, seconds, await client.conservation()


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="exchange.tape", description="Play a recorded market.")
    parser.add_argument("file", nargs="?", type=Path, help="a tape (.csv or .csv.xz)")
    parser.add_argument("--address", help="of a running exchange; left out: start one")
    parser.add_argument("--in-flight", type=int, default=512, metavar="N", help="calls (512)")
    parser.add_argument("--events", type=int, metavar="N", help="play the first N only")
    arguments = parser.parse_args(words)
    with ExitStack() as stack:
        events: Iterable[Event]
        if arguments.file is not None:
            try:
                events = read_events(stack.enter_context(open_tape(arguments.file)))
            except OSError as error:
                print(f"exchange.tape: {error}", file=sys.stderr)
                return 2
            setup, limit = tape_setup(), arguments.events
        else:
            flow = Flow()
            events, setup, limit = flow.events(), flow.setup(), arguments.events or FLOW_EVENTS
        address = arguments.address
        if address is None:
            from diptych.testing import running

            address = stack.enter_context(running(app)).address
        try:
            tally, seconds, conservation = asyncio.run(
                play(address, islice(events, limit), setup, arguments.in_flight)
            )
        except (TapeError, DiptychError) as error:
            print(f"exchange.tape: {error}", file=sys.stderr)
            return 1
    return report(tally, seconds, conservation)


def report(tally: Tally, seconds: float, conservation: Conservation) -> int:
    """Print what became of every event; 0 if all is well."""
    print("\n".join(tally.lines()))
    print(f"{tally.calls:,} calls in {seconds:.2f} s, {tally.calls / seconds:,.0f} /s")
    print(f"{conservation.open_orders:,} orders rest, {conservation.trades:,} trades")
    print(f"invariants broken: {', '.join(conservation.broken) or 'none'}")
    well = not conservation.broken and tally.failures == 0
    figures = {
        "events": tally.read,
        "outcomes": dict(sorted(tally.outcomes.items())),
        "calls_per_second": round(tally.calls / seconds),
        "trades": conservation.trades,
        "open_orders": conservation.open_orders,
        "broken": conservation.broken,
    }
    print(json.dumps(figures))
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
