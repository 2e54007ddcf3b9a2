"""One stretch of `diptych verify`, in a process of its own: no command of the user's.

    python -m diptych.commands._stretch MODULE:APP DIR STRETCH-AS-JSON

Prints one JSON object. What handlers print goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from diptych.commands._tools import log_to_stderr
from diptych.commands.serve import import_app
from diptych.serving.spawn import forbid_library_threads


def main(target: str, directory: str, told: str) -> int:
    results = os.dup(1)
    os.dup2(2, 1)
    forbid_library_threads()
    log_to_stderr("verify")
    app = import_app(target, Path.cwd())
    from diptych.engine.stretches import Stretch, packed, run_stretch

    found = run_stretch(app, Path(directory), Stretch(**json.loads(told)))
    os.write(results, json.dumps(packed(found), default=repr).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
