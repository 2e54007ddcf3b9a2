"""Terminals against a server: `python -m tpcc.driver [ADDRESS]` measures what it does.

Starts a server of its own unless it is given an address, loads it unless it is loaded, then runs
the mix closed loop for some seconds, without keying or thinking times: so this is the work of
TPC-C, and its tpmC (new orders that were entered, a minute) is no result in the sense of the TPC.
`diptych.loadtest` makes the calls. At the end the consistency conditions are checked on an image
that shows all that was done, and the exit code says whether they hold and every call was answered.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from diptych import Client, DiptychError
from diptych.loadtest import (
    LoadFailed,
    LoadSettings,
    OperationReport,
    Progress,
    Report,
    run_load,
)
from diptych.testing import running
from tpcc.loader import Scale, population
from tpcc.schema import CUSTOMERS, ITEMS, Conditions, app
from tpcc.terminals import Terminals

SECONDS = 10.0
CONNECTIONS = 10
IN_FLIGHT = 16
CYCLE_CALLS = 2_000
POPULATE_IN_FLIGHT = 32
TIMEOUT_S = 60.0
AUDIT_PAUSE_S = 0.2
PERCENTILES = ("p50", "p90", "p99")


@dataclass
class Audit:
    """What watching the consistency conditions has shown. `sequences`: the images looked at."""

    sequences: list[int] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    last: Conditions | None = None

    def take(self, client: Client) -> None:
        """Check the conditions on the image that a query of this client gets."""
        reply = client.reply("conditions")
        self.last = reply.value
        self.sequences.append(reply.sequence)
        self.broken.update(reply.value.broken)

    @property
    def holds(self) -> bool:
        return self.last is not None and not self.broken


@dataclass(frozen=True)
class Run:
    """What was measured. `loaded_s`: 0 when the server was loaded already."""

    scale: Scale
    loaded_s: float
    report: Report
    audit: Audit

    @property
    def operations(self) -> list[OperationReport]:
        """The mix's; the queries of connections that do nothing else are not among them."""
        return [each for each in self.report.operations if each.kind == "transaction"]

    @property
    def clean(self) -> bool:
        return self.audit.holds and self.report.clean and not self.failures

    @property
    def failures(self) -> int:
        """Calls that ended in neither a result nor the rejection that is meant to be."""
        return sum(
            count
            for operation in self.report.operations
            for code, count in operation.refused.items()
            if (operation.name, code) != ("new_order", "item_not_found")
        )

    @property
    def transactions_per_s(self) -> float:
        """Operations of all five kinds a second, rejected ones included."""
        return self.report.transactions_rate

    @property
    def tpmc(self) -> float:
        """New orders entered, a minute."""
        entered = sum(o.results for o in self.operations if o.name == "new_order")
        return 60 * entered / max(1e-9, self.report.seconds)

    @property
    def pages_per_transaction(self) -> float:
        """Pages that syncs had to copy, for each transaction that the writer ran."""
        after = self.report.server_after["writer"]
        before = self.report.server_before["writer"]
        ran = after["sequence"] - before["sequence"]
        return float((after["sync"]["pages"] - before["sync"]["pages"]) / max(1, ran))

    def as_dict(self) -> dict[str, Any]:
        """For `--json`; times in microseconds."""
        sync = self.report.server_after["writer"]["sync"]
        return {
            "scale": self.scale._asdict(),
            "loaded_s": round(self.loaded_s, 1),
            "seconds": round(self.report.seconds, 2),
            "transactions_per_s": round(self.transactions_per_s, 1),
            "tpmc": round(self.tpmc),
            "operations": {
                operation.name: {
                    "calls": operation.calls,
                    "per_s": round(operation.rate, 1),
                    "rejected_share": round(_refused(operation) / max(1, operation.calls), 4),
                    "refused": operation.refused,
                    "latency_us": {name: operation.latency_us[name] for name in PERCENTILES},
                }
                for operation in self.operations
            },
            "queries_per_s": round(self.report.queries_rate, 1),
            "unanswered": self.report.unanswered,
            "pages_per_sync": sync["pages_per_sync"],
            "pages_per_transaction": round(self.pages_per_transaction, 2),
            "pause_us": sync["pause_us"],
            "images_checked": len(set(self.audit.sequences)),
            "conditions_broken": sorted(self.audit.broken),
            "clean": self.clean,
        }

    def lines(self) -> Iterator[str]:
        """For people."""
        report = self.report
        yield (
            f"{report.seconds:.1f} s, {report.connections} connections x {report.in_flight} "
            f"in flight: {self.transactions_per_s:,.0f} transactions/s, tpmC {self.tpmc:,.0f}"
        )
        yield (
            f"{'operation':<14}{'calls':>9}{'share':>8}{'/s':>9}{'rejected':>10}  ms:"
            + "".join(f"{name:>9}" for name in PERCENTILES)
        )
        calls = sum(operation.calls for operation in self.operations)
        for operation in sorted(self.operations, key=lambda one: -one.calls):
            times = [operation.latency_us[name] for name in PERCENTILES]
            yield (
                f"{operation.name:<14}{operation.calls:>9,}{operation.calls / calls:>8.1%}"
                f"{operation.rate:>9,.0f}{_refused(operation) / max(1, operation.calls):>10.2%}"
                f"     " + "".join("        -" if t is None else f"{t / 1000:>9.2f}" for t in times)
            )
        sync = report.server_after["writer"]["sync"]
        yield (
            f"{self.pages_per_transaction:.1f} pages written a transaction, "
            f"{sync['pages_per_sync']['p50']:,.0f} a sync (median), "
            f"pause {sync['pause_us']['p50'] / 1000:.2f} ms (median)"
        )
        looked = len(set(self.audit.sequences))
        last = self.audit.last
        if self.audit.broken:
            yield f"conditions that do not hold: {', '.join(sorted(self.audit.broken))}"
        elif last is not None:
            yield (
                f"conditions 1 to 4 hold on {looked} image{'s' * (looked != 1)}, the last with "
                f"{last.orders:,} orders, {last.waiting:,} of them waiting, "
                f"and {last.order_lines:,} lines"
            )
        if self.failures or report.unanswered:
            yield f"{self.failures:,} calls failed, {report.unanswered:,} were not answered"


def _refused(operation: OperationReport) -> int:
    return sum(operation.refused.values())


def _nothing(words: str) -> None:
    pass


def _aloud(words: str) -> None:
    print(words, flush=True)


def populate(client: Client, scale: Scale) -> float:
    """Load an empty server; the seconds that took. Errors: DiptychError."""
    began = time.perf_counter()
    calls = (arguments for _, arguments in population(scale))
    while piece := list(islice(calls, POPULATE_IN_FLIGHT)):
        for result in client.call_many("populate", piece):
            if isinstance(result, Exception):
                raise result
    return time.perf_counter() - began


def drive(
    address: str,
    scale: Scale,
    settings: LoadSettings,
    *,
    seed: int = 7,
    watch: bool = False,
    say: Callable[[str], None] = _nothing,
) -> Run:
    """Load the server at `address` if it is empty, run the mix, check the conditions.

    `watch`: check them all the time meanwhile, too. `say` is called with what happens, in words.
    Errors: DiptychError, LoadFailed.
    """
    with Client(address, timeout=TIMEOUT_S) as client:
        found = client.call("loaded")
        loaded_s = 0.0
        if found.warehouses:
            scale = Scale(*found)
        else:
            say(f"loading {scale.warehouses} x {scale.items:,} items and so on ...")
            loaded_s = populate(client, scale)
            say(f"loaded in {loaded_s:.1f} s")
        audit = Audit()
        with ExitStack() as stack:
            if watch:
                # Whoever takes any image may get one with half of what was loaded, on which the
                # conditions can't hold, until an image with all of it has been seen.
                audit.take(client)
                stack.enter_context(_Watch(address, audit))
            report = run_load(
                address,
                Terminals(scale, seed),
                settings,
                lambda progress: say(_progress_line(progress)),
            )
        # A query sees what its own client has done, so do something after everybody else.
        client.call("payment", 1, 1, 1, 1, 1_00, 1)
        audit.take(client)
    return Run(scale, loaded_s, report, audit)


class _Watch(threading.Thread):
    """Looks at the conditions again and again until its block ends. Errors end it, and are raised
    at the end."""

    def __init__(self, address: str, audit: Audit) -> None:
        super().__init__(daemon=True)
        self._address, self._audit = address, audit
        self._over = threading.Event()
        self._error: DiptychError | None = None

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self.join(TIMEOUT_S)
        if self._error is not None:
            raise self._error

    def run(self) -> None:
        try:
            with Client(self._address, timeout=TIMEOUT_S) as client:
                while not self._over.wait(AUDIT_PAUSE_S):
                    self._audit.take(client.using(fresh=False))
        except DiptychError as error:
            self._error = error


def _progress_line(progress: Progress) -> str:
    return f"{progress.elapsed_s:6.1f} s  {progress.transactions_rate:>9,.0f} transactions/s"


def add_arguments(parser: argparse.ArgumentParser, *, items: int, customers: int) -> None:
    """What the driver and the demo both take; they differ in how much they load."""
    much = parser.add_argument_group("how much is loaded, when the server is empty")
    much.add_argument("--warehouses", type=_count, default=1, metavar="N", help="(1)")
    much.add_argument("--items", type=_count, default=items, metavar="N", help=f"({items:,})")
    much.add_argument(
        "--customers",
        type=_count,
        default=customers,
        metavar="N",
        help=f"of each district, which has as many orders ({customers:,})",
    )
    how = parser.add_argument_group("how")
    how.add_argument("--seconds", type=_seconds, default=SECONDS, metavar="S", help="(10)")
    how.add_argument("--warmup", type=_seconds, default=1.0, metavar="S", help="not counted (1)")
    how.add_argument("--connections", type=_count, default=CONNECTIONS, metavar="N", help="(10)")
    how.add_argument(
        "--in-flight", type=_count, default=IN_FLIGHT, metavar="N", help="terminals on each (16)"
    )
    how.add_argument(
        "--stale",
        action="store_true",
        help="queries take the newest image, instead of one that shows all that was answered",
    )
    how.add_argument("--seed", type=_count, default=7, metavar="N", help="of the terminals (7)")
    parser.add_argument("--json", action="store_true", help="one line of JSON, nothing else")


def run(arguments: argparse.Namespace, address: str | None, *, watch: bool) -> int:
    """Do what the command line says; returns the exit code."""
    say = _nothing if arguments.json else _aloud
    scale = Scale(arguments.warehouses, arguments.items, arguments.customers)
    settings = LoadSettings(
        connections=arguments.connections,
        in_flight=arguments.in_flight,
        duration_s=arguments.seconds,
        warmup_s=arguments.warmup,
        fresh=not arguments.stale,
        cycle_calls=CYCLE_CALLS,
        setup=False,
    )
    with ExitStack() as stack:
        if address is None:
            say("starting a server ...")
            address = stack.enter_context(running(app)).address
            say(f"serving on {address}; nothing is on disk, so nothing outlives it")
        try:
            done = drive(address, scale, settings, seed=arguments.seed, watch=watch, say=say)
        except (DiptychError, LoadFailed) as error:
            print(f"tpcc: {error}", file=sys.stderr)
            return 1
    print(json.dumps(done.as_dict()) if arguments.json else "\n".join(done.lines()), flush=True)
    return 0 if done.clean else 1


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1e6:
        raise argparse.ArgumentTypeError("must be 0 or more")
    return value


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tpcc.driver",
        description="Run TPC-C's mix against a server, and measure it.",
        epilog="without keying and thinking times: no result in the sense of the TPC",
    )
    parser.add_argument(
        "address",
        nargs="?",
        metavar="ADDRESS",
        help="host:port of a server of tpcc:app; left out: one is started, and ended",
    )
    add_arguments(parser, items=ITEMS, customers=CUSTOMERS)
    arguments = parser.parse_args(words)
    return run(arguments, arguments.address, watch=False)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
