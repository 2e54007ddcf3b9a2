"""`diptych debug MODULE:APP DIR --at S`: transaction S again, in pdb, on the data as it was.

Loads the newest checkpoint before it, runs the log up to the transaction before, and stops at the
first line of the handler of S, with `db` and its arguments as they were. After it has run, what it
answers is shown. All of it is a copy in memory: nothing is written, and it may run beside a server.
pdb's commands come from stdin, so they may be piped. Exit codes: 0 it ran, 1 it can't be run, 2
wrong usage.
"""

from __future__ import annotations

import argparse
import pdb
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diptych.commands._tools import add_target, app_of, log_to_stderr
from diptych.errors import ConfigurationError, CorruptionError
from diptych.serving.spawn import forbid_library_threads
from diptych_client.errors import DiptychError

HELP = "run one logged transaction again, on the data as it was, in the debugger"


class _Left(KeyboardInterrupt):
    """The debugger was left in the middle of the transaction.

    Anything but a KeyboardInterrupt would count as the handler's own.
    """


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_target(parser, "the data directory; it is not changed")
    parser.epilog = __doc__
    parser.add_argument("--at", type=int, required=True, metavar="S", help="which transaction")


def run(arguments: argparse.Namespace) -> int:
    forbid_library_threads()
    try:
        if arguments.at < 1:
            raise ConfigurationError("--at: transactions are numbered from 1")
        app = app_of(arguments.target)
        log_to_stderr("debug")
        from diptych.engine.debugging import NotThere, debug
        from diptych.memory import MemoryFailure

        debug(app, Path(arguments.directory), arguments.at, _in_pdb, print)
    except _Left:
        print("left before its end; nothing was written")
    except ConfigurationError as error:
        print(f"diptych debug: {error}", file=sys.stderr)
        return 2
    except (NotThere, CorruptionError, MemoryFailure, OSError) as error:
        print(f"diptych debug: {error}", file=sys.stderr)
        return 1
    return 0


class _Debugger(pdb.Pdb):
    """One that knows whether it was left."""

    left = False

    def set_quit(self) -> None:
        self.left = True
        super().set_quit()


def _in_pdb(handler: Callable[..., Any], *arguments: Any) -> Any:
    """Run a handler, stopped at its first line."""
    debugger = _Debugger(nosigint=True)
    try:
        value = debugger.runcall(handler, *arguments)
    except Exception as error:
        if not isinstance(error, DiptychError):
            traceback.print_exc()
        raise
    if debugger.left:
        raise _Left
    return value
