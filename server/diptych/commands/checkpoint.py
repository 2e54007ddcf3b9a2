"""`diptych checkpoint [ADDRESS]`: have a running server write a checkpoint now, and wait for it.

It shows all that was done when it was asked for. Exit codes: 0 it is on the disk, 1 it is not, 2
wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from diptych.commands.call import ADDRESS_DEFAULT, ADDRESS_VARIABLE
from diptych_client import Client, DiptychError

HELP = "have a running server write a checkpoint now"
TIMEOUT_S = 3600.0
MIB = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "address",
        nargs="?",
        default=os.environ.get(ADDRESS_VARIABLE, ADDRESS_DEFAULT),
        metavar="ADDRESS",
        help=f"host:port, else ${ADDRESS_VARIABLE}, else {ADDRESS_DEFAULT}",
    )
    parser.add_argument("--token", default=os.environ.get("DIPTYCH_TOKEN"), help="$DIPTYCH_TOKEN")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.add_argument(
        "--timeout",
        type=float,
        default=TIMEOUT_S,
        metavar="SECONDS",
        help=f"default: {TIMEOUT_S:.0f}",
    )


def run(arguments: argparse.Namespace) -> int:
    try:
        with Client(arguments.address, token=arguments.token, timeout=arguments.timeout) as client:
            facts = client.admin({"do": "checkpoint"})
    except DiptychError as error:
        if arguments.json:
            print(json.dumps({"error": error.code, "message": str(error)}))
        else:
            print(f"diptych checkpoint: {arguments.address}: {error}", file=sys.stderr)
        return 1
    except ValueError as error:
        print(f"diptych checkpoint: {error}", file=sys.stderr)
        return 2
    print(json.dumps(facts) if arguments.json else _told(facts))
    return 0


def _told(facts: dict[str, Any]) -> str:
    shown = f"{facts['checkpoint']} has everything up to transaction {facts['sequence']:,}"
    if not facts["pages"]:
        return f"{shown}; nothing was done since it was written"
    return (
        f"{shown}: {facts['pages']:,} of {facts['of_pages']:,} pages, "
        f"{facts['bytes'] / MIB:,.1f} MiB, written in {facts['seconds']:.1f} s"
    )
