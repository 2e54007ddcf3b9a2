"""The `diptych` command: finds the subcommand's module in `diptych.commands` and runs it.

Each module there has `HELP` (one line), `add_arguments(parser)` and `run(arguments) -> exit code`.
Exit codes: 0 fine, 1 the operation failed, 2 bad usage or configuration.
A command's module is imported only when that command runs, so `--help` stays quick.
"""

from __future__ import annotations

import argparse
import importlib
import keyword
import sys
from collections.abc import Sequence

import diptych

COMMANDS = {
    "serve": "serve an application over TCP",
    "check": "check an application, compile its handlers, and look at its data",
    "inspect": "list what a data directory holds, and decode its log",
    "verify": "run the log again, and compare what comes out with the checkpoints",
    "recover": "make a new data directory of the data as it was at some transaction or time",
    "debug": "run one logged transaction again, on the data as it was, in the debugger",
    "call": "run one operation of a running server",
    "checkpoint": "have a running server write a checkpoint now",
    "import": "load rows from CSV, Parquet or Arrow files into a table",
    "export": "write tables, as of one instant, to CSV, Parquet or Arrow files",
    "doctor": "say what works on this machine, what it costs, and what to change",
    "pages": "the page-tracking test program: write, then list the pages written",
    "loadtest": "put load on a running server and report rates and latencies",
}


def main(arguments: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="diptych", description="In-memory business applications in Python."
    )
    parser.add_argument("--version", action="version", version=f"diptych {diptych.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        commands.add_parser(name, help=summary)
    if not words or words[0] not in COMMANDS:
        parser.parse_args(words)  # prints help or the version, or complains; and ends
    name = words.pop(0)
    # Without abbreviations: what is short for one option today may be short for two tomorrow.
    command = argparse.ArgumentParser(
        prog=f"diptych {name}", description=COMMANDS[name], allow_abbrev=False
    )
    try:
        # A command may be called what no module can be: its module ends in an underscore.
        module = importlib.import_module(f"diptych.commands.{name}{'_' * keyword.iskeyword(name)}")
        module.add_arguments(command)
        # Options may stand anywhere between the words: diptych call --json transfer 1 2 50.
        parsed = command.parse_intermixed_args(words)
        return int(module.run(parsed))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 1


if __name__ == "__main__":
    sys.exit(main())
