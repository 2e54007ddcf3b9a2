"""What an exchange order costs in compiled code alone: a Markdown table or JSON.

    python bench/handlers.py                       40,000 events, twelve times
    python bench/handlers.py --events 2000 --runs 1 --json

The example's flow, decoded beforehand, run from a compiled loop: arguments are copied to where
handlers read them, the entry is called, and the undo log dropped or written back. No frames, no
replies, no interpreter. By kind of event, the processor's own counter tells what share of the time
each takes. The least over the runs, since whatever else the machine does only adds to it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from diptych.engine.engine import Engine, layout_bytes
from diptych.memory import Region
from diptych.store import lane
from diptych.store import words as at
from diptych.store.compiled.entries import call_entry
from diptych.store.compiled.handlers import compiled_operations
from diptych.store.database import SCRATCH_BYTES
from diptych.store.undo import rollback
from exchange import app
from exchange.flow import Flow
from exchange.player import Place
from exchange.schema import Until

CALL_WORDS = 8
"""Of a call: PLACE or CANCEL, then its arguments; a cancel's order is the call that placed it."""
PLACE, CANCEL = 0, 1
KINDS = ("rests", "trades and may rest", "cancelled", "at once or not at all", "rejected")
RESTS, TRADES, CANCELLED, AT_ONCE, REJECTED = range(len(KINDS))
NOW = int(Until.NOW)
UNTIL = 6  # which word of a call


@intrinsic
def ticks(typing_context: Any) -> Any:
    """The processor's time stamp counter."""

    def lowered(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(64), [])
        known = builder.module.globals.get("llvm.readcyclecounter")
        return builder.call(known or ir.Function(builder.module, kind, "llvm.readcyclecounter"), [])

    return types.int64(), lowered


@numba.njit
def drive(base, words, calls, entries, results, first, spent, counts):
    """Run calls from `first` on; which one needs memory first, or how many there are.

    `results` gets the number of each order, `spent` and `counts` ticks and calls by kind.
    """
    scratch = words[at.SCRATCH]
    for i in range(first, len(calls)):
        what = calls[i, 0]
        for j in range(CALL_WORDS - 1):
            words[scratch + at.S_CALL_ARGUMENTS + j] = calls[i, 1 + j]
        if what == CANCEL:
            order = results[calls[i, 2]]
            if order == 0:
                continue  # it was filled at once
            words[scratch + at.S_CALL_ARGUMENTS + 1] = order
        words[at.SEQUENCE] += 1
        began = ticks()
        code = call_entry(entries[what], base)
        took = ticks() - began
        kind = CANCELLED
        if code != 0:
            rollback(words, 0)
            if code != at.REJECTED:
                words[at.SEQUENCE] -= 1
                return i
            kind = REJECTED
        elif what == PLACE:
            results[i] = words[scratch + at.S_CALL_ANSWER]
            kind = TRADES if words[scratch + at.S_CALL_ANSWER + 1] > 0 else RESTS
            if calls[i, UNTIL] == NOW:
                kind = AT_ONCE
        words[scratch + at.S_UNDO_TOP] = 0
        spent[kind] += took
        counts[kind] += 1
    return len(calls)


def calls_of(events: int) -> Any:
    """So many events of the flow as calls."""
    calls = np.zeros((events, CALL_WORDS), np.int64)
    placed: dict[Any, int] = {}
    for i, event in enumerate(islice(Flow().events(), events)):
        if isinstance(event, Place):
            key, account, symbol, side, price, quantity, until = event
            word = int.from_bytes(symbol.encode().ljust(8, b"\0"), "little")
            calls[i, : UNTIL + 1] = PLACE, account, word, side, price, quantity, until
            placed[key] = i
        else:
            place = placed[event.key]
            calls[i, :3] = CANCEL, calls[place, 1], place
    return calls


class Bench:
    """An exchange on a region of its own, with the flow's accounts."""

    def __init__(self) -> None:
        compiled = compiled_operations(app)
        self.region = Region.create(layout_bytes(app), scratch_bytes=SCRATCH_BYTES)
        self.engine = Engine.create(
            app, self.region, grow=self.region.allocate, history=1, now_ns=lambda: 0
        )
        functions = {operation.name: operation for operation in app.operations}
        for name, arguments in Flow().setup():
            self.engine.transact(functions[name].function, *arguments)
        numbers = [functions[name].number for name in ("place_order", "cancel_order")]
        places = [lane.TABLE_OPERATIONS + number * lane.OP_WORDS for number in numbers]
        self.entries = compiled.table[np.array(places) + lane.OP_ENTRY]

    def run(self, calls: Any, results: Any, first: int, stop: int) -> tuple[float, Any, Any]:
        """Seconds of this thread for calls `first` to `stop`; ticks and calls by kind."""
        words, done, took_s = self.region.words, first, 0.0
        spent, counts = np.zeros(len(KINDS), np.int64), np.zeros(len(KINDS), np.int64)
        while done < stop:
            began = time.thread_time()
            done = drive(
                self.region.address, words, calls[:stop], self.entries, results, done, spent, counts
            )
            took_s += time.thread_time() - began
            if done < stop:
                scratch = self.engine.db.space.scratch
                code = scratch[at.S_CALL_CODE]
                if code not in (at.GROW_TABLE, at.GROW_INDEX):
                    raise RuntimeError(f"call {done} ended with {code}")
                self.engine.growth.give(scratch[at.S_FAULT])
        return took_s, spent, counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=40_000)
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    events = arguments.events
    bench, calls = Bench(), calls_of(events * (arguments.runs + 1))
    results = np.zeros(len(calls), np.int64)
    bench.run(calls, results, 0, events)  # which fills the book
    runs = [
        bench.run(calls, results, events * run, events * (run + 1))
        for run in range(1, arguments.runs + 1)
    ]
    bench.engine.verify()
    took_s, spent, counts = min(runs, key=lambda run: run[0])
    total_ns = took_s / events * 1e9
    kinds = {
        name: {
            "share": count / events,
            "ns": took_s * 1e9 * ticks_spent / spent.sum() / max(count, 1),
        }
        for name, ticks_spent, count in zip(KINDS, spent.tolist(), counts.tolist(), strict=True)
    }
    if arguments.json:
        shown = sorted(run[0] / events * 1e9 for run in runs)
        print(json.dumps({"ns_per_event": total_ns, "runs_ns": shown, "kinds": kinds}))
        return 0
    print("| an order that | of all events | ns | ns of an average event |")
    print("| --- | ---: | ---: | ---: |")
    for name, told in kinds.items():
        share, ns = told["share"], told["ns"]
        print(f"| {name} | {share:.1%} | {ns:.0f} | {share * ns:.0f} |")
    print(f"| all | | | {total_ns:.0f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
