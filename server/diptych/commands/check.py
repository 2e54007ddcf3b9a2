"""`diptych check bank:app [--data DIR]`: is the application right, and is its data?

Imports the application, which checks its declarations, compiles every handler marked compiled, says
which queries among them are prompt, or why not, and warns of what transactions do that a replay of
the log may do otherwise. With a data directory it reads every checkpoint there, and the log unless
a server is at work, and tells what a start would make of the newest: use it, run the log behind it,
migrate it (which is rehearsed in memory), or refuse it. Changes nothing, and may run beside a
server. Exit codes: 0 all is well (also with warnings), 1 something is not, 2 wrong usage,
configuration or application.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych import config
from diptych.app import App
from diptych.commands.serve import capacities_of, import_app
from diptych.errors import ConfigurationError, DeclarationError
from diptych.serving.spawn import forbid_library_threads

if TYPE_CHECKING:
    from diptych.engine.inspection import DataReport, FileReport, TableReport

HELP = "check an application, compile its handlers, and look at its data"
MIB = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="MODULE:APP | FILE.toml", help="what to check")
    parser.add_argument("--data", metavar="DIR", help="look at the data in this directory, too")
    parser.add_argument(
        "--capacity",
        action="append",
        default=[],
        metavar="TABLE=ROWS",
        help="most rows of a table, as a start would have it; may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")


def run(arguments: argparse.Namespace) -> int:
    forbid_library_threads()
    try:
        settings = _settings(arguments)
        app = import_app(settings.app, Path.cwd())
        from diptych.engine.engine import layout_bytes
        from diptych.engine.inspection import inspect_data

        layout_bytes(app, settings.capacities)  # refuses capacities of tables that there are not
        began = time.monotonic()
        handlers = _handlers(app, settings.compile_s)
        compiled_s = time.monotonic() - began
        data = None
        if settings.data is not None:
            data = inspect_data(app, settings.data, settings.capacities, settings.app)
    except (ConfigurationError, DeclarationError, OSError) as error:
        if arguments.json:
            print(json.dumps({"error": str(error), "sound": False}))
        else:
            print(f"diptych check: {error}", file=sys.stderr)
        return 1 if isinstance(error, OSError) else 2
    sound = not any(handlers.values()) and (data is None or data.sound)
    if arguments.json:
        told = _as_json(app, handlers, _not_prompt(app, handlers), data, sound=sound)
        print(json.dumps(told, default=str))
    else:
        _print_app(app, handlers, _not_prompt(app, handlers), compiled_s)
        if data is not None:
            _print_data(data)
        print("all is well" if sound else "not all is well")
    return 0 if sound else 1


def _settings(arguments: argparse.Namespace) -> config.Settings:
    file = Path(arguments.target) if arguments.target.endswith(".toml") else None
    flags = {"data": arguments.data} | ({} if file else {"app": arguments.target})
    settings = config.load(file, flags=flags, capacities=capacities_of(arguments.capacity))
    if not settings.app:
        raise ConfigurationError(f'{arguments.target}: says no app; add app = "module:name"')
    return settings


def _handlers(app: App, limit_s: float) -> dict[str, str]:
    """Why each compiled handler can't be compiled, or "", by name."""
    if not any(each.compiled for each in app.operations):
        return {}
    from diptych.serving.compiling import compile_apart
    from diptych.store.compiled.handlers import check_handlers  # takes seconds to import

    return compile_apart(app, limit_s) or check_handlers(app)


def _not_prompt(app: App, handlers: dict[str, str]) -> dict[str, str]:
    """Why each query that compiles is not for the gateway to answer, or "", by name."""
    if not handlers:
        return {}
    from diptych.store.compiled.promptness import why_not_prompt

    queries = [each for each in app.operations if each.kind == "query"]
    return {
        each.name: why_not_prompt(each.function)
        for each in queries
        if handlers.get(each.name) == ""
    }


def _as_json(
    app: App,
    handlers: dict[str, str],
    not_prompt: dict[str, str],
    data: DataReport | None,
    *,
    sound: bool,
) -> dict[str, Any]:
    return {
        "app": app.name,
        "version": app.version,
        "tables": list(app.tables),
        "operations": [operation.name for operation in app.operations],
        "compiled": handlers,
        "prompt": not_prompt,
        "hazards": [asdict(hazard) for hazard in app.hazards()],
        "data": None if data is None else asdict(data),
        "sound": sound,
    }


def _print_app(
    app: App, handlers: dict[str, str], not_prompt: dict[str, str], compiled_s: float
) -> None:
    tables, operations = len(app.tables), len(app.operations)
    print(f"{app.name}, version {app.version}: {tables} tables, {operations} operations")
    for name, refusal in handlers.items():
        why = not_prompt.get(name)
        prompt = "" if why is None else f", not prompt: it {why}" if why else ", prompt"
        print(f"handler {name}: {refusal or 'compiles'}{prompt}")
    if handlers:
        print(f"{len(handlers)} handlers compiled in {compiled_s:.1f} s")
    for hazard in app.hazards():
        print(f"warning: {hazard}")


def _print_data(data: DataReport) -> None:
    print(f"data in {data.directory}:")
    for file in data.files:
        print(f"  {file.name}: {_file(file)}")
    for table in data.tables:
        print(f"  table {table.name}: {_table(table)}")
        for column, count in table.dangling.items():
            print(f"    warning: {count:,} values of {column} belong to no row")
    if data.tables:
        rate = data.rows / max(1e-9, data.structures_s)
        result = data.structures or "right"
        print(
            f"  structures: {result} ({data.rows:,} rows in {data.structures_s:.2f} s, "
            f"{rate:,.0f} rows/s)"
        )
    for name, broken in data.invariants.items():
        print(f"  invariant {name}: {broken or 'holds'}")
    print(f"a start {_start(data)}")


def _file(file: FileReport) -> str:
    if file.damage:
        return f"DAMAGED: {file.damage}"
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(file.written_ns / 1e9))
    rate = file.size_bytes / MIB / max(1e-9, file.seconds)
    return (
        f"transaction {file.sequence:,}, written {when}; {file.pages:,} pages, all checksums "
        f"right ({rate:,.0f} MiB/s)"
    )


def _table(table: TableReport) -> str:
    share = 100 * table.rows / table.capacity
    told = f"{table.rows:,} of {table.capacity:,} rows ({share:.1f} %)"
    for name, (used, most) in table.nodes.items():
        told += f"; {name} {used:,} of {most:,} nodes"
    if table.heap_bytes_max:
        told += f"; heap {table.heap_bytes / MIB:,.1f} of {table.heap_bytes_max / MIB:,.0f} MiB"
    return told


def _start(data: DataReport) -> str:
    changes = "\n".join(f"  {each}" for each in data.differences)
    match data.start:
        case "nothing":
            return "begins with nothing, and runs the setup: there is no checkpoint"
        case "load":
            return "uses the newest checkpoint as it is"
        case "replay":
            return f"runs the log: {data.log}"
        case "migrate":
            ran = f", then runs {data.migration}" if data.migration else ""
            took = f"(tried in memory: {data.migration_s:.1f} s)"
            return f"migrates the newest checkpoint{ran} {took}:\n{changes}"
    return f"REFUSES: {data.refusal}"
