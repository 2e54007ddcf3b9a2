"""`diptych verify MODULE:APP DIR`: does the log lead to what the checkpoints have?

Runs what the log has between every two checkpoints again, on a copy of the older one, in a fresh
process with another PYTHONHASHSEED, and compares all bytes with the newer one. What differs is told
by table, column and row. Behind the newest checkpoint only the answers are compared. So a handler
is found that depends on chance, on the order of a set, on the clock, or on what the process
remembers: one that would make a recovery come to something else.

Changes nothing, and may run beside a server. Needs memory for a copy of the data. Exit codes: 0 all
is the same, 1 something differs or is damaged, 2 wrong usage, or another application's data.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from diptych.commands._tools import add_target, app_of, target_name
from diptych.errors import ConfigurationError
from diptych.serving.spawn import forbid_library_threads

if TYPE_CHECKING:
    from diptych.engine.stretches import Plan, Stretch, Verified

HELP = "run the log again, and compare what comes out with the checkpoints"
PLANS_MAX = 5
"""A running server may replace a checkpoint while it is read; then there is another to look at."""
SEED_MAX = 1 << 32


class Failed(Exception):
    """The process that ran a stretch did not come to an end."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_target(parser, "the data directory")
    parser.epilog = __doc__
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")


def run(arguments: argparse.Namespace) -> int:
    forbid_library_threads()
    try:
        target, path = target_name(arguments.target), Path(arguments.directory)
        app_of(target)  # says what is wrong with it, once
        plan, results = _verify(target, path, quiet=arguments.json)
    except ConfigurationError as error:
        print(f"diptych verify: {error}", file=sys.stderr)
        return 2
    except (OSError, Failed) as error:
        print(f"diptych verify: {error}", file=sys.stderr)
        return 1
    from diptych.engine.stretches import is_sound

    sound = is_sound(plan, results)
    if arguments.json:
        told = {"same": sound, "stretches": [asdict(each) for each in results]}
        print(json.dumps(told | {"skipped": plan.skipped, "damage": plan.damage}))
    else:
        _print_end(plan, results, sound=sound)
    return 0 if sound else 1


def _verify(target: str, path: Path, *, quiet: bool) -> tuple[Plan, list[Verified]]:
    """Errors: ConfigurationError, OSError, Failed."""
    from diptych.engine.stretches import plan

    done: dict[Stretch, Verified] = {}
    for _ in range(PLANS_MAX):
        found = plan(path)
        replaced = False
        for stretch in found.stretches:
            if stretch in done:
                continue
            result = _run(target, path, stretch)
            replaced = replaced or result.replaced
            if not result.replaced:
                done[stretch] = result
                if not quiet:
                    _print(result)
        if not replaced:
            break
    return found, list(done.values())


def _run(target: str, path: Path, stretch: Stretch) -> Verified:
    """In a process that remembers nothing, and that hashes text otherwise. Errors: Failed."""
    from diptych.engine.stretches import unpacked

    words = [target, str(path), json.dumps(asdict(stretch))]
    seed = str(1 + secrets.randbelow(SEED_MAX - 1))
    ran = subprocess.run(
        [sys.executable, "-m", "diptych.commands._stretch", *words],
        env=os.environ | {"PYTHONHASHSEED": seed},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        check=False,
    )
    if ran.returncode:
        raise Failed(f"running {stretch} again ended with exit code {ran.returncode}")
    return unpacked(json.loads(ran.stdout))


def _print(result: Verified) -> None:
    print(f"{result.stretch}: {_result(result)}", flush=True)
    for differs in result.answers:
        print(f"  {differs}")
    for name, count in result.unlike.items():
        print(f"  {name}: {count:,} words differ")
    for told in result.told:
        print(f"    {told}")
    for remark in result.remarks:
        print(f"  {remark}")


def _result(result: Verified) -> str:
    if result.damage:
        return f"DAMAGED: {result.damage}"
    if result.refusal:
        return f"not run: {result.refusal}"
    ran = f"{result.transactions:,} transactions in {result.seconds:.1f} s"
    if not result.same:
        return f"DIFFERENT ({ran})"
    what = f"{result.pages:,} pages as in {result.stretch.target}"
    if not result.stretch.target:
        what = "to the end of the log, with the same answers"
    return f"{what} ({ran})"


def _print_end(plan: Plan, results: list[Verified], *, sound: bool) -> None:
    for skipped in plan.skipped:
        print(f"not compared: {skipped}")
    for damage in plan.damage:
        print(f"DAMAGED: {damage}")
    if not results:
        print("the log has nothing to run again")
    print("all is the same" if sound else "not all is the same")
