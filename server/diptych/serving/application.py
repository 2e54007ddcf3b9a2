"""Finding the application that `module:name` means, from where the server was started."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from diptych.app import App
from diptych.errors import ConfigurationError, DeclarationError, did_you_mean


def load_app(name: str, directory: Path) -> App:
    """Import `module:name` with `directory` first on the path. Errors: ConfigurationError.

    An error inside the application's module is raised as it is, but for DeclarationError.
    """
    module_name, colon, attribute = name.partition(":")
    words = [*module_name.split("."), attribute]
    if not colon or not all(word.isidentifier() for word in words):
        raise ConfigurationError(f"app: {name!r} is not module:name, as in bank:app")
    sys.path.insert(0, str(directory))
    try:
        module = importlib.import_module(module_name)
    except DeclarationError as error:
        raise ConfigurationError(str(error)) from None
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ConfigurationError(
            f"app: there is no module {module_name!r} in {directory} or installed"
        ) from None
    app = getattr(module, attribute, None)
    if app is None:
        apps = [known for known, value in vars(module).items() if isinstance(value, App)]
        hint = did_you_mean(attribute, apps) or (f"; it has {', '.join(apps)}" if apps else "")
        raise ConfigurationError(f"app: {module_name} has no {attribute!r}{hint}")
    if not isinstance(app, App):
        raise ConfigurationError(f"app: {name} is a {type(app).__name__}, not an App")
    return app
