"""Pages written a transaction, for the exchange and for TPC-C: a Markdown table or JSON.

    python bench/pages_per_transaction.py                   at 1, 10, 100 and 1,000 an epoch
    python bench/pages_per_transaction.py --detail 100      and what those pages hold
    python bench/pages_per_transaction.py --json --items 1000 --customers 50

What a sync copies, and what the writer pays a first write for, is the pages that were written since
the sync before: so this is what a schema's layout costs, and it says nothing of time. The engine
runs in this process on a tracked region; after each epoch of so many transactions the tracker is
asked. The more transactions an epoch has, the more of them share their pages. Means over all epochs
of one run; counts are the same on every machine.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any, Protocol

import msgpack
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from diptych import App
from diptych.engine.engine import Engine, layout_bytes
from diptych.memory import Extent, Region, choose_tracker
from diptych.store.database import SCRATCH_BYTES
from diptych.store.layout import Layout
from diptych.store.words import PAGE_WORDS
from diptych_client.protocol import HEADER, HEADER_BYTES, Kind, encode_frame
from exchange import app as exchange_app
from exchange.flow import Flow
from exchange.player import Cancel, Place
from tpcc import Scale
from tpcc import app as tpcc_app
from tpcc.terminals import Terminals

EPOCHS = {1: 400, 10: 200, 100: 60, 1_000: 12}  # how many are measured, by transactions in each
DETAIL_LINES = 30
NOW = 1_700_000_000_000_000_000
FOR_EVER_NS = 1 << 62

Call = tuple[str, tuple[Any, ...]]


class Tracked:
    """An engine on a region whose written pages are tracked."""

    def __init__(self, app: App) -> None:
        self.region = Region.create(layout_bytes(app), scratch_bytes=SCRATCH_BYTES, name="tracked")
        self.tracker = choose_tracker(self.region)
        self.engine = Engine.create(
            app, self.region, grow=self._grow, history=1, now_ns=lambda: NOW, setup=False
        )
        self._numbers = {operation.name: operation.number for operation in app.operations}

    def close(self) -> None:
        self.tracker.stop()

    def run(self, calls: list[Call]) -> list[Any]:
        """Each call's value, None for a rejection. Errors: RuntimeError when one fails."""
        frames = [
            encode_frame(
                Kind.TRANSACTION,
                msgpack.packb(arguments, default=int),
                operation=self._numbers[name],
            )
            for name, arguments in calls
        ]
        starts = np.cumsum([0, *map(len, frames)], dtype=np.int64)
        data = np.frombuffer(b"".join(frames), np.uint8)
        self.engine.run(data, starts, 0, len(calls), FOR_EVER_NS)
        values = list(_results(bytes(self.engine.replies)))
        self.engine.replies.clear()
        return values

    def pages(self) -> Any:
        """Numbers of the pages written since this was asked last; page 0 is never tracked."""
        return self.tracker.take()

    def _grow(self, extent: Extent) -> None:
        self.region.allocate(extent)
        self.tracker.track(extent)


def _results(replies: bytes) -> Iterator[Any]:
    at = 0
    while at < len(replies):
        length, kind, *_ = HEADER.unpack_from(replies, at)
        at += HEADER_BYTES
        payload = msgpack.unpackb(replies[at : at + length])
        if kind == Kind.ERROR:
            raise RuntimeError(f"a call failed: {payload}")
        yield payload if kind == Kind.RESULT else None
        at += length


def structures(layout: Layout) -> tuple[list[int], list[str]]:
    """First pages, ascending, and the names of what begins there."""
    found = {1: "header and states"}
    for table in layout.tables:
        name = table.spec.name
        starts = {
            table.live: f"{name}: which rows live",
            table.next: f"{name}: key, chains",
            table.buckets: f"{name}: key, buckets",
        }
        for column in table.spec.columns:
            starts[table.bases[column.first_word]] = f"{name}.{column.name}"
        for index in table.indexes:
            starts[index.nodes] = f"{name}.{index.spec.name}"
        found |= {word // PAGE_WORDS: told for word, told in starts.items()}
    pages = sorted(found)
    return pages, [found[page] for page in pages]


class Load(Protocol):
    """What is run: `calls` gives the next ones, `told` hears their values."""

    def setup(self) -> list[Call]: ...
    def calls(self, count: int) -> list[Call]: ...
    def told(self, values: list[Any]) -> None: ...


class Orders:
    """The exchange's order flow. A cancel names an order of an earlier epoch."""

    def __init__(self) -> None:
        self._flow = Flow()
        self._stream = self._flow.events()
        self._resting: dict[Any, tuple[int, int]] = {}
        self._sent: list[Place | None] = []

    def setup(self) -> list[Call]:
        return list(self._flow.setup())

    def calls(self, count: int) -> list[Call]:
        made: list[Call] = []
        self._sent = []
        while len(made) < count:
            event = next(self._stream)
            if isinstance(event, Place):
                made.append(("place_order", tuple(event[1:])))
                self._sent.append(event)
            elif isinstance(event, Cancel) and event.key in self._resting:
                made.append(("cancel_order", self._resting.pop(event.key)))
                self._sent.append(None)
        return made

    def told(self, values: list[Any]) -> None:
        for placed, value in zip(self._sent, values, strict=True):
            if placed is not None and value is not None and value[0]:
                self._resting[placed.key] = (placed.account, value[0])


class Wholesale:
    """TPC-C's mix without its queries, which write nothing."""

    def __init__(self, scale: Scale) -> None:
        self._terminals = Terminals(scale)
        self._streams = cycle([self._terminals.calls(number) for number in range(10)])

    def setup(self) -> list[Call]:
        return list(self._terminals.setup())

    def calls(self, count: int) -> list[Call]:
        made: list[Call] = []
        while len(made) < count:
            call = next(next(self._streams))
            if call[0] not in ("order_status", "stock_level"):
                made.append(call)
        return made

    def told(self, values: list[Any]) -> None:
        """Nothing that comes later depends on it."""


def measured(app: App, load: Load, epochs: float) -> dict[str, Any]:
    """Pages a transaction, by transactions in an epoch; and for each of those, what they hold."""
    tracked = Tracked(app)
    try:
        for call in load.setup():
            tracked.run([call])
        firsts, names = structures(tracked.engine.layout)
        means: dict[int, float] = {}
        held: dict[int, dict[str, float]] = {}
        for size, count in EPOCHS.items():
            rounds = max(1, round(count * epochs))
            counts: Counter[str] = Counter()
            for _ in range(rounds):
                calls = load.calls(size)
                tracked.pages()
                load.told(tracked.run(calls))
                places = np.searchsorted(firsts, tracked.pages(), "right") - 1
                counts.update(names[place] for place in places.tolist())
            means[size] = counts.total() / (rounds * size)
            held[size] = {name: n / (rounds * size) for name, n in counts.most_common()}
        return {"tracker": tracked.tracker.name, "pages": means, "held": held}
    finally:
        tracked.close()


def main() -> int:
    arguments = parsed()
    found = {
        "exchange": measured(exchange_app, Orders(), arguments.epochs),
        "TPC-C": measured(
            tpcc_app,
            Wholesale(Scale(items=arguments.items, customers=arguments.customers)),
            arguments.epochs,
        ),
    }
    if arguments.json:
        print(json.dumps(found))
        return 0
    print("| pages a transaction, of so many an epoch | " + " | ".join(map(str, EPOCHS)) + " |")
    print("| --- " + "| ---: " * len(EPOCHS) + "|")
    for name, told in found.items():
        print(f"| {name} | " + " | ".join(f"{told['pages'][size]:.2f}" for size in EPOCHS) + " |")
    if arguments.detail:
        for name, told in found.items():
            print(f"\n{name}, {arguments.detail} an epoch:")
            for what, pages in list(told["held"][arguments.detail].items())[:DETAIL_LINES]:
                print(f"{pages:9.3f}  {what}")
    return 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=float, default=1.0, help="times as many epochs (1)")
    parser.add_argument("--items", type=int, default=100_000, help="of TPC-C (100,000)")
    parser.add_argument("--customers", type=int, default=3_000, help="of a district (3,000)")
    parser.add_argument(
        "--detail", type=int, choices=list(EPOCHS), help="show what the pages of such epochs hold"
    )
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
