"""What an exchange order costs the engine alone, in both lanes: a Markdown table or JSON.

    python bench/engine.py                        20,000 events each way, five times
    python bench/engine.py --events 2000 --runs 1 --json

The example's flow as frames, run by the engine in this process: no sockets, no page tracking, no
syncs. Cancels name orders by the number they got, so events are run in pieces. Both lanes see the
same events in turn, and must end with the same trades. Medians over the runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from diptych.engine.engine import Engine, layout_bytes
from diptych.memory import Region
from diptych.store.compiled.handlers import compiled_operations
from diptych.store.database import SCRATCH_BYTES
from diptych_client.protocol import HEADER, HEADER_BYTES, Kind, encode_frame
from exchange import app
from exchange.flow import Flow
from exchange.player import Cancel, Place

PIECE_EVENTS = 500
NUMBERS = {operation.name: operation.number for operation in app.operations}
FOR_EVER_NS = 1 << 62


class Lane:
    """One engine on a region of its own, fed with calls."""

    def __init__(self, *, compiled: bool) -> None:
        region = Region.create(layout_bytes(app), scratch_bytes=SCRATCH_BYTES)
        operations = compiled_operations(app) if compiled else None
        self.engine = Engine.create(
            app, region, grow=region.allocate, history=1, compiled=operations, now_ns=lambda: 0
        )
        self.run(list(Flow().setup()))

    def run(self, calls: list[tuple[str, tuple[Any, ...]]]) -> tuple[float, list[Any]]:
        """Seconds that the engine took, and each call's value, None for a rejection."""
        frames = [
            encode_frame(
                Kind.TRANSACTION, msgpack.packb(arguments, default=int), operation=NUMBERS[name]
            )
            for name, arguments in calls
        ]
        starts = np.cumsum([0, *map(len, frames)], dtype=np.int64)
        data = np.frombuffer(b"".join(frames), np.uint8)
        self.engine.begin(0)
        began = time.perf_counter()
        self.engine.run(data, starts, 0, len(calls), FOR_EVER_NS)
        took = time.perf_counter() - began
        values = list(results(bytes(self.engine.replies)))
        self.engine.replies.clear()
        return took, values


def results(replies: bytes) -> Any:
    at = 0
    while at < len(replies):
        length, kind, *_ = HEADER.unpack_from(replies, at)
        at += HEADER_BYTES
        yield msgpack.unpackb(replies[at : at + length]) if kind == Kind.RESULT else None
        at += length


def order_us(lane: Lane, events: int) -> float:
    """Microseconds an order, over `events` events of the flow."""
    stream = Flow().events()
    placed: dict[Any, tuple[int, int]] = {}
    total_s, count = 0.0, 0
    while count < events:
        calls, keys = [], []
        for event in islice(stream, PIECE_EVENTS):
            if isinstance(event, Place):
                calls.append(("place_order", tuple(event[1:])))
                keys.append(event)
            elif isinstance(event, Cancel) and event.key in placed:
                calls.append(("cancel_order", placed.pop(event.key)))
                keys.append(None)
        took, values = lane.run(calls)
        total_s, count = total_s + took, count + len(calls)
        for event, value in zip(keys, values, strict=True):
            if event is not None and value is not None and value[0]:
                placed[event.key] = (event.account, value[0])
    return total_s / count * 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    lanes = {"interpreted": Lane(compiled=False), "compiled": Lane(compiled=True)}
    runs: dict[str, list[float]] = {name: [] for name in lanes}
    for _ in range(arguments.runs):
        for name, lane in lanes.items():
            runs[name].append(order_us(lane, arguments.events))
    trades = {name: len(lane.engine.db.trade) for name, lane in lanes.items()}
    if len(set(trades.values())) != 1:
        print(f"the lanes disagree: {trades} trades", file=sys.stderr)
        return 1
    medians = {name: statistics.median(found) for name, found in runs.items()}
    if arguments.json:
        print(json.dumps({"us_per_order": medians, "runs": runs, "trades": trades}))
        return 0
    print("| lane | us an order | least | most |\n| --- | ---: | ---: | ---: |")
    for name, found in runs.items():
        print(f"| {name} | {medians[name]:.1f} | {min(found):.1f} | {max(found):.1f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
