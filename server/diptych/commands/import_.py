"""`diptych import ADDRESS TABLE FILE...`: load rows from files into a table of a running server.

All rows of all files become visible at once, or none do. Columns go by name; from CSV they are
read as the table's columns say. A refusal names file, row (from 1, without the header), column,
value and limit. An import that was cut off leaves staged rows, which nobody sees and which stop the
next one: drop them with --abort, or begin with --replace. Exit codes: 0 done, 1 refused or failed,
2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diptych.bulk.files import NAMES, BadFile
from diptych_client import DiptychError, Rejected

HELP = "load rows from CSV, Parquet or Arrow files into a table"

CONNECT_TIMEOUT_S = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = __doc__
    parser.add_argument("address", metavar="ADDRESS", help="host:port of the server")
    parser.add_argument("table", metavar="TABLE", nargs="?", help="the table's name")
    parser.add_argument("files", metavar="FILE", nargs="*", type=Path, help="what to load")
    parser.add_argument("--format", choices=NAMES, help="left out: by the file's name")
    parser.add_argument(
        "--rename",
        action="append",
        default=[],
        type=_rename,
        metavar="FILE_COLUMN=COLUMN",
        help="a column that has another name in the files; repeated",
    )
    parser.add_argument(
        "--skip", action="append", default=[], metavar="FILE_COLUMN", help="leave out; repeated"
    )
    parser.add_argument(
        "--replace", action="store_true", help="drop what another import left or has under way"
    )
    parser.add_argument("--abort", action="store_true", help="do just that, and nothing else")
    parser.add_argument("--token", default=os.environ.get("DIPTYCH_TOKEN"), help="$DIPTYCH_TOKEN")
    parser.add_argument("--json", action="store_true", help="print a summary as one line of JSON")


def run(arguments: argparse.Namespace) -> int:
    try:
        check_address(arguments.address)
        if arguments.abort == bool(arguments.files):
            raise BadFile("give a table and files, or --abort alone")
        return _abort(arguments) if arguments.abort else _import(arguments)
    except (BadFile, ImportError) as error:
        return _fail(arguments, {"error": "bad_file", "message": str(error)}, 2)
    except Rejected as refused:
        return _refuse(arguments, refused, None, None)
    except DiptychError as error:
        return _fail(arguments, {"error": error.code, "message": str(error)}, 1)


def _import(arguments: argparse.Namespace) -> int:
    from diptych.bulk.importing import ImportFailed, find_table, open_sources, run_import
    from diptych.bulk.system_client import SystemClient

    with SystemClient(
        arguments.address, token=arguments.token, timeout=CONNECT_TIMEOUT_S
    ) as client:
        spec = find_table(client, arguments.table)
        renames = dict(arguments.rename)
        sources = open_sources(spec, arguments.files, arguments.format, renames, arguments.skip)
        known = [source.rows for source, _ in sources]
        total = None if None in known else sum(rows or 0 for rows in known)
        try:
            with progress_bar(f"importing {spec.name}", "rows", total) as (show, say):
                done = run_import(
                    client,
                    spec,
                    sources,
                    replace=arguments.replace,
                    progress=show,
                    committing=lambda rows: say(f"making {rows:,} rows visible"),
                )
        except ImportFailed as failed:
            return _refuse(arguments, failed.error, failed.file, failed.row)
    rate = done.rows / done.seconds if done.seconds else 0.0
    if arguments.json:
        summary = {
            "table": done.table,
            "rows": done.rows,
            "files": [str(path) for path in arguments.files],
            "seconds": round(done.seconds, 3),
            "commit_s": round(done.commit_s, 3),
            "rows_per_s": round(rate),
        }
        print(json.dumps(summary))
    else:
        print(
            f"{done.rows:,} rows into {done.table} in {done.seconds:.1f} s, {rate:,.0f} rows/s; "
            f"transactions waited {done.commit_s:.2f} s for the last step"
        )
    return 0


def _abort(arguments: argparse.Namespace) -> int:
    from diptych.bulk.system_client import SystemClient

    with SystemClient(
        arguments.address, token=arguments.token, timeout=CONNECT_TIMEOUT_S
    ) as client:
        rows = client.system("import_abort", timeout_s=CONNECT_TIMEOUT_S)
    print(json.dumps({"dropped_rows": rows}) if arguments.json else f"{rows:,} staged rows dropped")
    return 0


@contextmanager
def progress_bar(
    what: str, unit: str, total: int | None
) -> Iterator[tuple[Callable[[int], None], Callable[[str], None]]]:
    """A bar on stderr, if that is a terminal: a function that moves it, and one that renames it."""
    if not sys.stderr.isatty():
        yield (lambda done: None), (lambda text: None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,} " + unit + ", {task.fields[rate]:,.0f}/s"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total, rate=0.0)

        def show(done: int) -> None:
            elapsed_s = bar.tasks[0].elapsed or 0.0
            bar.update(task, completed=done, rate=done / elapsed_s if elapsed_s else 0.0)

        yield show, lambda text: bar.update(task, description=text)


def check_address(word: str) -> None:
    """Who forgets the address has given a table's name in its place. Errors: BadFile."""
    if ":" not in word:
        raise BadFile(f"{word!r} is not host:port; the server's address comes first")


def _rename(text: str) -> tuple[str, str]:
    name, equals, column = text.partition("=")
    if not (name and equals and column):
        raise argparse.ArgumentTypeError(f"{text!r} is not FILE_COLUMN=COLUMN")
    return name, column


def _refuse(
    arguments: argparse.Namespace, refused: Rejected, file: Path | None, row: int | None
) -> int:
    """Say what was refused and why, and that nothing is left of it."""
    details: dict[str, Any] = dict(refused.details)
    if file is not None:
        details |= {"file": str(file), "row": row}
    if arguments.json:
        print(json.dumps({"rejected": refused.code, "details": details}, default=str))
        return 1
    place = f"{file}, row {row}: " if file is not None else ""
    shown = ", ".join(
        f"{name} {value!r}" for name, value in details.items() if name not in ("file", "row")
    )
    print(f"diptych import: {place}{refused.code}: {shown}", file=sys.stderr)
    if refused.code == "import_running":
        print("Drop it with --abort, or begin with --replace.", file=sys.stderr)
    else:
        print("Nothing was imported.", file=sys.stderr)
    return 1


def _fail(arguments: argparse.Namespace, told: dict[str, Any], code: int) -> int:
    if arguments.json:
        print(json.dumps(told))
    else:
        print(f"diptych import: {told['message']}", file=sys.stderr)
    return code
