"""The suite's command line: chooses sections and peers, runs them, writes the report."""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.suite.measure import progress
from bench.suite.options import Options
from bench.suite.peers.base import Peer
from bench.suite.peers.every import CHECKED_CALLS, agreeing, every_peer, present
from bench.suite.report import Report, Result, Told
from bench.suite.sections import analytics, durable, orders
from bench.suite.sections.scripts import SCRIPTS

EPILOG = """\
The whole suite takes 2 minutes with --quick and 20 without, on two quiet cores with everything
compiled before. For figures to publish: --rounds 5 --seconds 3, three times as long.

sections (all of them, unless named):
{sections}

Data is written below --directory, which should be on the disk whose syncs are meant. Without
matplotlib (pip install 'diptych[bench]') the report has no plots. Peers that are not installed are
left out with a notice: redis-server, postgres and tarantool are looked for on the PATH.
"""


class Section(NamedTuple):
    title: str
    about: str
    run: Callable[[Options], Result]


SECTIONS: dict[str, Section] = {
    module.__name__.rsplit(".", 1)[1]: Section(module.TITLE, module.ABOUT, module.run)
    for module in (orders, durable, analytics)
} | {script.name: Section(script.title, script.about, script.run) for script in SCRIPTS}


def main(words: Sequence[str] | None = None) -> int:
    arguments = parsed(words)
    chosen = arguments.sections or list(SECTIONS)
    peers, skipped = present(every_peer())
    if arguments.peers:
        peers = [peer for peer in peers if peer.name in ("Diptych", *arguments.peers)]
    with tempfile.TemporaryDirectory(dir=arguments.directory, prefix="bench-") as directory:
        for name, why in skipped.items():
            progress(f"{name} is left out: {why}")
        calls = 600 if arguments.quick else CHECKED_CALLS
        differing: dict[str, str] = {}
        if set(chosen) - {script.name for script in SCRIPTS}:
            peers, differing = agreeing(peers, Path(directory), calls)
        for name, why in differing.items():
            progress(f"{name} is left out: {why}")
        options = options_of(arguments, Path(directory), peers)
        report = Report(
            command=shlex.join(["python", "-m", "bench", *(words or sys.argv[1:])]),
            began=time.strftime("%Y-%m-%d %H:%M %Z"),
            versions={peer.name: peer.version() for peer in peers},
            skipped=skipped | differing,
            judged=not arguments.quick,
        )
        for name in chosen:
            progress(f"== {name}")
            began = time.monotonic()
            section = SECTIONS[name]
            result = section.run(options)
            flags = [word for word in words or sys.argv[1:] if word not in SECTIONS]
            command = shlex.join(["python", "-m", "bench", name, *flags])
            took_s = time.monotonic() - began
            report.sections.append(
                Told(name, section.title, section.about, command, took_s, result)
            )
            report.write(arguments.output)
    print(arguments.output / "report.md")
    return 1 if differing else 0


def options_of(arguments: argparse.Namespace, directory: Path, peers: list[Peer]) -> Options:
    """What --quick makes small, unless it was said otherwise."""
    small = arguments.quick
    return Options(
        directory=directory,
        peers=peers,
        rounds=arguments.rounds or (1 if small else 3),
        seconds=arguments.seconds or (0.3 if small else 1.0),
        warmup_s=0.1 if small else 0.5,
        trades=arguments.trades or (20_000 if small else 1_000_000),
        cycle_calls=500 if small else 2_000,
        quick=small,
    )


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    listed = "\n".join(f"  {name:<12} {section.title}" for name, section in SECTIONS.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Diptych beside its peers, on this machine, in one run; writes a report.",
        epilog=EPILOG.format(sections=listed),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sections", nargs="*", metavar="SECTION", help="some of those below")
    parser.add_argument(
        "--quick", action="store_true", help="to see that it runs; figures say nothing"
    )
    parser.add_argument("--rounds", type=int, help="of everything, in turn (3)")
    parser.add_argument("--seconds", type=float, help="of each load (1)")
    parser.add_argument("--trades", type=int, help="preloaded for the analytic query (1000000)")
    parser.add_argument("--peers", nargs="+", metavar="NAME", help="only these beside Diptych")
    parser.add_argument("--directory", type=Path, help="where data is written (temporary files)")
    parser.add_argument(
        "--output", type=Path, default=Path("bench-report"), help="for the report (bench-report)"
    )
    arguments = parser.parse_args(words)
    if unknown := set(arguments.sections) - set(SECTIONS):
        parser.error(f"no such section: {', '.join(sorted(unknown))}")
    return arguments
