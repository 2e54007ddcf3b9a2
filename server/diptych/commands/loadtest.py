"""`diptych loadtest ADDRESS`: put load on a running server and report rates and latencies.

What to call comes as words (`--call 'transfer 1..100 1..100 5'`, weighted, repeated) or from a
Python module (`--mix module:name`). Without `--rate` it is a closed loop and shows the most that
the server does; with a rate latencies count from the moment each call was due.
See `diptych.loadtest`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from diptych.loadtest import (
    LoadFailed,
    LoadSettings,
    Mix,
    MixError,
    Progress,
    Report,
    load_mix,
    mix_of_texts,
    run_load,
)
from diptych_client.errors import DiptychError

EPILOG = """examples:
  diptych loadtest localhost:7171 --call 'transfer 1..100 1..100 5'
  diptych loadtest localhost:7171 --call 'transfer 1 2 5' --weight 3 --call 'transfer 2 1 5'
  diptych loadtest localhost:7171 --mix exchange.flow:Flow --queries 4 --rate 20000 --json
"""


class _Weight(argparse.Action):
    """Gives the `--call` or `--query` before it a weight."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: str | None = None) -> None:
        if not hasattr(namespace, "last_text"):
            parser.error("--weight follows a --call or a --query")
        namespace.last_text[1] = values


class _Text(argparse.Action):
    """A call in words, with weight 1 until `--weight` says otherwise."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: str | None = None) -> None:
        texts = getattr(namespace, self.dest) or []
        namespace.last_text = [values, 1.0]
        setattr(namespace, self.dest, [*texts, namespace.last_text])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument("address", metavar="ADDRESS", help="host:port of the server")
    what = parser.add_argument_group("what to call")
    what.add_argument("--call", action=_Text, metavar="WORDS", help="operation and arguments")
    what.add_argument("--query", action=_Text, metavar="WORDS", help="the same, by --queries")
    what.add_argument(
        "--weight", action=_Weight, type=_positive, metavar="N", help="of the one before"
    )
    what.add_argument("--mix", metavar="MODULE:NAME", help="a mix in Python, instead of words")
    what.add_argument("--no-setup", action="store_true", help="leave out the mix's setup calls")
    how = parser.add_argument_group("how")
    how.add_argument("--connections", type=_count, default=50, metavar="N", help="(50)")
    how.add_argument("--in-flight", type=_count, default=32, metavar="N", help="on each (32)")
    how.add_argument("--rate", type=_positive, metavar="N", help="calls/s; left out: closed loop")
    how.add_argument("--duration", type=_positive, default=10.0, metavar="S", help="(10)")
    how.add_argument("--warmup", type=_seconds, default=1.0, metavar="S", help="not counted (1)")
    how.add_argument(
        "--queries", type=_count, metavar="N", help="connections that query (1 if --query is given)"
    )
    how.add_argument("--query-in-flight", type=_count, default=1, metavar="N", help="on each (1)")
    how.add_argument("--fresh", action="store_true", help="queries wait for what was answered")
    how.add_argument(
        "--cycle", type=_count, default=4_000, metavar="N", help="calls made per connection (4000)"
    )
    parser.add_argument("--token", default=os.environ.get("DIPTYCH_TOKEN"), help="$DIPTYCH_TOKEN")
    parser.add_argument("--json", action="store_true", help="one line of JSON on standard output")
    parser.add_argument("--progress", action="store_true", help="one line a second as well")


def run(arguments: argparse.Namespace) -> int:
    try:
        mix = _mix(arguments)
    except MixError as error:
        print(f"diptych loadtest: {error}", file=sys.stderr)
        return 2
    queries = arguments.queries
    if queries is None:
        queries = 1 if arguments.query else 0
    settings = LoadSettings(
        connections=arguments.connections if arguments.call or arguments.mix else 0,
        in_flight=arguments.in_flight,
        rate=arguments.rate,
        duration_s=arguments.duration,
        warmup_s=arguments.warmup,
        query_connections=queries,
        query_in_flight=arguments.query_in_flight,
        fresh=arguments.fresh,
        cycle_calls=max(arguments.cycle, arguments.in_flight, arguments.query_in_flight),
        setup=not arguments.no_setup,
        token=arguments.token,
    )
    show = (_show_json if arguments.json else _show_line) if arguments.progress else None
    try:
        report = run_load(arguments.address, mix, settings, show)
    except (LoadFailed, MixError, DiptychError) as error:
        print(f"diptych loadtest: {error}", file=sys.stderr)
        return 1
    _print_report(report, as_json=arguments.json)
    return 0 if report.clean else 1


def _mix(arguments: argparse.Namespace) -> Mix:
    if arguments.mix:
        if arguments.call or arguments.query:
            raise MixError("give either --mix or --call and --query")
        # An application's own modules are found where the command is run.
        if "" not in sys.path:
            sys.path.insert(0, "")
        return load_mix(arguments.mix)
    if not arguments.call and not arguments.query:
        raise MixError("give a --call, a --query or a --mix")
    return mix_of_texts(_pairs(arguments.call), _pairs(arguments.query))


def _pairs(texts: Sequence[Sequence[Any]] | None) -> list[tuple[str, float]]:
    return [(text, weight) for text, weight in texts or ()]


def _print_report(report: Report, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(report.as_dict(), default=str), flush=True)
    else:
        print("\n".join(report.lines()), flush=True)


def _show_line(progress: Progress) -> None:
    print(
        f"{progress.elapsed_s:6.1f} s  {progress.transactions_rate:>9,.0f} transactions/s  "
        f"{progress.queries_rate:>9,.0f} queries/s",
        file=sys.stderr,
        flush=True,
    )


def _show_json(progress: Progress) -> None:
    print(json.dumps({"progress": progress._asdict()}), flush=True)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e12:
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1e6:
        raise argparse.ArgumentTypeError("must be 0 or more")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value
