"""`diptych export ADDRESS TABLE...`: write tables of a running server to files.

All tables are as of one instant; the files appear when all of them are whole. Without -o they go
into this directory, one a table; -o may name a directory, or for one table a file, whose name says
the format. `diptych import` reads them back. With --data DIR instead of an address the newest
checkpoint of a data directory is read; no server is needed, nor the application. Exit codes: 0
done, 1 failed, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from diptych.bulk.files import NAMES, BadFile
from diptych.commands.import_ import CONNECT_TIMEOUT_S, check_address, progress_bar
from diptych.errors import ConfigurationError, CorruptionError
from diptych_client import CallError, DiptychError, Rejected

if TYPE_CHECKING:
    from diptych.bulk.exporting import Snapshot

HELP = "write tables, as of one instant, to CSV, Parquet or Arrow files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = __doc__
    parser.add_argument(
        "words", metavar="[ADDRESS] TABLE...", nargs="+", help="host:port; names of tables"
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="read this data directory")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE|DIR", help="where to write")
    parser.add_argument("--format", choices=NAMES, help="left out: by the file's name, else csv")
    parser.add_argument("--token", default=os.environ.get("DIPTYCH_TOKEN"), help="$DIPTYCH_TOKEN")
    parser.add_argument("--json", action="store_true", help="print a summary as one line of JSON")


def run(arguments: argparse.Namespace) -> int:
    try:
        return _export(arguments)
    except (BadFile, ImportError, ConfigurationError) as error:
        return _fail(arguments, "bad_file", str(error), 2)
    except (OSError, CorruptionError) as error:
        return _fail(arguments, "failed", str(error), 1)
    except Rejected as refused:
        if arguments.json:
            print(json.dumps({"rejected": refused.code, "details": refused.details}))
        else:
            print(f"diptych export: {refused}", file=sys.stderr)
        return 1
    except DiptychError as error:
        return _fail(arguments, error.code, str(error), 2 if isinstance(error, CallError) else 1)


def _export(arguments: argparse.Namespace) -> int:
    from diptych.bulk.exporting import exported, target_files, write_files

    began = time.monotonic()
    tables = arguments.words if arguments.data else arguments.words[1:]
    if not arguments.data:
        check_address(arguments.words[0])
    if not tables:
        raise BadFile("name a table; diptych call ADDRESS --tables lists them")
    files, kind = target_files(tables, arguments.output, arguments.format)
    with ExitStack() as stack:
        snapshot = _snapshot(arguments, stack, tables, files[0].parent)
        rows = sum(table.rows for table in snapshot.tables)
        wrote, _ = stack.enter_context(progress_bar("writing", "rows", rows))
        write_files(snapshot, files, kind, lambda done, total: wrote(done))
        done = exported(snapshot, files)
    seconds = time.monotonic() - began
    if arguments.json:
        told = [{"table": each.table, "file": str(each.file), "rows": each.rows} for each in done]
        print(
            json.dumps(
                {
                    "tables": told,
                    "sequence": snapshot.sequence,
                    "rows": sum(each.rows for each in done),
                    "seconds": round(seconds, 3),
                }
            )
        )
    else:
        for each in done:
            print(f"{each.rows:,} rows of {each.table} in {each.file}")
        print(f"as of transaction {snapshot.sequence}, in {seconds:.1f} s")
    return 0


def _snapshot(
    arguments: argparse.Namespace, stack: ExitStack, tables: Sequence[str], directory: Path
) -> Snapshot:
    """The tables, from wherever; `directory` is where a server's are kept meanwhile."""
    if arguments.data:
        from diptych.bulk.stored_data import from_data

        return stack.enter_context(from_data(arguments.data, tables))
    from diptych.bulk.exporting import from_server
    from diptych.bulk.system_client import SystemClient

    client = stack.enter_context(
        SystemClient(arguments.words[0], token=arguments.token, timeout=CONNECT_TIMEOUT_S)
    )
    with progress_bar("fetching", "bytes", None) as (fetched, _):
        source = from_server(client, tables, directory, lambda done, total: fetched(done))
        return stack.enter_context(source)


def _fail(arguments: argparse.Namespace, code: str, message: str, exit_code: int) -> int:
    if arguments.json:
        print(json.dumps({"error": code, "message": message}))
    else:
        print(f"diptych export: {message}", file=sys.stderr)
    return exit_code
