"""`diptych serve bank:app` or `diptych serve exchange.toml`: serve an application over TCP.

Reads the settings, imports the application and becomes the supervisor. Runs until SIGTERM or
SIGINT; exit codes: 0 ended in order, 1 failed, 2 wrong usage, configuration or application.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diptych import config
from diptych.app import App
from diptych.errors import ConfigurationError, DeclarationError
from diptych.serving.spawn import forbid_library_threads

HELP = "serve an application over TCP"

EPILOG = """\
Every setting can also stand in the file, or in the environment as DIPTYCH_<SECTION>_<SETTING>:
  app = "exchange:app"
  listen = ["127.0.0.1:7171"]
  [sync]
  interval_ms = 10          # DIPTYCH_SYNC_INTERVAL_MS, --interval-ms
  [tables.order]
  capacity = 20_000_000     # --capacity order=20000000
SIGTERM or SIGINT: calls in flight are answered, a last checkpoint is written to the directory of
--data, then the server ends; a second one ends it at once, and the next start runs the log.
Without --data nothing is on disk. With it, and --durability fsync, an answer leaves when its
transaction is on the disk, and nothing that was answered is lost, whatever dies.
Exit codes: 0 ended in order, 1 failed, 2 wrong usage, configuration or application, or data that is
damaged or was written by other code: the log says what helps.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument("target", metavar="MODULE:APP | FILE.toml", help="what to serve")
    parser.add_argument("--check", action="store_true", help="check the configuration and end")
    parser.add_argument(
        "--capacity",
        action="append",
        default=[],
        metavar="TABLE=ROWS",
        help="most rows of a table; or TABLE.heap_bytes=N, the most that its str and bytes may "
        "take; may be repeated",
    )
    for option in config.OPTIONS.values():
        if option.name != "app":
            _add_option(parser, option)


def _add_option(parser: argparse.ArgumentParser, option: config.Option) -> None:
    choices = option.metadata["choices"]
    default = ", ".join(option.default) if isinstance(option.default, tuple) else option.default
    shown = "" if option.default in (None, ()) else f" (default {default})"
    keywords: dict[str, Any] = {"metavar": "|".join(choices) if choices else "VALUE"}
    if option.name == "listen":
        keywords = {"metavar": "HOST:PORT", "action": "append"}
    parser.add_argument(
        f"--{option.name.replace('_', '-')}",
        dest=option.name,
        default=None,
        help=option.metadata["help"] + shown,
        **keywords,
    )


def run(arguments: argparse.Namespace) -> int:
    forbid_library_threads()
    try:
        settings = _settings(arguments)
        return _serve(settings, Path.cwd(), check=arguments.check)
    except ConfigurationError as error:
        print(f"diptych serve: {error}", file=sys.stderr)
        return 2


def _settings(arguments: argparse.Namespace) -> config.Settings:
    flags = {name: getattr(arguments, name, None) for name in config.OPTIONS}
    file = Path(arguments.target) if arguments.target.endswith(".toml") else None
    if file is None:
        flags["app"] = arguments.target
    settings = config.load(file, flags=flags, capacities=capacities_of(arguments.capacity))
    if not settings.app:
        raise ConfigurationError(f'{arguments.target}: says no app; add app = "module:name"')
    return settings


def capacities_of(given: Sequence[str]) -> dict[str, int]:
    """Rows by table from words like order=20000000. Errors: ConfigurationError."""
    capacities = {}
    for text in given:
        table, equals, rows = text.partition("=")
        if not equals or not rows.isascii() or not rows.isdigit():
            raise ConfigurationError(f"--capacity: {text!r} is not TABLE=ROWS")
        capacities[table] = int(rows)
    return capacities


def import_app(name: str, directory: Path) -> App:
    """The application that module:name means, its handlers' names checked, too.

    Errors: ConfigurationError.
    """
    from diptych.serving.application import load_app

    try:
        app = load_app(name, directory)
        app.check_names()
        return app
    except ConfigurationError:
        raise
    except DeclarationError as error:
        raise ConfigurationError(str(error)) from None
    except Exception as error:
        traceback.print_exc()
        raise ConfigurationError(f"app: {name} can't be imported: {error}") from None


def _serve(settings: config.Settings, directory: Path, *, check: bool) -> int:
    # Not before the environment is set: this imports numpy.
    from diptych.serving.logs import configure

    configure("supervisor", settings.log_format)
    from diptych.engine.engine import layout_bytes
    from diptych.serving import placement
    from diptych.serving.supervisor import Supervisor

    placement.check(settings.processes)
    app = import_app(settings.app, directory)
    size_bytes = layout_bytes(app, settings.capacities)
    if check:
        print(f"{settings.app}: {len(app.tables)} tables, {len(app.operations)} operations")
        print(f"address space {size_bytes / 2**30:.2f} GiB; settings are fine")
        return 0
    try:
        return Supervisor(app, settings).run()
    except DeclarationError as error:
        raise ConfigurationError(str(error)) from None
    except OSError as error:
        print(f"diptych serve: {error}", file=sys.stderr)
        return 1
