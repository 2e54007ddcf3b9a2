"""The `diptych` command: finds the subcommand's module in `diptych.commands` and runs it.

Each module there has `HELP` (one line), `add_arguments(parser)` and `run(arguments) -> exit code`.
Exit codes: 0 fine, 1 the operation failed, 2 bad usage or configuration.
A command's module is imported only when that command runs, so `--help` stays quick.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

import diptych

COMMANDS = {
    "serve": "serve an application over TCP",
    "call": "run one operation of a running server",
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
    chosen = words[0] if words and words[0] in COMMANDS else None
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        if name == chosen:
            module = importlib.import_module(f"diptych.commands.{name}")
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    parsed = parser.parse_args(words)
    try:
        return int(parsed.run(parsed))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 1


if __name__ == "__main__":
    sys.exit(main())
