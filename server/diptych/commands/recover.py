"""`diptych recover MODULE:APP DIR --to NEW`: the data as it was at some point, in a new directory.

Loads the newest whole checkpoint that is not beyond the point, runs the log up to it, and writes a
complete checkpoint into NEW, of a new history: clients that saw more are told so (HistoryChanged).
The point is a transaction (--until 1200), a time (--until-time 2026-03-01T12:00:00Z, or @ and
nanoseconds since 1970), or else the end of all that can be read: where the log is damaged, the
damage. DIR is not changed, and needs no lock: of a running server this makes a copy of a moment
ago.

A log is run again by the code that wrote it. If the application's code, its tables, or a version
has changed, that is refused; --with-changes does it all the same, and stops where an answer is not
what it was. Exit codes: 0 NEW is made, 1 it is not, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from diptych.commands._tools import add_target, app_of, log_to_stderr
from diptych.errors import ConfigurationError, CorruptionError
from diptych.serving.spawn import forbid_library_threads

if TYPE_CHECKING:
    from diptych.engine.recovering import Recovered

HELP = "make a new data directory of the data as it was at some transaction or time"
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_target(parser, "the data directory to read; it is not changed")
    parser.epilog = __doc__
    parser.add_argument("--to", required=True, metavar="NEW", help="the directory to make")
    point = parser.add_mutually_exclusive_group()
    point.add_argument("--until", type=int, metavar="S", help="up to transaction S")
    point.add_argument(
        "--until-time",
        metavar="TIME",
        help="up to the last transaction not after it: ISO 8601 (UTC without an offset), or @ns",
    )
    parser.add_argument(
        "--with-changes",
        action="store_true",
        help="run the log again by code that did not write it",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")


def run(arguments: argparse.Namespace) -> int:
    forbid_library_threads()
    try:
        time_ns = None if arguments.until_time is None else time_of(arguments.until_time)
        if arguments.until is not None and arguments.until < 1:
            raise ConfigurationError("--until: transactions are numbered from 1")
        app = app_of(arguments.target)
        log_to_stderr("recover")
        from diptych.engine.recovering import Point, Refused, recover
        from diptych.memory import MemoryFailure
    except ConfigurationError as error:
        return _tell(str(error), 2, as_json=arguments.json)
    try:
        done = recover(
            app,
            Path(arguments.directory),
            Path(arguments.to),
            Point(arguments.until, time_ns),
            with_changes=arguments.with_changes,
        )
    except ConfigurationError as error:
        return _tell(str(error), 2, as_json=arguments.json)
    except (Refused, CorruptionError, MemoryFailure, OSError) as error:
        return _tell(str(error), 1, as_json=arguments.json)
    if arguments.json:
        print(json.dumps(asdict(done)))
    else:
        _print(done, arguments.target)
    return 0


def time_of(text: str) -> int:
    """ns since 1970. Errors: ConfigurationError."""
    try:
        if text.startswith("@"):
            return int(text[1:])
        time = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(
            f"--until-time: {text!r} is neither ISO 8601, as 2026-03-01T12:00:00Z, nor @ and "
            "nanoseconds since 1970"
        ) from None
    if time.tzinfo is None:
        time = time.replace(tzinfo=datetime.UTC)
    since = time - EPOCH
    return ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1000


def _tell(error: str, code: int, *, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"error": error}))
    else:
        print(f"diptych recover: {error}", file=sys.stderr)
    return code


def _print(done: Recovered, target: str) -> None:
    when = EPOCH + datetime.timedelta(microseconds=done.now_ns // 1000)
    upto = f"transaction {done.sequence}, of {when:%Y-%m-%d %H:%M:%S.%f} UTC"
    ran = f"{done.transactions:,} transactions run again in {done.seconds:.1f} s"
    print(f"{done.directory} has all up to {upto}: {done.pages:,} pages")
    print(f"the checkpoint of transaction {done.base}, and {ran}")
    print(f"history {done.history:x} begins")
    for changed in done.changed:
        print(f"run again though this changed: {changed}")
    for damage in done.damage:
        print(f"DAMAGED, and not used: {damage}")
    for left_out in done.left_out:
        print(f"not in it: {left_out}")
    serve = ["diptych", "serve", target, "--data", done.directory]
    if not target.endswith(".toml"):
        print(f"serve it: {shlex.join(serve)}")
