"""What the commands that run the log on a copy have in common: their target, and what they log."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from diptych import config
from diptych.app import App
from diptych.commands.serve import import_app
from diptych.errors import ConfigurationError

TARGET_HELP = "the application that wrote the data"


def add_target(parser: argparse.ArgumentParser, data: str) -> None:
    """The two words that these commands begin with. `data`: what is done with the directory."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("target", metavar="MODULE:APP | FILE.toml", help=TARGET_HELP)
    parser.add_argument("directory", metavar="DIR", help=data)


def target_name(target: str) -> str:
    """The module:name that was given, or that a file of settings has. Errors: as `app_of`."""
    if not target.endswith(".toml"):
        return target
    settings = config.load(Path(target))
    if not settings.app:
        raise ConfigurationError(f'{target}: says no app; add app = "module:name"')
    return settings.app


def app_of(target: str) -> App:
    """The application that was given. Errors: ConfigurationError."""
    return import_app(target_name(target), Path.cwd())


def log_to_stderr(role: str) -> None:
    """Progress and warnings, but not the errors of handlers, which the server told when it ran
    them first.
    """
    from diptych.serving.logs import configure

    configure(role, "text")
    for handler in logging.getLogger().handlers:
        handler.addFilter(lambda record: not record.exc_info)
