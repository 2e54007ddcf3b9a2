"""`diptych call [ADDRESS] [OPERATION [ARGUMENT...]]`: run one operation, or list them.

An argument is taken as JSON where it is JSON, else as text: `diptych call transfer 1 2 50`,
`diptych call best AAPL`, `diptych call book '{"levels": 3}'`. Exit codes: 0 done, 1 refused or
failed, 2 wrong usage. Without an operation it is a health check: 0 means that the server answers.
With --json also refusals and errors are printed as JSON: {"rejected": code, "details": {...}} or
{"error": code, "message": text, ...}.

A transaction with --request KEY runs once, however often it is called with that key and the same
arguments. `diptych call [ADDRESS] --outcome REQUEST` tells what became of a transaction, by its key
or as an "outcome_unknown" names it; one that has not run by then never will (not_executed).
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from typing import Any

from diptych_client import CallError, Client, DiptychError, OutcomeUnknown, Rejected

HELP = "run one operation of a running server, or list its operations"

ADDRESS_DEFAULT = "127.0.0.1:7171"
ADDRESS_VARIABLE = "DIPTYCH_ADDRESS"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = __doc__
    parser.add_argument(
        "words",
        nargs="*",
        metavar="[ADDRESS] [OPERATION [ARGUMENT...]]",
        help=f"address: host:port, else ${ADDRESS_VARIABLE}, else {ADDRESS_DEFAULT}",
    )
    parser.add_argument("--token", default=os.environ.get("DIPTYCH_TOKEN"), help="$DIPTYCH_TOKEN")
    parser.add_argument("--json", action="store_true", help="print the answer as one line of JSON")
    parser.add_argument("--request", metavar="KEY", help="run a transaction once for this key")
    parser.add_argument("--outcome", metavar="REQUEST", help="print what became of a transaction")
    parser.add_argument("--info", action="store_true", help="print the server's figures")
    parser.add_argument("--tables", action="store_true", help="print how full the tables are")
    parser.add_argument(
        "--timeout", type=float, default=10.0, metavar="SECONDS", help="default: 10"
    )


def run(arguments: argparse.Namespace) -> int:
    words = list(arguments.words)
    address = os.environ.get(ADDRESS_VARIABLE, ADDRESS_DEFAULT)
    if words and ":" in words[0]:
        address = words.pop(0)
    if arguments.outcome is not None and (words or arguments.request is not None):
        print("diptych call: --outcome asks; it calls no operation", file=sys.stderr)
        return 2
    try:
        with Client(address, token=arguments.token, timeout=arguments.timeout) as client:
            if arguments.outcome is not None:
                show(client.outcome(arguments.outcome), as_json=arguments.json)
            elif arguments.info:
                print(json.dumps(client.info(), indent=None if arguments.json else 2))
            elif arguments.tables:
                _show_tables(client.info()["writer"], as_json=arguments.json)
            elif words:
                values = [parsed(word) for word in words[1:]]
                once = client.using(request=arguments.request)
                show(once.call(words[0], *values), as_json=arguments.json)
            else:
                _list(client, as_json=arguments.json)
    except DiptychError as error:
        return _tell(error, address, as_json=arguments.json)
    except ValueError as error:
        print(f"diptych call: {error}", file=sys.stderr)
        return 2
    return 0


def _tell(error: DiptychError, address: str, *, as_json: bool) -> int:
    """Print why there is no value. Returns the exit code."""
    if isinstance(error, Rejected):
        if as_json:
            show({"rejected": error.code, "details": error.details}, as_json=True)
        else:
            print(f"rejected: {error}", file=sys.stderr)
        return 1
    if as_json:
        fields = {name: getattr(error, name) for name in error.fields}
        show({"error": error.code, "message": str(error), **fields}, as_json=True)
    else:
        code = "" if isinstance(error, CallError) else f"{address}: {error.code}: "
        print(f"diptych call: {code}{error}", file=sys.stderr)
        if isinstance(error, OutcomeUnknown):
            asked = f"diptych call {address} --outcome {shlex.quote(error.request)}"
            print(f"what became of it: {asked}", file=sys.stderr)
    return 2 if isinstance(error, CallError) else 1


def parsed(word: str) -> Any:
    """What a word on the command line stands for."""
    try:
        return json.loads(word)
    except ValueError:
        return word


def show(value: Any, *, as_json: bool) -> None:
    """Print an answer as people read it, or as one line of JSON."""
    if not as_json and _is_records(value):
        print(*value, sep="\n")
    elif as_json or isinstance(value, list | dict | bool | None):
        print(json.dumps(value, default=_plain))
    else:
        print(value)


def _is_records(value: Any) -> bool:
    """Rows and NamedTuples, which say more one a line, with names, than as arrays."""
    return isinstance(value, list) and bool(value) and all(hasattr(v, "_fields") for v in value)


def _show_tables(writer: dict[str, Any] | None, *, as_json: bool) -> None:
    """Rows, capacity and memory of each table, then of its indexes and its heap."""
    tables = {} if writer is None else writer["tables"]
    if as_json:
        print(json.dumps(tables))
        return
    print(f"{'table':<24} {'rows':>13} {'capacity':>14} {'full':>6} {'memory':>10}")
    for name, told in tables.items():
        size = _mib(told["memory_bytes"])
        counts = f"{told['rows']:>13,} {told['capacity']:>14,}"
        print(f"{name:<24} {counts} {told['fill']:>6.1%} {size:>10}")
        for index, part in told["indexes"].items():
            size = _mib(part["memory_bytes"])
            print(f"  {index:<22} {part['entries']:>13,} {'':>14} {'':>6} {size:>10}")
        if "heap" in told:
            heap = told["heap"]
            full = heap["used_bytes"] / heap["capacity_bytes"]
            of = f"{_mib(heap['used_bytes']):>13} {_mib(heap['capacity_bytes']):>14}"
            print(f"  {'(heap)':<22} {of} {full:>6.1%} {_mib(heap['memory_bytes']):>10}")


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 20):,.1f} MiB"


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else str(value)


def _list(client: Client, *, as_json: bool) -> None:
    operations = client.operations.values()
    if as_json:
        show(
            {operation.name: operation.kind.name.lower() for operation in operations}, as_json=True
        )
        return
    print(f"{client.app}, {client.server_version}")
    for operation in operations:
        doc = operation.doc.splitlines()[0] if operation.doc else ""
        print(f"  {operation.kind.name.lower():<12} {operation}  {doc}".rstrip())
