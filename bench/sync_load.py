"""What tracking and syncs cost a writer at full load, by the size of its data: Markdown or JSON.

    python bench/sync_load.py                            10^4, 10^5 and 10^6 resting orders
    python bench/sync_load.py --sizes 10000000 --scattered --json

The exchange's flow, compiled, as frames, run by the engine in this process as fast as it can: no
sockets, no log, no sessions. Two engines get the same frames in turn, one without a tracker, one
with a mirror and the server's default settings; the share of the writer's time that is lost is the
median over such pairs, of the thread's own processor time. Both must give the same replies.
Both begin as copies of one engine that was filled, so that ten million orders are placed only once.
Resting orders lie behind the market's prices, so that they stay; --scattered cancels name any of
them and not recent ones, so that each order writes pages of its own. Staleness is how old the image
that queries see had become when the next one was published; other engines' turns do not count, nor
do they pay for syncs. Ratios within one run mean something.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from diptych.engine.engine import Engine, layout_bytes
from diptych.engine.sync import Syncer, SyncSettings
from diptych.memory import Extent, Mirror, Region, choose_tracker
from diptych.memory.layout import PAGE_BYTES, PAGE_WORDS
from diptych.memory.machine import data_cost_bytes, memory_limits
from diptych.store.compiled.handlers import compiled_operations
from diptych.store.database import SCRATCH_BYTES
from diptych_client.protocol import HEADER, HEADER_BYTES, Kind, encode_frame
from exchange import app
from exchange.flow import LOT, SYMBOLS, TICK, Flow
from exchange.player import Cancel, Place

NUMBERS = {operation.name: operation.number for operation in app.operations}
PIECE_EVENTS = 500
SLICE_NS = 1_000_000
FOR_EVER_NS = 1 << 62
FILL_EVENTS = 50_000
TELL_ORDERS = 1_000_000
BEHIND_TICKS = 60  # from the middle on, which orders of the flow hardly reach
DEPTH_TICKS = 300
ORDER_BYTES = 230  # of memory, with its part of the indexes

Call = tuple[str, tuple[Any, ...]]
Frames = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]


class TurnClock:
    """Monotonic time without what passes between one engine's turns: syncs are not paid for by
    then, and images get no older.
    """

    def __init__(self) -> None:
        self._idle_ns = 0
        self._stopped_at_ns = 0  # 0: it runs

    def now_ns(self) -> int:
        return (self._stopped_at_ns or time.monotonic_ns()) - self._idle_ns

    def stop(self) -> None:
        self._stopped_at_ns = time.monotonic_ns()

    def go_on(self) -> None:
        if self._stopped_at_ns:
            self._idle_ns += time.monotonic_ns() - self._stopped_at_ns
            self._stopped_at_ns = 0


class World:
    """One engine with so many resting orders at the most; `synced`: tracked and mirrored. With
    `like`, it begins with the data of that one.
    """

    def __init__(self, resting: int, *, synced: bool = False, like: World | None = None) -> None:
        self.resting = resting
        # Below the share from which on the engine warns that a table is getting full.
        capacities = {"order": resting * 5 // 4 + 500_000, "trade": 10_000_000}
        self.region = Region.create(layout_bytes(app, capacities), scratch_bytes=SCRATCH_BYTES)
        self.clock = TurnClock()
        self.mirror = None
        if synced:
            settings = SyncSettings()
            tracker = choose_tracker(self.region, settings.tracker, leave_hot=True)
            images = [Region.create(self.region.size_bytes) for _ in range(settings.images)]
            self.mirror = Mirror(self.region, tracker, images, now_ns=self.clock.now_ns)
        if like is not None:
            for extent in like.engine.extents():
                self._grow(extent)
                words = slice(extent.start * PAGE_WORDS, extent.stop * PAGE_WORDS)
                self.region.words[words] = like.region.words[words]
        self.engine: Engine = (Engine.create if like is None else Engine.recover)(
            app,
            self.region,
            grow=self._grow,
            history=1,
            capacities=capacities,
            compiled=compiled_operations(app),
            now_ns=lambda: 0,
        )
        self.syncer = None
        if self.mirror:
            self.syncer = Syncer(self.mirror, SyncSettings(), now_ns=self.clock.now_ns)
        self._shown_ns = 0
        self.staleness_ms: list[float] = []

    def _grow(self, extent: Extent) -> None:
        if self.mirror:
            self.mirror.add_extent(extent)
        else:
            self.region.allocate(extent)
            self.region.populate(extent)

    def run(self, frames: Frames) -> bytes:
        """The replies."""
        data, starts = frames
        self.engine.run(data, starts, 0, len(starts) - 1, FOR_EVER_NS)
        replies = bytes(self.engine.replies)
        self.engine.replies.clear()
        return replies

    def drive(self, frames: Frames) -> tuple[float, int]:
        """Run them as a writer does, syncs between slices: us of this thread, and the outcome."""
        data, starts = frames
        count, done = len(starts) - 1, 0
        self.engine.begin(0)
        self.clock.go_on()
        began_ns = time.thread_time_ns()
        while done < count:
            done += self.engine.run(data, starts, done, count, time.monotonic_ns() + SLICE_NS)
            self.engine.replies.clear()
            self.step()
            time.sleep(0)  # as at a writer's sockets, others get the interpreter
        took_ns = time.thread_time_ns() - began_ns
        self.clock.stop()
        return took_ns / 1000, self.engine.outcome

    def step(self) -> None:
        if self.syncer:
            for event in self.syncer.step(self.engine.sequence, 1):
                now_ns = self.clock.now_ns()
                if self._shown_ns:
                    self.staleness_ms.append((now_ns - self._shown_ns) / 1e6)
                self._shown_ns = event.time_ns

    def level(self) -> None:
        """Sync until two images were made: that copies everything twice, and later syncs do not."""
        for _ in range(3):
            self.run(framed([("deposit", (1, 0))]))  # so that there is something to sync
            while self.syncer and not self._is_shown():
                self.step()
                time.sleep(0.001)
        self.clock.stop()

    def _is_shown(self) -> bool:
        published = self.syncer.published if self.syncer else None
        return published is not None and published.sequence == self.engine.sequence

    def used_bytes(self) -> int:
        return sum(extent.page_count for extent in self.engine.extents()) * PAGE_BYTES

    def figures(self) -> dict[str, Any]:
        assert self.syncer is not None
        told = self.syncer.statistics()
        return {name: told[name] for name in ("pause_us", "pages_per_sync", "tracker", "syncs")}

    def close(self) -> None:
        if self.syncer and self.mirror:
            self.syncer.close()
            self.mirror.tracker.stop()


def framed(calls: list[Call]) -> Frames:
    return joined(
        [
            encode_frame(
                Kind.TRANSACTION, msgpack.packb(given, default=int), operation=NUMBERS[name]
            )
            for name, given in calls
        ]
    )


def joined(frames: list[bytes]) -> Frames:
    starts = np.cumsum([0, *map(len, frames)], dtype=np.int64)
    return np.frombuffer(b"".join(frames), np.uint8), starts


def results(replies: bytes) -> list[Any]:
    found, at = [], 0
    while at < len(replies):
        length, kind, *_ = HEADER.unpack_from(replies, at)
        at += HEADER_BYTES
        found.append(msgpack.unpackb(replies[at : at + length]) if kind == Kind.RESULT else None)
        at += length
    return found


def fill(world: World, flow: Flow) -> npt.NDArray[np.int64]:
    """Have orders wait behind what the flow trades; their accounts, by number, from 1 on.

    Frames are put together from parts, since packing a call would take longer than running it.
    """
    world.run(framed(list(flow.setup())))
    aways = range(BEHIND_TICKS, DEPTH_TICKS + 1)
    ends = [
        b"".join(map(msgpack.packb, (symbol, side, max(1, middle - side * away) * TICK, LOT)))
        for symbol in SYMBOLS
        for middle in flow.middles(symbol)[:1]
        for side in (1, -1)
        for away in aways
    ]
    begins = [b"\x95" + msgpack.packb(account) for account in range(flow.accounts + 1)]
    number = NUMBERS["place_order"]
    headers = [
        encode_frame(Kind.TRANSACTION, bytes(length), operation=number)[:HEADER_BYTES]
        for length in range(max(map(len, begins)) + max(map(len, ends)) + 1)
    ]
    draw = np.random.default_rng(5)
    weights = 1 / np.arange(1, len(SYMBOLS) + 1)
    accounts = draw.integers(1, flow.accounts + 1, world.resting)
    for first in range(0, world.resting, FILL_EVENTS):
        owners = accounts[first : first + FILL_EVENTS]
        symbols = draw.choice(len(SYMBOLS), owners.size, p=weights / weights.sum())
        chosen = symbols * 2 * len(aways) + draw.integers(0, 2 * len(aways), owners.size)
        pairs = zip(owners.tolist(), chosen.tolist(), strict=True)
        payloads = [begins[owner] + ends[end] for owner, end in pairs]
        world.run(joined([headers[len(payload)] + payload for payload in payloads]))
        done = first + owners.size
        if done % TELL_ORDERS == 0:
            tell(f"{done:,} of {world.resting:,} orders rest")
    if len(world.engine.db.tables["order"]) != world.resting:
        raise SystemExit("not all orders rest that were meant to")
    return accounts


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Recording:
    """The same frames for every world: rounds of `events` of the flow, to be run on `filled`.

    Cancels name orders by the numbers they get, so that all is run once to learn them.
    """

    def __init__(self, resting: int, rounds: int, events: int, *, scattered: bool) -> None:
        flow = Flow()
        world = World(resting)
        accounts = fill(world, flow)
        self.filled = World(resting, like=world)
        self._resting: Iterator[tuple[int, int]] = iter(())
        if scattered:
            chosen = np.random.default_rng(5).permutation(resting)[: rounds * events]
            pairs = zip(accounts[chosen].tolist(), (chosen + 1).tolist(), strict=True)
            self._resting = iter(pairs)
        self._stream = flow.events()
        self._placed: dict[Any, tuple[int, int]] = {}
        tell(f"{rounds} rounds of the flow are recorded")
        self.rounds = [self._round(world, events) for _ in range(rounds)]
        self.used_bytes = world.used_bytes()
        world.close()

    def _round(self, world: World, events: int) -> Frames:
        calls: list[Call] = []
        while len(calls) < events:
            piece, keys = self._piece()
            for event, value in zip(keys, results(world.run(framed(piece))), strict=True):
                if event is not None and value is not None and value[0]:
                    self._placed[event.key] = (event.account, value[0])
            calls += piece
        return framed(calls)

    def _piece(self) -> tuple[list[Call], list[Place | None]]:
        calls: list[Call] = []
        keys: list[Place | None] = []
        for event in islice(self._stream, PIECE_EVENTS):
            if isinstance(event, Place):
                calls.append(("place_order", tuple(event[1:])))
                keys.append(event)
            elif isinstance(event, Cancel) and event.key in self._placed:
                named = self._placed.pop(event.key)
                calls.append(("cancel_order", next(self._resting, named)))
                keys.append(None)
        return calls, keys


def measured(resting: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One size."""
    recording = Recording(
        resting, arguments.rounds + 1, arguments.events, scattered=arguments.scattered
    )
    gc.collect()  # what was recorded on, which may be gigabytes
    plain = recording.filled
    synced = World(resting, synced=True, like=plain)
    tell("the first images are made")
    for world in (plain, synced):
        world.level()
    us: dict[World, list[float]] = {plain: [], synced: []}
    faults = 0
    for number, frames in enumerate(recording.rounds):
        tell(f"round {number} of {arguments.rounds}, on {resting:,} resting orders")
        outcomes = set()
        for world in (plain, synced)[:: 1 if number % 2 else -1]:
            before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
            took_us, outcome = world.drive(frames)
            outcomes.add(outcome)
            if number:  # the first one warms up
                us[world].append(took_us / (len(frames[1]) - 1))
                if world is synced:
                    faults += resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before
            elif world is synced:
                world.staleness_ms.clear()
        if len(outcomes) != 1:
            raise SystemExit("the engines gave different replies")
    lost = [1 - off / on for off, on in zip(us[plain], us[synced], strict=True)]
    orders = sum(len(frames[1]) - 1 for frames in recording.rounds[1:])
    found = {
        "resting": resting,
        "scattered": arguments.scattered,
        "used_bytes": recording.used_bytes,
        "us_per_order_off": statistics.median(us[plain]),
        "us_per_order_on": statistics.median(us[synced]),
        "lost": statistics.median(lost),
        "lost_least": min(lost),
        "lost_most": max(lost),
        "faults_per_order": faults / orders,
        "staleness_p50_ms": float(np.percentile(synced.staleness_ms or [np.nan], 50)),
        "staleness_p99_ms": float(np.percentile(synced.staleness_ms or [np.nan], 99)),
    } | synced.figures()
    plain.close()
    synced.close()
    return found


def main() -> int:
    arguments = parsed()
    rows = []
    for resting in arguments.sizes:
        data_bytes = ORDER_BYTES * resting
        needed = data_bytes + data_cost_bytes(data_bytes, SyncSettings().images, readers=0)
        if needed > 0.8 * memory_limits().usable_bytes:
            print(f"{resting:,} left out: it needs {needed >> 20} MiB", file=sys.stderr)
            continue
        rows.append(measured(resting, arguments))
    if arguments.json:
        print(json.dumps({"rounds": arguments.rounds, "events": arguments.events, "rows": rows}))
        return 0
    print(
        "| resting orders | us an order, off | on | lost (least, most) | faults an order "
        "| pages a sync | pause p50 / p99 ms | staleness p50 / p99 ms |"
    )
    print("|" + " ---: |" * 8)
    for row in rows:
        print(
            f"| {row['resting']:,} | {row['us_per_order_off']:.2f} | {row['us_per_order_on']:.2f} "
            f"| {row['lost']:.1%} ({row['lost_least']:.1%}, {row['lost_most']:.1%}) "
            f"| {row['faults_per_order']:.3f} | {row['pages_per_sync']['p50']:,.0f} "
            f"| {row['pause_us']['p50'] / 1000:.2f} / {row['pause_us']['p99'] / 1000:.2f} "
            f"| {row['staleness_p50_ms']:.0f} / {row['staleness_p99_ms']:.0f} |"
        )
    return 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sizes",
        type=lambda text: [int(part) for part in text.split(",")],
        default=[10_000, 100_000, 1_000_000],
        help="resting orders, by commas",
    )
    parser.add_argument("--events", type=int, default=100_000, help="orders of one round")
    parser.add_argument("--rounds", type=int, default=7, help="pairs of one size")
    parser.add_argument("--scattered", action="store_true", help="cancel any resting order")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="tiny: shows that it runs")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.sizes, arguments.events, arguments.rounds = [500], 2_000, 2
    return arguments


if __name__ == "__main__":
    sys.exit(main())
